"""AnswerFile: answers in one SQLite file that survives being killed."""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unveil.outcome import DiskFull, StoreError

FORMAT = 1
APPLICATION = int.from_bytes(b"unvl")
ANSWER_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE answers (key BLOB PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID",
)
# Questions looked up by one statement; below SQLite's limit on its parameters.
LOOKED_UP = 900


@dataclass(frozen=True)
class StoreInfo:
    """What a file of answers holds.

    Attributes:
        path: Where it is.
        model: What people call the model.
        fingerprint: What tells this model from others.
        answers: How many answers are kept.
        bytes: Size of the file, once its journal (at most some 30 MB) has been moved into it.
        started: When it was made, in UTC.
    """

    path: str
    model: str
    fingerprint: str
    answers: int
    bytes: int
    started: str


class AnswerFile:
    """Keys of 16 bytes and the answers to them, kept in a file of SQLite with a write-ahead log.

    What `put` has kept survives the end of the process at any moment. A power failure may take the last batches with
    it, never the file. Every answer carries a checksum.

    Args:
        path: The file; made if there is none (unless `existing`).
        existing: Open for reading what is there; no file is made or changed.

    Raises:
        StoreError: The file cannot be opened or made, is damaged, or is something else.
    """

    def __init__(self, path: str | os.PathLike[str], *, existing: bool = False) -> None:
        self.path = Path(path)
        if existing and not self.path.is_file():
            raise StoreError(f"there is no store at {self.path}; `--store {self.path}` makes one")
        self._lock = threading.Lock()
        with self._explained("open"):
            if not existing:
                # Answers are private; what SQLite keeps beside its file gets the file's mode. What stands in the
                # way is told by SQLite, in the next line.
                with suppress(OSError):
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            empty = not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if not existing and empty and application == 0:
                self._make()
            elif application != APPLICATION:
                raise StoreError(f"{self.path} is an SQLite file, but not a store of answers; name another file")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                raise StoreError(f"{self.path} has format {version}; this version of unveil reads format {FORMAT}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-65536")
            # Keys are random, so every batch touches most pages: moving them from the log into the file rarely, 32 MB
            # at a time, writes each of them less often.
            self._db.execute("PRAGMA wal_autocheckpoint=8192")

    def _make(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("BEGIN IMMEDIATE")
        # Another process may have made the tables while this one waited for the lock.
        if not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for table in ANSWER_TABLES:
                self._db.execute(table)
            self._db.execute("INSERT INTO about VALUES ('started', datetime())")
            self._db.execute(f"PRAGMA application_id={APPLICATION}")
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        self._db.execute("COMMIT")

    def note(self, name: str) -> str:
        """A text kept beside the answers; empty if there is none."""
        value = self._note(name)
        return value if isinstance(value, str) else ""

    def sample(self, name: str) -> bytes:
        """Bytes kept beside the answers; empty if there are none."""
        value = self._note(name)
        return value if isinstance(value, bytes) else b""

    def _note(self, name: str) -> object:
        with self._lock, self._explained("read"):
            row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers there are, by key.

        Raises:
            StoreError: The file is damaged or cannot be read.
        """
        found: dict[bytes, bytes] = {}
        with self._lock, self._explained("read"):
            for start in range(0, len(keys), LOOKED_UP):
                part = keys[start : start + LOOKED_UP]
                marks = ",".join("?" * len(part))
                found.update(self._db.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part))
        return {key: self._checked(key, kept) for key, kept in found.items()}

    def put(self, answers: Sequence[tuple[bytes, bytes]], **notes: str | bytes) -> None:
        """Keep answers, all or none, and set notes that are not set yet.

        Raises:
            StoreError: They could not be kept: the disk is full, the file read-only, damaged or in use.
        """
        rows = [(key, zlib.crc32(answer, zlib.crc32(key)).to_bytes(4) + answer) for key, answer in answers]
        with self._lock, self._explained("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", notes.items())
                self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                # Some errors (a full disk) have ended the transaction already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and answers, in the order of the keys."""
        with self._explained("read"):
            for key, kept in self._db.execute("SELECT key, answer FROM answers ORDER BY key"):
                yield key, self._checked(key, kept)

    def info(self) -> StoreInfo:
        """What the file holds."""
        with self._lock, self._explained("read"):
            count = self._db.execute("SELECT count(*) FROM answers").fetchone()[0]
            pages, size = (self._db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "page_size"))
        return StoreInfo(
            path=str(self.path),
            model=self.note("model"),
            fingerprint=self.note("fingerprint"),
            answers=count,
            bytes=pages * size,
            started=self.note("started"),
        )

    def close(self) -> None:
        """Leave the file; another `AnswerFile` may open it."""
        with self._lock:
            self._db.close()

    def _checked(self, key: bytes, kept: object) -> bytes:
        if (
            not isinstance(kept, bytes)
            or len(kept) < 4
            or zlib.crc32(kept[4:], zlib.crc32(key)).to_bytes(4) != kept[:4]
        ):
            raise StoreError(f"{self.path} is damaged: an answer does not match its checksum; {_REPAIR}")
        return kept[4:]

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: a message about a damaged schema quotes it
            kind = StoreFull if _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) else StoreError
            raise kind(f"cannot {doing} the store {self.path}: {error}; {_advice(error)}") from error


_REPAIR = "restore it from a copy, or name another file (every question will be asked again)"


class StoreFull(DiskFull, StoreError):
    """There is no room for further answers, or the disk fails; every earlier batch is kept."""


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _advice(error: Exception) -> str:
    """What to do about an error of SQLite."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return "make room on the disk and run the same command again: every earlier batch is kept"
    if code == sqlite3.SQLITE_IOERR:
        return "the disk is full or failing; mend it and run the same command again: every earlier batch is kept"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return "name a file in an existing folder that you may write to"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process is writing to it; wait for it, or name another file"
    return f"the file is damaged or is no store: {_REPAIR}"
