"""The build of a bank: resumed, in shards, with more images, merged, verified, and read by FAISS."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

from ovbench.backbones.build import load_backbone
from ovbench.cli import cli
from ovbench.methods.support.bank_files import find_bank, read_note
from ovbench.methods.support.index_file import read_index
from ovbench.training.region_bank import builder
from ovbench.training.region_bank.build_state import BankSources
from ovbench.training.region_bank.builder import build_bank
from ovbench.training.region_bank.index_writer import write_index
from ovbench.training.region_bank.inspect_bank import verify_bank
from ovbench.training.region_bank.merge_banks import merge_banks
from ovbench.training.region_bank.settings import encoder_name, resolve_bank_plan
from ovbench.utils.errors import InputError

SMALL = {"short_side": "48", "crop": "48", "stride": "48", "regions.min_size": "300"}
STEMS = ["b", "a", "a-1"]  # in the order in which they are drawn; "a-1.png" comes before "a.png"
STORES = ("clip_embeddings/x_mini.pt", "vfm_embeddings/x_mini.pt", "vfm_embeddings/x_mini.faiss",
          "manifests/x.images.tsv", "manifests/x.manifest.txt")  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number, stem in enumerate(STEMS):
        blocks = generator.integers(0, 255, (3 + number, 3, 3), np.uint8)
        Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(folder / f"{stem}.png")
    return folder


@pytest.fixture(scope="module")
def plan():
    return resolve_bank_plan("mini", SMALL)


def sources(images, folder, **changes):
    return BankSources(images, folder / "x", chunk_size=1, **changes)


@pytest.fixture(scope="module")
def built(images, plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    build_bank(sources(images, folder), plan)
    return folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in STORES}


def test_a_bank_has_the_official_files(built):
    files = find_bank(f"{built}/x")
    bank = load_backbone("support", f"{built}/x").vision
    note = read_note(files.base)
    keys = torch.load(files.keys, weights_only=True)
    assert keys.dtype == bank.main.dtype == torch.float16 and len(keys) == len(bank.main) == note["rows"] > 6
    assert bank.vectors.inner_product and bank.vfm == "mini" and bank.auxiliary is None
    torch.testing.assert_close(bank.vectors.rows(0, len(keys)), F.normalize(keys.float(), dim=1))
    torch.testing.assert_close(bank.main.float().norm(dim=1), torch.ones(len(keys)), atol=2e-3, rtol=0)
    lines = (built / STORES[3]).read_text().splitlines()
    stems, firsts, counts = zip(*(line.split("\t") for line in lines), strict=True)
    assert stems == ("a", "a-1", "b")
    assert [int(first) for first in firsts] == [0, *np.cumsum([int(count) for count in counts])[:-1]]
    rows = [f"{stem}#{n}" for stem, count in zip(stems, counts, strict=True) for n in range(int(count))]
    assert (built / STORES[4]).read_text().splitlines() == rows and len(rows) == note["rows"]
    assert note["index"] == {"type": "flat", "neighbours": 20, "recall": 1.0}
    assert verify_bank(f"{built}/x") == [] and not (built / "parts" / "x").exists()


@pytest.mark.slow
def test_a_killed_build_resumes_and_makes_no_image_twice(images, plan, built, tmp_path, monkeypatch):
    write, made = builder.write_chunk, []

    def killed(path, chunk, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        write(path, chunk, *rest)
        made.extend(image.id for image in chunk.images)

    monkeypatch.setattr(builder, "write_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        build_bank(sources(images, tmp_path), plan)
    assert made == ["a", "a-1"] and not (tmp_path / STORES[0]).exists()
    monkeypatch.setattr(
        builder, "write_chunk", lambda path, chunk, *rest: (made.append(chunk), write(path, chunk, *rest))
    )
    build_bank(sources(images, tmp_path), plan)
    assert [image.id for image in made[2].images] == ["b"] and len(made) == 3
    assert contents(tmp_path) == contents(built)


@pytest.mark.slow
def test_shards_fill_one_bank(images, plan, built, tmp_path):
    out = ["bank", "build", "--images", str(images), "--out", str(tmp_path / "x"), "--like", "mini", "--part-size", "1"]
    out += [text for key, value in SMALL.items() for text in ("--set", f"{key}={value}")]
    for shard in ("2/2", "1/2"):
        found = CliRunner().invoke(cli, [*out, "--shard", shard], standalone_mode=False)
        assert found.return_value == 0 and f"shard {shard} is done" in found.stderr
        assert not (tmp_path / STORES[0]).exists()
    found = CliRunner().invoke(cli, [*out, "--json"], standalone_mode=False)
    assert json.loads(found.stdout)["images"] == 3
    assert contents(tmp_path) == contents(built)


@pytest.mark.slow
def test_more_images_are_appended_and_old_rows_stay(images, plan, built, tmp_path):
    first = build_bank(sources(images, tmp_path, limit=1), plan)
    before = torch.load(tmp_path / STORES[0], weights_only=True)
    note = build_bank(sources(images, tmp_path), plan)
    assert note["rows"] > first["rows"] == len(before)
    assert contents(tmp_path) == contents(built)
    with pytest.raises(InputError, match="built with other windows"):
        build_bank(sources(images, tmp_path), resolve_bank_plan("mini", {**SMALL, "crop": "40", "stride": "40"}))


@pytest.mark.slow
def test_merged_banks_have_the_rows_of_all(images, plan, built, tmp_path):
    parts = []
    for stem in ("a", "a-1", "b"):
        own = tmp_path / f"images-{stem}"
        own.mkdir()
        (own / f"{stem}.png").write_bytes((images / f"{stem}.png").read_bytes())
        build_bank(sources(own, tmp_path / stem), plan)
        parts.append(tmp_path / stem / "x")
    merge_banks(parts, tmp_path / "all" / "x")
    assert contents(tmp_path / "all") == contents(built)
    with pytest.raises(InputError, match="1 images are in two banks, first a"):
        merge_banks([parts[0], parts[1], parts[0]], tmp_path / "double" / "x")


@pytest.mark.slow
def test_an_image_that_fails_is_reported_and_retried(images, plan, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    good = (images / "a.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "c.png").write_bytes(good[:100])
    note = build_bank(sources(folder, tmp_path), plan)
    assert [*note["failed"]] == ["c"] and note["images"] == 1
    (folder / "c.png").write_bytes((images / "b.png").read_bytes())
    note = build_bank(sources(folder, tmp_path), plan)
    assert note["failed"] == {} and note["images"] == 2 and verify_bank(f"{tmp_path}/x") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [(STORES[0], "has changed"), (STORES[2], "has changed"), (STORES[4], "is missing"), (STORES[3], "truncated")],
)
def test_damaged_banks_are_found(built, tmp_path, name, message):
    for file in (*STORES, "x.bank.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((built / file).read_bytes())
    path, content = tmp_path / name, bytearray((built / name).read_bytes())
    if message == "is missing":
        path.unlink()
    elif message == "truncated":
        path.write_bytes(content[:-4])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found = CliRunner().invoke(cli, ["bank", "verify", str(tmp_path / "x")], standalone_mode=False)
    assert found.return_value == 3 and message in found.stderr


def test_mixed_files_of_another_builder_are_found(built, tmp_path):
    for file in STORES:  # without the note, as the official builder leaves a bank
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((built / file).read_bytes())
    spec = f"{tmp_path}/x?main=mini"
    assert verify_bank(spec) == []
    store = torch.load(tmp_path / STORES[0], weights_only=True)
    torch.save(2 * store, tmp_path / STORES[0])
    keys = torch.load(tmp_path / STORES[1], weights_only=True)
    torch.save(keys.flip(0), tmp_path / STORES[1])
    problems = verify_bank(spec)
    assert any("do not have length 1" in text for text in problems)
    assert any("are not the keys of their rows" in text for text in problems)


def test_two_images_of_one_name_are_refused(images, plan, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "a.png").write_bytes((images / "a.png").read_bytes())
    with pytest.raises(InputError, match="two images are called a"):
        build_bank(sources(tmp_path / "images", tmp_path), plan)


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({"regions": "eomt"}, (-1,)),
        ({"regions": "eomt", "left_out": "zero"}, (0,)),  # the slip of the official builder
        ({"regions": "mask2former"}, (0, -1)),
        ({"regions": "precomputed"}, (0,)),
    ],
)
def test_the_pixels_without_a_segment_get_no_row(settings, ids):
    assert resolve_bank_plan("mini", settings).left_out == ids


def test_official_names_of_encoders():
    plan = resolve_bank_plan("coco-stuff", {"regions": "precomputed"}, {"auxiliary": "ViT-B-16-quickgelu/dfn2b"})
    assert encoder_name(plan.cell.backbones["clip"]) == "metaclip_b" and encoder_name(plan.vfm) == "radiov3"
    assert encoder_name(plan.auxiliary) == "dfnclip_b"
    protocol = plan.cell.protocol
    assert (protocol.short_side, protocol.crop, protocol.stride, protocol.pad) == (448, 336, 112, 56)
    assert not plan.cell.params.mask_merging


@pytest.mark.slow
def test_faiss_reads_and_writes_the_same_vectors(tmp_path):
    faiss = pytest.importorskip("faiss")
    keys = torch.randn(700, 64, generator=torch.Generator().manual_seed(0)).half()
    unit = F.normalize(keys.float(), dim=1)
    for kind in ("flat", "ivfpq"):
        path = tmp_path / f"{kind}.faiss"
        write_index(path, keys, kind)
        index, vectors = faiss.read_index(str(path)), read_index(path)
        order = vectors.ids.argsort()
        found = vectors.rows(0, 700)[order]
        if kind == "ivfpq":
            faiss.extract_index_ivf(index).nprobe = 256
        distance, row = map(torch.from_numpy, index.search(unit[:9].numpy(), 30))
        products = (unit[:9, None] * found[row]).sum(-1)
        expected = products if vectors.inner_product else (unit[:9, None] - found[row]).square().sum(-1)
        torch.testing.assert_close(distance, expected, atol=1e-5, rtol=0)
        if kind == "flat":
            torch.testing.assert_close(found, unit, atol=1e-6, rtol=0)
    write_index(path, torch.cat([keys, keys[:9]]), "ivfpq", known=700)  # nothing is trained again
    assert faiss.read_index(str(path)).ntotal == 709
    torch.testing.assert_close(read_index(path).centres, vectors.centres)
    with pytest.raises(InputError, match="256 regions"):
        write_index(tmp_path / "few.faiss", keys[:91], "ivfpq")


@pytest.mark.slow
def test_a_search_by_faiss_is_that_of_its_vectors_and_its_recall_is_measured(tmp_path):
    pytest.importorskip("faiss")
    from ovbench.methods.support.faiss_search import measure_recall

    keys = torch.randn(700, 64, generator=torch.Generator().manual_seed(0)).half()
    for folder in ("clip_embeddings", "vfm_embeddings"):
        (tmp_path / folder).mkdir()
    torch.save(keys, tmp_path / "vfm_embeddings" / "x_radiov3.pt")
    torch.save(keys[:, :5].contiguous(), tmp_path / "clip_embeddings" / "x_metaclip_b.pt")
    write_index(tmp_path / "vfm_embeddings" / "x_radiov3.faiss", keys, "ivfpq")
    exact = load_backbone("support", f"{tmp_path}/x")
    approximate = load_backbone("support", f"{tmp_path}/x?search=faiss")
    assert exact.sha256 != approximate.sha256 and approximate.vision.approximate.probes == 211  # int(8 sqrt(700))
    queries = F.normalize(keys[:40].float() + 0.3, dim=1)
    one, other = exact.vision.nearest(queries, 10), approximate.vision.nearest(queries, 10)
    torch.testing.assert_close(one.distance, other.distance, atol=1e-5, rtol=0)
    assert (one.row == other.row).float().mean() > 0.99
    recall = measure_recall(exact.vision, 20)
    assert 0.2 < recall < 1 and measure_recall(load_backbone("support", f"{tmp_path}/x?search=keys").vision, 20) == 1.0


@pytest.mark.slow
def test_the_bank_of_mini_is_built_once(monkeypatch):
    from ovbench.training.region_bank import mini_bank

    monkeypatch.setattr(mini_bank, "IMAGES", 1)
    spec = "mini?search=keys"
    loaded = load_backbone("support", spec)
    assert loaded.vision.vfm == "mini" and len(loaded.vision.main) > 10
    monkeypatch.setattr(mini_bank, "build_bank", None)
    assert load_backbone("support", spec).sha256 == loaded.sha256
    assert mini_bank.mini_bank() == find_bank("mini").base
