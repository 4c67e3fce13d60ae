"""Which input of one layer gives these features: one such input and the kind of all of them, or a proof of none."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from unveil.arguments import as_numbers
from unveil.one_line import one_line
from unveil.outcome import BadInput, UnveilError
from unveil.whitebox.activation import Activation
from unveil.whitebox.box import Box, ends
from unveil.whitebox.certificate import Certificate, Ground
from unveil.whitebox.kinds import KINDS, settle
from unveil.whitebox.linear_programme import Constraints, minimise
from unveil.whitebox.network import Network
from unveil.whitebox.polytope import Polytope, nearest
from unveil.whitebox.same_features import Preimage, features_of
from unveil.whitebox.wanted import Wanted, range_of, wanted

SAME_FEATURE_DIFFERENCE = 1e-6  # features count as the same within this, relative to the largest of them, or to 1
_TIGHT = 1e-7  # a row with less room than this, relative to its length, is tight
_FAR, _HALVINGS = 1e300, 100  # up to where a proof is followed, and how often what it proves is halved


@dataclass(frozen=True, eq=False)
class NoInput:
    """Multipliers that prove that no input gives some features: Farkas' lemma, as weak duality.

    With w = `multipliers`, every z has `w @ (weights @ z + bias) = (w @ weights) @ z + w @ bias`, while features
    within `miss` of the wanted ones allow at most `w_+ @ high - w_- @ low`, where `low, high = wanted.ends(miss)`.

    Attributes:
        weights: (m, n).
        bias: (m,).
        wanted: What the neurons must see.
        multipliers: (m,).
        floor: (n,), the box; may be infinite.
        ceiling: (n,).
    """

    weights: Float[np.ndarray, "m n"]
    bias: Float[np.ndarray, " m"]
    wanted: Wanted
    multipliers: Float[np.ndarray, " m"]
    floor: Float[np.ndarray, " n"]
    ceiling: Float[np.ndarray, " n"]

    def miss(self, reach: float = np.inf) -> float:
        """Every input in the box, and no longer than `reach` (largest coordinate), misses a feature by more than this.

        0 where nothing is proved.
        """
        least, off = self._least(reach), 1.0
        while self._proves(off, least):
            if off > _FAR:
                return np.inf
            off *= 2
        proved, open_from = 0.0, off
        for _ in range(_HALVINGS):
            off = (proved + open_from) / 2
            proved, open_from = (off, open_from) if self._proves(off, least) else (proved, off)
        return proved

    def _least(self, reach: float) -> float:
        """What `w @ (weights @ z + bias)` is at least in the box."""
        rest = self.multipliers @ self.weights
        floor, ceiling = np.maximum(self.floor, -reach), np.minimum(self.ceiling, reach)
        with np.errstate(invalid="ignore"):
            walls = np.where(rest == 0, 0.0, np.where(rest > 0, rest * floor, rest * ceiling)).sum()
        return float(walls + self.multipliers @ self.bias)

    def _proves(self, off: float, least: float) -> bool:
        """Whether no input has all features within `off`, where the weighted sum is at least `least`."""
        w, (low, high) = self.multipliers, self.wanted.ends(off)
        with np.errstate(invalid="ignore"):
            most = np.where(w > 0, w * high, np.where(w < 0, w * low, 0.0)).sum()
        return bool(least - most > 0)

    def reach(self, tolerance: float) -> float:
        """Inputs whose coordinates are all below this cannot give the features within `tolerance`.

        Infinite where the box is finite or the proof has no rounding in it; otherwise some 1e10 times what the
        numbers of the layer are.
        """
        if self._proves(tolerance, self._least(np.inf)):
            return np.inf
        lengths = (float(length) for length in 10.0 ** np.arange(300, -300, -1.0))
        return next((length for length in lengths if self._proves(tolerance, self._least(length))), 0.0)

    def check(self, tolerance: float) -> bool:
        """Verify it in arithmetic of its own: within the box, and up to 1e6 times its numbers where it is open."""
        size = 1 + np.abs(np.concatenate([v[np.isfinite(v)] for v in (self.wanted.low, self.wanted.high)])).max(
            initial=0
        )
        return bool(self.reach(tolerance) >= 1e6 * size)

    def check_exactly(self, tolerance: float = 0.0) -> bool:
        """Verify it in rational arithmetic, for small layers with a finite box: no rounding anywhere."""
        w = [Fraction(float(v)) for v in self.multipliers]
        rows = [[Fraction(float(a)) for a in row] for row in self.weights]
        total = sum((a * Fraction(float(b)) for a, b in zip(w, self.bias, strict=True)), Fraction(0))
        for k in range(self.weights.shape[1]):
            rest = sum((a * row[k] for a, row in zip(w, rows, strict=True)), Fraction(0))
            end = self.floor[k] if rest > 0 else self.ceiling[k]
            if rest != 0:
                if not np.isfinite(end):
                    return False
                total += rest * Fraction(float(end))
        for a, low, high in zip(w, *self.wanted.ends(tolerance), strict=True):
            if a != 0:
                end = high if a > 0 else low
                if not np.isfinite(end):
                    return False
                total -= a * Fraction(float(end))
        return total > 0 and self._proves(tolerance, self._least(np.inf))


@one_line
@dataclass(frozen=True, eq=False)
class Inversion:
    """Whether an input gives these features, one that does, and what the others are like.

    Attributes:
        verdict: "found"; "none", which is proved; or "not found", which proves nothing.
        x: (n,), an input that gives the features, in the box. If none was found: the one that came nearest to it.
        deviation: Largest difference between the features of x and the wanted ones, evaluated in float64.
        tolerance: By how much features may be off, absolutely.
        least: No input in the box gives features nearer to the wanted ones than this. 0 if nothing is proved.
        distance: From x to `near`, in the norm asked for; None without it.
        bound: No input in the box is nearer to `near` than this that has exactly the features of x (of one layer), or
            whose output is within the tolerance (of a network); None without `near`.
        preimage: Of one layer: the kind of all inputs that give the features (over all of R^n), around one of them
            that keeps away from the breakpoints.
        proof: Of one layer: the multipliers that prove that there is none.
        programmes: Linear programmes that were solved.
        complete: Whether the search came to its end, so that `least` and `bound` are of the whole box.
        reason: One sentence on how the search ended.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.inputs_of(network, np.array([1.5]), within=(0, 1))
        >>> found.verdict, network(found.x[None]).round(6).item()
        ('found', 1.5)
        >>> uv.inputs_of(network, np.array([9.0]), within=(0, 1)).verdict
        'none'
    """

    verdict: str
    x: Float[np.ndarray, " n"]
    deviation: float
    tolerance: float
    least: float
    distance: float | None = None
    bound: float | None = None
    preimage: Preimage | None = None
    proof: NoInput | None = field(default=None, repr=False)
    programmes: int = 0
    complete: bool = True
    reason: str = ""

    @property
    def kind(self) -> str | None:
        """Of all inputs that give the features: "point", "compact", "infinite" or "empty"; None if not known."""
        if self.verdict == "none":
            return "empty"
        return self.preimage.kind if self.preimage is not None else None

    def check(self) -> bool:
        """Verify the proof once more, from the weights alone: of none, or of the kind."""
        if self.verdict == "none":
            return self.least >= self.tolerance and (self.proof is None or self.proof.check(self.tolerance))
        return self.deviation <= self.tolerance and (self.preimage is None or self.preimage.check())


def from_features(  # noqa: PLR0913 - options of a public verb
    network: Network,
    features: np.ndarray,
    layer: int,
    within: Box | None,
    near: np.ndarray | None,
    norm: int,
    tolerance: float | None,
) -> Inversion:
    """As `preimage` with `features=`; see there."""
    layer = network.level(layer)
    y = given_features(network, features, layer)
    weights, bias, _ = features_of(network, layer)
    phi = network.layers[layer].activation
    if not phi.piecewise_linear and phi.inverse is None:
        raise BadInput(
            f"layer {layer} has activation {phi.name!r}, whose inverse has no formula; choose another layer="
        )
    if network.softmax and layer == len(network.layers) - 1:
        y = y - y.mean()
    if norm not in (1, 2):
        raise BadInput(f"norm must be 1 or 2; got {norm!r}")
    floor, ceiling, goal = _place(weights.shape[1], within, near)
    tolerance = allowed(tolerance, y)
    seek = _Layer(weights, bias, phi, y, wanted(phi, y, tolerance), floor, ceiling, tolerance)
    return seek.answer(layer, goal, norm)


def given_features(network: Network, features: np.ndarray, layer: int) -> Float[np.ndarray, " k"]:
    """Features as one row.

    Raises:
        BadInput: Another size, or numbers that are not finite.
    """
    y, size = as_numbers(features, "features").ravel(), network.layers[layer].neurons
    if len(y) != size:
        raise BadInput(f"layer {layer} has {size} features; got {np.shape(features)}: pass those of one input")
    if not np.isfinite(y).all():
        raise BadInput("the features hold NaN or infinite numbers; pass finite ones")
    return y


def allowed(tolerance: float | None, y: np.ndarray) -> float:
    """The tolerance, absolute; by default relative to the largest of the numbers wanted."""
    if tolerance is None:
        return SAME_FEATURE_DIFFERENCE * max(1.0, float(np.abs(y).max()))
    if not (np.isfinite(as_numbers(tolerance, "tolerance=")) and tolerance > 0):
        raise BadInput(f"tolerance must be a positive number; got {tolerance}")
    return float(tolerance)


def _place(n: int, within: Box | None, near: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    floor, ceiling = ends((-np.inf, np.inf) if within is None else within, n)
    if near is None:
        return floor, ceiling, None
    goal = as_numbers(near, "near=").ravel()
    if goal.shape != (n,) or not np.isfinite(goal).all():
        raise BadInput(f"near= must be one input of the layer, {n} finite numbers; got {np.shape(near)}")
    if ((goal < floor) | (goal > ceiling)).any():
        raise BadInput("near= lies outside of within=")
    return floor, ceiling, goal


@dataclass(frozen=True, eq=False)
class _Layer:
    """One question about one layer."""

    weights: np.ndarray
    bias: np.ndarray
    phi: Activation
    y: np.ndarray
    wanted: Wanted
    floor: np.ndarray
    ceiling: np.ndarray
    tolerance: float

    def answer(self, layer: int, goal: np.ndarray | None, norm: int) -> Inversion:
        n = self.weights.shape[1]
        if self.wanted.impossible.any():
            return self._outside()
        found = minimise(np.eye(n + 1)[n], self._soft())
        if found is None:
            raise UnveilError("the linear programme of one layer was not solved; widen within=")
        m = len(self.bias)
        multipliers = self._closed(found.multipliers[:m] + found.multipliers[m:])
        proof = NoInput(self.weights, self.bias, self.wanted, multipliers, self.floor, self.ceiling)
        z = min((found.v[:n], self._around(None).repaired(found.v[:n])), key=self._miss)
        z = np.clip(z, self.floor, self.ceiling)
        if self._miss(z) > self.tolerance:
            return self._not_there(z, proof)
        polytope = self._around(z)
        inner = self._inner(z, polytope)
        kind = self._kind(layer, inner, polytope)
        if goal is None:
            return Inversion("found", inner, self._miss(inner), self.tolerance, 0.0, preimage=kind, programmes=2)
        best = nearest(polytope, goal, norm)
        return Inversion(
            "found", best.z, self._miss(best.z), self.tolerance, 0.0,
            float(np.linalg.norm(best.z - goal, norm)), best.bound, kind, programmes=3,
        )  # fmt: skip

    def _outside(self) -> Inversion:
        lowest, highest = range_of(self.phi, len(self.y))
        gap = np.maximum(lowest - self.y, self.y - highest)
        at = int(gap.argmax())
        z = np.clip(np.zeros(self.weights.shape[1]), self.floor, self.ceiling)
        told = f"feature {at} is {self.y[at]:.6g}, which the activation {self.phi.name} never gives"
        return Inversion("none", z, self._miss(z), self.tolerance, float(gap[at]), reason=told)

    def _not_there(self, z: np.ndarray, proof: NoInput) -> Inversion:
        # In an open box a proof holds as far as its rounding reaches.
        least = proof.miss()
        if not least > self.tolerance and proof.check(self.tolerance):
            least = proof.miss(proof.reach(self.tolerance))
        if least > self.tolerance:
            told = f"every input misses some feature by at least {least:.3g}"
            return Inversion("none", z, self._miss(z), self.tolerance, least, proof=proof, programmes=1, reason=told)
        told = f"the nearest misses a feature by {self._miss(z):.3g}, which rounding does not let tell from none"
        return Inversion("not found", z, self._miss(z), self.tolerance, 0.0, programmes=1, complete=False, reason=told)

    def _soft(self) -> Constraints:
        """The rows, each of which may be missed by its `less` or `more` times one more variable."""
        w = self.wanted
        low, high = np.isfinite(w.low), np.isfinite(w.high)
        # Two rows per neuron, so that the last variable has one sign in each: first the upper, then the lower.
        rows = np.vstack([
            np.hstack([self.weights, -w.more[:, None]]), np.hstack([self.weights, w.less[:, None]])
        ])  # fmt: skip
        none = np.full(len(w.low), np.inf)
        return Constraints(
            rows,
            np.concatenate([-none, np.where(low, w.low - self.bias, -np.inf)]),
            np.concatenate([np.where(high, w.high - self.bias, np.inf), none]),
            np.append(self.floor, 0.0),
            np.append(self.ceiling, np.inf),
        )

    def _miss(self, z: np.ndarray) -> float:
        return float(np.abs(self.phi.value(self.weights @ z + self.bias) - self.y).max())

    def _sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the neurons that only have to stay on one side of a breakpoint: which, sign, rows and ceilings."""
        free = np.flatnonzero(~self.wanted.determined)
        upper = np.isfinite(self.wanted.low[free])
        sign = np.where(upper, -1.0, 1.0)
        end = np.where(upper, self.wanted.low[free], self.wanted.high[free])
        return free, sign, sign[:, None] * self.weights[free], sign * (end - self.bias[free])

    def _around(self, z: np.ndarray | None) -> Polytope:
        """The inputs with the features of z, or (None) with the wanted ones, which may be none at all."""
        fixed = self.wanted.determined
        _, _, rows, ends = self._sides()
        equal, level = self.weights[fixed], (self.wanted.low - self.bias)[fixed]
        if z is not None:
            level, ends = equal @ z, np.maximum(ends, rows @ z)
        return Polytope(equal, level, rows, ends, self.floor, self.ceiling)

    def _inner(self, z: np.ndarray, polytope: Polytope) -> np.ndarray:
        """As far from all breakpoints as possible, at most one unit of a row's length, so that few rows are tight."""
        n, rows = len(z), polytope.below
        lengths = np.linalg.norm(rows, axis=1)
        alive = lengths > 0
        if not alive.any():
            return z
        within = Constraints(
            np.vstack([
                np.hstack([polytope.equal, np.zeros((len(polytope.equal), 1))]),
                np.hstack([rows[alive], lengths[alive, None]]),
            ]),
            np.concatenate([polytope.level, np.full(alive.sum(), -np.inf)]),
            np.concatenate([polytope.level, polytope.ceiling[alive]]),
            np.append(self.floor, 0.0),
            np.append(self.ceiling, 1.0),
        )  # fmt: skip
        found = minimise(-np.eye(n + 1)[n], within)
        if found is None:
            return z
        inner = polytope.repaired(found.v[:n])
        return inner if self._miss(inner) <= max(self.tolerance / 2, self._miss(z)) else z

    def _kind(self, layer: int, inner: np.ndarray, polytope: Polytope) -> Preimage:
        free, sign, rows, ends = self._sides()
        m = len(self.bias)
        active, signs, slack = self.wanted.determined, np.ones(m), np.zeros(m)
        signs[free] = sign
        slack[free] = np.maximum(np.maximum(ends, rows @ inner) - rows @ inner, 0.0)
        lengths = np.linalg.norm(self.weights, axis=1)
        tight = ~active & (slack <= _TIGHT * lengths)
        turned = signs[:, None] * self.weights
        found = settle(turned, active[None], tight[None], slack[None])
        certificate = Certificate(
            KINDS[found.kind[0]],
            Ground(turned),
            active,
            ~active,
            tight,
            found.multipliers[0] if found.multipliers.any() else None,
            found.directions[0] if found.directions.any() else None,
        )
        return Preimage(certificate.kind, layer, inner, active, certificate, bool(found.certified[0]), slack)

    def _closed(self, multipliers: np.ndarray) -> np.ndarray:
        """Moved by rounding, so that nothing is left in the coordinates that have no wall."""
        open_ends = ~(np.isfinite(self.floor) & np.isfinite(self.ceiling))
        used = multipliers != 0
        if not (open_ends.any() and used.any()):
            return multipliers
        part = self.weights[np.ix_(used, open_ends)]
        made = multipliers.copy()
        for _ in range(2):
            made[used] -= np.linalg.lstsq(part.T, part.T @ made[used], rcond=None)[0]
        w = self.wanted
        wrong = ((made > 0) & ~np.isfinite(w.high)) | ((made < 0) & ~np.isfinite(w.low))
        return np.where(wrong, 0.0, made)
