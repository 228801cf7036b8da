"""Write docs/record.md from the type of the record. Run it after a change of `ovbench.evaluation.record`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ovbench.evaluation.record import SCHEMA, Record
from ovbench.utils.typed import type_options

PAGE = Path(__file__).parents[1] / "docs" / "record.md"
HEAD = """# The record

`ovbench eval` writes one JSON file for every cell (method x dataset x settings). This page lists its fields. It is
written from the type `ovbench.evaluation.record.Record` by `scripts/make_record_docs.py`.

- The schema has version {version}. Records of all earlier versions can be read. A record of a newer version is refused.
- Unknown fields, wrong types and scores that are not finite are refused, with the name of the field.
- A field with a default may be missing, in records of earlier versions too.
- Scores are fractions between 0 and 1. Hashes are SHA-256.
- All that differs between two runs with equal counts is in `time` and `arguments`.

```python
from ovbench.evaluation.record import Record
schema = Record.model_json_schema()   # JSON Schema, for other programs
```
"""


def page() -> str:
    """Return the page."""
    return HEAD.format(version=SCHEMA) + "".join(_sections(Record, ""))


def _sections(model: type[BaseModel], place: str) -> list[str]:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        key = field.alias or name
        dotted = f"{place}.{key}".lstrip(".")
        default = "" if field.is_required() else f"`{_default(field)}`"
        rows.append(f"| `{key}` | {_kind(field.annotation)} | {default} | {field.description} |")
        inner += [(dotted, one) for one in _models(field.annotation)]
    title = f"`{place}`" if place else "Top level"
    table = ["| field | type | default | meaning |", "|---|---|---|---|", *rows]
    lines = [f"\n## {title}\n", f"\n{model.__doc__}\n\n", *(f"{row}\n" for row in table)]
    return lines + [line for dotted, one in inner for line in _sections(one, dotted)]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return {"None": "null", "False": "false", "True": "true", "": '""'}.get(str(value), str(value))


def _models(hint: Any) -> list[type[BaseModel]]:
    found = []
    for option in type_options(hint):
        if isinstance(option, type) and issubclass(option, BaseModel):
            found.append(option)
        found += [model for part in get_args(option) for model in _models(part)]
    return found


def _kind(hint: Any) -> str:
    return " or ".join(_one_kind(option) for option in type_options(hint))


def _one_kind(hint: Any) -> str:
    origin = getattr(hint, "__origin__", None)
    if origin is list:
        return f"list of {_kind(get_args(hint)[0])}"
    if origin is dict:
        return f"table of {_kind(get_args(hint)[1])}"
    if origin is not None:
        return "text"  # one of some texts
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "table"
    return {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}.get(hint, "any")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
