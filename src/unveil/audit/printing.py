"""The page on paper: printed as PDF by a Chromium that is there already."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from unveil.outcome import BadInput

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT = 120.0  # seconds


def browser() -> str:
    """A Chromium to print with: the one that UNVEIL_BROWSER names, or the first that is found.

    Raises:
        BadInput: There is none.
    """
    named = os.environ.get("UNVEIL_BROWSER")
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if found is None:
        raise BadInput(
            f"there is no {named or 'Chromium'} to print with; install Chromium, name one in UNVEIL_BROWSER, or print "
            "the page from any browser"
        )
    return found


def print_page(page: Path, pdf: Path) -> None:
    """Print a page; nothing is loaded and nothing runs on it.

    Raises:
        BadInput: The browser failed; `pdf` is then as it was.
    """
    with tempfile.TemporaryDirectory(prefix="unveil-") as folder:
        made = Path(folder, "page.pdf")
        words = [
            browser(), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-pdf-header-footer",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={Path(folder, 'profile')}", f"--print-to-pdf={made}", page.resolve().as_uri(),
        ]  # fmt: skip
        # Chromium refuses its sandbox to root; the page, which we wrote, runs no script.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            words.insert(1, "--no-sandbox")
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT, check=False)
        except subprocess.TimeoutExpired:
            raise BadInput(f"{words[0]} did not print {page} within {WAIT:g} s; print it from any browser") from None
        if done.returncode or not made.is_file():
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BadInput(f"{words[0]} could not print {page}: {said}")
        _move(made, pdf)


def _move(made: Path, pdf: Path) -> None:
    from unveil.writing import written

    with written(pdf) as file:
        file.write(made.read_bytes())
