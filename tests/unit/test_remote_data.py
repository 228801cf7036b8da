"""Benchmarks at a URL: the pixels and the identities of files on a disk, and few requests."""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pytest
from PIL import Image
from test_sources import (
    FILES,
    SIZE,
    as_arrow,
    as_coco,
    as_coco_in_zip,
    as_folder,
    as_panoptic,
    as_parquet,
    as_paths,
    as_tar,
    as_zip,
    card,
    pictures,
    png,
)

from ovbench.data import remote_path
from ovbench.data.availability import fingerprint
from ovbench.data.dataset import locate, open_dataset
from ovbench.data.remote_path import RemotePath
from ovbench.data.verify import verify
from ovbench.evaluation.identity import data_digest, identity_of, is_still
from ovbench.utils.errors import InputError, UsageError

FORMS = (as_folder, as_zip, as_tar, as_parquet, as_paths, as_coco, as_coco_in_zip, as_panoptic)


@pytest.fixture
def store(tmp_path):
    """A folder in memory, as a path of this machine that is copied there, and its URL."""
    memory, name = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    yield f"memory:/{name}/data"
    if memory.exists(name):
        memory.rm(name, recursive=True)


def publish(form, files, folder, store):
    """Write files in a form to a store; return the card, which is on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = form(files, folder)
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"{store}/{path.relative_to(folder)}", path.read_bytes())
    return card(folder.with_name("card"), layout)


@pytest.mark.quick(2)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_pixels_of_the_files(form, tmp_path, store):
    files = pictures()
    expected = open_dataset(card(tmp_path / "plain", as_folder(files, tmp_path / "plain")))
    found = open_dataset(publish(form, files, tmp_path / "own", store), store)
    assert len(found) == 3 and str(found.root) == store
    for index in range(3):
        ours, wanted = found.read(index), expected.read(index)
        np.testing.assert_array_equal(ours.image, wanted.image)
        np.testing.assert_array_equal(ours.label, wanted.label)
        assert ours.image_file.digest == wanted.image_file.digest


@pytest.mark.quick(2)
@pytest.mark.parametrize("form", FORMS)
def test_a_changed_image_or_label_is_noticed_and_the_others_are_not_counted_again(form, tmp_path, store):
    files = pictures()
    own = publish(form, files, tmp_path / "own", store)
    items = open_dataset(own, store).items
    noted = [[identity_of(path) for path in item[1:]] for item in items]
    assert all(all(map(is_still, before, item[1:])) for before, item in zip(noted, items, strict=True))
    changed = pictures()
    changed["photos/1.png"] = png(np.zeros((*SIZE, 3), np.uint8))
    changed["truth/1.png"] = png(np.roll(np.asarray(Image.open(io.BytesIO(files["truth/1.png"]))), 1, 0))
    publish(form, changed, tmp_path / "own", store)
    items = open_dataset(own, store).items  # lists again
    still = [list(map(is_still, before, item[1:])) for before, item in zip(noted, items, strict=True)]
    assert still == [[True, True], [False, False], [True, True]]


def test_a_store_that_states_no_version_is_read_again(tmp_path, store, monkeypatch):
    files = pictures()
    own = publish(as_folder, files, tmp_path / "own", store)
    monkeypatch.setattr(remote_path, "VERSION", ())
    dataset = open_dataset(own, store)
    noted = {item.id: identity_of(item.image_path) for item in dataset.items}
    other = bytearray(files["photos/1.png"])
    other[-20] ^= 1  # the same length
    fsspec.filesystem("memory").pipe_file(f"{store}/photos/1.png", bytes(other))
    items = locate(own, store).items
    assert [is_still(noted[item.id], item.image_path) for item in items] == [True, False, True]


def test_a_folder_is_listed_once_and_no_file_is_asked_for_alone(tmp_path, store, monkeypatch):
    own = publish(as_folder, pictures(12), tmp_path / "own", store)
    memory, asked = fsspec.filesystem("memory"), []
    for name in ("ls", "info", "cat_file", "open"):
        kind = type(memory)
        monkeypatch.setattr(kind, name, counted(getattr(kind, name), name, asked))
    dataset = open_dataset(own, store)
    digest = data_digest(dataset, range(12))
    for index in range(12):
        dataset.read(index)
    assert len(digest) == 64 and asked.count("info") == 0
    assert asked.count("ls") <= 4  # the root and the folders, each once
    assert asked.count("cat_file") <= 3 * 2 * 12  # the sample, the digest, and the images


def counted(function, name, asked):
    def call(self, *arguments, **options):
        asked.append(name)
        return function(self, *arguments, **options)

    return call


def test_the_root_of_a_card_may_be_a_url(tmp_path, store):
    publish(as_folder, pictures(), tmp_path / "own", store)
    dataset = open_dataset(card(tmp_path / "card", FILES, extra=f'roots = ["{store}"]\n'))
    assert len(dataset) == 3 and isinstance(dataset.root, RemotePath)


def test_verify_reads_a_url_and_remembers_its_files(tmp_path, store):
    own = publish(as_folder, pictures(), tmp_path / "own", store)
    assert verify(own, store).ok
    before = fingerprint(locate(own, store))
    assert fingerprint(locate(own, store)) == before
    publish(as_folder, pictures(), tmp_path / "own", store)
    assert fingerprint(locate(own, store)) != before


def test_failures_are_one_sentence(tmp_path, store, monkeypatch):
    own = card(tmp_path / "card", FILES)
    with pytest.raises(UsageError, match=r'no files at the data root "memory://none/data" \(--data-root\)'):
        open_dataset(own, "memory://none/data")
    with pytest.raises(UsageError, match="unknown kind of URL: Protocol not known: nothing"):
        open_dataset(own, "nothing://bucket/data")
    publish(as_zip, pictures(), tmp_path / "own", store)
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{store}/all.zip", memory.cat_file(f"{store}/all.zip")[:300])
    with pytest.raises(InputError, match=rf"cannot read the archive: .* \({store}/all.zip\)"):
        open_dataset(own, f"{store}/all.zip")
    publish(as_arrow, pictures(), tmp_path / "own", store)
    with pytest.raises(InputError, match="Arrow files are read from disks only"):
        open_dataset(card(tmp_path / "card", '[[layout]]\nparquet = "disk"\nimage = "image"\nlabel = "mask"\n'), store)

    def unreachable(*arguments, **options):
        raise RuntimeError("Unable to locate credentials\nmore")

    monkeypatch.setattr(type(memory), "ls", unreachable)
    with pytest.raises(InputError, match=r"cannot reach the store: Unable to locate credentials \(memory://"):
        open_dataset(own, store)


def test_members_of_a_zip_are_read_by_several_threads(tmp_path, store):
    from concurrent.futures import ThreadPoolExecutor

    files = pictures(8)
    dataset = open_dataset(publish(as_zip, files, tmp_path / "own", store), store)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(dataset.read_image, [*range(8)] * 4))
    for number, image in enumerate(read):
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(files[f"photos/{number % 8}.png"]))))
