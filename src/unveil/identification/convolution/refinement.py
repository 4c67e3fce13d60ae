"""refined, measured: a kernel sharpened by every breakpoint that its shifts explain, and how well it is known."""

from __future__ import annotations

import dataclasses

import numpy as np

from unveil.identification.convolution.kernel import Kernel, Matched

# The width of a breakpoint is so many of its standard deviations, roughly.
WIDTHS = 3.0
# Parts of the sightings of which each is left out once.
PARTS = 5


def refined(kernel: Kernel, met: Matched) -> Kernel:
    """Weights and bias by least squares from a first reading and the breakpoints met.

    Each breakpoint says that a window's weighted sum is zero there. Errors are scaled up where these sums scatter by
    more than their stated error. `kernel`: as it was read, its errors independent. `met`: what its shifts explain.
    """
    theta = np.append(kernel.weights.ravel(), kernel.bias)
    doubt = np.maximum(np.append(kernel.error.ravel(), kernel.bias_error), 1e-15)
    if not len(met.line):
        return kernel
    rows = met.equations / (met.error / WIDTHS)[:, None]
    # In units of the first reading's errors, so that both kinds of equations have errors of one.
    system = np.concatenate([np.eye(len(theta)), rows * doubt])
    left = np.concatenate([np.zeros(len(theta)), -rows @ theta])
    u, s, vt = np.linalg.svd(system, full_matrices=False)
    change = vt.T @ ((u.T @ left) / s)
    off = left - system @ change
    scale = max(1.0, float(np.sqrt((off**2).sum() / max(len(met.line), 1))))
    theta = theta + doubt * change
    error = doubt * np.sqrt(((vt.T / s) ** 2).sum(axis=1)) * scale
    error = np.minimum(error, doubt * scale)
    shape = kernel.weights.shape
    weights = theta[:-1].reshape(shape)
    size = float(np.linalg.norm(weights))
    return Kernel(
        weights / size, float(theta[-1]) / size, error[:-1].reshape(shape) / size, float(error[-1]) / size,
        kernel.corner,
    )  # fmt: skip


def measured(kernel: Kernel, met: Matched) -> Kernel:
    """As `refined`, with errors that are measured: by how far the kernel moves when some sightings are left out.

    Sightings are put into a few parts, each of which is left out once (a jackknife). All errors are scaled up by what
    the kernel moves more than they say, and never down: the few weights of one kernel may agree by chance. `kernel`: as
    it was read, its errors independent. `met`: what its shifts explain.
    """
    whole = refined(kernel, met)
    parts = min(PARTS, len(met.line))
    if parts < 2:
        return whole
    others = [refined(kernel, _without(met, part, parts)) for part in range(parts)]
    moved = np.stack([np.append(other.weights.ravel(), other.bias) for other in others])
    spread = (parts - 1) / parts * ((moved - moved.mean(axis=0)) ** 2).sum(axis=0)
    stated = np.append(whole.error.ravel(), whole.bias_error) ** 2
    more = max(1.0, float(np.sqrt(spread.sum() / stated.sum())))
    return dataclasses.replace(whole, error=more * whole.error, bias_error=more * whole.bias_error)


def _without(met: Matched, part: int, parts: int) -> Matched:
    """The sightings less one part."""
    keep = np.arange(len(met.line)) % parts != part
    return dataclasses.replace(
        met, line=met.line[keep], index=met.index[keep], corner=met.corner[keep], equations=met.equations[keep],
        error=met.error[keep],
    )  # fmt: skip
