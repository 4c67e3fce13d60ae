"""What was tested, when and how: enough for a stranger to repeat an audit, and nothing that is secret."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_SECRET = ("token", "key", "secret", "password", "auth", "header")


@dataclass(frozen=True)
class Provenance:
    """Where the figures of a page come from.

    Attributes:
        name: What the model is called.
        sha256: Of the model's file; empty if it is none.
        size: Of that file, in bytes; None if it is none.
        server: Address of a served model, without what may be secret in it; empty for others.
        when: Time of the audit, UTC, ISO 8601; the environment's SOURCE_DATE_EPOCH if that is set.
        version: Of this library.
        command: The command line; empty from Python.
        seed: Where chance started.
    """

    name: str
    sha256: str = ""
    size: int | None = None
    server: str = ""
    when: str = ""
    version: str = ""
    command: str = ""
    seed: int = 0

    def figures(self) -> dict[str, Any]:
        """As the JSON has it."""
        return asdict(self)


def provenance(name: str, source: str = "", seed: int = 0, words: Sequence[str] = ()) -> Provenance:
    """Of a model.

    Args:
        name: What it is called.
        source: A path, `file.py:function` or a web address; anything else tells nothing more.
        seed: Where chance started.
        words: The words of the command line, without the program's name.
    """
    digest, size = _file(source)
    served = source.startswith(("http://", "https://"))
    return Provenance(
        name=name,
        sha256=digest,
        size=size,
        server=public_address(source) if served else "",
        when=_now(),
        version=version(),
        command=_command(words) if words else "",
        seed=seed,
    )


def public_address(url: str) -> str:
    """A web address without user, password, query and fragment, in which secrets may stand."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def version() -> str:
    """Of this library."""
    from unveil.version import __version__

    return __version__


def _file(source: str) -> tuple[str, int | None]:
    path, colon, _ = source.rpartition(":")
    file = Path(path if colon and path.endswith(".py") else source)
    if not source or "://" in source or not file.is_file():
        return "", None
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return digest, file.stat().st_size


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _command(words: Sequence[str]) -> str:
    """The words as one line for a shell; addresses lose their secrets, and so does whatever an option calls one."""
    told, hide = ["unveil"], False
    for word in words:
        option, equals, _ = word.partition("=")
        named = option.startswith("--") and not option.endswith("-file") and any(part in option for part in _SECRET)
        if hide or ("{" in word and any(part in word.lower() for part in _SECRET)):
            told.append("…")
        elif named and equals:
            told.append(f"{option}=…")
        else:
            told.append(public_address(word) if word.startswith(("http://", "https://")) else word)
        hide = named and not equals and not hide
    return shlex.join(told)
