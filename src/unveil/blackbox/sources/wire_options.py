"""WireOptions: token, limits, time-outs and retries for a served model."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unveil.outcome import BadInput


class Token:
    """A secret for the `Authorization` header. Its text is shown nowhere.

    Args:
        value: The secret.
        header: Name of the header. In `Authorization` it is sent as `Bearer <secret>`, elsewhere as it is.

    Examples:
        >>> token = uv.Token("correct-horse")
        >>> "horse" in repr(token)
        False
    """

    def __init__(self, value: str, header: str = "Authorization") -> None:
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise BadInput("a token must be one word of printable ASCII characters")
        self._value = value
        self._header = header

    @classmethod
    def from_environment(cls, name: str = "UNVEIL_TOKEN", header: str = "Authorization") -> Token | None:
        """The token in an environment variable; None if it is not set."""
        value = os.environ.get(name, "").strip()
        return cls(value, header) if value else None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], header: str = "Authorization") -> Token:
        """The token in a file that holds nothing else.

        Raises:
            BadInput: The file cannot be read or holds no token.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8").strip(), header)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise BadInput(f"cannot read a token from {path}: {why}") from None

    def headers(self) -> dict[str, str]:
        """What to send."""
        return {self._header: f"Bearer {self._value}" if self._header == "Authorization" else self._value}

    def hide(self, text: str) -> str:
        """`text` without the secret, in case a server echoes it."""
        return text.replace(self._value, "***")

    def __repr__(self) -> str:
        return "Token(***)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a token is not to be pickled")


@dataclass(frozen=True)
class WireOptions:
    """How to speak to a server.

    Attributes:
        token: A secret to send along, or None. Never over plain HTTP to another machine, never to another host.
        connections: Requests under way at once.
        batch: Most questions in one request.
        batch_bytes: Most bytes in one request, roughly (a single question may be larger).
        answer_bytes: Most bytes in one answer.
        timeout: Seconds for one attempt, from connecting to the last byte.
        retries: Attempts after the first.
        longest_wait: Most seconds to wait between attempts when the server asks for it (`Retry-After`).
        ask_again: Send a question again also when it is unknown whether the server worked on it (broken connections,
            time-outs, 502, 504). Then it may be charged twice. Refused connections, 429 and 503 need no permission.
        retry_on: Further statuses after which a question is sent again, e.g. (500,) for a server that fails now and
            then; each attempt may be charged.

    Examples:
        >>> options = uv.WireOptions(connections=2, batch=64, retries=3)
        >>> options.batch
        64
    """

    token: Token | None = None
    connections: int = 4
    batch: int = 256
    batch_bytes: int = 1 << 20
    answer_bytes: int = 1 << 26
    timeout: float = 60.0
    retries: int = 6
    longest_wait: float = 120.0
    ask_again: bool = False
    retry_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("connections", "batch", "batch_bytes", "answer_bytes"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1; got {getattr(self, name)}")
        if any(not 400 <= status <= 599 for status in self.retry_on):
            raise BadInput(f"retry_on (--retry-on) takes statuses from 400 to 599; got {self.retry_on}")
        if not 0 < self.timeout < math.inf:
            raise BadInput(f"timeout= must be a positive number of seconds; got {self.timeout:g}")
        if not 0 <= self.longest_wait < math.inf:
            raise BadInput(f"longest_wait= must be a number of seconds, 0 or more; got {self.longest_wait:g}")
        if self.retries < 0:
            raise BadInput(f"retries= must be 0 or more; got {self.retries}")
