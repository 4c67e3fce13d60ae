"""Profiles across a breakpoint: scale, shift and activation of a rectifier that is alone."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.identification.smooth.rectifiers import profile
from unveil.whitebox.activation import RECTIFIERS, activation


@pytest.mark.parametrize("name", RECTIFIERS)
def test_scale_and_shift_come_back_and_the_activation_is_the_one_that_fits(name: str, rng: np.random.Generator) -> None:
    phi, direction = activation(name), np.array([0.6, 0.8, 0.0])
    for scale, shift in ((1.7, 0.3), (0.6, -0.8)):
        weights = scale * direction
        oracle = uv.as_oracle(lambda x, w=weights, b=shift: np.stack([phi.value(x @ w + b), x[:, 2]], axis=1), 3)  # type: ignore[misc]
        before = oracle.ledger.asked
        seen = profile(oracle, np.array([0.0, 0.0, 3.0]), direction)
        assert oracle.ledger.asked - before == 69
        fits = {each: seen.fitted(activation(each)) for each in RECTIFIERS}
        assert min(fits, key=lambda each: fits[each].misfit) == name
        # (of an even bend the mirror image fits as well)
        assert np.allclose((fits[name].scale, fits[name].shift), (scale, shift), rtol=1e-5, atol=1e-5) or (
            phi.parity == "affine" and np.allclose(fits[name].shift, -shift, atol=1e-5)
        )


def test_nothing_is_told_where_nothing_bends() -> None:
    straight = uv.as_oracle(lambda x: x @ np.ones((3, 1)), 3)
    fit = profile(straight, np.zeros(3), np.array([1.0, 0, 0])).fitted(activation("silu"))
    assert fit.misfit == np.inf
    assert not fit.like(fit)
