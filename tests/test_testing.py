"""unveil.testing: the truth that attacks are held against is itself right."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.outcome import BadInput
from unveil.testing import ACTIVATION_FUNCTIONS, Answered, known_model


@pytest.mark.parametrize("activation", sorted(ACTIVATION_FUNCTIONS))
def test_gradients_are_those_of_central_differences(activation: str, rng: np.random.Generator) -> None:
    model = known_model((6, 5, 4, 3), activation, rng=rng)
    x, step = rng.standard_normal((20, 6)), 1e-6
    ahead = np.stack([model(x + step * e) - model(x - step * e) for e in np.eye(6)], axis=2) / (2 * step)
    # A breakpoint within a step of one of the points would show as an error of order one in that point alone.
    error = np.abs(ahead - model.gradients(x)).max(axis=(1, 2))
    assert np.quantile(error, 0.9) < 1e-7


def test_rows_span_all_gradients_and_leave_out_neurons_of_no_effect(rng: np.random.Generator) -> None:
    model = known_model((9, 4, 5, 2), "tanh", rng=rng)
    model.weights[1][0][:, 2] = 0.0
    gradients = model.gradients(rng.standard_normal((100, 9))).reshape(-1, 9)
    assert model.rows.shape == (3, 9)
    assert np.abs(gradients - gradients @ model.rows.T @ model.rows).max() < 1e-13


def test_answers_come_in_the_form_asked_for_and_are_counted(rng: np.random.Generator) -> None:
    model = known_model((4, 3, 3), rng=rng)
    x = rng.standard_normal((50, 4))
    rounded = Answered(model, decimals=3)
    np.testing.assert_allclose(rounded(x) * 1000, np.round(model(x) * 1000), atol=1e-9)
    assert rounded.counted == {"questions": 50, "batches": 1}
    np.testing.assert_allclose(Answered(model, form="probabilities")(x).sum(axis=1), 1, atol=1e-12)
    assert (Answered(model, form="labels")(x) == model(x).argmax(axis=1)).all()
    brief = Answered(model, kind="bfloat16")(x).astype(np.float64)
    assert np.abs(brief / model(x) - 1).max() <= 2**-8
    flipped = Answered(model, flips=1.0, rng=rng)(x)
    assert 0 < np.abs(flipped / model(x) - 1).max() <= 2 * np.finfo(float).eps


def test_bad_sizes_and_names_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(BadInput, match="sizes"):
        known_model((4,), rng=rng)
    with pytest.raises(BadInput, match="no activation"):
        known_model((4, 1), "tahn", rng=rng)
