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
            most = "" if expected is None else f" of at most {expected:,.0f}"
            say(f"{title}: {ledger.asked - before:,}{most} {noun} after {time.monotonic() - start:,.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
