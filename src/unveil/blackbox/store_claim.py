"""One process at a time asks with a file of answers: a second one is refused before it pays for what the first asks."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

from unveil.outcome import StoreError

_LOCK = threading.RLock()  # the garbage collector may release one claim while another is made
# The claims of this process: how many objects share each, and the open file that holds it.
_CLAIMS: dict[Path, tuple[int, int]] = {}


def claim(path: Path, holder: Any) -> None:
    """Keep other processes from asking with this file until `holder` is gone, or this process is, however it ends.

    Args:
        path: The file of answers. A file beside it, `.lock` added to its name, is what is claimed and stays behind:
            closing the file itself once more would undo SQLite's own locks.
        holder: Several of one process share the claim.

    Raises:
        StoreError: Another process has it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system: SQLite still keeps the file whole
        return
    place = Path(path).resolve()
    with _LOCK:
        count, handle = _CLAIMS.get(place, (0, -1))
        if not count:
            try:
                handle = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                return  # a folder that may not be written to: opening the store says so
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                raise StoreError(
                    f"{path} is in use: another process asks with it, and nothing shall be paid for twice; wait until "
                    "that ends, or name another file"
                ) from None
        _CLAIMS[place] = (count + 1, handle)
    weakref.finalize(holder, _release, place)


def _release(place: Path) -> None:
    with _LOCK:
        count, handle = _CLAIMS.pop(place, (0, -1))
        if count > 1:
            _CLAIMS[place] = (count - 1, handle)
        elif count:
            os.close(handle)
