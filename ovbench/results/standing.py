"""How a run stands to what was published: the row that it measures, or what keeps it from measuring one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ovbench.config.load import resolve
from ovbench.results.found import run_changes
from ovbench.results.published import no_official_setting, official_settings, published_label_rule
from ovbench.results.published_runs import Run, published_runs
from ovbench.results.settings_text import Change, as_text

DESCRIPTIONS, LABEL_RULE = "descriptions", "label_rule"


class Standing(NamedTuple):
    """``run`` is the published run that is nearest, and ``deviations`` how the own one differs from it; ``sources`` are
    the tables that report it. ``remark`` says why there is no official setting, where there is none; a pair that no
    one published has neither."""

    run: Run | None = None
    deviations: tuple[Change, ...] = ()
    sources: tuple[str, ...] = ()
    remark: str = ""

    def sentence(self) -> str:
        """For a line of text; "" where there is nothing to say."""
        if self.remark:
            return f"no official setting ({self.remark})"
        if not self.deviations:
            return ""
        told = (f"{change} (published: {as_text(change.expected)})" for change in self.deviations)
        return "deviates from the published row: " + ", ".join(told)

    def as_dict(self) -> dict[str, Any]:
        """For a record."""
        told = [{"setting": c.setting, "published": c.expected, "value": c.value} for c in self.deviations]
        return {"official": self.run is not None, "deviations": told, "sources": list(self.sources)} | (
            {"remark": self.remark} if self.remark else {}
        )


def standing(cell: Mapping[str, Any], label_rule: str | None = None, descriptions: str = "") -> Standing:
    """Compare a cell, as `Cell.as_dict` gives it, with the published runs of its method on its benchmark.

    Args:
        cell: as resolved; a backbone that is still open is None.
        label_rule: how void pixels count; None if that is not decided yet.
        descriptions: what stands in for the paper's descriptions, "" where they are there or none are read.
    """
    method, dataset = cell["method"], cell["dataset"]
    if remark := no_official_setting(method, dataset):
        return Standing(remark=remark)
    if (method, dataset) not in official_settings():
        return Standing()
    runs = [Run(method), *(run for run in published_runs().values() if run.method == method)]  # of equal ones the first
    told = [_changes(run, cell) for run in runs]
    number = min(range(len(runs)), key=lambda n: len(told[n]))
    extra = []
    if descriptions:
        extra.append(Change(DESCRIPTIONS, "those of the paper", descriptions))
    if label_rule is not None and label_rule != (rule := published_label_rule(dataset)) and rule != "correct":
        extra.append(Change(LABEL_RULE, rule, label_rule))
    same = [run.sources for run, changed in zip(runs, told, strict=True) if not changed] if not extra else []
    sources = tuple(dict.fromkeys(source for names in same for source in names))
    return Standing(runs[number], (*told[number], *extra), sources)


def published_cell(run: Run, dataset: str) -> dict[str, Any]:
    """The cell of a published run on a benchmark."""
    return resolve(run.method, dataset, run.settings, run.weights, incomplete=True).as_dict()


def _changes(run: Run, cell: Mapping[str, Any]) -> list[Change]:
    return run_changes(published_cell(run, cell["dataset"]), cell)
