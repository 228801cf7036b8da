"""Data of files, calls and the command line against types: what fits stays typed, what does not is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ovbench.config.load import resolve
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.typed import Items, Typed, parse_text, parse_values, validate


@dataclass(frozen=True)
class Params:
    tau: Annotated[float, Field(gt=0)] = 0.25
    steps: tuple[int, ...] = (8, 16)
    depth: int | None = None
    mode: Literal["soft", "hard"] = "soft"
    exact: bool = True

    def __post_init__(self):
        if self.mode == "hard" and not self.exact:
            raise ValueError('mode "hard" is exact')


class Inner(Typed):
    names: Items[str]
    count: int = 0


class Outer(Typed):
    rows: Items[Inner] = ()
    tables: dict[str, Inner] = Field(default_factory=dict)
    value: int | str = 0


def test_a_plain_dataclass_from_a_table():
    made = validate(Params, {"tau": 1, "steps": [1, 2], "depth": None}, "f")
    assert made == Params(1.0, (1, 2)) and type(made.tau) is float and type(made.steps) is tuple


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (Params, {"tua": 1.0}, 'unknown key "tua" (f.toml); did you mean "tau"?'),
        (Params, {"tau": "0.5"}, "\"tau\" must be a number, got '0.5' (f.toml)"),
        (Params, {"tau": True}, '"tau" must be a number, got True (f.toml)'),
        (Params, {"tau": float("nan")}, '"tau" must be a finite number, got nan (f.toml)'),
        (Params, {"tau": 0}, '"tau" must be a number above 0, got 0 (f.toml)'),
        (Params, {"depth": 1.5}, '"depth" must be a whole number, got 1.5 (f.toml)'),
        (Params, {"depth": True}, '"depth" must be a whole number, got True (f.toml)'),
        (Params, {"exact": 1}, '"exact" must be true or false, got 1 (f.toml)'),
        (Params, {"steps": [1, "2"]}, "\"steps[1]\" must be a whole number, got '2' (f.toml)"),
        (Params, {"mode": "sotf"}, "\"mode\" must be \"soft\" or \"hard\", got 'sotf' (f.toml)"),
        (Params, {"mode": "hard", "exact": False}, 'mode "hard" is exact (f.toml)'),
        (Params, [], "the file must be a table, got [] (f.toml)"),
        (Outer, {"rows": [{"names": []}, {"name": []}]}, 'unknown key "rows[1].name" (f.toml); did you mean "names"?'),
        (Outer, {"rows": [{"names": [], "count": "3"}]}, "\"rows[0].count\" must be a whole number, got '3' (f.toml)"),
        (Outer, {"tables": {"a.b": {"count": 1}}}, '"tables.a.b.names" is missing (f.toml)'),
        (Outer, {"tables": {"a": {"names": "x"}}}, "\"tables.a.names\" must be a list, got 'x' (f.toml)"),
        (Outer, {"value": 1.5}, '"value" must be a whole number or a text, got 1.5 (f.toml)'),
        (Outer, {"rows": 1}, '"rows" must be a list, got 1 (f.toml)'),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(cls, data, message):
    with pytest.raises(InputError) as caught:
        validate(cls, data, "f.toml")
    assert str(caught.value) == message


def test_texts_are_parsed_by_type():
    hints = {"tau": float, "steps": tuple[int, ...], "depth": int | None, "exact": bool, "name": str}
    given = {"tau": "1", "steps": "8, 16", "depth": "none", "exact": "off", "name": "3"}
    assert parse_values(given, hints) == {"tau": 1.0, "steps": (8, 16), "depth": None, "exact": False, "name": "3"}
    for text, hint in (("soft", float), ("nan", float), ("1,x", tuple[int, ...]), ("", int), ("maybe", bool)):
        with pytest.raises(UsageError, match=f'"{text}" is not a value of "key"'):
            parse_text(text, hint, "key")
    with pytest.raises(UsageError, match='did you mean "tau"'):
        parse_values({"tua": "1"}, hints)


def test_typed_values_stay_typed_beside_texts():
    cell = resolve("corrclip", "mini", {"pamr_dilations": [4, 8], "tau": 0.2, "eps": "0.1", "scope": False})
    assert cell.protocol.pamr_dilations == (4, 8)
    assert (cell.params.tau, cell.params.eps, cell.params.scope) == (0.2, 0.1, False)
    assert cell.digest() == resolve(
        "corrclip", "mini", {"pamr_dilations": "4,8", "tau": "0.2", "eps": "0.1", "scope": "off"}
    ).digest()  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tau": "soft"}, '"soft" is not a value of "tau" (--set); give a number'),
        ({"tau": [0.2]}, '"tau" must be a number, got [0.2]'),
        ({"stride": 0}, '"stride" must be a number above 0, got 0'),
        ({"prob_thd": 1.0}, '"prob_thd" must be a number below 1'),
        ({"mean": [1.0]}, '"mean" must be a list of 3 or more'),
        ({"regions.scale": None}, '"scale" must be a number, got None'),
        ({"regions.scale": -3.0}, '"scale" must be a number of 0 or more, got -3.0'),
        ({"tau": 0.0}, '"tau" must be a number above 0, got 0.0'),
        ({"spatial_depth": "-7"}, '"-7" is not a value of "spatial_depth" (--set); give a number of 1 or more'),
        ({"refine": "pamrr"}, 'give "", "pamr", "pamr-windows" or "tlp"'),
    ],
)
def test_a_given_value_that_does_not_fit_is_a_mistake_of_usage(given, message):
    with pytest.raises(UsageError) as caught:
        resolve("corrclip", "mini", given)
    assert message in str(caught.value)


def test_a_settings_file_that_does_not_fit_is_named(tmp_path, monkeypatch):
    from ovbench.config import load, method_files

    file = tmp_path / "corrclip.toml"
    monkeypatch.setattr(load, "settings_path", lambda method: file)
    assert method_files.settings_path("corrclip") != file
    for text, message in (
        ("[benchmark.mini.protocol]\ncrop = '96'", "\"benchmark.mini.protocol.crop\" must be a whole number, got '96'"),
        ("[protocl]", 'unknown key "protocl" (corrclip.toml); did you mean "protocol"?'),
        ("[protocol]\nstrid = 1", 'unknown key "protocol.strid" (corrclip.toml); did you mean "stride"'),
        ("[params]\ntau = 'x'", "\"tau\" must be a number, got 'x' (parameters of corrclip)"),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            resolve("corrclip", "mini")
        assert message in str(caught.value)
