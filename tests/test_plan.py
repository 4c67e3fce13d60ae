"""Questions chosen in advance: the same span as asking one by one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from unveil.blackbox.plan import conclude, load_plan, plan
from unveil.outcome import BadInput, Outcome


def model(seed: int, n: int, k: int, m: int, dtype: type = np.float64):
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal((k, n)) / np.sqrt(n)).astype(dtype)
    b = (rng.standard_normal((2 * k, k)) / np.sqrt(k)).astype(dtype)
    w = rng.standard_normal((m, 2 * k)).astype(dtype)

    def answer(x: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(x.astype(dtype) @ a.T, 0) @ b.T, 0) @ w.T

    return answer, a.astype(np.float64)


@pytest.mark.parametrize(("precision", "dtype", "reached"), [(64, np.float64, 1e-7), (32, np.float32, 2e-2)])
def test_a_plan_answered_elsewhere_gives_the_span(tmp_path: Path, precision: int, dtype: type, reached: float) -> None:
    answer, a = model(3, n=60, k=7, m=2, dtype=dtype)
    plan(60, 10, rng=np.random.default_rng(0), precision=precision).save(tmp_path / "questions.npz")
    asked = load_plan(tmp_path / "questions.npz")
    span = conclude(asked, answer(np.load(tmp_path / "questions.npz")["questions"]))
    assert span.outcome is Outcome.complete
    assert span.rank == 7
    assert span.distance(a) <= reached
    assert span.queries == len(asked.questions) == 21 * 65


def test_every_question_is_legal() -> None:
    asked = plan(30, 3, rng=np.random.default_rng(1), within=(0.0, 1.0), grid=1 / 255, precision=64)
    assert asked.questions.min() >= 0
    assert asked.questions.max() <= 1
    assert np.allclose(np.round(asked.questions * 255), asked.questions * 255, atol=1e-9)


def test_a_bound_that_was_too_low_is_said() -> None:
    answer, _ = model(5, n=60, k=30, m=1)
    asked = plan(60, 4, rng=np.random.default_rng(0), precision=64)
    with pytest.raises(BadInput, match="at most 4"):
        conclude(asked, answer(asked.questions))


def test_noise_above_the_signal_is_not_nothing(rng: np.random.Generator) -> None:
    outcomes = []
    for _ in range(10):
        asked = plan(20, 2, rng=rng, within=(-1.0, 1.0), precision=64)
        slope = 1e-4 * rng.standard_normal((20, 1))
        y = asked.questions @ slope + 0.01 * rng.standard_normal((len(asked.questions), 1))
        with contextlib.suppress(BadInput):  # noise may look like more directions than the plan allowed
            outcomes.append(conclude(asked, y).outcome)
    assert Outcome.nothing_to_find not in outcomes
    assert Outcome.complete not in outcomes


def test_a_model_that_sees_nothing() -> None:
    asked = plan(20, 2, rng=np.random.default_rng(0))
    assert conclude(asked, np.ones((len(asked.questions), 3))).outcome is Outcome.nothing_to_find


def test_answers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    asked = plan(20, 2, rng=np.random.default_rng(0))
    with pytest.raises(BadInput, match="as many rows"):
        conclude(asked, np.ones((7, 1)))
    with pytest.raises(BadInput, match="labels"):
        conclude(asked, np.ones((len(asked.questions), 1), dtype=int))
    (tmp_path / "no.npz").write_text("no plan")
    with pytest.raises(BadInput, match="not a plan"):
        load_plan(tmp_path / "no.npz")


def test_steps_across_breakpoints_add_no_directions() -> None:
    for seed in range(3):
        rng = np.random.default_rng([seed, 9])
        asked = plan(200, rank_at_most=20, rng=rng)
        a, w = rng.standard_normal((20 - 5 * seed, 200)) / 14, rng.standard_normal((20 - 5 * seed, 5))
        single = [v.astype(np.float32) for v in (asked.questions, a, w)]
        span = conclude(asked, np.maximum(single[0] @ single[1].T, 0) @ single[2])
        assert span.rank == len(a)
        assert span.distance(a) <= span.accuracy
