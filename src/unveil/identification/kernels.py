"""Kernels: what is known of a first layer that is a convolution, and how often and how exactly each kernel was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unveil.identification.picture import Picture
from unveil.one_line import one_line
from unveil.whitebox.convolution import Convolution


@one_line
@dataclass(frozen=True)
class Kernels:
    """Kernels of a first convolution, each with its bias of length 1 and up to sign.

    Which side of its hyperplanes a neuron is active on shows only once everything behind the layer is known.

    Attributes:
        weights: (C, channels, height, width); the largest weight of each is positive.
        bias: (C,) relative to the weights.
        error: (C,) largest standard deviation of a weight, measured: by how far the kernel moves when some sightings
            are left out, and how far breakpoints scatter.
        held_out: (C,) largest distance of a window's weighted sum from zero at breakpoints of lines that went into no
            kernel; NaN where these met none of it.
        sightings: (C,) breakpoints, each in another window or picture, that lie where the kernel says.
        expected: (C,) windows on the grid whose breakpoint lay within the lines searched.
        stride: Rows, columns; None if too few windows were met to tell.
        padding: Zeros above, left, below, right; None if the corners did not show it.
        pooling: Shifts of neurons of which the larger one is taken, as maximum pooling does; empty if none was seen.
        unexplained: Normals that fit into a window but were seen once only, or are differences of a kernel not found:
            there may be as many kernels more.
        wide: Normals read that reach over more than a kernel: of deeper layers.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> kernel, last = rng.standard_normal((3, 3)), rng.standard_normal((2, 16))
        >>> def model(x):
        ...     windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (3, 3), axis=(1, 2))
        ...     return np.maximum(np.einsum("nijab,ab->nij", windows, kernel), 0).reshape(len(x), -1) @ last.T
        >>> found = uv.identify(uv.as_oracle(model, shape=(1, 6, 6)), uv.SharedKernels(), rng=rng)
        >>> found.kernels.weights.shape, found.kernels.stride
        ((1, 1, 3, 3), (1, 1))
    """

    weights: Float[np.ndarray, "C c a b"]
    bias: Float[np.ndarray, " C"]
    error: Float[np.ndarray, " C"]
    held_out: Float[np.ndarray, " C"]
    sightings: Int[np.ndarray, " C"]
    expected: Int[np.ndarray, " C"]
    stride: tuple[int, int] | None
    padding: tuple[int, int, int, int] | None
    pooling: tuple[tuple[int, int], ...]
    unexplained: int
    wide: int

    def __len__(self) -> int:
        return len(self.weights)

    def convolution(self, picture: Picture) -> Convolution | None:
        """The layer's linear part on pictures; None unless stride and padding are known."""
        if self.stride is None or self.padding is None:
            return None
        return Convolution(self.weights, picture.shape, self.stride, self.padding)

    def described(self) -> str:
        """One sentence on what was found."""
        count, channels, height, width = self.weights.shape
        stride = "unknown" if self.stride is None else f"{self.stride[0]} x {self.stride[1]}"
        padding = "not told" if self.padding is None else ", ".join(map(str, self.padding))
        return (
            f"The first layer is a convolution: {count} kernels of {channels} x {height} x {width} were found, stride "
            f"{stride}, padding (above, left, below, right) {padding}; each was seen at {self.sightings.min()} to "
            f"{self.sightings.max()} breakpoints, weights to {self.error.max():.1g} of the kernel's length."
        )
