"""Figure 2: full recovery of networks of moderate width."""

from __future__ import annotations

from papers.span_recovery.curves import Row, curves
from papers.span_recovery.curves import draw as draw
from papers.span_recovery.curves import tell as tell

NETWORKS = ((784, 80), (784, 80, 40), (784, 80, 40, 30), (784, 80, 40, 30, 20), (784, 80, 40, 30, 20, 10))


def run(size: int = 100, seeds: int = 3, adaptive: bool = True) -> list[Row]:
    """Rank against up to `size` samples, the mean over `seeds` random networks; Algorithm 2 on the first."""
    return curves(NETWORKS, size, seeds, adaptive)
