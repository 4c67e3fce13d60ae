"""Figures that several results share: singular values, and inputs as pictures. Matplotlib is imported inside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum(values: Float[np.ndarray, " s"], rank: int, floor: float, title: str) -> Figure:
    """Singular values, the rank, and the floor below which they are noise.

    Args:
        values: The largest first.
        rank: How many of them count.
        floor: In the same units; 0 for none.
        title: Above the figure.
    """
    figure, axes = _figure(1)
    number = np.arange(1, len(values) + 1)
    lowest = max(float(np.max(values, initial=1.0)) * 1e-18, np.finfo(float).tiny)
    axes[0].semilogy(number, np.maximum(values, lowest), ".", label="singular values")
    if floor > 0:
        axes[0].axhline(floor, color="0.5", label="noise floor")
    axes[0].axvline(rank + 0.5, color="0.5", linestyle="--", label=f"rank {rank}")
    axes[0].set(title=title, xlabel="number", ylabel="singular value")
    axes[0].legend()
    return figure


def curves(by_name: Mapping[str, Float[np.ndarray, " k"]], title: str) -> Figure:
    """Several spectra, one curve each."""
    figure, axes = _figure(1)
    for name, values in by_name.items():
        axes[0].semilogy(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), label=name)
    axes[0].set(title=title, xlabel="number", ylabel="singular value")
    axes[0].legend()
    return figure


def inputs(by_name: Mapping[str, Float[np.ndarray, " n"]]) -> Figure:
    """Inputs beside one another: as grey pictures where their number of entries is a square, else as curves."""
    figure, axes = _figure(len(by_name))
    low, high = (float(end(list(by_name.values()))) for end in (np.min, np.max))
    for axis, (name, x) in zip(axes, by_name.items(), strict=True):
        side = math.isqrt(len(x))
        if side * side == len(x) and side > 3:
            axis.imshow(x.reshape(side, side), cmap="gray", vmin=low, vmax=high)
            axis.set_axis_off()
        else:
            axis.plot(np.arange(len(x)), x, ".-")
            axis.set(ylim=(low, high), xlabel="input")
        axis.set_title(name)
    return figure


def shown(figure: Figure) -> Figure:
    """A figure that a notebook shows as a picture, without pyplot and whatever backend is chosen."""
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    held = BytesIO()
    figure.savefig(held, format="png", dpi=100)
    return held.getvalue()


def _figure(count: int) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = shown(Figure(figsize=(4.5 if count == 1 else 2.6 * count, 3.0), layout="constrained"))
    return figure, list(np.ravel(figure.subplots(1, count)))
