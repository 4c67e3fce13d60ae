"""Whether hyperplanes met hold anywhere else: a boundary can bend for ever at none, as where neighbours vote (kNN)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

# Labels spent on bends, and so many more for each coordinate, before one must be a hyperplane's. Where normals are
# coarse it is so many times as many: it takes more bends before some are seen to agree.
FEW, EACH_COORDINATE, COARSE = 5_000, 2_000, 8
# In more coordinates than this it is so many times as many: what is not met there is looked for along a few.
MANY, EARLY = 24, 2
# So many times as many labels are spent on bends between two times that hyperplanes are looked at from all over.
LATER = 1.25
CLEAN, ALLOWED = 4, 8  # a hyperplane stands that so many faces end at, while at most one in so many goes on behind it
# So many looks, and this share of them at ends at hyperplanes that stand, or there is no first layer.
LOOKS, LEAST = 64, 0.1


def bends_spent(stages: dict[str, int], coordinates: int, *, coarse: bool) -> float:
    """Labels spent on bends, in units of what may be spent before hyperplanes met must hold. `stages`: labels by what
    they were asked for. `coordinates`: coordinates in which they are asked. `coarse`: whether normals are."""
    times = (COARSE if coordinates <= MANY else EARLY) if coarse else 1
    spent = sum(stages.get(stage, 0) for stage in ("dual points", "edges"))
    return spent / (FEW + EACH_COORDINATE * coordinates) / times


def none_stands(ended: Int[np.ndarray, " k"], passed: Int[np.ndarray, " k"]) -> bool:
    """Whether hardly any of the hyperplanes met, looked at from faces all over the boundary, is a first-layer neuron's.

    The boundary bends wherever it meets a first layer's hyperplane. One that a few bends agree on by chance, or where
    several cells of a tessellation meet, goes on straight nowhere else. `ended`: faces that end at each hyperplane.
    `passed`: faces that go on behind each.
    """
    stands = (ended >= CLEAN) & (ALLOWED * passed <= ended)
    looks = int(ended.sum() + passed.sum())
    return looks >= LOOKS and float(ended[stands].sum()) < LEAST * looks
