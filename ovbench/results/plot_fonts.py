"""Fonts of a plot for names in any writing, and what to say if no font has a letter."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ovbench.utils.errors import warn_once

USUAL = "DejaVu Sans"  # comes with matplotlib
OTHERS = (  # for what it lacks, if they are installed: many writings, then Chinese, Japanese and Korean, then pictures
    "Noto Sans", "Arial Unicode MS", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans Devanagari", "Noto Sans Arabic",
    "Noto Emoji", "Symbola", "Segoe UI Emoji",
)  # fmt: skip
MISSING = re.compile(r"Glyph (\d+) .*missing from")


def font_families() -> list[str]:
    """Return the fonts of a plot that are installed; a letter is drawn with the first font that has it."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [USUAL, *(name for name in OTHERS if name in installed)]


@contextmanager
def said_of_letters() -> Iterator[None]:
    """Replace the warnings of matplotlib about letters that no font has by one sentence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [(one, MISSING.match(str(one.message))) for one in caught]
    for one in (one for one, letter in found if letter is None):
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if letters := "".join(dict.fromkeys(chr(int(letter[1])) for _, letter in found if letter)):
        from ovbench.results.console import plain  # loads rich, which a plot does not need

        warn_once(f"no installed font has {plain(letters)}, so these are boxes in the plot; install a Noto font")
