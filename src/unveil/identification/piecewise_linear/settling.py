"""Settling: a network held against fresh answers, and fitted again to more of them from where it is wrong."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding
from unveil.identification.fitting.design import LARGE, around, finish_around
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.leverage import telling_most
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.closing import STEADY
from unveil.identification.piecewise_linear.error_limits import FLOOR, few_digits, passes, strange, strays
from unveil.identification.validation import FEWEST_IN_BOX, Validation, how_many, validate
from unveil.outcome import BudgetExceeded
from unveil.whitebox.network import Network

# Of answers with few digits all of a neuron that few inputs switch may be lost further out: usual points must tell, so
# many fresh points in all.
POINTS_OF_FEW = FEWEST_IN_BOX
# A fit to more answers from where a network is wrong is made again where it leaves so much of its errors at most.
REFIT_ERROR_SHARE = 0.7
# So often in any case where answers have few digits, up to so many parameters: of 30-16-8-1 such a fit takes a quarter
# of the questions of another reading, and what few answers tell is told by several of them.
REFIT_ROUNDS, REFIT_PARAMETERS = 3, 3000


@dataclass(frozen=True)
class Settling:
    """What holding a network against fresh answers and fitting it again takes.

    Attributes:
        ask: Asks; of exact answers those at hand.
        fresh: Answers with few digits that the network was fitted to; none where it was fitted to no such.
        noise: How exact answers are.
        accept: Of `CriticalPoints`.
        rng: Draws all points.
        first: The first layer that a fit to few digits moves.
    """

    ask: Asked
    fresh: Asked
    noise: Rounding
    accept: float
    rng: np.random.Generator
    first: int = 0

    @property
    def oracle(self) -> Oracle:
        """What is asked."""
        return self.ask.oracle

    def checked(self, network: Network) -> Validation:
        """Errors at fresh points. Queries: `how_many`, `POINTS_OF_FEW` at least of few digits."""
        fewest = min(POINTS_OF_FEW, self.oracle.ledger.left) if few_digits(self.noise.relative) else 0
        count = max(how_many(self.oracle, network), int(fewest))
        return validate(network, self.oracle, count, self.rng, FLOOR * self.noise.relative, noise=self.noise)

    def settled(self, network: Network) -> tuple[Network, Validation]:
        """With numbers that few answers tell settled by answers like those, as long as that makes the errors smaller;
        of few digits and not many parameters `REFIT_ROUNDS` times in any case, or until it passes.

        Queries: those of `checked`, and in each further round of it and of `_around`
        """
        seen = self.checked(network)
        off, most = strays(network, self.fresh, self.noise)
        best, least = (network, seen), seen.residual * max(seen.roundings, most, 1.0)
        rounds = 1 if self.noise.exact or parameters(network) > REFIT_PARAMETERS else REFIT_ROUNDS
        several = rounds > 1
        with suppress(BudgetExceeded):
            while self._doubtful(seen, off):
                trial = self._around(network, np.concatenate([seen.wrong, off]))
                if trial is network:
                    break
                network, seen, rounds = trial, self.checked(trial), rounds - 1
                off, most = strays(network, self.fresh, self.noise)
                left, had = seen.residual * max(seen.roundings, most, 1.0), least
                if left < least or (self._passed(seen) and not self._passed(best[1])):
                    best, least = (network, seen), left
                # What is off by nothing gains nothing, however often it is fitted again.
                if left >= REFIT_ERROR_SHARE * had and rounds <= 0:
                    break
                if several and self._passed(best[1]):
                    break
        return best

    def _doubtful(self, seen: Validation, off: Float[np.ndarray, "S n"]) -> bool:
        """Whether errors at fresh answers, or at those that were fitted, are more than rounding."""
        if self.noise.exact:
            return strange(seen, self.noise)
        if seen.residual > FLOOR * self.noise.relative * seen.tail:
            return False  # most answers are off by more than rounding: that is no matter of a few that tell little
        return len(off) > 0 or not self._passed(seen)

    def _passed(self, seen: Validation) -> bool:
        return passes(self.accept, seen, self.noise, self.oracle.resolution)

    def _around(self, network: Network, wrong: Float[np.ndarray, "W n"]) -> Network:
        """A fit to answers from around these points as well; with few digits of all, and of more usual points.

        Queries: those of `finish_around`; with few digits a parameter's worth and 3 more for each behind a large first
        layer
        """
        if self.noise.exact:
            return finish_around(self.ask, network, wrong, self.rng) if len(wrong) else network
        if not self.fresh.x or not len(wrong):
            return network
        x = self.oracle.nearest(around(network, self.oracle, wrong, self.rng))
        moved = parameters(Network(network.layers[self.first :]))
        usual = telling_most(
            network,
            lambda count: self.oracle.sample(count, self.rng),
            moved // network.m,
            self.rng,
            self.noise.expected_counts,
            self.first,
        )
        few = x, self.ask(x)
        self.fresh.keep(np.concatenate([x, usual]), np.concatenate([few[1], self.ask(usual)]))
        # To these alone first: among all others they would count as few that are far off.
        for first, (x, y) in ((max(self.first, int(parameters(network) > LARGE)), few), (self.first, self.fresh.all())):
            counts, sigma = self.noise.counts(x, y)
            network = fit(network, x, y, noise=STEADY * sigma, first=first, counts=counts).network
        return network
