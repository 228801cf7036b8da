"""Names in files that others can write never become paths outside their folders, and deep nesting is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from ovbench.cluster.sweep import board_of, read_sweep
from ovbench.cluster.task_board import Lease
from ovbench.methods.reme.set_folder import read_manifest
from ovbench.methods.support.bank_files import read_note
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.toml import read_toml

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def examples(monkeypatch):
    """Writers of valid files, from the fuzzer."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("fuzz_examples")


def change(path, *keys, value):
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    write_json(path, content)


@pytest.mark.parametrize("name", ["../../x", "a/b", "*", "/x"])
def test_a_bank_and_a_reference_set_name_no_folder(examples, tmp_path, name):
    path = examples.bank_note(tmp_path)
    assert read_note(tmp_path / "x")["rows"] == 5
    change(path, "names", "main", value=name)
    with pytest.raises(InputError, match=r'"names\.main" must be .*; build the bank again'):
        read_note(tmp_path / "x")
    path = examples.reference_set(tmp_path)
    assert read_manifest(tmp_path)["counts"]["images"] == 2
    change(path, "parts", 0, value=name)
    with pytest.raises(InputError, match=r'"parts\[0\]" must be'):
        read_manifest(tmp_path)


def test_a_plan_of_a_sweep_names_no_folder_and_only_its_own_tasks(examples, tmp_path):
    path = examples.sweep("../plan.json")(tmp_path)
    board = board_of(tmp_path, read_sweep(tmp_path))
    (board.tasks / "000007.1").write_bytes(b"w")
    (board.tasks / "000000.9").write_bytes(b"../../plan.json")
    (board.tasks / "²²²²²².1").write_bytes(b"w")
    assert sorted(board.states()) == [0, 1]
    assert board.worker_of(Lease(0, 9)) == "" and board.worker_of(Lease(0, 1)) == "w"
    for keys, value in ((("name",), "../x"), (("groups",), [[3]]), (("job", "limit"), "x"), (("job", "out"), 5)):
        path = examples.sweep("../plan.json")(tmp_path)
        change(path, *keys, value=value)
        with pytest.raises(InputError):
            read_sweep(tmp_path)


@pytest.mark.parametrize("facts", [[], {"failed": []}, {"pixels": [[[1]]]}, {"seconds": "x"}])
def test_a_damaged_end_of_a_task_is_one_sentence(examples, tmp_path, facts):
    from ovbench.cluster.progress import SweepView

    path = examples.sweep("tasks/000000.1.done")(tmp_path)
    assert SweepView(tmp_path).progress().cells[0].done == 2
    write_json(path, facts)
    with pytest.raises(InputError, match=r"000000\.1\.done"):
        SweepView(tmp_path).progress()


def test_settings_of_a_reference_set_are_tables(examples, tmp_path):
    path = examples.reference_set(tmp_path)
    change(path, "settings", "cell", "regions", value="slic")
    with pytest.raises(InputError, match=r'"settings\.cell\.regions" must be a table'):
        read_manifest(tmp_path)


def test_a_name_too_long_for_a_file_is_a_missing_image(examples, tmp_path):
    from ovbench.data.card import load_card
    from ovbench.data.prepare.pascal_context import steps_60

    path = examples.pascal_detail(tmp_path)
    assert steps_60(load_card("pc60"), (tmp_path,), tmp_path / "out")
    change(path, "images", 0, "file_name", value="x" * 300 + ".jpg")
    with pytest.raises(InputError, match=r"images missing, first x+\.jpg"):
        steps_60(load_card("pc60"), (tmp_path,), tmp_path / "out")


def test_deep_nesting_is_malformed(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"malformed JSON: nested too deeply \(.*a.json\)"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(InputError, match=r"malformed TOML: .*recursion"):
        read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("name", ["new\nline.png", "tab\tname.png", "\x1b[2J.png", "caf\udce9.png"])
def test_names_of_images_of_a_bank_are_printable(tmp_path, name):
    from ovbench.training.region_bank.build_state import images_by_stem

    (tmp_path / "a.png").write_bytes(b"")
    assert [image.id for image in images_by_stem(tmp_path)] == ["a"]
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="control characters or is not UTF-8"):
        images_by_stem(tmp_path)


def test_a_board_that_cannot_be_created_is_one_sentence(tmp_path):
    from ovbench.cluster.task_board import TaskBoard

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot create the folder: .*choose another --out"):
        TaskBoard(tmp_path / "file" / "x").prepare()
