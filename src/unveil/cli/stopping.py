"""stopping: Ctrl-C, or a time, ends a reading as a budget would: what was found by then is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from unveil.blackbox.ledger import Ledger

# Ctrl-C ends the reading, then the fit of what was read, then the command.
STAGES_TO_INTERRUPT = 2


@contextmanager
def stopping(ledger: Ledger, seconds: float | None, note: Callable[[str], None]) -> Iterator[None]:
    """While this lasts Ctrl-C, and once so many seconds have passed, no further question is allowed in this stage.

    Args:
        ledger: Of the model that is asked; a stage that ends gives back to the next what it was not allowed.
        seconds: After which the reading ends; None: never.
        note: Told what happens.
    """
    pressed = 0

    def end(why: str) -> None:
        note(f"Note: {why}: no more is read; what was read is fitted and told. Ctrl-C ends that too.")
        ledger.budget = ledger.asked

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > STAGES_TO_INTERRUPT:
            raise KeyboardInterrupt
        end("interrupted")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    timer = threading.Timer(seconds, end, [f"{seconds:g} seconds have passed"]) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        signal.signal(signal.SIGINT, before)
