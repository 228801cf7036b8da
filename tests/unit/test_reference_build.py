"""The stages of a build, one part at a time, with stand-ins for the networks."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is an extra")

from ovbench.reference.parts import STAGES, Work, divide, list_pictures
from ovbench.reference.stages import pair_part


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


def test_phrases_are_embedded_in_the_same_batches_in_every_run(tmp_path):
    """In the order of a set they would differ from process to process, and with the batches the last bits."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (part,) = divide(list_pictures(tmp_path / "images"))
    work, words = Work(tmp_path / "stages", {name: {} for name in STAGES}), Words()
    named = [[f"{letter} thing", "thing"] for letter in "qwertzuiop"]
    row = {"image": "a", "captions": 1, "without_noun": 0, "phrases": named}
    work.stage("phrases").mkdir(parents=True)
    work.file("phrases", part.name).write_text(json.dumps(row) + "\n")
    pair_part(work, part, lambda image, stem: np.ones((8, 8), np.int32), words, lambda count: None)
    assert words.asked == sorted(text for text, _ in named)
