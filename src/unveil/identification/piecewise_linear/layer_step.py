"""LayerStep: one of many layers being read from sightings: its candidates, their unknown weights, further lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.output_layer import AffineMap, after
from unveil.identification.piecewise_linear.completeness import leaks
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.derivative_sums import Chosen
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_walks import entering
from unveil.identification.piecewise_linear.layer_candidates import Views, candidates
from unveil.identification.piecewise_linear.layer_choice import MET
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import alike
from unveil.identification.piecewise_linear.sightings import Sightings
from unveil.identification.piecewise_linear.weight_completion import complete_weights, places
from unveil.identification.piecewise_linear.weights_from_sums import weights_from_sums
from unveil.whitebox.network import Network

LINES_PER_NEURON = 0.5  # lines of each kind in a round for each neuron of the first layer
# Places where unknown weights are looked for at once, other breakpoints near them at most, and how often.
UNKNOWN_PLACES, OTHERS_NEAR, COMPLETING_ROUNDS = 24, 20, 3
# Points and directions among which these places are chosen, near and around the critical points of each neuron.
ANYWHERE, BESIDE_NEURON_POINTS, BESIDE_NEURON_SPREAD = 150, 12, 0.1
# Unknown weights for which walks along a hyperplane lead to such places where no line does, those of the best known
# neurons first; walks for each, and how far beside critical points they begin at most.
WALKED, WALKS_PER_WEIGHT, WALK_START_DISTANCE = 12, 60, 0.5
# Places where a layer is asked whether a neuron is missing, of so many times as many where no unknown weight matters.
LEAK_PLACES, LEAK_FACTOR = 300, 4
# A line from a point that is not explained ends at one of so many that are and have much the same neurons active.
NEAREST = 6


@dataclass(frozen=True)
class ManyLayers:
    """What was read."""

    sightings: Sightings  # what all lines showed
    layers: list[AffineMap]  # behind the first one, signs settled; the first of the list is that one in its own values
    partial: AffineMap | None = None  # rows and biases of the next one, of which some may be missing, up to sign
    # from the first layer's values on, if the answers end behind what was read; else None
    network: Network | None = None
    explained: float = 0.0  # share of fresh answers that it explains

    @property
    def open(self) -> bool:
        """Whether the network does not explain all answers."""
        return self.explained < 1.0


@dataclass(frozen=True)
class LayerStep:
    """One layer being read."""

    state: ManyLayers  # what was read before
    views: Views  # critical points behind it
    found: list[Neuron]  # candidates
    old: int  # how many views these come from
    tried: Counter[tuple[int, int]]  # how often each unknown weight was looked for, by the key of its neuron
    near: Float[np.ndarray, "B d"] | None = None  # points near which these are looked for, too

    @classmethod
    def of(cls, state: ManyLayers) -> LayerStep:
        """Before any candidate."""
        return cls(state, Views.of(state.sightings, state.layers), [], 0, Counter())

    @property
    def lines(self) -> int:
        """Lines of each kind in a round."""
        return max(2, int(LINES_PER_NEURON * self.state.sightings.d))

    @property
    def trusted(self) -> list[Neuron]:
        """Candidates met nearly wherever they should be."""
        return [one for one in self.found if one.should >= 6 and one.were >= MET * one.should]

    @property
    def partial(self) -> AffineMap | None:
        """Rows and biases of these."""
        some = [one for one in self.trusted if one.whole]
        return (np.array([one.weights for one in some]), np.array([one.bias for one in some])) if some else None

    def with_candidates(self, begin: bool = True) -> LayerStep:
        """From all that was seen so far. `begin`: whether others may begin, too."""
        sightings, layers = self.state.sightings, self.state.layers
        views = Views.of(sightings, layers)
        found = candidates(sightings.lines, views, layers, self.found, self.old if begin else len(views.which))
        return replace(self, views=views, found=found, old=len(views.which))

    def completed(self, begin: bool = True) -> LayerStep:
        """With unknown weights looked for where they have just begun to matter. `begin`: as in `with_candidates`."""
        step = self
        for _ in range(COMPLETING_ROUNDS):
            some = [one for one in step.trusted if not one.whole]
            seen = step._met_at(some) if some else []
            if not seen:
                break
            state = replace(step.state, sightings=step.state.sightings.with_points(seen))
            step = replace(step, state=state).with_candidates(begin)
        return step

    def _met_at(self, some: list[Neuron]) -> list[CriticalPoint]:
        sightings, layers = self.state.sightings, self.state.layers
        rng, d = sightings.probe.rng, sightings.d
        base = np.concatenate([sightings.unusual(ANYWHERE), sightings.usual(ANYWHERE)])
        near = np.concatenate([rng.choice(one.members, BESIDE_NEURON_POINTS) for one in some])
        beside = sightings.x[near] + BESIDE_NEURON_SPREAD * rng.standard_normal((len(near), d))
        base = base if self.near is None else np.concatenate([base, self.near])
        direction = np.concatenate([rng.standard_normal(base.shape), sightings.normal[near]])
        everywhere, base = Frame.of_input(d, None), np.concatenate([base, beside])
        tried = Counter(
            {(i, j): n for i, one in enumerate(some) for (key, j), n in self.tried.items() if key == one.key}
        )
        there = places(layers, some, base, direction, tried, OTHERS_NEAR, everywhere)
        base, direction = self._walked(some, {(place.neuron, place.unknown) for place in there})
        there = [*there, *places(layers, some, base, direction, tried, OTHERS_NEAR, everywhere)][:UNKNOWN_PLACES]
        if not there:
            return []
        self.tried.update((some[place.neuron].key, place.unknown) for place in there)
        return complete_weights(sightings.probe, layers, some, there, everywhere)[0]

    def _walked(
        self, some: list[Neuron], had: set[tuple[int, int]]
    ) -> tuple[Float[np.ndarray, "W d"], Float[np.ndarray, "W d"]]:
        """Where hyperplanes enter regions where one unknown weight begins to matter, and their normals there. `had`:
        weights that need no such place."""
        sightings, rng = self.state.sightings, self.state.sightings.probe.rng
        order = sorted(range(len(some)), key=lambda i: int((~some[i].known).sum()))
        wanted = [(i, int(j)) for i in order for j in np.flatnonzero(~some[i].known) if (i, int(j)) not in had]
        out = [(np.empty((0, sightings.d)),) * 2]
        for i, j in wanted[:WALKED]:
            x = sightings.x[rng.choice(some[i].members, WALKS_PER_WEIGHT)]
            x = x + WALK_START_DISTANCE * rng.random((WALKS_PER_WEIGHT, 1)) * rng.standard_normal(x.shape)
            out.append(entering(self.state.layers, some[i], j, x))
        base, direction = map(np.concatenate, zip(*out, strict=True))
        return base, direction

    def leaking(self, chosen: Chosen) -> tuple[AffineMap, np.ndarray, np.ndarray]:
        """The layer, and where it explains how answers change and where not. Queries: `2 LEAK_PLACES`."""
        sightings, layer = self.state.sightings, chosen.layer(self.found)
        x = np.empty((0, sightings.d))
        if not chosen.use.any():
            return layer, x, x
        x = np.concatenate([sightings.unusual(LEAK_FACTOR * LEAK_PLACES), sightings.usual(LEAK_FACTOR * LEAK_PLACES)])
        unknown = np.array([~one.known for one in self.found])[chosen.use].any(axis=0)
        x = x[~(after(self.state.layers, x)[:, unknown] > 0).any(axis=1)]
        x = sightings.probe.rng.permutation(x)
        return layer, *leaks(sightings.probe, self.state.layers, layer, x, LEAK_PLACES, 1e-9)

    def completed_by_sums(self, chosen: Chosen, later: LayerStep) -> tuple[AffineMap, bool]:
        """The layer with unknown weights that were told later or that derivatives tell, and whether all are."""
        more = {one.key: one for one in later.found}
        found = [better if (better := more.get(one.key)) and not one.whole else one for one in self.found]
        found = weights_from_sums(later.state.sightings, self.state.layers, found, chosen.side, chosen.use)
        return chosen.layer(found), all(one.whole for one, used in zip(found, chosen.use, strict=True) if used)

    def looked(self, told: tuple[Float[np.ndarray, "R d"], Float[np.ndarray, "W d"]] | None) -> LayerStep:
        """With lines from where the layer is wrong to where it is right, and others."""
        step = self
        if told is not None and len(told[0]) and len(told[1]):
            step = step.towards(told[1], told[0])
        return replace(step, state=replace(step.state, sightings=step.state.sightings.with_random(step.lines)))

    def towards(self, wrong: Float[np.ndarray, "W d"], right: Float[np.ndarray, "R d"] | None = None) -> LayerStep:
        """With lines from some of these points to explained ones at which much the same neurons are active."""
        sightings = self.state.sightings
        right = sightings.usual(LEAK_PLACES) if right is None else right
        start = wrong[sightings.probe.rng.integers(len(wrong), size=self.lines)]
        end = alike(self.state.layers, start, right, sightings.probe.rng, NEAREST)
        return replace(self, state=replace(self.state, sightings=sightings.between(start, end)))
