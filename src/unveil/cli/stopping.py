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
    reminder = max(LEAST_REMINDER_SECONDS, REMINDER_SHARE * (seconds or 0.0))

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
        assert alarm is not None
        if rung or ledger.closed:
            end(ledger.stopped if ledger.closed else f"{seconds:g} seconds have passed")
        rung = True
        alarm.set((1 - READING_TIME_SHARE) * seconds, reminder)
        if not pressed:
            end_reading(f"{READING_TIME_SHARE * seconds:g} of {seconds:g} seconds have passed")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    alarm = None
    try:
        if seconds is not None:
            alarm = (_Alarm if hasattr(signal, "SIGALRM") else _ThreadAlarm)(on_alarm)
            alarm.set(READING_TIME_SHARE * seconds, reminder)
        yield
    finally:
        if alarm is not None:
            alarm.end()
        signal.signal(signal.SIGINT, before)


class _Alarm:
    """Calls a function in the main thread after some seconds, and again after some more, until it ends."""

    def __init__(self, call: Callable[[int, FrameType | None], None]) -> None:
        self.before = signal.signal(signal.SIGALRM, call)

    def set(self, seconds: float, again: float) -> None:
        """Ring after so many seconds, and every so many from then on."""
        signal.setitimer(signal.ITIMER_REAL, max(seconds, NEVER_ZERO), again)

    def end(self) -> None:
        """Ring no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


class _ThreadAlarm:
    """The same where the system has no alarms: a thread interrupts the main one, as Ctrl-C does."""

    def __init__(self, call: Callable[[int, FrameType | None], None]) -> None:
        self.call, self.due, self.timer = call, False, threading.Timer(0, lambda: None)
        self.pressed = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        rung, self.due = self.due, False
        if rung:
            self.call(number, frame)
        elif callable(self.pressed):
            self.pressed(number, frame)

    def set(self, seconds: float, again: float) -> None:
        """Ring after so many seconds, and every so many from then on."""
        self.timer.cancel()
        self.timer = threading.Timer(seconds, self._ring, [again])
        self.timer.daemon = True
        self.timer.start()

    def _ring(self, again: float) -> None:
        self.due = True
        self.set(again, again)
        signal.raise_signal(signal.SIGINT)

    def end(self) -> None:
        """Ring no more."""
        self.timer.cancel()
