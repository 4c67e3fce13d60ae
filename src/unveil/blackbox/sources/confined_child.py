"""The child process of `Confined`: limits itself, loads the file, and answers until its input ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.answers import first_line
from unveil.blackbox.sources.choose import from_file
from unveil.blackbox.sources.confined import ASKED, packed, told_of, unpacked
from unveil.outcome import BadInput, UnveilError


def main(line: Connection[bytes, bytes], memory: int) -> None:
    """Answer what comes in until the line is closed."""
    _limit(memory)
    asked = json.loads(line.recv_bytes())
    shape = None if asked["shape"] is None else tuple(asked["shape"])
    inputs = {
        name: ... if value == ASKED else np.array(value) if isinstance(value, list) else value
        for name, value in asked["inputs"].items()
    }
    try:
        source: Any = from_file(Path(asked["path"]), shape, asked["output"], inputs or None, trusted=True)
        line.send_bytes(json.dumps(told_of(source)).encode())
    except BaseException as error:
        line.send_bytes(_told(error, "cannot be loaded"))
        return
    while True:
        try:
            x = unpacked(line.recv_bytes())
        except EOFError:
            return
        try:
            y = packed(np.asarray(source.answer(x)))
        except BaseException as error:
            line.send_bytes(_told(error, f"failed on inputs of shape {x.shape}"))
            continue
        line.send_bytes(json.dumps(told_of(source)).encode())
        line.send_bytes(y)


def _told(error: BaseException, what: str) -> bytes:
    if isinstance(error, UnveilError):
        kind, text = "BadInput" if isinstance(error, BadInput) else "SourceError", str(error)
    elif isinstance(error, MemoryError) or "allocate" in str(error):
        kind, text = "SourceError", f"the model {what}: it wants more memory than a file may that is not trusted"
    else:
        kind, text = "SourceError", f"the model {what}: {type(error).__name__}: {first_line(error)}"
    return json.dumps({"error": kind, "text": text}).encode()


def _limit(memory: int) -> None:
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends this process
    for limit, size in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (size, size))
    with contextlib.suppress(OSError, AttributeError):
        # Linux: this process ends when the one that asks does, however that ends.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
