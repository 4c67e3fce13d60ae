"""The options of an audit that say how its findings are told, and when it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unveil.audit.severity import Severity, Tariff
from unveil.cli.files import keep, refuse_existing
from unveil.outcome import BadInput

if TYPE_CHECKING:
    from unveil.audit.page import Page

_LEVELS = [each.name for each in (Severity.low, Severity.medium, Severity.high)]


@dataclass(frozen=True)
class Telling:
    """Where findings go besides the page, what asking costs, and what an audit is compared with."""

    page: Annotated[Path, typer.Option("--report", metavar="FILE", help="The page to write.")] = Path("audit.html")
    pdf: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Print the page as well; needs Chromium.", show_default=False),
    ] = None
    sarif: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the findings as SARIF 2.1.0 as well.", show_default=False),
    ] = None
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="SEVERITY", help="End with code 7 if a finding is low, medium or high.", show_default=False
        ),
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The .json of an earlier audit: say what changed.", show_default=False),
    ] = None
    rate: Annotated[float, typer.Option(help="Questions a second that one caller may ask; for costs.")] = 10.0
    price: Annotated[float | None, typer.Option(help="What 1,000 questions cost; for costs.", show_default=False)] = (
        None
    )

    @property
    def tariff(self) -> Tariff:
        """What asking costs.

        Raises:
            BadInput: A rate that is not positive, or a price below zero.
        """
        if not 0 < self.rate < float("inf"):
            raise BadInput(f"--rate must be a positive number of questions a second; got {self.rate:g}")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise BadInput(f"--price must be what 1,000 questions cost, 0 or more; got {self.price:g}")
        return Tariff(self.rate, self.price)

    @property
    def least(self) -> Severity | None:
        """The least severity that fails.

        Raises:
            BadInput: There is none of that name.
        """
        if self.fail_on is None:
            return None
        if self.fail_on not in _LEVELS:
            raise BadInput(f"--fail-on must be low, medium or high; got {self.fail_on!r}")
        return Severity[self.fail_on]

    def require_fresh(self, force: bool) -> None:
        """Check, before anything is asked, where files beside the page are to go.

        Raises:
            BadInput: A wrong suffix, no such folder, or something is there already; no Chromium to print with.
        """
        for option, file, suffixes in (("--sarif", self.sarif, (".sarif", ".json")), ("--pdf", self.pdf, (".pdf",))):
            if file is None:
                continue
            if file.suffix.lower() not in suffixes:
                raise BadInput(f"{option} must end in {' or '.join(suffixes)}; got {file}")
            if not file.parent.is_dir():
                raise BadInput(f"{option} {file}: there is no folder {file.parent}")
            if file.resolve() in (self.page.resolve(), self.page.with_suffix(".json").resolve()):
                raise BadInput(f"{option} {file} would overwrite what --report writes; name another file")
            refuse_existing([file], force)
        if self.pdf is not None:
            from unveil.audit.printing import browser

            browser()

    def write(self, made: Page) -> list[Path]:
        """Write what was asked for besides the page; the page is there already."""
        written = []
        if self.sarif is not None:
            import json

            from unveil.audit.sarif import sarif
            from unveil.writing import write_text

            text = json.dumps(sarif(made), indent=1, allow_nan=False) + "\n"
            keep(self.sarif, lambda path: write_text(path, text))
            written.append(self.sarif)
        if self.pdf is not None:
            from unveil.audit.printing import print_page

            print_page(self.page, self.pdf)
            written.append(self.pdf)
        return written
