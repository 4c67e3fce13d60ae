"""ending_of_most: the last hidden layer and the output where some answers obey another law, as of a rare neuron."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.fitting.output_layer import FAINT, Asked, Unsigned, after, agreement, in_proportion
from unveil.whitebox.network import Network

# Of the answers explained with an affine part beside the neurons, so many must be without it as well.
AS_MANY = 0.99


def ending_of_most(
    unsigned: Unsigned, solution: Float[np.ndarray, "q m"], asked: Asked, size: float, rough: float
) -> Network:
    """The network that explains the most answers to within `rough`, however far off it is at the others.

    Which sides are active follows from the part linear in the values before, if all neurons are there; else it is
    folded in as neurons of opposite rows, and any sides do. `unsigned`: the last hidden layer, and those before.
    `solution`: of the fit that explains answers by it. `rough`: relative to the largest answer.
    """
    x, y = asked.all()
    weight = in_proportion(x, size)
    strong = np.abs(solution[: len(unsigned.rows)]).max(axis=1)
    unsigned, solution = unsigned.only(strong > FAINT * strong.max(), solution)
    h, F = after(unsigned.layers, x), unsigned.features(x) * weight
    told = unsigned.sided(F, solution)
    options = [] if told is None else [(told[0] * told[1][:, None], unsigned.bias * told[1], False)]
    options += [(each.rows, each.bias, True) for each in (unsigned.corrected(unsigned.loose(F), solution), unsigned)]
    best: tuple[Network | None, float] = None, -1.0
    for rows, bias, affine in options:
        z = np.maximum(h @ rows.T + bias, 0)
        parts = [z, np.ones((len(x), 1)), h] if affine else [z, np.ones((len(x), 1))]
        found, off = agreement(np.concatenate(parts, axis=1) * weight, y * weight)
        share = float((off < rough).mean())
        if best[0] is None or share > best[1] / (AS_MANY if affine else 1.0):
            best = _network(unsigned, rows, bias, found), share
    assert best[0] is not None
    return best[0]


def _network(
    unsigned: Unsigned, rows: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"], found: Float[np.ndarray, "q m"]
) -> Network:
    """With these neurons and what a fit makes of them, the part linear in the values before as opposite ones."""
    k = len(rows)
    if len(found) == k + 1:
        return Network.from_weights([*unsigned.layers, (rows, bias), (found[:k].T, found[k])])
    u, s, vt = np.linalg.svd(found[k + 1 :].T, full_matrices=False)
    keep: Bool[np.ndarray, " r"] = s > FAINT * max(float(s.max(initial=0)), 1e-300)
    rest = (u * s)[:, keep]
    outer = np.concatenate([found[:k].T, rest, -rest], axis=1)
    rows = np.concatenate([rows, vt[keep], -vt[keep]])
    bias = np.concatenate([bias, np.zeros(2 * int(keep.sum()))])
    return Network.from_weights([*unsigned.layers, (rows, bias), (outer, found[k])])
