"""Commands read the settings of a method from its declaration; the class that runs says the same."""

from __future__ import annotations

import pytest

from ovbench.methods.base import Method
from ovbench.methods.declarations import DECLARATIONS, Declaration
from ovbench.utils.registry import METHODS, Registry


@pytest.mark.parametrize("method", DECLARATIONS)
def test_a_declaration_is_that_of_the_class(method):
    declared, loaded = METHODS.declaration(method), METHODS.load(method)
    assert declared is DECLARATIONS[method] and not issubclass(declared, Method)
    assert issubclass(loaded, Method)
    assert (loaded.Params, loaded.needs, loaded.sees) == (declared.Params, declared.needs, declared.sees)
    own = [vars(cls)["check_specs"].__func__ for cls in loaded.__mro__ if "check_specs" in vars(cls)]
    assert own[0] is declared.check_specs.__func__


def test_every_method_of_ovbench_is_declared():
    own = {name for name, target in METHODS.entries().items() if target.startswith("ovbench.methods.")}
    assert own == DECLARATIONS.keys()


def test_a_method_without_a_declaration_is_loaded():
    known = Registry(
        "method", {"mine": "ovbench.methods.clip:CLIP"}, declared="ovbench.methods.declarations:DECLARATIONS"
    )
    assert known.declaration("mine") is METHODS.load("clip")
    assert issubclass(METHODS.declaration("clip"), Declaration)
