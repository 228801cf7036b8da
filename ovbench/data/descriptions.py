"""Descriptions of classes in sentences, for methods that read them: sets found by name, read and written.

A set is a JSON file: ``{"format": 1, "vocabulary", "model", "prompt", "descriptions": {class: [sentence, ...]}}``. Its
keys are first names of classes or any of their queries; it lies in ``configs/descriptions`` or in the cache.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.paths import cache_root, shipped

FORMAT = 1
OFFICIAL_MODEL = "vicuna-13b (FreeCP's prompts)"


@dataclass(frozen=True)
class DescriptionSet:
    """Sentences for the classes of a vocabulary, the model that wrote them and the prompt that it was given."""

    vocabulary: str
    model: str
    prompt: str
    descriptions: dict[str, list[str]] = field(default_factory=dict)

    def sentences(self, query: str, name: str) -> list[str]:
        """Those of a query, or else of its class, which ``name`` stands for; empty where there are none."""
        return self.descriptions.get(query) or self.descriptions.get(name) or []


def find_set(name: str) -> Path | None:
    """The file of a set: ``name`` is a JSON file, or looked up in the cache and then among those of the package. None
    where no set of that name exists; InputError for a file that is not there."""
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise InputError(f'no file "{name}"', where="descriptions", fix="ovbench describe --dataset NAME makes one")
        return Path(name)
    places = (cache_root() / "descriptions" / f"{name}.json", shipped("configs", "descriptions", f"{name}.json"))
    return next((place for place in places if place.is_file()), None)


def read_set(path: Path) -> DescriptionSet:
    """InputError naming what is wrong with the file."""
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(
            f'not a set of descriptions of format {FORMAT} ("format" is missing or other)', where=str(path)
        )
    descriptions = raw.get("descriptions")
    if not isinstance(descriptions, dict):
        raise InputError('"descriptions" is not a table of classes', where=str(path))
    for name, sentences in descriptions.items():
        if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise InputError(f'the descriptions of "{name}" are not a list of sentences', where=str(path))
    return DescriptionSet(*(str(raw.get(key, "")) for key in ("vocabulary", "model", "prompt")), descriptions)


def stand_in(name: str, vocabulary: Sequence[Sequence[str]], background: int | None) -> str:
    """What is used in place of the paper's descriptions, in a few words: another model's, or prompts; "" where the set
    ``name`` is theirs and whole, or none is asked for."""
    if not name:
        return ""
    path = find_set(name)
    if path is None:
        return "none, prompts of the class names"
    known = read_set(path)
    described = [words for number, words in enumerate(vocabulary) if number != background]
    absent = sum(not all(known.sentences(query, words[0]) for query in words) for words in described)
    told = [] if known.model == OFFICIAL_MODEL else [f"by {known.model or 'an unnamed model'}"]
    return ", ".join(told + [f"{absent} of {len(described)} classes by prompts"] * (absent > 0))


def read_prompts(path: Path) -> dict[str, list[str]]:
    """The descriptions of a file of FreeCP's prompts: Python source that assigns one dictionary of lists of sentences.

    The source is parsed, never run; sentences that stand there twice stay, as they weigh twice. Halves of a character
    outside the basic plane become that character, and half a character alone U+FFFD, as CLIP's tokenizer has it.

    Raises:
        InputError: saying what is wrong with the file.
    """
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, filename=path.name)
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"not Python source: {error}", where=str(path)) from error
    values = [node.value for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr))]
    tables = [value for value in values if isinstance(value, ast.Dict)]
    if len(tables) != 1:
        raise InputError(f"{len(tables)} dictionaries instead of one", where=str(path), fix="give one file of prompts")
    try:
        table = ast.literal_eval(tables[0])
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError("the dictionary holds more than texts and lists", where=str(path)) from error
    for name, sentences in table.items():
        whole = isinstance(name, str) and isinstance(sentences, (list, tuple)) and sentences
        if not whole or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise InputError(f"the descriptions of {name!r} are not a list of sentences", where=str(path))
    return {_whole_characters(name): [_whole_characters(s) for s in own] for name, own in table.items()}


def _whole_characters(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def write_set(path: Path, made: DescriptionSet) -> None:
    write_json(path, {"format": FORMAT, **asdict(made)})
