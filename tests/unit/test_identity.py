"""Names of runs, hashes of code, and the state of files."""

from __future__ import annotations

import time
from importlib.metadata import EntryPoint

from ovbench.config.load import resolve
from ovbench.data.decode import FileIdentity
from ovbench.evaluation import identity
from ovbench.evaluation.distributed import Shard
from ovbench.utils.registry import METHODS

HEADER = {"cell": {"method": "clip", "dataset": "mini"}, "settings_sha256": "0123456789abcdef", "weights": "a"}


def test_names_hold_what_a_result_depends_on_and_never_a_path():
    name = identity.run_name(HEADER)
    assert name.startswith("clip-mini-01234567-") and len(name) == len("clip-mini-01234567-") + 8
    assert identity.run_name(HEADER | {"weights": "b"}) != name == identity.run_name(HEADER | {"format": 1})
    record = identity.record_name(HEADER, None)
    assert identity.record_name(HEADER, 4, Shard(2, 3)) == record.replace(".json", "-first4-shard2of3.json")
    assert record.startswith("clip-mini-01234567-") and identity.record_name(HEADER | {"weights": "b"}, None) != record
    gpu = HEADER | {"code": {"device": "cuda"}}
    assert identity.record_name(gpu, 4) == record.replace(".json", "-cuda-first4.json")
    assert identity.run_name(gpu) != name
    for code in ({"ovbench": "9.9"}, {"code": {"device": "cpu", "ovbench": "other"}}):
        assert identity.record_name(HEADER | code, None) == record and identity.run_name(HEADER | code) != name
    hostile = {"cell": {"method": "../../x", "dataset": "/etc/..\\passwd\n"}, "settings_sha256": "../../../a"}
    for made in (identity.run_name(hostile), identity.record_name(hostile, None)):
        assert "/" not in made and "\\" not in made and "\n" not in made and not made.startswith(".")
    assert len(identity.run_name(HEADER | {"cell": {"method": "m" * 999, "dataset": "d" * 999}})) < 160


def test_a_file_is_known_by_its_content_not_by_its_date(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    noted = identity.identity_of(path)
    assert identity.is_still(noted, path) and identity.is_still(noted._replace(mtime_ns=1), path)
    path.write_bytes(b"two")
    assert not identity.is_still(noted._replace(mtime_ns=1), path)
    assert not identity.is_still(FileIdentity(3, 0, "x"), tmp_path / "none")


def code(path, *names):
    return {found.name for found in identity.code_files(METHODS, f"{path}:X")} - {*names}


def test_code_of_a_file_is_what_it_imports_from_below_its_folder(tmp_path):
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    for name in ("parts/__init__.py", "parts/deep/__init__.py", "left_out.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "parts" / "one.py").write_text("from .deep import two\nimport numpy\n")
    (tmp_path / "parts" / "deep" / "two.py").write_text("raise SystemExit  # never run\n")
    (tmp_path / "late.py").write_text("")
    (tmp_path / "m.py").write_text("from parts import one\ndef f():\n    import late, json\n")
    assert code(tmp_path / "m.py", "__init__.py") == {"m.py", "one.py", "two.py", "late.py"}


def test_folders_without_init_are_packages_or_not_meant(tmp_path):
    (tmp_path / "prompts" / "deep").mkdir(parents=True)
    (tmp_path / "prompts" / "deep" / "words.py").write_text("import numpy\n")
    (tmp_path / "prompts" / "never.py").write_text("")
    (tmp_path / "numpy").mkdir()  # such as a folder of data
    (tmp_path / "m.py").write_text("import numpy.linalg\nimport prompts.deep.words\nfrom prompts import absent\n")
    assert code(tmp_path / "m.py") == {"m.py", "words.py"}


def test_code_of_a_package_is_all_of_it_and_what_ovbench_brings_has_one_hash(tmp_path, monkeypatch):
    (tmp_path / "packed_method" / "sub").mkdir(parents=True)
    for name in ("packed_method/__init__.py", "packed_method/sub/lazy.py", "beside_it.py", "stranger.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "packed_method" / "core.py").write_text("import beside_it\n")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = {"__init__.py", "lazy.py", "core.py", "beside_it.py"}
    assert {p.name for p in identity.code_files(METHODS, "packed_method.core:X")} == wanted
    point = EntryPoint("packed", "packed_method.core:X", "ovbench.methods")
    monkeypatch.setattr(identity, "entry_points", lambda group: (point,))
    assert {p.name for p in identity.code_files(METHODS, "packed")} == wanted
    assert identity.code_files(METHODS, "clip") == []


def test_the_hash_of_our_own_code_is_of_what_can_change_a_label():
    under = [
        path.relative_to(identity.PACKAGE).as_posix()
        for path in identity.PACKAGE.rglob("*.py")
        if not identity._is_under(path.relative_to(identity.PACKAGE).as_posix(), identity.NO_LABELS)
    ]
    for name in ("methods/clip.py", "inference/decision.py", "backbones/clip.py", "regions/slic.py", "data/decode.py",
                 "metrics/confusion.py", "config/load.py", "methods/reme/method.py"):  # fmt: skip
        assert name in under
    for name in ("cli/eval.py", "results/report/page.py", "metrics/interval.py", "training/talk2dino/loop.py"):
        assert name not in under
    assert all((identity.PACKAGE / place).exists() for place in identity.NO_LABELS)
    identity._package_sha256.cache_clear()
    start = time.perf_counter()
    assert len(identity._package_sha256()) == 64
    assert time.perf_counter() - start < 2


def test_files_that_settings_name_are_hashed(tmp_path):
    said = tmp_path / "said.json"
    said.write_text("{}")
    cell = resolve("clip", "mini", {"descriptions": str(said)})
    first = identity.named_files(cell)
    assert set(first) == {"protocol.templates", "protocol.descriptions"}
    said.write_text("{ }")
    again = identity.named_files(cell)
    assert first["protocol.descriptions"] != again["protocol.descriptions"]
    assert first["protocol.templates"] == again["protocol.templates"]
    assert (
        again["protocol.templates"]
        != identity.named_files(resolve("clip", "mini", {"templates": "simple_1"}))["protocol.templates"]
    )
