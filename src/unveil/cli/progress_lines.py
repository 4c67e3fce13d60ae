"""Progress where there is no terminal: a line now and then, for logs and whoever waits on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unveil.blackbox.ledger import Ledger

EVERY = 15.0
"""Seconds between two lines."""


@contextmanager
def ledger_lines(
    ledger: Ledger, title: str, expected: float | None, noun: str, say: Callable[[str], None], every: float = EVERY
) -> Iterator[None]:
    """Say how many questions were asked (or runs made, as `noun` says) every so many seconds, first after that long."""
    ended, before, start = threading.Event(), ledger.asked, time.monotonic()

    def tell() -> None:
        while not ended.wait(every):
            asked, spent = ledger.asked - before, time.monotonic() - start
            most = "" if expected is None else f" of at most {expected:,.0f}"
            say(f"{title}: {asked:,}{most} {noun} after {spent:,.0f} s{_left(asked, spent, expected)}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _left(asked: int, spent: float, expected: float | None) -> str:
    """How long the rest takes at most, if it goes on like that."""
    if expected is None or not 0 < asked < expected:
        return ""
    left = spent * (expected - asked) / asked
    return (
        f"; all of them would take {left / 60:,.0f} minutes more"
        if left > 90
        else f"; all would take {left:,.0f} s more"
    )
