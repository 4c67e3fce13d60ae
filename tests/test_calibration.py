"""What row_span states, held against exact truth in random trials; benchmarks/calibration.py runs many more."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration import once, summary
from unveil.testing import Answered, known_model

TRIALS, FIRST = 16, 7_000


@pytest.mark.slow
def test_stated_accuracies_hold_in_random_trials() -> None:
    records = [once("span", seed, 60) for seed in range(FIRST, FIRST + TRIALS)]
    rows = summary("span", records)
    assert rows["tracebacks"] == 0, [r for r in records if r["outcome"] == "traceback"]
    assert rows["not ended"] == 0, [r for r in records if r["outcome"] == "endless"]
    assert rows["counted otherwise than stated"] == 0
    exceeds, complete = rows["complete, error above the stated one"]
    assert complete >= 0.3 * TRIALS
    # One in a hundred may: of sixteen, more than three have a chance of one in a thousand.
    assert exceeds <= 3, rows["seeds"]
    assert rows["by two times; by ten"][1] <= 1
    assert rows["false full rank"][0] == 0
    assert rows["stated over true error, median; 90 %"][0] <= 5


def test_a_trial_that_states_too_little_is_seen() -> None:
    record = once("span", FIRST, 60)
    assert "outcome" in record
    stated_too_little = record | {"outcome": "complete", "stated": 1e-9, "error": 1e-8, "missed_at": 0.5}
    rows = summary("span", [stated_too_little, record | {"outcome": "traceback"}])
    assert rows["complete, error above the stated one"] == [1, 1]
    assert rows["complete, a direction missed that matters at over 1 %"] == 1
    assert rows["tracebacks"] == 1


def test_what_a_softmax_hides_is_not_counted_as_missed(rng: np.random.Generator) -> None:
    from benchmarks.calibration import Trial, run_span

    model = known_model((6, 3), rng=rng)
    record = run_span(Trial(0, model, Answered(model, form="probabilities")))
    assert record["true_rank"] == record["rank"] == 2
    assert record["missed_at"] == 0
