"""How badly conditioned the way back is: singular values of the linearisation by layers, and bounds on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unveil.outcome import BadInput
from unveil.whitebox.linear_piece import Block, Piece, blocks_of, first_piece, next_piece
from unveil.whitebox.network import Network
from unveil.whitebox.removal import Removal, removal
from unveil.whitebox.singular_values import singular_values

REMOVAL_BY_DEFAULT = 2e9
"""Lemma 9 takes the products of all kept with all removed rows; up to so many multiplications nobody has to ask."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one matrix per sample.

    Attributes:
        values: (N, min(m, n)), descending; filled up with zeros where rows or columns are missing.
        floor: (N,). A value below it cannot be told from zero: max(m, n) * eps * the largest. Those well above (1e-5
            of the largest) are exact to 1e-10, relatively.
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
        that the lemma says nothing.
        """
        kept = self.before.rank - (self.neurons - self.active)
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
        return np.array(found) if found else np.full(len(self.active), np.nan)


@dataclass(frozen=True, eq=False)
class Stability:
    """The stability of the inverse at one or more inputs.

    Attributes:
        layers: First to last.
        inputs: Inputs that were allowed to vary: all, or those of the window.
    """

    layers: tuple[LayerStability, ...]
    inputs: int

    def __str__(self) -> str:
        lines = ["layer  neurons  active  rank  largest   smallest  condition  (medians, after the activation)"]
        for i, each in enumerate(self.layers):
            s = each.after
            lines.append(
                f"{i:5d}  {each.neurons:7d}  {np.median(each.active):6.0f}  {np.median(s.rank):4.0f}  "
                f"{np.median(s.largest):8.3g}  {np.median(s.smallest):8.2e}  {np.median(s.condition):9.3g}"
            )
        return "\n".join(lines)


def stability(
    network: Network,
    x: np.ndarray,
    *,
    window: Int[np.ndarray, " w"] | None = None,
    lemma_9: bool | None = None,
    watch: Callable[[int, int], None] | None = None,
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
        watch: Called with (samples done, all).

    Returns:
        Spectra, ranks, condition numbers and bounds.

    Raises:
        BadInput: A wrong shape, or a window outside of the input.

    Source: Behrmann, Dittmer, Fernsel, Maass, arXiv:1806.09730, section 3, Lemmas 8 and 9, A5.
    """
    points = network.points(x)
    window = np.arange(network.n) if window is None else np.asarray(window)
    if window.ndim != 1 or not window.size or window.min() < 0 or window.max() >= network.n:
        raise BadInput(f"window must list inputs, numbers from 0 to {network.n - 1}; got {window!r}")
    window = np.unique(window)
    weights = [blocks_of(layer) for layer in network.layers]
    first = first_piece(weights[0], network.layers[0].neurons, window, network.n)
    # The first affine map is the same for all inputs, and so are its singular values.
    shared = singular_values(first)
    rows: list[list[tuple[Any, ...]]] = [[] for _ in network.layers]
    removals: list[list[Removal]] = [[] for _ in network.layers]
    for done, point in enumerate(points):
        slopes = [a.activation.slope(s[0]) for a, s in zip(network.layers, network.preactivations(point), strict=True)]
        for i, (piece, slope) in enumerate(_pieces(weights, first, slopes, len(window))):
            before = shared if i == 0 else singular_values(piece)
            kept = piece.keep(slope)
            # Without an activation there is nothing new to compute.
            after = before if (slope == 1).all() else singular_values(kept)
            size = min(network.layers[i].neurons, len(window))
            rows[i].append((_filled(before[0], size), before[1], _filled(after[0], size), after[1], slope))
            cost = float((slope != 0).sum()) * float((slope == 0).sum()) * len(window)
            if lemma_9 or (lemma_9 is None and cost <= REMOVAL_BY_DEFAULT):
                removals[i].append(removal(piece.whole(), slope != 0))
        if watch is not None:
            watch(done + 1, len(points))
    return Stability(
        tuple(
            LayerStability(
                before=Spectrum(np.array([r[0] for r in each]), np.array([r[1] for r in each])),
                after=Spectrum(np.array([r[2] for r in each]), np.array([r[3] for r in each])),
                neurons=layer.neurons,
                active=np.array([(r[4] != 0).sum() for r in each]),
                contraction=bool(max(np.abs(r[4]).max() for r in each) <= 1),
                removals=tuple(found) if len(found) == len(points) else (),
            )
            for layer, each, found in zip(network.layers, rows, removals, strict=True)
        ),
        len(window),
    )


def window_of(shape: tuple[int, ...], rows: tuple[int, int], columns: tuple[int, int]) -> Int[np.ndarray, " w"]:
    """Flat indices of a window of a picture (channels, height, width): rows and columns from, up to but without."""
    if len(shape) != 3 or not (0 <= rows[0] < rows[1] <= shape[1] and 0 <= columns[0] < columns[1] <= shape[2]):
        raise BadInput(f"a window of rows {rows} and columns {columns} does not lie in a picture of shape {shape}")
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return places[:, rows[0] : rows[1], columns[0] : columns[1]].ravel()


def _pieces(
    weights: list[tuple[Block, ...]], first: Piece, slopes: list[np.ndarray], width: int
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Every layer's linearisation before its activation, and the slopes of the activation."""
    piece = first
    for i, slope in enumerate(slopes):
        if i:
            piece = next_piece(weights[i], len(slope), piece)
        yield piece, slope
        piece = piece.keep(slope).folded()


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(max(size - len(values), 0))])[:size]
