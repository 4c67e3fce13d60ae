"""Steps and states of the search for a row span, and what its rooms compute from answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate
from unveil.blackbox.noise_model import measure_noise
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.callable import CallableSource
from unveil.blackbox.span_search.accuracy import measure, price
from unveil.blackbox.span_search.candidates import CHOOSING, independent, most_telling, screen
from unveil.blackbox.span_search.directions import SparseFrame, slopes
from unveil.blackbox.span_search.growth import confirm, grow
from unveil.blackbox.span_search.known import Known
from unveil.blackbox.span_search.lattice import _extrapolate, _lengths
from unveil.blackbox.span_search.points import Asker, Places, evened, legal_step
from unveil.blackbox.span_search.probe import jumps, refusal, slopes_between, undecided
from unveil.blackbox.span_search.refinement import coordinates, gather, rank_above, sharpen
from unveil.blackbox.span_search.search import _best, _worth
from unveil.blackbox.span_search.spectrum import left_out, truncate
from unveil.blackbox.span_search.state import Goal, State, first_steps

GOAL = Goal(1e-4, 0.95, 0.01, 1e-3)


def begun(model, n: int, rng: np.random.Generator, **of: object) -> tuple[Asker, State]:
    oracle = uv.as_oracle(model, n, **of)
    ask = Asker(oracle, measure_noise(oracle, rng=rng), rng)
    return ask, State(Known.nothing(n), first_steps(ask), ask.places(np.empty((0, n))))


def with_basis(state: State, basis: np.ndarray, **changed: object) -> State:
    return state.with_span(np.linalg.qr(basis.T)[0].T, **changed)


def sine(state: State, rows: np.ndarray) -> float:
    q = np.linalg.qr(rows.T)[0]
    return float(np.linalg.norm(state.known.basis - state.known.basis @ q @ q.T, 2))


def test_fresh_points_suffice_for_the_stated_confidence() -> None:
    for confidence, unseen in ((0.95, 0.01), (0.5, 0.2), (0.999, 0.05)):
        goal = Goal(1e-4, confidence, unseen, 1e-3)
        assert (1 - unseen) ** goal.fresh <= 1 - confidence < (1 - unseen) ** (goal.fresh - 1)


def test_first_steps_stay_straight_and_in_the_box(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 10))
    ask, state = begun(lambda x: np.maximum(x @ w.T, 0), 10, rng, within=(-1.0, 1.0))
    steps = state.steps
    assert 0 < steps.step <= steps.probe
    assert steps.curvature == 0
    assert steps.slope_noise == pytest.approx(math.sqrt(2) / steps.step)
    assert 4 * steps.step <= np.max(steps.margin) * (1 + 1e-12) or np.max(steps.margin) == 2 / 32
    here = ask.draw(200, steps.margin)
    assert np.abs(here.x).max() <= 1 - np.min(steps.margin) + 1e-12
    twice = steps.times(2.0)
    assert (twice.probe, twice.step, twice.slope_noise) == (2 * steps.probe, 2 * steps.step, steps.slope_noise / 2)


def test_central_steps_of_a_smooth_model_are_less_noisy(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 10))
    _, state = begun(lambda x: np.tanh(x @ w.T).astype(np.float32), 10, rng)
    assert state.steps.curvature > 0
    centred = state.steps.centred()
    assert centred.central
    assert centred.step > state.steps.step
    assert centred.slope_noise < state.steps.slope_noise


def test_growth_finds_the_span_and_confirmation_nothing_more(rng: np.random.Generator) -> None:
    w = rng.standard_normal((5, 20))
    ask, state = begun(lambda x: np.maximum(x @ w.T + 0.3, 0) @ np.ones((5, 1)), 20, rng)
    growing = grow(ask, state, ask.draw(8))
    seen = []
    while True:
        try:
            seen.append(next(growing).rank)
        except StopIteration as end:
            state = end.value
            break
    assert seen == sorted(set(seen))
    assert state.rank == 5
    assert sine(state, w) < 1e-6
    before = ask.oracle.ledger.asked
    state, places = confirm(ask, state, 100)
    assert (len(places), state.confirmed, ask.oracle.ledger.asked - before) == (0, 100, 200)
    missing = with_basis(state, w[:4], row_error=1e-12, confirmed=0)
    short, places = confirm(ask, missing, 100)
    assert len(places)
    assert not short.confirmed


def test_screened_slopes_are_those_of_the_complement(rng: np.random.Generator) -> None:
    w = rng.standard_normal((3, 12))
    ask, state = begun(lambda x: x @ w.T, 12, rng)
    here = ask.draw(50)
    slope, straight = screen(ask, with_basis(state, w), here)
    assert straight.mean() > 0.9
    assert np.median(slope) < 10 / state.steps.probe
    slope, straight = screen(ask, with_basis(state, w[:2]), here)
    assert straight.mean() > 0.9
    assert np.median(slope) > 1e4 / state.steps.probe


def test_a_pass_of_refinement_takes_the_error_off(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 25))
    ask, state = begun(lambda x: x @ w.T + 0.2, 25, rng)
    off = np.linalg.qr(w.T)[0].T + 1e-6 * rng.standard_normal((4, 25))
    state = with_basis(state, off, row_error=1e-6 * math.sqrt(4), typical=1.0, places=ask.draw(6))
    gathered = gather(ask, state)
    assert gathered.gradients is not None
    assert len(gathered.gradients[1]) >= 4
    before = sine(gathered, w)
    sharper, error = sharpen(ask, gathered)
    assert before > 1e-6
    assert sine(sharper, w) < 1e-3 * before
    assert error >= 0.2 * before / math.sqrt(25)


def rng_mix() -> np.ndarray:
    return np.array([[1.0, -2.0], [0.5, 1.0], [2.0, 1.0], [-1.0, 1.5]])


def test_the_measured_accuracy_bounds_the_error(rng: np.random.Generator) -> None:
    exceeded = told = 0
    for size in (1e-7, 1e-5, 1e-3):
        for _ in range(2):
            w = rng.standard_normal((4, 25))
            ask, state = begun(lambda x, w=w: np.maximum(x @ w.T + 0.2, 0) @ rng_mix(), 25, rng)
            off = np.linalg.qr(w.T)[0].T + size * rng.standard_normal((4, 25))
            state = with_basis(state, off, row_error=size * 2, typical=1.0, places=ask.draw(6))
            found = measure(ask, state)
            true = sine(found, w)
            exceeded += true > found.accuracy
            assert found.measured
            told += found.accuracy < 100 * true
    assert exceeded <= 1
    assert told >= 3  # where a breakpoint was met nearly everywhere nothing is told


def test_the_price_of_a_measurement_grows_with_rank_and_falls_with_outputs() -> None:
    assert price(100, 1, 20) > price(100, 1, 10) > price(100, 10, 10)
    assert price(100, 1, 10, smooth=True) < price(100, 1, 10)


def test_singular_values_count_up_to_the_largest_gap() -> None:
    floor = 1e-6
    assert rank_above(np.array([1.0, 0.5, 0.1]), floor) == 3
    assert rank_above(np.array([1.0, 0.5, 1e-5, 3e-6, 2e-6]), floor) == 2
    assert rank_above(np.array([1.0, 0.5, 2e-4, 1e-6, 1e-7]), floor) == 3


def test_what_a_span_leaves_out_is_its_share_of_the_gradient(rng: np.random.Generator) -> None:
    q = np.linalg.qr(rng.standard_normal((30, 3)))[0].T
    ask, state = begun(lambda x: x @ (q.T * [1.0, 1.0, 0.1]) @ np.ones((3, 1)), 30, rng)
    for basis, share in ((q, 0.0), (q[:2], math.sqrt(0.01 / 2.01)), (q[:1], math.sqrt(1.01 / 2.01))):
        found = left_out(ask, with_basis(state, basis, row_error=1e-12))
        assert found == pytest.approx(share, rel=0.35, abs=1e-3)
    assert left_out(ask, with_basis(state, np.eye(30))) == 0.0


def test_a_falling_spectrum_is_cut_where_little_is_left(rng: np.random.Generator) -> None:
    q = np.linalg.qr(rng.standard_normal((12, 3)))[0].T
    sizes = 100.0 ** -np.arange(3)
    mixed = np.linalg.qr(rng.standard_normal((3, 3)))[0]  # every output has something of every direction
    ask, state = begun(lambda x: x @ (q.T * sizes) @ mixed, 12, rng)
    for share, rank in ((1e-1, 1), (1e-3, 2)):
        kept = truncate(ask, with_basis(state, q), replace(GOAL, leave_out=share))
        assert kept.rank == rank
        assert sine(kept, q[:rank]) < 0.2
        assert 0.1 * 100.0**-rank < kept.left_out <= share


def test_central_differences_are_extrapolated_without_error_to_their_degree(rng: np.random.Generator) -> None:
    c = rng.standard_normal(4)
    quotients = [np.array([np.polyval(c[::-1], step**2)]) for step in range(1, 5)]
    np.testing.assert_allclose(_extrapolate(quotients), c[:1], rtol=1e-10)


def test_of_spans_about_as_accurate_the_larger_is_kept(rng: np.random.Generator) -> None:
    _, state = begun(lambda x: x[:, :1], 6, rng)
    small, large, vague = (with_basis(state, np.eye(6)[:k], accuracy=a) for k, a in ((2, 1e-5), (3, 2e-5), (4, 1e-3)))
    assert _best([small, large, vague]).rank == 3
    assert _best([small, vague]).rank == 2


def test_gradients_are_not_doubled_for_an_accuracy_that_rounding_hides_after_all_doublings(
    rng: np.random.Generator,
) -> None:
    _, state = begun(lambda x: x[:, :1], 6, rng)
    goal = Goal(1e-4, 0.95, 0.01, 1e-3)
    for left in range(6):
        within_reach = 2 ** (left / 2) * goal.accuracy
        for least, worth in ((1.1 * within_reach, False), (0.9 * within_reach, True), (0.0, True)):
            seen = with_basis(state, np.eye(6)[:2], accuracy=2 * least or 1e-3, least=least)
            assert _worth([seen], goal, left) is worth
        # What rounding does not explain is directions that are missing, which more gradients may show.
        other = with_basis(state, np.eye(6)[:2], accuracy=4 * within_reach, least=1.1 * within_reach)
        assert _worth([other], goal, left)


@pytest.mark.parametrize("width", [0.2, 1e6])
def test_walls_end_the_steps_of_a_narrow_box_only(width: float) -> None:
    rng = np.random.default_rng(3)
    w = rng.standard_normal((12, 3))
    model = lambda x: np.tanh(x @ w).astype(np.float32)  # noqa: E731
    oracle = uv.as_oracle(model, 12, within=(-width, width)) if width < 1 else uv.as_oracle(model, 12)
    ask = Asker(oracle, measure_noise(oracle, rng=rng), rng)
    *_, grown = grow(ask, State(Known.nothing(12), first_steps(ask), ask.draw(0)), ask.draw(8))
    state, _ = sharpen(ask, gather(ask, grown))
    measured = measure(ask, state)
    assert (state.rounded > 0) == (measured.least > 0) == (width < 1)
    assert state.rounded <= state.predicted


def test_steps_and_constants_are_told_from_slopes(rng: np.random.Generator) -> None:
    w = rng.standard_normal((10, 2))
    ask, _ = begun(lambda x: np.maximum(x @ w, 0), 10, rng)
    assert refusal(ask) is None
    ask, _ = begun(lambda x: np.floor(4 * np.tanh(x @ w)) + x @ w, 10, rng)
    assert refusal(ask) is None
    assert jumps(ask)
    assert slopes_between(ask)
    lost = np.random.default_rng(5)
    ask, _ = begun(lambda x: np.floor(x @ w) + 1e-9 * lost.standard_normal((len(x), 2)), 10, rng, noisy=True)
    assert jumps(ask)
    assert not slopes_between(ask)
    ask, _ = begun(lambda x: np.full((len(x), 1), 2.5), 10, rng)
    ask.draw(4)
    assert undecided(ask) is uv.Outcome.nothing_to_find


def test_what_a_rule_depends_on_shows_in_no_slope_and_is_not_called_complete(rng: np.random.Generator) -> None:
    """Two networks of the same three directions, and a threshold on a fourth that decides which of them answers."""

    def right() -> bool:
        rows, rule = rng.standard_normal((3, 16)), rng.standard_normal(16)
        w, v = rng.standard_normal((2, 8, 3)), rng.standard_normal((2, 2, 8))

        def model(x: np.ndarray) -> np.ndarray:
            both = [np.maximum(x @ rows.T @ w[i].T, 0) @ v[i].T for i in (0, 1)]
            return np.where((x @ rule > 0.3)[:, None], *both)

        span = uv.row_span(uv.as_oracle(model, 16), rng=rng)
        assert span.outcome is uv.Outcome.approximate
        return span.rank == 3 and span.distance(rows) < 1e-6 and span.left_out > 1e-3

    assert_rate([right() for _ in range(10)], 0.8)


def test_the_noise_heard_beside_a_place_is_what_the_model_loses_there(rng: np.random.Generator) -> None:
    w = rng.standard_normal((10, 2))
    lost = np.random.default_rng(5)

    def model(x: np.ndarray) -> np.ndarray:
        size = 1e-6 * np.where(x[:, :1] > 0, 300.0, 1.0)
        return x @ w + size * lost.standard_normal((len(x), 2))

    ask, state = begun(model, 10, rng, noisy=True)
    here = ask.draw(200, state.steps.margin)
    there = ask.heard(here)
    loud = here.x[:, 0] > 0
    assert np.allclose(there.fx * there.sigma, here.fx * here.sigma, rtol=1e-12)
    assert (there.sigma >= here.sigma).all()
    level = np.sqrt(np.mean(there.sigma[loud] ** 2))
    assert 0.8 * 3e-4 < level < 1.2 * 3e-4
    # Slopes are no noise, however steep, and where there are digits to spare nothing is asked.
    ask, state = begun(lambda x: (1e4 * x @ w).astype(np.float32), 10, rng)
    quiet = ask.draw(100, state.steps.margin)
    assert np.median(ask.heard(quiet).sigma / quiet.sigma) < 3
    ask, state = begun(lambda x: np.maximum(x @ w, 0), 10, rng)
    quiet, before = ask.draw(10, state.steps.margin), ask.oracle.ledger.asked
    assert ask.heard(quiet) is quiet
    assert ask.oracle.ledger.asked == before


def test_a_gradient_of_shorter_steps_counts_for_as_little_as_it_is_exact(rng: np.random.Generator) -> None:
    w = np.linalg.qr(rng.standard_normal((20, 3)))[0]
    model = lambda x: (np.maximum(x @ w, 0) @ np.ones((3, 1))).astype(np.float32)  # noqa: E731
    ask, state = begun(model, 20, rng)
    state = with_basis(state, w.T, row_error=1e-4)
    x = rng.standard_normal((60, 20))
    # A breakpoint within the usual step of half of the places.
    x[::2] -= (x[::2] @ w[:, :1] - 0.3 * state.basis_step) @ w[:, :1].T
    places, c = coordinates(ask, state.known.basis, ask.places(ask.oracle.nearest(x)), state.basis_step)
    near = np.abs(places.x @ w[:, 0]) < state.basis_step
    assert near.sum() > 10
    assert (~near).sum() > 10
    assert np.median(places.coarser[near]) > 3
    assert np.median(places.coarser[~near]) == 1
    true = (places.x @ w > 0) / places.sigma
    error = np.sqrt(np.mean((c - true) ** 2, axis=1))
    assert np.mean(error <= 4 * state.coarse * places.coarser) > 0.95
    weights = replace(state, gradients=(places, c)).slope_weights(10.0)[:, 0]
    assert weights[near].max() < 1.001 * weights[~near].min() + 1e-12 or (places.coarser[near] == 1).any()
    assert np.median(weights[near]) < np.median(weights[~near])


def test_the_accuracy_stated_does_not_hang_on_gradients_that_shorter_steps_have_blurred(
    rng: np.random.Generator,
) -> None:
    w = np.linalg.qr(rng.standard_normal((20, 3)))[0].T
    strength = np.array([1.0, 1.0, 1e-3])  # the weakest is below the error of the blurred gradients
    right = []
    for _ in range(12):
        model = lambda x: (np.tanh(x @ w.T + 0.3) @ strength[:, None]).astype(np.float32)  # noqa: E731
        ask, state = begun(model, 20, rng)
        error = 1e-3 * np.outer([0, 0, 1.0], rng.standard_normal(20)) / 20**0.5
        state = with_basis(state, w + error - error @ w.T @ w, row_error=1e-4)
        here = ask.draw(12, state.steps.margin)
        places, c = coordinates(ask, state.known.basis, here, state.basis_step)
        blurred = np.arange(len(places)) < 2
        c[blurred] += 0.1 * np.linalg.norm(c, axis=1).max() * rng.standard_normal((2, 3))
        coarser = np.where(blurred, 0.1 * np.linalg.norm(c, axis=1).max() / state.coarse, 1.0)
        state = measure(ask, replace(state, gradients=(replace(places, coarser=coarser), c)))
        right.append(state.rank == 3 and sine(state, w) <= state.accuracy < 0.5)
    assert_rate(right, 0.99)


def test_points_across_the_middle_are_asked_where_none_are_given(rng: np.random.Generator) -> None:
    w = rng.standard_normal((6, 2))
    ask, state = begun(lambda x: np.maximum(x @ w, 0), 6, rng, within=(0.0, 2.0))
    here = ask.draw(5, state.steps.margin)
    there = ask.across(here)
    assert np.allclose(there.x, 2.0 - here.x)
    assert np.allclose(there.fx * there.sigma, np.maximum(there.x @ w, 0))
    given = Asker(ask.oracle, ask.noise, rng, here.x)
    assert len(given.across(here)) == 0


def test_two_gradients_show_all_neurons_of_a_layer_without_bias(rng: np.random.Generator) -> None:
    taken = []
    for _ in range(10):
        w, v = rng.standard_normal((12, 60)), rng.standard_normal((12, 12))
        ask, state = begun(lambda x, w=w, v=v: np.maximum(x @ w.T, 0) @ v, 60, rng)
        *_, state = grow(ask, state, ask.draw(8))
        assert state.rank == 12
        taken.append(state.taken)
    # From places drawn at random it takes about four; across one from another, all rest of it is active.
    assert np.median(taken) <= 3


def test_places_are_chosen_by_how_many_directions_they_show(rng: np.random.Generator) -> None:
    n, k = 6000, 12
    w = rng.standard_normal((k, n)) / math.sqrt(n)
    b = 0.1 * rng.standard_normal(k)
    ask, state = begun(lambda x: np.maximum(x @ w.T + b, 0), n, rng)
    active = lambda place: int((place.x @ w.T + b > 0).sum())  # noqa: E731
    chosen, first = [], []
    for _ in range(20):
        pool = ask.draw(8)
        before = ask.oracle.ledger.asked
        chosen.append(active(most_telling(ask, state, pool, 0.0)))
        first.append(active(pool[:1]))
        assert ask.oracle.ledger.asked - before <= CHOOSING * n
        # (a neuron that a step switches on counts as well)
        assert chosen[-1] >= max(active(pool[i : i + 1]) for i in range(8)) - 1
    # Of eight or nine places the best has about two standard deviations more than any one.
    assert np.mean(chosen) > np.mean(first) + 1


def test_rows_of_a_batch_are_written_once_but_never_under_who_keeps_them(rng: np.random.Generator) -> None:
    known = Known.of(np.linalg.qr(rng.standard_normal((12, 3)))[0].T, 0.0)
    x, kept = rng.standard_normal(12), []
    for keep in (False, True):
        frame = SparseFrame(known)
        for which in (slice(0, 4), slice(4, 8), slice(8, 9), slice(2, 6)):
            length = rng.standard_normal(which.stop - which.start)
            asked = frame.points(x, which, length)
            expected = SparseFrame(known).points(x, which, length)
            np.testing.assert_array_equal(asked, expected)
            if keep:
                kept.append((asked, expected))
            del asked
    for asked, expected in kept:
        np.testing.assert_array_equal(asked, expected)


def test_gradients_taken_at_once_show_something_new_beside_each_other(rng: np.random.Generator) -> None:
    n, k = 600, 40
    w, b = rng.standard_normal((k, n)) / math.sqrt(n), 0.3 * rng.standard_normal(k)
    out = rng.standard_normal(k)
    ask, state = begun(lambda x: np.maximum(x @ w.T + b, 0) @ out, n, rng)
    state = with_basis(state, w[:20], row_error=1e-12)
    several = []
    for _ in range(20):
        pool = ask.draw(4)
        pool = Places.joined([pool, pool])  # each place twice
        before = ask.oracle.ledger.asked
        chosen = independent(ask, state, pool)
        several.append(len(chosen))
        assert ask.oracle.ledger.asked - before <= 8 * 12
        assert len({i % 4 for i in chosen}) == len(chosen)
    assert np.mean(several) > 2
    # Near the limit, of coarse answers and where little is known, one after the other.
    pool = ask.draw(8)
    ask.limit = ask.oracle.ledger.asked + 600
    assert independent(ask, state, pool).tolist() == [0]
    ask.limit = np.inf
    assert independent(ask, replace(state, steps=replace(state.steps, clean=False)), pool).tolist() == [0]
    assert independent(ask, with_basis(state, w[:3]), pool).tolist() == [0]


def test_slopes_of_several_places_are_those_of_each(rng: np.random.Generator) -> None:
    n = 30
    w = rng.standard_normal((3, n))
    ask, _ = begun(lambda x: np.maximum(x @ w.T, 0), n, rng)
    ask.block = 17  # batches end within a place
    frame = SparseFrame(Known.of(np.linalg.qr(rng.standard_normal((n, 4)))[0].T, 0.0))
    places = ask.draw(5)
    found, fine, _ = slopes(ask, frame, places, 1e-6)
    assert fine.all()
    directions = frame.points(np.zeros(n), slice(0, frame.count), 1.0) / frame.scale[:, None]
    active = (places.x @ w.T > 0)[:, :, None] * w
    expected = np.einsum("pmn,cn->pcm", active, directions) / places.sigma[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_steps_on_a_grid_are_as_long_wherever_the_box_lies() -> None:
    w, found = np.random.default_rng(0).standard_normal((2, 6)), []
    for low in (0.0, -0.5, 2.0):
        model = lambda x, low=low: np.tanh((x - low - 0.5) @ w.T)  # noqa: E731
        ask, state = begun(model, 6, np.random.default_rng(1), within=(low, low + 1), grid=1 / 256)
        found.append(_lengths(ask, state))
    step, levels = found[0]
    assert levels >= 2
    assert (levels + 1) * step <= 0.5
    assert found == [found[0]] * 3


@pytest.mark.parametrize("where", ["middle", "anywhere", "corner", "on a wall"])
def test_a_legal_step_takes_all_room_on_the_roomier_side(where: str, rng: np.random.Generator) -> None:
    n = 12
    low, high = -np.ones(n), np.linspace(1, 5, n)
    oracle = uv.as_oracle(lambda x: x, n, within=(low, high))
    share = {"middle": 0.5, "anywhere": rng.uniform(0.01, 0.99, (40, n)), "corner": 1e-3, "on a wall": 0.5}[where]
    x = np.broadcast_to(low + share * (high - low), (40, n)).copy()
    x[:, 0] = low[0] if where == "on a wall" else x[:, 0]
    direction = rng.standard_normal((40, n))
    ahead, behind = oracle.room(x, direction), oracle.room(x, -direction)
    steps = legal_step(oracle, x, direction)
    np.testing.assert_allclose(np.abs(steps), np.maximum(ahead, behind), rtol=1e-5)
    unlike = np.abs(ahead - behind) > 1e-5 * (ahead + behind)
    assert ((steps > 0) == (ahead > behind))[unlike].all()
    ends = x + steps[:, None] * direction
    assert (ends >= low - 1e-12).all()
    assert (ends <= high + 1e-12).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("within", [(-1.9, 1.9), (-3.0, 0.1), (np.linspace(-5, 900.1, 30), np.linspace(-4.9, 901, 30))])
def test_points_of_even_spacing_are_legal_and_so_are_the_steps_between_them(
    dtype, within, rng: np.random.Generator
) -> None:
    oracle = SourceOracle(CallableSource(lambda x: x[:, :2], (30,)), m=2, within=within, dtype=dtype)
    x, y = evened(oracle, oracle.sample(200, rng)), evened(oracle, oracle.sample(200, rng))
    assert np.array_equal(x, oracle.nearest(x))
    assert np.array_equal(x.astype(dtype) + (y - x).astype(dtype), y)


def test_a_box_that_holds_few_numbers_has_no_even_spacing(rng: np.random.Generator) -> None:
    source = CallableSource(lambda x: x[:, :1], (3,))
    narrow = SourceOracle(source, m=1, within=(1e6, 1e6 + 1), dtype=np.float32)
    assert narrow.spacing is None
    x = narrow.sample(10, rng)
    assert np.array_equal(evened(narrow, x), x)
