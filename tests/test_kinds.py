"""Rooms behind inverses: boxes, kinds of one batch, branch and bound, proofs of none, and the rounding of a product."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from unveil.outcome import BadInput
from unveil.whitebox.activation import activation
from unveil.whitebox.box import ends
from unveil.whitebox.branch_and_bound import Regions
from unveil.whitebox.certificate import Ground
from unveil.whitebox.extent import Extent
from unveil.whitebox.inversion import NoInput, allowed, from_features, given_features
from unveil.whitebox.kinds import KINDS, decide, forced_rank, independent
from unveil.whitebox.linear_piece import blocks_of, first_piece, next_piece
from unveil.whitebox.network import Layer, Network
from unveil.whitebox.piece_rounding import SURE, Rounding
from unveil.whitebox.preimage import preimage
from unveil.whitebox.wanted import wanted

SEEDS = range(5)
RELU = activation("relu")


def test_a_box_has_two_ends_for_each_coordinate() -> None:
    low, high = ends((0, [1.0, 2.0, 3.0]), 3)
    np.testing.assert_array_equal(low, [0, 0, 0])
    np.testing.assert_array_equal(high, [1, 2, 3])
    low, high = ends((np.zeros((1, 3)), 0.0), 3)
    np.testing.assert_array_equal(high - low, 0)
    for wrong in ((1.0, 0.0), ([0, 2, 0], 1), (0, [1, 2]), (0,), (0, "a"), (0, np.nan)):
        with pytest.raises(BadInput, match="within="):
            ends(wrong, 3)  # type: ignore[arg-type]


def test_kinds_of_a_layer_of_two_inputs_are_those_of_its_cones() -> None:
    """Rows at known angles: silent rows leave the cone {a z <= 0}, on which active rows must not move."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    found = decide(rows, np.zeros(3), True, np.array([[1.0, 2.0], [-1.0, -1.0], [2.0, -0.5], [-1.0, 0.5]]))
    # Two active rows: a point. Only one: along the line that it leaves another comes up, whichever way one goes.
    assert [KINDS[k] for k in found.kind] == ["point", "compact", "compact", "point"]
    assert found.certified.all()
    found = decide(rows[:2], np.zeros(2), True, np.array([[1.0, 2.0], [1.0, -2.0], [-1.0, -1.0]]))
    assert [KINDS[k] for k in found.kind] == ["point", "infinite", "infinite"]
    assert (rows[:2] @ found.directions[1] <= 1e-12).all()
    np.testing.assert_allclose(found.directions[1][0], 0, atol=1e-12)
    # As many active rows as inputs, and not independent: no point. One that is not is told from the others.
    same = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    flat = decide(same, np.array([0.0, 0.0, -5.0, -5.0]), True, np.array([[1.0, 0.0], [1.0, 6.0]]))
    assert [KINDS[k] for k in flat.kind] == ["compact", "point"]
    # Zero within rounding is silent and tight; without a ReLU every row is active.
    found = decide(rows, np.zeros(3), True, np.zeros((1, 2)))
    assert found.tight.all()
    assert not found.active.any()
    assert KINDS[found.kind[0]] == "point"
    assert decide(rows, np.zeros(3), False, -np.ones((1, 2))).active.all()
    np.testing.assert_allclose(decide(rows, np.ones(3), True, np.array([[-3.0, 1.0]])).slack, [[2.0, 0, 0]])


@pytest.mark.parametrize("seed", SEEDS)
def test_patterns_are_independent_as_their_rows_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (9, 3)).astype(float)
    active = rng.random((40, 9)) < rng.uniform(0.1, 0.9)
    want = [np.linalg.matrix_rank(rows[each]) == 3 if each.any() else False for each in active]
    np.testing.assert_array_equal(independent(Ground(rows), active), want)
    assert independent(Ground(rows), active[:0]).shape == (0,)


def test_a_cone_falls_short_by_the_rank_of_what_is_forced() -> None:
    axes = np.eye(3)
    assert forced_rank(axes) == 0
    assert forced_rank(np.concatenate([axes[:1], -axes[:1]])) == 1
    # a + b + c = 0 forces all three; they span two dimensions.
    assert forced_rank(np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, -1.0, 0], [0, 0, 1.0]])) == 2
    assert forced_rank(np.concatenate([axes, -axes])) == 3
    assert forced_rank(np.zeros((2, 3))) == 0


def small(rng: np.random.Generator) -> Network:
    return Network(
        (
            Layer(rng.standard_normal((3, 2)), 0.3 * rng.standard_normal(3), RELU),
            Layer(rng.standard_normal((1, 3)), np.zeros(1), activation("identity")),
        )
    )


class Looking:
    """The least that branch and bound needs around itself."""

    def __init__(self, network: Network, y: np.ndarray, goal: np.ndarray | None = None, budget: int = 400) -> None:
        self.network, self.y, self.goal, self.budget = network, y, goal, budget
        self.tolerance, self.spent = 1e-7, 0
        self.best, self.off, self.distance = np.zeros(network.n), np.inf, np.inf

    def offer(self, x: np.ndarray, distance: bool = False) -> bool:
        x = np.clip(x, -1, 1)
        off = float(np.abs(self.network(x[None])[0] - self.y).max())
        away = 0.0 if self.goal is None else float(np.abs(x - self.goal).sum())
        good = (off <= self.tolerance and away < self.distance) if distance else off < self.off
        if good:
            self.best, self.off, self.distance = x, off, away
        return good

    def polished(self, x: np.ndarray) -> np.ndarray:
        return x


def regions(network: Network, y: np.ndarray, box: tuple[np.ndarray, np.ndarray]) -> Regions:
    return Regions(network, wanted(activation("identity"), y, 1e-7), box, 1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_branch_and_bound_agrees_with_a_fine_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = small(rng)
    box = (-np.ones(2), np.ones(2))
    grid = np.array(list(product(np.linspace(-1, 1, 161), repeat=2)))
    values = network(grid)[:, 0]
    slope = np.abs(network.layers[1].dense()) @ np.abs(network.layers[0].dense()).sum(axis=1)
    fine = float(slope[0]) / 160
    inside = float(rng.uniform(values.min(), values.max()))
    looking = Looking(network, np.array([inside]))
    verdict, least, _ = regions(network, looking.y, box).existence(looking)
    assert (verdict, least) == ("found", 0.0)
    assert looking.off <= 1e-7
    above = values.max() + fine + 0.5
    looking = Looking(network, np.array([above]))
    verdict, least, closed = regions(network, looking.y, box).existence(looking)
    assert (verdict, closed) == ("none", True)
    # No more than is true, and no grid point contradicts it.
    assert 0 < least <= above - values.max() + 1e-9
    looking = Looking(network, np.array([above]), budget=0)
    assert regions(network, looking.y, box).existence(looking) == ("not found", 0.0, False)
    goal = rng.uniform(-1, 1, 2)
    looking = Looking(network, np.array([inside]), goal)
    regions(network, looking.y, box).existence(looking)
    looking.distance = float(np.abs(looking.best - goal).sum())
    bound, closed = regions(network, looking.y, box).nearest(looking, goal)
    near = grid[np.abs(values - inside) <= fine]
    assert closed
    assert bound <= looking.distance + 1e-9
    assert looking.distance - bound < 1e-4
    # The grid knows the level set up to a step on each side.
    assert np.abs(near - goal).sum(axis=1).min() <= bound + 4 / 80 + 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_a_proof_of_none_holds_for_the_layer_and_for_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, bias = rng.integers(-3, 4, (4, 2)).astype(float), np.zeros(4)
    rows[3] = -rows[:3].sum(axis=0)
    network = Network((Layer(rows, bias, RELU),))
    # The sum of all preactivations is zero: four positive features are impossible.
    y = np.array([1.0, 1.0, 1.0, 1.0])
    found = from_features(network, y, 0, (-5.0, 5.0), None, 1, None)
    assert found.verdict == "none"
    assert found.check()
    assert found.proof is not None
    assert found.proof.check_exactly()
    # In a box whose lower wall alone keeps a sum positive, the other wall proves nothing.
    one = NoInput(
        np.ones((1, 2)), np.zeros(1), wanted(RELU, np.array([0.5]), 1e-6), np.ones(1), np.ones(2), np.full(2, 9.0)
    )
    assert one.check_exactly()
    assert one.miss() == pytest.approx(1.5)
    assert not NoInput(one.weights, one.bias, one.wanted, one.multipliers, np.zeros(2), one.ceiling).check_exactly()
    # Each feature off by less than 1 leaves the sum positive; a miss of 1 is reached where all are at rest.
    assert 0.5 < found.least <= 1 + 1e-9
    assert found.proof.miss() == pytest.approx(found.least, rel=1e-6)
    turned = NoInput(rows, bias, wanted(RELU, y, 1e-6), -found.proof.multipliers, np.full(2, -5.0), np.full(2, 5.0))
    assert turned.miss() == 0.0
    assert not turned.check_exactly()
    z = rng.uniform(-1, 1, 2)
    there = from_features(network, network(z[None])[0], 0, (-5.0, 5.0), np.zeros(2), 2, None)
    assert there.verdict == "found"
    assert there.deviation <= there.tolerance
    assert there.bound is not None
    assert there.bound <= there.distance + 1e-9 <= np.linalg.norm(z) + 1e-6


def test_features_and_tolerances_are_checked() -> None:
    network = Network((Layer(np.eye(2), np.zeros(2), RELU),))
    with pytest.raises(BadInput, match="2 features"):
        given_features(network, np.zeros(3), 0)
    with pytest.raises(BadInput, match="finite"):
        given_features(network, np.array([0, np.nan]), 0)
    assert allowed(None, np.array([3.0, -50.0])) == pytest.approx(5e-5)
    assert allowed(None, np.array([0.1])) == 1e-6
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(BadInput, match="positive"):
            allowed(wrong, np.zeros(1))
    with pytest.raises(BadInput, match="outside"):
        from_features(network, np.ones(2), 0, (0.0, 1.0), np.array([2.0, 0.0]), 1, None)


def test_the_extent_of_a_known_preimage() -> None:
    """Of `relu(z1 + z2)` at rest the other corner of the box is as far as one can go."""
    network = Network((Layer(np.array([[1.0, 1.0]]), np.array([-1.5]), RELU),))
    found = preimage(network, np.array([0.1, 0.1])).extent((0.0, 1.0))
    assert isinstance(found, Extent)
    assert found.length == pytest.approx(np.linalg.norm(found.end - 0.1))
    assert found.change == pytest.approx(np.abs(found.end - 0.1).mean())
    # To the wall z1 + z2 = 1.5, no nearer than where that is nearest to the far corner.
    assert found.end.sum() == pytest.approx(1.5)
    assert found.length >= 0.65 * np.sqrt(2) - 1e-6
    assert found.tried == 4
    open_ended = preimage(network, np.array([0.1, 0.1])).extent((-np.inf, np.inf))
    assert open_ended.length == np.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_of_a_product_is_as_large_as_it_is_measured(seed: int) -> None:
    """Two layers that cancel by a factor of 1e8: the floor covers what the singular values are off by, barely more."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((6, 5))
    last = rng.standard_normal((4, 6)) * 1e8
    # The columns of the second are nearly orthogonal to what the first makes.
    last -= last @ first @ np.linalg.pinv(first) * (1 - 1e-8)
    layers = [Layer(first, np.zeros(6), RELU), Layer(last, np.zeros(4), RELU)]
    piece = first_piece(blocks_of(layers[0]), 6, np.arange(5), 5)
    behind = next_piece(blocks_of(layers[1]), 4, piece)
    start = Rounding.none(piece)
    assert start.floor == 0
    told = start.behind(layers[1], piece, behind)
    off = np.linalg.norm(behind.whole() - (last.astype(np.longdouble) @ first.astype(np.longdouble)).astype(float))
    assert off <= told.floor
    assert told.floor < 1e-4
    assert told.floor == pytest.approx(SURE * np.sqrt(np.mean(np.sum(told.error**2, axis=0))))
    # What a layer before it rounded goes on through the next one.
    before = Rounding(1e-9 * rng.standard_normal(start.error.shape))
    carried = before.behind(layers[1], piece, behind)
    np.testing.assert_allclose(carried.error - told.error, last @ before.error, rtol=1e-6, atol=1e-12)
    # A neuron at rest passes nothing on.
    slope = np.array([0.0, 1.0, 1.0, 0.5])
    kept = told.kept(slope, behind.keep(slope), False)
    np.testing.assert_allclose(kept.error, slope[:, None] * told.error)
    assert told.kept(slope, behind.keep(slope).folded(), True).floor >= kept.floor * 0.5
