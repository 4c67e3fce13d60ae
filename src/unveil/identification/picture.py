"""Picture: how the inputs of a model lie in rows, columns and channels, and lines that move one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEAST_PICTURE_SIDE = 5  # fewer rows or columns than this are no picture: every window would be most of it
CHANNELS = 4  # a last axis no longer than this, behind two longer ones, holds channels


@dataclass(frozen=True)
class Picture:
    """Which axis of the inputs is which."""

    shape: tuple[int, int, int]  # (channels, rows, columns)
    last: bool = False  # whether the model has channels as its last axis, as TensorFlow and Keras do

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Picture | None:
        """The picture that inputs of this shape are, or None: `(h, w)`, `(c, h, w)`, `(h, w, c)`, batch axes of 1."""
        sides = tuple(int(s) for s in shape)
        while len(sides) > 3 and sides[0] == 1:
            sides = sides[1:]
        if len(sides) == 2:
            sides = (1, *sides)
        if len(sides) != 3:
            return None
        last = sides[2] <= CHANNELS and min(sides[:2]) >= LEAST_PICTURE_SIDE and sides[0] > CHANNELS
        if last:
            sides = (sides[2], sides[0], sides[1])
        return cls(sides, last) if min(sides[1:]) >= LEAST_PICTURE_SIDE else None

    def planes(self, x: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N c h w"]:
        """Inputs as channels of rows and columns."""
        if self.last:
            c, h, w = self.shape
            return np.asarray(x.reshape(-1, h, w, c).transpose(0, 3, 1, 2))
        return np.asarray(x.reshape(-1, *self.shape))

    def flat(self, planes: Float[np.ndarray, "N c h w"]) -> Float[np.ndarray, "N n"]:
        """The inverse of `planes`."""
        if self.last:
            planes = planes.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(planes).reshape(len(planes), -1)

    def unit(self, pixel: tuple[int, int, int]) -> Float[np.ndarray, " n"]:
        """The direction that moves one input, (channel, row, column), alone."""
        one = np.zeros((1, *self.shape))
        one[(0, *pixel)] = 1.0
        return np.asarray(self.flat(one)[0])
