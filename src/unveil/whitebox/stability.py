"""How badly conditioned the way back is: singular values of the linearisation by layers, and bounds on them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from unveil.executor import spread
from unveil.one_line import one_line
from unveil.outcome import BadInput
from unveil.whitebox.blocks import Block
from unveil.whitebox.fewer_rows import fewer_rows
from unveil.whitebox.linear_piece import Piece, blocks_of, first_piece, next_piece
from unveil.whitebox.network import Network, must_be_known
from unveil.whitebox.piece_rounding import Rounding
from unveil.whitebox.removal import Removal, removal
from unveil.whitebox.singular_values import direct, singular_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REMOVAL_BY_DEFAULT = 2e9
"""Lemma 9 takes the products of all kept with all removed rows: evaluated by default up to so many multiplications."""
TALLER = 1.2
"""A matrix with so many times the rows of the one before is replaced by one with as many rows as that."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one matrix per sample.

    Attributes:
        values: (N, min(m, n)), descending; filled up with zeros where rows or columns are missing.
        floor: (N,). A value below it cannot be told from zero: max(m, n) * eps * the largest, or the rounding of the
            product of the layers where that is more, as it is where the product cancels. Those well above (1e-5 of
            the largest) are exact to 1e-10, relatively.
    """

    values: Float[np.ndarray, "N k"]
    floor: Float[np.ndarray, " N"]

    @property
    def rank(self) -> Int[np.ndarray, " N"]:
        """Values above the floor."""
        return np.asarray((self.values > self.floor[:, None]).sum(axis=1))

    @property
    def largest(self) -> Float[np.ndarray, " N"]:
        return np.asarray(self.values[:, 0])

    @property
    def smallest(self) -> Float[np.ndarray, " N"]:
        """The smallest value above the floor; 0 for a zero matrix."""
        rank = self.rank
        return np.where(rank > 0, self.values[np.arange(len(rank)), np.maximum(rank - 1, 0)], 0.0)

    @property
    def condition(self) -> Float[np.ndarray, " N"]:
        """Largest over smallest non-zero value: how much relative errors can grow on the way back."""
        return np.asarray(self.largest / np.where(self.smallest > 0, self.smallest, np.nan))

    def median(self) -> Float[np.ndarray, " k"]:
        """The median over samples of the k-th value: the curve of the paper's figures."""
        return np.asarray(np.median(self.values, axis=0))


@dataclass(frozen=True, eq=False)
class LayerStability:
    """One layer: what its activation does to the singular values.

    Attributes:
        before: Of the linearisation up to the layer's affine map.
        after: With the activation.
        neurons: Output size of the layer.
        active: (N,), neurons whose slope is not zero.
        contraction: Whether no slope exceeds 1, as the bounds require.
        removals: Lemma 9 per sample; empty where it was not evaluated.
    """

    before: Spectrum
    after: Spectrum
    neurons: int
    active: Int[np.ndarray, " N"]
    contraction: bool
    removals: tuple[Removal, ...] = ()

    @property
    def bound_largest(self) -> Float[np.ndarray, " N"]:
        """Lemma 8: the largest value after the activation is at most this, the largest before."""
        return self.before.largest if self.contraction else np.full(len(self.active), np.nan)

    @property
    def bound_smallest(self) -> Float[np.ndarray, " N"]:
        """Lemma 8 as the paper has it: an upper bound of the smallest non-zero value after the activation.

        With r values before and i rows removed, it is the (r - i)-th. NaN where so many rows are removed (i >= r)
        that the lemma says nothing. A value that a small slope brings below the floor counts as zero after the
        activation, hence as removed: with rank k left it is at most the k-th.
        """
        kept = np.minimum(self.before.rank - (self.neurons - self.active), self.after.rank)
        value = self.before.values[np.arange(len(kept)), np.maximum(kept - 1, 0)]
        return np.where((kept > 0) & self.contraction, value, np.nan)

    @property
    def bound_interlacing(self) -> Float[np.ndarray, " N"]:
        """The tighter form, from interlacing: the k-th before, k the rank after."""
        rank = self.after.rank
        value = self.before.values[np.arange(len(rank)), np.maximum(rank - 1, 0)]
        return np.where((rank > 0) & self.contraction, value, np.nan)

    @property
    def bound_removal(self) -> Float[np.ndarray, " N"]:
        """Lemma 9 by the procedure of A5: an upper bound of the smallest non-zero value; NaN where not evaluated."""
        found = [each.bound for each in self.removals]
        return np.array(found) if len(found) == len(self.active) else np.full(len(self.active), np.nan)


@one_line
@dataclass(frozen=True, eq=False)
class Stability:
    """The stability of the inverse at one or more inputs.

    Attributes:
        layers: First to last.
        inputs: Inputs that were allowed to vary: all, or those of the window.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.stability(network, np.array([[1.0, 2.0, 0.5]]))
        >>> len(found.layers), found.inputs  # layers, numbers in an input
        (2, 3)
    """

    layers: tuple[LayerStability, ...]
    inputs: int

    def plot(self) -> Figure:
        """Median singular values after each layer."""
        from unveil.pictures import curves

        after = {f"layer {level}": each.after.median() for level, each in enumerate(self.layers)}
        return curves(after, "Singular values after each layer")

    def __str__(self) -> str:
        lines = ["layer  neurons  active  rank  largest   smallest  condition  (medians, after the activation)"]
        for i, each in enumerate(self.layers):
            s = each.after
            lines.append(
                f"{i:5d}  {each.neurons:7d}  {np.median(each.active):6.0f}  {np.median(s.rank):4.0f}  "
                f"{np.median(s.largest):8.3g}  {np.median(s.smallest):8.2e}  {np.median(s.condition):9.3g}"
            )
        return "\n".join(lines)


def stability(  # noqa: PLR0913 - options of a public verb
    network: Network,
    x: np.ndarray,
    *,
    window: Int[np.ndarray, " w"] | None = None,
    lemma_9: bool | None = None,
    fine: bool = True,
    watch: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> Stability:
    """Singular values of the linearisation at x, layer by layer, before and after each activation.

    Small singular values say that the way back from features to inputs is badly conditioned; zero ones, that it does
    not exist. Dead neurons never enter. A layer's matrix is the next affine map times the last one's, in blocks of
    rows that see the same inputs; once fewer rows than inputs are left, their row space takes the inputs' place.

    Args:
        network: Any network; a softmax on top is left out.
        x: One input or many; medians over many are what the paper shows.
        window: Let only these inputs (flat indices) vary: for inputs too large for all. See `window_of`.
        lemma_9: Whether to evaluate Lemma 9 (every product of a kept with a removed row); by default where it is cheap.
        fine: False is about twice as fast on large layers, and as exact as single precision could never be: 1e-6,
            relatively, at 1e-5 of the largest value, with a floor at 1e-7 of it. See `Spectrum` for what True gives.
        watch: Called with (samples done, or handed out if there is an executor; all).
        executor: Where to work, e.g. `unveil.executor.workers(2)`: inputs in parallel, each with one thread. The
            results are the same, bit for bit, whatever the number of workers.

    Returns:
        Spectra, ranks, condition numbers and bounds.

    Raises:
        BadInput: A wrong shape, or a window outside of the input.

    Source: Behrmann, Dittmer, Fernsel, Maass, arXiv:1806.09730, section 3, Lemmas 8 and 9, A5.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.stability(network, np.array([[1.0, 2.0, 0.5]]))
        >>> len(found.layers), found.inputs  # layers, numbers in an input
        (2, 3)
    """
    must_be_known(network)
    points = network.points(x)
    window = np.arange(network.n) if window is None else np.asarray(window)
    if window.ndim != 1 or not window.size or window.min() < 0 or window.max() >= network.n:
        raise BadInput(f"window must list inputs, numbers from 0 to {network.n - 1}; got {window!r}")
    window = np.unique(window)
    blocks = blocks_of(network.layers[0])
    # The first affine map is the same for all inputs, and so are its singular values.
    shared = singular_values(first_piece(blocks, network.layers[0].neurons, window, network.n), fine)
    task = _Task(network, window, shared, lemma_9, fine)

    def parts() -> Iterator[tuple[_Task, np.ndarray]]:
        for start in range(0, len(points), task.together):
            if watch is not None:
                watch(start, len(points))
            yield task, points[start : start + task.together]

    made = [one for some in spread(_look, parts(), executor) for one in some]
    if watch is not None:
        watch(len(points), len(points))
    return Stability(
        tuple(
            LayerStability(
                before=Spectrum(np.array([e.before for e in each]), np.array([e.before_floor for e in each])),
                after=Spectrum(np.array([e.after for e in each]), np.array([e.after_floor for e in each])),
                neurons=layer.neurons,
                active=np.array([e.active for e in each]),
                contraction=max(e.steepest for e in each) <= 1,
                removals=tuple(e.removal for e in each if e.removal is not None),
            )
            for layer, each in zip(network.layers, zip(*made, strict=True), strict=True)
        ),
        len(window),
    )


def window_of(shape: tuple[int, ...], rows: tuple[int, int], columns: tuple[int, int]) -> Int[np.ndarray, " w"]:
    """Flat indices of a window of a picture (channels, height, width): rows and columns from, up to but without.

    Examples:
        >>> uv.window_of((1, 4, 4), rows=(1, 3), columns=(0, 2))
        array([4, 5, 8, 9])
    """
    if len(shape) != 3 or not (0 <= rows[0] < rows[1] <= shape[1] and 0 <= columns[0] < columns[1] <= shape[2]):
        raise BadInput(f"a window of rows {rows} and columns {columns} does not lie in a picture of shape {shape}")
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return places[:, rows[0] : rows[1], columns[0] : columns[1]].ravel()


@dataclass(frozen=True, eq=False)
class _Task:
    """What a worker needs to know."""

    network: Network
    window: np.ndarray
    shared: tuple[np.ndarray, float]
    lemma_9: bool | None
    fine: bool

    def __reduce__(self) -> tuple[Callable[[bytes], _Task], tuple[bytes]]:
        """A worker that is sent the same task again already has it, with what it worked out of it."""
        return _unpacked, (self._packed,)

    @cached_property
    def _packed(self) -> bytes:
        return pickle.dumps((self.network, self.window, self.shared, self.lemma_9, self.fine))

    @cached_property
    def weights(self) -> tuple[tuple[Block, ...], ...]:
        """Every layer as blocks."""
        return tuple(blocks_of(layer) for layer in self.network.layers)

    @property
    def together(self) -> int:
        """Inputs of one task: some seconds of work."""
        n = len(self.window)
        cost = sum(4.0 * min(each.neurons, n) ** 2 * max(each.neurons, n) for each in self.network.layers)
        return int(np.clip(5e10 / cost, 1, 64))


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> _Task:
    return _Task(*pickle.loads(packed))


@dataclass(frozen=True, eq=False)
class _Seen:
    """One layer at one input."""

    before: np.ndarray
    before_floor: float
    after: np.ndarray
    after_floor: float
    active: int
    steepest: float
    removal: Removal | None


def _look(part: tuple[_Task, np.ndarray]) -> list[list[_Seen]]:
    """Every layer at some inputs."""
    task, points = part
    network, window, weights = task.network, task.window, task.weights
    made = []
    for point in points:
        seen = network.preactivations(point)
        piece = first_piece(weights[0], network.layers[0].neurons, window, network.n)
        rounding = Rounding.none(piece)
        row: list[_Seen] = []
        for i, layer in enumerate(network.layers):
            before = task.shared
            if i:
                previous, piece = piece, next_piece(weights[i], layer.neurons, piece)
                rounding = rounding.behind(layer, previous, piece)
                values, floor = _before(task, weights[i], previous, piece, _share(row[-1].after))
                before = values, max(floor, rounding.floor)
            slope = layer.activation.slope(seen[i][0])
            kept = piece.keep(slope).folded()
            after = rounding.kept(slope, kept, folded=kept.width < piece.width)
            row.append(_layer(task, piece, kept, slope, before, after.floor))
            piece, rounding = kept, after
        made.append(row)
    return made


def _before(
    task: _Task, layer: tuple[Block, ...], previous: Piece, piece: Piece, alike: float
) -> tuple[np.ndarray, float]:
    """Singular values of `piece`, which is `layer @ previous`, and their floor."""
    shrinks = piece.rows > TALLER * previous.rows and direct(previous.rows, previous.width, alike)
    if not (task.fine and shrinks):
        return singular_values(piece, task.fine, alike)
    values, floor = singular_values(next_piece(*fewer_rows(layer, previous), previous), True, alike)
    return values, floor * max(1.0, piece.rows / max(previous.rows, previous.width))


def _layer(
    task: _Task, piece: Piece, kept: Piece, slope: np.ndarray, before: tuple[np.ndarray, float], rounding: float
) -> _Seen:
    width = len(task.window)
    size = min(len(slope), width)
    # Without an activation there is nothing new to compute.
    values, floor = before if (slope == 1).all() else singular_values(kept, task.fine, _share(before[0]))
    after = values, max(floor, rounding)
    active = int((slope != 0).sum())
    wanted = task.lemma_9
    if wanted is None:
        wanted = float(active) * (len(slope) - active) * width <= REMOVAL_BY_DEFAULT
    rank = int((after[0] > after[1]).sum())
    found = removal(piece.whole(), slope != 0, rank=rank) if wanted else None
    steepest = float(np.abs(slope).max())
    return _Seen(_filled(before[0], size), before[1], _filled(after[0], size), after[1], active, steepest, found)


def _share(values: np.ndarray) -> float:
    """The smallest value above zero over the largest."""
    return float(values[values > 0][-1] / values[0]) if values.any() else 1.0


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(max(size - len(values), 0))])[:size]
