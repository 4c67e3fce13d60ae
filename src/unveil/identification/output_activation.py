"""output_activation: a sigmoid or tanh on top of each output of a piecewise-linear network, undone and put back."""

from __future__ import annotations

import dataclasses

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.wrappers import Arctanh, LogRatios
from unveil.identification.detect import piecewise_linear
from unveil.identification.method import Identification
from unveil.whitebox.activation import activation as activation_named

# Inputs whose answers are looked at; questions left below which no network would be read behind them.
OUTPUTS_LOOKED_AT, WORTH_UNDOING = 20, 4000


def behind_outputs(oracle: Oracle, rng: np.random.Generator) -> tuple[OracleWrapper, str] | None:
    """What curved answers are without a sigmoid or tanh on top of each, where that is straight between breakpoints.

    Queries: none where the first answers exceed 1 or the budget is short; else `OUTPUTS_LOOKED_AT`, and if all of these
    lie in [-1, 1] those of `piecewise_linear`
    """
    if oracle.scale > 1 or oracle.reference is not None or oracle.ledger.left < WORTH_UNDOING:
        return None
    y = oracle(oracle.sample(OUTPUTS_LOOKED_AT, np.random.default_rng(0)))
    if np.abs(y).max() > 1:
        return None
    undone, name = (LogRatios(oracle, each=True), "sigmoid") if y.min() >= 0 else (Arctanh(oracle), "tanh")
    return (undone, name) if piecewise_linear(undone, rng) else None


def with_outputs(found: Identification, name: str, queries: int) -> Identification:
    """What was read behind the activation of the outputs, as the network of the answers that were given."""
    network = found.network
    if network is not None:
        last = dataclasses.replace(network.layers[-1], activation=activation_named(name))
        network = dataclasses.replace(network, layers=(*network.layers[:-1], last))
    inverse = {"sigmoid": "lie in [0, 1] and their logits are", "tanh": "lie in [-1, 1] and their arctanh is"}[name]
    text = f"answers {inverse} straight between breakpoints: {'a ' * (name == 'sigmoid')}{name} lies on top of each"
    return dataclasses.replace(found, network=network, queries=queries, why=(text, *found.why))
