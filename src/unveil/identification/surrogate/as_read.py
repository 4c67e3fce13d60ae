"""worse_at: a fit held against what was read, at inputs of each kind that users have; where errors were measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.robust import rms
from unveil.identification.surrogate.students import Told
from unveil.whitebox.network import Network

EACH_KIND, INPUT_KINDS = 500, 3  # answers of each kind of inputs, and kinds at most
COMPARED = EACH_KIND * INPUT_KINDS
CONFIDENCE = 0.95  # with which it is told how many inputs are further off than those that were asked


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
    where = "inputs further out" if oracle.within is None else "corners of the box"
    out[where] = further_out(oracle, count, rng)
    if examples is not None:
        out["the inputs given"] = examples[rng.permutation(len(examples))[:count]]
    return out


def further_out(oracle: Oracle, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count n"]:
    """Legal inputs further out than usual ones, or at corners of the box."""
    if oracle.within is None:
        return oracle.nearest(FURTHER[0] * oracle.sample(count, rng))
    low, high = oracle.within
    return oracle.nearest(np.where(rng.random((count, oracle.n)) < 0.5, low, high))


def drawn(oracle: Oracle, x: Float[np.ndarray, "N n"], times: float = 1.0) -> str:
    """How the inputs `x` were drawn, and how far out they lie: what is measured there holds for such inputs alone.
    `times`: how many times as far out as usual ones."""
    if oracle.within is None:
        far = float(np.linalg.norm(x, axis=1).max(initial=0.0))
        return f"normal inputs of deviation {times:g}, the furthest {far:.3g} from 0"
    low, high = (np.unique(each) for each in oracle.within)
    box = f"the box from {low[0]:g} to {high[0]:g}" if len(low) == len(high) == 1 else "the box"
    return f"inputs uniform in {box}" if times == 1 else f"inputs at corners of {box}"


def exceeded(count: int) -> float:
    """The share of inputs that are further off than the largest error at so many, at most, with a confidence of
    `CONFIDENCE`: more of them would have shown one."""
    return float(1 - (1 - CONFIDENCE) ** (1 / count))


def measured(fresh: dict[str, Any], further: dict[str, Any] | None) -> str:
    """The errors of a copy in a sentence, with the inputs that they hold for."""
    told = (
        f"Off by {fresh['largest']:.2g} of the answers' deviation at most, {fresh['rms']:.2g} root mean square, at "
        f"{fresh['inputs']:,} fresh {fresh['drawn']}: of such inputs at most {fresh['exceeded']:.2%} are further off, "
        f"with a confidence of {CONFIDENCE:.0%}"
    )
    if further is not None:
        told += (
            f". Off by {further['largest']:.2g} of the deviation there, {further['rms']:.2g} root mean square, at "
            f"{further['inputs']:,} {further['drawn']}"
        )
    return f"{told}. Elsewhere nothing was measured."
