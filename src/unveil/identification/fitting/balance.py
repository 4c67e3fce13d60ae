"""by_balance, but_for_one: on which sides neurons of a last hidden layer are active, from its smooth half."""

from __future__ import annotations

import contextlib
from math import log10

import numpy as np
from jaxtyping import Float, Shaped

LOVASZ = 0.99  # by how much a reduced vector may be shorter than the one before it
# Neurons whose signs are all tried out at most; so many digits less than one choice in 10 is right by chance.
MOST_SIGNS_TRIED, CHANCE_DIGITS = 16, 6.0


def by_balance(
    rows: Float[np.ndarray, "k d"], weight: Float[np.ndarray, "k m"], twice: Float[np.ndarray, "m d"], tolerance: float
) -> Float[np.ndarray, " k"] | None:
    """Signs s with `sum_i s_i weight_i rows_i = twice`: the smooth half of the last hidden layer.

    `w relu(z) = w |z| / 2 + w z / 2`: the first half is the same for both sides, the second adds up to an affine
    function that can be measured. As many equations as outputs times inputs; with fewer than neurons the signs are a
    lattice problem. Returns the signs, or None where these equations do not settle them within `tolerance` (relative to
    the largest term).
    """
    scale = (np.abs(weight).max(axis=1) * np.abs(rows).max(axis=1)).max() * np.sqrt(len(rows))
    # Signs need few digits: the normal equations are as many as neurons, where all are outputs times inputs.
    with contextlib.suppress(np.linalg.LinAlgError):
        right = np.einsum("km,km->k", weight, rows @ twice.T)
        sign = np.where(np.linalg.solve((weight @ weight.T) * (rows @ rows.T), right) >= 0, 1.0, -1.0)
        if np.abs((sign[:, None] * weight).T @ rows - twice).max() <= tolerance * scale:
            return sign
    A = (weight[:, :, None] * rows[:, None, :]).reshape(len(rows), -1).T
    p = twice.reshape(-1)
    s, *_ = np.linalg.lstsq(A, p, rcond=None)
    sign = np.where(s >= 0, 1.0, -1.0)
    if np.abs(A @ sign - p).max() <= tolerance * scale:
        return sign
    if len(rows) > len(p) and len(rows) <= 64:
        settled = _lattice(A / scale, p / scale)
        if settled is not None and np.abs(A @ settled - p).max() <= tolerance * scale:
            return settled
    return None


def but_for_one(
    rows: Float[np.ndarray, "k d"], weight: Float[np.ndarray, "k m"], twice: Float[np.ndarray, "m d"], tolerance: float
) -> Float[np.ndarray, " k"] | None:
    """Signs as in `by_balance` where one neuron is active everywhere: it leaves a matrix of rank one.

    That is the case for one choice of the signs only, of several outputs; all are tried. Returns the signs, or None
    where none leave rank one, several do, or one might by chance.
    """
    (k, d), m = rows.shape, len(twice)
    if k > MOST_SIGNS_TRIED or k * log10(2) + CHANCE_DIGITS > -log10(tolerance) * (m - 1) * (d - 1):
        return None
    scale = (np.abs(weight).max(axis=1) * np.abs(rows).max(axis=1)).max() * np.sqrt(k)
    each = (weight[:, :, None] * rows[:, None, :]).reshape(k, -1)
    sign = np.where((np.arange(1 << k)[:, None] >> np.arange(k)) % 2, 1.0, -1.0)
    left = twice.reshape(-1) - sign @ each
    left = left.reshape(-1, m, d)
    # The second singular value from the squares of the entries and of the largest one: half the digits, then all.
    gram = left @ left.transpose(0, 2, 1)
    second = np.linalg.eigvalsh(gram)[:, :-1].sum(axis=1)
    near = np.argsort(second)[:2]
    fits = np.linalg.svd(left[near], compute_uv=False)[:, 1] <= tolerance * scale
    return sign[near[0]] if fits[0] and not fits[1:].any() else None


def _lattice(A: Float[np.ndarray, "q k"], p: Float[np.ndarray, " q"]) -> Float[np.ndarray, " k"] | None:
    """Zero-one solutions of a few real equations: a short vector of a lattice, by reduction at rising precision."""
    q, k = A.shape
    target = (p + A.sum(axis=1)) / 2
    basis = np.zeros((k + 1, k + 1 + q))
    basis[:k, :k] = 2 * np.eye(k)
    basis[k, :k] = -1
    basis[k, k] = 1
    exact = np.concatenate([A.T, -target[None]])
    whole = np.eye(k + 1, dtype=object)
    for bits in range(2, 34, 4):
        integer = np.array(whole, dtype=np.float64)
        rows = np.concatenate([integer @ basis[:, : k + 1], (integer @ exact) * 2.0**bits], axis=1)
        change = _reduce(rows)
        whole = change.dot(whole)
        for row in np.array(whole, dtype=np.float64) @ basis[:, : k + 1]:
            if np.abs(np.abs(row) - 1).max() < 1e-9:
                sign = row[:k] * row[k]
                if np.abs(A @ sign - p).max() < 1e-6:
                    return np.asarray(sign)
    return None


def _reduce(rows: Float[np.ndarray, "b e"]) -> Shaped[np.ndarray, "b b"]:
    """Lenstra, Lenstra, Lovasz reduction in floating point; returns the integer change of basis."""
    b = rows.copy()
    count = len(b)
    change = np.eye(count, dtype=object)
    star, mu, norm = np.zeros_like(b), np.zeros((count, count)), np.zeros(count)

    def orthogonalise(i: int) -> None:
        v = b[i].copy()
        for _ in range(2):
            if i:
                c = (star[:i] @ v) / norm[:i]
                v -= c @ star[:i]
        mu[i, :i] = (star[:i] @ b[i]) / norm[:i] if i else 0
        star[i], norm[i] = v, max(v @ v, 1e-300)

    orthogonalise(0)
    i, steps = 1, 0
    while i < count and steps < 60_000:
        steps += 1
        orthogonalise(i)
        for j in range(i - 1, -1, -1):
            r = round(float(mu[i, j]))
            if r:
                b[i] -= r * b[j]
                change[i] -= r * change[j]
                mu[i, :j] -= r * mu[j, :j]
                mu[i, j] -= r
        if norm[i] >= (LOVASZ - mu[i, i - 1] ** 2) * norm[i - 1]:
            i += 1
        else:
            b[[i - 1, i]], change[[i - 1, i]] = b[[i, i - 1]], change[[i, i - 1]]
            orthogonalise(i - 1)
            i = max(i - 1, 1)
    return change
