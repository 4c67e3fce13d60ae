"""CriticalPoints: read a ReLU network off the points where its answers bend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import COARSE, Rounding, in_steps, reach, rounding, rows_for
from unveil.identification.detect import curved
from unveil.identification.fitting.affine_part import affine_part, sides_at_will, taken_in, with_slopes
from unveil.identification.fitting.design import finish
from unveil.identification.fitting.output_layer import Asked, in_proportion
from unveil.identification.fitting.pruning import without_silent, without_spare, without_twins
from unveil.identification.method import Identification, Method
from unveil.identification.piecewise_linear.error_limits import DROWNS, FLOOR, HIDES, allowed, passes, strange
from unveil.identification.piecewise_linear.far_places import EACH, confirm
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.open_parameters import unknown_weights, with_switches, with_weights
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading import read_inputs
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.settling import Settling
from unveil.identification.piecewise_linear.whole_fit import leaner, settled_by_fresh
from unveil.identification.validation import Validation
from unveil.outcome import BudgetExceeded, Outcome
from unveil.whitebox.network import Network

# How far lines reach, in typical inputs: where answers are exact, so far over their relative rounding, between bounds;
# where answers are noisy: what is further bends elsewhere, too, and biases drown out there.
EXACT_REACH, REACHES, FAR_WHEN_NOISY = 1e-5, (50, 1e5), 20.0
# Chords along which answers that stand still over short steps may jump; points that the last digits must suit.
JUMP_CHORDS, LAST_DIGIT_POINTS = 16, 2000
OF_ONE_VALUE = (
    "Of a function of one value only breakpoints and slopes show: neurons that are active on their other sides, or in "
    "more layers, may compute the same."
)
KEPT_SHARE = 0.15  # share of the budget that is kept back at most, to look for the rows read at fresh places
# Noisy answers are read again as long as so many times what was asked is left: less is better spent on a fit.
ENOUGH_LEFT = 2.0


@dataclass(frozen=True)
class CriticalPoints(Method):
    """Read a ReLU network layer by layer, near one query per parameter.

    A reading that fails its check is made again with another part of the generator, as long as the budget lasts, up to
    `attempts` times; the best one is returned.

    Attributes:
        far: How far lines reach from the first points, in units of a typical input; None follows the precision of the
            answers.
        most_layers: Hidden layers after which it gives up.
        most_lines: Lines per layer.
        accept: Largest error on fresh points of a complete result, in units of the square root of the answers'
            relative rounding; of a hundred times it where answers are noisy, of a thousandth where these are coarse.
        attempts: Readings at most.
        most_neurons: A first layer of more is given up as `not_resolved`; None where any number is read.

    Source: the idea of following breakpoints: Milli et al., arXiv:1807.05122; Carlini, Jagielski, Mironov, CRYPTO 2020
    (arXiv:2003.04884); straight against bent hyperplanes: Rolnick, Kording, arXiv:1910.00744. The grouping of
    Jacobians, the confirmation in one place each and the frames of positive orthants are ours.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.standard_normal((2, 5)), np.zeros(2)), (np.ones((1, 2)), np.zeros(1))]
        >>> truth = uv.Network.from_weights(layers)
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=5), uv.CriticalPoints(), rng=rng)
        >>> found.outcome.name, found.network.widths
        ('complete', (2, 1))
    """

    far: float | None = None
    most_layers: int = 8
    most_lines: int = 24
    accept: float = 10.0
    attempts: int = 3
    most_neurons: int | None = None

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        rng = generator(rng)
        start = oracle.ledger.asked
        best, again = _Attempt(self, oracle, rng).run()
        attempt = 1
        while again and attempt < self.attempts and self._worth(best, oracle, oracle.ledger.asked - start):
            attempt += 1
            found, again = _Attempt(self, oracle, rng, again=True).run()
            best = min(best, found, key=_rank)
        text = f"{attempt} readings were made, with other lines each; this is the best of them."
        why, stats = (*best.why, text) if attempt > 1 else best.why, {**best.stats, "attempts": attempt}
        return dataclasses.replace(best, queries=oracle.ledger.asked - start, why=why, stats=stats)

    def _worth(self, best: Identification, oracle: Oracle, asked: int) -> bool:
        """Whether another reading is worth what is left: of noisy answers a fit makes more of little."""
        noisy = float(best.stats.get("relative_rounding", 0.0)) >= COARSE
        return not noisy or oracle.ledger.left > ENOUGH_LEFT * asked

    def judge(self, network: Network, oracle: Oracle, *, rng: Randomness) -> tuple[Outcome, Validation, str]:
        """Hold a network that came from elsewhere against fresh answers as one that was read.

        Returns:
            The outcome, what the check saw, and what there is to say; empty if nothing.

        Queries: those of `rounding` and `Settling.checked`
        """
        attempt = _Attempt(self, oracle, generator(rng))
        settling = attempt._settling(attempt._rounding())
        seen = settling.checked(network)
        return attempt._judged(seen, settling.noise), seen, " ".join(attempt.why)

    def settle(self, network: Network, told: Asked, *, rng: Randomness) -> tuple[Network, Outcome, Validation, str]:
        """The same of a network that was fitted to these answers, with a fit to more of them from where it is wrong.

        Returns:
            The network as it is then, and what `judge` returns.

        Queries: those of `rounding` and `Settling.settled`
        """
        attempt = _Attempt(self, told.oracle, generator(rng))
        settling = attempt._settling(attempt._rounding(), told)
        network, seen = settling.settled(network)
        return network, attempt._judged(seen, settling.noise), seen, " ".join(attempt.why)


def _rank(found: Identification) -> tuple[bool, float]:
    return found.outcome is not Outcome.complete, found.residual


class _Attempt:
    """One reading and its check."""

    def __init__(
        self, method: CriticalPoints, oracle: Oracle, rng: np.random.Generator, *, again: bool = False
    ) -> None:
        self.method, self.oracle, self.rng, self.again = method, oracle, rng, again
        self.ask = Asked(oracle)
        self.start = oracle.ledger.asked
        self.why: list[str] = []
        self.stats: dict[str, Any] = {"layers": []}
        self.reading: Reading | None = None

    def run(self) -> tuple[Identification, bool]:
        """The reading, and whether another one is worth its queries."""
        try:
            frame = Frame.of_input(self.oracle.n, self.oracle.within)
            noise = self._rounding()
            self.stats["relative_rounding"] = noise.relative
            if curved(self.oracle, noise, self.rng):
                self.why.append("The answers curve everywhere: this is no piecewise-linear network.")
                return self._end(None, Outcome.check_failed, np.inf), False
            chords = frame.sample(JUMP_CHORDS, self.rng) if noise.still else None
            if chords is not None and in_steps(self.ask, chords, self.rng, self.oracle.widest):
                if self.oracle.grid is not None:
                    self.why.append(
                        "Inputs lie on a grid: no slope shows between two; leave out grid= where others may."
                    )
                    return self._end(None, Outcome.not_resolved, np.inf), False
                self.why.append("The answers jump and stay the same in between: no slope tells of weights.")
                return self._end(None, Outcome.answers_in_steps, np.inf), False
            network, whole = self._read(frame, noise)
            if self._too_wide():
                self.why.append(f"More than {self.method.most_neurons} neurons were met in the first layer.")
                return self._end(None, Outcome.not_resolved, np.inf), False
            if network is None:
                self._looked_again(frame, noise, None, Outcome.check_failed)
                return self._end(None, Outcome.check_failed, np.inf), False
            network = self._sloped(network, noise)
            network = network if self.reading is None else leaner(self.reading, self.ask, network, noise)
            network, seen = self._settling(noise).settled(network)
        except BudgetExceeded:
            network = self._partial("The budget ended")
            if self.reading is not None:
                self._looked_again(frame, noise, network, Outcome.budget_ended)
            return self._end(network, Outcome.budget_ended, np.inf), False
        self.stats["errors"] = {"usual": seen.usual, "further": seen.further, "tail": seen.tail, "points": seen.points}
        outcome = self._open(network, noise, self._contradicted(self._judged(seen, noise)))
        if outcome is Outcome.check_failed:
            self._kept(network)
        self._looked_again(frame, noise, network, outcome)
        # Many layers are read from all that lines show until it says nothing more: others would show much the same.
        many = self.reading is not None and self.reading.many is not None
        again = whole and not many and (outcome is not Outcome.complete or strange(seen, noise))
        return self._end(network, outcome, seen.residual), again

    def _rounding(self) -> Rounding:
        """How exact answers are."""
        oracle = self.oracle
        rows = Frame.of_input(oracle.n, oracle.within).sample(rows_for(oracle.resolution), self.rng)
        return rounding(self.ask, rows, oracle.resolution, self.rng, oracle.uneven, bounded=oracle.within is not None)

    def _settling(self, noise: Rounding, told: Asked | None = None) -> Settling:
        """How a network is held against fresh answers. `told`: those it was fitted to."""
        fresh = told or (Asked(self.oracle) if self.reading is None else self.reading.fresh)
        first = 0 if self.reading is None else self.reading.settled_layers
        return Settling(self.ask, fresh, noise, self.method.accept, self.rng, first)

    def _read(self, frame: Frame, noise: Rounding) -> tuple[Network | None, bool]:
        """A network, and whether it was read to its end: then what is wrong with it is a matter of which lines. What it
        takes to look for the rows read once more is kept back meanwhile."""
        usual = float(np.clip(EXACT_REACH / noise.relative, *REACHES)) if noise.exact else FAR_WHEN_NOISY
        usual = REACHES[1] if frame.d == 1 else usual  # nothing that bends further out bends elsewhere, too
        large, each = (self.ask.unkept, None), self.method
        probe = Probe(self.ask, noise, self.rng, large, self.ask.most_at_once, self.again)
        setup = Setup(probe, self.ask, self._far(frame, usual), each.most_lines, each.most_layers)
        ledger = self.oracle.ledger
        budget = allowed = ledger.budget  # a stop may set another one meanwhile, which counts then
        try:
            for self.reading in read_inputs(setup, frame):
                if self._too_wide():
                    break
                if budget is not None and (first := self.reading.first) is not None and ledger.budget == allowed:
                    ledger.budget = allowed = budget - min(EACH * len(first), int(KEPT_SHARE * (budget - self.start)))
        except (ArithmeticError, ValueError, IndexError) as error:  # LinAlgError is a ValueError
            # What was read before stays.
            return self._partial(f"The reading broke down ({error})"), True
        finally:
            ledger.budget = budget
        assert self.reading is not None
        whole = (self.reading.whole or noise.exact) and not self.reading.spent
        if not whole:
            self._partial("It ended")
        return self.reading.network, whole

    def _too_wide(self) -> bool:
        """Whether the first layer has more neurons than are to be read."""
        first, most = None if self.reading is None else self.reading.first, self.method.most_neurons
        return first is not None and most is not None and len(first) > most

    def _judged(self, seen: Validation, noise: Rounding) -> Outcome:
        """Whether errors on fresh points are the rounding's, everywhere or as far out as a user would draw inputs."""
        most, steady = allowed(self.method.accept, seen, noise, self.oracle.resolution)
        if passes(self.method.accept, seen, noise, self.oracle.resolution):
            if seen.residual <= HIDES:
                return Outcome.complete
            self.why.append(
                f"Errors at fresh points are the answers' own, but up to {seen.residual:.1g} of their spread: what is "
                "less than that is not seen among them."
            )
            return Outcome.approximate if seen.residual <= DROWNS else Outcome.not_resolved
        if seen.residual <= most and steady:
            self.why.append(
                f"Errors at usual points are small, but up to {seen.roundings:.0f} times the answers' rounding: a "
                "neuron of little weight is missing, or one is wrong."
            )
            return Outcome.approximate
        if seen.usual <= most and (steady or seen.usual <= FLOOR * noise.relative):
            self.why.append(
                f"Checked at {seen.points} fresh points: right where a user would ask (to {seen.usual:.1g} of the "
                f"answers' spread), wrong further out or where neurons hardly ever switch (by {seen.further:.1g})."
            )
            return Outcome.approximate
        self.why.append(f"Checked at {seen.points} fresh points: wrong by up to {seen.residual:.1g} of their spread.")
        return Outcome.check_failed

    def _contradicted(self, outcome: Outcome) -> Outcome:
        """The outcome, or `approximate` where the last answers of a reading along few directions were not explained."""
        wrong = len(self.reading.wrong) if self.reading is not None and self.reading.directions else 0
        if outcome is not Outcome.complete or not wrong:
            return outcome
        self.why.append(f"At {wrong} fresh points that were to settle the last digits the network is wrong.")
        return Outcome.approximate

    def _open(self, network: Network, noise: Rounding, outcome: Outcome) -> Outcome:
        """The outcome, or `approximate` where an affine part hides numbers that answers tell: behind the first layer.

        A neuron that is active nearly everywhere leaves one. It hides the signs of all others of its layer, but where
        it is the only one and several outputs tell (`but_for_one`), and where it switches: answers further out differ.
        So does one of a first layer whose sides noisy answers have not told (`sides_at_will`). A weight that is exactly
        zero was never measured: nothing can where its two neurons are active together nowhere (`unknown_weights`).
        Behind a single value sides are open whatever is asked: any of them compute the same, which is only said.
        """
        hidden = network.layers[:-1]
        one = [layer.inputs == 1 for layer in hidden]
        at_will = not noise.exact and sides_at_will(network.layers) and not one[0]
        carried = any(part and not single for part, single in zip(affine_part(network)[1:], one[1:], strict=True))
        if outcome is Outcome.complete and (at_will or carried) and self.oracle.within is None:
            self.why.append("Signs and weights that this affine part stands for are open.")
            return Outcome.approximate
        if outcome is Outcome.complete and any(one):
            self.why.append(OF_ONE_VALUE)
        if outcome is Outcome.complete:
            told, resolved = unknown_weights(network, self.oracle, noise)
            self.why += told
            return outcome if resolved else Outcome.approximate
        return outcome

    def _end(self, network: Network | None, outcome: Outcome, error: float) -> Identification:
        asked, reading, why, stats = self.oracle.ledger.asked - self.start, self.reading, tuple(self.why), self.stats
        if reading is not None:
            why, stats = (*reading.why, *why), {**stats, "layers": list(reading.told)}
            if reading.directions:
                stats["directions"] = reading.directions
            if reading.errors is not None:
                stats["deviations"] = reading.errors
        return Identification(network, outcome, asked, error, "critical points", why, stats)

    def _partial(self, ending: str) -> Network | None:
        """The best network so far; else the rows read are told apart from it, in `stats["rows_read"]`, up to sign."""
        reading = self.reading
        if reading is None:
            return None
        self.stats["layers_read"] = list(reading.layers)
        if reading.partial is not None:
            self.stats["rows_partial"] = reading.partial
        rows = reading.first_layer
        if rows is not None and len(rows[0]):
            self.stats["rows_read"] = rows
            self.why.append(f"{ending} after {len(rows[0])} neurons of the first layer were read.")
        elif reading.directions:
            p, n = reading.directions, self.oracle.n
            self.why.append(f"{ending} before what was read along {p} directions of the inputs was read along all {n}.")
        return reading.network

    def _kept(self, network: Network) -> None:
        """Tell what lies before the last hidden layer of a network of which some neuron is missing or wrong."""
        if len(network.layers) < 2:
            return
        *hidden, last = [(layer.dense(), layer.bias) for layer in network.layers[:-1]]
        parts = affine_part(network)
        layers = [each for each, part in zip(hidden, np.cumsum(parts[:-1]), strict=True) if not part]
        if layers and "layers_read" not in self.stats:
            self.stats |= {"layers_read": layers} if any(parts) else {"layers_read": layers, "rows_partial": last}

    def _sloped(self, network: Network, noise: Rounding) -> Network:
        """With the affine part of the last hidden layer as its neurons' second slope, where it is that; none twice."""

        def error(trial: Network) -> float:
            return self.ask.error(trial, noise.size)

        network = without_silent(network, error, FLOOR * noise.relative)
        network = without_twins(network, self.ask.all()[0], error, FLOOR * noise.relative)
        # Of a network that was read along few directions most answers say nothing about its weights along the others.
        if noise.exact and not (self.reading and self.reading.directions):
            x, y = self.ask.all()
            pool = self.oracle.sample(LAST_DIGIT_POINTS, self.rng)

            def settled(trial: Network) -> Network:
                return finish(self.ask, trial, noise.size, pool, self.rng)

            network = taken_in(network, error, settled, FLOOR * noise.relative)
            weight = in_proportion(x, noise.size)
            network = without_spare(network, x, y, weight, error, settled, FLOOR * noise.relative)
            network = self._switching(network, noise)
        found = with_slopes(network, error, FLOOR * noise.relative, partial(settled_by_fresh, self.reading, noise))
        if found is not network and (phi := found.layers[-2].activation).name != "relu":
            self.why.append(
                f"The affine part behind the last hidden layer is its neurons' own: {found.layers[-2].neurons} neurons "
                f"that slope on both sides, {phi.name if not phi.rows else 'each by a factor of its own'}."
            )
        return found

    def _switching(self, network: Network, noise: Rounding) -> Network:
        """With weights and biases that no answer asked so far tells, or told that such biases are open."""
        if self.oracle.within is not None or len(network.layers) < 3 or any(affine_part(network)[:-1]):
            return network
        trial = with_weights(network, self.oracle, noise, self.rng)
        network, left = with_switches(trial, self.oracle, self.ask.all()[0], noise.size, self.rng)
        if left:
            met = "neurons of the last hidden layer are active wherever it was asked, far out too"
            self.why.append(f"{left} {met}: their biases are not told apart from the output's.")
        return network

    def _looked_again(self, frame: Frame, noise: Rounding, network: Network | None, outcome: Outcome) -> None:
        """Tell which rows of the first layer are read, and leave out those that are not met at fresh places. Of a
        network that answers as the model does all are; of one that does not, each needs evidence of its own."""
        reading = self.reading
        if network is not None and any(parts := affine_part(network)):
            self.stats["affine_part"] = parts
            told = ", ".join(f"{rows} of layer {depth}" for depth, rows in enumerate(parts, 1) if rows)
            self.why.append(f"Rows that carry an affine part, and tell of no single neuron of the model: {told}.")
        first = None if reading is None or outcome in (Outcome.complete, Outcome.approximate) else reading.first
        if first is None or not len(first.rows) or first.rows.shape[1] != self.oracle.n:
            return
        probe, left = Probe(self.ask, noise, self.rng), self.oracle.ledger.left
        there = confirm(probe, frame, first.straight, first.every, left).there
        self.stats["rows_read"] = first.rows[there], first.bias[there]
        layers = self.stats.get("layers_read")
        if layers and len(layers[0][0]) == len(there):
            self.stats["layers_read"] = layers = [(layers[0][0][there], layers[0][1][there]), *layers[1:]]
            if len(layers) > 1:
                layers[1] = (layers[1][0][:, there], layers[1][1])
            elif "rows_partial" in self.stats:
                partial, offsets = self.stats["rows_partial"]
                self.stats["rows_partial"] = partial[:, there], offsets
        if not there.all():
            self.why.append(
                f"{int((~there).sum())} of {len(there)} hyperplanes taken for neurons of the first layer were not met "
                "again at fresh places and are left out of the rows read."
            )

    def _far(self, frame: Frame, usual: float) -> float:
        """How far lines may reach."""
        far, widest = self.method.far or usual, self.oracle.widest
        return reach(self.ask, frame.sample(4, self.rng), widest, far) if np.isfinite(widest) else far
