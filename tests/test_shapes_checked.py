"""Shapes in signatures are checked while tests run, whatever ran before."""

from __future__ import annotations

import os

import jaxtyping
import numpy as np
import pytest

from tests.conftest import OFTEN
from unveil.identification.fitting.least_squares import jacobian
from unveil.whitebox.network import Network

pytestmark = pytest.mark.skipif(os.environ.get("UNVEIL_CHECK_SHAPES") == "0", reason="shapes are not checked")


@pytest.mark.parametrize("turn", [1, 2])
def test_a_wrong_shape_is_an_error_in_every_test_until_a_function_was_called_often(turn: int) -> None:
    network = Network.from_weights([(np.eye(3), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))], "tanh")
    with pytest.raises(jaxtyping.TypeCheckError):
        jacobian(network, np.zeros(3))
    for _ in range(OFTEN):
        jacobian(network, np.zeros((2, 3)))
    assert jacobian.__no_type_check__
