"""A progress bar that reads the ledger: the verbs need not know that anybody watches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from unveil.blackbox.ledger import Ledger


@contextmanager
def ledger_progress(ledger: Ledger, title: str, expected: float | None, noun: str = "questions") -> Iterator[None]:
    """Show the questions asked (or runs made, as `noun` says) since now, on stderr; the line disappears at the end."""
    with _LedgerProgress(ledger, title, expected, noun):
        yield


class _LedgerProgress(Progress):
    def __init__(self, ledger: Ledger, title: str, expected: float | None, noun: str) -> None:
        self._ledger, self._before = ledger, ledger.asked
        self._task: TaskID | None = None
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn(f"{{task.completed:,.0f}} {noun}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self.add_task(title, total=expected)

    def get_renderables(self) -> Iterable[RenderableType]:
        # Called by rich's own clock, ten times a second.
        if self._task is not None:
            self.update(self._task, completed=self._ledger.asked - self._before)
        yield from super().get_renderables()
