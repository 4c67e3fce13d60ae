"""as_oracle: finds the way of asking that fits a model, and looks at its first answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Ledger, Oracle, Source, SourceOracle
from unveil.blackbox.sources.callable import CallableSource
from unveil.outcome import BadInput


def as_oracle(
    source: Callable[[np.ndarray], np.ndarray] | Any,
    shape: int | tuple[int, ...] | None = None,
    within: tuple[float, float] | None = None,
    grid: float | None = None,
    budget: int | None = None,
    store: str | None = None,
    answers: str = "auto",
    noisy: bool = False,
) -> Oracle:
    """Make an oracle of anything that can be asked."""
    if not callable(source):
        raise BadInput(f"cannot ask a {type(source).__name__}")
    if shape is None:
        raise BadInput("a bare function needs shape=, e.g. shape=784 or shape=(1, 28, 28)")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    chosen: Source = CallableSource(source, shape)
    y = np.asarray(chosen.answer(np.zeros((4, math.prod(shape)))))
    ledger = Ledger(budget)
    ledger.charge(4)
    ledger.sent += chosen.attempts()
    return SourceOracle(chosen, m=y.shape[1], within=within, grid=grid, ledger=ledger)
