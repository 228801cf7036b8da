"""docs/record.md is what the type of the record says; every field has a meaning, and a record of today fits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pydantic import BaseModel

from ovbench.evaluation import record
from ovbench.utils.typed import Typed

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("make_record_docs", ROOT / "scripts" / "make_record_docs.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run scripts/make_record_docs.py"


def test_every_field_has_a_meaning():
    models = [
        one for one in vars(record).values()
        if isinstance(one, type) and issubclass(one, BaseModel) and one is not Typed
    ]  # fmt: skip
    assert record.Record in models and len(models) > 10
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
    assert record.Record.model_json_schema()["properties"]["counts"]
