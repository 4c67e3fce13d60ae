"""Preimage kinds against exact rational enumeration, and against what their certificates claim."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest

from unveil.outcome import BadInput
from unveil.whitebox.network import Network
from unveil.whitebox.preimage import preimage
from unveil.whitebox.same_features import preimages


def _rays(rows: np.ndarray) -> np.ndarray:
    """Nonzero vectors orthogonal to n - 1 of these integer rows, for all choices: their generalised cross products.

    Determinants of at most three by three entries in -2 ... 2: rounded to whole numbers they are exact.
    """
    n = rows.shape[1]
    choices = list(combinations(range(len(rows)), n - 1))
    chosen = rows[np.array(choices, dtype=int).reshape(len(choices), n - 1)]
    minors = [(-1) ** j * np.linalg.det(np.delete(chosen, j, axis=2)) for j in range(n)]
    rays = np.rint(np.stack(minors, axis=1))
    return np.asarray(rays[rays.any(axis=1)])


def _cone_is_trivial(equal: np.ndarray, below: np.ndarray) -> bool:
    """Whether only u = 0 has `equal u = 0, below u <= 0`: a pointed cone other than {0} has an extreme ray, on which
    n - 1 independent rows are met with equality."""
    rows = np.unique(np.concatenate([equal, below]), axis=0)
    rays = _rays(rows)
    if not (rays @ rows.T).any():  # fewer than n independent rows leave a line
        return False
    rays = np.concatenate([rays, -rays])
    return not (~(rays @ equal.T).any(axis=1) & (rays @ below.T <= 0).all(axis=1)).any()


def _truth(weights: np.ndarray, bias: np.ndarray, x: np.ndarray) -> str:
    before = weights @ x + bias  # small integers: exact
    active, silent, tight = weights[before > 0], weights[before <= 0], weights[before == 0]
    if _cone_is_trivial(active, tight):
        return "point"
    return "compact" if _cone_is_trivial(active, silent) else "infinite"


def _integer_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = int(rng.integers(1, 5))
    m = int(rng.integers(1, 2 * n + 5))
    weights = rng.integers(-2, 3, (m, n))
    x = rng.integers(-2, 3, n)
    bias = rng.integers(-2, 3, m)
    style = rng.integers(6)
    if style == 1 and m > 1:  # duplicates
        weights[rng.integers(m, size=m // 2)] = weights[rng.integers(m)]
    if style == 2:  # all rows tight or on one side
        bias = -(weights @ x) - rng.integers(0, 2, m)
    if style == 3:  # opposite pairs: the hull's boundary
        weights[: m // 2] = -weights[m - m // 2 :]
    if style == 4:  # mostly silent
        bias = -(weights @ x) - rng.integers(-1, 6, m)
    if style == 5:  # zero rows
        weights[rng.random(m) < 0.3] = 0
    return weights.astype(float), bias.astype(float), x.astype(float)


def _integer_errors(cases: int, seed: int) -> tuple[int, int, int, Counter[str]]:
    rng = np.random.default_rng(seed)
    errors = unchecked = inexact = 0
    kinds: Counter[str] = Counter()
    for _ in range(cases):
        weights, bias, x = _integer_case(rng)
        found = preimage(Network.from_weights([(weights, bias)], last="relu"), x)
        truth = _truth(weights, bias, x)
        kinds[truth] += 1
        errors += found.kind != truth
        unchecked += not (found.check() and found.certified)
        inexact += not found.check_exactly()
    return errors, unchecked, inexact, kinds


@pytest.mark.parametrize("size", [0.0, 1e-170, 1e-310])
def test_a_zero_row_leaves_every_preimage_certified_and_of_its_kind(size: float, rng: np.random.Generator) -> None:
    for _ in range(8):
        n = int(rng.integers(2, 15))
        m = int(rng.integers(n // 2 + 1, 3 * n + 2))
        weights, bias = rng.standard_normal((m, n)), rng.standard_normal(m) * rng.choice([0, 1, 3])
        still = rng.random(m) < 0.2
        still[:1] = True
        with_zeros = np.where(still[:, None], size * rng.standard_normal((m, n)), weights)
        level = np.where(still, rng.choice([-1.0, 1.0], m), bias)
        kept, x = ~still, rng.random((4, n))
        found = preimage(Network.from_weights([(with_zeros, level)], last="relu"), x)
        rest = Network.from_weights([(weights[kept], bias[kept])], last="relu") if kept.any() else None
        for each, other in zip(found, found if rest is None else preimage(rest, x), strict=True):
            assert each.certified
            assert each.check()
            # A row that is not quite zero may bound what was unbounded, and determine what was not.
            assert each.kind == other.kind or size
            if rest is not None:
                ends = rest.features(np.stack([each.extent((0, 1)).end, each.point]), 0)
                assert np.abs(ends[0] - ends[1]).max() < 1e-6


def test_a_ray_along_a_wall_goes_on_for_ever(rng: np.random.Generator) -> None:
    # The direction has coordinates of rounding, which do not meet the walls that they run along.
    for _ in range(20):
        n = int(rng.integers(2, 6))
        weights = rng.integers(-2, 3, (2 * n, n)).astype(float)
        network = Network.from_weights([(weights, np.zeros(2 * n))], last="relu")
        for each in preimage(network, rng.integers(0, 2, (4, n)).astype(float)):
            extent = each.extent((0, np.inf))
            if np.isfinite(extent.length):
                ends = np.stack([extent.end, each.point])
                assert np.abs(np.diff(network.features(ends, 0), axis=0)).max() < 1e-6


def test_small_integer_layers_agree_with_exact_enumeration() -> None:
    errors, unchecked, inexact, kinds = _integer_errors(400, seed=1)
    print(f"seed 1: {kinds}")
    assert (errors, unchecked, inexact) == (0, 0, 0)
    assert min(kinds.values()) > 30


def test_many_integer_layers_agree_with_exact_enumeration() -> None:
    errors, unchecked, inexact, kinds = _integer_errors(300, seed=2)
    print(f"seed 2: {kinds}")
    assert (errors, unchecked, inexact) == (0, 0, 0)


def _structured_case(rng: np.random.Generator) -> tuple[Network, np.ndarray]:
    """Integer layers too large to enumerate: repeated, opposite, dependent, zero and tight rows, narrow margins."""
    n = int(rng.integers(4, 12))
    m = int(rng.integers(n, 4 * n))
    weights = rng.integers(-3, 4, (m, n))
    style = rng.integers(7)
    if style == 1:
        weights = weights[rng.integers(m, size=m)]
    if style == 2:
        weights[m // 2 :] = -weights[: m - m // 2]
    if style == 3:
        weights[rng.integers(m, size=3)] = weights[rng.integers(m, size=(3, 4))].sum(axis=1)
    if style == 4:
        weights[:, 0] = np.abs(weights[:, 0]) * (rng.random(m) < 0.3)
    if style == 5:
        weights[rng.random(m) < 0.2] = 0
    if style == 6:
        weights[:, 1:] *= 1000
    x = rng.integers(-2, 3, n)
    bias = -(weights @ x) + rng.integers(-4, 3, m) if rng.random() < 0.7 else rng.integers(-9, 9, m)
    network = Network.from_weights([(weights.astype(float), bias.astype(float))], last="relu")
    return network, x.astype(float)


@pytest.mark.parametrize("cases", [60, 200])
def test_structured_integer_layers_are_proved_in_rational_arithmetic(cases: int) -> None:
    # An exact proof of the kind given is its truth; no other solver is asked.
    rng = np.random.default_rng(cases)
    kinds: Counter[str] = Counter()
    for case in range(cases):
        found = preimage(*_structured_case(rng))
        kinds[found.kind] += 1
        assert found.certified, case
        assert found.check(), case
        assert found.check_exactly(), case
    print(f"seed {cases}: {kinds}")
    assert min(kinds[kind] for kind in ("point", "compact", "infinite")) > cases / 20


def _near_boundary(
    rng: np.random.Generator, n: int, d: int, margin: float, spread: int
) -> tuple[Network, np.ndarray, str]:
    """Compact iff margin > 0, by construction: silent rows that span every direction across u = e_1, one row with
    u-component -1 and one with `margin`. All numbers short, so that nothing is rounded away."""
    across = rng.integers(-64, 65, (spread * d, d)) / 64
    across[:, 0] = 0
    across = np.vstack([across, -across[: 2 * d]])
    ends = rng.integers(-64, 65, (2, d)) / 64
    ends[:, 0] = -1.0, margin
    silent = np.zeros((len(across) + 2, n))
    silent[:, :d] = np.vstack([across, ends])
    silent[:, d:] = rng.integers(-64, 65, (len(silent), n - d)) / 64
    active = np.zeros((n - d, n))
    active[:, d:] = np.eye(n - d) + np.triu(rng.integers(-1, 2, (n - d, n - d)), 1) / 4
    weights = np.vstack([silent, active])
    bias = np.concatenate([-np.ones(len(silent)), np.ones(len(active))])
    order = rng.permutation(len(weights))
    network = Network.from_weights([(weights[order], bias[order])], last="relu")
    return network, np.zeros(n), "compact" if margin > 0 else "infinite"


@pytest.mark.parametrize("exponent", [0, 10, 20, 27, 34])
def test_margins_down_to_rounding_are_told_apart(exponent: int) -> None:
    rng = np.random.default_rng(exponent)
    for case in range(12):
        n, d = int(rng.integers(8, 40)), int(rng.integers(2, 8))
        margin = (-1.0, 0.0, 1.0)[case % 3] * 2.0**-exponent
        network, x, kind = _near_boundary(rng, n, d, margin, spread=6)
        found = preimage(network, x)
        assert found.kind == kind, (exponent, case, margin)
        assert found.certified
        assert found.check()
        assert found.dimension == d


def test_certificates_of_the_other_kind_fail() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(3)
    network = Network.from_weights([(rng.standard_normal((20, 12)), rng.standard_normal(20))], last="relu")
    found = preimage(network, rng.standard_normal((60, 12)))
    kinds = Counter(p.kind for p in found)
    print(f"seed 3: {kinds}")
    assert len(kinds) == 3
    for p in found:
        assert p.check()
        some = np.ones(20), np.eye(12)[0]
        for kind in {"point", "compact", "infinite"} - {p.kind}:
            forged = replace(p.certificate, kind=kind, multipliers=some[0], direction=some[1])
            assert not forged.check()


def test_kinds_mean_what_they_say() -> None:
    # Walk along the certificate's direction, and in every direction of the null space.
    rng = np.random.default_rng(4)
    weights, bias = rng.standard_normal((30, 10)), rng.standard_normal(30)
    network = Network.from_weights([(weights, bias)], last="relu")
    inputs = rng.standard_normal((200, 10))
    for x, p in zip(inputs, preimage(network, inputs), strict=True):
        if p.kind == "infinite":
            assert p.direction is not None
            np.testing.assert_allclose(network((x + 1e3 * p.direction)[None]), network(x[None]), atol=1e-9)
        if p.kind == "compact":
            assert p.extent((-np.inf, np.inf)).length < np.inf
        end = p.extent((-10, 10)).end
        np.testing.assert_allclose(network(end[None]), network(x[None]), atol=1e-10)
        assert np.abs(end).max() <= 10
        assert (p.extent((-10, 10)).length > 0) == (p.kind != "point")


def test_tight_rows_pin_a_point_and_lower_the_dimension() -> None:
    # max(0, z_1) = max(0, -z_1) = 0 forces z_1 = 0 although no neuron is active.
    weights = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    network = Network.from_weights([(weights, np.zeros(5))], last="relu")
    found = preimage(network, np.zeros(3))
    assert (found.kind, found.dimension) == ("infinite", 1)
    network = Network.from_weights([(np.vstack([weights, [0, 0, -1.0]]), np.zeros(6))], last="relu")
    found = preimage(network, np.zeros(3))
    assert (found.kind, found.dimension, found.check(), found.check_exactly()) == ("point", 0, True, True)
    network = Network.from_weights([(np.vstack([weights, [0, 0, -1.0]]), np.r_[np.zeros(5), -1.0])], last="relu")
    found = preimage(network, np.zeros(3))
    assert (found.kind, found.dimension, found.check_exactly()) == ("compact", 1, True)


def test_bad_scaling_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    weights, bias = rng.standard_normal((36, 14)), rng.standard_normal(36)
    inputs = rng.standard_normal((50, 14))
    rows, columns = 10.0 ** rng.uniform(-8, 8, 36), 10.0 ** rng.uniform(-8, 8, 14)
    plain = preimage(Network.from_weights([(weights, bias)], last="relu"), inputs)
    scaled = Network.from_weights([(weights * rows[:, None] * columns, bias * rows)], last="relu")
    for a, b in zip(plain, preimage(scaled, inputs / columns), strict=True):
        assert a.kind == b.kind
        assert b.check()


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "tanh", "sigmoid", "softplus", "identity"])
def test_injective_activations_answer_by_rank(name: str) -> None:
    rng = np.random.default_rng(6)
    for m, n, rank, kind in ((5, 3, 3, "point"), (5, 3, 2, "infinite"), (3, 5, 3, "infinite"), (4, 4, 4, "point")):
        weights = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
        network = Network.from_weights([(weights, rng.standard_normal(m))], last=name)
        found = preimage(network, rng.standard_normal(n))
        assert (found.kind, found.dimension, found.check()) == (kind, n - rank, True)


def test_deeper_layers_live_in_their_own_input_space() -> None:
    rng = np.random.default_rng(7)
    weights = [(rng.standard_normal((k, n)), rng.standard_normal(k)) for n, k in ((6, 9), (9, 4), (4, 2))]
    network = Network.from_weights(weights)
    found = preimage(network, rng.standard_normal((3, 6)), layer=1)
    assert found[0].point.shape == (9,)
    assert {p.kind for p in found} == {"infinite"}
    assert {p.dimension for p in preimage(network, rng.standard_normal((3, 6)), layer=2)} == {2}


def test_a_softmax_forgets_what_is_added_to_all_outputs() -> None:
    # The rows' common part is lost: rank 3 among the inputs becomes 2.
    weights = np.array([[1.0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    for last, kind in (("identity", "point"), ("softmax", "infinite")):
        found = preimage(Network.from_weights([(weights, np.zeros(4))], last=last), np.ones(3))
        assert (found.kind, found.check()) == (kind, True)
    np.testing.assert_allclose(np.abs(found.certificate.direction), [0, 0, 1], atol=1e-12)  # type: ignore[arg-type]


def test_workers_change_no_bit() -> None:
    rng = np.random.default_rng(8)
    network = Network.from_weights([(rng.standard_normal((70, 40)), rng.standard_normal(70))], last="relu")
    inputs = rng.standard_normal((600, 40))
    alone = preimage(network, inputs)
    with ThreadPoolExecutor(3) as pool:
        together = list(preimages(network, inputs, executor=pool))
    for a, b in zip(alone, together, strict=True):
        assert a.kind == b.kind
        for one, two in ((a.certificate.multipliers, b.certificate.multipliers), (a.direction, b.direction)):
            assert (one is None and two is None) or np.array_equal(one, two)  # type: ignore[arg-type]


def test_bad_input_is_named() -> None:
    network = Network.from_weights([(np.eye(3), np.zeros(3))], last="relu")
    with pytest.raises(BadInput, match=r"got \(2,\)"):
        preimage(network, np.zeros(2))
    with pytest.raises(BadInput, match="no layer 1: the network has layers 0 to 0"):
        preimage(network, np.zeros(3), layer=1)
    with pytest.raises(BadInput, match="no input: pass at least one"):
        preimage(network, np.zeros((0, 3)))
    with pytest.raises(BadInput, match="NaN"):
        preimage(network, np.array([[0.0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(BadInput, match="weights that are NaN"):
        preimage(Network.from_weights([(np.diag([1, np.nan, 1]), np.zeros(3))], last="relu"), np.zeros(3))
    with pytest.raises(BadInput, match="neither injective nor piecewise linear"):
        preimage(Network.from_weights([(np.eye(3), np.zeros(3))], last="sin"), np.zeros(3))
    with pytest.raises(BadInput, match="outside the box in 1 of 3"):
        preimage(network, np.array([2.0, 0, 0])).extent((0, 1))


def test_the_command_tells_each_input_and_the_kinds() -> None:
    import json

    from typer.testing import CliRunner

    from unveil.cli import app

    given = ["preimage", "examples/digits.onnx", "--inputs", "examples/digits.npz", "--most", "6", "--check"]
    result = CliRunner().invoke(app, [*given, "--json", "--layer", "1"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["kinds"] == {"infinite": 6}
    assert (told["uncertified"], len(told["each"])) == (0, 6)
    lines = CliRunner().invoke(app, [*given, "--within", "0,1"])
    assert lines.exit_code == 0
    assert lines.stdout.count("kind infinite") == 6
    assert CliRunner().invoke(app, [*given, "--layer", "9"]).exit_code == 2
