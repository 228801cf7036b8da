"""What a run does, from data: method x benchmark settings in TOML, overridden key by key from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from ovbench.backbones.preprocess import Normalisation, normalisation_of
from ovbench.config.backbone_spec import lay_over
from ovbench.config.layers import layers_of, merge
from ovbench.utils.errors import InputError, OvbenchError, UsageError, say_once, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.registry import METHODS, REGIONS
from ovbench.utils.toml import read_toml, refuse_unknown_keys


@dataclass(frozen=True)
class Protocol:
    """Everything around a method: how the image reaches it and how its scores become labels.

    short_side, long_side: the image is resized, keeping its ratio, until its short side is ``short_side``, but its long
    side at most ``long_side`` (pixels; short_side 0: not resized).
    crop, stride: square sliding windows in pixels of the resized image; crop 0 is one window over the whole image.
    pad: windows are padded to a multiple of this many pixels (0: never; -1: of the patch of CLIP).
    mean, std: normalisation of RGB values 0..255; unless given, that of the tower which sees the windows.
    templates: prompt set in configs/templates.toml. vocabulary: variant of the class names ("" is the canonical one).
    descriptions: set of class descriptions by name, or a JSON file of them (see `ovbench.data.descriptions`; "": none).
    logit_scale, prob_thd: see `ovbench.inference.decision.Decision`.
    refine: "pamr": the scores at the original size are refined before they become probabilities; "pamr-windows": those
    of every window before they are merged; "" for neither.
    pamr_iterations, pamr_dilations: see `ovbench.inference.pamr.PAMR`.
    """

    short_side: int = 336
    long_side: int = 2048
    crop: int = 224
    stride: int = 112
    pad: int = 0
    mean: tuple[float, ...] = (122.771, 116.746, 104.094)
    std: tuple[float, ...] = (68.501, 66.632, 70.323)
    templates: str = "openai_80"
    vocabulary: str = ""
    descriptions: str = ""
    logit_scale: float = 40.0
    prob_thd: float = 0.0
    refine: str = ""
    pamr_iterations: int = 10
    pamr_dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        checks = (
            (self.short_side >= 0, "short_side must be 0 (no resize) or more"),
            (self.long_side > 0, "long_side must be positive"),
            (self.crop >= 0, "crop must be 0 (whole image) or more"),
            (self.stride > 0, "stride must be positive"),
            (self.pad >= -1, "pad must be 0 (none), -1 (the patch of CLIP) or more"),
            (self.refine in ("", "pamr", "pamr-windows"), 'refine must be "pamr", "pamr-windows" or "" (none)'),
            (self.pamr_iterations >= 0, "pamr_iterations must be 0 or more"),
            (len(self.pamr_dilations) > 0 and min(self.pamr_dilations) > 0, "pamr_dilations takes positive distances"),
            (0 <= self.prob_thd < 1, "prob_thd is a probability: 0 or more, below 1"),
            (len(self.mean) == 3 and len(self.std) == 3 and all(s > 0 for s in self.std), "mean and std take 3 values"),
        )
        for holds, message in checks:
            if not holds:
                raise UsageError(message, where="protocol")


@dataclass(frozen=True)
class Cell:
    """One method on one benchmark with one set of parameters, fully resolved; plain data but for ``params``."""

    method: str
    dataset: str
    params: Any
    protocol: Protocol
    backbones: Mapping[str, str]
    regions: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        plain = {
            "method": self.method,
            "dataset": self.dataset,
            "params": dataclasses.asdict(self.params),
            "protocol": dataclasses.asdict(self.protocol),
            "backbones": dict(self.backbones),
            "regions": dict(self.regions),
        }
        return _as_in_file(plain)

    def digest(self) -> str:
        """Hash of the canonical form: equal for equal settings, however they were given."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def templates(name: str) -> tuple[str, ...]:
    """A prompt set; every template holds ``{}`` where the class name goes."""
    sets = read_toml(shipped("configs", "templates.toml"))
    if name not in sets:
        raise unknown("prompt set", name, sets, where="templates")
    return tuple(sets[name])


def resolve(
    method: str,
    dataset: str,
    overrides: Mapping[str, str] | None = None,
    backbones: Mapping[str, str] | None = None,
    protocol: str = "paper",
    *,
    incomplete: bool = False,
) -> Cell:
    """The cell of a method on a benchmark: the layers of `ovbench.config.layers.layers_of`, and over them ``overrides``
    (``key=value`` texts as given to ``--set``) and ``backbones``. With ``incomplete``, a backbone that has no default
    is None and no error: enough to look at, not to run."""
    entry = METHODS.load(method)
    merged = merge(layers_of(method, dataset, protocol)).tables
    overrides, backbones = dict(overrides or {}), dict(backbones or {})
    if "reference" in entry.needs.backbones and "reference" in overrides:
        backbones["reference"] = overrides.pop("reference")
    _apply(merged, entry.Params, overrides, method)
    needed = {name: merged["backbones"].get(name) for name in (*entry.needs.backbones, *entry.needs.optional)}
    for name, spec in backbones.items():
        if name not in needed:
            raise unknown("backbone", name, needed, where=f"method {method}")
        needed[name] = lay_over(name, needed[name], spec)
    needed = {name: spec for name, spec in needed.items() if spec is not None or name not in entry.needs.optional}
    for name, spec in () if incomplete else needed.items():
        if spec is None and name == "reference":
            raise UsageError(
                f'method "{method}" needs a reference set',
                fix="give --set reference=FOLDER, from: ovbench reference build",
            )
        if spec is None:
            raise UsageError(f'method "{method}" needs the backbone "{name}"', fix=f"give --weights {name}=MODEL")
    return Cell(
        method=method,
        dataset=dataset,
        params=_build(entry.Params, merged["params"], f"parameters of {method}"),
        protocol=_protocol(merged["protocol"], needed.get(entry.sees), entry.sees, overrides, method),
        backbones=needed,
        regions=_regions(merged["regions"]) if entry.needs.regions else {},
    )


def _protocol(
    table: Mapping[str, Any], spec: str | None, kind: str, overrides: Mapping[str, str], method: str
) -> Protocol:
    """The protocol with the normalisation of the backbone ``spec`` that sees the windows.

    Other constants given on the command line are used, which is said once.

    Raises:
        InputError: where a settings file gives other constants than that backbone was trained with.
    """
    own = normalisation_of(kind, spec) if spec else None
    made = _build(Protocol, {**(own._asdict() if own else {}), **table}, f"protocol of {method}")
    given = Normalisation(made.mean, made.std)
    if own is None or given.equals(own):
        return made
    trained = f"{spec} was trained with mean {_spelled(own.mean)} and std {_spelled(own.std)}"
    in_file = given._replace(**{name: getattr(own, name) for name in ("mean", "std") if name in overrides})
    if not in_file.equals(own):
        raise InputError(
            f"the settings give mean {_spelled(in_file.mean)} and std {_spelled(in_file.std)}, but {trained}",
            where=f"protocol of {method}",
            fix="remove mean and std from the settings file, or give both with --set",
        )
    say_once(f"mean and std are set by hand: {trained}")
    return made


def _spelled(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _as_in_file(plain: Mapping[str, Any]) -> dict[str, Any]:
    """With lists for tuples."""
    return json.loads(json.dumps(plain))


def file_settings(plain: Mapping[str, Any], protocol: str = "paper") -> dict[str, Any]:
    """A cell as `Cell.as_dict` gives it with parameters and protocol as the settings files have them, learnt without
    loading the method."""
    tables = merge(layers_of(plain["method"], plain["dataset"], protocol)).tables
    own = None
    if clip := plain["backbones"].get("clip"):  # methods whose windows another backbone sees have it in their file
        with contextlib.suppress(OvbenchError):  # a name from another version
            own = normalisation_of("clip", clip)
    table = {**(own._asdict() if own else {}), **tables["protocol"]}
    around = _build(Protocol, table, f"protocol of {plain['method']}")
    return _as_in_file({**plain, "params": tables["params"], "protocol": dataclasses.asdict(around)})


def cell_of(plain: Mapping[str, Any]) -> Cell:
    """The cell that `Cell.as_dict` wrote, as a record holds it. UsageError or InputError where this version does not
    know its method or a setting."""
    method = plain["method"]
    return Cell(
        method=method,
        dataset=plain["dataset"],
        params=_build(METHODS.load(method).Params, plain["params"], f"parameters of {method}"),
        protocol=_build(Protocol, plain["protocol"], f"protocol of {method}"),
        backbones=dict(plain["backbones"]),
        regions=dict(plain["regions"]),
    )


def _regions(given: Mapping[str, Any]) -> dict[str, Any]:
    """The region source with every setting spelled out."""
    settings = dict(given)
    source = settings.pop("source", "felzenszwalb")
    made = _build(REGIONS.load(source), settings, f"regions {source}")
    return {"source": source, **made.settings()}


def regions_table(source: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The regions table of a source, with ``setting=value`` texts laid over its defaults."""
    known = _types(REGIONS.load(source))
    for key in overrides:
        if key not in known:
            raise unknown("parameter", key, known, where=f"regions {source}")
    return _regions({"source": source, **{key: parse_value(text, known[key], key) for key, text in overrides.items()}})


def _apply(merged: dict[str, dict[str, Any]], params: type, overrides: Mapping[str, str], method: str) -> None:
    """Lay ``key=value`` texts over the tables. A key names a parameter, a protocol setting, ``regions`` (the source)
    or ``regions.SETTING``."""
    own, around = _types(params), _types(Protocol)
    if "regions" in overrides and merged["regions"].get("source") != overrides["regions"]:
        merged["regions"] = {"source": overrides["regions"]}
    for key, text in overrides.items():
        if key == "regions":
            continue
        if key in own:
            merged["params"][key] = parse_value(text, own[key], key)
        elif key in around:
            merged["protocol"][key] = parse_value(text, around[key], key)
        elif key.startswith("regions."):
            name = key.removeprefix("regions.")
            known = _types(REGIONS.load(merged["regions"].get("source", "felzenszwalb")))
            if name not in known:
                raise unknown("parameter", key, [f"regions.{k}" for k in known], where=f"method {method}")
            merged["regions"][name] = parse_value(text, known[name], key)
        else:
            raise unknown("parameter", key, [*own, *around, "regions"], where=f"method {method}")


def _types(cls: type) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {name: hint for name, hint in get_type_hints(cls).items() if name in names}


def _number(text: str, kind: type) -> Any:
    """ValueError for NaN and infinity, which no setting means."""
    value = kind(text)
    if not _finite(value):
        raise ValueError("not a finite number")
    return value


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def parse_value(text: str, hint: Any, key: str) -> Any:
    """A command-line text as the type of its field: bool, int, float, str, a tuple of numbers, or none."""
    options = [hint] if get_origin(hint) is not None and get_origin(hint) is tuple else list(get_args(hint)) or [hint]
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}[text.lower()]
        if get_origin(kind) is tuple:
            return tuple(_number(part, get_args(kind)[0]) for part in text.split(","))
        return _number(text, kind)
    except (KeyError, ValueError):
        name = "true or false" if kind is bool else f"a value of type {getattr(kind, '__name__', kind)}"
        raise UsageError(f'"{text}" is no value for "{key}"', where="--set", fix=f"give {name}") from None


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table; unknown keys and wrong types are errors that name the key."""
    refuse_unknown_keys(dict(values), _types(cls), where)
    for key, hint in _types(cls).items():
        if key in values and not _fits(values[key], hint):
            raise InputError(f'"{key}" has the value {values[key]!r}, which is not {hint}', where=where)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**plain)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(map(_finite, value))
    options = get_args(hint) or (hint,)
    if isinstance(value, bool):
        return bool in options
    known = isinstance(value, tuple(o for o in options if isinstance(o, type)))
    return (known and _finite(value)) or (isinstance(value, int) and float in options)


def override_pairs(items: tuple[str, ...], option: str) -> dict[str, str]:
    """``("a=1", "b=2")`` as a dictionary; UsageError for an item without ``=``."""
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f'"{item}" is not of the form key=value', where=option)
        pairs[key.strip()] = value.strip()
    return pairs
