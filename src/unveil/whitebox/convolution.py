"""A convolution as a matrix: kernel and geometry are kept, the sparse operator is built from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse

from unveil.outcome import BadInput

LARGEST_OPERATOR = 200_000_000


@dataclass(frozen=True, eq=False)
class Convolution:
    """A two-dimensional convolution (cross-correlation, as in every framework) of pictures of one size.

    Attributes:
        kernel: (out channels, in channels / groups, height, width).
        input_shape: (channels, height, width) of what goes in.
        stride: Rows, columns.
        padding: Zeros added above, left, below, right.
        dilation: Distance of neighbouring kernel taps, rows and columns.
        groups: Number of independent groups of channels.
    """

    kernel: Float[np.ndarray, "out in_per_group height width"]
    input_shape: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        channels, groups = self.input_shape[0], self.groups
        if (
            self.kernel.ndim != 4
            or groups < 1
            or self.kernel.shape[1] * groups != channels
            or self.kernel.shape[0] % groups
        ):
            raise BadInput(
                f"a convolution of {channels} channels in {groups} groups needs a kernel "
                f"(out, {channels}/{groups}, h, w) with out divisible by {groups}; got {self.kernel.shape}"
            )
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0:
            raise BadInput("stride and dilation of a convolution must be at least 1 and padding at least 0")
        if min(self.output_shape) < 1:
            raise BadInput(
                f"the kernel {self.kernel.shape[2:]} does not fit into the picture {self.input_shape} with this padding"
            )
        if self.output_size * self.taps > LARGEST_OPERATOR:
            raise BadInput(
                f"a convolution to {self.output_shape} would need {self.output_size * self.taps:,} matrix entries; "
                f"at most {LARGEST_OPERATOR:,} are built"
            )

    @property
    def taps(self) -> int:
        """Inputs that one output reads, padding included."""
        return int(np.prod(self.kernel.shape[1:], dtype=object))

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what comes out."""
        top, left, bottom, right = self.padding
        _, height, width = self.input_shape
        rows = (height + top + bottom - self.dilation[0] * (self.kernel.shape[2] - 1) - 1) // self.stride[0] + 1
        columns = (width + left + right - self.dilation[1] * (self.kernel.shape[3] - 1) - 1) // self.stride[1] + 1
        return int(self.kernel.shape[0]), int(rows), int(columns)

    @property
    def output_size(self) -> int:
        return int(np.prod(self.output_shape, dtype=object))

    def sources(self) -> np.ndarray:
        """(groups, positions, taps): which input each tap reads, flat; -1 where it reads padding."""
        channels, height, width = self.input_shape
        _, rows, columns = self.output_shape
        _, per_group, tall, wide = self.kernel.shape
        row = np.arange(rows)[:, None] * self.stride[0] + np.arange(tall) * self.dilation[0] - self.padding[0]
        column = np.arange(columns)[:, None] * self.stride[1] + np.arange(wide) * self.dilation[1] - self.padding[1]
        channel = np.arange(channels).reshape(self.groups, 1, 1, per_group, 1, 1)
        row, column = row[None, :, None, None, :, None], column[None, None, :, None, None, :]
        flat = (channel * height + row) * width + column
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return np.where(inside, flat, -1).reshape(self.groups, rows * columns, self.taps)

    def matrix(self) -> sparse.csr_array:
        """The operator (outputs, inputs): `matrix() @ picture.ravel()` is the convolved picture, raveled."""
        per_group = self.kernel.shape[0] // self.groups
        kernels = self.kernel.reshape(self.groups, per_group, self.taps)
        values, columns, counts = [], [], []
        for kernel, sources in zip(kernels, self.sources(), strict=True):
            inside = sources >= 0
            values.append(np.take(kernel, np.nonzero(inside)[1], axis=1).ravel())
            columns.append(np.tile(sources[inside].astype(np.int32), per_group))
            counts.append(np.tile(inside.sum(axis=1), per_group))
        pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return sparse.csr_array(
            (np.concatenate(values), np.concatenate(columns), pointers.astype(np.int32)),
            shape=(self.output_size, int(np.prod(self.input_shape))),
        )
