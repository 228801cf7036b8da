"""`ovbench weights`: what cells need, from where, and what is on this machine; nothing is downloaded here."""

import hashlib

import pytest
from huggingface_hub import constants

from ovbench.config.published_weights import TABLES, published
from ovbench.evaluation import needed_files
from ovbench.evaluation.needed_files import NeededFile, fetch
from ovbench.results.explain import explain
from ovbench.results.record_files import official_cell

CORRCLIP = ("--method", "corrclip", "--dataset", "voc21")
METACLIP, DINO = "timm/vit_base_patch16_clip_224.metaclip_2pt5b", "timm/vit_base_patch8_224.dino"


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty cache of the hub, no connection."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub, repository, name, content):
    """Put a file into the hub's cache as its library does: a blob with the hash as its name, a link, a revision."""
    folder, digest = hub / f"models--{repository.replace('/', '--')}", hashlib.sha256(content).hexdigest()
    for part in ("blobs", "refs", "snapshots/abc"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / digest).write_bytes(content)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / name).symlink_to(folder / "blobs" / digest)
    return digest


def test_the_files_of_a_cell_with_their_source_and_licence(ovbench, hub):
    digest = put(hub, DINO, "model.safetensors", b"dino")
    done = ovbench("weights", "list", *CORRCLIP, "--json")
    assert done.code == 0, done.err
    clip, dino, config, network = done.json()
    assert clip["need"] == "clip=ViT-B-16-quickgelu/metaclip_fullcc" and clip["licence"] == "CC-BY-NC-4.0"
    assert clip["url"] == f"{constants.ENDPOINT}/{METACLIP}/resolve/main/open_clip_model.safetensors"
    assert (clip["path"], clip["size"], clip["sha256"]) == (None, None, None)
    assert dino["path"].endswith("model.safetensors") and (dino["size"], dino["sha256"]) == (4, digest)
    assert [one["file"] for one in (config, network)] == ["config.json", "model.safetensors"]
    text = ovbench("weights", "list", *CORRCLIP).out
    assert "4 files, 3 of them missing" in text and "size    unknown" in text and digest in text


def test_what_is_not_one_file_says_how_to_get_it(ovbench):
    rows = ovbench("weights", "list", "-m", "talk2dino", "-m", "reme", "-d", "voc21", "--json").json()
    psi = next(row for row in rows if row["need"].startswith("psi="))
    assert psi["url"].startswith("https://github.com/") and "hash is not published" in psi["advice"]
    assert any(row["need"] == "reference" and "ovbench reference build" in row["advice"] for row in rows)
    assert "no files" in ovbench("weights", "list", "-m", "corrclip", "-d", "mini").out
    assert ovbench("weights", "list", "-m", "corrclipp", "-d", "voc21").code == 2


def test_without_a_selection_all_short_names_are_listed(ovbench):
    rows = ovbench("weights", "list", "--json").json()
    assert {row["need"] for row in rows} == {f"{table}={name}" for table in TABLES for name in published(table)}
    sam = next(row for row in rows if row["need"] == "sam=vit_h")
    assert sam["sha256"] == published("sam")["vit_h"]["sha256"]
    assert ovbench("weights", "fetch").code == 2


def test_fetch_without_a_connection_names_every_missing_file(ovbench, hub):
    put(hub, DINO, "model.safetensors", b"dino")
    done = ovbench("weights", "fetch", *CORRCLIP)
    assert done.code == 3 and "3 of 4 files are missing" in done.err and "HF_HOME" in done.err
    assert f"open_clip_model.safetensors of {METACLIP} (downloads are switched off)" in done.err
    assert done.out.startswith("dino=vit_base_patch8_224.dino: ")


def test_fetch_takes_the_alternative_names_of_a_repository(ovbench, hub, monkeypatch):
    asked = []

    def downloaded(repository, *names):
        asked.append((repository, names))
        put(hub, repository, names[-1], b"x")
        return hub / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc" / names[-1]

    monkeypatch.setattr(needed_files, "fetch_file", downloaded)
    done = ovbench("weights", "fetch", "-m", "clip", "-d", "voc20", "--weights", "clip=metaclip-b")
    assert done.code == 0, done.err
    assert asked == [(METACLIP, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))]
    again = ovbench("weights", "fetch", "-m", "clip", "-d", "voc20", "--weights", "clip=metaclip-b")
    assert again.code == 0 and len(asked) == 1 and "open_clip_pytorch_model.bin" in again.out


def test_a_file_that_is_here_is_not_asked_for(tmp_path):
    row = NeededFile("clip=a", "a", "https://example.invalid/a", path=str(tmp_path))
    assert fetch(row) is row


@pytest.mark.slow
def test_a_file_with_a_known_hash_is_named_in_the_record(ovbench, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from ovbench.backbones.mini_models import load_clip

    file = tmp_path / "any.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in load_clip().state_dict().items()}, file)
    small = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56", "--limit", 1, "--out", tmp_path)
    line = ("eval", "-m", "clip", "-d", "mini", "--json", "--weights", f"clip=mini@{file}", *small)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = {"hashes": {"clip": {digest[:8]: "mini"}}}
    monkeypatch.setattr("ovbench.backbones.base.published", lambda table: known.get(table, published(table)))
    done = ovbench(*line)
    record = done.json()
    assert record["weights"]["clip"]["official"] == "mini" and record["cell"]["backbones"]["clip"] != "mini"
    assert official_cell(record)["backbones"]["clip"] == "mini"
    known["hashes"]["clip"] = {}
    record = ovbench(*line, "--fresh").json()
    assert "official" not in record["weights"]["clip"]


def test_a_file_with_a_known_hash_deviates_in_nothing(tmp_path, monkeypatch):
    (tmp_path / "any.pt").write_bytes(b"weights")
    known = {hashlib.sha256(b"weights").hexdigest(): "ViT-B-16-quickgelu/openai"}
    asked = ("clip", "voc20", {}, {"clip": f"ViT-B-16@{tmp_path / 'any.pt'}"})
    told = [explain(*asked)["deviations"]]
    monkeypatch.setattr(
        "ovbench.backbones.base.published", lambda table: {"clip": known} if table == "hashes" else published(table)
    )
    told.append(explain(*asked)["deviations"])
    assert "clip=ViT-B-16@" in told[0] and told[1] == ""
