"""`ovbench show`: marks, sources and protocols, and pairs that cannot run; settings that a package brings."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from ovbench.cli.show import show
from ovbench.config.load import method_config
from ovbench.config.schema import MethodFile
from ovbench.utils import registry

OWN = """
from dataclasses import dataclass
from ovbench.methods.base import Method

@dataclass(frozen=True)
class Params:
    gain: float = 1.0

class Mine(Method):
    Params = Params
"""
SETTINGS = 'title = "Mine"\nsource = "a paper"\n[params]\ngain = 3.0\n[benchmark.voc21]\nprotocol = { crop = 96 }\n'


def shown(*words):
    done = CliRunner().invoke(show, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def marks(found):
    return {f"{row['table']}.{row['setting']}": (row["value"], row["published"]) for row in found["settings"]}


@pytest.mark.slow
def test_each_setting_is_marked_against_the_nearest_published_run():
    found = shown("corrclip", "voc21", "--set", "regions=felzenszwalb", "--set", "tau=0.5")
    told = marks(found)
    assert told["regions.source"] == ("felzenszwalb", "sam2-32") and told["params.tau"] == (0.5, "0.25")
    assert told["protocol.crop"] == (336, "same") and told["regions.scale"][1] == "-"
    assert "regions=felzenszwalb (published: sam2-32)" in found["deviations"]
    own = shown("corrclip", "voc21")
    assert own["deviations"] == "" and marks(own)["regions.iou"] == (0.7, "not stated")
    assert any("sam2-hiera-large" in name for name in own["missing"])


@pytest.mark.slow
def test_figures_say_whether_they_are_of_these_settings():
    told = {(row["reported_by"], row["variant"]): row["settings"] for row in shown("clip", "voc20")["published"]}
    assert told["ClearCLIP README Table 2", "CLIP ViT-B/16"] == "these"
    assert told["CASS 2411.17150 Table 1", "CLIP ViT-B/16"] == "another protocol"
    assert told["ClearCLIP README Table 2", "CLIP ViT-L/14"] == "with clip=ViT-L-14-quickgelu/openai"
    bases = {row["settings"] for row in shown("freecp", "voc21")["published"]}
    assert "with base=clearclip" in bases and "these" not in bases  # without descriptions
    variants = {row["settings"] for row in shown("corrclip", "voc21")["published"]}
    assert {"these", "with regions=eomt", "of a variant that ovbench does not have"} <= variants


def test_the_table_for_people():
    done = CliRunner().invoke(show, ["sclip", "pc459"], env={"COLUMNS": "200"})
    assert "no official setting (wangf3014/SCLIP has no configuration for it)" in done.output
    assert "published" in done.output and "None" not in done.output and "[" not in done.output.split("source:")[0]


def test_what_a_pair_lacks_is_listed_and_no_error(tmp_path):
    found = shown("reme", "voc21")
    assert any("reference: not given (--set reference=FOLDER" in name for name in found["missing"])
    assert marks(found)["regions.source"][0] == "felzenszwalb-resized"
    (tmp_path / "mine.py").write_text(OWN)
    found = shown(f"{tmp_path}/mine.py:Mine", "voc21")
    assert found["missing"] == ["clip: not given (--weights clip=MODEL)"] and found["published"] == []
    absent = tmp_path / "none.pt"
    found = shown("clip", "voc21", "--weights", f"clip={absent}")
    assert any(str(absent) in name for name in found["missing"])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose import leaves a mark."""
    folder = tmp_path / "ovb_settings_package"
    folder.mkdir()
    mark = tmp_path / "imported"
    (folder / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (folder / "code.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_module_brings_its_settings_beside_it_and_is_not_imported_for_them(package):
    name = f"{package.name}.code:Mine"
    assert method_config(name) == MethodFile()
    (package / "code.toml").write_text(SETTINGS)
    assert method_config(name).params == {"gain": 3.0}
    assert not (package.parent / "imported").exists()
    found = shown(name, "voc21")
    told = {f"{row['table']}.{row['setting']}": row for row in found["settings"]}
    assert told["params.gain"]["value"] == 3.0 and told["protocol.crop"]["value"] == 96
    assert told["protocol.crop"]["from"].endswith("code.toml [benchmark.voc21]")
    assert told["protocol.crop"]["source"] == "a paper"


def test_an_entry_point_brings_its_settings_under_its_name(package, monkeypatch):
    point = EntryPoint("mine", f"{package.name}.code:Mine", "ovbench.methods")
    before = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,) if group == point.group else before(group))
    assert method_config("mine") == MethodFile()
    (package / "mine.toml").write_text(SETTINGS)
    assert method_config("mine").title == "Mine" and not (package.parent / "imported").exists()
    assert marks(shown("mine", "voc21"))["params.gain"] == (3.0, "")


def test_a_module_that_is_not_there_brings_nothing():
    assert method_config("no_such_package_here.code:Mine") == MethodFile()
