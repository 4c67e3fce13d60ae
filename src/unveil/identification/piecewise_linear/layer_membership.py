"""What was read of a layer, and which hyperplanes are straight: those of this layer, not of a deeper one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.line import Line
from unveil.blackbox.rounding import AGREE, Ask, Rounding
from unveil.identification.piecewise_linear.frame import Frame

# How far, in typical inputs, a hyperplane is looked at again: far enough that most of the other neurons have switched.
SPREAD = 3.0


@dataclass
class LayerFound:
    """What was read of one layer.

    Attributes:
        rows: (k, d) unit normals in the frame's coordinates, up to sign.
        bias: (k,) so that `rows @ h + bias = 0` on the hyperplanes.
        jump: (k, m) slope jump of the answers across the hyperplane, per unit of `rows @ h`, where it was seen first.
        error: (k,) expected error of the rows.
        seen: (k, n) where.
        bent_at: (B, n) where breakpoints of deeper layers were met.
        bent_step: (B, n) along which line.
        bent_rows: (B, d) their normals there.
        bent_error: (B,) expected error of these normals.
        bent_maybe: (B,) whether they could be straight after all: never seen to bend, nothing between the places
            looked at.
        at: (P, n) where all derivatives were measured.
        slope: (P, m, d) the derivatives there.
        lines: Lines searched.
        searched: Those that showed anything, with their breakpoints.
    """

    rows: Float[np.ndarray, "k d"]
    bias: Float[np.ndarray, " k"]
    jump: Float[np.ndarray, "k m"]
    error: Float[np.ndarray, " k"]
    seen: Float[np.ndarray, "k n"]
    at: Float[np.ndarray, "P n"]
    slope: Float[np.ndarray, "P m d"]
    bent_at: Float[np.ndarray, "B n"]
    bent_step: Float[np.ndarray, "B n"]
    bent_rows: Float[np.ndarray, "B d"]
    bent_jump: Float[np.ndarray, "B m"]
    bent_maybe: Bool[np.ndarray, " B"]
    bent_error: Float[np.ndarray, " B"]
    lines: int = 0
    searched: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def nothing(cls, frame: Frame, m: int) -> LayerFound:
        n, d = frame.V.shape
        e = np.empty
        rows, steps, jump = e((0, d)), e((0, n)), e((0, m))
        return cls(rows, e(0), jump, e(0), steps, steps, e((0, m, d)), steps, steps, rows, jump, e(0, dtype=bool), e(0))

    def add(self, row: np.ndarray, bias: float, jump: np.ndarray, error: float, seen: np.ndarray) -> None:
        """Keep one more hyperplane."""
        self.rows = np.concatenate([self.rows, row[None]])
        self.bias = np.append(self.bias, bias)
        self.jump = np.concatenate([self.jump, jump[None]])
        self.error = np.append(self.error, error)
        self.seen = np.concatenate([self.seen, seen[None]])

    def keep(self, which: Bool[np.ndarray, " k"]) -> None:
        """Forget the other hyperplanes."""
        for name in ("rows", "bias", "jump", "error", "seen"):
            setattr(self, name, getattr(self, name)[which])

    def known(self, other_rows: np.ndarray, other_bias: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Which of the other hyperplanes are already here."""
        if not len(self.rows):
            return np.zeros(len(other_rows), dtype=bool)
        cos = other_rows @ self.rows.T
        tolerance = np.clip(10 * (error[:, None] + self.error), 1e-6, 0.05)
        near = np.sqrt(np.maximum(0, 2 - 2 * np.abs(cos))) < tolerance
        shift = np.abs(other_bias[:, None] * np.sign(cos) - self.bias) < tolerance * (1 + np.abs(self.bias))
        return np.asarray((near & shift).any(axis=1))


def met_before(frame: Frame, found: LayerFound, at: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Hyperplanes that another line met too, with others switched in between: straight, whatever the votes said."""
    if not len(found.bent_at) or not len(found.rows):
        return np.zeros(len(rows), dtype=bool)
    cos = rows @ found.bent_rows.T
    h, old = frame.values(at), frame.values(found.bent_at)
    old_bias = -np.einsum("bd,bd->b", found.bent_rows, old)
    same = (1 - np.abs(cos) < 1e-12) & (
        np.abs(np.sign(cos) * old_bias - bias[:, None]) < 1e-6 * (1 + np.abs(bias[:, None]))
    )
    z, z_old = h @ found.rows.T + found.bias > 0, old @ found.rows.T + found.bias > 0
    return np.asarray((same & ((z[:, None] != z_old[None]).sum(axis=2) >= 2)).any(axis=1))


def straight_ones(
    ask: Ask,
    frame: Frame,
    found: LayerFound,
    at: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray,
    jump: np.ndarray,
    error: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    rounds: int = 6,
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the hyperplanes bend the answers at other places too, and which could.

    A deeper neuron's hyperplane goes on straight only while nothing that feeds it switches, so a bend counts for more
    the more other
    hyperplanes lie between here and there, and is proof where many do and the step is too short to meet anybody else.

    Queries: 3 per place; one to three places per straight hyperplane, three per bent one, at most `rounds`.
    """
    count = len(rows)
    points, yes, no = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    others, shift = np.concatenate([found.rows, rows]), np.concatenate([found.bias, bias])
    before = frame.values(at) @ others.T + shift > 0
    for _ in range(rounds):
        todo = np.flatnonzero((points < 3) & ~((no >= 3) & (yes == 0)))
        if not len(todo):
            break
        x = on_plane(frame, at[todo], rows[todo], bias[todo], rng)
        sigma = noise.at(x)
        strength = np.abs(jump[todo]).max(axis=1)
        off = error[todo] * (1 + np.linalg.norm(frame.values(x), axis=1) / np.sqrt(frame.d))
        size = 3e4 * sigma.max(axis=1) / strength + 30 * off
        size = np.clip(size, 1e-7, 0.05)
        step = size[:, None] * (rows[todo] @ frame.V.T)
        y = ask(np.concatenate([x - step, x, x + step])).reshape(3, len(x), -1)
        least = np.maximum(AGREE * 5 * sigma, 0.01 * (strength * size)[:, None])
        bend = (np.abs(y[0] - 2 * y[1] + y[2]) > least).any(axis=1)
        yes[todo] += bend
        no[todo] += ~bend
        crossed = ((frame.values(x) @ others.T + shift > 0) != before[todo]).sum(axis=1)
        worth = np.select([(crossed >= 10) & (size * count < 1e-3), crossed >= 4, crossed >= 1], [3, 1.5, 1], 0.0)
        points[todo] += bend * worth
    few = len(others) < 4
    straight = (yes >= no) & ((points >= 3) | (few & (yes >= 2)))
    return straight, ~straight & (yes > no)


def on_plane(
    frame: Frame, at: np.ndarray, rows: np.ndarray, bias: np.ndarray, rng: np.random.Generator, steps: int = 20
) -> Float[np.ndarray, "k n"]:
    """A random point of the region on each hyperplane, by a walk along it that starts at `at`."""
    if frame.free:
        x = SPREAD * rng.standard_normal(at.shape)
    else:
        x = at.copy()
        for _ in range(steps):
            step = rng.standard_normal((len(x), frame.lift.shape[1])) @ frame.lift.T
            step -= np.einsum("kd,kd->k", rows, step @ frame.M.T)[:, None] * (rows @ frame.V.T)
            low, high = frame.room(x, step)
            size = 4 * SPREAD * np.sqrt(step.shape[1]) / np.linalg.norm(step, axis=1)
            low, high = np.clip(low, -size, 0), np.clip(high, 0, size)
            x = x + (low + (high - low) * rng.uniform(0.1, 0.9, len(x)))[:, None] * step
    z = np.einsum("kd,kd->k", rows, frame.values(x)) + bias
    return np.asarray(x - z[:, None] * (rows @ frame.V.T))
