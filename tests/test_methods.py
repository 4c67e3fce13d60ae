"""The registry of methods: every one of them can be made, is public, and stands in the documentation."""

from __future__ import annotations

from inspect import isabstract
from pathlib import Path

import pytest

import unveil as uv
from unveil.identification.method import Method
from unveil.identification.methods import METHODS, method_named
from unveil.identification.smooth.conclusion import SmoothMethod


def test_every_method_is_registered_public_and_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "identify.md").read_text()
    for name, each in METHODS.items():
        method = method_named(name, ("sin",) if name == "frequencies" else ("tanh",), (5,))
        assert type(method) is getattr(uv, each.name)
        assert f"`{each.name}`" in text
    kinds = [kind for base in (Method, SmoothMethod) for kind in base.__subclasses__() if not isabstract(kind)]
    assert {type(method_named(name, ("tanh",), None)) for name in METHODS} >= {
        kind for kind in kinds if kind.__module__.startswith("unveil.")
    }


def test_methods_are_told_what_they_can_use() -> None:
    assert method_named("one-hidden-layer", ("tanh", "sin"), (5, 3)) == uv.OneHiddenLayer("tanh", 5)
    assert method_named("saturation", None, (5,)) == uv.Saturation(None, (5,))
    with pytest.raises(uv.BadInput, match="--activation"):
        method_named("entangled-weights", None, None)
    with pytest.raises(uv.BadInput, match="known: saturation, peeling"):
        method_named("guessing", None, None)
