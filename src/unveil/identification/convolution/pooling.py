"""differences_of: maximum pooling shows hyperplanes on which two shifts of one kernel are equal: told from kernels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.identification.convolution.kernel import Kernel

# Shifts between two neurons that are pooled together, at most.
LARGEST = 3
# Standard deviations within which what must vanish is zero, and what may be left on top of these: a dozen sums that
# are all as small as that are no accident in a kernel, while a difference that was read badly must not pass for one.
ZERO, ROUNDING = 8.0, 1e-4


def differences_of(kernel: Kernel) -> list[tuple[tuple[int, int], Float[np.ndarray, "c a b"]]]:
    """The shifts and the weights w such that a kernel is `w shifted, less w`; mostly none.

    Where the larger of two neurons of one kernel is taken, the answers bend where both are equal: the biases cancel,
    and the normal is the difference of two shifts. Nearly no other kernel is: the sums along the shift all vanish.
    A difference over twice a shift is one over the shift as well: both are returned.
    """
    doubt = float(np.sqrt((kernel.error**2).sum()))
    if abs(kernel.bias) > ZERO * kernel.bias_error + ROUNDING:
        return []
    found = []
    _, a, b = kernel.weights.shape
    for down in range(LARGEST + 1):
        for right in range(-LARGEST, LARGEST + 1):
            if (down, right) <= (0, 0) or down >= a or abs(right) >= b:
                continue
            w = _integral(kernel.weights, down, right)
            inner = w[:, : a - down, max(-right, 0) : b - max(right, 0)]
            rest = np.linalg.norm(w) ** 2 - np.linalg.norm(inner) ** 2
            if rest <= (ZERO * doubt * np.sqrt(a * b) + ROUNDING) ** 2:
                found.append(((down, right), inner))
    return found


def _integral(d: np.ndarray, down: int, right: int) -> np.ndarray:
    """w with `w(i - down, j - right) - w(i, j) = d(i, j)` and nothing before the first row or column."""
    _, a, b = d.shape
    w = np.zeros_like(d)
    columns = range(b) if right >= 0 else range(b - 1, -1, -1)
    for i in range(a):
        for j in columns:
            inside = i >= down and 0 <= j - right < b
            w[:, i, j] = (w[:, i - down, j - right] if inside else 0.0) - d[:, i, j]
    return w


def difference(kernel: Kernel, shift: tuple[int, int]) -> Kernel:
    """The kernel `w shifted, less w` of bias 0, as maximum pooling makes it."""
    c, a, b = kernel.weights.shape
    down, right = shift
    size = (c, a + down, b + abs(right))
    out, variance = np.zeros(size), np.zeros(size)
    for i, j, sign in ((0, max(-right, 0), -1.0), (down, max(right, 0), 1.0)):
        out[:, i : i + a, j : j + b] += sign * kernel.weights
        variance[:, i : i + a, j : j + b] += kernel.error**2
    scale = float(np.linalg.norm(out))
    return Kernel(out / scale, 0.0, np.sqrt(variance) / scale, 1e-16, kernel.corner)


def proportional(kernel: Kernel, weights: Float[np.ndarray, "c a b"], error: float) -> bool:
    """Whether weights are a kernel's up to a factor."""
    if kernel.weights.shape != weights.shape:
        return False
    part = weights / np.linalg.norm(weights)
    off = min(np.linalg.norm(part - kernel.weights), np.linalg.norm(part + kernel.weights))
    return bool(off <= ZERO * (error + float(np.sqrt((kernel.error**2).sum()))) + 1e-6)
