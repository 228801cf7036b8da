"""Find, read and write sets of sentences that describe classes, for methods that use them.

A set is a JSON file: ``{"format": 1, "vocabulary", "model", "prompt", "descriptions": {class: [sentence, ...]}}``. Its
keys are first names of classes or any of their queries. It is in ``configs/descriptions`` or in the cache.
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
    """Sentences for the classes of a vocabulary.

    Attributes:
        vocabulary: Name of the vocabulary.
        model: The model that wrote the sentences.
        prompt: The prompt of the model.
        descriptions: The sentences by class name or query.
    """

    vocabulary: str
    model: str
    prompt: str
    descriptions: dict[str, list[str]] = field(default_factory=dict)

    def sentences(self, query: str, name: str) -> list[str]:
        """Return the sentences of a query, otherwise of its class.

        Args:
            query: The query.
            name: The first name of its class.

        Returns:
            The sentences; empty if there are none.
        """
        return self.descriptions.get(query) or self.descriptions.get(name) or []


def find_set(name: str) -> Path | None:
    """Find the file of a set.

    Args:
        name: A path that ends in ".json", or the name of a set in the cache or in the package.

    Returns:
        The file, or None if no set has the name.

    Raises:
        InputError: If the path does not exist.
    """
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise InputError(f'no file "{name}"', where="descriptions", fix="run: ovbench describe --dataset NAME")
        return Path(name)
    paths = (cache_root() / "descriptions" / f"{name}.json", shipped("configs", "descriptions", f"{name}.json"))
    return next((path for path in paths if path.is_file()), None)


def read_set(path: Path) -> DescriptionSet:
    """Read a set.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing or malformed.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(
            f'not a set of descriptions of format {FORMAT} (its "format" is missing or different)', where=str(path)
        )
    descriptions = raw.get("descriptions")
    if not isinstance(descriptions, dict):
        raise InputError('"descriptions" is not a table of classes', where=str(path))
    for name, sentences in descriptions.items():
        if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise InputError(f'the descriptions of "{name}" are not a list of sentences', where=str(path))
    vocabulary, model, prompt = (str(raw.get(key, "")) for key in ("vocabulary", "model", "prompt"))
    return DescriptionSet(vocabulary, model, prompt, descriptions)


def stand_in(name: str, vocabulary: Sequence[Sequence[str]], background: int | None) -> str:
    """Return what replaces the descriptions of the paper: descriptions of another model, or prompts.

    Args:
        name: Name of the set, or "".
        vocabulary: The queries of each class.
        background: Number of the background class, which is not described.

    Returns:
        A short text; "" if the set is the paper's and complete, or if no set is used.
    """
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
    """Read a file of FreeCP's prompts: Python source with one dictionary of lists of sentences.

    The source is parsed and never run. Repeated sentences are kept, because they have twice the weight. A surrogate
    pair becomes its character, a lone surrogate becomes U+FFFD, as in CLIP's tokenizer.

    Args:
        path: The file.

    Returns:
        The sentences by class name.

    Raises:
        InputError: If the file is not such a source.
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
        raise InputError("the dictionary contains more than texts and lists", where=str(path)) from error
    for name, sentences in table.items():
        whole = isinstance(name, str) and isinstance(sentences, (list, tuple)) and sentences
        if not whole or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise InputError(f"the descriptions of {name!r} are not a list of sentences", where=str(path))
    return {_whole_characters(name): [_whole_characters(s) for s in own] for name, own in table.items()}


def _whole_characters(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def write_set(path: Path, made: DescriptionSet) -> None:
    """Write a set.

    Args:
        path: The file.
        made: The set.

    Raises:
        InputError: If the file cannot be written.
    """
    write_json(path, {"format": FORMAT, **asdict(made)})
