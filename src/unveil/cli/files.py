"""Files that a command writes: nothing is overwritten without --force, which is found out before anything is asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from unveil.outcome import BadInput, DiskFull

Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there already.")]


def require_fresh(out: Path | None, force: bool, *suffixes: str, option: str = "--out") -> None:
    """Check where a result is to go.

    Args:
        out: The file, or None if there is to be none.
        force: Whether a file that is there may be overwritten.
        suffixes: How its name may end.
        option: What the command line calls it.

    Raises:
        BadInput: Another suffix, no such folder, or something is there already.
    """
    if out is None:
        return
    if out.suffix.lower() not in suffixes:
        expected = ", ".join(suffixes[:-1]) + " or " * (len(suffixes) > 1) + suffixes[-1]
        raise BadInput(f"{option} must end in {expected}; got {out}")
    if not out.parent.is_dir():
        raise BadInput(f"{option} {out}: there is no folder {out.parent}")
    refuse_existing([out], force)


def require_writable(file: Path) -> None:
    """Find out before anything is asked that a file cannot be written: what is found would be lost.

    Raises:
        BadInput: A folder has that name, or the file, or the folder that it is to be in, may not be written.
    """
    if file.is_dir():
        raise BadInput(f"{file} is a folder; name a file")
    place = file if file.exists() else file.parent
    if place.exists() and not os.access(place, os.W_OK):
        raise BadInput(f"{place} may not be written; name a file elsewhere, or change its permissions")


def require_fresh_page(page: Path, force: bool, subject: str | None = None) -> None:
    """Check where a page and the files beside it are to go.

    A page that was written about the same model may be written anew, so that an audit that ended early can go on.

    Args:
        page: The page.
        force: Whether files that are there may be overwritten.
        subject: The model's name; None where it is not known yet.

    Raises:
        BadInput: Something else is there already.
    """
    from unveil.audit.page import wrote

    for each in (page, page.with_suffix(".json")):
        require_writable(each)
    if force or wrote(page, subject):
        return
    if subject is not None and wrote(page):
        raise BadInput(f"{page} tells of another model; name another --report, or pass --force to overwrite it")
    beside = [path for path in page.parent.glob("*.npz") if path.name.startswith(f"{page.stem}.")]
    refuse_existing([page, page.with_suffix(".json"), *sorted(beside)], force)


def refuse_existing(files: list[Path], force: bool) -> None:
    """Refuse to overwrite.

    Raises:
        BadInput: One of the files is there, and `force` is not given; or it cannot be written.
    """
    for file in files:
        require_writable(file)
    there = next((file for file in files if file.exists()), None)
    if there is not None and not force:
        raise BadInput(f"{there} is there already; name another file, or pass --force to overwrite it")


def keep(out: Path, write: Callable[[Path], object]) -> None:
    """Write what was found to `out`; where that fails, to the folder for temporary files, so that it is kept.

    Raises:
        DiskFull: The disk is full; the text says where the result is now, if anywhere.
        BadInput: `out` could not be written for another reason, and the same.
        OSError: That reason, where the result is nowhere.
    """
    try:
        write(out)
    except (DiskFull, OSError) as failed:
        spare = Path(tempfile.mkdtemp(prefix="unveil-")) / out.name
        try:
            write(spare)
        except (DiskFull, OSError):
            raise failed from None
        kept = f"What was found is kept in {spare}"
        if isinstance(failed, DiskFull):
            raise DiskFull(f"{failed}. {kept}") from None
        raise BadInput(f"{out} cannot be written: {failed.strerror or failed}. {kept}") from None
