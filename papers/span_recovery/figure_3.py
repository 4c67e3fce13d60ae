"""Figure 3: digits under noise that the network cannot see, with its prediction and probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unveil.blackbox.row_span import row_span
from unveil.blackbox.sources import as_oracle

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(size: int = 8, deviation: float = 1.0) -> list[tuple[np.ndarray, np.ndarray, int, int, float, float]]:
    """(image, noisy image, prediction before and after, probability before and after) of so many digits."""
    oracle = as_oracle(EXAMPLES / "digits.onnx")
    rng = np.random.default_rng(0)
    span = row_span(oracle, rng=rng, accuracy=1e-5)
    with np.load(EXAMPLES / "digits.npz") as file:
        images = file["images"].reshape(-1, oracle.n)[:: max(1, 40 // size)][:size]
    noisy = oracle.nearest(images + deviation * span.complement(rng.standard_normal(images.shape)))
    before, after = oracle(oracle.nearest(images)), oracle(noisy)

    def sure(z: np.ndarray) -> np.ndarray:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray((p / p.sum(axis=1, keepdims=True)).max(axis=1))

    return list(zip(images, noisy, before.argmax(1), after.argmax(1), sure(before), sure(after), strict=True))


def tell(table: list[tuple[np.ndarray, np.ndarray, int, int, float, float]]) -> str:
    """Predictions and probabilities, before and after."""
    return "\n".join(f"says {b} at {p:.1%}, under noise {a} at {q:.1%}" for _, _, b, a, p, q in table)


def draw(table: list[tuple[np.ndarray, np.ndarray, int, int, float, float]]) -> object:
    """The digits above, the same under noise below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(table), figsize=(1.5 * len(table), 3.4), squeeze=False)
    for (image, noisy, before, after, p, q), top, bottom in zip(table, *axes, strict=True):
        for axis, picture, label, chance in ((top, image, before, p), (bottom, noisy, after, q)):
            axis.imshow(picture.reshape(28, 28), cmap="gray")
            axis.set_title(f"Pred {label} at {chance:.0%}", fontsize=8)
            axis.axis("off")
    figure.tight_layout()
    return figure
