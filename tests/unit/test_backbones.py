"""The registry of backbones, and the mapping of networks that a method gets."""

from types import SimpleNamespace

import pytest
from torch import nn

from ovbench.backbones.base import Backbone, Loaded, Use, as_backbone
from ovbench.backbones.preprocess import IMAGENET, OPENAI
from ovbench.config.suites import settings_over
from ovbench.methods.base import Backbones, Method, Needs
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import BACKBONES


class TwoTowers(Method):
    needs = Needs(backbones=("clip", "dino"), optional=("presence",))


def loaded(*names):
    return {name: Loaded(nn.Identity(), "x", name) for name in names}


def test_a_method_gets_the_networks_that_it_needs():
    networks = Backbones.of(TwoTowers, loaded("clip", "dino"))
    assert list(networks) == ["clip", "dino"] and networks["dino"] is networks.dino
    method = TwoTowers(networks)
    assert method.dino is networks.dino and method.presence is None
    assert list(Backbones.of(TwoTowers, loaded("clip", "dino", "presence"))) == ["clip", "dino", "presence"]


@pytest.mark.parametrize(
    ("names", "said"),
    [(("clip",), 'needs the backbone "dino"'), (("clip", "dino", "psi"), 'does not use the backbone "psi"')],
)
def test_networks_that_do_not_fit_the_needs_are_refused(names, said):
    with pytest.raises(UsageError, match=f"TwoTowers {said}"):
        Backbones.of(TwoTowers, loaded(*names))


def test_a_network_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match='no backbone "dino"'):
        getattr(Backbones(clip=nn.Identity(), dino=None), "dino")  # noqa: B009


def test_every_entry_says_what_it_is_and_refuses_what_it_does_not_know():
    for name in ("clip", "dino", "dinov2", "presence", "psi", "reference"):
        backbone = BACKBONES.load(name)
        assert isinstance(backbone, Backbone) and backbone.name == name and backbone.title
        with pytest.raises((UsageError, InputError), match="no-such-thing"):
            backbone.missing("no-such-thing")
        assert name == "reference" or backbone.missing("mini") == []  # that set would be built


def test_a_second_clip_has_the_names_of_the_first():
    assert BACKBONES.load("presence").names() == BACKBONES.load("clip").names()
    assert BACKBONES.load("presence").same("openai-l", "ViT-L-14-quickgelu/openai")
    with pytest.raises(UsageError, match=r"presence=w\.pt"):
        BACKBONES.load("presence").replace_spec("w.pt", None)


def test_the_hash_of_a_network_of_a_plug_in_holds_how_it_is_used():
    tower = nn.Linear(2, 2)
    hashes = {Loaded.of(tower, "x", use=use).sha256 for use in (None, Use(OPENAI), Use(IMAGENET))}
    text = SimpleNamespace(model=nn.Linear(2, 2))
    assert len(hashes | {Loaded.of(tower, "x", text=text).sha256}) == 4
    assert not any(parameter.requires_grad for parameter in (*tower.parameters(), *text.model.parameters()))


def test_a_class_is_made_an_entry_under_its_name():
    class Own(Backbone):
        title = "a tower"

    assert as_backbone(Own, "own").name == "own" and as_backbone(Own, "own").title == "a tower"
    with pytest.raises(TypeError, match="is not a backbone"):
        as_backbone(int, "own")


def test_options_of_a_row_stay_with_another_set():
    assert settings_over({"reference": "?filter=none"}, {"reference": "sets/a"}) == {"reference": "sets/a?filter=none"}
    assert settings_over({"reference": "sets/a"}, {"reference": "sets/b"}) == {"reference": "sets/b"}


def test_only_a_set_that_is_built_on_first_use_may_differ_between_machines():
    reference, clip = BACKBONES.load("reference"), BACKBONES.load("clip")
    assert reference.built_here("mini") and reference.built_here("mini?filter=none")
    assert not reference.built_here("sets/mini") and not clip.built_here("mini")
