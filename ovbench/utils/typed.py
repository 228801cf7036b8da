"""Check data against types; errors name the file, the key, the expected value and a close match."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from ovbench.utils.errors import InputError, OvbenchError, UsageError, unknown

T = TypeVar("T")
Items = Annotated[tuple[T, ...], Strict(False)]  # a list in a file, a tuple in Python
AboveZero = Annotated[float, Field(gt=0)]
NotBelowZero = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FromZero = Annotated[int, Field(ge=0)]
FromOne = Annotated[int, Field(ge=1)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
WORDS = {
    "string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list",
    "tuple": "a list", "dict": "a table", "mapping": "a table", "model": "a table", "dataclass": "a table",
    "finite": "a finite number", "none": "none",
}  # fmt: skip
BOUNDS = {
    "greater_than": ("gt", "a number above {}"), "greater_than_equal": ("ge", "a number of {} or more"),
    "less_than": ("lt", "a number below {}"), "less_than_equal": ("le", "a number of at most {}"),
    "too_short": ("min_length", "a list of {} or more"), "too_long": ("max_length", "a list of at most {}"),
    "string_too_short": ("min_length", "a text of {} or more characters"),
    "string_pattern_mismatch": ("pattern", "a text like {}"),
}  # fmt: skip


class Typed(BaseModel):
    """Base class of the content of files: unknown keys, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(**STRICT, frozen=True)


class OpenTyped(Typed):
    """Base class of the content of files whose other keys are not checked."""

    model_config = ConfigDict(extra="allow")


class EncoderNote(OpenTyped):
    """The name of an encoder, and the sha256 of its weights."""

    name: str
    sha256: str


class WrittenFile(Typed):
    """A file as it was written: its size in bytes, and its sha256."""

    bytes: int
    sha256: str


def validate(
    cls: type[T], data: Any, where: str, *, given: Collection[str] = (), fix: str | None = None, what: str = ""
) -> T:
    """Return data as an instance of a type.

    Args:
        cls: A pydantic model, a dataclass or any other type that pydantic supports.
        data: Plain data of a file or a call.
        where: The file and the table in it.
        given: Keys that come from the command line or a call.
        fix: What to do if no key has a close match.
        what: What the file should be, such as "a baseline".

    Raises:
        InputError: If data does not fit; UsageError if it is about a key in ``given``.
    """
    try:
        values: Any = _adapter(cls).validate_python(_with_tuples(data, cls))  # type: ignore[arg-type]
        return cls(**values) if _is_plain_dataclass(cls) else values
    except ValidationError as error:
        raise _error(error, data, cls, where, given, fix, what) from None
    except ValueError as error:  # from __post_init__ of the type
        raise (UsageError if given else InputError)(str(error), where=where, fix=fix) from None


def parse_text(text: str, hint: Any, key: str, where: str = "--set") -> Any:
    """Convert a text of the command line to a type; the items of a tuple are separated by commas.

    Args:
        text: The text.
        hint: The type.
        key: Name of the setting, for the message.
        where: Option or file, for the message.

    Raises:
        UsageError: If the text is not a value of the type.

    Example:
        >>> parse_text("8,16", tuple[int, ...], "dilations"), parse_text("none", int | None, "depth")
        ((8, 16), None)
    """
    options = list(type_options(hint))
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    items = next((get_args(option)[0] for option in options if get_origin(option) is tuple), None)
    try:
        if items is not None:
            values = tuple(_scalar(items).validate_strings(part.strip()) for part in text.split(","))
            return _scalar(hint).validate_python(values)
        return _scalar(hint).validate_strings(text)
    except ValidationError as error:
        expected = " or ".join(_expected(error.errors(include_url=False)))
        raise UsageError(f'"{text}" is not a value of "{key}"', where=where, fix=f"give {expected}") from None


def parse_values(given: Mapping[str, Any], hints: Mapping[str, Any], where: str = "--set") -> dict[str, Any]:
    """Convert settings that are given as texts to the types of their fields; other values are unchanged.

    Args:
        given: Settings by name.
        hints: Types by name.
        where: Option or file, for the message.

    Raises:
        UsageError: If a name is unknown, or a text is not a value of its type.
    """
    for key in given:
        if key not in hints:
            raise unknown("setting", key, hints, where=where)
    return {
        key: parse_text(value, hints[key], key, where) if isinstance(value, str) else value
        for key, value in given.items()
    }


@functools.cache
def field_types(cls: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields by name, with their ranges."""
    hints = get_type_hints(cls, include_extras=True)
    return MappingProxyType({field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init})


@functools.cache
def partial(cls: type) -> Any:
    """Return the type of a table with some of a dataclass's fields."""
    fields = {name: NotRequired[hint] for name, hint in field_types(cls).items()}
    return _table(cls.__name__, fields)


def _is_plain_dataclass(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


@functools.cache
def _adapter(cls: Any) -> TypeAdapter:
    if not _is_plain_dataclass(cls):
        return TypeAdapter(cls)
    required = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    fields = {name: hint if name in required else NotRequired[hint] for name, hint in field_types(cls).items()}
    return TypeAdapter(_table(cls.__name__, fields))


def _table(name: str, fields: Mapping[str, Any]) -> Any:
    """Return the strict type of a table with these fields."""
    table = TypedDict(name, fields)  # type: ignore
    table.__pydantic_config__ = STRICT  # type: ignore
    return table


def _with_tuples(data: Any, cls: Any) -> Any:
    """Convert lists to tuples where a plain dataclass has tuples."""
    if not (_is_plain_dataclass(cls) and isinstance(data, Mapping)):
        return data
    hints = field_types(cls)
    return {key: _as_tuple(value) if _has_tuple(hints.get(key)) else value for key, value in data.items()}


def _has_tuple(hint: Any) -> bool:
    return any(get_origin(option) is tuple for option in type_options(hint))


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def type_options(hint: Any) -> Iterator[Any]:
    """Yield the types that a hint allows, without annotations."""
    if get_origin(hint) in (UnionType, Union, Annotated):
        for option in get_args(hint)[: 1 if get_origin(hint) is Annotated else None]:
            yield from type_options(option)
    else:
        yield hint


@functools.cache
def _scalar(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))


def _error(
    error: ValidationError, data: Any, cls: Any, where: str, given: Collection[str], fix: str | None, what: str
) -> OvbenchError:
    """Return the first error as one sentence; an unknown key goes first, because it often explains a missing one."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    path = _path(first["loc"], data, first["type"] == "missing")
    key = _spelled(path)
    raised = UsageError if path and path[0] in given else InputError
    prefix = f"not {what}: " if what else ""
    if first["type"] == "extra_forbidden":
        miss = unknown("key", str(path[-1]), _known(cls, path[:-1]), where=where)
        return raised(f'{prefix}unknown key "{key}"', where=where, fix=miss.fix or fix)
    if first["type"] == "missing":
        return raised(f'{prefix}"{key}" is missing', where=where, fix=fix)
    if first["type"] == "value_error":
        told = str(first["ctx"]["error"])
        return raised(prefix + (f'"{key}" {told}' if key else told), where=where, fix=fix)
    same = [one for one in found if _path(one["loc"], data, False) == path]
    place = f'"{key}"' if key else "the file"
    return raised(
        f"{prefix}{place} must be {' or '.join(_expected(same))}, got {_short(first['input'])}", where=where, fix=fix
    )


def _path(loc: Sequence[int | str], data: Any, missing: bool) -> tuple[int | str, ...]:
    """Return the items of a location that are in the data; others name a branch of a type."""
    steps: list[int | str] = []
    for number, step in enumerate(loc):
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            if not missing or number < len(loc) - 1:
                continue
        steps.append(step)
    return tuple(steps)


def _spelled(path: Sequence[int | str]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _expected(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_one_expected(one) for one in found))


def _one_expected(one: Mapping[str, Any]) -> str:
    name, context = one["type"], one.get("ctx", {})
    if name in BOUNDS:
        key, text = BOUNDS[name]
        bound = context[key]
        text = text.replace("a list", "a table") if context.get("field_type") == "Dictionary" else text
        return text.format(f"{bound:g}" if isinstance(bound, float) else bound)
    if name == "literal_error":
        return context["expected"].replace("'", '"')
    if name == "value_error":
        return str(context["error"])
    return WORDS.get(name.split("_")[0], one["msg"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known(cls: Any, path: Sequence[int | str]) -> list[str]:
    """Return the known keys of the table at a path."""
    for step in path:
        cls = _inner(cls, step)
    return _keys(cls)


def _keys(cls: Any) -> list[str]:
    for option in type_options(cls):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return [field.alias or name for name, field in option.model_fields.items()]
        if _is_plain_dataclass(option):
            return list(field_types(option))
        if hasattr(option, "__required_keys__"):
            return list(get_type_hints(option))
    return []


def _inner(cls: Any, step: int | str) -> Any:
    for option in type_options(cls):
        if isinstance(option, type) and issubclass(option, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in option.model_fields.items()}
            return fields.get(str(step))
        if _is_plain_dataclass(option) or hasattr(option, "__required_keys__"):
            return get_type_hints(option).get(str(step))
        if get_args(option):
            return get_args(option)[0 if isinstance(step, int) else -1]
    return None
