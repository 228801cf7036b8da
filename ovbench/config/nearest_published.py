"""The published run that is nearest to a cell, and the settings that deviate from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ovbench.config.load import resolve
from ovbench.config.official import NOT_STATED, no_official_setting, official_settings, published_label_rule
from ovbench.config.published_runs import PublishedRun, published_runs
from ovbench.config.setting_changes import SettingChange, changes_from_published, setting_text

CLASSES, DESCRIPTIONS, LABEL_RULE, VOCABULARY = "classes", "descriptions", "label_rule", "vocabulary"


class NearestPublished(NamedTuple):
    """The nearest published run, the settings that deviate from it, and the tables that report it.

    ``remark`` is the reason if there is no official setting. ``run`` is None and ``remark`` is "" if nothing was
    published for the method on the benchmark.
    """

    run: PublishedRun | None = None
    deviations: tuple[SettingChange, ...] = ()
    sources: tuple[str, ...] = ()
    remark: str = ""

    def sentence(self) -> str:
        """Return the deviations as one line of text; "" if there are none."""
        if self.remark:
            return f"no official setting ({self.remark})"
        if not self.deviations:
            return ""
        shown = (f"{change} (published: {setting_text(change.expected)})" for change in self.deviations)
        return "deviates from the published row: " + ", ".join(shown)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for a record."""
        shown = [{"setting": c.setting, "published": c.expected, "value": c.value} for c in self.deviations]
        return {"official": self.run is not None, "deviations": shown, "sources": list(self.sources)} | (
            {"remark": self.remark} if self.remark else {}
        )


def nearest_published(
    cell: Mapping[str, Any], label_rule: str | None = None, descriptions: str = "", classes: str = ""
) -> NearestPublished:
    """Find the published run with the fewest settings that differ from a cell.

    Args:
        cell: The resolved cell, from `Cell.as_dict`; a backbone without a name is None.
        label_rule: How void pixels are counted, None if not decided yet.
        descriptions: What replaces the paper's descriptions; "" if nothing, or if none are used.
        classes: The user's class list; "" for a list of the benchmark.
    """
    method, dataset = cell["method"], cell["dataset"]
    if remark := no_official_setting(method, dataset):
        return NearestPublished(remark=remark)
    if (method, dataset) not in official_settings():
        return NearestPublished()
    # on a tie, the settings of the method itself go first
    runs = [PublishedRun(method), *(run for run in published_runs().values() if run.method == method)]
    changed = [changes_from_published(published_cell(run, dataset), cell) for run in runs]
    nearest = min(range(len(runs)), key=lambda n: len(changed[n]))
    extra = []
    if official_settings()[method, dataset].get("protocol.vocabulary") == NOT_STATED:
        extra.append(SettingChange(VOCABULARY, "not known", cell["protocol"]["vocabulary"]))
    if classes:
        extra.append(SettingChange(CLASSES, "those of the paper", classes))
    if descriptions:
        extra.append(SettingChange(DESCRIPTIONS, "those of the paper", descriptions))
    if label_rule is not None and label_rule != (rule := published_label_rule(dataset)) and rule != "correct":
        extra.append(SettingChange(LABEL_RULE, rule, label_rule))
    equal = [run.sources for run, changes in zip(runs, changed, strict=True) if not changes] if not extra else []
    sources = tuple(dict.fromkeys(source for names in equal for source in names))
    return NearestPublished(runs[nearest], (*changed[nearest], *extra), sources)


def published_cell(run: PublishedRun, dataset: str) -> dict[str, Any]:
    """Return the cell of a published run on a benchmark, as from `Cell.as_dict`."""
    return resolve(run.method, dataset, run.settings, run.weights, incomplete=True).as_dict()
