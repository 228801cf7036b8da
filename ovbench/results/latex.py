"""Escape text for LaTeX."""

from __future__ import annotations

import re
import unicodedata

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}",  # \textquotedbl needs an encoding other than OT1
    "`": r"\char96{}",  # otherwise an opening quotation mark, and with "!" or "?" an inverted one
    "≤": r"\ensuremath{\leq}", "≥": r"\ensuremath{\geq}", "≠": r"\ensuremath{\neq}", "≈": r"\ensuremath{\approx}",
    "→": r"\ensuremath{\to}", "−": r"\ensuremath{-}", "×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}",
    "·": r"\ensuremath{\cdot}", "∞": r"\ensuremath{\infty}", "√": r"\ensuremath{\surd}",
}  # fmt: skip
GREEK = re.compile(
    "GREEK (?:SMALL LETTER (ALPHA|BETA|GAMMA|DELTA|EPSILON|ZETA|ETA|THETA|IOTA|KAPPA|LAMDA|MU|NU|XI|PI|RHO|SIGMA|TAU|"
    "UPSILON|PHI|CHI|PSI|OMEGA)|CAPITAL LETTER (GAMMA|DELTA|THETA|LAMDA|XI|PI|SIGMA|UPSILON|PHI|PSI|OMEGA))"
)
# by pdfLaTeX without a package, in its default encoding OT1
PRINTED = re.compile(
    "(?:(?![«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ‚‛„])[\x20-\x7e\xa0-\u017f\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026])*"
)
OTHER_ENGINE = "compile with XeLaTeX or LuaLaTeX and a font that has all letters of this table"


def latex(text: str) -> str:
    r"""Escape a text for LaTeX, also at the start of a table row.

    Example:
        >>> print(latex("a_b & 50 %"), latex("[dog] τ--x"))
        a\_b \& 50 \% {}[dog] \ensuremath{\tau}-{}-x
    """
    escaped = "".join(map(_character, " ".join(text.split())))
    escaped = re.sub("-(?=-)", "-{}", escaped)  # no ligature
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # after \\ they would be an argument


def _character(character: str) -> str:
    if character in "&%$#_{}":
        return "\\" + character
    if character in SPECIAL:
        return SPECIAL[character]
    greek = GREEK.fullmatch(unicodedata.name(character, ""))
    if greek:
        name = greek[1].lower() if greek[1] else greek[2].capitalize()
        return rf"\ensuremath{{\{name.replace('amda', 'ambda')}}}"
    return character


def needs_other_engine(escaped: str) -> bool:
    """Return whether an escaped text has letters that pdfLaTeX does not print.

    Example:
        >>> needs_other_engine("Mädchen"), needs_other_engine("犬")
        (False, True)
    """
    return not PRINTED.fullmatch(escaped.replace("\n", " "))
