"""What goes wrong with region maps: sizes, ids, files and weights."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import region_models
import torch
from click.testing import CliRunner

from ovbench.cli import cli
from ovbench.regions.base import checked_map
from ovbench.regions.map_store import pack, unpack
from ovbench.regions.precomputed import Precomputed
from ovbench.regions.sam import load_sam
from ovbench.utils.errors import InputError
from ovbench.utils.registry import REGIONS

IMAGE = np.zeros((30, 40, 3), np.uint8)


# --- maps -------------------------------------------------------------------------------------------------------------


def test_a_map_of_another_size():
    for shape in ((40, 30), (30, 41), (60, 80)):
        with pytest.raises(InputError, match=f"is {shape[1]}x{shape[0]} but its image is 40x30"):
            checked_map(np.zeros(shape, int), (30, 40), "here")


@pytest.mark.parametrize("shape", [(0,), (0, 0), (30, 0), (2, 30, 40), (30, 40, 3), ()])
def test_an_empty_map_or_one_of_other_axes(shape):
    with pytest.raises(InputError, match=r"empty or not two-dimensional.*here"):
        checked_map(np.zeros(shape, int), (30, 40), "here")


def test_an_axis_of_one_is_dropped():
    for shape in ((1, 30, 40), (30, 40, 1)):
        assert checked_map(np.zeros(shape, np.uint16), (30, 40), "here").shape == (30, 40)


def test_one_region_is_a_map():
    assert set(np.unique(checked_map(np.full((30, 40), 7), (30, 40), "here"))) == {7}


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int64, np.uint64, np.float32, np.float16])
def test_whole_numbers_of_any_type(kind):
    made = checked_map(np.arange(1200).reshape(30, 40).astype(kind), (30, 40), "here")
    assert made.dtype == np.int32 and made.max() == np.arange(1200).astype(kind).max()


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 2.0**40])
def test_numbers_that_are_no_ids(value):
    with pytest.raises(InputError, match=r"not integer ids|do not fit into 32 bits"):
        checked_map(np.full((30, 40), value), (30, 40), "here")


def test_texts_are_no_ids():
    with pytest.raises(InputError, match="not integer ids"):
        checked_map(np.full((30, 40), "a"), (30, 40), "here")


def test_more_than_65535_regions():
    """They keep their ids, in the cache as in a file."""
    ids = np.arange(300 * 300).reshape(300, 300)
    made = checked_map(ids, (300, 300), "here")
    assert np.array_equal(made, ids) and np.array_equal(unpack(pack(made)), ids)


# --- files made elsewhere ---------------------------------------------------------------------------------------------


def npz(path, **arrays) -> None:
    np.savez_compressed(path, **arrays)


def read(folder) -> np.ndarray:
    return Precomputed(folder=str(folder))(IMAGE, "a")


def test_an_archive_without_the_array(tmp_path):
    npz(tmp_path / "a.npz", masks=np.zeros((30, 40)), scores=np.zeros(3))
    with pytest.raises(InputError, match=r'no array "instance_mask".*it contains: masks, scores; set regions.key'):
        read(tmp_path)


def test_an_archive_of_another_size(tmp_path):
    npz(tmp_path / "a.npz", instance_mask=np.zeros((40, 30), int))
    with pytest.raises(InputError, match=r"30x40 but its image is 40x30.*a\.npz"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the region map|no array"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.98])
def test_an_archive_cut_off(tmp_path, keep):
    npz(tmp_path / "a.npz", instance_mask=np.random.default_rng(0).integers(0, 1000, (30, 40)))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"cannot read the region map.*a\.npz.*copy it again"):
        read(tmp_path)


@pytest.mark.parametrize("form", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damage", [1, 40])
def test_altered_bytes_in_an_archive(tmp_path, form, damage):
    values = np.random.default_rng(0).integers(0, 1000, (30, 40))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", form) as archive, archive.open("instance_mask.npy", "w") as stream:
        np.save(stream, values)
    assert read(tmp_path).tolist() == values.tolist()
    data = bytearray((tmp_path / "a.npz").read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + damage):
        data[at] ^= 16
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(InputError, match="cannot read the region map"):
        read(tmp_path)


class Hostile:
    def __reduce__(self):
        return print, ("this must never run",)


def test_objects_are_never_loaded(tmp_path, capsys):
    array = np.empty((30, 40), object)
    array[:] = Hostile()
    np.savez(tmp_path / "a.npz", instance_mask=array)
    with pytest.raises(InputError, match="Python objects, which are never loaded"):
        read(tmp_path)
    assert "never run" not in capsys.readouterr().out


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(30_000, 40_000), (2**31, 2**31), (30, 40)])
def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, shape):
    """Either its header announces another size, or what follows the announced array is never read."""
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("instance_mask.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(npy_header(shape))
        for _ in range(300):
            stream.write(bytes(1 << 20))
    start = time.perf_counter()
    if shape == (30, 40):
        assert not read(tmp_path).any()
    else:
        with pytest.raises(InputError, match="but its image is 40x30"):
            read(tmp_path)
    assert time.perf_counter() - start < 5


def test_a_header_that_lies(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("instance_mask.npy", npy_header((30, 40)) + bytes(100))
    with pytest.raises(InputError, match="cannot read the region map"):
        read(tmp_path)


def test_wide_values(tmp_path):
    npz(tmp_path / "a.npz", instance_mask=np.zeros((30, 40), np.complex128))
    with pytest.raises(InputError, match="complex128"):
        read(tmp_path)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sam_weights_of_another_size(tmp_path):
    """Named by what the file holds, before four hundred tensors are compared."""
    path = tmp_path / "sam_vit_l_0b3195.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}, path)
    with pytest.raises(InputError) as caught:
        load_sam("vit_b", path)
    text = str(caught.value)
    assert "does not fit SAM vit_b: image_encoder.pos_embed is 1x64x64x1024, expected 1x64x64x768" in text
    assert "--set regions.model=vit_l" in text and "\n" not in text


@pytest.mark.slow
def test_weights_that_are_no_sam(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    message = r"does not fit SAM vit_b: .* tensors are missing.*segment-anything checkpoint"
    with pytest.raises(InputError, match=message):
        load_sam("vit_b", tmp_path / "other.pth")


@pytest.mark.slow
def test_a_folder_whose_weights_do_not_fit_its_config(tmp_path):
    pytest.importorskip("transformers")
    from transformers import EomtForUniversalSegmentation

    from ovbench.regions.transformers_models import load_pretrained

    folder = region_models.save_eomt(tmp_path / "eomt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(InputError) as caught:
        load_pretrained(EomtForUniversalSegmentation, str(folder))
    assert "eomt" in str(caught.value) and "\n" not in str(caught.value)


# --- building ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mini_cache(own_mini):
    """A cache of its own with the drawn benchmark."""
    return own_mini.parents[1]


def build(*more: str):
    arguments = ["masks", "build", "-d", "mini", "--regions", "slic", "--limit", "4", "--workers", "1", *more]
    return CliRunner().invoke(cli, arguments)


def maps(cache) -> list:
    return sorted(cache.glob("regions/*/*/*.npz"))


@pytest.mark.slow
def test_a_second_build_makes_nothing_and_a_damaged_entry_is_made_again(mini_cache):
    first = build()
    assert first.exit_code == 0 and "4 maps built, 0 found in the cache" in first.output
    entries = {path: path.read_bytes() for path in maps(mini_cache)}
    assert len(entries) == 4
    assert "0 maps built, 4 found in the cache" in build().output
    victim = next(iter(entries))
    victim.write_bytes(entries[victim][:-1] + bytes([entries[victim][-1] ^ 1]))
    verified = CliRunner().invoke(cli, ["cache", "verify", "regions"], standalone_mode=False)
    assert verified.return_value == 3 and "3 intact, 1 damaged" in verified.output
    assert "1 maps built, 3 found in the cache" in build().output
    assert {path: path.read_bytes() for path in maps(mini_cache)} == entries


@pytest.mark.slow
def test_a_killed_build_leaves_whole_entries_and_goes_on(mini_cache):
    command = [sys.executable, "-m", "ovbench", "masks", "build", "-d", "mini", "--regions", "slic", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if len(maps(mini_cache)) >= 2 or process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
    there = maps(mini_cache)
    assert len(there) >= 2
    for path in there:
        unpack(path.read_bytes())
    result = build()
    assert result.exit_code == 0 and "found in the cache" in result.output and ", 0 found" not in result.output


@pytest.mark.slow
def test_two_processes_make_the_same_entries(mini_cache):
    build()
    alone = {path.name: path.read_bytes() for path in maps(mini_cache)}
    assert CliRunner().invoke(cli, ["cache", "rm", "regions"]).exit_code == 0
    assert not maps(mini_cache)
    assert build("--workers", "2").exit_code == 0
    assert {path.name: path.read_bytes() for path in maps(mini_cache)} == alone


@pytest.mark.slow
def test_an_image_that_cannot_be_read_does_not_stop_the_build(mini_cache, monkeypatch):
    from ovbench.regions import build_maps as module

    real, seen = module.read_image_file, []

    def broken(path, *more):
        seen.append(path)
        if len(seen) == 2:
            raise InputError("not an image")
        return real(path, *more)

    monkeypatch.setattr(module, "read_image_file", broken)
    result = CliRunner().invoke(
        cli, ["masks", "build", "-d", "mini", "--regions", "slic", "--limit", "4", "--workers", "1"],
        standalone_mode=False,
    )  # fmt: skip
    assert result.return_value == 4 and "failed:" in result.output and "3 maps built" in result.output


@pytest.mark.slow
@pytest.mark.slow
def test_an_image_without_memory_for_its_map_fails_alone(ovbench, own_mini, monkeypatch, tmp_path):
    source, maps = REGIONS.load("slic"), []

    def full(self, image, stem=""):
        maps.append(image.shape)
        if len(maps) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return np.arange(image.shape[0] * image.shape[1], dtype=np.int32).reshape(image.shape[:2]) // 1000

    monkeypatch.setattr(source, "__call__", full)
    words = ("-m", "corrclip", "-d", "mini", "--set", "regions=slic", "--limit", 3)
    done = ovbench("eval", *words, "--json", "--out", tmp_path)
    assert done.code == 4, done.err
    (reason,) = done.json()["failed"].values()
    assert "too little memory" in reason and "ovbench masks build" in reason
    assert done.json()["dataset"]["images"] == 2


def test_what_can_be_asked_wrongly(mini_cache):
    def fails(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["masks", "build", "-d", "mini", *arguments])
        assert result.exception is not None
        return str(result.exception)

    assert 'did you mean "slic"' in fails("--regions", "slick")
    assert 'did you mean "segments"' in fails("--regions", "slic", "--set", "segment=4")
    assert "is not a value of" in fails("--regions", "slic", "--set", "segments=many")
    assert "files already" in fails("--regions", "precomputed", "--set", f"folder={mini_cache}")


@pytest.mark.slow
def test_cache_parts_have_sizes_and_can_be_removed(mini_cache):
    build()
    listing = json.loads(CliRunner().invoke(cli, ["cache", "ls", "--json"]).output)
    (part,) = [row for row in listing["parts"] if row["name"].startswith("regions/slic-")]
    assert part["files"] == 5 and part["bytes"] == sum(p.stat().st_size for p in mini_cache.glob("regions/**/*.*"))
    assert "5 files" in CliRunner().invoke(cli, ["cache", "ls"]).output
    assert CliRunner().invoke(cli, ["cache", "rm", part["name"]]).exit_code == 0
    assert not list(mini_cache.glob("regions/*"))
    for wrong in ([], ["region"], ["../other"], ["x", "--all"]):
        assert CliRunner().invoke(cli, ["cache", "rm", *wrong]).exit_code != 0


def test_removing_never_follows_a_link_out_of_the_cache(mini_cache, tmp_path):
    target = (mini_cache / "generated").rename(tmp_path / "elsewhere")
    (mini_cache / "generated").symlink_to(target, target_is_directory=True)
    before = len(list(target.rglob("*")))
    assert CliRunner().invoke(cli, ["cache", "rm", "--all"]).exit_code == 0
    assert len(list(target.rglob("*"))) == before > 0
