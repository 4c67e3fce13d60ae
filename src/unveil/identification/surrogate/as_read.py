"""worse_at: a fit held against what was read, at inputs of each kind that users have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.robust import rms
from unveil.identification.surrogate.students import Told
from unveil.whitebox.network import Network

EACH_KIND, INPUT_KINDS = 500, 3  # answers of each kind of inputs, and kinds at most
COMPARED = EACH_KIND * INPUT_KINDS


def worse_at(
    best: Network,
    read: Network,
    held: Told,
    ask: Callable[[Float[np.ndarray, "N n"]], Told],
    inputs: dict[str, Float[np.ndarray, "_ n"]],
) -> str | None:
    """The first kind of inputs at which a fit leaves more of the answers than what was read, all of these taken
    together: it may be right at most, and far off at a few. None where there is no such.

    `held`: answers of all kinds that neither was fitted to. `ask`: for answers at `inputs`. Queries: `EACH_KIND` for
    each kind of inputs, up to the first.
    """
    for kind in ("inputs of all kinds", *inputs):
        told = ask(inputs[kind]) if kind in inputs else held
        if len(told.x) and rms(read, *told[:3]) < rms(best, *told[:3]):
            return kind
    return None


def kinds(
    oracle: Oracle, most: float, rng: np.random.Generator, examples: Float[np.ndarray, "E n"] | None = None
) -> dict[str, Float[np.ndarray, "_ n"]]:
    """Legal inputs of each kind that users have: as they draw them, further out or at corners of a box, and some of the
    examples if there are any. `most`: in all, `COMPARED` at most."""
    count = int(min(EACH_KIND, most // INPUT_KINDS))
    out = {"usual inputs": oracle.sample(count, rng)}
    if oracle.within is None:
        out["inputs further out"] = oracle.nearest(FURTHER[0] * oracle.sample(count, rng))
    else:
        low, high = oracle.within
        out["corners of the box"] = oracle.nearest(np.where(rng.random((count, oracle.n)) < 0.5, low, high))
    if examples is not None:
        out["the inputs given"] = examples[rng.permutation(len(examples))[:count]]
    return out
