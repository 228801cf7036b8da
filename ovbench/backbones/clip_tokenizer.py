"""CLIP's tokenizer: byte-pair encoding of lower-case text (Sennrich et al. 2016, Radford et al. 2019 and 2021).

A word is a sequence of bytes, each written as one character, with a mark after the last. The list of merges has pairs
of symbols; as long as a word has a pair in the list, the earliest pair in the list becomes one symbol. open_clip's own
tokenizer gives the same numbers, but it reads its table twice and loads ftfy for text that needs no repair.
"""

from __future__ import annotations

import functools
import gzip
import html
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

MERGES = 48894  # lines of the file that CLIP uses
END_OF_WORD = "</w>"
START, END = "<start_of_text>", "<end_of_text>"
SUFFIXES = "'s|'t|'re|'ve|'m|'ll|'d"
ASCII_WORD = re.compile(rf"{START}|{END}|{SUFFIXES}|[a-z]+|[0-9]|[^\sa-z0-9]+")


class ClipTokenizer:
    """Texts to numbers.

    Args:
        path: Gzipped list of merges, open_clip's ``bpe_simple_vocab_16e6.txt.gz``.
        context_length: Length L of the context.
    """

    def __init__(self, path: Path, context_length: int):
        self.path, self.context_length = path, context_length
        self.bytes = byte_symbols()
        single = {symbol: number for number, symbol in enumerate(self.bytes.values())}
        self.single = single | {f"{symbol}{END_OF_WORD}": 256 + number for symbol, number in single.items()}
        self.words = {START: [512 + MERGES], END: [513 + MERGES]}

    @functools.cached_property
    def ranks(self) -> dict[str, int]:
        """The position of each merge, written as "left right", in the list."""
        lines = gzip.decompress(self.path.read_bytes()).decode("utf-8").split("\n")
        return {merge: rank for rank, merge in enumerate(lines[1 : 1 + MERGES])}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, int64 (N, L), with start and end, cut at L and filled with 0."""
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        (start,), (end,) = self.words[START], self.words[END]
        for row, text in zip(tokens, texts, strict=True):
            own = [start, *self.encode(text)[: self.context_length - 2], end]
            row[: len(own)] = torch.tensor(own)
        return tokens

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start and end."""
        return [number for word in split_words(clean(text)) for number in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self.words:
            self.words[word] = self._merge(word)
        return self.words[word]

    def _merge(self, word: str) -> list[int]:
        symbols = [self.bytes[byte] for byte in word.encode("utf-8")]
        symbols[-1] += END_OF_WORD
        numbers = [self.single[symbol] for symbol in symbols]
        while True:
            pairs = [self.ranks.get(f"{left} {right}", MERGES) for left, right in pairwise(symbols)]
            rank = min(pairs, default=MERGES)
            if rank == MERGES:
                return numbers
            at = 0
            while at < len(symbols) - 1:
                if self.ranks.get(f"{symbols[at]} {symbols[at + 1]}") == rank:
                    symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
                    numbers[at : at + 2] = [512 + rank]
                at += 1


def byte_symbols() -> dict[int, str]:
    """Return one visible character for each byte, in the order of the vocabulary."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def clean(text: str) -> str:
    """Return a text in lower case with single spaces, with broken Unicode and HTML entities repaired.

    Example:
        >>> clean(" Traffic   light &amp; sign ")
        'traffic light & sign'
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):  # other text needs no repair
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def split_words(text: str) -> list[str]:
    """Return the words of a clean text: letters, single digits, other signs."""
    return (ASCII_WORD if text.isascii() else _unicode_word()).findall(text)


@functools.cache
def _unicode_word() -> re.Pattern[str]:
    import regex  # knows the classes of Unicode; slow to import

    return regex.compile(rf"{START}|{END}|{SUFFIXES}|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE)
