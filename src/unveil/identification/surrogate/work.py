"""What a fit costs in numbers multiplied, told from weights and answers before it is paid for; no clock tells it."""

from __future__ import annotations

from dataclasses import dataclass

from unveil.identification.fitting.least_squares import parameters
from unveil.whitebox.network import Network

# What one answer takes of a product with the Jacobian and its transpose, in multiplications of large matrices: per
# weight, per input that is read, and per neuron, whose layers are narrow and take passes of their own.
WEIGHT, INPUT, NEURON = 2.0, 100.0, 400.0
# The same of one stochastic gradient, forwards and back: per weight, and per neuron.
GRADIENT, GRADIENT_PER_NEURON = 3.0, 200.0


def of_product(network: Network) -> float:
    """Numbers multiplied per answer by one product with the Jacobian of a network and its transpose."""
    return WEIGHT * parameters(network) + INPUT * network.n + NEURON * sum(network.widths)


def of_gradient(network: Network) -> float:
    """Numbers multiplied per answer by one gradient of all weights of a network."""
    return of_gradient_of(parameters(network), sum(network.widths))


def of_gradient_of(weights: int, neurons: int) -> float:
    """The same, told by how many weights and neurons there are."""
    return GRADIENT * weights + GRADIENT_PER_NEURON * neurons


def of_trial(network: Network, answers: int) -> float:
    """Numbers multiplied until it is told whether a network can do without a neuron: what others can take over of it
    is a least-squares fit of its widest layer."""
    widest = max(layer.neurons for layer in network.layers)
    return answers * (float(widest) ** 2 + 2 * parameters(network))


@dataclass
class Work:
    """What a run may multiply, and has multiplied.

    Attributes:
        most: Numbers multiplied at most.
        done: Those so far.
    """

    most: float
    done: float = 0.0

    @property
    def left(self) -> float:
        """Numbers that may still be multiplied."""
        return max(0.0, self.most - self.done)

    def times(self, each: float, wanted: int, share: float = 1.0) -> int:
        """How often something can be done that costs `each`, of as often as is `wanted`, for a share of what is
        left."""
        return int(min(wanted, share * self.left / max(each, 1.0)))

    def pay(self, cost: float) -> bool:
        """Whether so much is left; then it is spent."""
        if cost > self.left:
            return False
        self.done += cost
        return True
