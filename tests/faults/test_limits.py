"""The limits of docs/limits.md, and the tests that it names."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovbench.data.decode import image_facts, read_label_file
from ovbench.data.prepare.mat5 import read_matrix
from ovbench.data.rle import MOST_PIXELS, decode_rle
from ovbench.evaluation.identity import LONGEST_NAME, record_name
from ovbench.utils.errors import InputError

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "limits.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`((?:unit|cli|faults|parity)/[\w]+\.py)`", PAGE)
    assert len(named) > 15 and all((TESTS / name).is_file() for name in named)


def huge_png(path, width, height):
    """A PNG whose header states a size, with hardly any data."""
    image = Image.new("L", (4, 4))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    return path


def test_pixels_of_an_image_and_a_label(tmp_path):
    assert "178,956,970" in PAGE and 2 * Image.MAX_IMAGE_PIXELS == 178_956_970
    path = huge_png(tmp_path / "a.png", 20_000, 10_000)
    for read in (image_facts, read_label_file):
        with pytest.raises(InputError, match=r"a\.png"):
            read(path)


def test_pixels_of_a_mask_and_of_a_matrix():
    assert f"{MOST_PIXELS:,}" in PAGE
    with pytest.raises(InputError, match="at most"):
        decode_rle({"size": [2**14, 2**14 + 1], "counts": [2**14 * (2**14 + 1)]}, where="x")
    buffer = io.BytesIO()
    savemat(buffer, {"LabelMap": np.ones((5, 5), np.uint8)})
    assert read_matrix(buffer.getvalue(), "LabelMap", 25).shape == (5, 5)
    with pytest.raises(ValueError, match="has the size"):
        read_matrix(buffer.getvalue(), "LabelMap", 24)


def test_length_of_names():
    header = {"cell": {"method": f"{'m' * 300}.py:{'M' * 300}", "dataset": "d" * 300}, "settings_sha256": "0" * 64}
    assert f"{LONGEST_NAME} each" in PAGE and len(record_name(header, 10**9)) < 2 * LONGEST_NAME + 60


@pytest.mark.parametrize("compressed", [False, True])
def test_a_matrix_is_read_as_scipy_wrote_it(compressed):
    for dtype in ("u1", "u2", "i4", "f8"):
        values = np.random.default_rng(0).integers(1, 120, (7, 9)).astype(dtype)
        buffer = io.BytesIO()
        savemat(buffer, {"other": np.ones(3), "LabelMap": values, "text": "abc"}, do_compression=compressed)
        found = read_matrix(buffer.getvalue(), "LabelMap", 1000)
        assert np.array_equal(found.values.reshape(found.shape, order="F"), values)
