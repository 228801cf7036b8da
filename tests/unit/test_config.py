"""Settings laid over one another, and what is refused."""

import dataclasses

import pytest

from ovbench.config.load import Protocol, override_pairs, parse_value, resolve, templates
from ovbench.utils.errors import OvbenchError, UsageError
from ovbench.utils.registry import METHODS
from ovbench.utils.typed import field_types


def test_paper_settings_of_corrclip():
    voc, city, ade = (resolve("corrclip", name).protocol for name in ("voc21", "cityscapes", "ade150"))
    assert (voc.short_side, voc.crop, voc.stride, voc.pad) == (336, 336, 112, 56)
    assert (voc.prob_thd, voc.logit_scale) == (0.2, 40)
    assert (city.short_side, city.crop) == (448, 224)
    assert (ade.short_side, ade.crop) == (448, 336)


def test_mini_brings_its_own_backbones():
    cell = resolve("corrclip", "mini")
    assert cell.backbones == {"clip": "mini", "dino": "mini"}
    assert cell.regions["source"] == "felzenszwalb"


def test_overrides_reach_parameters_protocol_and_regions():
    given = {"tau": "0.5", "crop": "96", "regions.scale": "20", "map_correction": "off"}
    cell = resolve("corrclip", "mini", given)
    assert (cell.params.tau, cell.protocol.crop, cell.regions["scale"]) == (0.5, 96, 20.0)
    assert cell.params.map_correction is False


def test_equal_settings_have_equal_digests():
    plain, spelled = resolve("corrclip", "mini"), resolve("corrclip", "mini", {"tau": "0.25"})
    assert plain.digest() == spelled.digest() != resolve("corrclip", "mini", {"tau": "0.3"}).digest()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("corrclip", {"taau": "1"}, 'did you mean "tau"'),
        ("corrclip", {"tau": "soft"}, '"soft" is not a value of "tau"'),
        ("corrclip", {"tau": "nan"}, '"nan" is not a value of "tau"'),
        ("clip", {"logit_scale": "-inf"}, '"-inf" is not a value of "logit_scale"'),
        ("clip", {"logit_scale": "1e999"}, '"1e999" is not a value of "logit_scale"'),
        ("clip", {"mean": "1,nan,2"}, '"1,nan,2" is not a value of "mean"'),
        ("corrclip", {"regions.scal": "1"}, 'did you mean "regions.scale"'),
        ("corrclip", {"regions": "felsenswalb"}, 'did you mean "felzenszwalb"'),
        ("corrclip", {"map_correction": "maybe"}, "give true or false"),
        ("corrclip", {"stride": "0"}, "give a number above 0"),
        ("corclip", {}, 'did you mean "corrclip"'),
    ],
)
def test_what_is_wrong_is_named(method, given, message):
    with pytest.raises(UsageError) as caught:
        resolve(method, "mini", given)
    assert message in str(caught.value)


def test_unknown_backbone_is_refused():
    with pytest.raises(UsageError, match="unknown backbone"):
        resolve("clip", "mini", backbones={"dino": "x"})


def test_pairs_need_an_equals_sign():
    assert override_pairs(("a=1", "b = x=y "), "--set") == {"a": "1", "b": "x=y"}
    with pytest.raises(UsageError, match="key=value"):
        override_pairs(("tau",), "--set")


def test_values_by_type():
    assert parse_value("1,2,3", field_types(Protocol)["mean"], "mean") == (1.0, 2.0, 3.0)
    assert parse_value("1,2,3", tuple[float, ...], "mean") == (1.0, 2.0, 3.0)
    assert parse_value("none", int | None, "depth") is None
    assert parse_value("7", int | None, "depth") == 7


def test_prompt_sets():
    assert len(templates("openai_80")) == 80 and all("{}" in t for t in templates("openai_80"))
    with pytest.raises(UsageError, match="openai_80"):
        templates("openai80")


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_resolves_on_every_benchmark(method):
    for dataset in ("mini", "mini-bg", "voc21", "coco-stuff", "ade847", "a-users-own-card"):
        try:
            assert resolve(method, dataset).as_dict()["method"] == method
        except OvbenchError as error:
            assert "needs" in str(error), (dataset, error)


def test_the_common_protocol_leaves_reme_its_whole_images_and_prompts():
    """A segment has no window, and a set answers only to the prompts and the image size that it was built with."""
    for name in ("mini", "voc21"):
        own = resolve("reme", name, backbones={"reference": "mini"}).protocol
        common = resolve("reme", name, backbones={"reference": "mini"}, protocol="common").protocol
        assert common == dataclasses.replace(own, vocabulary="") and common.crop == 0


def test_no_other_method_is_spared_the_common_protocol():
    windows = {}
    for method in sorted(METHODS.names()):
        given = {"reference": "mini"} if method == "reme" else {}
        for name in ("mini", "voc21"):
            p = resolve(method, name, backbones=given, protocol="common").protocol
            windows.setdefault((p.short_side, p.crop, p.stride, p.templates), set()).add(method)
    assert [methods for (_, crop, *_), methods in windows.items() if crop == 0] == [{"reme"}, {"reme"}]
    assert len(windows) == 4


def test_the_background_of_reme_is_the_usual_list_of_words():
    words = {name: resolve("reme", name, backbones={"reference": "mini"}).protocol.vocabulary for name in
             ("voc21", "coco-object", "pc60")}  # fmt: skip
    assert words == {"voc21": "cass", "coco-object": "cass", "pc60": ""}
