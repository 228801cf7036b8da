"""Plans of sweeps: every image once, the longest tasks first, and work that grows with the images only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from ovbench.cluster.build_tasks import build_commands
from ovbench.cluster.estimate import estimate, image_sizes, windows
from ovbench.cluster.make_plan import PER_WORKER, GroupCost, divide, make_tasks, plan_sweep
from ovbench.cluster.sweep import Sweep, job_as_data
from ovbench.config.load import resolve
from ovbench.evaluation.earlier_cost import image_seconds
from ovbench.evaluation.request import Job
from ovbench.utils.errors import UsageError


def ranges(tasks, kind="count", group=0):
    return sorted((task.start, task.stop) for task in tasks if task.kind == kind and task.group == group)


@pytest.mark.parametrize("each", [(), tuple(1.0 + number % 7 for number in range(100))])
@pytest.mark.parametrize("workers", [None, 3, 1000])
def test_every_image_is_in_one_task_and_no_task_is_too_long(each, workers):
    mean = sum(each) / 100 if each else 4.0
    tasks = make_tasks([GroupCost(100, mean, (), each)], minutes=0.5, workers=workers)
    found = ranges(tasks)
    assert [image for start, stop in found for image in range(start, stop)] == list(range(100))
    counts = [task for task in tasks if task.kind == "count"]
    longest = min(30.0, 100 * mean / (workers * PER_WORKER)) if workers else 30.0
    assert all(task.seconds <= longest + 1e-9 or task.stop - task.start == 1 for task in counts)
    assert sum(task.seconds for task in counts) == pytest.approx(100 * mean)
    assert [task.seconds for task in counts] == sorted((task.seconds for task in counts), reverse=True)
    if workers == 3:
        assert counts[0].seconds > counts[-1].seconds and counts[-1].stop - counts[-1].start == 1


def test_groups_with_more_work_come_first_and_share_region_maps():
    maps = ("ids", "mini", "", [("source", "slic")])
    tasks = make_tasks([GroupCost(10, 1.0, maps), GroupCost(10, 60.0, maps), GroupCost(5, 2.0)], minutes=1.0)
    assert [task.group for task in tasks if task.kind == "prepare"] == [1, 0, 2]
    assert ranges(tasks, "masks", 1) == ranges(tasks, "count", 1) and not ranges(tasks, "masks", 0)
    for task in (task for task in tasks if task.kind == "count" and task.group < 2):
        prepare, *masks = (tasks[number] for number in task.needs)
        assert prepare.kind == "prepare" and prepare.group == task.group
        assert [mask.kind for mask in masks] == ["masks"] * len(masks) and all(mask.group == 1 for mask in masks)
        needed = {n for mask in masks for n in range(mask.start, mask.stop)}
        assert needed.issuperset(range(task.start, task.stop)) and len(needed) - len(masks) < task.stop - task.start
    assert all(number < position for position, task in enumerate(tasks) for number in (*task.needs, *task.after))


@pytest.mark.slow
def test_a_plan_of_a_billion_images_is_small():
    tasks = make_tasks([GroupCost(10**9, 0.1)], workers=512)
    assert len(tasks) < 10_100 and ranges(tasks)[-1][1] == 10**9
    assert divide(GroupCost(0, 1.0), 4, 1.0) == [(0, 0, 0.0)] and len(divide(GroupCost(5, 0.0), 4, 1.0)) == 1


def test_few_images_are_one_task_unless_many_workers_are_planned():
    cost = GroupCost(40, 0.02)
    assert ranges(make_tasks([cost])) == [(0, 40)]
    assert len(ranges(make_tasks([cost], workers=40))) == 40
    assert [len(ranges(make_tasks([cost], minutes=0.0001)))] == [40]


def test_an_estimate_is_measured_before_it_is_guessed():
    cell = resolve("clip", "mini")
    sizes = [(100, 200), (400, 800)]
    guess = estimate(cell, 10, sizes, [])
    assert not guess.measured and len(guess.each) == 2 and guess.seconds == pytest.approx(sum(guess.each) / 2)
    seconds = {"read": 1.0, "regions": 0.5, "label": 6.5, "count": 2.0, "encode": 6.0}
    record = {"settings_sha256": "other", "cell": cell.as_dict(), "dataset": {"images": 5}, "device": {"type": "cpu"},
              "time": {"seconds": seconds, "started": "2026-01-02"}}  # fmt: skip
    found = estimate(cell, 10, sizes, [(Path("a"), record)])
    assert found.measured and found.seconds == 2.0 and sum(found.each) == pytest.approx(4.0)  # threads share the cores
    same = record | {"settings_sha256": cell.digest(), "dataset": {"images": 10}, "device": {"type": "cuda"}}
    same["time"] = same["time"] | {"started": "2026-01-01"}
    both = [(Path("a"), record), (Path("b"), same)]
    assert estimate(cell, 10, sizes, both).seconds == pytest.approx(0.7)  # read ahead, counted behind
    assert estimate(cell, 10, sizes, [(Path("b"), {**same, "time": {}})]) == guess
    other = record | {"cell": record["cell"] | {"protocol": record["cell"]["protocol"] | {"stride": 1}}}
    assert estimate(cell, 10, sizes, [(Path("a"), other)]) == guess


def test_the_slowest_of_reading_labelling_and_counting_decides_on_a_gpu():
    for stage, expected in (("read", 1.5), ("count", 3.0), ("label", 3.0), ("regions", 3.0)):
        record = {"time": {"seconds": {stage: 6.0}}, "dataset": {"images": 2}, "device": {"type": "cuda"}}
        assert image_seconds(record) == expected
    assert image_seconds(record | {"dataset": {"images": 0}}) is None


def test_windows_of_an_image():
    sides = {"short_side": 336, "crop": 224, "stride": 112, "long_side": 2048}
    protocol = dataclasses.replace(resolve("clip", "mini").protocol, **sides)
    assert windows((336, 336), protocol) == 4 and windows((375, 500), protocol) == 2 * 3
    assert windows((1000, 1000), dataclasses.replace(protocol, crop=0)) == pytest.approx((336 / 224) ** 2)


def test_sizes_are_read_from_heads_and_a_broken_file_does_not_stop_the_plan(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("broken")
    assert image_sizes([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none.png"]) == [(20, 30), *[(500, 500)] * 2]
    assert image_sizes([]) == [(500, 500)]


def test_sets_and_banks_are_built_in_shards_before_the_cells():
    commands = ("ovbench bank build --images DIR --out b/x", "reference build --images DIR --out b/x")
    builds = [build_commands(words, 2) for words in commands]
    tasks = make_tasks([GroupCost(3, 1.0)], builds=builds)
    commands = [" ".join(task.command) for task in tasks if task.kind == "build"]
    assert commands[1:4] == [
        "bank build --images DIR --out b/x --shard 2/2", "bank build --images DIR --out b/x",
        "reference build --images DIR --out b/x-shard1of2 --shard 1/2",
    ]  # fmt: skip
    assert commands[5] == "reference merge b/x-shard1of2 b/x-shard2of2 --out b/x"
    assert [task.needs for task in tasks[:7]] == [[], [], [0, 1], [], [], [3, 4], [2, 5]] and tasks[6].kind == "prepare"
    for words in ("eval -m clip --out x", "bank build --images DIR", "bank build --out x --shard 1/2", "bank 'x"):
        with pytest.raises(UsageError, match="--build"):
            build_commands(words, 2)
    (task,) = make_tasks([], builds=[build_commands("bank build --out x", 1)])
    cell = plan_sweep(Job(methods=("clip",), datasets=("mini",), limit=1)).model_dump()
    for command in (["data", "prepare"], []):
        with pytest.raises(ValueError, match="a command that builds nothing"):
            Sweep.model_validate(cell | {"tasks": [task.model_dump() | {"command": command}]})


def test_a_plan_keeps_the_request(tmp_path):
    job = Job(
        methods=("clip", "maskclip"), datasets=("mini", "mini-bg"), limit=3, data_root=tmp_path, out=tmp_path / "runs",
        settings=("short_side=112",), mixed_devices=True,
    )  # fmt: skip
    made = plan_sweep(job)
    assert Sweep.model_validate_json(made.model_dump_json()).request() == job
    assert [cell.images for cell in made.cells] == [3] * 4 and len(made.groups) == 2  # both datasets, the same images
    assert job_as_data(dataclasses.replace(job, out=Path("runs")))["out"] == str(Path("runs").resolve())
    with pytest.raises(UsageError, match="a sweep divides the images itself"):
        plan_sweep(dataclasses.replace(job, shard="1/2"))
