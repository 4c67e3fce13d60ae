"""settle_wide: the sides of a first layer wider than the input, and the second layer, from hyperplanes followed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.critical_point import measure_normals, met, search, zeros
from unveil.identification.piecewise_linear.followed_neurons import REACH, FollowedNeuron, follow, sides
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.paid_closing import OPEN
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup

# Fresh lines in a row on which no new neuron is met; most neurons, in units of the first layer's.
CALM, MOST = 6, 4
# Hyperplanes that cannot be followed, where none could, after which it is given up.
HOPELESS = 60
# A weight so small beside the largest is none; how many neurons must have crossed a hyperplane for that to be told.
NOTHING, OFTEN = 1e-5, 3
# Normals with larger errors begin nothing.
VAGUE = 1e-5


def settle_wide(setup: Setup, state: Reading) -> tuple[Reading, list[Neuron]]:
    """With the sides of the first layer settled, and neurons of the second; unchanged where that fails.

    `setup`: what all steps share; answers are exact. `state`: with the first layer's rows, more of them than inputs.
    Queries: those of `follow` for each neuron of the second layer and for some hyperplanes of deeper ones, and of
    `search` and `measure_normals` for lines until `CALM` in a row show nothing new.
    """
    found, frame, oracle = state.found, state.frame, setup.oracle
    # Answers in such numbers around crossings would be a burden to fits, and tell these nothing.
    probe = Probe(lambda x: oracle(oracle.nearest(x)), setup.probe.noise, setup.probe.rng)
    rows, bias = found.rows, found.bias
    if not frame.free or not len(found.bent):
        return state, []
    layer, followed = (rows, bias), list[FollowedNeuron]()
    bent = found.bent
    waiting = list(zip(bent.at, bent.rows, bent.jump, bent.error.tolist(), strict=True))
    barren = failed = 0
    settled = None
    while barren < CALM and len(followed) < MOST * len(rows) and settled is None:
        had = len(followed)
        for x, normal, jump, error in waiting:
            if error > VAGUE or np.linalg.norm(x) > REACH * probe.noise.size or any(n.zero(layer, x) for n in followed):
                continue
            one = follow(probe, layer, x, normal, jump)
            if one is not None:
                followed.append(one)
                continue
            failed += 1
            # Most hyperplanes behind many layers are of none of the second: those followed by then are enough.
            if failed % HOPELESS == 0:
                settled = _settled(layer, followed)
                if settled is not None or not followed:
                    break
        if failed >= HOPELESS and not followed:
            return state, []
        waiting = _on_another_line(probe, frame, layer, followed) if settled is None else []
        barren = 0 if len(followed) > had else barren + 1
    settled = settled or _settled(layer, followed)
    if settled is None:
        return state, []
    there, turned = settled
    followed, layer = [one.among(there) for one in followed], (rows[there], bias[there])
    behind = [one.behind(layer, turned, -1 - i) for i, one in enumerate(followed)]
    given = [neuron for neuron in behind if neuron is not None]
    layer = (turned[:, None] * layer[0], turned * layer[1])
    why = tuple(each for each in state.why if each != OPEN.format(len(rows), frame.d))
    return replace(state.with_found(found.keep(there)), layer=layer, settled=True, why=why), given


def _settled(layer: AffineMap, followed: list[FollowedNeuron]) -> tuple[np.ndarray, np.ndarray] | None:
    """Which of these hyperplanes are the first layer's, and the sides of those, -1 where the other one; or None.

    One at which none of the neurons followed bends, though they cross it, is no neuron's of the first layer.
    """
    if not followed:
        return None
    weights, known = (np.array([getattr(one, name) for one in followed]) for name in ("weights", "known"))
    there = (np.abs(weights).max(axis=0) > NOTHING * np.abs(weights).max()) | (known.sum(axis=0) < OFTEN)
    turned = sides((layer[0][there], layer[1][there]), [one.among(there) for one in followed])
    return None if turned is None else (there, turned)


def _on_another_line(
    probe: Probe, frame: Frame, layer: AffineMap, followed: list[FollowedNeuron]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Points on hyperplanes that no neuron explains, normals, jumps of the slope and errors."""
    line = search(probe.ask, frame, probe.noise, probe.rng, 2 * np.sqrt(frame.d))
    if line is None:
        return []
    ends = np.array([line.low, line.high])
    own = zeros(ends, line.inputs(ends) @ layer[0].T + layer[1])[0]
    wanted = ~met(line, own).any(axis=1)
    wanted &= np.array([not any(one.zero(layer, x) for one in followed) for x in line.points], dtype=bool)
    out = []
    for seen in measure_normals(probe, [], line, np.flatnonzero(wanted)):
        p = int(np.abs(line.points - seen.x).max(axis=1).argmin())
        normal = seen.span @ seen.normal
        out.append((seen.x, normal, line.jump[p] / float(normal @ line.direction), seen.error))
    return out
