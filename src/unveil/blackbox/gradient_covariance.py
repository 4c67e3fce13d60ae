"""Mean outer product of the gradients, and how far it is known: from a surrogate, or from exact gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.surrogate import Surrogate

# Functions drawn from the surrogate, and points at which their gradients are compared with the expected ones.
DRAWS = 100
COMPARED_AT = 256
# Blocks of points that tell how far an average over all of them is known.
BLOCKS = 16
# Groups of rows left out in turn (rows of the same inputs together), and the 97.5 % quantile of Student's t with one
# degree of freedom less over that of the normal distribution: so much wider is an interval whose deviation came from
# so few groups.
GROUPS = 8
WIDER = 2.365 / 1.960


@dataclass(frozen=True)
class GradientCovariance:
    """What is known of the mean outer product of the gradients.

    Attributes:
        mean: The expected one.
        drawn: (S, n, n); possible ones, spread as far as it is not known.
        blind: What a direction may have as mean square derivative without the surrogate having noticed; the answers'
            variance that was missed in rows left out, per unit of the inputs' variance.
        drift: By how much the eigenvalues would go on growing with more rows, as those with fewer rows suggest.
        explained: Share of the variance of rows left out that the surrogate explains; NaN if gradients were given.
        missed: By how much each row's answer exceeded what was foretold without it; empty if gradients were given.
    """

    mean: Float[np.ndarray, "n n"]
    drawn: Float[np.ndarray, "S n n"]
    blind: float
    drift: Float[np.ndarray, " n"]
    explained: float
    missed: Float[np.ndarray, " N"]

    def intervals(self, confidence: float) -> Float[np.ndarray, "n 2"]:
        """Where each eigenvalue lies with this confidence; the largest first."""
        drawn = np.maximum(np.linalg.eigvalsh(self.drawn)[:, ::-1], 0.0)
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        values = np.linalg.eigvalsh(self.mean)[::-1]
        low = np.minimum(low, values) - self.blind + np.minimum(self.drift, 0.0)
        high = np.maximum(high, values) + self.blind + np.maximum(self.drift, 0.0)
        return np.stack([np.maximum(low, 0.0), high], axis=1)


def from_surrogate(
    surrogate: Surrogate,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, " N"],
    points: Float[np.ndarray, "M n"],
    rng: np.random.Generator,
) -> GradientCovariance:
    """The mean over `points` of the surrogate's gradients' outer products.

    Functions drawn from the surrogate tell the doubt it knows of; groups of rows left out in turn (the form of the
    surrogate kept) the doubt that it does not, where the answers are no such function as it takes them for.

    Args:
        surrogate: Fitted to x and y.
        x: Inputs.
        y: Answers.
        points: Where gradients matter, drawn as the inputs are.
        rng: Draws functions and groups.

    Source: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3 (groups left out).
    """
    gradients = surrogate.gradient(points)
    mean = outer(gradients)
    few = points[:COMPARED_AT]
    here = outer(surrogate.gradient(few))
    drawn = np.array([outer(gradient) - here for _, gradient in surrogate.draw(few, DRAWS, rng)])
    # Rows of the same inputs go together: else each would be foretold by its copy, whatever it says.
    same = np.unique(x, axis=0, return_inverse=True)[1].ravel()
    group = (rng.permutation(same.max() + 1) % min(GROUPS, same.max() + 1))[same]
    less, missed = [], np.empty(len(x))
    for part in range(group.max() + 1):
        rest = surrogate.refitted(x[group != part], y[group != part])
        missed[group == part] = y[group == part] - rest.predict(x[group == part])[0]
        less.append(outer(rest.gradient(few)) - here)
    groups = np.array(less)
    weight = rng.standard_normal((DRAWS, len(groups))) * WIDER * np.sqrt((len(groups) - 1) / len(groups))
    drawn += np.tensordot(weight, groups - groups.mean(axis=0), axes=1)
    # The average is over so many points only: blocks of them tell how far it is known.
    blocks = np.array([outer(part) for part in np.array_split(gradients, BLOCKS) if len(part)]) - mean
    drawn += np.tensordot(rng.standard_normal((DRAWS, len(blocks))) / len(blocks), blocks, axes=1)
    values = np.linalg.eigvalsh(mean)
    drift = (len(groups) - 1) * (values - np.linalg.eigvalsh(mean + groups).mean(axis=0))[::-1]
    error = float(np.mean(missed**2))
    return GradientCovariance(
        mean=mean,
        drawn=mean + drawn,
        blind=error / float(x.var(axis=0).mean()),
        drift=drift,
        explained=1 - error / float(y.var()),
        missed=missed,
    )


def from_gradients(gradients: Float[np.ndarray, "N n"], rng: np.random.Generator) -> GradientCovariance:
    """The mean outer product of given gradients; the doubt is that of points drawn again from them (bootstrap).

    Source: Constantine, Active Subspaces, SIAM 2015, algorithm 3.1 and section 3.3.
    """
    count, n = gradients.shape
    weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    drawn = np.array([(gradients * weight[:, None]).T @ gradients for weight in weights])
    return GradientCovariance(outer(gradients), drawn, 0.0, np.zeros(n), float("nan"), np.empty(0))


def outer(gradients: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "n n"]:
    """Mean outer product."""
    return np.asarray(gradients.T @ gradients / len(gradients))
