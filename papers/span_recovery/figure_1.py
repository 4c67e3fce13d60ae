"""Figure 1: partial recovery of thin networks."""

from __future__ import annotations

from papers.span_recovery.curves import Row, curves
from papers.span_recovery.curves import draw as draw
from papers.span_recovery.curves import tell as tell

NETWORKS = ((784, 80, 6), (784, 80, 6, 3), (784, 80, 3))


def run(size: int = 400, seeds: int = 3, adaptive: bool = True) -> list[Row]:
    """Rank against up to `size` samples, the mean over `seeds` random networks; Algorithm 2 on the first."""
    return curves(NETWORKS, size, seeds, adaptive)
