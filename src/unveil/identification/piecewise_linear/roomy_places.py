"""roomiest, least, together: places that random lines hardly meet, by mixed-integer programs: however rare they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

from unveil.identification.check_points import FURTHER
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.neuron import Neuron

# How far out the first layer's neurons may be, in typical inputs: near by first, else as far as a network is checked.
REACH = 6.0, FURTHER[-1]
# The value that the unknown weight belongs to, as a share of the room around: its hyperplane moves within that room.
VALUE_ROOM_SHARES = 0.15, 0.3
# A place with a sixth of the room of the best one will do; nodes of the search after which there is taken to be none.
GAP, NODES = 5.0, 2000
# Known weights of a neuron that had better matter at a place: with fewer a critical point there is no proof.
SHARED = 3
ALIGNED_ROW_MISS = 1e-12  # one minus the cosine of rows that are one but for their lengths
DEPENDENT_ROW_RATIO = 1e-9  # rows depend on each other up to this part of the largest singular value
INFEASIBLE = 2  # what SciPy's solver says where nothing satisfies all constraints
MOST_ENCODED_NEURONS = 80  # most neurons in all layers before, each of which is a yes or no of the search


def roomiest(layers: list[AffineMap], neuron: Neuron, j: int, size: float) -> Float[np.ndarray, " n"] | None:
    """A point on a neuron's hyperplane, if its unknown weights are zero, where only one of these begins to matter.

    What each layer sees and passes on are linear constraints once it is a yes or no whether a neuron is active, and the
    room until any of them switches is to be as large as it can be: a mixed-integer linear program. Lines at random meet
    hardly any such place of a neuron that one in a thousand inputs switches. `size`: of a typical input, per
    coordinate. None where there is none within reach. Source: the encoding of ReLUs: Tjeng, Xiao, Tedrake, ICLR 2019.
    """
    if sum(len(bias) for _, bias in layers) > MOST_ENCODED_NEURONS or _ahead(layers[-1], ~neuron.known, j):
        return None
    tries = (_roomiest(layers, neuron, j, far * size, shared) for far in REACH for shared in (SHARED, 0))
    return next((x for x in tries if x is not None), None)


def _ahead(layer: AffineMap, unknown: Bool[np.ndarray, " k"], j: int) -> bool:
    """Whether another value whose weight is unknown is positive wherever this one is: of a parallel row, and ahead."""
    W, size = layer[0], np.linalg.norm(layer[0], axis=1)
    z = layer[1] / np.maximum(size, 1e-300)
    same = W @ W[j] > (1 - ALIGNED_ROW_MISS) * size * size[j]
    same[j] = False
    return bool((z >= z[j])[same & unknown].any())


def _roomiest(
    layers: list[AffineMap], neuron: Neuron, j: int, reach: float, shared: int
) -> Float[np.ndarray, " n"] | None:
    """The same with the first layer's neurons no further out than `reach`, where so many known weights matter."""
    (W, b), k = layers[0], len(neuron.known)
    program = _Program.begun(layers, reach)
    size_of_last = program.encode(layers, j)
    values = program.count - 1 - 2 * k
    off = values + np.flatnonzero(~neuron.known & (np.arange(k) != j))
    program.high[off] = program.high[off + k] = 0
    program.low[values + k + j] = 1
    begins = np.zeros((3, program.count))
    begins[0, values : values + k] = neuron.weights
    begins[1:, values + j] = 1
    begins[1:, -1] = -size_of_last[j] * np.array(VALUE_ROOM_SHARES)
    program.add(begins, np.array([-neuron.bias, 0, -np.inf]), np.array([-neuron.bias, np.inf, 0]))
    matter = np.zeros((1, program.count))
    matter[0, values + k : values + 2 * k] = neuron.known
    program.add(matter, np.array([float(shared)]), np.array([np.inf]))
    found = program.solved(np.append(np.zeros(program.count - 1), -1))
    if found is None or found[-1] <= 0:
        return None
    return np.asarray(np.linalg.lstsq(W, found[: len(b)] - b, rcond=DEPENDENT_ROW_RATIO)[0])


def least(layers: list[AffineMap], row: Float[np.ndarray, " k"], reach: float) -> Float[np.ndarray, " n"] | None:
    """A point at which a neuron behind these layers sees the least; None where there are too many neurons for a search.
    `reach`: how far out the first layer's neurons may be, as their distance from the origin."""
    (W, b), k = layers[0], len(row)
    if sum(len(bias) for _, bias in layers) > MOST_ENCODED_NEURONS:
        return None
    program = _Program.begun(layers, reach)
    program.high[-1] = 0
    program.encode(layers, -1)
    aim = np.zeros(program.count)
    aim[-1 - 2 * k : -1 - k] = row
    found = program.solved(aim)
    return None if found is None else np.asarray(np.linalg.lstsq(W, found[: len(b)] - b, rcond=DEPENDENT_ROW_RATIO)[0])


def together(
    layers: list[AffineMap], row: Float[np.ndarray, " k"], bias: float, j: int, reach: float
) -> tuple[Float[np.ndarray, " n"] | None, bool]:
    """A point at which a neuron behind these layers and value j of the last of them are active, where the neuron sees
    much, and whether there is surely none. `reach`: how far out the first layer's neurons may be, as their distance
    from the origin."""
    (W, b), k = layers[0], len(row)
    if sum(len(offsets) for _, offsets in layers) > MOST_ENCODED_NEURONS:
        return None, False
    program = _Program.begun(layers, reach)
    program.high[-1] = 0
    program.encode(layers, -1)
    values = program.count - 1 - 2 * k
    program.low[values + k + j] = 1
    sees = np.zeros(program.count)
    sees[values : values + k] = row
    program.add(sees[None], np.array([-bias]), np.array([np.inf]))
    found, surely = program.told(-sees)
    x = None if found is None else np.linalg.lstsq(W, found[: len(b)] - b, rcond=DEPENDENT_ROW_RATIO)[0]
    return x, surely


@dataclass
class _Program:
    """Linear constraints on what the first layer sees, on each layer's values, then its switches, and on the room."""

    most: float  # how far out
    low: Float[np.ndarray, " v"]  # least of each variable
    high: Float[np.ndarray, " v"]  # greatest
    whole: Float[np.ndarray, " v"]  # whether it is a yes or no
    # sums of variables, and least and greatest of these
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    @classmethod
    def begun(cls, layers: list[AffineMap], most: float) -> _Program:
        """With the first layer's sums, and the room."""
        W, b = layers[0]
        count = len(b) + 2 * sum(len(bias) for _, bias in layers) + 1
        size = np.linalg.norm(W, axis=1)
        out = cls(most, np.zeros(count), np.ones(count), np.zeros(count))
        out.low[: len(b)], out.high[: len(b)], out.high[-1] = b - most * size, b + most * size, most
        # Rows that nearly depend on each other see what they like far out only, those that do see what others say.
        u, s, _ = np.linalg.svd(W)
        s = np.append(s, np.zeros(len(u) - len(s)))
        wide, given = most * np.where(s > DEPENDENT_ROW_RATIO * s[0], s, 0), u.T @ b
        out.add(np.pad(u.T, ((0, 0), (0, count - len(b)))), given - wide, given + wide)
        return out

    @property
    def count(self) -> int:
        """How many variables."""
        return len(self.low)

    def add(
        self, rows: Float[np.ndarray, "c v"], least: Float[np.ndarray, " c"], greatest: Float[np.ndarray, " c"]
    ) -> None:
        """More constraints."""
        self.rows.append((rows, least, greatest))

    def encode(self, layers: list[AffineMap], begins: int) -> Float[np.ndarray, " k"]:
        """What the layers make of the first one's sums; the room ends where a neuron switches, but for one of the last.
        Returns how much the last layer's neurons see of a step of length one, about."""
        at = len(layers[0][1])
        low, high, size = self.low[:at], self.high[:at], np.linalg.norm(layers[0][0], axis=1)
        sums, given = np.eye(at, self.count), np.zeros(at)
        for depth, (W, b) in enumerate(layers):
            if depth:
                up = np.maximum(high, 0)
                low, high = np.minimum(W, 0) @ up + b, np.maximum(W, 0) @ up + b
                size = np.sqrt(W**2 @ size**2 / 2)
                sums, given = np.zeros((len(b), self.count)), b
                sums[:, at - 2 * W.shape[1] : at - W.shape[1]] = W
            room = size * ((depth < len(layers) - 1) | (np.arange(len(b)) != begins))
            self._switched(sums, given, (np.minimum(low, 0), np.maximum(high, 0)), room, at)
            at += 2 * len(b)
        return np.asarray(size)

    def _switched(
        self,
        sums: Float[np.ndarray, "k v"],
        given: Float[np.ndarray, " k"],
        bounds: tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]],
        room: Float[np.ndarray, " k"],
        at: int,
    ) -> None:
        """A layer that sees these sums of variables, and what is given besides, within bounds."""
        (low, high), k = bounds, len(given)
        value, switch, clear = np.zeros((3, k, self.count))
        value[:, at : at + k], switch[:, at + k : at + 2 * k], clear[:, -1] = np.eye(k), np.eye(k), room
        self.high[at : at + k] = high
        self.whole[at + k : at + 2 * k] = 1
        wide, never = self.most * room, np.full(k, -np.inf)
        self.add(sums - value, never, -given)
        self.add(value - sums - low[:, None] * switch, never, given - low)
        self.add(value - high[:, None] * switch, never, np.zeros(k))
        self.add(clear - sums + (wide - low)[:, None] * switch, never, given + wide - low)
        self.add(clear + sums - (wide + high)[:, None] * switch, never, -given)

    def solved(self, aim: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"] | None:
        """All variables, where their sum with these weights is least; None where nothing was found."""
        return self.told(aim)[0]

    def told(self, aim: Float[np.ndarray, " v"]) -> tuple[Float[np.ndarray, " v"] | None, bool]:
        """The same, and whether there is surely no solution."""
        rows, least, greatest = (np.concatenate(each) for each in zip(*self.rows, strict=True))
        found = optimize.milp(
            aim,
            integrality=self.whole,
            bounds=optimize.Bounds(self.low, self.high),
            constraints=optimize.LinearConstraint(rows, least, greatest),
            options={"mip_rel_gap": GAP, "node_limit": NODES},
        )
        return found.x, found.status == INFEASIBLE
