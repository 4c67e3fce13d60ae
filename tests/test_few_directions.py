"""Few directions of many inputs: their complement, and derivatives along them."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear import derivatives as room
from unveil.identification.piecewise_linear.few_directions import Directions, Narrow, _all_columns
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.normals import _told_apart
from unveil.identification.piecewise_linear.probe import Probe


@pytest.mark.parametrize(("n", "p"), [(40, 7), (9, 1), (12, 12)])
def test_all_columns_are_orthonormal_and_the_first_span_what_was_given(
    n: int, p: int, rng: np.random.Generator
) -> None:
    a = rng.standard_normal((n, p))
    q = _all_columns(a)
    np.testing.assert_allclose(q.T @ q, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(q[:, p:].T @ a, 0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 30, 1000])
def test_derivatives_do_not_hang_on_parts_nor_on_who_lifts_the_questions(
    batch: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, v = rng.standard_normal((5, 30)), rng.standard_normal((3, 5))
    oracle = uv.as_oracle(lambda x: np.maximum(x @ w.T + 50, 0) @ v.T, 30)
    q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    directions = Directions(q[:, :8], q[:, 8:])
    narrow = Narrow(oracle, directions)
    noise = rounding(narrow, rng.standard_normal((4, 8)), float(np.finfo(np.float64).eps), rng)
    x = rng.standard_normal((4, 8))
    monkeypatch.setattr(room, "NUMBERS_PER_BATCH", batch)
    found = []
    for lifted in (None, (oracle, narrow.lift)):
        before = oracle.ledger.asked
        probe = Probe(Asked(narrow), noise, np.random.default_rng(1), lifted)
        slope, error = room.derivatives(probe, Frame.of_input(8, None), x, np.full(4, 0.1))
        assert np.isfinite(error).all()
        np.testing.assert_allclose(slope, np.broadcast_to(v @ w @ narrow.lift.T, slope.shape), atol=1e-8)
        found.append(oracle.ledger.asked - before)
    assert found[0] == found[1]


def test_breakpoints_told_apart_are_as_many_as_their_slopes_are_independent(rng: np.random.Generator) -> None:
    bend = rng.standard_normal((9, 3))
    bend[5] = bend[4]
    most = _told_apart(bend / np.linalg.norm(bend, axis=1, keepdims=True), 1e-6)
    np.testing.assert_array_equal(most, [1, 2, 3, 3, 3, 1, 2, 3, 3])
