"""Who stops a reading has what was read, and a copy fitted behind it."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.blackbox.ledger import Ledger
from unveil.cli.stopping import _ThreadAlarm, stopping
from unveil.identification.reading_share import reading_allowance
from unveil.outcome import Stopped


def test_an_interruption_ends_a_stage_and_the_third_one_everything() -> None:
    ledger, said = Ledger(), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with stopping(ledger, None, said.append):
        ledger.charge(1)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(uv.BudgetExceeded):
            ledger.charge(1)
        ledger.budget = None
        ledger.charge(1)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        ledger.budget = None
        with pytest.raises(uv.BudgetExceeded):
            ledger.charge(1)
        assert ledger.asked == 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("alarms", [True, False])
def test_the_end_of_the_time_ends_a_loop_that_asks_nothing(alarms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, began = Ledger(), time.monotonic()
    alarm, pressed, said = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT), list[str]()
    if not alarms:  # as on Windows
        monkeypatch.setattr("unveil.cli.stopping._Alarm", _ThreadAlarm)

    def busy() -> None:
        with stopping(ledger, 0.2, said.append):
            while time.monotonic() - began < 20:
                pass

    with pytest.raises(Stopped):
        busy()
    assert time.monotonic() - began < 5
    assert ledger.left == 0
    assert len(said) == 2
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert signal.getsignal(signal.SIGINT) is pressed
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_time_is_kept_where_rounding_inside_makes_steps_everywhere() -> None:
    # In float16 inside and float32 outside: nothing is straight, and a reading and its fit take minutes.
    half = [
        (w.astype(np.float16), b.astype(np.float16))
        for w, b in random_weights((10, 16, 8, 1), np.random.default_rng(1), bias=0.3)
    ]

    def answer(x: np.ndarray) -> np.ndarray:
        h = x.astype(np.float16)
        for i, (w, b) in enumerate(half):
            h = (h @ w.T + b).astype(np.float16)
            h = np.maximum(h, 0) if i < 2 else h
        return h.astype(np.float32)

    oracle, began = uv.as_oracle(answer, 10), time.monotonic()
    with stopping(oracle.ledger, 4, lambda _: None):
        found = uv.identify(oracle, rng=0)
    assert time.monotonic() - began < 4 + 30
    assert found.outcome is not uv.Outcome.complete
    assert oracle.ledger.stopped
    told = " ".join(found.why)
    assert "inf" not in told.split()
    assert np.isfinite(found.residual) or "Off by" not in told


def test_what_was_read_until_a_stop_is_fitted() -> None:
    truth = relu_net(random_weights((6, 5, 4, 2), np.random.default_rng(0), bias=0.5))
    stopped = False
    ledgers: list[Ledger] = []

    def answer(x: np.ndarray) -> np.ndarray:
        nonlocal stopped
        if ledgers and ledgers[0].asked > 500 and not stopped:
            stopped = True
            ledgers[0].budget = ledgers[0].asked
        return truth(x)

    oracle = uv.as_oracle(answer, 6)
    ledgers.append(oracle.ledger)
    found = uv.identify(oracle, rng=np.random.default_rng(1))
    assert stopped
    assert found.network is not None
    assert found.outcome in (uv.Outcome.approximate, uv.Outcome.complete)
    assert found.stats["surrogate"]["neurons"][0]["read"] > 0
    assert any("larger budget" in why for why in found.why)


def test_a_reading_without_a_budget_ends() -> None:
    asked: list[float] = []
    ledgers: list[Ledger] = []

    def answer(x: np.ndarray) -> np.ndarray:
        asked.extend(ledger.left for ledger in ledgers)
        return np.maximum(x[:, :1], 0) - np.maximum(-x[:, 1:2] - 0.3, 0)

    oracle = uv.as_oracle(answer, 2)
    ledgers.append(oracle.ledger)
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.complete
    assert min(asked) < reading_allowance(oracle)
    assert oracle.ledger.budget is None
