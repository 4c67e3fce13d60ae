"""shapes: hidden widths of the students that are tried where it is not known how many neurons there are."""

from __future__ import annotations

from collections.abc import Sequence

# Shapes behind what is known: hidden widths as shares of the last width, and free neurons besides. Where nothing is
# known, of this many neurons.
USUAL_SHAPES, BEHIND_ROWS = ((1.5,), (3.0, 1.5)), ((1.5,), (1.5, 1.0))
UNKNOWN_WIDTHS, FREE_NEURONS = (24, 64), 8
# The same behind several layers that were read from exact answers: how many more there are is not known, and what was
# read lacks neurons at most that hardly any input switches.
BEHIND_SEVERAL = ((1.0,), (1.0, 1.0), (1.0, 1.0, 1.0)) * 2
# The same where several more layers lie behind: one that was read exactly would have been read on, and what least
# squares got nowhere near takes more than the usual shapes have.
SEVERAL_MORE = ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0))
WIDE_LAYER, WIDTH_SHARE = 128, 0.5  # from so many neurons on students are no wider than this share of them


def shapes(each: Sequence[Sequence[float]], size: int, rows: int) -> list[tuple[int, ...]]:
    """Hidden widths behind what is known, one tuple per student. `each`: shares of `size`, the width of the last layer
    that was read or a guess. `rows`: rows of the next layer that a student begins with."""
    share = 1.0 if size < WIDE_LAYER else WIDTH_SHARE
    widths = [[int(share * one * size) + FREE_NEURONS for one in shape] for shape in each]
    return [(max(first, rows), *others) for first, *others in widths]
