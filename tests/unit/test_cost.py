"""The cost of labelling: counted against sums by hand, and kept in the record with its device."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from report_runs import random_counts, write_run
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ovbench.config.load import resolve
from ovbench.evaluation.cost import EnergyMeter, LoadedImages, count_flops, count_parameters
from ovbench.results.cost_rows import cost_rows
from ovbench.results.layouts import load_layout
from ovbench.results.plots import _seconds_per_image, draw, gather
from ovbench.results.record_files import RecordFile


def test_flops_are_those_of_the_matrix_products():
    linear, attention = nn.Linear(6, 5, bias=False), nn.MultiheadAttention(8, 2, batch_first=True).eval()
    image = np.zeros((7, 6, 3), np.uint8)

    @torch.inference_mode()
    def label(pixels, regions):
        linear(torch.zeros(7, 6))
        q, k, v = torch.zeros(3, 1, 2, 9, 4)
        scaled_dot_product_attention(q, k, v)
        tokens = torch.zeros(1, 9, 8)
        attention(tokens, tokens, tokens, need_weights=False)

    fused = 2 * 2 * 2 * 9 * 9 * 4  # two heads, two products of 9 x 9 x 4
    expected = 2 * 7 * 6 * 5 + fused + 2 * 9 * 8 * 8 * 4 + fused
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_flops(label, LoadedImages([image] * 2, [None] * 2, [])) == (expected, 0)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert count_flops(lambda pixels, regions: None, LoadedImages([image], [None], [])) == (None, None)


def test_the_share_of_a_precision_is_counted():
    first, second = nn.Linear(6, 8, bias=False), nn.Linear(8, 2, bias=False)

    @torch.inference_mode()
    def label(pixels, regions):
        with torch.autocast("cpu", torch.bfloat16):
            found = first(torch.zeros(5, 6))
        second(found.float())

    found = count_flops(label, LoadedImages([np.zeros((1, 1, 3), np.uint8)], [None], []))
    assert found == (2 * 5 * (48 + 16), 0.75)


def test_shared_parameters_count_once():
    one = nn.Linear(3, 4)
    assert count_parameters(nn.ModuleList([one, one, nn.Linear(2, 1)])) == 3 * 4 + 4 + 3


def test_energy_is_not_known_on_a_cpu():
    with EnergyMeter("cpu") as meter:
        pass
    assert meter.joules is None


@pytest.mark.slow
def test_the_cost_is_in_the_record_and_stays_there(ovbench, tmp_path):
    words = ("eval", "-m", "maskclip", "-d", "mini", "--limit", 2, "--out", tmp_path, "--json", "--device", "cpu")
    small = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")
    without = ovbench(*words, *small)
    assert without.code == 0 and "cost" not in without.json(), without.err
    done = ovbench(*words, *small, "--cost")
    assert done.code == 0, done.err
    cost = done.json()["cost"]
    assert cost["images"] == 2 and cost["parameters"] > 1e5 and cost["flops"] > 1e7
    assert 0 < cost["latency_s"] < 60 and cost["images_per_s"] > 0 and cost["regions_s"] is None
    assert cost["joules"] is None and cost["peak_device_bytes"] is None and cost["peak_host_bytes"] > 1e8
    assert cost["half_share"] == 0 and cost["device"]["precision"] == "fp32" and cost["device"]["name"]
    assert ovbench(*words, *small).json()["cost"] == cost


def test_a_class_that_hides_its_networks_has_no_cost():
    from ovbench.evaluation.plan import _refuse_closed_class
    from ovbench.utils.errors import UsageError
    from ovbench.utils.registry import METHODS

    closed = SimpleNamespace(pipeline="elsewhere:Pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(METHODS), "load", lambda self, name: closed)
        usual = {"metrics": ("boundary",), "cost": False, "save_predictions": None}
        for asked in ({"metrics": ("calibration",)}, {"cost": True}, {"save_predictions": "confidence"}):
            with pytest.raises(UsageError, match="shows neither"):
                _refuse_closed_class(SimpleNamespace(method="mine"), SimpleNamespace(**usual | asked))
        _refuse_closed_class(SimpleNamespace(method="mine"), SimpleNamespace(**usual))


COST = {
    "images": 10, "parameters": 149_600_000, "flops": 3.4e10, "latency_s": 0.05, "regions_s": 0.25,
    "images_per_s": 25.0, "peak_device_bytes": None, "peak_host_bytes": 10**9, "joules": None,
    "device": {"type": "cpu", "name": "a processor", "precision": "fp32", "compile": False, "batch": 0},
}  # fmt: skip


def with_cost(folder, name, cost=COST, **changes):
    path = write_run(folder, random_counts(np.random.default_rng(0), 3, 2), ["sky", "grass"], name=name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **({"cost": cost} if cost else {}), **changes}))
    return path


def test_tables_of_costs_show_what_was_measured(ovbench, tmp_path):
    with_cost(tmp_path, "one")
    for layout, expected in {
        "efficiency": {"throughput (FPS)": 25.0, "latency (ms)": 50.0, "time per image (s)": 0.3,
                       "parameters (M)": 149.6, "compute (GFLOPs)": 34.0, "peak GPU memory (GB)": None},
        "corrclip-table11-cost": {"time per image (ms)": 300.0, "mask generation time per image (ms)": 250.0},
    }.items():  # fmt: skip
        table = ovbench("table", "--layout", layout, "--runs", tmp_path, "--format", "json").json()
        row = table["rows"][-1]
        assert row["group"] == "measured by ovbench" and row["detail"].endswith("a processor, fp32")
        for column, value in expected.items():
            found = row["cells"][column]["measured"]
            assert found == (None if value is None else pytest.approx(value)), column
        assert not any("cannot measure these columns" in note for note in table["notes"])
    shown = ovbench("table", "--layout", "efficiency", "--runs", tmp_path, "--format", "markdown").out
    assert "0.300" in shown and "149.6" in shown


def test_the_figure_over_five_benchmarks_needs_all_of_them(ovbench, tmp_path):
    layout = load_layout("radseg-figure")
    five = []
    for number, name in enumerate(("ade150", "cityscapes", "coco-stuff", "pc59", "voc20")):
        cell, score = resolve("clip", name).as_dict(), {"mIoU": 0.3 + number / 100}
        cost = {**COST, "latency_s": 0.1 + number}
        made = {"cell": cell, "cost": cost, "metrics": score, "dataset": {"label_rule": "correct", "images": 1,
                "split_images": 1}, "status": "complete", "weights": {}, "device": {}}  # fmt: skip
        five.append(RecordFile(Path(f"{name}.json"), made))
    (row,) = cost_rows(layout, five)
    assert [round(cell.measured, 3) for cell in row.cells] == [32.0, 2.35, 149.6]
    assert row.detail.startswith("five benchmarks") and cost_rows(layout, five[:4]) == []


@pytest.mark.slow
def test_a_plot_of_costs_names_device_and_precision(tmp_path):
    pytest.importorskip("matplotlib")
    one, other = with_cost(tmp_path, "one"), with_cost(tmp_path, "other", cost=None)
    for paths, text in (([one], "warm, on a processor, fp32"), ([one, other], "labelling only")):
        draw("cost", gather(paths), tmp_path / "cost.svg")
        assert _seconds_per_image(gather(paths))[1].find(text) > 0
    assert (tmp_path / "cost.svg").stat().st_size > 1000
