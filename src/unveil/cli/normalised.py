"""Normalised: --mean and --deviation for networks in files, as `Asking` has them for models that are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unveil.cli.option_texts import by_channel, numbers
from unveil.cli.options import Deviation, Mean
from unveil.outcome import BadInput

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Normalised:
    """What is done to inputs before a network in a file gets them."""

    mean: Mean = None
    deviation: Deviation = None

    def units(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from each input and what it is divided by, (n,) each.

        Raises:
            BadInput: A number is no number, or there are as many as there are no channels.
        """
        import numpy as np

        found = []
        for text, option, usual in ((self.mean, "--mean", 0.0), (self.deviation, "--deviation", 1.0)):
            values = [usual] if text is None else numbers(text, option)
            if len(values) not in (1, shape[0]):
                raise BadInput(f"{option} has {len(values)} numbers; inputs of shape {shape} have {shape[0]} channels")
            found.append(np.broadcast_to(by_channel(values, shape), shape).ravel().astype(np.float64))
        return found[0], found[1]
