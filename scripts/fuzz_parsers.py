"""The parsers that `scripts/fuzz.py` feeds, each with a valid input."""

from __future__ import annotations

import functools
import os
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_examples as examples
import numpy as np
import torch
from fuzz_examples import text


class Parser(NamedTuple):
    """A parser with a valid input.

    Attributes:
        example: Writes a valid input into a folder and returns the file to damage.
        read: Reads that file.
        refusals: Errors that mean "refused", beside OvbenchError.
        encode: Returns the bytes of a JSON value, for formats with a checksum; None for plain files.
    """

    example: Callable[[Path], Path]
    read: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...] = ()
    encode: Callable[[Any], bytes] | None = None


def parsers() -> dict[str, Parser]:
    """Return all parsers by name; their modules are imported here."""
    return dict(sorted({**_data_parsers(), **_run_parsers(), **_weight_parsers(), **_training_parsers()}.items()))


def _data_parsers() -> dict[str, Parser]:
    from ovbench.config.suites import load_suite
    from ovbench.data.card import load_card
    from ovbench.data.card_layout import Encoding
    from ovbench.data.classes import read_classes_file, read_queries
    from ovbench.data.coco_labels import draw_label
    from ovbench.data.coloured_labels import read_encoded_label
    from ovbench.data.decode import read_image_file, read_label_file
    from ovbench.data.find import read_split
    from ovbench.data.labels import read_table
    from ovbench.data.prepare.convert import raw_values
    from ovbench.data.prepare.mess import steps as mess_steps
    from ovbench.data.prepare.pascal_context import convert_459, steps_60
    from ovbench.data.prepare.work import run_steps
    from ovbench.data.propose_labels import read_names
    from ovbench.data.rle import decode_rle
    from ovbench.data.sources import open_coco, open_container, read_source, walk
    from ovbench.data.subset import read_manifest
    from ovbench.data.user_config import configured_roots, user_cards
    from ovbench.metrics.similarity import read_similarity
    from ovbench.results.layouts import load_layout
    from ovbench.utils.files import parse_json

    def card(path: Path) -> Any:
        load_card.cache_clear()
        return load_card(str(path))

    def annotations(path: Path) -> Any:
        encoding = Encoding("coco", void=(255,), categories=("wall", "sky"), ignores_others=True)
        for name in open_coco(path).names:
            draw_label(read_source(path / name).data, encoding, path / name)

    def members(path: Path) -> Any:
        for name in walk(path):
            read_source(path / name)

    def rows(path: Path) -> Any:
        table = open_container(path)
        for row in range(min(table.rows, 3)):
            read_source(path / "image" / str(row))

    def prepared(name: str, steps: Callable[..., Any]) -> Callable[[Path], Any]:
        return lambda path: run_steps(steps(load_card(name), (path.parent,), path.parent / "out"))

    def config(path: Path) -> Any:
        with unittest.mock.patch.dict(os.environ, {"XDG_CONFIG_HOME": str(path.parents[1])}):
            return configured_roots(), user_cards()

    coloured = Encoding("rgb", void=(2,), colours=((0, 0, 1), (2, 3, 4)), ignores_others=True)
    similar = functools.partial(read_similarity, classes=("wall", "sky"))
    return {
        "annotations": Parser(examples.annotations, annotations, (OSError,)),
        "archive-tar": Parser(examples.archive("tar"), members, (OSError,)),
        "archive-zip": Parser(examples.archive("zip"), members, (OSError,)),
        "card": Parser(examples.card, card),
        "class-colours": Parser(text("colours.csv", "name,r,g,b\nwall,1,2,3\nsky,4,5,6\n"), read_names),
        "class-list": Parser(text("classes.txt", "0 wall\n1 sky; air\n2 tree\n"), read_classes_file),
        "class-list-json": Parser(text("classes.json", '{"0": "wall", "1": "sky", "2": "tree"}'), read_classes_file),
        "config": Parser(examples.config, config),
        "image": Parser(examples.picture("RGB", "jpg"), read_image_file),
        "image-png": Parser(examples.picture("RGB", "png"), read_image_file),
        "image-tiff": Parser(examples.picture("RGB", "tif"), read_image_file),
        "label": Parser(examples.picture("P", "png"), read_label_file),
        "label-colours": Parser(examples.picture("RGB", "png"), lambda path: read_encoded_label(path, coloured)),
        "label-published": Parser(examples.picture("P", "png"), raw_values),
        "label-table": Parser(text("t.txt", "# raw\n0 1\n7 -\n255 -\n"), functools.partial(read_table, classes=2)),
        "label-tiff": Parser(examples.picture("L", "tif"), read_label_file),
        "layout": Parser(examples.copied("configs/tables/cass-table1.toml"), lambda path: load_layout(str(path))),
        "manifest": Parser(examples.manifest, read_manifest),
        "mat": Parser(examples.mat, lambda path: convert_459(path, path.with_name("out.tif"))),
        "pascal-detail": Parser(examples.pascal_detail, prepared("pc60", steps_60)),
        "paxray": Parser(examples.paxray, prepared("mess-paxray-lungs", mess_steps)),
        "queries": Parser(text("q.txt", "# own\na wall\nthe sky\n"), read_queries),
        "rle": Parser(
            text("rle.json", '{"size": [3, 4], "counts": [1, 2, 9]}'),
            lambda path: decode_rle(parse_json(path.read_text()), where="rle"), (ValueError,),
        ),
        "similarity": Parser(text("a.csv", ",wall,sky\nwall,1,0.5\nsky,0.5,1\n"), lambda path: similar(str(path))),
        "similarity-toml": Parser(
            text("a.toml", 'title = "t"\nsource = "s"\n[accepts]\nwall = ["sky"]\n'), lambda path: similar(str(path))
        ),
        "split": Parser(text("val.txt", "a\nfolder/b\n"), read_split),
        "suite": Parser(examples.copied("configs/suites/talk2dino-cleaning.toml"), lambda path: load_suite(str(path))),
        "table": Parser(examples.table, rows, (OSError,)),
    }  # fmt: skip


def _run_parsers() -> dict[str, Parser]:
    from ovbench.cluster.loaded_group import read_facts
    from ovbench.cluster.progress import SweepView
    from ovbench.evaluation import ledger
    from ovbench.evaluation.ledger_lines import encode_line
    from ovbench.evaluation.merge import merge
    from ovbench.evaluation.prediction_files import PredictionFiles, find_predictions
    from ovbench.evaluation.record import read_record
    from ovbench.inference.image_outputs import CocoOutput
    from ovbench.inference.label_files import classes_of
    from ovbench.methods.plugins import imported_names
    from ovbench.parity.case import read_case
    from ovbench.results.gate import read_baseline
    from ovbench.results.record_counts import read_counts

    def counts(path: Path) -> Any:
        header = ledger.read_header(path.parent)
        return header and ledger.read_ledger(path.parent, {k: v for k, v in header.items() if k != "format"})

    def predicted(path: Path) -> Any:
        return PredictionFiles(path.parent, {"a": path}, {}, {}).read("a", (3, 4))

    def found(path: Path) -> Any:
        return find_predictions(path.parent, examples.two_images())

    def sweep(path: Path) -> Any:
        view = SweepView(path.parents[len(path.parts) - path.parts.index("sweep") - 1])
        view.progress()
        view.board.release_stale(view.board.states())

    return {
        "baseline": Parser(examples.copied("results/baselines/mini.json"), read_baseline),
        "bundle": Parser(examples.bundle, lambda path: read_counts(path, read_record(path))),
        "case": Parser(examples.case, lambda path: read_case(path.parent)),
        "case-arrays": Parser(examples.case_arrays, lambda path: read_case(path.parent)),
        "coco-output": Parser(examples.coco_output, lambda path: CocoOutput(path, ("wall", "sky"))),
        "label-classes": Parser(examples.label_classes, classes_of),
        "ledger": Parser(examples.ledger, counts, (), encode_line),
        "method-file": Parser(text("m.py", "import ovbench\nfrom torch import nn\n\nA = 1\n"), imported_names),
        "prediction-array": Parser(examples.prediction_array, predicted),
        "prediction-masks": Parser(
            text("a.json", '[{"category_id": 1, "segmentation": {"size": [3, 4], "counts": [1, 2, 9]}}]'), predicted
        ),
        "prediction-list": Parser(
            text(
                "sem_seg_predictions.json",
                '[{"file_name": "a.jpg", "category_id": 0, "segmentation": {"size": [3, 4], "counts": [1, 2, 9]}}]',
            ), found,
        ),
        "prediction-note": Parser(examples.prediction_note, found),
        "record": Parser(examples.copied("tests/historic/maskclip-mini-3e6fe48a-first2.json"), read_record),
        "shard": Parser(examples.shard, lambda path: merge([path.parent], path.parents[1] / "merged")),
        "shard-ledger": Parser(
            examples.shard_ledger, lambda path: merge([path.parent], path.parents[1] / "merged"), (), encode_line
        ),
        "sweep-beat": Parser(examples.sweep("workers/w"), sweep),
        "sweep-facts": Parser(examples.sweep_facts, read_facts),
        "sweep-lease": Parser(examples.sweep("tasks/000001.1"), sweep),
        "sweep-plan": Parser(examples.sweep("../plan.json"), sweep),
        "sweep-task": Parser(examples.sweep("tasks/000000.1.done"), sweep),
    }  # fmt: skip


def _weight_parsers() -> dict[str, Parser]:
    from ovbench.backbones.checkpoint import read_tensors, unpack_tensor
    from ovbench.methods.support.backbone import read_store
    from ovbench.methods.support.index_file import read_index
    from ovbench.methods.talk2dino.projection import load_psi
    from ovbench.regions.map_store import DamagedEntry, unpack
    from ovbench.regions.precomputed import Precomputed

    def region_file(path: Path) -> Any:
        return Precomputed(folder=str(path.parent))(np.zeros((3, 4, 3), np.uint8), path.stem)

    return {
        "bank-index": Parser(examples.bank_index, lambda path: read_index(path).rows(0, 2)),
        "bank-store": Parser(examples.bank_store, read_store),
        "checkpoint": Parser(examples.checkpoint, read_tensors),
        "psi": Parser(examples.psi, load_psi),
        "query-vectors": Parser(examples.vectors, lambda path: unpack_tensor(path.read_bytes()), (ValueError,)),
        "region-file": Parser(examples.region_file, region_file),
        "region-map": Parser(examples.region_map, lambda path: unpack(path.read_bytes()), (DamagedEntry,)),
        "safetensors": Parser(examples.safetensors, read_tensors),
        "torchscript": Parser(examples.torchscript, read_tensors),
    }


def _training_parsers() -> dict[str, Parser]:
    from ovbench.data.descriptions import read_prompts, read_set
    from ovbench.methods.reme import set_folder
    from ovbench.methods.reme.parquet import notes_of, read_table
    from ovbench.methods.reme.reference_store import load_set
    from ovbench.methods.support.bank_files import read_note
    from ovbench.training.caption_files import read_captions
    from ovbench.training.reference_set.chunks import read_lines
    from ovbench.training.reference_set.finish import mapped
    from ovbench.training.reference_set.inspect import counts_table, settings_table
    from ovbench.training.region_bank.builder import read_chunk
    from ovbench.training.region_bank.inspect_bank import bank_table
    from ovbench.training.region_bank.write_bank import parse_images
    from ovbench.training.talk2dino.features import FeatureFile, FeatureTable, missing_files

    def features(path: Path) -> Any:
        files = [FeatureFile(0, 2, path)]
        return missing_files(files) or FeatureTable(files)[torch.tensor([0, 1])]

    def note(path: Path) -> Any:
        found = read_note(path.with_name("x"))
        return bank_table({"rows": 3, "files": {}, "shapes": {}, "built": found})

    def reference_set(path: Path) -> Any:
        found = set_folder.read_manifest(path.parent)
        return set_folder.content_hash(found), counts_table(found), settings_table(found)

    return {
        "bank-images": Parser(text("x.tsv", "a\t0\t3\nb\t3\t2\n"), parse_images),
        "bank-note": Parser(examples.bank_note, note),
        "bank-rows": Parser(examples.bank_rows, read_chunk),
        "captions": Parser(examples.captions, read_captions),
        "captions-lines": Parser(
            text("c.jsonl", '{"image": "a.jpg", "caption": "a sky"}\n{"image": "b.jpg", "captions": ["x", "y"]}\n'),
            read_captions,
        ),
        "captions-table": Parser(text("c.csv", 'image,caption\na.jpg,"a, b"\nb.jpg,c\n'), read_captions),
        "descriptions": Parser(examples.copied("configs/descriptions/mini.json"), read_set),
        "prompts": Parser(text("p.py", "x = {'wall': ['a wall.', 'one'], 'sky': ['blue']}\n"), read_prompts),
        "reference-features": Parser(examples.reference_features, mapped),
        "reference-lines": Parser(text("a.jsonl", '{"image": "a", "captions": ["b"]}\n'), lambda p: [*read_lines(p)]),
        "reference-set": Parser(examples.reference_set, reference_set),
        "reference-tensors": Parser(examples.reference_tensors, lambda path: load_set(path.parent)),
        "reference-table": Parser(examples.table, lambda path: (read_table(path), notes_of(path))),
        "training-checkpoint": Parser(examples.training_checkpoint, examples.resume_training),
        "training-features": Parser(examples.training_features, features),
    }
