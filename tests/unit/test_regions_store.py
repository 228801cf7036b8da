"""The cache of region maps: what an entry depends on, and that it comes back as it was."""

from __future__ import annotations

import numpy as np
import pytest

from ovbench.regions.base import RegionSource
from ovbench.regions.felzenszwalb import Felzenszwalb
from ovbench.regions.map_store import DamagedEntry, RegionStore, image_key, pack, unpack
from ovbench.regions.provider import Regions
from ovbench.regions.sam import SamRegions
from ovbench.regions.slic import Slic
from ovbench.utils.errors import InputError


@pytest.mark.quick(2)
@pytest.mark.parametrize("low", [-1, 0, 1, 10_000, -(2**31)])
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 65_536, 65_537, 90_000])
def test_maps_come_back_as_they_were(low, count):
    ids = np.random.default_rng(count).permutation(np.arange(90_000) % count).reshape(300, 300)
    regions = (ids + low).astype(np.int32)
    again = unpack(pack(regions))
    assert again.dtype == np.int32 and np.array_equal(again, regions)


def test_the_widest_span_of_ids():
    regions = np.array([[-(2**31), 2**31 - 1, 0]], np.int32)
    assert np.array_equal(unpack(pack(regions)), regions)


def test_entries_are_compact():
    coarse = np.random.default_rng(0).integers(0, 300, (20, 20))
    regions = np.kron(coarse, np.ones((25, 25), int)).astype(np.int32)  # 500 x 500 pixels: a megabyte of int32
    assert len(pack(regions)) < 5_000


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def test_an_entry_depends_on_pixels_not_on_files():
    assert image_key(picture()) == image_key(picture().copy()) == image_key(picture()[:, ::-1][:, ::-1])
    assert image_key(picture()) != image_key(picture(1))
    assert image_key(picture()) != image_key(picture().reshape(50, 40, 3))


def test_a_folder_depends_on_source_settings_and_weights(tmp_path):
    for name, content in (("a.pth", b"one"), ("b.pth", b"two"), ("c.pth", b"one")):
        (tmp_path / name).write_bytes(content)
    sources = {
        "felzenszwalb": Felzenszwalb(),
        "other scale": Felzenszwalb(scale=200),
        "slic": Slic(),
        "a": SamRegions(model="vit_b", weights=str(tmp_path / "a.pth")),
        "b": SamRegions(model="vit_b", weights=str(tmp_path / "b.pth")),
        "c": SamRegions(model="vit_b", weights=str(tmp_path / "c.pth")),
        "fewer points": SamRegions(model="vit_b", weights=str(tmp_path / "a.pth"), points=8),
    }
    folders = {name: RegionStore("source", source, tmp_path).folder for name, source in sources.items()}
    assert folders.pop("c") == folders["a"]  # the same weights under another name
    assert len(set(folders.values())) == len(folders)


def test_maps_do_not_wait_for_the_disk_one_by_one(tmp_path, monkeypatch):
    """The description and its folder are flushed; the many small entries, which carry a checksum, are not."""
    flushed = []
    monkeypatch.setattr("os.fsync", flushed.append)
    store = RegionStore("slic", Slic(), tmp_path)
    for seed in range(5):
        store.put(picture(seed), np.full((40, 50), seed, np.int32))
    assert len(flushed) == 2 and store.get(picture(3))[0, 0] == 3


class Counting(RegionSource):
    """Numbers its calls; every map holds its number."""

    calls = 0

    def settings(self) -> dict:
        return {}

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        type(self).calls += 1
        return np.full(image.shape[:2], type(self).calls, np.int64)


@pytest.fixture
def counted(tmp_path) -> Regions:
    Counting.calls = 0
    return Regions("counting", Counting(), store=RegionStore("counting", Counting(), tmp_path))


def test_a_map_is_made_once(counted):
    first = counted(picture())
    assert np.array_equal(counted(picture()), first) and (counted.made, counted.found) == (1, 1)
    assert counted(picture(1)).max() == 2
    assert (counted.store.folder / "source.json").is_file()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_entries_are_made_again(counted, damage):
    counted(picture())
    path = counted.store.path(picture())
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-5]), "empty": b"", "other": b"x" * 100}[damage])
    with pytest.raises(DamagedEntry):
        unpack(path.read_bytes())
    assert counted(picture()).max() == 2 and counted.made == 2
    assert counted(picture()).max() == 2 and counted.found == 1


def test_a_cache_that_cannot_be_written_costs_time_only(counted, monkeypatch):
    def full(path, content):
        raise InputError("cannot write the file: No space left on device")

    monkeypatch.setattr("ovbench.regions.map_store.write_bytes", full)
    monkeypatch.setattr("ovbench.utils.files.write_bytes", full)
    assert counted(picture()).max() == 1 and counted(picture()).max() == 2
    strict = Regions("counting", Counting(), store=RegionStore("counting", Counting()), must_store=True)
    with pytest.raises(InputError, match="No space left"):
        strict(picture())


def test_threads_share_one_source():
    from concurrent.futures import ThreadPoolExecutor

    class Fragile(Counting):
        """Breaks when two threads are inside."""

        concurrent = False
        inside = 0

        def __call__(self, image, stem=""):
            type(self).inside += 1
            assert type(self).inside == 1
            result = np.sort(np.random.default_rng(0).random(200_000)).sum() * 0 + np.ones(image.shape[:2])
            type(self).inside -= 1
            return result

    maps = Regions("fragile", Fragile())
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda seed: maps(picture(seed)), range(12)))) == 12
