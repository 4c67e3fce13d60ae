"""How well a network that was fitted stands for the model: errors and labels, over fresh inputs and given ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.whitebox.network import Network

# Quantiles of the errors that are told.
QUANTILES = {"median": 0.5, "q90": 0.9, "q99": 0.99, "largest": 1.0}


def errors(told: Float[np.ndarray, "N m"], y: Float[np.ndarray, "N m"]) -> dict[str, Any]:
    """Errors of a network, the largest over its outputs at each input, relative to the deviation of the answers.

    Args:
        told: What the network says.
        y: What the model answers.
    """
    spread = float((y - y.mean(axis=0)).std()) or 1.0
    off = np.abs(told - y).max(axis=1) / spread
    out = {name: float(np.quantile(off, q)) for name, q in QUANTILES.items()}
    return {"inputs": len(y), "rms": float(np.sqrt(((told - y) ** 2).mean())) / spread, **out}


def label_agreement(mine: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Share of inputs with the same label: of all, and of those of each label that the model gives."""
    each = {int(label): float((mine[theirs == label] == label).mean()) for label in np.unique(theirs)}
    return {"labels": float((mine == theirs).mean()), "per_label": each}


def values_told(network: Network, oracle: Oracle, x: Float[np.ndarray, "N n"]) -> dict[str, Any]:
    """Errors and labels at these inputs.

    Queries: `len(x)`
    """
    y, told = oracle(x), network(x)
    out = errors(told, y)
    if not oracle.ordered:
        out |= label_agreement(oracle.predictions(told), oracle.predictions(y))
    return out
