"""One reader for all pictures: upright and never nearly black; and labels that keep their values or are refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovbench.data.decode import image_facts, read_image, read_image_file, read_label_file, read_raw_label, stored_pixels
from ovbench.utils.errors import InputError


@pytest.fixture
def rgb() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((40, 24), Image.BILINEAR))


def stored_as(upright: np.ndarray, tag: int) -> np.ndarray:
    """What a camera stores of a picture that its orientation tag turns back; by the definition of each value."""
    return {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[tag]  # fmt: skip


def save(array, path, **options):
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path


def exif(tag: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = tag
    return block


@pytest.mark.quick(8)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_a_picture_is_read_upright(tmp_path, rgb, suffix, tag):
    options = {"png": {}, "tif": {}, "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}[suffix]
    path = save(stored_as(rgb, tag), tmp_path / f"a.{suffix}", exif=exif(tag), **options)
    image = read_image(path)
    assert image.shape == rgb.shape
    assert np.abs(image.astype(int) - rgb).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("filled", [b"\0", b"\x55"])
def test_a_jpeg_whose_end_was_never_written_is_refused(tmp_path, rgb, progressive, filled):
    path = save(rgb, tmp_path / "a.jpg", quality=95, progressive=progressive, exif=exif(1))
    data = path.read_bytes()
    assert read_image(path).shape == rgb.shape
    path.write_bytes(data + b"trailer of a camera \xff\xda" * 50)
    assert read_image(path).shape == rgb.shape
    path.write_bytes(data[: -len(data) // 4] + filled * (len(data) // 4))  # as a download that was preallocated
    with pytest.raises(InputError, match="truncated"):
        read_image(path)
    thumbnail = b"\xff\xe1\0\x06\xff\xd9ab"  # an end marker, but not that of the picture
    path.write_bytes(data[:2] + thumbnail + data[2 : -len(data) // 4] + filled * (len(data) // 4))
    with pytest.raises(InputError, match="truncated"):
        read_image(path)


def test_a_name_that_is_not_utf8_is_no_crash(tmp_path, rgb):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    path.write_bytes(save(rgb, tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(stored_pixels(path), rgb)


def test_where_only_the_stored_pixels_fit_the_label_they_are_read(tmp_path, rgb):
    path = save(np.rot90(rgb), tmp_path / "a.png", exif=exif(6))
    on_stored, on_upright = (save(np.zeros(size, np.uint8), tmp_path / f"{size}.png") for size in ((40, 24), (24, 40)))
    np.testing.assert_array_equal(read_image_file(path, on_stored).pixels, np.rot90(rgb))
    np.testing.assert_array_equal(read_image_file(path, on_upright).pixels, rgb)
    square = save(np.rot90(rgb[:, :24]), tmp_path / "square.png", exif=exif(6))
    label = save(np.zeros((24, 24), np.uint8), tmp_path / "label.png")
    np.testing.assert_array_equal(read_image_file(square, label).pixels, rgb[:, :24])  # as published evaluation code


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits(tmp_path, rgb, suffix):
    full, twelve = (rgb.astype(np.uint16) << 8) + 7, rgb.astype(np.uint16) * 16
    for name, values in (("full", full), ("twelve", twelve)):
        cv2.imwrite(str(tmp_path / f"{name}.{suffix}"), values[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / f"full.{suffix}"), rgb)
    with pytest.raises(InputError, match=rf"largest value is {twelve.max()} of 65535.*white = 4095"):
        read_image(tmp_path / f"twelve.{suffix}")
    scaled = read_image_file(tmp_path / f"twelve.{suffix}", white=4080).pixels
    np.testing.assert_array_equal(scaled, rgb)
    with pytest.raises(InputError, match="the card says that white is 1023"):
        read_image_file(tmp_path / f"twelve.{suffix}", white=1023)
    assert image_facts(tmp_path / f"twelve.{suffix}").deep == twelve.max()
    assert image_facts(save(rgb, tmp_path / "eight.png")).deep is None


@pytest.mark.parametrize(
    ("head", "kind"), [(b"\0\0\0\x18ftypheic", "HEIC"), (b"%PDF-1.4", "PDF"), (b"<svg xmlns=", "SVG")]
)
def test_what_is_no_picture_for_opencv_is_named(tmp_path, head, kind):
    (tmp_path / "a.jpg").write_bytes(head + bytes(200))
    with pytest.raises(InputError, match=f"{kind}.*convert it to PNG or JPEG"):
        read_image(tmp_path / "a.jpg")


def test_a_black_picture_of_16_bits_is_black(tmp_path):
    path = save(np.zeros((4, 5), np.uint16), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), np.zeros((4, 5, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_of_32_bits_are_no_colours(tmp_path, dtype):
    path = save(np.ones((4, 5), dtype), tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"32-bit values, not colours.*convert it to 8 bits"):
        read_image(path)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P"])
def test_every_mode_gives_three_channels(tmp_path, rgb, mode):
    picture = Image.fromarray(rgb).convert(mode)
    picture.save(tmp_path / "a.png", **({"transparency": 0} if mode == "P" else {}))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


def test_the_identity_is_that_of_the_bytes(tmp_path, rgb):
    image, label = save(rgb, tmp_path / "a.png"), save(rgb[..., 0], tmp_path / "b.png")
    for path, file in ((image, read_image_file(image).file), (label, read_label_file(label).file)):
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        assert file == (len(data), os.stat(path).st_mtime_ns, digest)


def test_a_flipped_bit_in_a_png_is_seen(tmp_path, rgb):
    for name, array, read in (("image", rgb, read_image), ("label", rgb[..., 0], read_raw_label)):
        path = save(array, tmp_path / f"{name}.png")
        data = path.read_bytes()
        for place in range(16, len(data) - 12, max(1, len(data) // 40)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(InputError, match=f"cannot read the {name}"):
                read(path)


def test_the_flipped_bit_of_a_public_report(shared_cases):
    folder = shared_cases / "faults" / "label-png-bit-flip"
    read_raw_label(folder / "000-original.png")
    with pytest.raises(InputError, match="checksum"):
        read_raw_label(folder / "000.png")


def test_what_a_png_says_beside_its_pixels_may_be_damaged(tmp_path, rgb):
    path = save(rgb, tmp_path / "a.png")
    data = path.read_bytes()
    path.write_bytes(data[:33] + b"\0\0\0\4tIME" + b"abcd" + b"\0\0\0\0" + data[33:])
    np.testing.assert_array_equal(read_image(path), rgb)


@pytest.mark.parametrize("kind", ["jpg", "webp", "jp2", "tif"])
def test_formats_that_do_not_keep_values_are_refused(tmp_path, kind):
    array = np.random.default_rng(0).integers(0, 5, (16, 16), dtype=np.uint8)
    options = {"compression": "jpeg"} if kind == "tif" else {}
    path = save(array, tmp_path / f"a.{kind}", **options)
    shutil.copy(path, tmp_path / "named.png")  # the name does not decide
    for name in (path.name, "named.png"):
        with pytest.raises(InputError, match="does not keep class values"):
            read_raw_label(tmp_path / name)


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "gif", "pgm"])
def test_formats_that_keep_values(tmp_path, kind):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_raw_label(save(array, tmp_path / f"a.{kind}")), array)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "F"])
def test_labels_that_hold_no_values_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif" if mode != "LA" else tmp_path / "a.png")
    with pytest.raises(InputError, match=mode if mode != "F" else "32-bit floats"):
        read_raw_label(tmp_path / ("a.tif" if mode != "LA" else "a.png"))


def grey_png(array, depth: int) -> bytes:
    """A grey PNG of few bits, as MATLAB and optimisers write it: the samples as they are."""
    import struct
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -depth:].ravel()).tobytes() for row in array
    )
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["tif", "gif"])
def test_several_pages_of_one_size_are_refused(tmp_path, kind):
    first, other = (Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (1, 2))
    first.save(tmp_path / f"two.{kind}", save_all=True, append_images=[other])
    for read in (read_label_file, read_image):
        with pytest.raises(InputError, match="has 2 pages"):
            read(tmp_path / f"two.{kind}")
    first.save(tmp_path / "overview.tif", save_all=True, append_images=[first.resize((4, 3))])  # a smaller copy
    assert (read_label_file(tmp_path / "overview.tif").values == 1).all()
    assert (read_image(tmp_path / "overview.tif") == 1).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_png_of_few_bits_is_refused(tmp_path, depth):
    (tmp_path / "a.png").write_bytes(grey_png(np.array([[0, 1, 2, 3]], np.uint8), depth))
    with pytest.raises(InputError, match=f"grey PNG of {depth} bits"):
        read_raw_label(tmp_path / "a.png")


def test_one_bit_gives_0_and_1(tmp_path):
    (tmp_path / "a.png").write_bytes(grey_png(np.array([[0, 1, 1, 0]], np.uint8), 1))
    label = read_label_file(tmp_path / "a.png")
    assert label.values.tolist() == [[0, 1, 1, 0]] and label.mode == "1"


def test_palettes(tmp_path):
    values = np.array([[0, 1, 2]], np.uint8)

    def label(colours):
        picture = Image.fromarray(values)
        picture.putpalette([v for colour in colours for v in colour])
        picture.save(tmp_path / "a.png")
        return read_raw_label(tmp_path / "a.png")

    for colours in (
        [(0, 0, 0), (128, 0, 0), (0, 128, 0)],  # VOC
        [(0, 0, 0), (1, 1, 1), (2, 2, 2)],  # every index is its own tone
        [(0, 0, 0), (0, 0, 0), (0, 0, 0)],  # says nothing
    ):
        np.testing.assert_array_equal(label(colours), values)
    with pytest.raises(InputError, match="palette of grey tones, index 1 is the tone 7"):
        label([(0, 0, 0), (7, 7, 7), (255, 255, 255)])


def test_a_label_with_an_orientation_tag_is_refused(tmp_path):
    path = save(np.zeros((4, 6), np.uint8), tmp_path / "a.png", exif=exif(3))
    with pytest.raises(InputError, match="orientation tag"):
        read_raw_label(path)


def test_every_cut_of_a_file_is_one_sentence(tmp_path, rgb):
    labels, images = [(k, read_raw_label) for k in ("png", "bmp", "tif", "gif")], ("jpg", "png", "webp", "tif")
    for suffix, read in (*labels, *((k, read_image) for k in images)):
        stream = io.BytesIO()
        Image.fromarray(rgb[..., 0] if read is read_raw_label else rgb).save(
            stream, {"tif": "TIFF", "jpg": "JPEG"}.get(suffix, suffix.upper())
        )
        data, path = stream.getvalue(), tmp_path / f"a.{suffix}"
        for end in range(0, len(data), max(1, len(data) // 25)):
            path.write_bytes(data[:end])
            try:
                read(path)
            except InputError as error:
                assert str(path) in str(error)
