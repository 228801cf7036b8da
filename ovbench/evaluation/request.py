"""The request of a run; names and settings are checked without torch, so errors appear at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ovbench.config.load import Cell, override_pairs, resolve
from ovbench.config.suites import SuiteRow, load_suite
from ovbench.data.card import Card, load_card
from ovbench.data.groups import present_members
from ovbench.data.server_layout import server_layout
from ovbench.data.shipped_cards import card_groups
from ovbench.evaluation.distributed import Shard, parse_shard
from ovbench.metrics.count_names import EXTRA
from ovbench.utils.errors import InputError, UsageError, unknown, warn_once
from ovbench.utils.typed import partial, validate

NAMES = {"compile": "compiled"}  # arguments of a record whose names in a job differ
PATHS = ("subset", "classes")
CHOICES = (  # fields with a type or range that the command line checks itself, but a call from Python does not
    "limit", "device", "precision", "compiled", "batch", "label_rule", "show", "shard", "fresh", "fail_fast", "quiet",
    "mixed_devices", "save_predictions", "cost",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The user's request: every method on every dataset, or the rows of a suite on its own or these datasets.

    Attributes:
        methods: Names of methods.
        datasets: Names or cards of datasets, or groups: their datasets that are on this machine.
        suite: Name of a suite, instead of methods.
        limit: Use only the first images.
        subset: Manifest of a subset.
        classes: File of other class names.
        settings: Settings, as texts of the command line or typed values.
        weights: Backbones, as texts of the command line or by name.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "fp32", "fp16" or "bf16".
        compiled: Compile the blocks of the backbones.
        batch: Windows per batch of several images; 0 for one image per batch, None for the default of the device.
        data_root: Folder of the datasets.
        label_rule: "correct" or "official"; None for the default of the protocol.
        protocol: "paper" or "common".
        like: Benchmark whose settings the datasets of the user get; None for the one in their card, or general ones.
        out: Folder of ledgers and records.
        show: Number of overlays to save.
        shard: "K/N", or None for all images.
        fresh: Move earlier ledgers and count all images again.
        fail_fast: Stop at the first failed image.
        quiet: Print no progress, and no notes about earlier counts.
        mixed_devices: Accept counts from several models of one type of device.
        save_predictions: Format of the label maps to keep: "png", "npz", "confidence", "coco" or "server"; None keeps
            none.
        metrics: Names of other counts to store than those of pixels: "boundary", "size", "calibration".
        cost: Measure the cost of labelling.
    """

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    suite: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    subset: Path | None = None
    classes: Path | None = None
    settings: tuple[str, ...] | Mapping[str, Any] = ()
    weights: tuple[str, ...] | Mapping[str, str] = ()
    device: str = "auto"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    compiled: bool = False
    batch: Annotated[int, Field(ge=0)] | None = None
    data_root: Path | None = None
    label_rule: Literal["correct", "official"] | None = None
    protocol: str = "paper"
    like: str | None = None
    out: Path = Path("runs")
    show: Annotated[int, Field(ge=0)] = 0
    shard: str | None = None
    fresh: bool = False
    fail_fast: bool = False
    quiet: bool = False
    mixed_devices: bool = False
    save_predictions: Literal["png", "npz", "confidence", "coco", "server"] | None = None
    metrics: str | Iterable[str] = ()
    cost: bool = False


class CheckedRequest(NamedTuple):
    """The rows of a request with their cells, the cards by name, and the shard."""

    rows: list[SuiteRow]
    cards: dict[str, Card]
    cells: list[Cell]
    shard: Shard | None


def check_request(job: Job) -> CheckedRequest:
    """Resolve the cells of a request.

    Raises:
        UsageError: If a name, an option or a setting is wrong, or two rows are equal.
        InputError: If a card or a settings file is wrong.
    """
    validate(partial(Job), {name: getattr(job, name) for name in CHOICES}, "", given=CHOICES)
    shard, rows = parse_shard(job.shard), _rows(job)
    other_counts(job.metrics)
    cards = {name: load_card(name) for name in dict.fromkeys(row.dataset for row in rows)}
    cells = [_cell(row, cards[row.dataset], job) for row in rows]
    _refuse_equal(cells, rows)
    _refuse_one_name(cards.values())
    if job.save_predictions == "server":
        for card in cards.values():
            server_layout(card)
    return CheckedRequest(rows, cards, cells, shard)


def job_of(record: Mapping[str, Any], where: str, *, run_code: bool = False, **options: Any) -> Job:
    """Return the job that made a record.

    Args:
        record: The record.
        where: Its file, for messages.
        run_code: Whether code may run that only the record names.
        **options: Other fields of the job.

    Raises:
        InputError: If the record has no arguments.
        UsageError: If its method is code outside ovbench.
    """
    arguments = record.get("arguments")
    if arguments is None:
        raise InputError("the record has no arguments: it was made by an early version", where=where)
    if ":" in arguments["method"] and not run_code:
        raise UsageError(
            "the method is code outside ovbench", where=arguments["method"], fix="give --run-code to run it"
        )
    fields = {field.name for field in dataclasses.fields(Job)}
    given = {NAMES.get(key, key): value for key, value in arguments.items() if key not in ("suite", "row")}
    given |= {key: Path(given[key]) for key in PATHS if given.get(key)}
    known = {key: value for key, value in given.items() if key in fields and value is not None}
    return Job((arguments["method"],), (arguments["dataset"],), **{**known, **options})


def _cell(row: SuiteRow, card: Card, job: Job) -> Cell:
    """Resolve a row; the card of a user may say which benchmark it is like, and its threshold."""
    like = like_of(card, job)
    own = {} if card.prob_thd is None else {"prob_thd": card.prob_thd}
    return resolve(row.method, card.name, {**own, **row.overrides}, row.weights, job.protocol, like=like)


def like_of(card: Card, job: Job) -> str | None:
    """Return the benchmark whose settings a dataset gets; None for its own.

    Raises:
        UsageError: If it is not a benchmark of ovbench, or the dataset is one.
    """
    if job.like is not None and card.is_shipped:
        what = f"{card.name} has settings of its own"
        raise UsageError(what, where="--like", fix="remove --like; it is for datasets of your own")
    like = job.like or card.like
    if like is not None and not load_card(like).is_shipped:
        raise UsageError(f'"{like}" is not a benchmark of ovbench', where="--like", fix="ovbench list datasets")
    return like


def other_counts(asked: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of other counts in their usual order, from names or a text with commas.

    Raises:
        UsageError: If a name is unknown.
    """
    names = [name for part in asked.split(",") if (name := part.strip())] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in EXTRA:
            raise unknown("kind of counts", name, EXTRA, where="--metrics")
    return tuple(name for name in EXTRA if name in names)


def _rows(job: Job) -> list[SuiteRow]:
    settings, weights = override_pairs(job.settings, "--set"), override_pairs(job.weights, "--weights")
    if job.suite is not None:
        return load_suite(job.suite, _datasets(job), settings, weights, job.methods)
    if not job.methods or not job.datasets:
        raise UsageError("nothing to evaluate", fix="give --method and --dataset, or --suite")
    return [SuiteRow("", method, name, settings, weights) for method in job.methods for name in _datasets(job)]


def _datasets(job: Job) -> list[str]:
    """Return the requested datasets; the absent ones of a group are named in a warning."""
    expanded = present_members(job.datasets, job.data_root)
    for group, absent in expanded.absent.items():
        if absent:
            missing = f"{len(absent)} of {len(card_groups()[group])} benchmarks have no data"
            warn_once(f"{group}: {missing}: {', '.join(absent)}")
    return expanded.names


def _refuse_equal(cells: list[Cell], rows: list[SuiteRow]) -> None:
    """Refuse two rows of a suite with equal settings, because both would write the same record."""
    first: dict[str, SuiteRow] = {}
    for cell, row in zip(cells, rows, strict=True):
        other = first.setdefault(cell.digest(), row)
        if other is not row and row.label:
            raise UsageError(
                f'the rows "{other.label}" and "{row.label}" have the same settings', where=f"{row.dataset}",
                fix="remove the --set or --weights that makes them equal",
            )  # fmt: skip


def _refuse_one_name(cards: Iterable[Card]) -> None:
    """Refuse two cards of one name, because records name the dataset by its card."""
    first: dict[str, Card] = {}
    for card in cards:
        other = first.setdefault(card.name, card)
        if other is not card and other.path != card.path:
            raise UsageError(
                f'two cards are called "{card.name}"', where=f"{other.path} and {card.path}",
                fix='give one of them another name at its top: name = "..."',
            )  # fmt: skip
