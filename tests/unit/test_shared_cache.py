"""The cache at a URL: machines share query vectors and region maps, and use those that were there first."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
import torch
from test_regions_store import Counting, picture

from ovbench.backbones.checkpoint import pack_tensor
from ovbench.inference.text_embedding import _cached
from ovbench.regions.map_store import RegionStore, pack
from ovbench.regions.provider import Regions
from ovbench.utils.errors import InputError
from ovbench.utils.paths import cache_root
from ovbench.utils.shared_cache import publish

pytest.importorskip("upath", reason="universal_pathlib is not installed")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Empty caches of two machines, and one in memory: its path there, and what starts the work of a machine."""
    Counting.calls = 0
    memory = fsspec.filesystem("memory")
    monkeypatch.setenv("OVBENCH_CACHE", f"memory://{tmp_path.name}/cache")
    yield f"/{tmp_path.name}/cache", lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def regions(**more):
    return Regions("counting", Counting(), store=RegionStore("counting", Counting()), **more)


def forbidden():
    raise AssertionError("the vectors are in the cache")


def test_query_vectors_are_encoded_on_one_machine(shared):
    folder, machine = shared
    machine("first")
    first = _cached("key", "cpu", lambda: torch.arange(6.0).reshape(2, 3))
    machine("second")
    assert torch.equal(_cached("key", "cpu", forbidden), first)
    assert torch.equal(_cached("key", "cpu", forbidden), first) and (cache_root() / "text/key.safetensors").is_file()
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{folder}/text/key.safetensors", b"damaged")
    machine("third")
    other = _cached("key", "cpu", lambda: first + 1)
    assert torch.equal(other, first + 1)
    assert memory.cat_file(f"{folder}/text/key.safetensors") == pack_tensor(first + 1)  # replaced


def test_vectors_of_the_machine_that_was_first_are_used(shared):
    _, machine = shared
    machine("first")

    def slow():
        publish("text/key.safetensors", pack_tensor(torch.ones(3)), bytes)  # another machine ends before
        return torch.zeros(3)

    assert torch.equal(_cached("key", "cpu", slow), torch.ones(3))
    assert torch.equal(_cached("key", "cpu", forbidden), torch.ones(3))


def test_region_maps_are_made_on_one_machine(shared):
    folder, machine = shared
    machine("first")
    assert regions()(picture()).max() == 1
    machine("second")
    second = regions()
    assert second(picture()).max() == 1 and (second.found, second.made) == (1, 0)
    (name,) = fsspec.filesystem("memory").glob(f"{folder}/regions/*/*/*.npz")
    assert second.store.path(picture()).read_bytes() == fsspec.filesystem("memory").cat_file(name)
    assert fsspec.filesystem("memory").glob(f"{folder}/regions/*/source.json")
    machine("third")
    store = RegionStore("counting", Counting())
    late = store.put(picture(), np.full((40, 50), 7, np.int32))
    assert late.max() == 1 and store.get(picture()).max() == 1
    fsspec.filesystem("memory").pipe_file(name, pack(late)[:-1])  # damaged
    machine("fourth")
    assert regions()(picture()).max() == 2


def test_a_store_that_cannot_be_reached_costs_time_but_maps_to_build_must_be_stored(shared, monkeypatch, caplog):
    def unreachable(*arguments, **options):
        raise RuntimeError("Unable to locate credentials")

    _, machine = shared
    machine("first")
    for name in ("pipe_file", "cat_file", "open"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, unreachable)
    assert torch.equal(_cached("key", "cpu", lambda: torch.ones(3)), torch.ones(3))
    assert "query vectors are not cached: cannot reach the store: Unable to locate credentials" in caplog.text
    assert regions()(picture()).max() == 1
    assert "region maps are not cached: cannot reach the store" in caplog.text
    with pytest.raises(InputError, match="cannot reach the store"):
        regions(must_store=True)(picture())
