"""Valid inputs of the parsers that `scripts/fuzz.py` feeds: each function writes one into a folder."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.dataset import Dataset
from ovbench.data.find import Item
from ovbench.data.labels import label_map
from ovbench.training.talk2dino.loop import Checkpoint, TrainingState, new_training
from ovbench.training.talk2dino.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return write


def annotations(folder: Path) -> Path:
    images = [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}]
    shapes = ([[1, 1, 4, 1, 4, 3]], {"size": [4, 6], "counts": [3, 5, 16]}, {"size": [4, 6], "counts": "35`0"})
    notes = [{"id": n, "image_id": 1, "category_id": n % 2, "segmentation": one} for n, one in enumerate(shapes)]
    categories = [{"id": 0, "name": "wall"}, {"id": 1, "name": "sky"}]
    content = {"images": images, "annotations": notes, "categories": categories}
    return text("notes.json", json.dumps(content))(folder)


def archive(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "x").mkdir()
        text("a.txt", "abc" * 40)(folder / "x")
        text("b.txt", "def" * 40)(folder / "x")
        return Path(shutil.make_archive(str(folder / "all"), suffix, folder / "x"))

    return write


def table(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [b"abc", b"def", b"ghi"]}), folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def copied(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(ROOT / name, folder))


def card(folder: Path) -> Path:
    text("classes.txt", "wall\nsky\ntree\n")(folder)
    return text(
        "own.toml",
        'title = "T"\nclasses = "classes.txt"\nbackground = 1\nimage_count = 3\nroots = ["."]\nwhite = 4095\n'
        '[[layout]]\nimage = "i/{id}.png"\nlabel = "l/{id}.png"\nids = "images"\n'
        '[encoding.a]\nvalues = [0, 1, 255]\nvoid = [9]\n[encoding.b]\nshift = 1\nelse = "ignore"\n',
    )(folder)


def case(folder: Path) -> Path:
    source = next(path for path in sorted((ROOT / "tests/data/parity").rglob("case.json")))
    for path in source.parent.iterdir():
        shutil.copy(path, folder)
    return folder / "case.json"


def case_arrays(folder: Path) -> Path:
    return case(folder).with_name("inputs.npz")


def checkpoint(folder: Path) -> Path:
    import torch

    torch.save({"state_dict": {"module.a": torch.zeros(2, 3)}, "epoch": 3}, folder / "w.pt")
    return folder / "w.pt"


def safetensors(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2, 3), "b": torch.ones(1)}, folder / "w.safetensors", {"psi": "{}"})
    return folder / "w.safetensors"


def vectors(folder: Path) -> Path:
    import torch

    from ovbench.backbones.checkpoint import pack_tensor

    (folder / "v.safetensors").write_bytes(pack_tensor(torch.zeros(3, 4)))
    return folder / "v.safetensors"


def region_map(folder: Path) -> Path:
    from ovbench.regions.map_store import pack

    (folder / "a.npz").write_bytes(pack(np.arange(12, dtype=np.int32).reshape(3, 4)))
    return folder / "a.npz"


def picture(mode: str, suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 6, (9, 11, 3) if mode == "RGB" else (9, 11), np.uint8)
        image = Image.fromarray(pixels)
        if mode == "P":
            image.putpalette(range(200))
        image.save(folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    return write


def mat(folder: Path) -> Path:
    from scipy.io import savemat

    savemat(folder / "a.mat", {"LabelMap": np.array([[1, 2], [3, 459]], np.uint16)}, do_compression=False)
    return folder / "a.mat"


def manifest(folder: Path) -> Path:
    from ovbench.data.subset import SubsetImage, SubsetManifest, write_manifest

    images = tuple(SubsetImage(name, "0" * 64, "1" * 64) for name in ("a", "b"))
    write_manifest(SubsetManifest("mini", 0, images), folder / "subset.json")
    return folder / "subset.json"


def ledger(folder: Path) -> Path:
    (source,) = (ROOT / "tests/historic").glob("maskclip-*/part-0.jsonl")
    return Path(shutil.copy(source, folder))


def bundle(folder: Path) -> Path:
    from ovbench.results.bundle import write_bundle

    return write_bundle(ROOT / "tests/historic/maskclip-mini-3e6fe48a-first2.json", folder)


def coco_output(folder: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}],
        "categories": [{"id": 1, "name": "wall"}, {"id": 2, "name": "sky"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": {"size": [4, 6], "counts": "35`0"}}],
    }
    return text("coco.json", json.dumps(content))(folder)


def label_classes(folder: Path) -> Path:
    from ovbench.inference.label_files import write_label_png

    write_label_png(folder / "a.png", np.zeros((3, 4), np.int64), ("wall", "sky"), {})
    return folder / "a.png"


def prediction_array(folder: Path) -> Path:
    np.savez(folder / "a.npz", labels=np.zeros((3, 4), np.uint8))
    return folder / "a.npz"


def sweep(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from ovbench.cluster.sweep import Sweep, board_of, job_as_data, write_sweep
        from ovbench.cluster.task_board import Lease
        from ovbench.evaluation.request import Job

        cell = {
            "method": "clip", "dataset": "mini", "label": "", "settings_sha256": "0", "images": 4, "ids_sha256": "0",
            "seconds_per_image": 1.0, "measured": False,
        }  # fmt: skip
        tasks = [{"kind": "count", "group": 0, "start": n, "stop": n + 2} for n in (0, 2)]
        job = job_as_data(Job(methods=("clip",), datasets=("mini",), out=folder))
        plan = {
            "version": 1, "name": "x", "directory": "/", "job": job, "cells": [cell], "groups": [[0]], "tasks": tasks
        }  # fmt: skip
        sweep = Sweep.model_validate(plan)
        write_sweep(folder, sweep)
        board = board_of(folder, sweep)
        for task in (0, 1):
            (board.tasks / Lease(task, 1).name).write_bytes(b"w")
        pixels = [[[1, 2, 3], [3, 2, 1], [4, 2, 3], [5, 3, 3]]]
        facts = {"worker": "w", "images": 2, "counted": 2, "failed": {"a": "b"}, "pixels": pixels, "seconds": 1.5}
        board.end(Lease(0, 1), "done", facts)
        board.beat("w", {"beat": 1, "machine": "0", "pid": 1, "time": 1.0, "ended": False})
        return (folder / "sweep" / "x" / name).resolve()

    return write


def bank_index(folder: Path) -> Path:
    import torch

    from ovbench.training.region_bank.index_writer import write_index

    write_index(folder / "x.faiss", torch.eye(3, 4).half(), "flat")
    return folder / "x.faiss"


def psi(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from ovbench.methods.talk2dino.projection import Psi

    psi = Psi(2, 3, 1)
    save_file({key: torch.zeros_like(value) for key, value in psi.state_dict().items()}, folder / "p.safetensors",
              psi.metadata())  # fmt: skip
    return folder / "p.safetensors"


def region_file(folder: Path) -> Path:
    np.savez(folder / "a.npz", instance_mask=np.arange(12, dtype=np.int32).reshape(3, 4))
    return folder / "a.npz"


def torchscript(folder: Path) -> Path:
    (folder / "w.pt").write_bytes(torchscript_bytes())
    return folder / "w.pt"


@functools.cache
def torchscript_bytes() -> bytes:
    import io

    import torch

    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), file)
    return file.getvalue()


def captions(folder: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a sky"}, {"image_id": 2, "caption": "a wall"}],
    }
    return text("c.json", json.dumps(content))(folder)


def bank_note(folder: Path) -> Path:
    encoder = {"name": "mini", "sha256": "0" * 64}
    content = {
        "format": 1, "names": {"main": "mini", "auxiliary": "", "vfm": "mini"},
        "identity": {
            "encoders": {"clip": encoder, "vfm": encoder}, "regions": {"source": "slic"}, "windows": {"crop": 0},
            "left_out": [0],
        },
        "images": 2, "rows": 5, "without_regions": ["c"], "failed": {"d": "cut off"},
        "index": {"type": "flat", "neighbours": 20, "recall": 1.0},
        "files": {"x.tsv": {"bytes": 3, "sha256": "0" * 64}},
    }  # fmt: skip
    return text("x.bank.json", json.dumps(content))(folder)


def reference_set(folder: Path) -> Path:
    encoder = {"name": "mini", "sha256": "0" * 64}
    content = {
        "format": 1, "kind": "reme", "stages": {"captions": {"key": "0"}}, "parts": ["00000-2bcb2e9e3d"],
        "encoders": {"clip": encoder, "dinov2": encoder}, "pairing": encoder, "used_with": {"short_side": 224},
        "counts": {"images": 2, "base_roots": 1, "final_segments": 3, "final_labels": 4}, "warnings": [],
        "failed": {}, "settings": {"build": {"zeta": "area"}, "cell": {
            "dataset": "mini", "backbones": {"clip": "mini"}, "protocol": {}, "regions": {"source": "slic"},
        }},
        "files": {"o_ref.safetensors": {"bytes": 3, "sha256": "0" * 64}},
    }  # fmt: skip
    return text("manifest.json", json.dumps(content))(folder)


def config(folder: Path) -> Path:
    (folder / "ovbench").mkdir()
    text("own.toml", 'name = "own"\n')(folder)
    content = f'data_root = ["/data", "/more"]\ncards = ["{folder}/own.toml"]\n'
    return text("config.toml", content)(folder / "ovbench")


def pascal_detail(folder: Path) -> Path:
    (folder / "JPEGImages").mkdir()
    shutil.copy(picture("RGB", "jpg")(folder), folder / "JPEGImages")
    image = {"image_id": 1, "file_name": "a.jpg", "height": 9, "width": 11, "phase": "val"}
    mask = {"size": [9, 11], "counts": [3, 5, 91]}
    notes = [{"image_id": 1, "category_id": 2, "segmentation": mask}]
    return text("trainval_merged.json", json.dumps({"images": [image], "annos_segmentation": notes}))(folder)


def paxray(folder: Path) -> Path:
    picture("RGB", "png")(folder)
    np.save(folder / "a.npy", np.zeros((166, 9, 11), bool))
    return text("paxray.json", json.dumps({"test": [{"image": "a.png", "target": "a.npy"}]}))(folder)


def two_images() -> Dataset:
    """Return a dataset of two images that are not read."""
    items = tuple(Item(name, Path(f"{name}.jpg"), Path(f"{name}.png")) for name in "ab")
    card = load_card("voc21")
    return Dataset(card, items, Path("."), "", label_map(card.encodings[0], len(card.classes)))


def prediction_note(folder: Path) -> Path:
    picture("L", "png")(folder)
    content = {"dataset": "voc21", "classes": [*two_images().card.classes], "encoding": "index", "method": "clip"}
    return text("predictions.json", json.dumps(content))(folder)


def shard(folder: Path) -> Path:
    shard_ledger(folder)
    return next((folder / "cell").glob("shard-*.json"))


def shard_ledger(folder: Path) -> Path:
    from ovbench.evaluation.distributed import Shard
    from ovbench.evaluation.ledger_lines import decode_line, encode_line
    from ovbench.evaluation.merge import leave_for_merge

    (folder / "cell").mkdir()
    path = ledger(folder / "cell")
    first, *lines = path.read_bytes().splitlines(keepends=True)
    header = decode_line(first) | {"code": {"packages": {}, "device": "cpu"}}
    path.write_bytes(encode_line(header) + b"".join(lines))
    images = [value["image"] for value in map(decode_line, lines) if value and "image" in value]
    facts = {
        "limit": None, "data_sha256": "0", "versions": {}, "device": {"type": "cpu"},
        "arguments": {"method": "maskclip", "dataset": "mini"},
    }  # fmt: skip
    leave_for_merge(folder / "cell", Shard(1, 1), images, facts)
    return path


def sweep_facts(folder: Path) -> Path:
    content = {"cells": {"0": {"format": 1}}, "device": {"type": "cpu"}, "method": {"approximate": None}}
    return text("group-0", json.dumps(content))(folder)


def bank_store(folder: Path) -> Path:
    import torch

    torch.save(torch.zeros(3, 4).half(), folder / "x_clip.pt")
    return folder / "x_clip.pt"


def bank_rows(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    images = [{"stem": "a", "rows": 2}, {"stem": "b", "failed": "cut off"}]
    rows = {"keys": torch.zeros(2, 3).half(), "main": torch.zeros(2, 4).half()}
    save_file(rows, folder / "r.safetensors", {"images": json.dumps(images)})
    return folder / "r.safetensors"


def reference_features(folder: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({"visual": np.zeros((2, 3), np.float16)}, folder / "f.safetensors")
    return folder / "f.safetensors"


def reference_tensors(folder: Path) -> Path:
    from ovbench.methods.reme.reference_bank import Encoder
    from ovbench.methods.reme.reference_store import SetWriter

    encoder, writer = Encoder("mini", "0" * 64), SetWriter(folder)
    writer.shards("segments", iter([np.zeros((3, 4), np.float16)]), encoder)
    writer.shards("labels", iter([np.zeros((4, 5), np.float16)]), encoder)
    writer.matrix(np.array([[0, 1], [1, 3], [2, 0]]), 3)
    content = json.loads(reference_set(folder).read_text())
    content["files"] = {name: {"bytes": (folder / name).stat().st_size, "sha256": ""} for name in writer.files}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder / "o_ref.safetensors"


def training_checkpoint(folder: Path) -> Path:
    checkpoint, state = _training(folder / "checkpoint.pt")
    checkpoint.save(state)
    return checkpoint.path


def resume_training(path: Path) -> object:
    """Continue a training from its checkpoint."""
    checkpoint, state = _training(path)
    return checkpoint.load(state, "cpu"), state.step


def _training(path: Path) -> tuple[Checkpoint, TrainingState]:
    recipe, _ = load_recipe("mini")
    return Checkpoint(path, {"recipe": "mini"}), new_training(recipe, 3, 4, 5, "cpu")


def training_features(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    rows = {"features": torch.zeros(2, 3, 4), "sha256": torch.zeros(2, 32, dtype=torch.uint8)}
    save_file(rows, folder / "f.safetensors")
    return folder / "f.safetensors"
