"""A user's method that stitches windows: the same counts for any batch and any division of the images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import stitching

METHOD = (
    Path(stitching.__file__).read_text()
    + """

class Centred(Stitched):
    def adjust(self, scores, queries, image):
        return scores - scores.mean((1, 2), keepdim=True) * len(image.boxes) ** 0.5 / 8

class Counted(Centred):
    needs = Needs(backbones=("clip",), join="image", original=True)

    def encode_image(self, image):
        return image.pixels.float().mean() / 255

    def adjust(self, scores, queries, image):
        return super().adjust(scores, queries, image) * (1 + image.context)
"""
)
SIZES = [(48, 48), (72, 168), (64, 50), (264, 424), (100, 130)]  # 1, 10, 2, 60 and 12 windows


@pytest.fixture
def run(ovbench, tmp_path):
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, size in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), random.integers(0, 255, (*size, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f"labels/{number}.png"), random.integers(0, 3, size, np.uint8))
    (tmp_path / "classes.txt").write_text("brick wall\ngrass\nsky\n")
    layout = '[[layout]]\nimage = "images/{id}.png"\nlabel = "labels/{id}.png"\n'
    (tmp_path / "few.toml").write_text(f'title = "few"\nclasses = "classes.txt"\n{layout}')
    (tmp_path / "mine.py").write_text(METHOD)

    def evaluate(name, out, *arguments):
        settings = [f"--set={setting}" for setting in ("short_side=0", "crop=48", "stride=40", "pad=0")]
        done = ovbench(
            "eval", "-m", f"{tmp_path}/mine.py:{name}", "-d", tmp_path / "few.toml", "--data-root", tmp_path,
            "--weights", "clip=mini", *settings, "--device", "cpu", "--json", "--out", tmp_path / out, *arguments,
        )  # fmt: skip
        assert done.code == 0, done.err
        return done.json()

    return evaluate


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Centred", "Counted"])
def test_counts_do_not_depend_on_batches_or_processes(run, ovbench, tmp_path, name):
    whole = run(name, "whole")
    assert whole["dataset"]["images"] == len(SIZES) and sum(count > 0 for count in whole["counts"]["predicted"]) > 1
    assert run(name, "batch", "--batch", 8)["counts"] == whole["counts"]
    for shard in (1, 2):
        run(name, f"shard{shard}", "--shard", f"{shard}/2")
    folders = sorted(tmp_path.glob("shard*/*/"))
    merged = ovbench("merge", *folders, "--out", tmp_path / "merged", "--json")
    assert merged.code == 0 and merged.json()["counts"] == whole["counts"], merged.err
