"""The stages of a build, one part at a time, with stand-ins for the networks."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is an extra")

from ovbench.methods.reme.parquet import arrow, write_table
from ovbench.training.reference_set.chunks import STAGES, StageFiles, list_images, split_into_chunks
from ovbench.training.reference_set.groups import Cohesion, group_pairs
from ovbench.training.reference_set.stages import pair_chunk, pair_schema
from ovbench.training.reference_set.summary import report_page
from ovbench.training.reference_set.synonyms import SynonymPairs


class Words:
    """Remembers what it was asked; every embedding is the same."""

    device = "cpu"

    def __init__(self):
        self.asked = []

    def phrases(self, texts):
        self.asked += texts
        return np.ones((len(texts), 3), np.float32)

    def segments(self, image, seen):
        return np.ones((seen.count, 3), np.float32)


@pytest.mark.slow
def test_phrases_are_embedded_in_the_same_batches_in_every_run(tmp_path):
    """In the order of a set they would differ from process to process, and with the batches the last bits."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (chunk,) = split_into_chunks(list_images(tmp_path / "images"))
    files, words = StageFiles(tmp_path / "stages", {name: {} for name in STAGES}), Words()
    named = [[f"{letter} thing", "thing"] for letter in "qwertzuiop"]
    row = {"image": "a", "captions": 1, "without_noun": 0, "phrases": named}
    files.folder("phrases").mkdir(parents=True)
    files.path("phrases", chunk.name).write_text(json.dumps(row) + "\n")
    pair_chunk(files, chunk, lambda image, stem: np.ones((8, 8), np.int32), words, lambda count: None)
    assert words.asked == sorted(text for text, _ in named)


class Page(HTMLParser):
    """Tags in order, their attributes by name, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, []).append(value)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_report_is_one_whole_file_whatever_the_phrases_are(tmp_path):
    """Captions come from models and strangers: what they hold is text, in every place of the page."""
    evil = '<script>alert("x")</script>'
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((40, 60, 3), 120, np.uint8))
    files = StageFiles(tmp_path / "stages", {name: {} for name in STAGES})
    row = dict(image="a", region=0, y1=5, x1=5, y2=30, x2=50, area=900, phrase=f"a {evil}", root=evil, score=0.3)
    table = arrow().Table.from_pylist([row, {**row, "region": 1}], pair_schema())
    write_table(files.path("pairs", "p"), [table], pair_schema())
    base = SimpleNamespace(
        pairs=np.array([[0, 0], [1, 0]]), phrases=[f"a {evil}"], phrase_root=np.array([0]), roots=[evil],
        first=np.array([0, 2]),
    )  # fmt: skip
    filtered = SimpleNamespace(
        stay=np.array([True, False]), groups=group_pairs(np.zeros(2, int), 1), dropped=np.array([0]),
        cohesion=Cohesion(np.ones(2, np.float32), np.array([0.25])),
    )  # fmt: skip
    encoder = {"name": f"{evil}&", "sha256": "a" * 64}
    manifest = {
        "warnings": [evil], "counts": {"images": 1234}, "parts": ["p"], "failed": {evil: "torn"}, "used_with": {},
        "encoders": {"clip": encoder, "dinov2": encoder}, "pairing": encoder,
        "settings": {"build": {"parser": evil}, "cell": {"regions": {"source": evil}}},
    }  # fmt: skip
    similar = SynonymPairs(np.array([[0, 0]]), np.array([0.9]))
    text = report_page(manifest, base, filtered, similar, files, tmp_path / "images").decode()
    page = Page(text)
    assert page.open == [] and "script" not in page.tags and text.count("&lt;script&gt;") >= 10
    assert page.tags.count("img") == 2 and all(
        src.startswith("data:image/jpeg;base64,") for src in page.attributes["src"]
    )
    assert "1,234" in text and not {"href", "onload", "onerror"} & set(page.attributes)
    assert not re.search(r"https?:|url\(|@import", text)
