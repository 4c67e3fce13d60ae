"""Ask a model served over HTTP: the Open Inference Protocol, or any JSON endpoint described by a template."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from unveil.blackbox.source import Questions
from unveil.blackbox.sources.apis import endpoint_of
from unveil.blackbox.sources.json_endpoint import JsonEndpoint
from unveil.blackbox.sources.open_inference import OpenInference
from unveil.blackbox.sources.wire import Budget, Wire
from unveil.blackbox.sources.wire_options import Token, WireOptions
from unveil.outcome import BadInput, SourceError


class HttpSource:
    """A served model.

    A batch goes out as requests of fixed size, several at a time. A question is sent again only when no answer to it
    has arrived; every time counts in the ledger's `sent`. What had arrived when a batch failed goes along with the
    error, so that a store keeps it.

    Args:
        url: `http://host:port/v2/models/NAME`, or an endpoint's own address with a `JsonEndpoint`.
        shape: Shape of one input, where the server does not tell.
        speaks: `OpenInference(...)` or `JsonEndpoint(request, answer)`; by default the former.
        options: Token, limits, time-outs, retries.
        api: Instead of `speaks` the name of a well-known interface: "tfserving", "torchserve", "openai:MODEL",
            "huggingface", "mlflow", "sagemaker".

    Attributes:
        classes: The name of each output, where the server tells names; None as long as none were seen.
        untyped: Whether numbers come as text, where what has no fraction may look like an integer.
        within: The legal range of whole numbers, where the server takes such; else None.
        grid: 1 where the server takes whole numbers, else None.

    Raises:
        BadInput: The address, the shape or an option does not fit; nothing was asked.
        SourceError: The server does not answer, or its metadata cannot be used.

    Examples:
        >>> speaks = uv.JsonEndpoint("/instances", "/predictions")
        >>> source = uv.HttpSource("http://localhost:8501/score", (24,), speaks)  # asks nothing yet
        >>> source.shape
        (24,)
    """

    def __init__(
        self,
        url: str,
        shape: tuple[int, ...] | None = None,
        speaks: OpenInference | JsonEndpoint | None = None,
        options: WireOptions | None = None,
        api: str | None = None,
    ) -> None:
        if api is not None:
            if speaks is not None:
                raise BadInput("either api= or speaks= says what the server speaks; got both")
            url, speaks = endpoint_of(api, url)
        self.options = WireOptions(token=Token.from_environment()) if options is None else options
        self._wire = Wire(url, self.options)
        self._talk = (OpenInference() if speaks is None else speaks).open(self._wire, shape)
        self.name = self._wire.shown
        self.shape = self._talk.shape
        self.dtype = self._talk.dtype
        self.untyped = isinstance(speaks, JsonEndpoint)
        self.grid: float | None = self._talk.grid
        self.within: tuple[float, float] | None = getattr(self._talk, "within", None)
        self._sent = 0
        self._requests = 0
        self._width: int | None = None

    @property
    def classes(self) -> dict[int, str] | None:
        found: dict[int, str] | None = getattr(self._talk, "classes", None)
        return found

    def answer(self, x: Questions) -> np.ndarray:
        """Answers to N questions.

        Raises:
            SourceError: A request failed. `error.arrived` holds the rows that had been answered, and their answers.
        """
        rows = self._talk.rows or max(1, min(self.options.batch, self.options.batch_bytes // self._talk.question_bytes))
        parts = [slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]
        budget = Budget()
        try:
            answers = self._wire.run(self._ask_all(x, parts, budget))
        finally:
            self._sent += budget.sent
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        fine = [index for index, answer in enumerate(answers) if isinstance(answer, np.ndarray)]
        widths = [answers[index].shape[1] for index in fine]
        if fine and self._width is None:
            self._width = max(set(widths), key=widths.count)
        if len(set(widths)) > 1:
            errors.append(SourceError(f"{self.name} answered with {min(widths)} outputs and with {max(widths)}"))
        if errors:
            # The first cause is what people need to read, and a defect before a failure.
            error = min(errors, key=lambda e: (isinstance(e, SourceError), isinstance(e, _NotBegun)))
            fine = [index for index in fine if answers[index].shape[1] == self._width]
            if isinstance(error, SourceError) and fine:
                arrived = np.concatenate([np.arange(parts[i].start, parts[i].stop) for i in fine])
                error.arrived = (arrived, np.concatenate([answers[i] for i in fine]))
            raise error
        return np.concatenate(answers)

    async def _ask_all(self, x: Questions, parts: list[slice], budget: Budget) -> list[Any]:
        """All parts, a few at a time; after the first failure no further part is begun."""
        turn = asyncio.Semaphore(self.options.connections)

        async def ask(part: slice) -> np.ndarray:
            async with turn:
                if budget.stop:
                    raise _NotBegun(f"{self.name}: not asked, an earlier request failed")
                try:
                    return await self._ask(x[part], budget)
                except BaseException:
                    budget.stop = True
                    raise

        return list(await asyncio.gather(*(ask(part) for part in parts), return_exceptions=True))

    async def _ask(self, x: Questions, budget: Budget) -> np.ndarray:
        self._requests += 1
        number = str(self._requests)
        count = len(x)
        if self._talk.rows is not None and count < self._talk.rows:
            # A model compiled for a fixed number of questions gets the last one several times.
            x = np.concatenate([x, np.repeat(x[-1:], self._talk.rows - count, axis=0)])
        headers, body = self._talk.encode(x, number)
        reply = await self._wire.exchange("POST", self._talk.url, headers, body, len(x), budget)
        assert reply is not None
        try:
            return self._talk.decode(reply, len(x), number)[:count]
        except SourceError as error:
            if self.options.token is not None:  # a server may say back what it was sent
                error.args = (self.options.token.hide(str(error)),)
            raise

    def attempts(self) -> int:
        """Questions sent since the last call, every attempt counted."""
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        """Address and metadata; of the address's query only a digest."""
        query = urlsplit(self._wire.url).query
        digest = hashlib.blake2b(query.encode(), digest_size=8).hexdigest() if query else ""
        return f"http {self.name} {digest} {self.shape} {self._talk.about}"


class _NotBegun(SourceError):
    """A request that was not made, because another one of its batch had failed."""
