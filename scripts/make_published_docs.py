"""Write docs/published.md, published figures and the runs that measure them: python scripts/make_published_docs.py"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ovbench.config.load import method_config
from ovbench.config.official import NOT_STATED, no_official_setting, official_settings, published_label_rule
from ovbench.config.published_runs import PublishedRun
from ovbench.data.card import list_cards
from ovbench.results.markdown import escape
from ovbench.results.published import PublishedFigure, published_for
from ovbench.utils.registry import METHODS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "published.md"
BENCHMARKS = ("voc21", "pc60", "coco-object", "voc20", "pc59", "coco-stuff", "cityscapes", "ade150", "pc459", "ade847")
HEAD = """# Published figures

This page is written by `scripts/make_published_docs.py` from `configs/official.csv`, `configs/published_runs.toml` and
`results/published/`. It lists the published figures of each method (mIoU in percent): first those whose settings
ovbench reproduces, with the run that measures them, then the others, with the reason. Settings are windows, class
names, prompts, thresholds, networks and region source. [Another page](measured.md) lists what has been *measured*.
`ovbench show METHOD BENCHMARK` prints the settings of one pair.

The figures on pc459 and ade847 count void pixels as the published code does (`--label-rule official`, the default).
"""
NEEDS = {
    "corrclip": "Use the region maps of the authors (`--set regions=precomputed --set regions.folder=DIR`) or of the "
    "given source. Only the paper states the thresholds of the authors' maps.",
    "corrclipv2": "Use the region maps of the authors (`--set regions.folder=DIR`). A bank has the name of "
    "the authors' one in any folder (`--set support=FOLDER/coco`), see [CorrCLIPv2](corrclipv2.md).",
    "freecp": "Use the descriptions of the paper (`ovbench describe import`, see [FreeCP](freecp.md)). Without them no "
    "run has the published settings.",
    "glaclip": "The paper's class names are known for voc21, voc20 and coco-object only; on the others `show` "
    "and `table` name the vocabulary as a deviation.",
    "lposs": "The paper's class names are not known; `show` and `table` name the vocabulary as a deviation on every "
    "benchmark.",
    "ovstitcher": "The paper's class files and sentences about classes are not part of ovbench, so `show` and `table` "
    "name the vocabulary and the descriptions as deviations, see [OV-Stitcher](ovstitcher.md).",
    "reme": "There is no official code; where the paper gives no value, ovbench has chosen one. Build the reference "
    "set yourself.",
    "talk2dino": "Use the psi of the authors, see [Talk2DINO](talk2dino.md).",
}


def page() -> str:
    """Return the page."""
    assert set(BENCHMARKS) == set(list_cards()) - {"mini", "mini-bg"}
    return "\n".join([HEAD, *(line for method in METHODS.names() for line in _section(method))])


def _section(method: str) -> Iterator[str]:
    title = method_config(method).title or method
    yield f"## {method}\n"
    if method in NEEDS:
        yield f"{NEEDS[method]}\n"
    found = [one for name in BENCHMARKS for one in published_for(method, name, title)]
    ours = [(row, run) for row, run, in_protocol in found if in_protocol and run is not None]
    if ours:
        known = {official_settings()[method, row.benchmark]["protocol.vocabulary"] for row, _ in ours} != {NOT_STATED}
        yield f"With the published settings{'' if known else ', except as stated above'}:\n"
        yield from _table(ours)
    else:
        yield "ovbench has the settings of no published figure.\n"
    yield from _others([(row, run) for row, run, in_protocol in found if not in_protocol])
    yield from _without(method)


def _table(found: list[tuple[PublishedFigure, PublishedRun]]) -> Iterator[str]:
    """Yield a table with a row per run and source, and a column per benchmark."""
    yield "| run | " + " | ".join(BENCHMARKS) + " | reported by |"
    yield "|---|" + "--:|" * len(BENCHMARKS) + "---|"
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row, run in found:
        cells.setdefault((_command(run), row.reported_by), {})[row.benchmark] = row.value
    for (command, source), values in cells.items():
        yield f"| `{command}` | " + " | ".join(values.get(b, "") for b in BENCHMARKS) + f" | {escape(source)} |"
    yield ""


def _command(run: PublishedRun) -> str:
    words = ["-m", run.method]
    words += [word for key, value in run.settings.items() for word in ("--set", f"{key}={value}")]
    words += [word for key, value in run.weights.items() for word in ("--weights", f"{key}={value}")]
    return shlex.join(words)


def _others(found: list[tuple[PublishedFigure, PublishedRun | None]]) -> Iterator[str]:
    if not found:
        return
    yield "With other settings:\n"
    yield "| variant | reported by | benchmarks | why |"
    yield "|---|---|---|---|"
    rows: dict[tuple[str, str, str], list[str]] = {}
    for row, run in found:
        refined = "" if row.postprocess == "none" else f", {row.postprocess}"
        why = "ovbench does not have this variant"
        if run is not None:
            official = not no_official_setting(run.method, row.benchmark)
            why = "the table has another protocol" if official else "no official setting"
        rows.setdefault((f"{row.method}: {row.variant}{refined}", row.reported_by, why), []).append(row.benchmark)
    for (variant, source, why), names in rows.items():
        yield f"| {escape(variant)} | {escape(source)} | {', '.join(names)} | {why} |"
    yield ""


def _without(method: str) -> Iterator[str]:
    """Yield the benchmarks without an official configuration."""
    reasons: dict[str, list[str]] = {}
    for name in BENCHMARKS:
        if reason := no_official_setting(method, name):
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        which = "all benchmarks" if len(names) == len(BENCHMARKS) else ", ".join(names)
        yield f"No official setting on {which}: {reason}.\n"


if __name__ == "__main__":
    assert {name for name in BENCHMARKS if published_label_rule(name) == "official"} == {"pc459", "ade847"}
    PAGE.write_text(page(), encoding="utf-8")
