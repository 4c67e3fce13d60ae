"""stopping: Ctrl-C, or a time, ends a reading as a budget would: what was found by then is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from unveil.blackbox.ledger import Ledger
from unveil.outcome import Stopped

# Ctrl-C ends the reading, then the fit of what was read, then the command.
STAGES_TO_INTERRUPT = 2
# Of the time that is given, what a reading may take: the rest is for the fit of what was read.
READING_TIME_SHARE = 0.7
# What still computes once the time is over is told again after this share of it, and never sooner than so many seconds.
REMINDER_SHARE, LEAST_REMINDER_SECONDS = 0.1, 5.0
NEVER_ZERO = 1e-3  # seconds; a timer of zero would not ring


@contextmanager
def stopping(ledger: Ledger, seconds: float | None, note: Callable[[str], None]) -> Iterator[None]:
    """While this lasts Ctrl-C, and a share of so many seconds, let no more be asked in this stage; a second Ctrl-C, and
    the end of that time, raise `Stopped` wherever the work is, and nothing is asked any more.

    Args:
        ledger: Of the model that is asked; a stage that ends gives back to the next what it was not allowed.
        seconds: After which everything ends; None: never.
        note: Told what happens.
    """
    pressed, rung = 0, False

    def end_reading(why: str) -> None:
        note(f"Note: {why}: no more is read; what was read is fitted and told. Ctrl-C ends that too.")
        ledger.stop(why)

    def end(why: str) -> None:
        if not ledger.closed:
            note(f"Note: {why}: nothing more is asked or fitted; what was found by then is told.")
        ledger.stop(why, close=True)
        raise Stopped(f"nothing more is done: {why}")

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > STAGES_TO_INTERRUPT or ledger.closed:
            raise KeyboardInterrupt
        (end_reading if pressed < STAGES_TO_INTERRUPT else end)("interrupted")

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal rung
        assert seconds is not None
        if rung or ledger.closed:
            end(ledger.stopped if ledger.closed else f"{seconds:g} seconds have passed")
        rung = True
        signal.setitimer(signal.ITIMER_REAL, max((1 - READING_TIME_SHARE) * seconds, NEVER_ZERO), reminder)
        if not pressed:
            end_reading(f"{READING_TIME_SHARE * seconds:g} of {seconds:g} seconds have passed")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    alarm = None
    if seconds is not None:
        reminder = max(LEAST_REMINDER_SECONDS, REMINDER_SHARE * seconds)
        alarm = signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(READING_TIME_SHARE * seconds, NEVER_ZERO), reminder)
    try:
        yield
    finally:
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, before)
