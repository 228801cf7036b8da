"""Tables as text: what distinguishes runs, special characters in every format, widths of a terminal."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ovbench.config.load import resolve
from ovbench.evaluation.record import SCHEMA, score_fields
from ovbench.metrics.confusion import ClassPixels
from ovbench.results.latex import latex, needs_other_engine
from ovbench.results.record_files import RecordFile
from ovbench.results.run_names import run_details
from ovbench.results.tables import ComparisonTable, TableCell, TableRow, record_table
from ovbench.results.writers import FORMATS

PIXELS = ClassPixels(*(np.array([n]) for n in (40, 100, 60, 80)))
DEVIATING = {
    "": {},
    "precision bf16": {"device": {"precision": "bf16"}},
    "compiled": {"device": {"compile": True}},
    "classes: my classes.txt": {"arguments": {"method": "clip", "dataset": "mini", "classes": "/a/my classes.txt"}},
    "subset abcdefab": {"dataset": {"subset_sha256": "abcdefabcdef"}},
    "precision fp16, compiled": {"device": {"precision": "fp16", "compile": True}},
}


def found(name="a", method="clip", **changes):
    cell = resolve(method, "mini")
    dataset = {
        "title": "drawn", "split": "val", "split_images": 100, "layout": "generated", "label_rule": "correct",
        "subset_sha256": None, "classes": ["sky"], "background": None, "images": 100, "ids_sha256": "0",
        "split_sha256": "0", "encoding_sha256": "0",
    }  # fmt: skip
    record = {
        "schema": SCHEMA, "status": "complete", "cell": cell.as_dict(), "settings_sha256": cell.digest(),
        "weights": {"clip": {"name": "mini", "sha256": "a" * 64}}, "device": {}, "failed": {}, "ledger": "none",
        "time": {"started": name}, **score_fields(PIXELS, ["sky"]), **changes,
    }  # fmt: skip
    record["dataset"] = dataset | changes.get("dataset", {})
    return RecordFile(Path(name), record)


@pytest.mark.quick(2)
@pytest.mark.parametrize("form", FORMATS)
def test_runs_that_differ_beside_their_settings_are_rows_of_their_own(form):
    records = [found(str(number), **changes) for number, changes in enumerate(DEVIATING.values())]
    made = record_table(records)
    assert {row.detail for row in made.rows} == set(DEVIATING)
    text = FORMATS[form](made, False)
    assert all(detail in text for detail in DEVIATING)


def test_weights_of_one_name_and_other_content_are_told_apart_only_where_they_differ():
    other = {"weights": {"clip": {"name": "mini", "sha256": "b" * 64}}}
    assert run_details([found("1"), found("2")]) == ["", ""]
    assert run_details([found("1"), found("2", **other)]) == ["clip aaaaaaaa", "clip bbbbbbbb"]
    assert run_details([found("1"), found("2", "maskclip", **other)]) == ["", ""]
    assert len(record_table([found("1"), found("2"), found("3", **other)]).rows) == 2


LABELS = (
    "=A&B_c", "a|b", "<b>bold</b>", "[dog]", "*starred", "50 % of #1 {x} ~ ^ \\ \"q\" $x^2$", "--option -- a---b",
    "τ=0.1, Δ ≥ 2", "Müller–Š", "+1", "@name", "a\x1b[2Jb", "two\nlines",
)  # fmt: skip


def hostile(labels=LABELS, columns=("voc21", "my_data & more"), intervals=(40.1, 42.2)):
    cells = tuple(
        TableCell("40.0", 41.25, intervals, rank_published=1, rank_measured=2, rule="official") for _ in columns
    )
    rows = tuple(TableRow("[block] & <one>", label, label, cells, cells[0]) for label in labels)
    return ComparisonTable("a_b & c\n<d>", "source_x", columns, rows, ("a note with 50 % & #",))


def test_latex_of_special_characters():
    assert latex("[dog]") == "{}[dog]" and latex("*a") == "{}*a" and latex("a--b") == "a-{}-b"
    assert latex("τ Δ λ Λ ≥") == (
        r"\ensuremath{\tau} \ensuremath{\Delta} \ensuremath{\lambda} \ensuremath{\Lambda} \ensuremath{\geq}"
    )
    text = FORMATS["latex"](hostile(), True)
    assert "\x1b" not in text and "LuaLaTeX" not in text
    assert "LuaLaTeX" in FORMATS["latex"](hostile(("犬",)), True).splitlines()[0]
    for line in text[text.index(r"\midrule") :].splitlines()[2:-2]:
        assert len(re.findall(r"(?<!\\)&", line)) == 3 and not re.match(r"[\[*]", line)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "xelatex"])
def test_special_characters_are_compiled_by_latex(tmp_path, engine):
    if shutil.which(engine) is None:
        pytest.skip(f"needs {engine} and booktabs")
    letters = [chr(code) for code in range(0x20, 0x2100) if not needs_other_engine(chr(code))]
    assert {"é", "Ł", "–"} < set(letters) and not {"ą", "ð", "犬", "„"} & set(letters)
    body = FORMATS["latex"](hostile(), True) + "\n\n".join(f"{latex(letter)}." for letter in letters)
    page = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "a.tex").write_text(page, encoding="utf-8")
    command = [engine, "-halt-on-error", "-interaction=nonstopmode", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0 and (tmp_path / "a.pdf").stat().st_size > 1000, done.stdout[-2000:]


class Texts(HTMLParser):
    """The tags of a page and the text of each row's head."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.heads, self.inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "th" and ("scope", "row") in attrs:
            self.inside = True
            self.heads.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "th"

    def handle_data(self, data):
        if self.inside:
            self.heads[-1] += data


def test_every_format_has_the_same_labels():
    made = hostile()
    lines = [" ".join(label.split()).replace("\x1b", "\\x1b") for label in LABELS]
    page = Texts(FORMATS["html"](made, False))
    assert page.heads == [line * 2 for line in lines] and not {"b", "script", "img"} & {*page.tags}
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](made, False))))[::3]
    assert [row["row"].lstrip("'") for row in rows] == lines
    assert all(not row["row"].startswith(("=", "+", "-", "@")) for row in rows)
    markdown = FORMATS["markdown"](made, False).splitlines()
    body = [line for line in markdown if line.startswith("|")][3:]
    assert len(body) == len(LABELS) and all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in body)
    assert not any(re.search(r"<(?!/?(br|sub|u)>)", line) for line in body)


@pytest.mark.quick(1)
@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_a_terminal_table_fits_and_keeps_every_number(monkeypatch, width):
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("voc21", "pc60", "coco-object", "a benchmark with a long name", "犬と猫の写真")
    made = hostile((*LABELS, "犬と猫" * 12, "x" * 90), columns)
    text = FORMATS["rich"](made, True)
    assert max(map(cell_len, text.splitlines())) <= width
    numbers = len(LABELS) + 2
    for value in ("40.0", "41.2", "(+1.2)", "[40.1,", "42.2]"):
        assert text.count(value) == numbers * (len(columns) + 1), value
    assert "\x1b" not in text
