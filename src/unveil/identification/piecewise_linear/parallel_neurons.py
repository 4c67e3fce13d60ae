"""behind_parallel: neurons behind a first layer of which some are parallel, from where these are on and off in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.identification.piecewise_linear.critical_point import row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Beside
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps
from unveil.identification.piecewise_linear.merging import solved
from unveil.identification.piecewise_linear.neuron import NORMAL, Neuron
from unveil.identification.piecewise_linear.probe import Probe

# Lines among which places are chosen where the parallel neurons are on and off in every way.
LINES = 200
# Points between which lines across a hyperplane are laid, and lines across each: where they agree it is met.
POOL, TWICE = 400, 2
# How often other lines are tried where they do not.
TRIES = 3
# How far such a line looks on either side, in units of what the neuron's known weights would make of the parallel ones.
REACH = 4.0
# Lines agree to this part of that.
EQUALLY_FAR = 1e-5
# Rows that differ less are one.
ALIKE = 1e-3
# Values that tell a weight worse, relative to the best told, do not.
TOLD = 1e-9


@dataclass(frozen=True)
class Parallel:
    """What is read behind a first layer some of whose neurons depend on each other.

    Attributes:
        beside: Where only the others are active.
        free: (k,) which these are.
        error: Of the rows of the layer.
    """

    beside: Beside
    free: Bool[np.ndarray, " k"]
    error: float

    def equations(self, row: Float[np.ndarray, " f"], error: float) -> Float[np.ndarray, "r p"]:
        """What a normal says of weights and bias, in units of its error: weights that move as it does."""
        M = self.beside.frame.M
        span = row_space(M)
        normal = span.T @ (row @ M)
        size = float(np.linalg.norm(normal))
        across = np.eye(len(normal)) - np.outer(normal, normal) / size**2
        out = np.zeros((len(normal), len(self.free) + 1))
        doubt = error * float(np.linalg.norm(M, 2)) + NORMAL * self.error * size
        out[:, np.flatnonzero(self.free)] = across @ span.T @ M.T / doubt
        return out

    def place(self, x: Float[np.ndarray, " n"], others: Float[np.ndarray, " q"]) -> Float[np.ndarray, " p"]:
        """What a point on a hyperplane says of weights and bias, where the parallel neurons have these values."""
        h = np.zeros(len(self.free) + 1)
        h[:-1][self.free], h[:-1][~self.free], h[-1] = self.beside.frame.values(x[None])[0], others, 1
        return h / (self.error * (1 + float(np.linalg.norm(h[:-1]))))


def behind_parallel(
    probe: Probe, beside: Beside, free: Bool[np.ndarray, " k"], error: float, *, far: float, most_lines: int
) -> tuple[list[Neuron], list[Station]]:
    """Neurons of the second layer, and derivatives where the parallel neurons of the first one are inactive.

    Where these are off and all others active, the second layer looks like a first one. Its neurons are met again where
    the parallel ones have other values: how far each hyperplane has moved tells the weights for them.

    Args:
        probe: Asks.
        beside: Where only the others are active.
        free: Which neurons of the first layer these are.
        error: Of its rows.
        far: How far lines reach.
        most_lines: Lines at most.

    Queries: those of `layer_steps`, and of `TWICE` short lines per neuron and parallel one, or so
    """
    values, moves = _places(beside, probe.rng)
    all_ = Parallel(beside, free, error)
    found = finished(layer_steps(probe, beside.frame, far=far, most_lines=most_lines))
    out, stations = _known(probe, all_, found, values, moves), found.stations(beside.frame)
    # Some only switch where the parallel neurons are on.
    on = int(values.sum(axis=1).argmax())
    there = beside.moved(moves[on])
    more = finished(layer_steps(probe, there.frame, far=far, most_lines=most_lines))
    known = np.concatenate([found.rows, -found.rows])
    new = np.array([np.linalg.norm(known - row, axis=1).min(initial=2.0) > ALIKE for row in more.rows], dtype=bool)
    back = np.concatenate([np.delete(moves, on, axis=0), 0 * moves[:1]]) - moves[on]
    values = np.concatenate([np.delete(values, on, axis=0), 0 * values[:1]])
    out += _known(probe, replace(all_, beside=there), more.keep(new), values, back)
    return out, [*stations, *more.stations(there.frame)]


def _known(
    probe: Probe, all_: Parallel, found: LayerFound, values: Float[np.ndarray, "V q"], moves: Float[np.ndarray, "V n"]
) -> list[Neuron]:
    """These neurons with their weights for the parallel ones as far as places where they are met again tell them.

    Args:
        probe: Asks.
        all_: What is read.
        found: Their hyperplanes in its frame.
        values: Of the parallel neurons at other places.
        moves: To these.

    Queries: those of `_met_again` for each of these places
    """
    free, here = all_.free, np.maximum(all_.beside.others, 0)
    told = [
        [all_.equations(row, off), all_.place(x, here)[None]]
        for row, off, x in zip(found.rows, found.straight.error.tolist(), found.straight.at, strict=True)
    ]
    met: list[list[np.ndarray]] = [[here] for _ in told]
    for value, move in zip(values, moves, strict=True):
        left = np.arange(len(found))
        for _ in range(TRIES if len(found) else 0):
            again = _met_again(probe, all_.beside, found.keep(left), value - here, move)
            for i, points in zip(left, again, strict=True):
                told[i] += [all_.place(x, value)[None] for x in points]
                met[i] += [value] * (len(points) > 0)
            left = left[[not points for points in again]]
            if not len(left):
                break
    out = []
    for equations, some in zip(told, met, strict=True):
        # What no place tells is taken to be small.
        small = np.pad(np.eye(len(free))[~free], ((0, 0), (0, 1)))
        neuron = solved(np.concatenate([*equations, small]), np.ones(len(free), dtype=bool))
        s = np.linalg.svd(np.column_stack([np.array(some), np.ones(len(some))]), compute_uv=False)
        whole = len(s) > len(here) and s[-1] > TOLD * s[0]
        out.append(replace(neuron, known=free | whole))
    return out


def _places(beside: Beside, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values of the parallel neurons that, taken together, tell them apart, and the moves that lead there.

    Args:
        beside: Where they are inactive.
        rng: Draws lines.

    Returns:
        As many as there are such neurons, fewer where they cannot be told apart.
    """
    z, rate = beside.others, beside.rates
    most = float(np.abs(z).max())
    moves: list[np.ndarray] = []
    for _ in range(LINES):
        base, v = most * rng.standard_normal((2, rate.shape[1]))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -(z + rate @ base) / (rate @ v)
        t = np.sort(t[np.isfinite(t)])
        ends = np.concatenate([t[:1] - 1, t, t[-1:] + 1])
        moves += list(base + ((ends[1:] + ends[:-1]) / 2)[:, None] * v)
    every = np.array(moves)
    h = np.maximum(z + every @ rate.T, 0)
    # Of places with the same neurons active the last would do; large values say most of all their neurons.
    _, r, order = linalg.qr(h.T, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    chosen = order[: len(size)][size > TOLD * size[0]]
    return h[chosen], every[chosen] @ beside.across.T


def _met_again(
    probe: Probe, beside: Beside, found: LayerFound, value: Float[np.ndarray, " q"], move: Float[np.ndarray, " n"]
) -> list[list[np.ndarray]]:
    """Points on each of these hyperplanes after a move that changes the parallel neurons' values; none where unmet.

    Queries: those of `TWICE` lines per hyperplane
    """
    frame, rng = beside.frame, probe.rng
    pool = frame.sample(POOL, rng)
    z = found.straight.sums(frame, pool)
    base, direction, reach, whose = [], [], [], []
    for i in range(len(found)):
        up, down = np.flatnonzero(z[:, i] > 0), np.flatnonzero(z[:, i] < 0)
        if not len(up) or not len(down):
            continue
        far = REACH * float(np.abs(found.rows[i]).max()) * float(np.abs(value).sum())
        for a, b in zip(rng.choice(up, TWICE), rng.choice(down, TWICE), strict=True):
            rate = z[a, i] - z[b, i]
            base.append(pool[b] - z[b, i] / rate * (pool[a] - pool[b]))
            direction.append((pool[a] - pool[b]) / rate)
            # Between the two points all other neurons stay active.
            reach.append((max(-far, float(z[b, i])), min(far, float(z[a, i]))))
            whose.append(i)
    out: list[list[np.ndarray]] = [[] for _ in range(len(found))]
    if not base:
        return out
    low, high = np.array(reach).T
    lines = line_search(probe.ask, np.array(base) + move, np.array(direction), low, high, probe.noise, rng)
    for first, i in zip(range(0, len(lines), TWICE), whose[::TWICE], strict=True):
        out[i] = _common(lines[first : first + TWICE], float(high[first] - low[first]))
    return out


def _common(lines: list[Line], far: float) -> list[np.ndarray]:
    """The breakpoints at which two lines meet a hyperplane equally far from where it was; none if there are none."""
    a, b = lines
    if not len(a.t) or not len(b.t):
        return []
    off = np.abs(a.t[:, None] - b.t)
    i, j = np.unravel_index(int(off.argmin()), off.shape)
    return [a.points[i], b.points[j]] if off[i, j] <= EQUALLY_FAR * far + a.width[i] + b.width[j] else []
