"""`ovbench eval` on mini, and the same numbers from mmengine's Runner."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset

VOLATILE = "time"
SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")  # a sixteenth of the pixels


@pytest.mark.slow
def test_record_says_everything_and_runs_agree(ovbench, tmp_path):
    first, second = (
        ovbench("eval", "-m", "corrclip", "-d", "mini", "--limit", 2, "--json", "--out", tmp_path / name).json()
        for name in "ab"
    )
    assert {k: v for k, v in first.items() if k != VOLATILE} == {k: v for k, v in second.items() if k != VOLATILE}
    (path,) = (tmp_path / "a").glob("*.json")
    assert json.loads(path.read_text()) == first
    assert first["status"] == "complete" and first["dataset"]["images"] == 2
    assert "notes" not in first  # mini's networks know mini
    assert first["cell"]["params"]["tau"] == 0.25 and first["cell"]["protocol"]["crop"] > 0
    assert len(first["weights"]["clip"]["sha256"]) == 64
    counts, metrics = first["counts"], first["metrics"]
    assert all(isinstance(n, int) for values in counts.values() for n in values)
    iou = [i / u for i, u in zip(counts["intersection"], counts["union"], strict=True) if u]
    assert metrics["mIoU"] == pytest.approx(np.mean(iou), abs=1e-12)
    assert metrics["classes_in_mean"] == len(iou)
    dataset = open_dataset(load_card("mini"))
    assert sum(counts["labelled"]) == sum(int((dataset.read_label(n) < 65534).sum()) for n in range(2))
    assert set(first["time"]["seconds"]) >= {"read", "regions", "encode", "score", "decide", "count", "label"}


@pytest.mark.slow
def test_a_repeated_run_takes_the_interval_from_its_ledger(ovbench, tmp_path):
    def run():
        line = ("eval", "-m", "maskclip", "-d", "mini", "--limit", 10, "--json", "--out", tmp_path)
        return ovbench(*line, *SMALL).json()

    first = run()
    low, high = first["metrics"]["mIoU_interval"]
    assert low < first["metrics"]["mIoU"] < high
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({**first, "metrics": {**first["metrics"], "mIoU_interval": [0.25, 0.5]}}))
    assert {**run(), VOLATILE: 0} == {**first, VOLATILE: 0}


@pytest.mark.slow
def test_no_interval_comes_with_its_reason(ovbench, tmp_path):
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 2, "--json", "--out", tmp_path)
    metrics = done.json()["metrics"]
    assert metrics["mIoU_interval"] is None and metrics["mIoU_no_interval"] == "fewer than 10 images"


@pytest.mark.slow
def test_several_methods_and_datasets_in_one_call(ovbench, tmp_path):
    cells = ("-m", "clip", "-m", "maskclip", "-d", "mini", "-d", "mini-bg")
    done = ovbench("eval", *cells, "--limit", 1, "--out", tmp_path)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert "mIoU in percent" in done.out and done.out.count("maskclip") == 4  # two class tables, two summary rows
    assert "planned: clip on mini-bg, 1 images" in done.err


@pytest.mark.slow
def test_mini_bg_predicts_the_background_below_the_threshold(ovbench, tmp_path):
    def background(threshold):
        done = ovbench("eval", "-m", "maskclip", "-d", "mini-bg", "--limit", 1, "--json", "--out", tmp_path,
                       "--set", f"prob_thd={threshold}")  # fmt: skip
        return done.json()["counts"]["predicted"][0]

    assert background(0.0) < background(0.3) <= background(0.99)


@pytest.mark.slow
def test_show_writes_pictures(ovbench, tmp_path):
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 2, "--show", 1, "--out", tmp_path)
    assert done.code == 0, done.err
    (picture,) = tmp_path.glob("*/*.png")
    width, height = Image.open(picture).size
    assert width > 3 * height / 2


@pytest.mark.slow
def test_an_unreadable_image_fails_alone(ovbench, own_mini, tmp_path):
    """The rest is counted, the record is partial and names the image, and the exit code says so."""
    dataset = open_dataset(load_card("mini"))
    broken = dataset.items[1].image_path
    broken.write_bytes(broken.read_bytes()[:2000])
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 3, "--json", "--out", tmp_path / "runs")
    record = done.json()
    assert done.code == 4
    assert record["status"] == "partial" and list(record["failed"]) == [dataset.items[1].id]
    assert record["dataset"]["images"] == 2 and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "corclip", "-d", "mini"), 2, 'unknown method "corclip"; did you mean "corrclip"'),
        (("-m", "clip", "-d", "minii"), 2, 'did you mean "mini"'),
        (("-m", "corrclip", "-d", "mini", "--set", "tua=1"), 2, 'did you mean "tau"'),
        (("-m", "clip", "-d", "mini", "--limit", "0"), 2, "--limit"),
        (("-m", "clip", "-d", "mini", "--device", "gpu"), 2, 'no device "gpu"'),
        (("-m", "clip", "-d", "voc21"), 3, "voc21"),
        (("-m", "clip", "-d", "mini", "--weights", "clip=ViT-B-17/openai"), 2, "ViT-B-16"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(ovbench, tmp_path, arguments, code, message):
    done = ovbench("eval", *arguments, "--out", tmp_path)
    assert done.code == code, done.err
    assert message in done.err and "Traceback" not in done.err
    assert done.out == "" and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["maskclip", "corrclip"])
def test_runner_of_mmengine_gives_the_same_miou(ovbench, tmp_path, method):
    """The registered segmentor under mmengine's Runner with mmseg's own dataset, pipeline and IoUMetric."""
    images = 3
    record = ovbench("eval", "-m", method, "-d", "mini", "--limit", images, "--json", "--out", tmp_path).json()

    from mmengine.runner import Runner

    import ovbench.integrations.register
    from ovbench.utils.registry import METHODS

    dataset = open_dataset(load_card("mini"))
    names = tuple(dataset.card.classes)
    protocol = record["cell"]["protocol"]
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (protocol["long_side"], protocol["short_side"]), "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    root = dataset.items[0].image_path.parents[2]
    loader = {
        "batch_size": 1,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {
            "type": "BaseSegDataset", "data_root": str(root), "indices": images, "img_suffix": ".png",
            "data_prefix": {"img_path": "images/val", "seg_map_path": "labels/val"}, "pipeline": pipeline,
            "metainfo": {"classes": names, "palette": [[i, i, i] for i in range(len(names))]},
        },
    }  # fmt: skip
    config = {
        "model": {"type": METHODS.load(method).__name__, "dataset": "mini"},
        "work_dir": str(tmp_path / "work"),
        "test_dataloader": loader,
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"], "prefix": "x"},
        "test_cfg": {"type": "TestLoop"},
        "default_scope": "mmseg",
        "log_level": "ERROR",
    }
    runner = Runner.from_cfg(copy.deepcopy(config))
    scores = runner.test()
    assert scores["x/mIoU"] == pytest.approx(round(100 * record["metrics"]["mIoU"], 2), abs=0.006)
    assert scores["x/aAcc"] == pytest.approx(round(100 * record["metrics"]["aAcc"], 2), abs=0.006)


@pytest.mark.slow
def test_settings_of_an_mmengine_config_stay_typed():
    from mmengine.config import ConfigDict
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings("ovbench.integrations.register")
    from ovbench.integrations.mmseg import MODELS

    given = {"pamr_dilations": [8, 16], "gaussian_std": 4.0, "crop": "64"}
    cell = MODELS.build(ConfigDict(type="NACLIP", dataset="mini", settings=given)).cell
    assert (cell.protocol.pamr_dilations, cell.protocol.crop, cell.params.gaussian_std) == ((8, 16), 64, 4.0)


@pytest.mark.parametrize("order", [("--refine", "pamr", "--set", "crop=64"), ("--set", "crop=64", "--refine", "pamr")])
def test_refine_is_a_setting_wherever_it_stands(ovbench, order):
    rows = ovbench("show", "clip", "mini", *order, "--json").json()["settings"]
    values = {row["setting"]: row["value"] for row in rows}
    assert values["refine"] == "pamr" and values["crop"] == 64


@pytest.mark.slow
def test_benchmarks_that_share_images_share_a_pass_and_lose_nothing_by_it(ovbench, tmp_path):
    common = ("-m", "maskclip", "--limit", 2, "--json", "--out")
    together = ovbench("eval", "-d", "mini", "-d", "mini-bg", *common, tmp_path / "both")
    assert "image/s" not in together.err  # a file has no progress in it
    for record, name in zip(together.json(), ("mini", "mini-bg"), strict=True):
        alone = ovbench("eval", "-d", name, *common, tmp_path / name).json()
        assert {k: v for k, v in record.items() if k != VOLATILE} == {k: v for k, v in alone.items() if k != VOLATILE}
        assert record["time"]["shared_with"] == ["mini", "mini-bg"] and alone["time"]["shared_with"] == [name]


@pytest.mark.slow
def test_a_record_holds_the_arguments_as_passed(ovbench, tmp_path):
    line = ("eval", "-m", "maskclip", "-d", "mini", "--set", "crop=96", "--limit", 1, "--json", "--out", tmp_path)
    first = ovbench(*line)
    assert first.code == 0, first.err
    record = first.json()
    asked = {key: record["arguments"][key] for key in ("method", "dataset", "settings", "protocol", "limit", "shard")}
    assert asked == {
        "method": "maskclip", "dataset": "mini", "settings": {"crop": "96"}, "protocol": "paper", "limit": 1,
        "shard": None,
    }  # fmt: skip
    (path,) = tmp_path.glob("*.json")
    newer = {**record, "schema": 99}
    path.write_text(json.dumps(newer))
    again = ovbench(*line)
    assert again.code == 3 and "a newer version of ovbench wrote the record" in again.err
    assert json.loads(path.read_text()) == newer
