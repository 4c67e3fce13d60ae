"""close: the neurons met so far as the last hidden layer, held against all answers, then against fresh ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Unsigned, ending, explain
from unveil.identification.piecewise_linear.candidates import HALF, ROUGH
from unveil.identification.piecewise_linear.deeper_state import Deeper, Setting
from unveil.identification.piecewise_linear.fresh_points import refuting
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.whitebox.network import Network

# How far out, in typical inputs, a line between two points may begin.
NEAR = 30.0
# How far out inputs are that a user might ask.
INNER = 4.0
# A fit that explains more of the answers lacks a neuron at most.
NEARLY = 0.95
# Points that the last digits must suit.
POOL = 4000


def close(setting: Setting, state: Deeper) -> tuple[Deeper, float]:
    """The neurons met so far as the last hidden layer.

    Returns:
        With the network, if it is the best so far, and where it is right and wrong; and its largest error on what was
        asked, infinite where it fails on fresh points or there is none.

    Queries: those of `finish`, and of `refuting` where everything asked is explained.
    """
    if not state.candidates.neurons and not state.seen and len(state.layers) > 1:
        # Nothing lies behind the layer read last.
        *layers, layer = state.layers
        ended = replace(state, layers=layers).ending(layer)
        state = replace(ended, candidates=replace(ended.candidates, views=()))
    neurons = (*state.candidates.neurons, *state.candidates.alone)
    if not neurons or not state.nearly:
        return state, np.inf
    state = replace(state, wrong=state.wrong[:0])
    state, network, fits = _fitted(setting, state, neurons)
    if network is None:
        return state, np.inf
    state, fits, error = _judged(setting, state, network, fits)
    x, y = setting.log.all()
    near = _near(setting)
    against = None
    if error < setting.fine:
        against = refuting(setting.log, network, setting.points, setting.fine, state.patience > 0)
    if against is not None:
        x, y = against
        fits = np.abs(network(x) - y).max(axis=1) < setting.fine * np.abs(y).max()
        near, error = np.ones(len(x), dtype=bool), np.inf
    # Further out lines are long, and their ends vague.
    state = replace(state, right=x[fits & near], wrong=x[~fits & near])
    if error < state.residual or state.network is None:
        state = replace(state, network=network, residual=error)
    return state, error


def _fitted(
    setting: Setting, state: Deeper, neurons: Sequence[Neuron]
) -> tuple[Deeper, Network | None, Bool[np.ndarray, " N"]]:
    """The network with these neurons, to the last digits where it is nearly right, and which answers it explains."""
    key = frozenset((n.key, int(n.known.sum())) for n in neurons)
    candidates, log, size = state.candidates, setting.log, setting.probe.noise.size
    if candidates.fitted is not None and candidates.fitted[0] == key:
        return state, candidates.fitted[1], np.empty(0, dtype=bool)
    rough = max(ROUGH, setting.fine)
    rows, bias, known = (np.array([getattr(n, name) for n in neurons]) for name in ("weights", "bias", "known"))
    unsigned, solution, fits = explain(Unsigned(state.layers, rows, bias, known), log, size, rough)
    candidates = replace(candidates, fitted=None)
    if fits.mean() < HALF:
        return replace(state, candidates=candidates), None, fits
    if fits.mean() > NEARLY:
        # From here on what is not explained is a neuron that is missing, not a layer, nor a false one.
        strong = np.abs(solution[: len(neurons)]).max(axis=1)
        proven = {n.key for n, ok in zip(neurons, strong > ROUGH * strong.max(), strict=True) if ok}
        candidates = replace(candidates, proven=candidates.proven | proven)
        state = replace(state, last=True)
    share = float(fits.mean())
    if share <= state.explained < 1:
        # What explains no more of the answers than other neurons did before is no better network.
        return replace(state, candidates=candidates), state.network, fits
    state = replace(state, explained=share)
    network, error = ending(unsigned, solution, fits, log, size)
    # What only matters far out need not be known.
    if error < rough or log.off(network, size)[_near(setting, INNER)].max() < rough:
        network = finish(log, network, size, setting.points.usual(POOL), setting.probe.rng)
        candidates = replace(candidates, fitted=(key, network))
    return replace(state, candidates=candidates), network, fits


def _judged(
    setting: Setting, state: Deeper, network: Network, fits: Bool[np.ndarray, " N"]
) -> tuple[Deeper, Bool[np.ndarray, " N"], float]:
    """Which answers a network explains, and its largest error; what is wrong far out counts only for a time."""
    if state.candidates.fitted is None:
        return state, fits, setting.log.error(network, setting.probe.noise.size)
    off = setting.log.off(network, setting.probe.noise.size)
    error = float(off[_near(setting)].max())
    inner = float(off[_near(setting, INNER)].max())
    if inner < setting.fine:
        patience = state.patience - 1
        state, error = replace(state, patience=patience), error if patience > 0 else inner
    else:
        state = replace(state, candidates=replace(state.candidates, fitted=None))
    return state, off < max(ROUGH, setting.fine), error


def _near(setting: Setting, reach: float = NEAR) -> Bool[np.ndarray, " N"]:
    """Which of the questions asked are not far out."""
    return np.asarray(np.linalg.norm(setting.log.all()[0], axis=1) < reach * setting.probe.noise.size)
