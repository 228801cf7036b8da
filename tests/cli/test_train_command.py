"""``ovbench train talk2dino`` as a user runs it, on the small backbones and a few drawn images."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovbench.data.mini.write import write_training

ONE_IMAGE_A_FILE = """
from ovbench.__main__ import main
from ovbench.training.talk2dino import features
features.IMAGES_PER_FILE = 1
main()
"""
FAST = ("--recipe", "mini", "--device", "cpu", "--set", "side=64", "--set", "epochs=2", "--set", "batch=8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "train"
    write_training(folder, 4)
    return folder


@pytest.fixture
def train(ovbench, data, tmp_path):
    def run(*arguments, images=data / "images" / "train", captions=data / "captions_train.json"):
        return ovbench(
            "train", "talk2dino", "--images", images, "--captions", captions, "--out", tmp_path / "out",
            *FAST, *arguments,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_train_leaves_psi_its_card_and_the_curve_and_psi_serves_eval(train, ovbench, tmp_path):
    done = train()
    assert done.code == 0, done.err
    assert "planned: 20 captions of 4 images (4 to be encoded)" in done.err
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {"psi.safetensors", "psi.json", "loss.png", "checkpoint.pt"}
    card = json.loads((out / "psi.json").read_text())
    assert card["sha256"] == hashlib.sha256((out / "psi.safetensors").read_bytes()).hexdigest()
    assert card["data"]["images"] == 4 and card["data"]["captions"] == 20 and len(card["cross_entropy"]) == 2
    assert set(card) >= {"recipe", "backbones", "versions", "git", "device", "seconds"}
    assert set(load_file(out / "psi.safetensors")) == {
        "linear_layer.weight", "linear_layer.bias", "hidden_layers.0.weight", "hidden_layers.0.bias"
    }  # fmt: skip

    again = train("--json")
    assert again.code == 0 and "(0 to be encoded)" in again.err
    assert again.json()["sha256"] == card["sha256"] and again.json()["cross_entropy"] == card["cross_entropy"]

    psi = f"psi={out / 'psi.safetensors'}"
    evaluated = ovbench(
        "eval", "-m", "talk2dino", "-d", "mini-bg", "--limit", 1, "--weights", psi, "--out", tmp_path, "--json"
    )
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json()["weights"]["psi"]["name"].endswith("psi.safetensors")


@pytest.mark.slow
def test_two_processes_divide_the_features_and_train_one_psi(train, data, tmp_path):
    assert train().code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
        "OVBENCH_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    command = [
        sys.executable, "-c", ONE_IMAGE_A_FILE, "train", "talk2dino", "--images", data / "images" / "train",
        "--captions", data / "captions_train.json", "--out", tmp_path / "two", *FAST, "--json",
    ]  # fmt: skip
    running = [
        subprocess.Popen([*map(str, command)], env=environment | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0] and printed[1] == ""
    card = json.loads((tmp_path / "out" / "psi.json").read_text())
    both = json.loads(printed[0])
    assert both["data"] == card["data"] and both["cross_entropy"] == pytest.approx(card["cross_entropy"], rel=1e-4)
    assert len(list((tmp_path / "cache" / "features").glob("images-*"))) == 4


@pytest.mark.slow
def test_settings_change_what_is_trained_and_another_training_is_not_gone_on_with(train):
    assert train().code == 0
    refused = train("--set", "lr=0.01")
    assert refused.code == 3 and "of another training: lr" in refused.err and "--fresh" in refused.err
    assert train("--set", "lr=0.01", "--fresh").code == 0


@pytest.mark.slow
def test_what_has_no_counterpart_is_refused_or_skipped_but_always_listed(train, data, tmp_path):
    document = json.loads((data / "captions_train.json").read_text())
    kept = [a for a in document["annotations"] if a["image_id"] != 2]
    document["images"].append({"id": 77, "file_name": "gone.png"})
    document["annotations"] = [*kept, {"image_id": 77, "caption": "a ghost"}]
    captions = tmp_path / "some.json"
    captions.write_text(json.dumps(document))

    refused = train(captions=captions)
    assert refused.code == 3
    assert "1 captions without an image (gone.png); 1 images without a caption (mini_train_000002.png)" in refused.err
    listed = (tmp_path / "out" / "unpaired.txt").read_text().splitlines()
    assert listed == ["captions without an image: gone.png", "images without a caption: mini_train_000002.png"]

    skipped = train("--unpaired", "skip", "--json", captions=captions)
    assert skipped.code == 0 and "skipped: 1 captions without an image" in skipped.err
    assert skipped.json()["data"]["captions"] == 15
    assert skipped.json()["data"]["skipped"]["images without a caption"] == 1


def test_captions_of_another_folder(train, data):
    refused = train("--unpaired", "skip", images=data / "images")
    assert refused.code == 3 and "0 pairs of an image and a caption" in refused.err


def test_broken_json_is_refused_with_its_line(train, tmp_path):
    (tmp_path / "c.json").write_text('{"images": [],\n "annotations": [}\n')
    refused = train(captions=tmp_path / "c.json")
    assert refused.code == 3 and "broken JSON in line 2" in refused.err and "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--set", "side=60"), 2, "side 60 is not a multiple of the patch 8 of mini (recipe); --set side=56"),
        (("--set", "epoch=3"), 2, 'did you mean "epochs"'),
        (("--weights", "dino=mini"), 2, 'unknown backbone "dino"'),
        (("--recipe", "papr"), 2, 'did you mean "paper"'),
    ],
)
def test_wrong_requests(train, arguments, code, message):
    refused = train(*arguments)
    assert refused.code == code and message in refused.err


@pytest.mark.slow
def test_a_psi_of_the_wrong_width_is_refused(ovbench, tmp_path):
    state = {
        "linear_layer.weight": torch.zeros(32, 128), "linear_layer.bias": torch.zeros(32),
        "hidden_layers.0.weight": torch.zeros(32, 32), "hidden_layers.0.bias": torch.zeros(32),
    }  # fmt: skip
    save_file(state, tmp_path / "psi.safetensors")
    refused = ovbench(
        "eval", "-m", "talk2dino", "-d", "mini", "--limit", 1, "--weights", f"psi={tmp_path / 'psi.safetensors'}"
    )
    assert refused.code == 3
    assert "psi maps width 128 to width 32, but the tokens have 96" in refused.err
