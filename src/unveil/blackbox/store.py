"""Answers kept on disk, so that no query is ever paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np

from unveil.blackbox.answer_file import AnswerFile
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.source import Answers, Questions, Source
from unveil.blackbox.store_claim import claim
from unveil.outcome import SourceError, StoreError

# Questions asked again to notice a changed model. One answer may be the same by chance: a label, a saturated output.
CONTROLS = 4
# Relative difference from which an answer is another model's. A larger noise than this needs `check=False`.
OTHER_MODEL_DIFFERENCE = 0.01


@final
class Stored(OracleWrapper):
    """An oracle around an oracle that keeps every answer in a file and asks only what the file does not answer.

    A run that was killed is run again with the same command; it asks the same questions in the same batches, gets the
    stored answers, and goes on where it was. The same question asked twice on purpose is two questions: the k-th time
    a run asks it, it gets the k-th answer.

    Args:
        oracle: Whom to ask.
        path: The file; made if there is none.
        check: Before the first question of a resumed run goes out, ask four stored ones again and
            compare, to notice that another model now answers at the same address. Of a Python function or estimator,
            of which a name is all that is known, before the first stored answer is used.

    Raises:
        StoreError: The file cannot be used, or holds another model's answers.

    Queries: what the file does not hold, plus the check; `ledger.sent` counts both.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = uv.Stored(uv.as_oracle(lambda x: x.sum(axis=1), shape=2), folder + "/answers.sqlite")
        ...     answers = stored(np.ones((5, 2)))
        >>> answers.tolist() == [[2.0]] * 5
        True
    """

    def __init__(self, oracle: Oracle, path: str | os.PathLike[str], *, check: bool = True) -> None:
        super().__init__(oracle)
        self.memory = Memory(AnswerFile(path), oracle.fingerprint(), oracle.name, oracle.dtype, oracle.shape, check)
        self.memory.named_only = _named_only(oracle)

    def answer(self, x: Questions) -> Answers:
        return self.memory.answer(x, self.oracle.answer)


@final
class StoredSource:
    """A source around a source, with the memory of `Stored`; beneath an oracle, its first looks are kept too."""

    def __init__(self, source: Source, path: str | os.PathLike[str], *, check: bool = True) -> None:
        self.source = source
        self.name = source.name
        self.shape = source.shape
        self.dtype = source.dtype
        self.memory = Memory(AnswerFile(path), source.fingerprint(), source.name, source.dtype, source.shape, check)
        self.memory.named_only = _named_only(source)

    def __getattr__(self, name: str) -> object:
        # What one kind of source tells beyond the protocol (its box, its metadata) stays visible.
        if name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def answer(self, x: Questions) -> np.ndarray:
        return self.memory.answer(x, self.source.answer, arrivals=True)

    def attempts(self) -> int:
        return self.source.attempts()

    def fingerprint(self) -> str:
        return self.source.fingerprint()


class Memory:
    """What a run has asked so far, and the file that answers.

    A key is the 16-byte BLAKE2b of the model's fingerprint, the type and shape of its input, the question's bytes and
    the number of times this run has asked it before.

    Attributes:
        named_only: Whether two models can have this fingerprint, so that the file has to be checked before it answers.
    """

    named_only = False

    def __init__(
        self,
        file: AnswerFile,
        fingerprint: str,
        name: str,
        dtype: np.dtype[np.floating],
        shape: tuple[int, ...],
        check: bool = True,
    ) -> None:
        # A name from outside may hold what is no Unicode text.
        fingerprint, name = (text.encode("utf-8", "backslashreplace").decode() for text in (fingerprint, name))
        known = file.note("fingerprint")
        if known and known != fingerprint:
            raise StoreError(
                f"{file.path} keeps the answers of another model, {file.note('model')} ({_short(known)}), "
                f"not of {name} ({_short(fingerprint)}); name another file for this one"
            )
        claim(file.path, self)
        self.file = file
        self._notes = {"fingerprint": fingerprint, "model": name}
        self._dtype, self._n = np.dtype(dtype), int(np.prod(shape))
        about = f"{fingerprint}\0{self._dtype.str}\0{shape}\0"
        self._start = hashlib.blake2b(about.encode(), digest_size=16)
        self._asked = Tally()
        self._unchecked = check and bool(known)

    def answer(self, x: Questions, ask: Callable[[Questions], np.ndarray], *, arrivals: bool = False) -> np.ndarray:
        """Answers from the file; what it does not hold is asked as one batch, and kept before it is returned.

        Args:
            x: Questions.
            ask: Answers those that the file does not.
            arrivals: `ask` is a source: what its errors say has arrived are its answers to the rows of its argument.

        Raises:
            StoreError: The file cannot be read or written, or the model has changed.
            SourceError: The model did not answer; what had arrived (`error.arrived`) is kept.
        """
        questions = np.ascontiguousarray(x, dtype=self._dtype)
        if self.named_only:
            self._check(ask)
        keys, codes = self._keys(questions)
        found = self.file.get(keys)
        missing = np.array([row for row, key in enumerate(keys) if key not in found], dtype=int)
        if len(missing) == 0:
            self._asked.add(codes)
            return _decoded([found[key] for key in keys], self.file)
        self._check(ask)
        try:
            y = np.asarray(ask(x[missing]))
        except SourceError as error:
            if arrivals and error.arrived is not None:
                rows, answers = error.arrived
                self._keep(questions, keys, missing[rows], answers)
            raise
        if y.ndim > 0 and len(y) == len(missing):
            y = y.reshape(len(y), -1)
        self._keep(questions, keys, missing, y)
        self._asked.add(codes)
        if len(missing) == len(x):
            return y
        stored = [row for row, key in enumerate(keys) if key in found]
        old = _decoded([found[keys[row]] for row in stored], self.file)
        if y.shape[1:] != old.shape[1:] or len(y) != len(missing) or (y.dtype.kind in "OU") != (old.dtype.kind in "OU"):
            raise SourceError(
                f"{self._notes['model']} answered with shape {y.shape}; stored answers have {old.shape[1:]} outputs"
            )
        together = np.empty((len(x), *y.shape[1:]), object if y.dtype.kind in "OU" else np.result_type(y, old))
        together[stored] = old
        together[missing] = y
        return together

    def _keys(self, questions: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """Keys of the questions, and short codes to count repeats by."""
        data, width = questions.data.cast("B"), questions.itemsize * questions.shape[1]
        hashes = []
        for row in range(len(questions)):
            h = self._start.copy()
            h.update(data[row * width : (row + 1) * width])
            hashes.append(h)
        codes = np.frombuffer(b"".join([h.digest() for h in hashes]), dtype=np.uint64)[::2]
        for h, repeat in zip(hashes, self._asked.before(codes).tolist(), strict=True):
            h.update(repeat.to_bytes(8, "little"))
        return [h.digest() for h in hashes], codes

    def _keep(self, questions: np.ndarray, keys: list[bytes], rows: np.ndarray, y: np.ndarray) -> None:
        """Keep usable answers; whoever asked complains about the others."""
        if y.ndim == 0 or len(y) != len(rows) or y.size == 0:
            return
        y = y.reshape(len(y), -1)
        self._notes.setdefault("outputs", self.file.note("outputs") or str(y.shape[1]))
        if self._notes["outputs"] != str(y.shape[1]):
            return
        if y.dtype.kind in "fiub":
            usable = np.isfinite(y).all(axis=1)
        elif y.dtype.kind in "OU":
            usable = np.array([all(isinstance(name, str) for name in row) for row in y.tolist()])
        else:
            return
        rows, y = rows[usable], np.ascontiguousarray(y[usable])
        if len(rows) == 0:
            return
        coded = _coded(y)
        first = rows[:CONTROLS]
        controls = {
            "control_questions": questions[first].tobytes(),
            "control_keys": b"".join(keys[row] for row in first),
        }
        self.file.put([(keys[row], answer) for row, answer in zip(rows, coded, strict=True)], **self._notes, **controls)

    def _check(self, ask: Callable[[Questions], np.ndarray]) -> None:
        """Ask the first questions ever kept again, once a run, before the first one the file cannot answer."""
        data, keys = self.file.sample("control_questions"), self.file.sample("control_keys")
        if not self._unchecked or not data:
            return
        x = np.frombuffer(data, self._dtype).reshape(-1, self._n)
        found = self.file.get([keys[start : start + 16] for start in range(0, len(keys), 16)])
        if len(found) != len(x):
            raise StoreError(f"{self.file.path} is damaged: its first answers are missing; name another file")
        old = _decoded([found[keys[start : start + 16]] for start in range(0, len(keys), 16)], self.file)
        new = np.asarray(ask(x.astype(np.float64))).reshape(len(x), -1)
        if new.shape == old.shape:
            values = old.dtype.kind == new.dtype.kind == "f"
            changed = np.abs(new - old) > OTHER_MODEL_DIFFERENCE * np.abs(old).max() if values else new != old
            # Labels of another model are the same by chance; a function that is not noisy gives its own again.
            if changed.any(axis=1).mean() <= (0.5 if values or not self.named_only else 0):
                self._unchecked = False
                return
        raise StoreError(
            f"{self._notes['model']} does not give the answers kept in {self.file.path} any more: another model "
            "answers there now, or its answers are very noisy; name another file, or pass check=False for a noisy model"
        )


@dataclass
class Tally:
    """How often each code was seen, in 8 bytes a time: sorted runs whose lengths are like the digits of a counter."""

    runs: list[np.ndarray] = field(default_factory=list)

    def before(self, codes: np.ndarray) -> np.ndarray:
        """For every code, how often it was seen before it, earlier in `codes` included."""
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        count = np.empty(len(codes), dtype=np.int64)
        count[order] = np.arange(len(codes)) - np.searchsorted(ordered, ordered)
        for run in self.runs:
            count += np.searchsorted(run, codes, side="right") - np.searchsorted(run, codes)
        return count

    def add(self, codes: np.ndarray) -> None:
        """Count these codes as seen."""
        run = np.sort(codes)
        while self.runs and len(self.runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self.runs.pop(), run]), kind="stable")
        self.runs.append(run)


def read_answer(kept: bytes) -> np.ndarray:
    """One kept answer, in the type the model gave it.

    Raises:
        ValueError: It is none.
    """
    if kept[:1] == b"U":
        return np.array(json.loads(kept[1:]))
    return np.frombuffer(kept, dtype=np.dtype(kept[:1].decode()), offset=1)


def _coded(y: np.ndarray) -> list[bytes]:
    """One row of answers each: a letter for the type, then the numbers, or the names as JSON."""
    if y.dtype.kind not in "fiub":
        return [b"U" + json.dumps(row).encode() for row in y.tolist()]
    data, width, letter = y.tobytes(), y.itemsize * y.shape[1], y.dtype.char.encode()
    return [letter + data[start : start + width] for start in range(0, len(data), width)]


def _decoded(kept: list[bytes], file: AnswerFile) -> np.ndarray:
    try:
        if kept[0][:1] != b"U" and len({(answer[:1], len(answer)) for answer in kept}) == 1:
            letters = np.frombuffer(b"".join(kept), np.uint8).reshape(len(kept), -1)
            return np.ascontiguousarray(letters[:, 1:]).view(np.dtype(kept[0][:1].decode()))
        return np.stack([read_answer(answer) for answer in kept])
    except (ValueError, TypeError) as error:
        raise StoreError(f"{file.path} is damaged: its answers differ in length; name another file") from error


def _named_only(asked: object) -> bool:
    """Whether a source, or what an oracle asks in the end, is known by its name alone."""
    while not hasattr(asked, "named_only") and (inside := getattr(asked, "oracle", getattr(asked, "source", None))):
        asked = inside
    return bool(getattr(asked, "named_only", False))


def _short(fingerprint: str) -> str:
    """A fingerprint for people: its beginning and a digest."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=4).hexdigest()
    return f"{fingerprint[:60]}… {digest}" if len(fingerprint) > 60 else f"{fingerprint} {digest}"
