"""Feed damaged and hostile input to every parser of files, and report what does not end in one sentence.

    python scripts/fuzz.py --seconds 3600                    # all parsers in turn, seeds from 0
    python scripts/fuzz.py --only ledger --seed 17 --count 1    # one case again

Each case is a function of the parser's name and the seed. A parser must return a value or raise an OvbenchError. Cases
run in batches in processes of their own with a limit on memory, so a crash or an allocation is reported with its seed.
The test suite runs a few cases of every parser.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BATCH = 200  # cases of one process
MEMORY = 4 << 30  # bytes of address space that a process may add
ODD = (
    None, True, False, 0, -1, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "\x1b[2J",
    "=1+1", "../../x", "x" * 5000, [], {}, [[]], [None], {"": {}}, "/dev/zero", "💥",
)  # fmt: skip

ODD_BYTES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"-1 #", b"1e99", b'"\x1b[', b"\r\n=[")


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
    from ovbench.backbones.checkpoint import read_tensors, unpack_tensor
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
    from ovbench.evaluation import ledger
    from ovbench.evaluation.ledger_lines import encode_line
    from ovbench.evaluation.record import read_record
    from ovbench.parity.case import read_case
    from ovbench.regions.map_store import DamagedEntry, unpack
    from ovbench.results.gate import read_baseline

    def card(path: Path) -> Any:
        load_card.cache_clear()
        return load_card(str(path))

    def counts(path: Path) -> Any:
        header = ledger.read_header(path.parent)
        return header and ledger.read_ledger(path.parent, {k: v for k, v in header.items() if k != "format"})

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

    return {
        "annotations": Parser(_annotations, annotations, (OSError,)),
        "archive-tar": Parser(_archive("tar"), members, (OSError,)),
        "archive-zip": Parser(_archive("zip"), members, (OSError,)),
        "baseline": Parser(_copied("results/baselines/mini.json"), read_baseline),
        "card": Parser(_card, card),
        "case": Parser(_case, lambda path: read_case(path.parent)),
        "case-arrays": Parser(_case_arrays, lambda path: read_case(path.parent)),
        "checkpoint": Parser(_checkpoint, read_tensors),
        "class-list": Parser(_text("classes.txt", "0 wall\n1 sky; air\n2 tree\n"), read_classes_file),
        "class-list-json": Parser(_text("classes.json", '{"0": "wall", "1": "sky", "2": "tree"}'), read_classes_file),
        "image": Parser(_picture("RGB", "jpg"), read_image_file),
        "label": Parser(_picture("P", "png"), read_label_file),
        "label-tiff": Parser(_picture("L", "tif"), read_label_file),
        "class-colours": Parser(_text("colours.csv", "name,r,g,b\nwall,1,2,3\nsky,4,5,6\n"), read_names),
        "ledger": Parser(_ledger, counts, (), encode_line),
        "manifest": Parser(_manifest, read_manifest),
        "mat": Parser(_mat, lambda path: convert_459(path, path.with_name("out.tif"))),
        "query-vectors": Parser(_vectors, lambda path: unpack_tensor(path.read_bytes()), (ValueError,)),
        "record": Parser(_copied("tests/historic/maskclip-mini-3e6fe48a-first2.json"), read_record),
        "region-map": Parser(_region_map, lambda path: unpack(path.read_bytes()), (DamagedEntry,)),
        "rle": Parser(
            _text("rle.json", '{"size": [3, 4], "counts": [1, 2, 9]}'),
            lambda path: decode_rle(json.loads(path.read_text()), where="rle"), (ValueError,),
        ),
        "safetensors": Parser(_safetensors, read_tensors),
        "table": Parser(_table, rows, (OSError,)),
        "suite": Parser(_copied("configs/suites/talk2dino-cleaning.toml"), lambda path: load_suite(str(path))),
    }  # fmt: skip


def _text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return write


def _annotations(folder: Path) -> Path:
    images = [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}]
    shapes = ([[1, 1, 4, 1, 4, 3]], {"size": [4, 6], "counts": [3, 5, 16]}, {"size": [4, 6], "counts": "35`0"})
    notes = [{"id": n, "image_id": 1, "category_id": n % 2, "segmentation": one} for n, one in enumerate(shapes)]
    categories = [{"id": 0, "name": "wall"}, {"id": 1, "name": "sky"}]
    content = {"images": images, "annotations": notes, "categories": categories}
    return _text("notes.json", json.dumps(content))(folder)


def _archive(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "x").mkdir()
        _text("a.txt", "abc" * 40)(folder / "x")
        _text("b.txt", "def" * 40)(folder / "x")
        return Path(shutil.make_archive(str(folder / "all"), suffix, folder / "x"))

    return write


def _table(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [b"abc", b"def", b"ghi"]}), folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def _copied(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(ROOT / name, folder))


def _card(folder: Path) -> Path:
    _text("classes.txt", "wall\nsky\ntree\n")(folder)
    return _text(
        "own.toml",
        'title = "T"\nclasses = "classes.txt"\nbackground = 1\nimage_count = 3\nroots = ["."]\nwhite = 4095\n'
        '[[layout]]\nimage = "i/{id}.png"\nlabel = "l/{id}.png"\nids = "images"\n'
        '[encoding.a]\nvalues = [0, 1, 255]\nvoid = [9]\n[encoding.b]\nshift = 1\nelse = "ignore"\n',
    )(folder)


def _case(folder: Path) -> Path:
    source = next(path for path in sorted((ROOT / "tests/data/parity").rglob("case.json")))
    for path in source.parent.iterdir():
        shutil.copy(path, folder)
    return folder / "case.json"


def _case_arrays(folder: Path) -> Path:
    return _case(folder).with_name("inputs.npz")


def _checkpoint(folder: Path) -> Path:
    import torch

    torch.save({"state_dict": {"module.a": torch.zeros(2, 3)}, "epoch": 3}, folder / "w.pt")
    return folder / "w.pt"


def _safetensors(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2, 3), "b": torch.ones(1)}, folder / "w.safetensors", {"psi": "{}"})
    return folder / "w.safetensors"


def _vectors(folder: Path) -> Path:
    import torch

    from ovbench.backbones.checkpoint import pack_tensor

    (folder / "v.safetensors").write_bytes(pack_tensor(torch.zeros(3, 4)))
    return folder / "v.safetensors"


def _region_map(folder: Path) -> Path:
    from ovbench.regions.map_store import pack

    (folder / "a.npz").write_bytes(pack(np.arange(12, dtype=np.int32).reshape(3, 4)))
    return folder / "a.npz"


def _picture(mode: str, suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 6, (9, 11, 3) if mode == "RGB" else (9, 11), np.uint8)
        image = Image.fromarray(pixels)
        if mode == "P":
            image.putpalette(range(200))
        image.save(folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    return write


def _mat(folder: Path) -> Path:
    from scipy.io import savemat

    savemat(folder / "a.mat", {"LabelMap": np.array([[1, 2], [3, 459]], np.uint16)}, do_compression=False)
    return folder / "a.mat"


def _manifest(folder: Path) -> Path:
    from ovbench.data.subset import SubsetImage, SubsetManifest, write_manifest

    images = tuple(SubsetImage(name, "0" * 64, "1" * 64) for name in ("a", "b"))
    write_manifest(SubsetManifest("mini", 0, images), folder / "subset.json")
    return folder / "subset.json"


def _ledger(folder: Path) -> Path:
    (source,) = (ROOT / "tests/historic").glob("maskclip-*/part-0.jsonl")
    return Path(shutil.copy(source, folder))


def damaged(content: bytes, source: random.Random, encode: Callable[[Any], bytes] | None = None) -> bytes:
    """Return one damaged form of a valid input: bytes, numbers, or nodes of its JSON are changed.

    Args:
        content: The valid input.
        source: Where all choices come from.
        encode: See `Parser`.
    """
    lines = content.split(b"\n") if encode else [content]
    number = source.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        value = None
    if isinstance(value, (dict, list)) and source.random() < 0.7:
        for _ in range(source.choice((1, 1, 1, 2, 4))):
            _change_node(value, source)
        lines[number] = encode(value).rstrip(b"\n") if encode else json.dumps(value).encode()
        return b"\n".join(lines)
    return _damaged_bytes(content, source)


def _change_node(value: Any, source: random.Random) -> None:
    """Replace or remove a random node below a JSON value."""
    while isinstance(value, (dict, list)) and value:
        key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        child = value[key]
        if isinstance(child, (dict, list)) and child and source.random() < 0.75:
            value = child
            continue
        if source.random() < 0.2:
            del value[key]
        else:
            deep: Any = copy.deepcopy(source.choice(ODD))
            for _ in range(source.choice((0, 0, 0, 0, 400))):
                deep = [deep]
            value[key] = deep
        return


def _damaged_bytes(content: bytes, source: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 8))):
        at, kind = source.randrange(len(data) + 1), source.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + source.choice((1, 4, 64))]
        elif kind == 3:
            data[at:at] = bytes(source.randrange(256) for _ in range(source.choice((1, 4, 64))))
        elif kind == 4:
            data[at:at] = data[source.randrange(len(data) + 1) :][: source.choice((4, 64, 4096))]
        else:
            data[at : at + 4] = source.choice(ODD_BYTES)
    return bytes(data)


def run_case(name: str, parser: Parser, seed: int, folder: Path) -> str:
    """Return why a case fails, "" if its input is read or refused.

    Args:
        name: The parser's name.
        parser: The parser.
        seed: Number of the case.
        folder: An empty folder.
    """
    from ovbench.utils.errors import OvbenchError

    file = parser.example(folder)
    source = random.Random(f"{name} {seed}")
    file.write_bytes(damaged(file.read_bytes(), source, parser.encode))
    try:
        parser.read(file)
    except OvbenchError as error:
        text = str(error)
        return "" if text.isprintable() and len(text) < 20_000 else f"the message cannot be printed: {text[:200]!r}"
    except parser.refusals:
        return ""
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return ""


def _batch(name: str, seeds: range, told: Any) -> None:
    """Run cases in this process; the number of each is told before it starts."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("ignore")
    parser = parsers()[name]
    for seed in seeds:
        told.send((seed, None))
        with tempfile.TemporaryDirectory() as folder:
            told.send((seed, run_case(name, parser, seed, Path(folder))))


def _failures(name: str, seeds: range) -> list[str]:
    """Run a batch in a process and return its failures."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_batch, args=(name, seeds, sender))
    process.start()
    sender.close()
    failed, started = [], seeds.start
    try:
        while True:
            seed, why = receiver.recv()
            started = seed
            if why:
                failed.append(f"{name}, seed {seed}: {why}")
    except EOFError:
        process.join()
    if process.exitcode:
        failed.append(f"{name}, seed {started}: the process ended with {process.exitcode}")
    return failed


def main() -> int:
    """Run the command line; 0 if every case is read or refused."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60.0, help="time to spend (default 60)")
    options.add_argument("--seed", type=int, default=0, help="first case of every parser")
    options.add_argument("--count", type=int, help="number of cases of each parser, instead of --seconds")
    options.add_argument("--only", action="append", metavar="NAME", help="one parser; repeatable")
    given = options.parse_args()
    names, first, failed, end = given.only or [*parsers()], given.seed, [], time.monotonic() + given.seconds
    last = None if given.count is None else given.seed + given.count
    while (first < last) if last is not None else time.monotonic() < end:
        seeds = range(first, min(first + BATCH, last or first + BATCH))
        for name in names:
            found = _failures(name, seeds)
            print(*found, sep="\n", end="\n" * bool(found), flush=True)
            failed += found
        first = seeds.stop
    print(f"{(first - given.seed) * len(names)} cases of {len(names)} parsers, {len(failed)} failed", file=sys.stderr)
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
