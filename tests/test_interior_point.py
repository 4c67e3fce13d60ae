"""The interior-point method against SciPy: the nearest point of random polytopes, in both norms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, sparse

from unveil.whitebox.interior_point import interior_point


def _polytope(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Equations and walls, a target, and a point inside."""
    rng = np.random.default_rng(seed)
    n, p, q = 9, 2, 25
    inside = rng.uniform(-0.5, 0.5, n)
    equal, below = rng.standard_normal((p, n)), rng.standard_normal((q, n))
    ceiling = below @ inside + rng.uniform(0.05, 0.6, q)
    return equal, equal @ inside, below, ceiling, 2 * rng.standard_normal(n), inside


@pytest.mark.parametrize("norm", [1, 2])
def test_nothing_in_the_polytope_is_nearer(norm: int) -> None:
    for seed in range(5):
        equal, level, below, ceiling, target, inside = _polytope(seed)
        n = len(target)
        box = -np.ones(n), np.ones(n)
        found = interior_point(
            sparse.csr_array(equal), level, sparse.csr_array(below), ceiling, box, target, inside, norm
        )
        z = found.z
        assert np.abs(equal @ z - level).max() < 1e-8
        assert (below @ z - ceiling).max() < 1e-9
        assert np.abs(z).max() < 1 + 1e-9
        if norm == 1:
            eye, none = np.eye(n), np.zeros((len(below), n))
            best = optimize.linprog(
                np.repeat([0.0, 1.0], n),
                A_ub=np.block([[below, none], [eye, -eye], [-eye, -eye]]),
                b_ub=np.concatenate([ceiling, target, -target]),
                A_eq=np.hstack([equal, np.zeros_like(equal)]),
                b_eq=level,
                bounds=[(-1, 1)] * n + [(0, None)] * n,
            ).fun
            assert np.abs(z - target).sum() == pytest.approx(best, rel=1e-5)
        # What the multipliers prove: in the whole box no value of the Lagrangian is lower than what was reached.
        assert (found.pressure >= 0).all()
        tilt = equal.T @ found.prices + below.T @ found.pressure
        if norm == 1:
            places = np.array([-np.ones(n), np.ones(n), np.clip(target, -1, 1)])
            reached, least = np.abs(z - target).sum(), (np.abs(places - target) + tilt * places).min(axis=0).sum()
        else:
            place = np.clip(target - tilt, -1, 1)
            reached, least = (z - target) @ (z - target) / 2, ((place - target) ** 2 / 2 + tilt * place).sum()
        assert least - found.prices @ level - found.pressure @ ceiling == pytest.approx(reached, rel=1e-4)
