"""Measure the speed of labelling and counting, in one process; writes results/benchmarks/engine.{json,md}.

python scripts/bench/engine.py                  everything, about seven minutes on one core
python scripts/bench/engine.py --only loop --only ledger

Times are the smallest of several alternating repeats, in seconds of wall time and of processor time. On a machine with
other work, processor time is more reliable.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from overhead import GOALS, WHY, Task, alternate, measure, of_real_size, on_mini
from timing import machine
from torch import Tensor

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.evaluation.ledger import Entry, LedgerWriter
from ovbench.inference.pipeline import Pipeline, build_pipeline
from ovbench.inference.sliding_window import cut, pad_to_multiple, window_grid
from ovbench.methods.base import Batch
from ovbench.metrics.confusion import count_pixels
from ovbench.utils.files import read_json, write_bytes, write_json

PARTS = ("loop", "overhead", "overhead_real", "text", "ledger", "start_up", "scaling")


def with_classes(pipeline: Pipeline, classes: int) -> None:
    """Replace the vocabulary by random embeddings; only their number matters here."""
    words = pipeline.predictor.vocabularies[0]
    embeddings = torch.randn(classes, words.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    words = words._replace(embeddings=F.normalize(embeddings, dim=1), class_index=torch.arange(classes))
    pipeline.predictor.vocabularies = [words]


@torch.inference_mode()
def straightforward(pipeline: Pipeline, image: np.ndarray, label: np.ndarray, totals: Tensor) -> np.ndarray:
    """Label and count an image in the simple form, for comparison.

    Windows are processed one by one, each padded to the size of the image; softmax and argmax run at full size; and
    histograms are floating point.
    """
    predictor, method = pipeline.predictor, pipeline.method
    (queries,), protocol = predictor.vocabularies, predictor.protocol
    normalised = predictor._normalise(image)
    h, w = normalised.shape[1:]
    total, count = torch.zeros(len(queries.class_index), h, w), torch.zeros(1, h, w)
    for box in window_grid((h, w), protocol.crop, protocol.stride):
        pad = pad_to_multiple(box.size, predictor.pad_multiple)
        features = method.encode(Batch(cut(normalised, [box], pad)))
        scores = method.window_scores(method.score(features, queries), box.size, pad)
        canvas = (box.x1, w - box.x2, box.y1, h - box.y2)
        total += F.pad(scores, canvas)[0]
        count += F.pad(torch.ones(1, *box.size), canvas)
    full = F.interpolate((total / count)[None], label.shape, mode="bilinear")[0]
    predicted = (full * protocol.logit_scale).softmax(0).argmax(0)
    truth, classes = torch.from_numpy(label.astype(np.int64)), len(totals[0])
    kept = truth < classes
    predicted, truth = predicted[kept], truth[kept]
    for row, values in enumerate((predicted[predicted == truth], predicted, truth)):
        totals[row] += torch.histc(values.float(), bins=classes, min=0, max=classes - 1)
    return predicted.numpy()


def loop(size: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """Time labelling and counting one image with ovbench and in the simple form."""
    pipeline = build_pipeline(resolve("maskclip", "mini"), (("thing",),))
    noise = np.random.default_rng(0)
    image = noise.integers(0, 255, (*size, 3), np.uint8)
    rows = []
    for classes in (21, 150, 847):
        with_classes(pipeline, classes)
        label, totals = noise.integers(0, classes, image.shape[:2]).astype(np.uint16), torch.zeros(3, classes)

        def engine(label=label, classes=classes) -> np.ndarray:
            predicted = pipeline.predictor.label_resized(image, image.shape[:2])[0]
            count_pixels(predicted, label, classes)
            return predicted

        def plain(label=label, totals=totals) -> np.ndarray:
            return straightforward(pipeline, image, label, totals)

        same = float((engine().reshape(-1) == plain()).mean())  # and both have run once
        found = alternate({"engine": engine, "loop": plain}, repeats)
        ratio = {key: round(found["loop"][key] / found["engine"][key], 2) for key in ("wall_s", "cpu_s")}
        rows.append({"classes": classes, "image": list(size), **found, "times_faster": ratio, "equal_labels": same})
    return rows


def overheads(make: Callable[[str], Task], methods: list[str], repeats: int) -> list[dict[str, Any]]:
    """Return one row per method."""
    rows = []
    for name in methods:
        print(f"  {name}", file=sys.stderr)
        rows.append(measure(name, make(name), repeats))
    return rows


def text_cache(repeats: int) -> dict[str, Any]:
    """Time the text embeddings of mini, computed and from the cache."""
    from ovbench.backbones.build import load_backbone
    from ovbench.inference import text_embedding as queries

    clip = load_backbone("clip", resolve("maskclip", "mini").backbones["clip"])
    words = tuple((name,) for name in load_card("mini").classes)
    prompts = resolve("maskclip", "mini").protocol.templates

    def fresh() -> None:
        with tempfile.TemporaryDirectory() as folder:
            before, os.environ["OVBENCH_CACHE"] = os.environ.get("OVBENCH_CACHE"), folder
            try:
                queries.build_queries(words, prompts, clip)
            finally:
                os.environ.pop("OVBENCH_CACHE")
                if before is not None:
                    os.environ["OVBENCH_CACHE"] = before

    return alternate({"computed": fresh, "cached": lambda: queries.build_queries(words, prompts, clip)}, repeats)


def ledger(repeats: int) -> dict[str, Any]:
    """Time counting and one durable line per image of 512 x 683 pixels with 12 of 150 classes."""
    noise = np.random.default_rng(0)
    label = noise.integers(0, 12, (512, 683)).astype(np.uint16)
    predicted = noise.integers(0, 15, (512, 683)).astype(np.uint16)
    counts = count_pixels(predicted, label, 150)
    lines = 20
    with tempfile.TemporaryDirectory() as folder, LedgerWriter(Path(folder), "0", {}) as part:
        found = alternate(
            {
                "count": lambda: [count_pixels(predicted, label, 150) for _ in range(lines)],
                "line": lambda: [part.add(Entry(str(n), counts, None, {"label": 1.0})) for n in range(lines)],
            },
            repeats,
        )
    return {name: {key: round(value / lines, 6) for key, value in spent.items()} for name, spent in found.items()}


def command(*arguments: str, environment: dict[str, str] | None = None) -> float:
    start = time.perf_counter()
    whole = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=whole)
    return round(time.perf_counter() - start, 3)


def start_up(repeats: int) -> dict[str, float]:
    """Return the seconds until the command has finished."""
    calls = {"help": ["--help"], "list methods": ["list", "methods"]}
    return {name: min(command("-m", "ovbench", *call) for _ in range(repeats)) for name, call in calls.items()}


def scaling(images: int) -> dict[str, Any]:
    """Time one and two processes on the same images of mini, with and without start-up."""
    found: dict[str, Any] = {"images": images, "threads_per_process": 1}
    for size in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if size == 2 else []
            call = ["-m", "ovbench", "eval", "-m", "maskclip", "-d", "mini", "--limit", str(images), "--out", folder]
            whole = command(*launcher, *call)
            record = json.loads(next(Path(folder).glob("*.json")).read_text())
            found[str(size)] = {"whole_s": whole, "images_s": record["time"]["total_s"]}
    return found


REAL = """## A method's whole time over that of its backbones' forward passes: towers of the published sizes

Random weights, the windows and settings for voc20 without PAMR, one picture of 375 x 500, region maps from the cache.
Forward passes are of all blocks; a method may need less of the last one, which can bring it below 1. "To the base" is
for a post-processing: over the forward passes with what the method that it is based on does there."""
MINI = """## The same on mini, also without PAMR

The towers of mini are so small that what is not a forward pass weighs more than with real ones: mostly the enlarging of
window scores to pixels, and with GEM and FreeCP the attentions of GEM."""


def overhead_table(title: str, rows: list[dict[str, Any]]) -> list[str]:
    head = ["", title, "", "| method | whole s | forwards s | ratio | to the base | goal | |", "| --- " * 7 + "|"]
    return head + [
        f"| {row['method']} | {both(row['whole'])} | {both(row['forwards'])} | {both(row['ratio'])} "
        f"| {row.get('ratio_to_base', '')} | {row['goal'] or ''} "
        f"| {remark(row)} |"
        for row in rows
    ]


def remark(row: dict[str, Any]) -> str:
    """Return why a goal is missed, and the machine of a row that was measured on its own."""
    why = WHY.get(row["method"], "") if row["reached"] is False else ""
    own = row.get("machine")
    then = f"measured on its own, load average {own['load_average']}, torch {own['torch']}" if own else ""
    return "; ".join(filter(None, (why, then)))


def both(spent: dict[str, float]) -> str:
    return f"{spent['cpu_s']:.3f} ({spent['wall_s']:.3f})"


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    ran = found["machine"]
    lines = [
        "# The engine, measured",
        "",
        f"{ran['device']}, {ran['cores']} cores, {ran['threads']} thread(s) used, load average "
        f"{ran['load_average']} when it began; torch {ran['torch']}. Written by `scripts/bench/engine.py`: the",
        "least of several alternating repeats, processor seconds (wall seconds in brackets). `cpu_spread` in",
        "`engine.json` is the largest over the least.",
        "",
    ]

    if "loop" in found:
        lines += [
            "## Against the straightforward loop: maskclip, one image of {} x {}".format(*found["loop"][0]["image"]),
            "",
            "| classes | engine s | loop s | times faster | equal labels |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['classes']} | {both(row['engine'])} | {both(row['loop'])} | {both(row['times_faster'])} "
            f"| {100 * row['equal_labels']:.4f} % |"
            for row in found["loop"]
        ]
    for part, title in (("overhead_real", REAL), ("overhead", MINI)):
        lines += overhead_table(title, found[part]) if part in found else []
    lines += ["", "## Other costs", "", "| what | s |", "| --- | --- |"]
    for part in ("text", "ledger"):
        lines += [f"| {part}: {name} | {both(spent)} |" for name, spent in found.get(part, {}).items()]
    lines += [f"| start-up: {name} | {spent:.2f} |" for name, spent in found.get("start_up", {}).items()]
    if "scaling" in found:
        lines += [
            f"| {size} process(es), {found['scaling']['images']} images | {found['scaling'][size]['images_s']:.2f} |"
            for size in ("1", "2")
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--method", action="append", choices=tuple(GOALS), help="of the overhead; by default all")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(336, 448), metavar=("H", "W"), help="image of the loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--real-repeats", type=int, default=1, help="of the towers of the published sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    methods = arguments.method or list(GOALS)
    on_small = [name for name in methods if name != "reme"]  # its reference set takes minutes to build
    parts: dict[str, Callable[[], Any]] = {
        "loop": lambda: loop(tuple(arguments.size), arguments.repeats),
        "overhead": lambda: overheads(lambda name: on_mini(name, arguments.images), on_small, arguments.repeats),
        "overhead_real": lambda: overheads(of_real_size, methods, arguments.real_repeats),
        "text": lambda: text_cache(arguments.repeats),
        "ledger": lambda: ledger(arguments.repeats),
        "start_up": lambda: start_up(arguments.repeats),
        "scaling": lambda: scaling(4 * arguments.images),
    }
    here = machine()
    found: dict[str, Any] = {"machine": here}
    if arguments.only and (arguments.out / "engine.json").is_file():  # the other parts stay as they were measured
        earlier = read_json(arguments.out / "engine.json")
        found = {**earlier, **({} if arguments.method else found)}
    for name in arguments.only or parts:
        print(f"measuring: {name}", file=sys.stderr)
        rows = parts[name]()
        if arguments.method and name.startswith("overhead"):  # the rows of other methods stay
            measured = {row["method"] for row in rows}
            rows = [row | {"machine": here} for row in rows]
            rows = [row for row in found.get(name, []) if row["method"] not in measured] + rows
        found[name] = rows
        write_json(arguments.out / "engine.json", found)
        write_bytes(arguments.out / "engine.md", table(found).encode())


if __name__ == "__main__":
    main()
