"""with_missed: neurons of any layer that hardly an input switches, from where answers leave a network that is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.identification.fitting.output_layer import AffineMap, Asked, after, agreement
from unveil.identification.piecewise_linear.critical_point import CriticalPoint, measure_normals
from unveil.identification.piecewise_linear.layer_choice import MET
from unveil.identification.piecewise_linear.layer_step import NEAREST, LayerStep, ManyLayers
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import Moves, Seen, alike, explained, moved
from unveil.identification.piecewise_linear.sightings import Sightings
from unveil.whitebox.network import Network

EXPLAINED_ANSWER_ERROR = 1e-6  # errors of answers that are explained, relative to the largest one
CORRECTION_ROUNDS = 4  # how often the network is held against fresh answers
FRESH_ANSWER_COUNT = 3000  # of which so many are asked
# Points beside wrong ones that are asked, and wrong ones from which what is missing is looked for.
BESIDE_WRONG_POINTS, BORDERS = 600, 60
HYPERPLANE_POINTS, HYPERPLANE_POOL = 60, 4000  # points on its hyperplane that tell what a neuron adds, among so many
# How far beside points where it is active these are looked for at most, in what approaches, and steps across it there,
# relative to how far out they are; errors of what they tell, relative to the largest.
BESIDE_ACTIVE_REACH, APPROACHES, ACROSS_STEP_LENGTH = 1.0, 4, 1e-4
WRONG_SHARE_EXPLAINED = 0.5  # share of the wrong answers where a neuron is active that it must explain
SHUT = 1.0  # a weight that is not known, of a neuron with weights of unit norm
# Normals are a neuron's that are so near, besides so many times their errors.
SAME_NORMAL_DIFFERENCE, SAME_NORMAL_ERRORS = 1e-6, 30.0
# Singular values, relative to the largest one, of directions about which equations say something.
EQUATION_SINGULAR_VALUE = 1e-6
SAME_CORRECTION_DISTANCE = 1e-5  # how near rows are to each other that are one neuron's, relative to their norm
# Errors that rows read may have; other critical points beside those where the new neuron is active, and points near
# which it is looked where the next layer's hyperplanes go.
KNOWN_ROW_ERROR, OTHER_CRITICAL_POINTS, ABOUT = 1e-9, 400, 100
# Halvings of the way there, and how much wider than what is left of it a line is searched.
WAY_HALVINGS, WAY_WIDENING_FACTOR = 5, 2.0


def with_missed(state: ManyLayers, asked: Asked) -> ManyLayers:
    """Put into the layers before the last one what is missing there and shows at usual inputs.

    A network that lacks a rare neuron is right where that is not active. On the way from there to an answer it gets
    wrong the first breakpoint that it does not explain is the neuron's, of whatever layer. A neuron that such points
    are on is put where answers at its own hyperplane say what it adds to the next layer, and stays if more answers are
    explained. `asked`: keeps the fresh answers. Queries: `FRESH_ANSWER_COUNT`; `CORRECTION_ROUNDS` times
    `BESIDE_WRONG_POINTS` and some 60 for each of `BORDERS` wrong answers; `3 HYPERPLANE_POINTS`, and those of
    `completed`, for a neuron.
    """
    sightings, network = state.sightings, state.network
    assert network is not None
    maps = [(each.dense(), each.bias) for each in network.layers]
    x, y = _fresh(sightings)
    asked.keep(x, y)
    wrong = _wrong(maps, x, y)
    for _ in range(CORRECTION_ROUNDS):
        if not wrong.any():
            break
        sightings = _borders(sightings, maps, x[wrong], x[~wrong])
        before = int(wrong.sum())
        for depth in range(1, len(maps) - 2):
            for i, j, more in _corrections(sightings, maps, depth):
                maps, wrong = _better([_changed(maps, depth, i, j, more)], maps, wrong, x, y)
            for one in _missed(sightings, maps, depth):
                neuron, active = _turned(maps, depth, one, x)
                if not (active & wrong).any():
                    continue
                # One that is of this layer explains what it takes part in.
                least = int(WRONG_SHARE_EXPLAINED * (active & wrong).sum())
                maps, wrong = _better(_put(sightings, maps, depth, neuron, x[active]), maps, wrong, x, y, least)
        if wrong.sum() == before:
            break
    maps = _opened(maps, x, y)
    layers, network = maps[: len(state.layers)], Network.from_weights(maps)
    return replace(
        state, sightings=sightings, layers=layers, network=network, explained=float(1 - _wrong(maps, x, y).mean())
    )


def _opened(maps: list[AffineMap], x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N m"]) -> list[AffineMap]:
    """With 0 for weights that are not known, where answers are explained as well with these."""
    wrong = _wrong(maps, x, y).sum()
    for depth in range(1, len(maps) - 2):
        for i, j in np.argwhere(maps[depth][0] == -SHUT):
            trial = _changed(maps, depth, i, j, SHUT)
            if _wrong(trial, x, y).sum() <= wrong:
                maps = trial
    return maps


def _changed(maps: list[AffineMap], depth: int, i: int, j: int, more: float) -> list[AffineMap]:
    """With so much added to a weight of a layer."""
    rows = maps[depth][0].copy()
    rows[i, j] += more
    return [*maps[:depth], (rows, maps[depth][1]), *maps[depth + 1 :]]


def _better(
    trials: Iterable[list[AffineMap]],
    maps: list[AffineMap],
    wrong: Bool[np.ndarray, " N"],
    x: Float[np.ndarray, "N d"],
    y: Float[np.ndarray, "N m"],
    least: int = 0,
) -> tuple[list[AffineMap], Bool[np.ndarray, " N"]]:
    """The network that explains the most answers, more than `least` more than now, and which it does not."""
    before = int(wrong.sum()) - least
    for trial in trials:
        if (then := _wrong(trial, x, y)).sum() < min(before, wrong.sum()):
            maps, wrong = trial, then
    return maps, wrong


def _fresh(sightings: Sightings) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N m"]]:
    """Usual points and some further out, and answers."""
    rng = sightings.probe.rng
    x = sightings.usual(FRESH_ANSWER_COUNT) * rng.choice([1.0, 1.0, 3.0], (FRESH_ANSWER_COUNT, 1))
    return x, sightings.probe.ask(x)


def _wrong(maps: list[AffineMap], x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N m"]) -> Bool[np.ndarray, " N"]:
    """Which answers the network does not explain."""
    W, b = maps[-1]
    allowed = EXPLAINED_ANSWER_ERROR * (np.abs(y).max() + np.linalg.norm(x, axis=1) / np.sqrt(x.shape[1]))
    return np.asarray((np.abs(after(maps[:-1], x) @ W.T + b - y) > allowed[:, None]).any(axis=1))


def _borders(
    sightings: Sightings, maps: list[AffineMap], wrong: Float[np.ndarray, "W d"], right: Float[np.ndarray, "R d"]
) -> Sightings:
    """With the first breakpoints on the ways from answers that are explained to such as are not, and the lines there.
    Queries: `WAY_HALVINGS`, those of a short line, and `2 (d + 3)`, for each of `BORDERS`."""
    probe = sightings.probe
    # Of each pattern as many, and beside them.
    _, group = np.unique(Seen.by(maps[:-1], wrong).pattern, axis=0, return_inverse=True)
    share = 1 / np.bincount(group.reshape(-1))[group.reshape(-1)]
    some = _beside(
        wrong[probe.rng.choice(len(wrong), BESIDE_WRONG_POINTS, p=share / share.sum())], probe.rng, BESIDE_WRONG_POINTS
    )
    some = some[_wrong(maps, some, probe.ask(some))]
    _, first = np.unique(Seen.by(maps[:-1], some).pattern, axis=0, return_index=True)
    end = some[probe.rng.permutation(first)[:BORDERS]]
    count = len(end)
    start = alike(maps[:-1], end, right, probe.rng, NEAREST)
    low, high = np.zeros(count), np.ones(count)
    for _ in range(WAY_HALVINGS):
        middle = (low + high) / 2
        x = start + middle[:, None] * (end - start)
        off = _wrong(maps, x, probe.ask(x))
        low, high = np.where(off, low, middle), np.where(off, middle, high)
    base, direction = start + low[:, None] * (end - start), (high - low)[:, None] * (end - start)
    lines = line_search(probe.ask, base, direction, -WAY_WIDENING_FACTOR, 2.0, probe.noise, probe.rng)
    met: list[CriticalPoint] = []
    for line in lines:
        first = np.flatnonzero(~explained(maps[:-1], line.points))[:1]
        met += measure_normals(probe, maps[:1], line, first).points
    return replace(sightings, lines=(*sightings.lines, *lines)).with_points(met)


def _missed(sightings: Sightings, maps: list[AffineMap], depth: int) -> list[Neuron]:
    """Neurons behind so many layers that critical points show which nothing in the network explains."""
    left = ~explained(maps[:-1], sightings.x)
    names = ("x", "normal", "error", "line")
    some = replace(sightings, **{name: getattr(sightings, name)[left] for name in names})
    step = LayerStep.of(ManyLayers(some, maps[:depth])).with_candidates()
    if step.found:
        points = np.concatenate([one.members for one in step.found])
        rng = sightings.probe.rng
        step = replace(step, near=_beside(some.x[points], rng)[:ABOUT])
    return [one for one in step.completed().found if one.were >= MET * one.should]


def _turned(
    maps: list[AffineMap], depth: int, one: Neuron, x: Float[np.ndarray, "N d"]
) -> tuple[tuple[Float[np.ndarray, " k"], float], Bool[np.ndarray, " N"]]:
    """Weights and bias of a neuron that is active at few of these points, and at which. Where an unknown weight matters
    it is not active, as far as can be said."""
    h = after(maps[:depth], x)
    told = ~(h[:, ~one.known] > 0).any(axis=1)
    z = h @ one.weights + one.bias
    side = 1.0 if (z > 0)[told].sum() <= told.sum() / 2 else -1.0
    return (np.where(one.known, side * one.weights, -SHUT), side * one.bias), told & (side * z > 0)


def _put(
    sightings: Sightings,
    maps: list[AffineMap],
    depth: int,
    neuron: tuple[Float[np.ndarray, " k"], float],
    near: Float[np.ndarray, "A d"],
) -> Iterator[list[AffineMap]]:
    """With a neuron active at these points.

    What it adds to the next layer: how much answers bend at its hyperplane, for how they follow what that layer sees,
    and then where the next layer's own hyperplanes go. Queries: `3 HYPERPLANE_POINTS`, and those of `completed`.
    """
    (W, b), (V, c) = maps[depth : depth + 2]
    row, bias = neuron
    near = _beside(near, sightings.probe.rng)
    at, step, rate = _on_hyperplane(maps, depth, neuron, near, sightings.probe.rng)
    if not len(at):
        return
    bend = (sightings.probe.bend(at, step) / rate[:, None]).reshape(-1, 1)
    F = _followed(maps, depth + 1, at)
    F = F.reshape(-1, F.shape[2])
    added = _least(F, bend)
    wider = [*maps[:depth], (np.vstack([W, row]), np.append(b, bias))]
    yield [*wider, (np.hstack([V, added]), c), *maps[depth + 2 :]]
    told = _column(sightings, wider, (V, c), near)
    open_ = np.isnan(told)
    if open_.all():
        return
    rest = bend - F[:, ~open_] @ told[~open_, None]
    told[open_] = _least(F[:, open_], rest)[:, 0]
    yield [*wider, (np.hstack([V, told[:, None]]), c), *maps[depth + 2 :]]


def _least(F: Float[np.ndarray, "N q"], y: Float[np.ndarray, "N 1"]) -> Float[np.ndarray, "q 1"]:
    """What most equations agree on, and nothing along directions about which they say nothing."""
    _, s, vt = np.linalg.svd(F, full_matrices=False)
    some = vt[s > EQUATION_SINGULAR_VALUE * s.max(initial=1e-300)].T
    return np.asarray(
        some @ agreement(F @ some, y, EXPLAINED_ANSWER_ERROR)[0] if some.size else np.zeros((F.shape[1], 1))
    )


def _corrections(sightings: Sightings, maps: list[AffineMap], depth: int) -> list[tuple[int, int, float]]:
    """What to add to which weight of a row of the layer behind so many, for critical points to be the neuron's that
    nothing in the network explains: where the value that it belongs to is positive each tells it, several the same."""
    left = ~explained(maps[:-1], sightings.x)
    seen, normal = Moves.of(maps[:depth], sightings.x[left]), sightings.normal[left]
    W, b = maps[depth]
    z = seen.h @ W.T + b
    told = np.where(seen.on, -1 / np.where(seen.on, seen.h, 1), np.nan)[:, None, :] * z[:, :, None]
    moved = (W @ seen.move)[:, :, None, :] + told[..., None] * seen.move[:, None]
    size = np.linalg.norm(moved, axis=3)
    along = np.einsum("pijd,pd->pij", moved, normal)
    off = np.linalg.norm(moved - along[..., None] * normal[:, None, None, :], axis=3)
    good = (off < (SAME_NORMAL_DIFFERENCE + SAME_NORMAL_ERRORS * sightings.error[left])[:, None, None] * size) & (
        seen.rank > 1
    )[:, None, None]
    out = []
    for i, j in np.argwhere(good.sum(axis=0) > 1):
        each = np.sort(told[good[:, i, j], i, j])
        near = np.abs(each[:, None] - each) < SAME_CORRECTION_DISTANCE * (1 + np.abs(each))
        best = int(near.sum(axis=1).argmax())
        if near[best].sum() > 1:
            out.append((int(i), int(j), float(np.median(each[near[best]]))))
    return out


def _column(
    sightings: Sightings, maps: list[AffineMap], following: AffineMap, near: Float[np.ndarray, "A d"]
) -> Float[np.ndarray, " q"]:
    """What the last neuron of these layers adds to the ones that follow, from where their hyperplanes go where it is
    active, near these points; NaN where that is not told."""
    rng = sightings.probe.rng
    rows, size = following[0], np.linalg.norm(following[0], axis=1)
    theirs = np.append(np.ones(rows.shape[1], dtype=bool), False)
    given = [
        Neuron.given(row / n, c / n, KNOWN_ROW_ERROR, key=-1 - i).among(theirs)
        for i, (row, c, n) in enumerate(zip(rows, following[1], size, strict=True))
    ]
    active = after(maps, sightings.x)[:, -1] > 0
    some = active | (rng.random(len(active)) < OTHER_CRITICAL_POINTS / len(active))
    names = ("x", "normal", "error", "line")
    part = replace(sightings, **{name: getattr(sightings, name)[some] for name in names})
    step = replace(LayerStep.of(ManyLayers(part, maps)), found=given, near=near[rng.integers(len(near), size=ABOUT)])
    found = replace(step, old=len(step.views.which)).with_candidates(begin=False).completed(begin=False).found
    told = np.full(len(rows), np.nan)
    for one in found:
        if one.key < 0 and one.known[-1]:
            i = -1 - one.key
            scale = float(one.weights[:-1] @ rows[i]) / float(rows[i] @ rows[i])
            told[i] = one.weights[-1] / scale
    return told


def _beside(
    x: Float[np.ndarray, "N d"], rng: np.random.Generator, count: int = HYPERPLANE_POOL
) -> Float[np.ndarray, "count d"]:
    """Points near some of these."""
    x = x[rng.integers(len(x), size=count)]
    return np.asarray(x + BESIDE_ACTIVE_REACH * rng.standard_normal(x.shape) * rng.choice([0.1, 0.3, 1.0], (len(x), 1)))


def _on_hyperplane(
    maps: list[AffineMap],
    depth: int,
    neuron: tuple[Float[np.ndarray, " k"], float],
    x: Float[np.ndarray, "N d"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "T d"], Float[np.ndarray, "T d"], Float[np.ndarray, " T"]]:
    """Points on a neuron's hyperplane at which different ones of the network are active, steps across it on which no
    other switches, and what the neuron gains by them."""
    row, bias = neuron
    for _ in range(APPROACHES):
        h, move = moved(maps[:depth], x)
        z, normal = h @ row + bias, np.einsum("k,nkd->nd", row, move)
        size = np.linalg.norm(normal, axis=1)
        x = x - (z / np.maximum(size**2, 1e-300))[:, None] * normal
    h = after(maps[:depth], x)
    z = np.where((h[:, row <= -SHUT] > 0).any(axis=1), np.inf, h @ row + bias)
    far = 1 + np.linalg.norm(x, axis=1)
    step = (ACROSS_STEP_LENGTH * far / np.maximum(size, 1e-300))[:, None] * normal
    here, up, down = (Seen.by(maps[:-1], each).pattern for each in (x, x + 2 * step, x - 2 * step))
    good = np.flatnonzero(
        (size > 0) & (np.abs(z) < ACROSS_STEP_LENGTH**2 * size * far) & (here == up).all(1) & (here == down).all(1)
    )
    good = good[rng.permutation(len(good))]
    _, first = np.unique(here[good], axis=0, return_index=True)
    good = good[np.append(first, np.delete(np.arange(len(good)), first))][:HYPERPLANE_POINTS]
    return x[good], step[good], (ACROSS_STEP_LENGTH * far * size)[good]


def _followed(maps: list[AffineMap], depth: int, x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N m k"]:
    """How the answers follow what the neurons behind so many layers see."""
    on = []
    for W, b in maps[:-1]:
        z = x @ W.T + b
        on.append(z > 0)
        x = np.maximum(z, 0)
    out = np.broadcast_to(np.eye(len(maps[-1][1])), (len(x), len(maps[-1][1]), len(maps[-1][1])))
    for layer in range(len(maps) - 1, depth, -1):
        out = (out @ maps[layer][0]) * on[layer - 1][:, None, :]
    return np.asarray(out)
