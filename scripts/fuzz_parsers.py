"""The parsers that `scripts/fuzz.py` feeds, each with a valid input."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_examples as examples
import numpy as np
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
    from ovbench.data.classes import read_classes_file
    from ovbench.data.coco_labels import draw_label
    from ovbench.data.decode import read_image_file, read_label_file
    from ovbench.data.prepare.pascal_context import convert_459
    from ovbench.data.propose_labels import read_names
    from ovbench.data.rle import decode_rle
    from ovbench.data.sources import open_coco, open_container, read_source, walk
    from ovbench.data.subset import read_manifest
    from ovbench.metrics.similarity import read_similarity
    from ovbench.results.layouts import load_layout

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

    similar = functools.partial(read_similarity, classes=("wall", "sky"))
    return {
        "annotations": Parser(examples.annotations, annotations, (OSError,)),
        "archive-tar": Parser(examples.archive("tar"), members, (OSError,)),
        "archive-zip": Parser(examples.archive("zip"), members, (OSError,)),
        "card": Parser(examples.card, card),
        "class-colours": Parser(text("colours.csv", "name,r,g,b\nwall,1,2,3\nsky,4,5,6\n"), read_names),
        "class-list": Parser(text("classes.txt", "0 wall\n1 sky; air\n2 tree\n"), read_classes_file),
        "class-list-json": Parser(text("classes.json", '{"0": "wall", "1": "sky", "2": "tree"}'), read_classes_file),
        "image": Parser(examples.picture("RGB", "jpg"), read_image_file),
        "label": Parser(examples.picture("P", "png"), read_label_file),
        "label-tiff": Parser(examples.picture("L", "tif"), read_label_file),
        "layout": Parser(examples.copied("configs/tables/cass-table1.toml"), lambda path: load_layout(str(path))),
        "manifest": Parser(examples.manifest, read_manifest),
        "mat": Parser(examples.mat, lambda path: convert_459(path, path.with_name("out.tif"))),
        "rle": Parser(
            text("rle.json", '{"size": [3, 4], "counts": [1, 2, 9]}'),
            lambda path: decode_rle(json.loads(path.read_text()), where="rle"), (ValueError,),
        ),
        "similarity": Parser(text("a.csv", ",wall,sky\nwall,1,0.5\nsky,0.5,1\n"), lambda path: similar(str(path))),
        "similarity-toml": Parser(
            text("a.toml", 'title = "t"\nsource = "s"\n[accepts]\nwall = ["sky"]\n'), lambda path: similar(str(path))
        ),
        "suite": Parser(examples.copied("configs/suites/talk2dino-cleaning.toml"), lambda path: load_suite(str(path))),
        "table": Parser(examples.table, rows, (OSError,)),
    }  # fmt: skip


def _run_parsers() -> dict[str, Parser]:
    from ovbench.cluster.progress import SweepView
    from ovbench.evaluation import ledger
    from ovbench.evaluation.ledger_lines import encode_line
    from ovbench.evaluation.prediction_files import PredictionFiles
    from ovbench.evaluation.record import read_record
    from ovbench.inference.image_outputs import CocoOutput
    from ovbench.inference.label_files import classes_of
    from ovbench.parity.case import read_case
    from ovbench.results.gate import read_baseline
    from ovbench.results.record_counts import read_counts

    def counts(path: Path) -> Any:
        header = ledger.read_header(path.parent)
        return header and ledger.read_ledger(path.parent, {k: v for k, v in header.items() if k != "format"})

    def predicted(path: Path) -> Any:
        return PredictionFiles(path.parent, {"a": path}, {}, {}).read("a", (3, 4))

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
        "prediction-array": Parser(examples.prediction_array, predicted),
        "prediction-masks": Parser(
            text("a.json", '[{"category_id": 1, "segmentation": {"size": [3, 4], "counts": [1, 2, 9]}}]'), predicted
        ),
        "record": Parser(examples.copied("tests/historic/maskclip-mini-3e6fe48a-first2.json"), read_record),
        "sweep-beat": Parser(examples.sweep("workers/w"), sweep),
        "sweep-lease": Parser(examples.sweep("tasks/000001.1"), sweep),
        "sweep-plan": Parser(examples.sweep("../plan.json"), sweep),
        "sweep-task": Parser(examples.sweep("tasks/000000.1.done"), sweep),
    }  # fmt: skip


def _weight_parsers() -> dict[str, Parser]:
    from ovbench.backbones.checkpoint import read_tensors, unpack_tensor
    from ovbench.methods.support.index_file import read_index
    from ovbench.methods.talk2dino.projection import load_psi
    from ovbench.regions.map_store import DamagedEntry, unpack
    from ovbench.regions.precomputed import Precomputed

    def region_file(path: Path) -> Any:
        return Precomputed(folder=str(path.parent))(np.zeros((3, 4, 3), np.uint8), path.stem)

    return {
        "bank-index": Parser(examples.bank_index, lambda path: read_index(path).rows(0, 2)),
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
    from ovbench.methods.support.bank_files import read_note
    from ovbench.training.caption_files import read_captions
    from ovbench.training.reference_set.chunks import read_lines
    from ovbench.training.reference_set.inspect import counts_table, settings_table
    from ovbench.training.region_bank.inspect_bank import bank_table
    from ovbench.training.region_bank.write_bank import parse_images

    def note(path: Path) -> Any:
        found = read_note(path.with_name("x"))
        return bank_table({"rows": 3, "files": {}, "shapes": {}, "built": found})

    def reference_set(path: Path) -> Any:
        found = set_folder.read_manifest(path.parent)
        return set_folder.content_hash(found), counts_table(found), settings_table(found)

    return {
        "bank-images": Parser(text("x.tsv", "a\t0\t3\nb\t3\t2\n"), parse_images),
        "bank-note": Parser(examples.bank_note, note),
        "captions": Parser(examples.captions, read_captions),
        "captions-lines": Parser(
            text("c.jsonl", '{"image": "a.jpg", "caption": "a sky"}\n{"image": "b.jpg", "captions": ["x", "y"]}\n'),
            read_captions,
        ),
        "captions-table": Parser(text("c.csv", 'image,caption\na.jpg,"a, b"\nb.jpg,c\n'), read_captions),
        "descriptions": Parser(examples.copied("configs/descriptions/mini.json"), read_set),
        "prompts": Parser(text("p.py", "x = {'wall': ['a wall.', 'one'], 'sky': ['blue']}\n"), read_prompts),
        "reference-lines": Parser(text("a.jsonl", '{"image": "a", "captions": ["b"]}\n'), lambda p: [*read_lines(p)]),
        "reference-set": Parser(examples.reference_set, reference_set),
        "reference-table": Parser(examples.table, lambda path: (read_table(path), notes_of(path))),
    }
