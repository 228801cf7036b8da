"""`ovbench check-record`, and records as evaluation results of the Hugging Face hub."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from ovbench.results.check_record import check_record
from ovbench.results.record_files import RecordFile, find_records
from ovbench.utils.files import read_json, write_json

MINI = Path(__file__).parents[2] / "results" / "mini"
RECORD = read_json(next(MINI.glob("corrclip-mini-8*.json")))


def verdicts(**changes):
    record = copy.deepcopy(RECORD)
    for key, value in changes.items():
        place = record
        *steps, last = key.split("__")
        for step in steps:
            place = place[step]
        place[last] = value
    return {check.name: (check.verdict, check.detail) for check in check_record(RecordFile(MINI / "a.json", record))}


@pytest.mark.slow
def test_records_of_the_repository_are_accepted():
    assert len(find_records(MINI)) >= 36
    for found in find_records(MINI):
        assert "fail" not in {check.verdict for check in check_record(found)}, found.path


@pytest.mark.parametrize(
    ("changes", "check", "detail"),
    [
        ({"status": "partial", "dataset__images": 99}, "complete", "99 of 100 images"),
        ({"dataset__limit": 100}, "complete", "limit was given"),
        ({"failed": {"a": "no memory"}}, "complete", "1 failed"),
        ({"cell__dataset": "holidays"}, "benchmark", "user's card"),
        ({"dataset__card": "own"}, "benchmark", "user's card"),
        ({"dataset__classes": ["sky"] * 28}, "benchmark", "other classes"),
        ({"dataset__split_images": 99}, "benchmark", "the card has 100"),
        ({"dataset__ids_sha256": "0" * 64}, "benchmark", "other image ids"),
        ({"cell__params__tau": 0.3}, "settings", "not the hash"),
        ({"cell__params__tua": 0.3}, "settings", "tua"),
        ({"git__modified": True}, "code", "local changes"),
        ({"notes": ["clip is a toy network"]}, "networks", "toy"),
        ({"dataset__layout": "official"}, "networks", "toy networks"),
        ({"weights": {}}, "networks", "no hash of clip"),
    ],
)  # fmt: skip
def test_what_is_refused(changes, check, detail):
    verdict, said = verdicts(**changes)[check]
    assert verdict == "fail" and detail in said


def test_the_command(ovbench, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, RECORD)
    done = ovbench("check-record", tmp_path)
    assert done.code == 0 and "no ledger beside the record" in done.out
    write_json(path, {**RECORD, "metrics": {**RECORD["metrics"], "mIoU": 0.99}})
    (tmp_path / "torn.json").write_text("{")
    done = ovbench("check-record", tmp_path, "--json")
    assert done.code == 3
    found = {Path(name).name: checks for name, checks in done.json().items()}
    assert "but the counts give" in found["a.json"][0]["detail"] and found["torn.json"][0]["verdict"] == "fail"
    (tmp_path / "empty").mkdir()
    assert ovbench("check-record", tmp_path / "empty").code == 3


@pytest.mark.slow
def test_evaluation_results_of_the_hub(ovbench, tmp_path):
    write_json(tmp_path / "a.json", RECORD)
    words = ("table", "--runs", tmp_path, "--format", "eval-results")
    done = ovbench(*words, "--hub-dataset", "mini=me/mini:segmentation")
    assert done.code == 0, done.err
    (entry,) = yaml.safe_load(done.out)
    assert entry["dataset"] == {"id": "me/mini", "task_id": "segmentation"}
    assert entry["value"] == pytest.approx(100 * RECORD["metrics"]["mIoU"], abs=1e-4)
    assert "corrclip" in entry["notes"] and entry["date"] == RECORD["time"]["started"]
    hub = pytest.importorskip("huggingface_hub")
    if hasattr(hub, "parse_eval_result_entries"):
        (parsed,) = hub.parse_eval_result_entries([entry])
        assert (parsed.dataset_id, parsed.task_id, parsed.value) == ("me/mini", "segmentation", entry["value"])
    missing = ovbench(*words)
    assert missing.code == 2 and "--hub-dataset mini=OWNER/DATASET" in missing.err
    wrong = ovbench(*words, "--hub-dataset", "mini=mini")
    assert wrong.code == 2 and "OWNER/DATASET" in wrong.err
    whole = json.loads(json.dumps(RECORD))
    whole["dataset"]["split_images"] = 500
    write_json(tmp_path / "a.json", whole)
    part = ovbench(*words, "--hub-dataset", "mini=me/mini")
    assert part.code == 3 and "100 of 500" in part.err
