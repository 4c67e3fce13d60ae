"""The field's standard simulators, with exact gradients by autograd and the directions that follow from them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

import unveil as uv

Function = Callable[[torch.Tensor], torch.Tensor]
HALF = {
    "otl": [(50, 150), (25, 70), (0.5, 3), (1.2, 2.5), (0.25, 1.2), (50, 300)],
    "borehole": [(0.05, 0.15), (100, 50000), (63070, 115600), (990, 1110), (63.1, 116), (700, 820), (1120, 1680),
                 (9855, 12045)],
    "piston": [(30, 60), (0.005, 0.02), (0.002, 0.01), (1000, 5000), (90000, 110000), (290, 296), (340, 360)],
    "wing": [(150, 200), (220, 300), (6, 10), (-10, 10), (16, 45), (0.5, 1), (0.08, 0.18), (2.5, 6), (1700, 2500),
             (0.025, 0.08)],
    "ebola": [(0.1, 0.4), (0.1, 0.4), (0.05, 0.2), (0.41, 1), (0.0276, 0.1702), (0.081, 0.21), (0.25, 0.5),
              (0.0833, 0.7)],
    "ishigami": [(-np.pi, np.pi)] * 3,
    "sobol-g": [(0, 1)] * 6,
    "ridge": [(-1, 1)] * 20,
    "diffusion": [(-(3**0.5), 3**0.5)] * 100,
    "enzyme": [(0, 2), (-1, 1), (-1, 1), (-2, 0), (0, 1.5)],
}  # fmt: skip
RIDGE = torch.tensor(np.linalg.qr(np.random.default_rng(7).standard_normal((20, 2)))[0].T)


def otl(v: torch.Tensor) -> torch.Tensor:
    """Voltage of an output-transformerless push-pull circuit."""
    b1, b2, f, c1, c2, beta = v.T
    base, gain = 12 * b2 / (b1 + b2), beta * (c2 + 9)
    return (base + 0.74) * gain / (gain + f) + 11.35 * f / (gain + f) + 0.74 * f * gain / ((gain + f) * c1)


def borehole(v: torch.Tensor) -> torch.Tensor:
    """Flow of water through a borehole."""
    rw, r, tu, hu, tl, hl, length, k = v.T
    log = torch.log(r / rw)
    return 2 * np.pi * tu * (hu - hl) / (log * (1 + 2 * length * tu / (log * rw**2 * k) + tu / tl))


def piston(v: torch.Tensor) -> torch.Tensor:
    """Cycle time of a piston."""
    m, s, v0, k, p0, ta, t0 = v.T
    a = p0 * s + 19.62 * m - k * v0 / s
    volume = s / (2 * k) * (torch.sqrt(a**2 + 4 * k * p0 * v0 / t0 * ta) - a)
    return 2 * np.pi * torch.sqrt(m / (k + s**2 * p0 * v0 / t0 * ta / volume**2))


def wing(v: torch.Tensor) -> torch.Tensor:
    """Weight of a light aircraft's wing."""
    s, fuel, a, sweep, q, taper, thick, load, gross, paint = v.T
    c = torch.cos(sweep * np.pi / 180)
    body = s**0.758 * fuel**0.0035 * (a / c**2) ** 0.6 * q**0.006 * taper**0.04
    return 0.036 * body * (100 * thick / c) ** -0.3 * (load * gross) ** 0.49 + s * paint


def ebola(v: torch.Tensor) -> torch.Tensor:
    """Basic reproduction number of Ebola in Liberia."""
    b1, b2, b3, rho, g1, g2, omega, psi = v.T
    return (b1 + b2 * rho * g1 / omega + b3 * psi / g2) / (g1 + psi)


def ishigami(v: torch.Tensor) -> torch.Tensor:
    """Ishigami and Homma's function."""
    return torch.sin(v[:, 0]) + 7 * torch.sin(v[:, 1]) ** 2 + 0.1 * v[:, 2] ** 4 * torch.sin(v[:, 0])


def sobol_g(v: torch.Tensor) -> torch.Tensor:
    """Sobol's g function."""
    a = torch.tensor([0, 1, 4.5, 9, 99, 99], dtype=torch.float64)
    return torch.prod((torch.abs(4 * v - 2) + a) / (1 + a), 1)


def ridge(v: torch.Tensor) -> torch.Tensor:
    """Two combinations of twenty inputs."""
    z = v @ RIDGE.T
    return torch.sin(1.5 * z[:, 0]) + z[:, 1] ** 2 + 0.5 * z[:, 0] * z[:, 1]


# Modes of a conductivity exp(g) on the unit interval, g with covariance exp(-|s - t| / 0.5) and deviation 0.5.
CELLS, MODES = 200, 100
_PLACES = (np.arange(CELLS) + 0.5) / CELLS
_SIZES, _SHAPES = np.linalg.eigh(np.exp(-np.abs(_PLACES[:, None] - _PLACES) / 0.5) / CELLS)
FIELD = torch.from_numpy((_SHAPES * np.sqrt(_SIZES * CELLS))[:, ::-1][:, :MODES].copy())


def diffusion(v: torch.Tensor) -> torch.Tensor:
    """Where -(a u')' = 1, u(0) = 0 and u'(1) = 0: u(1), the conductivity a a random field of 100 modes."""
    places = torch.from_numpy(_PLACES)
    return torch.mean((1 - places) * torch.exp(-0.5 * v @ FIELD.T), 1)


def enzyme(v: torch.Tensor) -> torch.Tensor:
    """Product of Michaelis and Menten's reaction at time 5, four ordinary differential equations, Runge and Kutta."""
    forward, back, turnover, enzymes, start = torch.exp(v.T)
    state = torch.stack([start, enzymes, 0 * start, 0 * start])

    def slope(now: torch.Tensor) -> torch.Tensor:
        s, e, c, _ = now
        bound, free, made = forward * s * e, back * c, turnover * c
        return torch.stack([free - bound, free + made - bound, bound - free - made, made])

    step = 5 / 100
    for _ in range(100):
        a = slope(state)
        b = slope(state + step / 2 * a)
        c = slope(state + step / 2 * b)
        d = slope(state + step * c)
        state = state + step / 6 * (a + 2 * b + 2 * c + d)
    return state[3]


FUNCTIONS: dict[str, Function] = {
    "otl": otl, "borehole": borehole, "piston": piston, "wing": wing, "ebola": ebola, "ishigami": ishigami,
    "sobol-g": sobol_g, "ridge": ridge,
    "diffusion": diffusion, "enzyme": enzyme,
}  # fmt: skip


def scaled(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The simulator in inputs from -1 to 1."""
    ends = np.array(HALF[name], dtype=np.float64)

    def answer(x: np.ndarray) -> np.ndarray:
        v = ends[:, 0] + (x + 1) / 2 * (ends[:, 1] - ends[:, 0])
        return np.asarray(FUNCTIONS[name](torch.from_numpy(v)).numpy())

    return answer


@functools.cache
def reference(name: str, points: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and directions from exact gradients."""
    ends = torch.tensor(HALF[name], dtype=torch.float64)
    x = torch.tensor(np.random.default_rng(99).uniform(-1, 1, (points, len(ends))), requires_grad=True)
    y = FUNCTIONS[name](ends[:, 0] + (x + 1) / 2 * (ends[:, 1] - ends[:, 0]))
    gradient = torch.autograd.grad(y.sum(), x)[0].numpy()
    values, axes = np.linalg.eigh(gradient.T @ gradient / points)
    return np.maximum(values[::-1], 0.0), axes[:, ::-1].T


# What else is done to a simulator: noise of one per cent of the answers' deviation, runs that fail, coarse inputs.
NOISE, FAILING = 0.01, 0.02
WHOLE = (3, 5, 6)  # of the borehole and of any other with eight inputs: these have five values only
FEW = 5


def spoiled(name: str, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], list[uv.Input]]:
    """A simulator in scaled inputs and what `Simulator` takes as its inputs; `name+noise+failures+integers`.

    Args:
        name: A name of `FUNCTIONS`, perhaps with what shall be done to it.
        seed: Draws noise, failures and the last bits of the answers, which differ between processors.
    """
    plain, *troubles = name.split("+")
    f, rng = scaled(plain), np.random.default_rng([seed, 77])
    size = float(f(np.random.default_rng(3).uniform(-1, 1, (10_000, len(HALF[plain])))).std())

    def answer(x: np.ndarray) -> np.ndarray:
        x = np.array(x, dtype=np.float64)
        if "integers" in troubles:
            x[:, WHOLE] = 2 * (x[:, WHOLE] - 1) / (FEW - 1) - 1
        y = f(x) * (1 + np.finfo(float).eps * rng.integers(-1, 2, len(x)))
        if "noise" in troubles:
            y = y + NOISE * size * rng.standard_normal(len(x))
        if "failures" in troubles:
            y = np.where(rng.uniform(size=len(x)) < FAILING, np.nan, y)
        return np.asarray(y)

    whole = WHOLE if "integers" in troubles else ()
    inputs = [
        uv.Input(f"x{place}", 1, FEW, integer=True) if place in whole else uv.Input(f"x{place}", -1, 1)
        for place in range(len(HALF[plain]))
    ]
    return answer, inputs
