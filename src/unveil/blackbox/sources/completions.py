"""Ask a language model behind an OpenAI-compatible completions endpoint, by its few largest log-probabilities."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from unveil.blackbox.source import Questions
from unveil.blackbox.sources.wire import Budget, Reply, Wire
from unveil.blackbox.sources.wire_options import Token, WireOptions
from unveil.outcome import BadInput, SourceError

_BY_NUMBER = "token_id:"  # how some servers name tokens when asked to


class CompletionsSource:
    """Log-ratios of chosen tokens' probabilities, for prompts of a list.

    The endpoint tells the `top` largest log-probabilities only. A bias that lifts a few chosen tokens above all others
    makes these the largest, and leaves their ratios as they were: `top - 1` tokens and one that is always among them
    are read from one request. The tokens need not be the whole vocabulary: some 25 more than the hidden width give
    the width away.

    The question is the place of a prompt in the list; the answer holds the logarithms of the probabilities of
    `tokens[1:]` relative to that of `tokens[0]`. Each prompt takes `ceil((len(tokens) - 1) / (top - 1))` requests,
    which the ledger counts as `sent`; a prompt's answers are kept, so none is sent twice.

    Args:
        url: The endpoint's address, e.g. https://host/v1/completions.
        prompts: At least two: texts, or lists of token numbers.
        tokens: Numbers of the tokens asked about, at least three, all different.
        vocabulary: What the endpoint calls each token in its answers, by number. Not needed where it names them
            "token_id:17".
        model: The model's name, sent along if given.
        top: Log-probabilities that the endpoint tells at most.
        bias: What is added to the chosen tokens' logits; endpoints allow 100 at most.
        chat: Whether the endpoint takes messages (/v1/chat/completions).
        options: Token, limits, time-outs, retries.

    Raises:
        BadInput: An argument does not fit; nothing was asked.

    Source: Carlini et al., arXiv:2403.06634, section 5: top-k log-probabilities with logit bias.

    Examples:
        >>> url = "http://localhost:8000/v1/completions"
        >>> source = uv.CompletionsSource(url, ["Once upon", "The answer"], range(100))  # asks nothing yet
        >>> source.shape  # a question is the number of a prompt
        (1,)
    """

    def __init__(  # noqa: PLR0913 - a constructor: fields by name
        self,
        url: str,
        prompts: Sequence[str | Sequence[int]],
        tokens: Sequence[int],
        *,
        vocabulary: Sequence[str] | None = None,
        model: str = "",
        top: int = 5,
        bias: float = 100.0,
        chat: bool = False,
        options: WireOptions | None = None,
    ) -> None:
        if len(prompts) < 2:
            raise BadInput(f"at least two prompts are needed; got {len(prompts)}")
        if len(tokens) < 3 or len(set(tokens)) < len(tokens):
            raise BadInput("tokens must be at least three different token numbers")
        if top < 2:
            raise BadInput(f"top must be at least 2 log-probabilities; got {top}")
        self.prompts, self.tokens = list(prompts), [int(token) for token in tokens]
        self._names = self._named(vocabulary)
        self.options = WireOptions(token=Token.from_environment()) if options is None else options
        self._wire = Wire(url, self.options)
        self._model, self._top, self._bias, self._chat = model, top, bias, chat
        self.name = self._wire.shown
        self.shape: tuple[int, ...] = (1,)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self.within = (0.0, float(len(self.prompts) - 1))
        self.grid = 1.0
        # A logit in float32 keeps so many decimals once it is raised by the bias; more would be noise that looks exact.
        self._decimals = int(np.floor(-np.log10(max(abs(bias), 1.0) * 2.0**-24)))
        self._kept: dict[int, np.ndarray] = {}
        self._sent = 0

    def _named(self, vocabulary: Sequence[str] | None) -> dict[str, int]:
        names = {f"{_BY_NUMBER}{token}": token for token in self.tokens}
        if vocabulary is None:
            return names
        if max(self.tokens) >= len(vocabulary):
            raise BadInput(f"token {max(self.tokens)} is not in a vocabulary of {len(vocabulary)}")
        called = [vocabulary[token] for token in self.tokens]
        if len(set(called)) < len(called):
            twice = next(name for name in called if called.count(name) > 1)
            raise BadInput(f"two of the tokens are both called {twice!r} in answers; leave one of them out")
        return names | dict(zip(called, self.tokens, strict=True))

    def answer(self, x: Questions) -> np.ndarray:
        """Log-ratios for each prompt.

        Raises:
            SourceError: A request failed, or a chosen token was not among those told.
        """
        places = [round(place) for place in x[:, 0]]
        fresh = [place for place in dict.fromkeys(places) if place not in self._kept]
        budget = Budget()
        try:
            rows = self._wire.run(self._ask_all(fresh, budget))
        finally:
            self._sent += budget.sent
        self._kept.update(zip(fresh, rows, strict=True))
        return np.array([self._kept[place] for place in places])

    async def _ask_all(self, places: list[int], budget: Budget) -> list[np.ndarray]:
        turn = asyncio.Semaphore(self.options.connections)
        step = self._top - 1
        groups = [self.tokens[1:][start : start + step] for start in range(0, len(self.tokens) - 1, step)]

        async def ask(place: int, group: list[int]) -> list[float]:
            async with turn:
                return await self._ask(place, group, budget)

        found = await asyncio.gather(*(ask(place, group) for place in places for group in groups))
        parts = [found[start : start + len(groups)] for start in range(0, len(found), len(groups))]
        return [np.concatenate(part) for part in parts]

    async def _ask(self, place: int, group: list[int], budget: Budget) -> list[float]:
        chosen = [self.tokens[0], *group]
        prompt = self.prompts[place]
        body: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
        body |= {"model": self._model} if self._model else {}
        body |= {"logit_bias": {str(token): self._bias for token in chosen}}
        if self._chat:
            said = {"messages": [{"role": "user", "content": prompt}]}
            body |= said | {"logprobs": True, "top_logprobs": self._top}
        else:
            body |= {"prompt": prompt, "logprobs": self._top}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        reply = await self._wire.exchange("POST", self._wire.url, headers, json.dumps(body).encode(), 1, budget)
        assert reply is not None
        told = self._told(reply)
        missing = [token for token in chosen if token not in told]
        if missing:
            raise SourceError(
                f"{self.name} did not tell the log-probability of token {missing[0]} although its logit was raised by "
                f"{self._bias:g}: it does not honour logit_bias, tells fewer than top={self._top}, or names tokens "
                "otherwise than vocabulary= says"
            )
        return [round(told[token] - told[chosen[0]], self._decimals) for token in group]

    def _told(self, reply: Reply) -> dict[int, float]:
        """Log-probabilities by token, of the first position."""
        try:
            logs = json.loads(reply.body)["choices"][0]["logprobs"]
            if "content" in logs:
                pairs = [(entry["token"], entry["logprob"]) for entry in logs["content"][0]["top_logprobs"]]
            else:
                pairs = list(logs["top_logprobs"][0].items())
            return {self._names[name]: float(value) for name, value in pairs if name in self._names}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise SourceError(
                f"{self.name}: no log-probabilities at choices/0/logprobs in the answer; does it allow logprobs?"
            ) from None

    def attempts(self) -> int:
        """Requests sent since the last call."""
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        """Address, model, prompts and tokens."""
        about = repr((self._model, self.prompts, self.tokens, self._top, self._bias, self._chat))
        return f"completions {self.name} {hashlib.blake2b(about.encode(), digest_size=16).hexdigest()}"
