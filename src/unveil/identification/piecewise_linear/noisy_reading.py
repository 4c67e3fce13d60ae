"""NoisyReading: a ReLU network from answers with few digits: coarse rows, then least squares on fresh answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import after
from unveil.identification.fitting.surrogate import stand_in
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_membership import LayerFound
from unveil.identification.piecewise_linear.noisy_deeper_layers import Onward
from unveil.identification.piecewise_linear.noisy_layer import missing, read_coarse
from unveil.identification.piecewise_linear.unmixing import unmix
from unveil.whitebox.network import Network

Weights = list[tuple[np.ndarray, np.ndarray]]

# Answers per parameter in the fit; several answers to one question tell less than as many to several.
RATIO, RATIO_OF_MANY = 2.0, 3.0
# Largest share of the answers' spread that the coarse rows may leave for the fit to be tried.
PROMISING = 0.3
# Bent hyperplanes per straight one from which on there seems to be another layer behind, and the share that must then
# not be left.
DEEPER = 0.2
CONVINCING = 0.03
# Lines in a bounded region are short: so many times more of them.
BOUNDED = 3
# Neurons of the first layer up to which bends behind it are followed one by one.
FOLLOWED = 128
# Share of what the budget leaves that may be spent on layers behind the first.
PATIENCE = 0.8
# Answers that layers which could not be read are trained on, and those kept for the check of the result.
TRAINING = 40_000
RESERVE = 1000
# Times that neurons which only the fit has uncovered are looked for.
ROUNDS = 3


@dataclass
class NoisyReading:
    """One run: what was read so far can be looked at whenever the budget ends.

    Attributes:
        ask: Answers questions.
        oracle: Where fresh points for the fit come from.
        noise: How exact answers are.
        rng: Draws everything.
        stats: Gets `layers`.
        why: Gets what was chosen on the way.
        weights: Layers read and left behind.
        found: The layer being read.
        network: The best whole network, if there is any.
        points: Where the fits asked, and the answers.
        whole: Whether `network` was read to its end, not trained.
    """

    ask: Ask
    oracle: Oracle
    noise: Rounding
    rng: np.random.Generator
    stats: dict[str, Any]
    why: list[str]
    weights: Weights = field(default_factory=list)
    found: LayerFound | None = None
    network: Network | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    whole: bool = False

    def read(self, frame: Frame, *, far: float, most_layers: int, most_lines: int) -> Network | None:
        """All layers; None if nothing came out. `whole` says whether all of it was read."""
        behind = 0
        for _ in range(most_layers):
            self.found = found = LayerFound.nothing(frame, self.oracle.m)
            again = False
            for _attempt in range(ROUNDS):
                lines = most_lines if frame.free else BOUNDED * most_lines
                read_coarse(self.ask, frame, self.noise, self.rng, far=far, most_lines=lines, sure=again, found=found)
                if not len(found.rows):
                    break
                self.whole, again = self._last(frame, found)
                if not again:
                    break
            self.stats["layers"].append({"neurons": len(found.rows), "lines": found.lines, "bent": len(found.bent_at)})
            if self.whole or not len(found.rows) or len(found.rows) > frame.d:
                break
            layer = unmix(frame, found, turned(frame, found))
            self.weights.append(layer)
            self.found = None
            if missing(self.ask, frame, found, self.noise, self.rng):
                depth = len(self.weights)
                self.why.append(f"Neurons of layer {depth} are missing: what lies behind it cannot be read.")
                break
            behind += 1
            frame = frame.after(*layer)
            if not frame.reachable():
                self.why.append("No input makes all the neurons read so far active, which the next layer needs.")
                break
            if frame.d <= FOLLOWED:
                behind = self._onward(frame, most_layers)
                break
        if not self.whole:
            self._trained(behind)
        return self.network

    def _onward(self, frame: Frame, most_layers: int) -> int:
        """The layers behind the first, as far as they can be read; how many there are then."""
        onward = Onward(self.ask, frame, self.noise, self.rng)
        ledger = self.oracle.ledger
        # Something must be left for a network to look at.
        last = ledger.asked + PATIENCE * ledger.left
        try:
            onward.read(most_layers - 1, lambda: ledger.asked > last)
        finally:
            self.weights += onward.layers
            for w, _ in onward.layers:
                self.stats["layers"].append({"neurons": len(w), "lines": len(onward.lines), "bent": len(onward.bends)})
        if onward.partial:
            self.why.append(f"{len(onward.partial)} neurons of layer {len(self.weights) + 1} were read, but not all.")
        if onward.ends:
            self.whole = self._ended()
        return len(self.weights)

    def _ended(self) -> bool:
        """The output layer behind those read, and a fit of all of them; whether that explains the answers.

        Queries: `RATIO` per parameter, fewer with several outputs.
        """
        k, m = len(self.weights[-1][1]), self.oracle.m
        x, y = self._fresh(10 * k + 200)
        F = np.concatenate([after(self.weights, x), np.ones((len(x), 1))], axis=1)
        out = np.linalg.lstsq(F, y, rcond=None)[0]
        network = Network.from_weights([*self.weights, (out[:k].T, out[k])], shape=self.oracle.shape)
        x, y = self._fresh(int((RATIO if m == 1 else RATIO_OF_MANY) * parameters(network) / m))
        sigma = float(np.sqrt((self.noise.at(x) ** 2).mean()))
        self.network, rms = fit(network, x, y, noise=0.1 * sigma)
        return rms < CONVINCING * float(y.std())

    def _trained(self, behind: int) -> None:
        """A network to look at: this many layers as they were read, the rest trained on answers.

        Queries: `TRAINING`, or what the budget leaves of it.
        """
        read = self.weights[: max(1, behind)]
        if not read and self.found is not None and len(self.found.rows):
            # Sides are not known: both of every neuron.
            rows, bias = self.found.rows, self.found.bias
            read = [(np.concatenate([rows, -rows]), np.concatenate([bias, -bias]))]
        left = int(min(TRAINING, self.oracle.ledger.left - RESERVE))
        if not read or left < RESERVE:
            return
        x = self.oracle.sample(left, self.rng)
        if self.oracle.within is None:
            # From the middle outwards: nobody knows where its users ask.
            x = self.oracle.nearest(x * self.rng.choice([0.1, 0.3, 1.0], size=(left, 1)))
        self.network = stand_in(read, x, self.oracle(x), self.rng)
        self.why.append(
            f"Behind layer {len(read)} a network was trained on {left:,} answers. It stands in for what was not read, "
            "and its weights say nothing."
        )

    def _last(self, frame: Frame, found: LayerFound) -> tuple[bool, bool]:
        """This layer as the last hidden one: whether that fits, and whether neurons seem to be missing.

        Queries: `RATIO` per parameter, fewer with several outputs.
        """
        rows, bias = turned(frame, found)
        k, m = len(rows), self.oracle.m
        more = k > frame.d
        x, y = self._fresh(4 * (k + 1 + more * frame.d) + 100)
        h = x
        for w, b in self.weights:
            h = np.maximum(h @ w.T + b, 0)
        # With more neurons than coordinates sides are at will: relu(-z) = relu(z) - z, and a linear part is left over.
        z = [np.maximum(h @ rows.T + bias, 0), np.ones((len(h), 1)), *([h] if more else [])]
        F = np.concatenate(z, axis=1)
        fitting = np.arange(len(x)) % 4 > 0
        out = np.linalg.lstsq(F[fitting], y[fitting], rcond=None)[0]
        spread = float(np.sqrt(((y - y.mean(axis=0)) ** 2).mean()))
        left = float(np.sqrt(((F @ out - y)[~fitting] ** 2).mean())) / max(spread, 1e-300)
        deeper = len(found.bent_at) > DEEPER * k + 2
        if left > (CONVINCING if deeper else PROMISING):
            return False, False
        ending = [(rows, bias), (out[:k].T, out[k])]
        if more:
            ending = with_linear_part(ending, out[k + 1 :].T)
            self.why.append(
                f"Sides of {k} neurons on {frame.d} coordinates are at will; a linear part makes up for it."
            )
        network = Network.from_weights([*self.weights, *ending], shape=self.oracle.shape)
        x, y = self._fresh(int((RATIO if m == 1 else RATIO_OF_MANY) * parameters(network) / m))
        sigma = float(np.sqrt((self.noise.at(x) ** 2).mean()))
        self.network, rms = fit(network, x, y, noise=0.1 * sigma)
        if self.weights or more:
            return True, more and rms > 3 * sigma
        if rms > 3 * sigma:
            # The others have taken over half of what a weak neuron does, and its other half is the same on both sides.
            other, less = fit(_weakest_turned(self.network), x, y, noise=0.1 * sigma)
            if less < 0.5 * rms:
                self.network, rms = other, less
        # The rows are as good now as what is left allows.
        layer, last = self.network.layers[0], self.network.layers[-1]
        size = np.linalg.norm(layer.weights, axis=1)
        found.rows, found.bias = layer.weights / size[:, None], layer.bias / size
        found.jump = (last.weights * size).T
        found.error = np.maximum(rms / np.maximum(np.linalg.norm(found.jump, axis=1), 1e-300), 1e-7)
        return True, rms > 3 * sigma and k < frame.d

    def _fresh(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """This many points and answers; those asked before serve again."""
        empty = np.empty((0, self.oracle.n)), np.empty((0, self.oracle.m))
        x, y = empty if self.points is None else self.points
        more = self.oracle.sample(max(0, count - len(x)), self.rng)
        self.points = np.concatenate([x, more]), np.concatenate([y, self.ask(more)])
        return self.points


def turned(frame: Frame, found: LayerFound) -> tuple[np.ndarray, np.ndarray]:
    """Rows and biases with positive sides active: on the other side derivatives have no part along the row."""
    rows = found.rows
    if len(rows) > frame.d:
        return rows, found.bias
    z = frame.values(found.at) @ rows.T + found.bias
    part = (np.linalg.pinv(rows).T @ found.slope.transpose(0, 2, 1)) ** 2
    part = part.sum(axis=2)
    up, down = z > 0, z < 0
    mean_up = (part * up).sum(axis=0) / np.maximum(up.sum(axis=0), 1)
    mean_down = (part * down).sum(axis=0) / np.maximum(down.sum(axis=0), 1)
    side = np.where(mean_up >= mean_down, 1.0, -1.0)
    return rows * side[:, None], found.bias * side


def _weakest_turned(network: Network) -> Network:
    """The same network with the weakest neuron of its only hidden layer active on the other side."""
    first, last = network.layers
    i = int((np.linalg.norm(first.weights, axis=1) * np.linalg.norm(last.weights, axis=0)).argmin())
    side = np.where(np.arange(first.neurons) == i, -1.0, 1.0)
    weights = [(first.weights * side[:, None], first.bias * side), (last.weights, last.bias)]
    return Network.from_weights(weights, shape=network.shape)


def with_linear_part(layers: Weights, slope: Float[np.ndarray, "m d"]) -> Weights:
    """Two layers that also carry `slope @ h`, as relu(v h) - relu(-v h) for each direction v in it."""
    hidden, last = layers
    u, s, vt = np.linalg.svd(slope, full_matrices=False)
    keep = s > 1e-7 * max(float(s.max(initial=0)), 1e-300)
    v, size = vt[keep], (u * s)[:, keep]
    rows, bias = np.concatenate([hidden[0], v, -v]), np.concatenate([hidden[1], np.zeros(2 * len(v))])
    return [(rows, bias), (np.concatenate([last[0], size, -size], axis=1), last[1])]
