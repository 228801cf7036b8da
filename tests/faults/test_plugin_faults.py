"""Plug-ins that are broken: listed as such, with file and line, and nobody else's business."""

import sys

import pytest

from ovbench.utils.registry import entry_points_by_group

BROKEN = {  # what the plug-in's module says, and what is said of it
    "raise RuntimeError('boom at import')": "RuntimeError: boom at import",
    "import sys; sys.exit(0)": "SystemExit: 0",
    "def broken(:": "SyntaxError",
    "import no_such_module_at_all": "ModuleNotFoundError",
    "OTHER = 1": "AttributeError",
    "THING = int": "is not ",
    "THING = 3": "is not ",
}

METHOD = "from ovbench.methods.base import Method, Needs; THING = type('Mine', (Method,), {})"
DECLARED = {  # a wrong declaration of a method, and what is said of it
    "'needs': None": "Mine.needs is None",
    "'needs': Needs('clip')": "Mine.needs has the backbones 'clip'; write a tuple",
    "'Params': dict": "Mine.Params is <class 'dict'>; write a frozen dataclass",
}

LISTS = (("methods", "method"), ("backbones", "backbone"), ("regions", "regions"), ("datasets", "name"))


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Install a package whose module ``bad_plugin`` has this text and is announced in every group."""

    def install(text, name="bad"):
        site = tmp_path / "site"
        folder = site / "bad_plugin-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 1.0\n")
        groups = ("methods", "backbones", "regions", "datasets")
        points = "".join(f"[ovbench.{group}]\n{name} = bad_plugin:THING\n" for group in groups)
        (folder / "entry_points.txt").write_text(points)
        (site / "bad_plugin.py").write_text(f"\n{text}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "bad_plugin", raising=False)
        entry_points_by_group.cache_clear()
        return site / "bad_plugin.py"

    yield install
    sys.modules.pop("bad_plugin", None)
    entry_points_by_group.cache_clear()


def uses(tmp_path):
    return {
        "method": ("eval", "-m", "bad", "-d", "mini", "--out", tmp_path),
        "region source": ("eval", "-m", "corrclip", "-d", "mini", "--set", "regions=bad", "--out", tmp_path),
        "dataset": ("eval", "-m", "clip", "-d", "bad", "--out", tmp_path),
    }


@pytest.mark.quick(2)
@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_plugin_is_listed_as_broken_and_used_by_nobody(ovbench, plugin, tmp_path, text):
    file = plugin(text)
    for listing, key in LISTS:
        done = ovbench("list", listing, "--json")
        rows = {row[key]: row["broken"] for row in done.json()}
        assert done.code == 0 and [name for name in rows if rows[name]] == ["bad"], done.err
        assert BROKEN[text] in rows["bad"] and "bad_plugin" in rows["bad"]
        if text.startswith(("raise", "import", "def")):
            assert f"({file}, line 2)" in rows["bad"]
    for kind, command in uses(tmp_path / "runs").items():
        done = ovbench(*command)
        assert done.code == 3 and f'error: the {kind} "bad" of bad-plugin 1.0 is broken: ' in done.err, done.err
        assert BROKEN[text] in done.err and "defect" not in done.err


@pytest.mark.parametrize("text", DECLARED)
def test_a_wrong_declaration_has_file_and_line(ovbench, plugin, tmp_path, text):
    file = plugin(METHOD.replace("{}", f"{{{text}}}"))
    for name in ("bad", f"{file}:THING"):
        done = ovbench("eval", "-m", name, "-d", "mini", "--out", tmp_path / "runs")
        assert done.code == 3 and "defect" not in done.err, done.err
        assert DECLARED[text] in done.err and f"{file}, line 2" in done.err


@pytest.mark.slow
def test_the_table_and_doctor_name_what_is_broken(ovbench, plugin):
    file = plugin("raise RuntimeError('boom')")
    said = f'the method "bad" of bad-plugin 1.0 is broken: RuntimeError: boom ({file}, line 2)'
    assert f"broken: {said}" in ovbench("list", "methods").out
    findings = [row for row in ovbench("doctor", "--json").json() if row["area"] == "plug-ins"]
    assert [row["state"] for row in findings] == ["warning"] * 4 and findings[0]["what"] == said
    assert findings[0]["fix"] == "repair the plug-in or uninstall it"


@pytest.mark.slow
def test_other_runs_do_not_hear_of_it(ovbench, plugin, tmp_path):
    plugin("raise RuntimeError('boom')")
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 1, "--out", tmp_path, "--json")
    assert done.code == 0 and "boom" not in done.err


def test_a_plugin_that_takes_a_built_in_name_concerns_that_name_alone(ovbench, plugin, tmp_path):
    plugin("THING = 1", name="clip")
    done = ovbench("eval", "-m", "clip", "-d", "mini", "--out", tmp_path)
    assert done.code == 2 and 'method "clip" is defined twice' in done.err
    rows = {row["method"]: row["broken"] for row in ovbench("list", "methods", "--json").json()}
    assert "is defined twice" in rows["clip"] and rows["maskclip"] is None


def test_a_mistake_of_a_plugin_at_run_time_is_the_plugins(ovbench, plugin, tmp_path):
    file = plugin(
        "from dataclasses import dataclass\nfrom ovbench.regions.base import RegionSource\n"
        "@dataclass(frozen=True)\nclass THING(RegionSource):\n    def missing(self):\n        return {}['no']\n"
    )
    done = ovbench(*uses(tmp_path)["region source"])
    assert done.code == 3 and "defect" not in done.err, done.err
    assert f"a plug-in failed: KeyError: 'no' ({file}, line 7)" in done.err
    rows = {row["regions"]: row["broken"] for row in ovbench("list", "regions", "--json").json()}
    assert "KeyError" in rows["bad"] and rows["slic"] is None


def test_code_that_raises_no_exception_but_something_else_is_one_sentence(ovbench, monkeypatch):
    def broken(**options):
        raise GeneratorExit("stop")

    monkeypatch.setattr("ovbench.cli.cli.main", broken)
    done = ovbench("list", "methods")
    assert done.code == 1 and "GeneratorExit: stop" in done.err
