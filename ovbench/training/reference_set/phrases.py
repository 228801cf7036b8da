"""Noun phrases of captions with their root nouns, from spaCy or from a word list with a small grammar."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.extras import install_line

DROPPED_FIRST = {"the", "this", "that", "these", "those", "its", "his", "her", "their", "our", "my", "your"}
NO_NOUNS = {
    "something", "someone", "somebody", "anything", "anyone", "everything", "everyone", "nothing", "none", "one", "it"
}  # fmt: skip
LINKS = {"front", "next", "top", "side", "middle"}  # of "in front of" or "next to", not objects
INSIDE = ("DT", "CD", "JJ", "JJR", "JJS", "VBN", "VBD", "VBG", "PRP$", "PDT", "POS", "NN", "NNS", "NNP", "NNPS")
NOUNS = ("NN", "NNS", "NNP", "NNPS")
PLURAL = ("NNS", "NNPS")


class Phrase(NamedTuple):
    """A noun phrase; ``root`` is the singular of its last word."""

    text: str
    root: str


Parser = Callable[[str], list[Phrase]]


def choose_parser(wanted: str, spacy_model: str) -> str:
    """Return "spacy" or "lexicon"; "auto" is spaCy if the model is installed.

    Raises:
        UsageError: If spaCy is wanted and its model is not installed.
    """
    if wanted == "auto":
        return "spacy" if _has_spacy(spacy_model) else "lexicon"
    if wanted == "spacy" and not _has_spacy(spacy_model):
        raise UsageError(
            f'the spaCy model "{spacy_model}" is not installed',
            fix="pip install spacy and the model's wheel from spaCy's release page, give a path with "
            "--set spacy_model=PATH, or use --set parser=lexicon",
        )
    return wanted


def open_parser(name: str, spacy_model: str = "") -> Parser:
    """Return the parser "spacy" or "lexicon", which gives the noun phrases of a caption.

    Raises:
        InputError: If the spaCy model does not work.
        UsageError: If the libraries of the lexicon parser are not installed.
    """
    return _spacy_parser(spacy_model) if name == "spacy" else _lexicon_parser()


def unique_phrases(captions: Iterable[str], parse: Parser) -> tuple[list[Phrase], int]:
    """Return the distinct phrases of an image's captions in order, and the number of captions without a phrase."""
    found: dict[str, Phrase] = {}
    empty = 0
    for caption in captions:
        phrases = parse(caption)
        empty += not phrases
        for phrase in phrases:
            found.setdefault(phrase.text, phrase)
    return list(found.values()), empty


def _has_spacy(model: str) -> bool:
    try:
        import spacy.util
    except ImportError:
        return False
    return spacy.util.is_package(model) or Path(model).is_dir()


@functools.cache
def _spacy_parser(model: str) -> Parser:
    import spacy

    try:
        pipeline = spacy.load(model, disable=["ner"])
        list(pipeline("a dog").noun_chunks)
    except (OSError, ValueError) as error:
        why = "it has no dependency parser" if "E029" in str(error) else first_line(error)
        raise InputError(
            f'the spaCy model "{model}" finds no noun phrases: {why}',
            fix="give one such as en_core_web_sm, or use --set parser=lexicon",
        ) from None

    def parse(caption: str) -> list[Phrase]:
        phrases = []
        for chunk in pipeline(caption).noun_chunks:
            words = [token.text for token in chunk if token.i <= chunk.root.i and token.pos_ != "PUNCT"]
            if chunk.root.pos_ in ("NOUN", "PROPN"):
                phrases += _phrase(words, chunk.root.lemma_ or chunk.root.text)
        return phrases

    return parse


@functools.cache
def _lexicon_parser() -> Parser:
    try:
        import inflect
        from textblob.en.taggers import PatternTagger
    except ImportError:
        raise UsageError("the lexicon parser needs textblob and inflect", fix=install_line("reme")) from None
    tagger, engine = PatternTagger(), inflect.engine()

    def parse(caption: str) -> list[Phrase]:
        phrases = []
        for sentence in re.split(r"[.;!?\n]+", caption):
            tagged = tagger.tag(sentence, tokenize=True) if sentence.strip() else []
            for words, tag in _chunks(_verbs_as_nouns(tagged)):
                word = words[-1].lower()
                phrases += _phrase(words, (engine.singular_noun(word) or word) if tag in PLURAL else word)
        return phrases

    return parse


def _verbs_as_nouns(tagged: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Correct words such as "cross" or "hedge", which the word list knows as verbs.

    They are nouns if they stand alone, or follow an article, an adjective, a preposition, or a noun and "and".
    """
    changed: list[tuple[str, str]] = []
    for word, tag in tagged:
        before = [t for _, t in changed[-2:]]
        follows = before[-1:] and before[-1] in ("DT", "JJ", "CD", "IN", "PRP$", "VBN")
        after_and = before[-1:] == ["CC"] and before[0] in NOUNS
        if tag in ("VB", "VBP") and (len(tagged) == 1 or follows or after_and):
            tag = "NN"
        changed.append((word, tag))
    return changed


def _chunks(tagged: list[tuple[str, str]]) -> Iterator[tuple[list[str], str]]:
    """Yield runs of determiners, numbers, adjectives, participles and nouns that end in a noun, with its tag."""
    run: list[tuple[str, str]] = []
    for word, tag in [*tagged, ("", ".")]:
        fits = tag in INSIDE and word.lower() not in LINKS and re.search(r"\w", word)
        starts_new = tag in ("DT", "PRP$") and any(t in NOUNS for _, t in run)
        if fits and not starts_new:
            run.append((word, tag))
            continue
        yield from _ended(run)
        run = [(word, tag)] if fits else []


def _ended(run: list[tuple[str, str]]) -> Iterator[tuple[list[str], str]]:
    while run and run[-1][1] not in NOUNS:
        run = run[:-1]
    while run and run[0][1] in ("VBG", "VBD"):  # "playing frisbee" is an action, not an object
        run = run[1:]
    if run:
        yield [word for word, _ in run], run[-1][1]


def _phrase(words: list[str], root: str) -> list[Phrase]:
    """Return the phrase of a chunk without leading articles or pronouns; empty if no noun is left."""
    words = [word.lower() for word in words]
    while words and words[0] in DROPPED_FIRST:
        words = words[1:]
    root = root.lower().strip()
    if not words or len(root) < 2 or root in NO_NOUNS or not re.search(r"[^\W\d_]{2}", root):
        return []
    return [Phrase(" ".join(" ".join(words).split()), root)]
