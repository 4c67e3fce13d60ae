"""Certificates of preimages: proofs made by hand, true and false ones, in floating point and in rationals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unveil.whitebox.certificate import Certificate, Ground
from unveil.whitebox.null_space import factor
from unveil.whitebox.omnidirectional import recession


def pattern(size: int, *which: int) -> np.ndarray:
    return np.isin(np.arange(size), which)


# Three rows that surround the origin of a plane, a fourth that adds nothing.
ROWS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -2.0], [1.0, 1.0]])
NONE = pattern(4)


def both(proof: Certificate) -> bool:
    """What both checks say, which must be the same."""
    assert proof.check() == proof.check_exactly()
    return proof.check()


def test_active_rows_that_determine_the_input_prove_a_point() -> None:
    assert both(Certificate("point", Ground(ROWS), pattern(4, 0, 1), NONE, NONE))
    assert not both(Certificate("point", Ground(ROWS), pattern(4, 0), NONE, NONE))
    parallel = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 1.0]])
    assert not both(Certificate("point", Ground(parallel), pattern(3, 0, 1), pattern(3), pattern(3)))


def test_multipliers_prove_that_nothing_leads_to_infinity() -> None:
    # w^T A = 0 with w = (1, 2, 1): no u has A u <= 0 but u = 0.
    proof = Certificate(
        "compact", Ground(ROWS), NONE, pattern(4, 0, 1, 2), NONE, multipliers=np.array([1.0, 2.0, 1.0, 0.0])
    )
    assert both(proof)
    # Without its third row the cone is open; and these multipliers do not sum to nothing.
    assert not both(replace(proof, silent=pattern(4, 0, 1)))
    assert not replace(proof, multipliers=np.array([1.0, 2.0, 3.0, 0.0])).check()
    assert not both(replace(proof, multipliers=None))
    assert not both(replace(proof, multipliers=np.zeros(4)))
    # All three tight: only one input has them all, so that it is a point and nothing more.
    assert both(replace(proof, kind="point", tight=pattern(4, 0, 1, 2)))
    assert not both(replace(proof, tight=pattern(4, 0, 1, 2)))


def test_a_direction_proves_that_a_ray_stays() -> None:
    down = np.array([-1.0, -1.0]) / np.sqrt(2)
    proof = Certificate("infinite", Ground(ROWS), NONE, pattern(4, 0, 1, 3), NONE, direction=down)
    assert both(proof)
    assert not both(replace(proof, direction=-down))
    assert not both(replace(proof, silent=pattern(4, 0, 2)))
    assert not both(replace(proof, active=pattern(4, 0, 1)))  # nothing but the origin is left
    assert not both(replace(proof, direction=None))


def test_rational_arithmetic_sees_what_rounding_hides() -> None:
    """Rows that a change by 1e-13 would make parallel to the direction: the float check says so much and no more."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-13]])
    along = np.array([0.0, 1.0])
    proof = Certificate("infinite", Ground(rows), pattern(3, 0, 2), pattern(3), pattern(3), direction=along)
    assert 0 < proof.residual() <= proof.bound()
    assert proof.check()
    assert not proof.check_exactly()


def test_verdicts_on_random_patterns_are_proved_exactly(rng: np.random.Generator) -> None:
    seen = set()
    for m in (5, 9) * 10:  # of so many directions at random in space, all lie on one side often, and hardly ever
        rows = rng.integers(-9, 10, (m, 3)).astype(float)
        silent = ~pattern(m, int(rng.integers(3 * m)))
        if np.linalg.matrix_rank(rows) < 3:
            continue
        verdict = recession(factor(rows), silent[None])
        kind = "compact" if verdict.bounded[0] else "infinite"
        seen.add(kind)
        proof = Certificate(kind, Ground(rows), ~silent, silent, pattern(m), verdict.multipliers[0])
        if kind == "infinite":
            assert both(replace(proof, direction=verdict.directions[0]))
            # No multipliers prove the contrary.
            assert not replace(proof, kind="compact", multipliers=rng.exponential(size=m)).check_exactly()
        else:
            assert both(proof)
            assert not replace(proof, kind="infinite", direction=rng.standard_normal(3)).check_exactly()
    assert seen == {"compact", "infinite"}
