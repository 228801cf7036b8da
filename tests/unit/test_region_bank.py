"""Banks of regions: official files without FAISS, exact search in blocks, and the support of regions."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovbench.backbones.build import load_backbone, missing_weights
from ovbench.methods.support import bank as bank_module
from ovbench.methods.support.backbone import find_bank
from ovbench.methods.support.bank import RegionBank, key_vectors, support_features
from ovbench.methods.support.index_file import Vectors, read_index
from ovbench.utils.errors import InputError, UsageError

CASE = Path(__file__).parents[3] / "shared" / "parity" / "corrclipv2" / "radio_b16_bank"
GENERATOR = np.random.default_rng(0)
N, WIDTH, LISTS, PARTS = 37, 8, 5, 2
KEYS = GENERATOR.normal(size=(N, WIDTH)).astype("<f4")
IDS = GENERATOR.permutation(N).astype("<i8")


def vector(values):
    return struct.pack("<Q", len(values.ravel())) + values.tobytes()


def header(count, metric, width=WIDTH):
    return struct.pack("<iqqqBi", width, count, 1 << 20, 1 << 20, 1, metric)


def flat(values, kind=b"IxFI", metric=0):
    return kind + header(len(values), metric) + vector(values)


def with_ids(inner, ids=IDS):
    return b"IxM2" + header(len(ids), 0) + inner + vector(ids)


def ivfpq(residual=1, form=b"full"):
    """Return the bytes of an index, and the vectors that it holds, by position."""
    centres = GENERATOR.normal(size=(LISTS, WIDTH)).astype("<f4")
    books = GENERATOR.normal(size=(PARTS, 256, WIDTH // PARTS)).astype("<f4")
    codes = GENERATOR.integers(0, 256, (N, PARTS), np.uint8)
    of_list = GENERATOR.integers(0, LISTS - 1, N)  # the last list is empty
    data = b"IwPQ" + header(N, 1) + struct.pack("<QQ", LISTS, 1) + flat(centres) + b"\0" + struct.pack("<Q", 0)
    data += struct.pack("<BQQQQ", residual, PARTS, WIDTH, PARTS, 8) + vector(books)
    counts = np.bincount(of_list, minlength=LISTS).astype("<u8")
    sizes = counts if form == b"full" else np.stack([np.flatnonzero(counts), counts[counts > 0]], 1).astype("<u8")
    data += b"ilar" + struct.pack("<QQ", LISTS, PARTS) + form + vector(sizes)
    for number in range(LISTS):
        members = np.flatnonzero(of_list == number)
        data += codes[members].tobytes() + members.astype("<i8").tobytes()
    decoded = np.concatenate([books[part, codes[:, part]] for part in range(PARTS)], 1)
    return data, decoded + (centres[of_list] if residual else 0)


def by_row(vectors):
    """Return the vectors in the order of their store rows."""
    found = torch.empty(N, WIDTH)
    found[vectors.ids] = torch.cat([vectors.rows(start, min(start + 10, N)) for start in range(0, N, 10)])
    return found.numpy()


def in_rows(values):
    found = np.empty_like(values)
    found[IDS] = values
    return found


@pytest.mark.parametrize(("kind", "metric", "product"), [(b"IxFI", 0, True), (b"IxF2", 1, False), (b"IxFl", 1, False)])
def test_a_flat_index_with_shuffled_ids(kind, metric, product, tmp_path):
    path = tmp_path / "x.faiss"
    path.write_bytes(with_ids(flat(KEYS, kind, metric)))
    vectors = read_index(path)
    assert vectors.inner_product == product and vectors.width == WIDTH
    np.testing.assert_array_equal(by_row(vectors), in_rows(KEYS))
    path.write_bytes(flat(KEYS, kind, metric))
    np.testing.assert_array_equal(by_row(read_index(path)), KEYS)


@pytest.mark.parametrize("form", [b"full", b"sprs"])
@pytest.mark.parametrize("residual", [0, 1])
def test_a_compressed_index_is_decoded(form, residual, tmp_path):
    data, decoded = ivfpq(residual, form)
    path = tmp_path / "x.faiss"
    path.write_bytes(with_ids(data))
    vectors = read_index(path)
    assert not vectors.inner_product
    np.testing.assert_allclose(by_row(vectors), in_rows(decoded), rtol=1e-6, atol=1e-6)


def test_damaged_and_other_indexes_are_refused(tmp_path):
    path, (data, _) = tmp_path / "x.faiss", ivfpq()
    whole = with_ids(data)
    for broken in (whole[:4], whole[:200], whole[:-4], b"IHNf" + whole[4:], with_ids(data, IDS[:-1]), b"", data[:50]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="cannot read the index"):
            read_index(path)
    path.write_bytes(whole.replace(struct.pack("<QQQ", WIDTH, PARTS, 8), struct.pack("<QQQ", WIDTH, PARTS, 4)))
    with pytest.raises(InputError, match="4 bits"):
        read_index(path)


@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize("block", [1 << 20, 5 * WIDTH])
def test_the_search_is_exact_in_blocks_of_any_size(product, block, monkeypatch):
    monkeypatch.setattr(bank_module, "BLOCK", block)
    store = torch.zeros(N, 3, dtype=torch.float16)
    bank = RegionBank(Vectors(torch.from_numpy(IDS), product, flat=KEYS), store)
    queries = F.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    every = queries @ KEYS.T if product else (queries[:, None] - torch.from_numpy(KEYS)).square().sum(-1)
    order = every.argsort(1, descending=product)
    for k in (7, N + 5):
        found = bank.nearest(queries, k)
        torch.testing.assert_close(found.distance, every.gather(1, order)[:, :k], atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found.row.numpy(), IDS[order[:, :k]])


def test_keys_are_compared_by_the_cosine():
    vectors = key_vectors(torch.from_numpy(KEYS * np.arange(1, N + 1)[:, None]).half())
    found = RegionBank(vectors, torch.zeros(N, 3).half()).nearest(F.normalize(torch.from_numpy(KEYS), dim=-1), 1)
    assert found.row[:, 0].tolist() == list(range(N))


def test_the_support_is_the_plain_mean():
    store = torch.randn(N, 3).half()
    rows = torch.tensor([[0, 5], [7, 7]])
    expected = F.normalize(torch.stack([(store[0].float() + store[5].float()) / 2, store[7].float()]), dim=-1)
    torch.testing.assert_close(support_features(store, rows), expected)


@pytest.fixture
def files(tmp_path):
    """A bank "set" with two encoders and one index, in the folders of the official builder."""
    for folder in ("clip_embeddings", "vfm_embeddings"):
        (tmp_path / folder).mkdir()
    torch.save(torch.randn(N, 3).half(), tmp_path / "clip_embeddings" / "set_metaclip_b.pt")
    torch.save(torch.randn(N, 4).half(), tmp_path / "clip_embeddings" / "set_dfnclip_b.pt")
    torch.save(torch.from_numpy(KEYS).half(), tmp_path / "vfm_embeddings" / "set_radiov3.pt")
    (tmp_path / "vfm_embeddings" / "set_radiov3.faiss").write_bytes(with_ids(flat(KEYS)))
    return tmp_path


def test_the_files_of_a_bank_are_found(files):
    loaded = load_backbone("support", f"{files}/set")
    bank = loaded.vision
    assert bank.vfm == "radiov3" and bank.main.shape == (N, 3) and bank.auxiliary.shape == (N, 4)
    np.testing.assert_array_equal(by_row(bank.vectors), in_rows(KEYS))
    by_keys = load_backbone("support", f"{files}/set?search=keys")
    assert by_keys.vision.vectors.inner_product and by_keys.sha256 != loaded.sha256
    assert missing_weights({"support": "none"}) == [] and load_backbone("support", "none").spec == "none"
    torch.save(torch.randn(N, 3).half(), files / "set_metaclip_l.pt")
    with pytest.raises(InputError, match=r"several files fit: .*metaclip_l"):
        find_bank(f"{files}/set")
    assert find_bank(f"{files}/set?main=metaclip_l").main.name == "set_metaclip_l.pt"


@pytest.mark.parametrize("spec", ["other", "set?vfm=dinov2", "set?auxiliary=dfnclip_l", "set?main=x"])
def test_missing_files_are_named(files, spec):
    with pytest.raises(InputError, match=r"no file .* of the bank"):
        find_bank(f"{files}/{spec}")


@pytest.mark.parametrize("spec", ["set?aux=x", "set?search=hnsw"])
def test_unknown_options_are_refused(files, spec):
    with pytest.raises(UsageError, match="unknown option"):
        find_bank(f"{files}/{spec}")


@pytest.mark.parametrize("content", [torch.zeros(N), torch.zeros(N, 3), {"a": torch.zeros(N, 3)}, None])
def test_a_store_that_is_not_a_matrix(files, content):
    path = files / "clip_embeddings" / "set_metaclip_b.pt"
    torch.save(content, path) if content is not None else path.write_bytes(b"PK")
    with pytest.raises(InputError, match="store"):
        load_backbone("support", f"{files}/set")


def test_stores_of_another_bank_are_refused(files):
    torch.save(torch.zeros(N - 1, 4).half(), files / "clip_embeddings" / "set_dfnclip_b.pt")
    with pytest.raises(InputError, match="auxiliary store is"):
        load_backbone("support", f"{files}/set")


@pytest.mark.skipif(not CASE.is_dir(), reason="the full parity cases lie beside the checkout only")
def test_the_official_files_hold_the_arrays_of_the_case():
    bank = load_backbone("support", str(CASE / "bank" / "tiny")).vision
    with np.load(CASE / "inputs.npz") as arrays:
        places = np.argsort(arrays["bank_index_ids"])
        expected = arrays["bank_index_vectors"][places]
        order = bank.vectors.ids.argsort()
        found = bank.vectors.rows(0, len(order))[order].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(bank.vectors.ids[order], arrays["bank_index_ids"][places])
        np.testing.assert_array_equal(bank.main, arrays["bank_main"])
        np.testing.assert_array_equal(bank.auxiliary, arrays["bank_aux"])
