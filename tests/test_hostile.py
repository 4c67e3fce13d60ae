"""Hostile and odd input ends in an answer or in one of our errors; benchmarks/fuzz.py tries many more."""

from __future__ import annotations

import pytest

from tests.hostile import CASES, run

SEEDS = 12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_an_answer_or_a_clear_error(name, tmp_path):
    ended = []
    for seed in range(SEEDS):
        (tmp_path / str(seed)).mkdir()
        try:
            ended.append(run(name, seed, tmp_path / str(seed)))
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}")
            raise
    assert set(ended) <= {"answered", "refused"}


def test_no_more_questions_than_the_budget_when_an_answer_is_late_or_never_comes():
    """What hangs in this process cannot be ended from within it; behind a wire, `timeout` does (test_http.py)."""
    import numpy as np

    import unveil as uv

    calls = []

    def interrupted(x):
        calls.append(len(x))
        if len(calls) > 3:  # the first look asks three batches
            raise KeyboardInterrupt
        return x

    oracle = uv.as_oracle(interrupted, shape=2, budget=20)
    with pytest.raises(KeyboardInterrupt):
        oracle(np.zeros((5, 2)))
    assert oracle.ledger.asked == oracle.ledger.sent == 13
