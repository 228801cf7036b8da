"""The cache of query vectors is verified when it is read, and never in the way; names that are too long are refused."""

from __future__ import annotations

import json
import multiprocessing
import time
from types import SimpleNamespace

import pytest
import torch
from pretended_device import pretended
from safetensors.torch import save

from ovbench.backbones.build import Loaded, load_backbone
from ovbench.backbones.text import TextEncoder
from ovbench.config.load import resolve
from ovbench.inference import cache
from ovbench.inference import text_embedding as queries
from ovbench.utils.errors import InputError, warn_once


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path))
    warn_once.cache_clear()
    return tmp_path / "text"


@pytest.fixture(scope="module")
def clip() -> Loaded:
    return load_backbone("clip", "mini")


NAMES = (("red ring",), ("grass", "lawn"))


def embedded(clip: Loaded) -> torch.Tensor:
    return queries.build_queries(NAMES, "openai_80", clip).embeddings


def test_a_flipped_bit_is_found_and_the_entry_made_again(folder, clip):
    right = embedded(clip)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    damaged = bytearray(whole)
    damaged[-100] ^= 8
    entry.write_bytes(bytes(damaged))
    (text,) = [each for each in cache.entries() if each.category == "text"]
    assert [d.path for d in cache.verify(text).damaged] == [entry]
    assert torch.equal(embedded(clip), right)
    assert entry.read_bytes() == whole and not cache.verify(text).damaged


@pytest.mark.slow
def test_an_entry_of_an_older_form_is_made_again(folder, clip):
    right = embedded(clip)
    (entry,) = folder.iterdir()
    entry.write_bytes(save({"embeddings": torch.zeros(3, 128)}))
    assert torch.equal(embedded(clip), right)


@pytest.mark.slow
def test_vectors_of_a_gpu_are_made_there_and_never_used_on_a_cpu_or_on_another_gpu(folder, clip, monkeypatch):
    with pretended() as device, torch.inference_mode():
        found = queries.build_queries(NAMES, "openai_80", clip, device="cuda:1").embeddings
        assert device.flops[torch.float32] > 1e6 and found.device.type == "cpu"
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "another")
        before = device.launches
        queries.build_queries(NAMES, "openai_80", clip, device="cuda:1")
        assert device.launches > before
    assert clip.text.device.type == "cpu"
    named = {path.name for path in folder.iterdir()}
    assert len(named) == 2
    right = embedded(clip)
    torch.testing.assert_close(found, right)
    (own,) = {path.name for path in folder.iterdir()} - named
    assert own.removesuffix(".safetensors") == queries.text_key(
        clip.sha256, [query for names in NAMES for query in names], queries.templates("openai_80")
    )


@pytest.mark.slow
def test_the_runner_of_mmengine_has_words_encoded_on_its_device(folder, monkeypatch):
    from ovbench.integrations import mmseg

    monkeypatch.setattr(mmseg, "get_device", lambda: "cuda:1")
    with pretended() as device, torch.inference_mode():
        segmentor = mmseg.OpenVocabSegmentor(cell=resolve("clip", "mini"))
        assert device.flops[torch.float32] > 1e6 and segmentor.pipeline.device == "cuda:1"


def _encode_and_note(clip, note, ready):
    def slowly(*_):
        with note.open("a") as file:
            file.write("encoded\n")
        time.sleep(0.3)
        return torch.ones(3, 4)

    queries.embed_queries = slowly  # in this process only
    ready.wait()
    assert queries.build_queries(NAMES, "openai_80", clip).embeddings.shape == (3, 4)


@pytest.mark.slow
def test_one_of_several_processes_encodes_and_the_others_wait(folder, clip, tmp_path):
    fork = multiprocessing.get_context("fork")
    note, ready = tmp_path / "note", fork.Barrier(2)
    both = [fork.Process(target=_encode_and_note, args=(clip, note, ready)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0] and note.read_text() == "encoded\n"


def test_fewer_prompts_at_once_after_memory_ran_out(clip, monkeypatch):
    prompts = [f"a photo of {number} rings" for number in range(30)]
    expected, encode, sizes = clip.text.encode(prompts), clip.text._encode_tokens, []

    def small(tokens):
        if len(tokens) > 8:
            raise torch.cuda.OutOfMemoryError
        sizes.append(len(tokens))
        return encode(tokens)

    monkeypatch.setattr(clip.text, "_encode_tokens", small)
    torch.testing.assert_close(clip.text.encode(prompts), expected)
    assert sizes == [7, 7, 7, 7, 2]


@pytest.mark.slow
def test_entries_of_others_are_skipped_with_one_warning(folder, clip, monkeypatch, caplog):
    right = embedded(clip)
    from pathlib import Path

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert torch.equal(embedded(clip), right) and torch.equal(embedded(clip), right)
    assert caplog.text.count("cannot be read") == 1


@pytest.mark.slow
def test_a_cache_that_is_a_file_costs_one_warning(tmp_path, monkeypatch, clip, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "file"))
    warn_once.cache_clear()
    assert torch.equal(embedded(clip), embedded(clip))
    assert caplog.text.count("not cached") == 1


@pytest.mark.parametrize("words", [30, 200])
def test_names_longer_than_the_text_tower_reads_are_refused(folder, clip, words):
    long = "ring " * words
    names = ((f"{long}red",), (f"{long}green",))
    with pytest.raises(InputError, match=rf"class name is too long .*: {words + 12} tokens") as caught:
        queries.build_queries(names, "openai_80", clip)
    text = str(caught.value)
    assert "32 fit" in text and "ring ring" in text and len(text) < 500


def test_the_length_counts_the_template(clip):
    name = " ".join(["ring"] * 24)
    clip.text.require_room([name], ["{}"])
    with pytest.raises(InputError, match="too long"):
        clip.text.require_room([name], ["{}", "a photo of the very small {} there."])


def test_a_tokenizer_that_tells_no_length_is_left_alone():
    encoder = TextEncoder(torch.nn.Linear(1, 1), SimpleNamespace(context_length=4))
    encoder.require_room(["a b c d e f"], ["{}"])


def test_a_description_that_is_too_long_is_refused(folder, clip, tmp_path):
    path = tmp_path / "mine.json"
    from ovbench.config.load import shipped

    shape = json.loads(shipped("configs", "descriptions", "mini.json").read_text(encoding="utf-8"))
    table = next(value for value in shape.values() if isinstance(value, dict) and "grass" in value)
    table["grass"] = [" ".join(["green"] * 60)]
    path.write_text(json.dumps(shape), encoding="utf-8")
    made = queries.build_queries((("grass",),), "openai_80", clip)
    with pytest.raises(InputError, match='description of "grass" is too long'):
        queries.with_descriptions(made, (("grass",),), str(path), clip)
