"""Whether a file is a whole record, before anything is made of it: records come from other people too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovbench.evaluation.record import value_at
from ovbench.utils.errors import InputError

Check = Callable[[Any], bool]
LARGEST = 2**63  # beyond 64-bit counts


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fraction(value: Any) -> bool:
    return value is None or (_number(value) and 0 <= value <= 1)


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _table_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _scores(value: Any) -> bool:
    return isinstance(value, dict) and all(_fraction(value.get(key, "")) for key in ("iou", "acc"))


def _interval(value: Any) -> bool:
    return value is None or (_list_of(_fraction)(value) and len(value) == 2 and None not in value)


# what a report reads, and what each must be; a name with ? may be missing
NEEDED: dict[str, tuple[Check, str]] = {
    "status": (_text, "a text"),
    "settings_sha256": (_text, "a text"),
    "ledger": (_text, "a text"),
    "failed": (_table_of(_text), "texts by image"),
    "cell.method": (_text, "a text"),
    "cell.dataset": (_text, "a text"),
    "cell.params": (_table, "a table"),
    "cell.protocol": (_table, "a table"),
    "cell.protocol.vocabulary?": (_text, "a text"),
    "cell.backbones": (_table_of(_text), "texts by kind"),
    "cell.regions": (_table, "a table"),
    "dataset.classes": (_list_of(_text), "a list of texts"),
    "dataset.images": (_count, "a count"),
    "dataset.images_asked_for": (_count, "a count"),
    "dataset.split_images": (_count, "a count"),
    "dataset.label_rule": (_text, "a text"),
    "dataset.ids_sha256": (_text, "a text"),
    "weights": (_table_of(_table), "a table by kind"),
    "versions": (_table, "a table"),
    "device": (_table, "a table"),
    "metrics.mIoU": (_fraction, "a fraction or null"),
    "metrics.mAcc": (_fraction, "a fraction or null"),
    "metrics.aAcc": (_fraction, "a fraction or null"),
    "metrics.mIoU_interval?": (_interval, "two fractions or null"),
    "metrics.mIoU_no_interval?": (_text, "a text"),
    "metrics.classes_in_mean": (_count, "a count"),
    "per_class": (_list_of(_scores), "iou and acc of every class"),
    "time.started": (_text, "a text"),
    "time.seconds?": (_table_of(_number), "numbers by stage"),
}
COUNTS = ("intersection", "union", "predicted", "labelled")
NEEDED |= {f"counts.{name}": (_list_of(_count), "a list of counts") for name in COUNTS}
MISSING = object()


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """InputError naming the first field that is missing or of another kind."""
    for name, (check, kind) in NEEDED.items():
        value = value_at(record, name.rstrip("?"), MISSING)
        if value is MISSING and name.endswith("?"):
            continue
        if value is MISSING or not check(value):
            raise InputError(f'not a whole record: "{name.rstrip("?")}" is not {kind}', where=str(path))
    classes = len(record["dataset"]["classes"])
    for name in (*(f"counts.{column}" for column in COUNTS), "per_class"):
        if len(value_at(record, name)) != classes:
            raise InputError(f'not a whole record: "{name}" is not of {classes} classes', where=str(path))


def check_words(header: Mapping[str, Any], classes: int, where: str) -> None:
    """InputError unless a ledger's header has the words of every class, and the rest that a segmentor is built from."""
    words, data, ran = (header.get(name, {}) for name in ("vocabulary", "dataset", "execution"))
    background = data.get("background") if isinstance(data, dict) else MISSING
    fits = _list_of(_list_of(_text))(words) and len(words) == classes
    fits = fits and (background is None or (_count(background) and background < classes))
    fits = fits and isinstance(ran, dict) and ran.get("precision", "fp32") in ("fp32", "fp16", "bf16")
    fits = fits and isinstance(ran.get("compile", False), bool) and _count(ran.get("batch", 0))
    if not fits:
        raise InputError("the ledger does not say with what words and how the images were labelled", where=where)
