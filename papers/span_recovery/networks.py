"""The paper's networks and its two algorithms as printed, for the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from papers.data import mnist_train

RANK = 1e-5  # the paper counts singular values above this share of the largest


def random_weights(sizes: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Gaussian weights of `sizes` and one output."""
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise((*sizes, 1))]


def gradients(weights: Sequence[np.ndarray], x: np.ndarray, biases: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Gradients of the first output of a ReLU network at N points, by hand: (N, n)."""
    masks, z = [], x
    for i, w in enumerate(weights[:-1]):
        z = z @ w.T + (0 if biases is None else biases[i])
        masks.append(z > 0)
        z = np.maximum(z, 0)
    back = np.repeat(weights[-1][:1], len(x), axis=0)
    for w, mask in zip(weights[-2::-1], masks[::-1], strict=True):
        back = (back * mask) @ w
    return back


def rank_curve(rows: np.ndarray, counts: Sequence[int]) -> list[int]:
    """Rank, by the paper's rule, of the first so many gradients."""
    ranks = []
    for count in counts:
        values = np.linalg.svd(rows[:count], compute_uv=False)
        ranks.append(int(np.sum(values > RANK * values[0])) if values[0] > 0 else 0)
    return ranks


def algorithm_1(
    f: Callable[[np.ndarray], np.ndarray], n: int, samples: int, rng: np.random.Generator, step: float = 1e-6
) -> np.ndarray:
    """Algorithm 1: gradients by finite differences at Gaussian points."""
    rows = []
    for _ in range(samples):
        g = rng.standard_normal(n)
        rows.append((f(g + step * np.eye(n)) - f(g[None])) / step)
    return np.array(rows)


def algorithm_2(
    label: Callable[[np.ndarray], np.ndarray],
    n: int,
    steps: int,
    rng: np.random.Generator,
    asked: Callable[[], int],
    draws: int = 60,
) -> tuple[np.ndarray, list[int]]:
    """Algorithm 2 as far as double precision allows: rows found, one a step; fewer once no point is found any more.

    With them comes what `asked` says after each: the questions it took.

    The proof's 2^-N underflows. Here it is 1e-3 for the perturbations; the point lies 1e-7 of its length above the
    threshold; crossings are bisected to the last digit. All questions are put to `(I - P_V) x`, as printed.
    """
    basis, counts = np.empty((0, n)), []

    def masked(x: np.ndarray) -> np.ndarray:
        return label(x - (x @ basis.T) @ basis)

    for _ in range(steps):
        vector = None
        for _ in range(draws):
            g = 4 * rng.standard_normal(n)
            if not masked(g[None])[0]:
                continue
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (low, middle) if masked(middle * g[None])[0] else (middle, high)
            length = float(np.linalg.norm(g))
            x = (high + 1e-7) * g
            u = 1e-3 * rng.standard_normal((n, n)) - g / length
            near, far = np.zeros(n), np.full(n, 1e-2 * length)
            if masked(x + far[:, None] * u).any():
                continue
            for _ in range(45):
                c = (near + far) / 2
                above = masked(x + c[:, None] * u).astype(bool)
                near, far = np.where(above, c, near), np.where(above, far, c)
            c = (near + far) / 2
            if not (c > 0).all():
                continue
            y = np.linalg.solve(u, 1 / c)
            y -= (y @ basis.T) @ basis
            vector = y / np.linalg.norm(y)
            break
        if vector is None:
            break
        basis = np.concatenate([basis, vector[None]])
        counts.append(asked())
    return basis, counts


def trained_weights(
    sizes: Sequence[int], seed: int, epochs: int = 6
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """A ReLU network trained on MNIST by cross-entropy: weights, biases, accuracy on its own images."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    given = mnist_train()
    x = torch.from_numpy(given.images.reshape(len(given.images), -1).astype(np.float32) / 255)
    y = torch.from_numpy(np.asarray(given.labels)).long()
    layers: list[torch.nn.Module] = []
    for a, b in pairwise((*sizes, 10)):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    dense = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in dense]
    return weights, [layer.bias.detach().double().numpy() for layer in dense], accuracy
