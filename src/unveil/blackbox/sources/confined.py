"""Run an untrusted file in a process of its own, with limits on its time and its memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.blackbox.domain import DOUBLE
from unveil.blackbox.source import Questions
from unveil.outcome import BadInput, SourceError

SECONDS = 60.0
MEMORY = 4 << 30
ASKED = "..."


class Confined:
    """A model file, read and run in a child process.

    What goes between the two are numbers and text; nothing that the child says is ever executed.

    Args:
        path: An ONNX or a TorchScript file.
        shape: Shape of one input.
        output: Which of several outputs.
        inputs: Values of other inputs, which are held constant; no functions.
        seconds: Longest time until the file is loaded, and until a few questions are answered. Larger batches may take
            ten times as long as the slowest question by then.
        memory: Bytes that the child may allocate.

    Raises:
        BadInput: What the file is asked with does not fit, or this system cannot limit a process.
        SourceError: The file cannot be loaded, or not within the limits.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, ...] | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
        memory: int = MEMORY,
    ) -> None:
        if os.name != "posix":
            raise BadInput("limits on a file that is not trusted need a POSIX system; pass trusted=True (--trusted)")
        self.name = shown(Path(path).name)
        self._seconds, self._memory, self._slowest = seconds, memory, 0.0
        ours, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "unveil.blackbox.sources.confined_child", str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._line: Connection[bytes, bytes] = ours
        weakref.finalize(self, _end, self._child, ours)
        asked = {"path": str(path), "shape": shape, "output": output, "inputs": _plain(inputs)}
        ours.send_bytes(json.dumps(asked).encode())
        told = self._reply(self._seconds)
        self.shape: tuple[int, ...] = tuple(told["shape"])
        self.dtype: np.dtype[np.floating] = np.dtype(told["dtype"])
        self.input_bits = int(told["input_bits"])
        self.answer_bits = int(told["answer_bits"])
        self.in_steps = str(told["in_steps"])
        self.within = None if told["within"] is None else (float(told["within"][0]), float(told["within"][1]))
        self.grid: float | None = told["grid"]
        self.notes: tuple[str, ...] = tuple(told["notes"])
        self._fingerprint = str(told["fingerprint"])
        self._sent = 0

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        start = time.monotonic()
        try:
            self._line.send_bytes(packed(x))
        except (BrokenPipeError, ConnectionError):
            raise self._gone() from None
        told = self._reply(self._seconds + 10 * self._slowest * len(x))
        y = unpacked(self._line.recv_bytes())
        self._slowest = max(self._slowest, (time.monotonic() - start) / max(1, len(x)))
        self.answer_bits, self.notes = int(told["answer_bits"]), tuple(told["notes"])
        return y

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return self._fingerprint

    def _reply(self, seconds: float) -> dict[str, Any]:
        try:
            if not self._line.poll(seconds):
                self._child.kill()
                raise SourceError(
                    f"{self.name} gave no answer within {seconds:.0f} s and was ended; if you trust it, let it run "
                    "without limits: trusted=True (--trusted)"
                )
            told = json.loads(self._line.recv_bytes())
        except (EOFError, ConnectionError):
            raise self._gone() from None
        if "error" in told:
            kind, text = told["error"], str(told["text"])
            raise BadInput(text) if kind == "BadInput" else SourceError(text)
        assert isinstance(told, dict)
        return told

    def _gone(self) -> SourceError:
        code = self._child.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return SourceError(
            f"{self.name} brought its process to an end ({how}): it crashed, or wanted more than "
            f"{self._memory / 2**30:.0f} GB; if you trust it, let it run without limits: trusted=True (--trusted)"
        )


def packed(y: np.ndarray) -> bytes:
    """An array of numbers or text as bytes."""
    file = io.BytesIO()
    np.save(file, y.astype(str) if y.dtype.kind == "O" else y, allow_pickle=False)
    return file.getvalue()


def unpacked(data: bytes) -> np.ndarray:
    """What `packed` made."""
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def told_of(source: Any) -> dict[str, Any]:
    """What a source tells besides its answers, in plain values."""
    return {
        "shape": list(source.shape),
        "dtype": np.dtype(source.dtype).name,
        "input_bits": getattr(source, "input_bits", DOUBLE),
        "answer_bits": getattr(source, "answer_bits", DOUBLE),
        "in_steps": getattr(source, "in_steps", ""),
        "within": getattr(source, "within", None),
        "grid": getattr(source, "grid", None),
        "notes": list(getattr(source, "notes", ())),
        "fingerprint": source.fingerprint(),
    }


def _plain(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {}
    for name, value in (inputs or {}).items():
        if callable(value):
            raise BadInput(f"inputs={{{name!r}: ...}} is a function, which a file takes only with trusted=True")
        found[name] = ASKED if isinstance(value, EllipsisType) else np.asarray(value).tolist()
    return found


def _end(child: subprocess.Popen[bytes], line: Connection[bytes, bytes]) -> None:
    line.close()
    child.kill()
    with contextlib.suppress(Exception):
        child.wait(1)
