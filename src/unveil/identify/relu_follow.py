"""follow_surfaces: the second layer behind a first one with more neurons than inputs, by walking along its bent
hyperplanes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.crossings import breakpoints
from unveil.blackbox.rounding import Ask, Rounding

# Rays walked per neuron before what is still unknown of it is left at zero.
RAYS = 60
# Surfaces that agree this well are one: what a long walk adds up to in errors, before the fit at the end.
SAME = 3e-3


@dataclass
class _Surface:
    """Where one second-layer neuron switches: `beta . relu(A x + b) + c = 0`, as far as it is known."""

    beta: Float[np.ndarray, " k"]
    c: float
    known: Bool[np.ndarray, " k"]


def follow_surfaces(
    ask: Ask,
    layer: tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"]],
    leads: tuple[Float[np.ndarray, "B n"], Float[np.ndarray, "B n"]],
    error: Float[np.ndarray, " B"],
    noise: Rounding,
    rng: np.random.Generator,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Float[np.ndarray, "q k"], Float[np.ndarray, " q"]]:
    """Read second-layer neurons in the space of the first layer's values.

    In one linear piece of the first layer the surface is flat, and its normal is the sum of the active rows, weighted
    by what the
    neuron sees of them. Whoever walks along it and crosses the hyperplane of a first-layer neuron not met before
    finds the surface bent by exactly that neuron's weight, which one breakpoint beyond the crossing gives.

    Args:
        ask: Answers questions.
        layer: The first layer, sides settled.
        leads: Breakpoints of deeper layers, and the unit normals there.
        error: Expected errors of these normals.
        noise: How exact the answers are.
        rng: Draws directions.
        start: Rows and biases read before.

    Returns:
        Unit rows and biases, up to sign, one per neuron met.

    Queries: about 20 per unknown weight.

    Source: the walk along bent hyperplanes is that of Rolnick, Kording, arXiv:1910.00744, with one query search per
        unknown.
    """
    A, b = layer
    n = A.shape[1]
    rows: list[np.ndarray] = [] if start is None else list(start[0])
    shifts: list[float] = [] if start is None else list(start[1])
    # The most exact normals first; those with as many active neurons as inputs have nothing to check them with.
    for i in np.argsort(error, kind="stable"):
        x, normal = leads[0][i], leads[1][i]
        z = A @ x + b
        on = z > 0
        h = np.maximum(z, 0)
        if any(abs(r @ h + s) < SAME * (1 + np.linalg.norm(h)) for r, s in zip(rows, shifts, strict=True)):
            continue
        if on.sum() >= n or not on.any():
            continue
        beta, *_ = np.linalg.lstsq(A[on].T, normal, rcond=None)
        if np.linalg.norm(A[on].T @ beta - normal) > 1e-7 + 30 * error[i]:
            continue  # of a still deeper layer, or measured across another breakpoint
        surface = _Surface(np.zeros(len(A)), 0.0, on.copy())
        surface.beta[on] = beta
        surface.c = -float(surface.beta @ h)
        for _ in range(RAYS):
            if surface.known.all():
                break
            _walk(ask, layer, surface, x, noise, rng)
        if not surface.known.all():
            continue
        size = float(np.linalg.norm(surface.beta))
        if all(1 - abs(r @ surface.beta) / size > SAME**2 * 10 for r in rows):
            rows.append(surface.beta / size)
            shifts.append(surface.c / size)
    return np.array(rows).reshape(-1, len(A)), np.array(shifts)


def _walk(
    ask: Ask,
    layer: tuple[np.ndarray, np.ndarray],
    surface: _Surface,
    x: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    steps: int = 60,
) -> None:
    """One ray along the surface, bending with it, until it has met every hyperplane or an unknown it cannot measure."""
    A, b = layer
    on = A @ x + b > 0
    v = rng.standard_normal(len(x))
    far = 20 * (1 + np.linalg.norm(x))
    last = -1
    for _ in range(steps):
        normal = A.T @ np.where(on, surface.beta, 0)
        length = np.linalg.norm(normal)
        if length < 1e-9:
            return
        v = v - normal * (normal @ v) / length**2
        v /= np.linalg.norm(v)
        z, rate = A @ x + b, A @ v
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where((rate != 0) & (np.sign(rate) == np.where(on, -1, 1)), -z / rate, np.inf)
        t = np.where(np.arange(len(t)) == last, np.inf, np.maximum(t, 0))
        j = int(t.argmin())
        if not np.isfinite(t[j]) or np.linalg.norm(x + t[j] * v) > far:
            return
        x = x + t[j] * v
        # Back onto the surface and the hyperplane, against the drift of many steps.
        both = np.stack([normal, A[j]])
        off = np.array([surface.beta @ np.where(on, A @ x + b, 0) + surface.c, A[j] @ x + b[j]])
        x = x - np.linalg.lstsq(both, off, rcond=None)[0]
        new = not on[j] and not surface.known[j]
        if new and not _measure(ask, layer, surface, x, normal, v, j, noise, rng):
            return
        on = on.copy()
        on[j] = ~on[j]
        last = j


def _measure(
    ask: Ask,
    layer: tuple[np.ndarray, np.ndarray],
    surface: _Surface,
    x: np.ndarray,
    normal: np.ndarray,
    v: np.ndarray,
    j: int,
    noise: Rounding,
    rng: np.random.Generator,
) -> bool:
    """The weight of neuron j, from where the surface goes on just beyond its hyperplane."""
    A, b = layer
    # Across the surface, at constant value of neuron j.
    w = normal - A[j] * (A[j] @ normal) / (A[j] @ A[j])
    if np.linalg.norm(w) < 0.05 * np.linalg.norm(normal):
        return False
    w /= np.linalg.norm(w)
    others = np.delete(np.arange(len(A)), j)
    room = float((np.abs(A[others] @ x + b[others]) / np.linalg.norm(A[others], axis=1)).min())
    slope = float(normal @ w)
    rise = float(A[j] @ v)
    largest = 8 * float(np.abs(surface.beta).max())
    # s = -beta_j u / slope must stay in the piece for the largest plausible weight.
    step = min(0.2 * room, 0.2 * room * slope / max(largest * rise, 1e-300))
    if step < 3e-4:
        return False
    reach = largest * rise * step / slope
    base = x + step * v
    (line,) = breakpoints(ask, base[None], reach * w[None], -1.0, 1.0, noise, rng)
    if len(line.t) != 1:
        return False
    beta = -float(line.t[0]) * reach * slope / (rise * step)
    # Twice as far beyond, this neuron's surface is twice as far aside; anybody else's is not.
    again = x + 2 * step * v - 2 * beta * rise * step / slope * w
    aside = max(1e-3 * reach, 30 * float(line.width[0]) * reach)
    y = ask(np.stack([again - aside * w, again, again + aside * w]))
    expect = float(np.abs(line.jump[0]).max()) / reach * aside
    if float(np.abs(y[0] - 2 * y[1] + y[2]).max()) < 0.5 * expect:
        return False
    surface.beta[j] = beta
    surface.known[j] = True
    return True
