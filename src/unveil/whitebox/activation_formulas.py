"""First and second derivatives of smooth activations, and inverses, as formulas that do not overflow."""

from __future__ import annotations

import numpy as np
from scipy import special

INNER, CUBIC = float(np.sqrt(2 / np.pi)), 0.044715
"""Of the form of GELU with tanh: s / 2 (1 + tanh(INNER (s + CUBIC s^3)))."""


def sigmoid_slope(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 - p))


def sigmoid_curvature(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 - p) * (1 - 2 * p))


def tanh_slope(s: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.tanh(s) ** 2)


def tanh_curvature(s: np.ndarray) -> np.ndarray:
    t = np.tanh(s)
    return np.asarray(-2 * t * (1 - t**2))


def density(s: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi))


def softplus_inverse(y: np.ndarray) -> np.ndarray:
    return np.asarray(y + np.log(-np.expm1(-y)))


def silu_slope(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 + s * (1 - p)))


def silu_curvature(s: np.ndarray) -> np.ndarray:
    p = special.expit(s)
    return np.asarray(p * (1 - p) * (2 + s * (1 - 2 * p)))


def mish_slope(s: np.ndarray) -> np.ndarray:
    t = np.tanh(np.logaddexp(0, s))
    return np.asarray(t + s * special.expit(s) * (1 - t**2))


def mish_curvature(s: np.ndarray) -> np.ndarray:
    t, p = np.tanh(np.logaddexp(0, s)), special.expit(s)
    return np.asarray((1 - t**2) * p * (2 + s * (1 - p) - 2 * s * p * t))


def gelu_tanh_slope(s: np.ndarray) -> np.ndarray:
    t = np.tanh(INNER * (s + CUBIC * s**3))
    return np.asarray((1 + t) / 2 + s / 2 * (1 - t**2) * INNER * (1 + 3 * CUBIC * s**2))


def gelu_tanh_curvature(s: np.ndarray) -> np.ndarray:
    t, rate = np.tanh(INNER * (s + CUBIC * s**3)), INNER * (1 + 3 * CUBIC * s**2)
    return np.asarray((1 - t**2) * (rate + s * (3 * INNER * CUBIC * s - t * rate**2)))
