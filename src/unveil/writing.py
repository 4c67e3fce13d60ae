"""written: the one way in which files are made. Whole or not at all, and readable by the owner only."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from unveil.outcome import DiskFull

# No room, no room for this user, a file too large for the disk, a failing disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def written(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes the name `path` only once it is whole.

    It is made beside its place, with mode 0600 (weights and answers are private), and renamed in the end. Where
    writing fails, or is interrupted, whatever had that name before is untouched and nothing else is left.

    Raises:
        DiskFull: There was no room for all of it.
        OSError: The folder is missing or may not be written to, or `path` is a folder; the error names `path`.
    """
    # A link stays a link: what it points to is replaced.
    place = Path(path).resolve()
    beside = ""
    try:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        handle, beside = tempfile.mkstemp(prefix=f".{place.name[:100]}.", dir=place.parent)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
        beside = ""
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"{path} could not be written: {os.strerror(error.errno)}; make room and run the same command again. "
                "What had that name before is untouched"
            ) from error
        if error.filename in (None, beside) or str(error.filename).startswith(str(place.parent / f".{place.name}")):
            error.filename = str(path)
        raise
    finally:
        if beside:
            with suppress(OSError):
                os.unlink(beside)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; raises as `written`."""
    with written(path) as file:
        file.write(text.encode())
