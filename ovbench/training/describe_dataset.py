"""Descriptions of the classes of a dataset: written by a language model, or imported from FreeCP's repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovbench.data.card import Card, load_card, vocabulary
from ovbench.data.descriptions import OFFICIAL_MODEL, DescriptionSet, read_prompts, write_set
from ovbench.training.chat import ChatClient
from ovbench.training.write_descriptions import PROMPT, describe, local
from ovbench.utils.paths import cache_root
from ovbench.utils.provenance import choose_device

IMPORTED_NAMES = "freecp"  # the vocabulary of the published descriptions


@dataclass(frozen=True)
class DescribeRequest:
    """What to describe, and how.

    Attributes:
        dataset: Name or card of the dataset.
        llm: A transformers model, or a model of the server at ``base_url``.
        base_url: Address of an OpenAI-compatible server; None runs the model here.
        names: Name variant of the classes.
        count: Sentences per class.
        prompt: The prompt; None for `PROMPT`.
        limit: Describe only the first classes.
        device: Device of a transformers model.
        out: The file; None for a file in the cache, where methods find it.
    """

    dataset: str
    llm: str
    base_url: str | None = None
    names: str = "freecp"
    count: int = 20
    prompt: str | None = None
    limit: int | None = None
    device: str = "auto"
    out: Path | None = None


def describe_dataset(request: DescribeRequest, progress: Callable[[str, int], None]) -> tuple[Path, DescriptionSet]:
    """Describe the classes of a dataset with a language model, and resume from an existing file.

    Args:
        request: What to describe, and how.
        progress: Called with each class and its number of sentences.

    Returns:
        The file and its content.
    """
    card = load_card(request.dataset)
    classes = [query for queries in _described(card, request.names) for query in queries][: request.limit]
    path = request.out or _path(card)
    if request.base_url:
        ask = ChatClient(request.base_url, request.llm)
    else:
        ask = local(request.llm, str(choose_device(request.device)))
    made = describe(
        classes, ask, path, vocabulary=card.name, model=request.llm, count=request.count,
        prompt=request.prompt or PROMPT, progress=progress,
    )  # fmt: skip
    return path, made


def import_descriptions(file: Path, dataset: str, out: Path | None) -> tuple[Path, DescriptionSet, list[str]]:
    """Import a file of FreeCP's folder prompts/vicuna13b; it is parsed, never run.

    Args:
        file: The Python file.
        dataset: Name or card of the dataset.
        out: The file to write; None for the cache.

    Returns:
        The written file, its content, and the queries without a description.
    """
    card = load_card(dataset)
    source = ""
    if file.is_file():
        from ovbench.backbones.checkpoint import file_sha256  # torch, after the names have been checked

        source = f"{file.name}, sha256 {file_sha256(file)}"
    made = DescriptionSet(card.name, OFFICIAL_MODEL, source, read_prompts(file))
    path = out or _path(card)
    write_set(path, made)
    missing = [
        query
        for queries in _described(card, IMPORTED_NAMES)
        for query in queries
        if not made.sentences(query, queries[0])
    ]
    return path, made, missing


def _described(card: Card, names: str) -> list[tuple[str, ...]]:
    """Return the queries of each class except the background."""
    return [queries for number, queries in enumerate(vocabulary(card, names)) if number != card.background]


def _path(card: Card) -> Path:
    return cache_root() / "descriptions" / f"{card.name}.json"
