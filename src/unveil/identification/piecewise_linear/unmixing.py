"""unmix: every derivative that was measured is a mixture of the rows active there: together they tell each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import LayerFound

# Alternations between mixtures and rows, and how often these begin anew with what is active by the rows they gave.
ROUNDS, PASSES = 10, 2
# How many of its errors a row may go: these are estimates, of weak rows by a factor of three or four. And how many
# errors of the least squares a row is off, which take mixtures for exact.
FREE, DOUBT = 4.0, 10.0


def unmix(
    frame: Frame, found: LayerFound, layer: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Sharper rows from all derivatives measured on the way, by alternating least squares.

    A row was first read off two of them; hundreds of others hold it too, in mixtures that are not known but easily
    found from nearly right rows. One that hardly any derivative holds stays as it was. `layer`: unit rows and biases,
    positive side active; no more rows than coordinates. Returns unit rows, biases, and errors of the rows.
    """
    rows, bias = layer
    error = found.straight.error
    if not found.slope.any():
        return rows, bias, error
    for _ in range(PASSES):
        new, expected = _mixed(frame, found, (rows, bias))
        # A row that went further than its error came under what others lack.
        near = np.linalg.norm(new - layer[0], axis=1) <= FREE * found.straight.error
        rows, error = np.where(near[:, None], new, layer[0]), np.where(near, expected, found.straight.error)
        shift = -np.einsum("kd,kd->k", rows, frame.values(found.straight.at))
        bias = np.where(near, shift, layer[1])
    return rows, bias, np.minimum(error, found.straight.error)


def _mixed(
    frame: Frame, found: LayerFound, layer: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """Unit rows that all derivatives agree on, and their errors."""
    rows, bias = layer
    active = frame.values(found.at) @ rows.T + bias > 0
    weight = np.ones(len(found.at))
    for _ in range(ROUNDS):
        parts = np.zeros((len(found.at), found.slope.shape[1], len(rows)))
        for p, on in enumerate(active):
            if on.any():
                parts[p][:, on] = np.linalg.lstsq(rows[on].T, found.slope[p].T, rcond=None)[0].T
        left = np.sqrt(((found.slope - parts @ rows) ** 2).mean(axis=(1, 2)))
        # Derivatives from long steps are exact; from short ones, or where a neuron was missed, hardly worth a look.
        least = max(0.3 * float(np.median(left)), 1e-12 * float(np.abs(found.slope).max()))
        weight = 1 / np.maximum(left, least)
        C = (parts * weight[:, None, None]).reshape(-1, len(rows))
        S = (found.slope * weight[:, None, None]).reshape(-1, frame.d)
        gram = C.T @ C
        if not gram.any():
            return rows, found.straight.error
        # A row in no mixture stays; the ridge keeps rows that are hardly in any near what they were.
        ridge = 1e-9 * np.trace(gram) / len(rows)
        factor = linalg.cho_factor(gram + ridge * np.eye(len(rows)))
        new = linalg.cho_solve(factor, C.T @ S + ridge * rows)
        size = np.linalg.norm(new, axis=1, keepdims=True)
        rows = np.where(size > 0, new / np.maximum(size, 1e-300), rows)
    inverse = linalg.cho_solve(factor, np.eye(len(rows)))
    return rows, DOUBT * np.sqrt(np.maximum(np.diag(inverse), 0) * frame.d)
