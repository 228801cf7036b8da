"""Measure a sweep on paper: the balance of workers on the ten benchmarks, and what grows with the number of images.

python scripts/bench/sweep_scale.py

Writes results/benchmarks/sweep_scale.json. "balance" is the time of the slowest worker over the mean of all workers, in
a simulation: workers take the tasks of `ovbench.cluster.make_plan` as `ovbench.cluster.worker` chooses them, "tasks" is
their number. An image takes the time of its windows, times a random factor that the plan does not know. "unplanned" is
the same for a plan without a number of workers. "static" is for processes of torchrun or shards, which take every N-th
image. "best" is for single images, sorted by their real time: no plan can be much better. "images" has CPU seconds,
peak memory and bytes for synthetic images of 8 classes: listing a folder and planning it (up to `LISTED` images), the
ledger in parts of one task each, reading it, its record, and its merge.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from results_scale import draw_counts, header_of

from ovbench.cluster.estimate import QUERY_S, READ_S, WINDOW_S, windows
from ovbench.cluster.make_plan import GroupCost, make_tasks, plan_sweep
from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.evaluation.build_record import build_record
from ovbench.evaluation.ledger import Entry, LedgerWriter, ledger_parts, read_ledger
from ovbench.evaluation.request import Job
from ovbench.utils.files import write_json

ROOT = Path(__file__).parents[2]
WORKERS = (8, 32, 128, 512)
VOC = {(375, 500): 60, (500, 375): 20, (333, 500): 12, (500, 333): 5, (281, 500): 3}
COCO = {(480, 640): 55, (640, 480): 20, (427, 640): 18, (640, 427): 5, (360, 640): 2}
ADE = {(512, 683): 45, (683, 512): 15, (256, 256): 12, (600, 800): 12, (768, 1024): 8, (1024, 1365): 5, (1536, 2048): 3}
BENCHMARKS = {  # approximate sizes (h, w) of the images in percent, and the number of images
    "voc20": (VOC, 1449), "voc21": (VOC, 1449), "pc59": (VOC, 5104), "pc60": (VOC, 5104), "pc459": (VOC, 5104),
    "coco-object": (COCO, 5000), "coco-stuff": (COCO, 5000), "cityscapes": ({(1024, 2048): 100}, 500),
    "ade150": (ADE, 2000), "ade847": (ADE, 2000),
}  # fmt: skip
LISTED = 100_000
LINKS = 10_000  # names of a file; a file system allows no more than 65,000
CARD = """
title = "Many"
split = "val"
classes = "many.txt"
roots = ["many"]
[[layout]]
name = "folders"
ids = "labels"
image = "images/{id}.png"
label = "labels/{id}.png"
encodings = ["same"]
[encoding.same]
common = 0
"""
TASK_IMAGES = 3000  # a task of five minutes at ten images per second


def image_seconds(benchmark: str, rng: np.random.Generator) -> np.ndarray:
    """Return the time of every image of a benchmark, in the order of its split."""
    sizes, images = BENCHMARKS[benchmark]
    protocol, queries = resolve("clip", benchmark).protocol, len(load_card(benchmark).classes)
    seconds = [READ_S + WINDOW_S * windows(size, protocol) + QUERY_S * queries * size[0] * size[1] for size in sizes]
    share = np.array(list(sizes.values()), float)
    return rng.choice(seconds, images, p=share / share.sum())


def balance(
    expected: Sequence[np.ndarray], groups: Sequence[np.ndarray], workers: int, known: bool = True
) -> tuple[float, int]:
    """Return the time of the slowest worker over the mean, and the number of tasks.

    A free worker takes the next task of its group, otherwise of the group with the most work per worker.
    """
    costs = [GroupCost(len(group), float(group.mean()), (), group.tolist()) for group in expected]
    tasks = [task for task in make_tasks(costs, workers=workers if known else None) if task.kind == "count"]
    queues = [deque(task for task in tasks if task.group == group) for group in range(len(groups))]
    left, busy = [float(group.sum()) for group in expected], [0] * len(groups)
    events, ends = [(0.0, worker, -1, 0.0) for worker in range(workers)], []
    while events:
        now, worker, group, expected_s = heapq.heappop(events)
        if group >= 0:
            left[group] -= expected_s
            busy[group] -= 1
        open_groups = [n for n, queue in enumerate(queues) if queue]
        if not open_groups:
            ends.append(now)
            continue
        group = group if group in open_groups else max(open_groups, key=lambda n: left[n] / (1 + busy[n]))
        task = queues[group].popleft()
        busy[group] += 1
        spent = float(groups[group][task.start : task.stop].sum())
        heapq.heappush(events, (now + spent, worker, group, task.seconds))
    return max(ends) / (sum(map(float, (group.sum() for group in groups))) / workers), len(tasks)


def best(groups: Sequence[np.ndarray], workers: int) -> float:
    """Return the same if the real time of every image were known: the longest image that is left is next."""
    free = [0.0] * workers
    for seconds in np.sort(np.concatenate(groups))[::-1].tolist():
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free) / (sum(free) / workers)


def static(groups: Sequence[np.ndarray], workers: int) -> float:
    """Return the same for processes that take every N-th image, and wait for each other after a group."""
    slowest = sum(max(group[rank::workers].sum() for rank in range(workers)) for group in groups)
    return float(slowest / (sum(group.sum() for group in groups) / workers))


def measure_balance() -> list[dict]:
    """Return one row per benchmark and one for all ten."""
    rng = np.random.default_rng(0)
    expected = {name: image_seconds(name, rng) for name in BENCHMARKS}
    rows = []
    for name, plan in {**{name: [each] for name, each in expected.items()}, "all ten": list(expected.values())}.items():
        groups = [each * rng.lognormal(0.0, 0.1, len(each)) for each in plan]
        total = sum(group.sum() for group in groups)
        row = {"benchmark": name, "images": sum(map(len, groups)), "gpu_minutes": round(total / 60, 1)}
        found = {str(workers): balance(plan, groups, workers) for workers in WORKERS}
        row["balance"] = {workers: round(value, 3) for workers, (value, _) in found.items()}
        row["tasks"] = {workers: tasks for workers, (_, tasks) in found.items()}
        row["unplanned"] = {str(n): round(balance(plan, groups, n, known=False)[0], 3) for n in WORKERS}
        row["static"] = {str(n): round(static(groups, n), 3) for n in WORKERS}
        row["best"] = {str(n): round(best(groups, n), 3) for n in WORKERS}
        rows.append(row)
    return rows


def step(name: str, folder: Path, images: int) -> None:
    """Do one step in this process."""
    header = header_of(150)
    if name == "plan":
        card = folder / "many.toml"
        made = plan_sweep(Job(methods=("clip",), datasets=(str(card),), data_root=folder / "data", out=folder))
        write_json(folder / "plan.json", made.model_dump(mode="json"))
    elif name == "write":
        run = {"started": "2026-01-01T00:00:00+00:00", "ovbench": "0", "git": None, "device": {"type": "cpu"}}
        data = {"image": [123_456, 10**18, "0" * 32], "label": [12_345, 10**18, "1" * 32]}
        part: LedgerWriter | None = None
        drawn = list(draw_counts(1000, 150, 0))
        for number in range(images):
            if number % TASK_IMAGES == 0:
                if part is not None:
                    part.close()
                name = f"sweep-{number // TASK_IMAGES:06d}-1"
                part = LedgerWriter(folder / "ledger", name, header, locked=False)
            part.add(Entry(f"image{number:09}", drawn[number % len(drawn)], None, {"label": 0.5}, number, data, run))
        part.close()
    elif name == "read":
        assert len(read_ledger(folder / "ledger", header)) == images
    elif name == "record":
        entries = read_ledger(folder / "ledger", header)
        made = {"versions": {"ovbench": "0"}, "git": None, "device": {"type": "cpu", "name": "none"}}
        record = build_record(header, [*entries], entries, made, {"started": "2026-01-01T00:00:00+00:00"}, "ledger")
        assert record["dataset"]["images"] == images
    else:
        entries = read_ledger(folder / "ledger", header)
        with LedgerWriter(folder / "merged", "merged", header) as merged:
            for image in entries.by_run():
                merged.add(entries[image])


def write_images(folder: Path, images: int) -> None:
    """Write the card and the folders of a dataset; its files are links to a few small images."""
    (folder / "many.toml").write_text(CARD)
    (folder / "many.txt").write_text("".join(f"class {number}\n" for number in range(150)))
    for name in ("images", "labels"):
        (folder / "data" / "many" / name).mkdir(parents=True)
        for number in range(images):
            if number % LINKS == 0:
                first = folder / "data" / "many" / name / f"{number:09}.png"
                Image.new("RGB" if name == "images" else "L", (640, 480)).save(first)
            else:
                os.link(first, first.with_name(f"{number:09}.png"))


def measure_images(images: int) -> dict:
    """Return the cost of every step for a number of images."""
    row: dict = {"images": images}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        steps = ("write", "read", "record", "merge")
        if images <= LISTED:
            write_images(folder, images)
            steps = ("plan", *steps)
        for name in steps:
            command = [sys.executable, __file__, "--step", name, "--folder", text, "--images", str(images)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row[name] = json.loads(done.stdout)
            if name == "plan":
                row["plan"]["bytes"] = (folder / "plan.json").stat().st_size
        row["write"]["bytes"] = sum(part.stat().st_size for part in ledger_parts(folder / "ledger"))
    return row


def main() -> None:
    """Run all measurements, or one step of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--step")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "sweep_scale.json")
    given = parser.parse_args()
    if given.step:
        start = time.process_time()
        step(given.step, given.folder, given.images[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"cpu_s": round(time.process_time() - start, 2), "peak_mib": round(peak)}))
        return
    rows = {"balance": measure_balance(), "images": [measure_images(images) for images in given.images]}
    write_json(given.out, {"machine": {"cores": os.cpu_count()}, **rows})
    print(given.out)


if __name__ == "__main__":
    main()
