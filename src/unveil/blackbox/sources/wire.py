"""Wire: bytes there and back over HTTP, with limits, retries and a token that never leaks."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import json
import logging
import random
import re
import threading
import weakref
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

from unveil.blackbox.sources.wire_options import WireOptions
from unveil.outcome import BadInput, SourceError

if TYPE_CHECKING:
    import httpx

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

# The server says it has not worked on the request, so asking again cannot be charged twice.
REFUSED = (429, 503)
# A machine in between gave up: the model may have answered, and charged, all the same.
GATEWAY_STATUSES = (502, 504)
# How servers refuse what is too much for one request.
TOO_MANY = (400, 413, 422)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
REDIRECTS = 5


@dataclass(frozen=True)
class Reply:
    """A complete answer of status 200."""

    headers: Mapping[str, str]
    body: bytes


@dataclass
class Budget:
    """Attempts made, and whether to make more: shared by the requests of one batch."""

    sent: int = 0
    stop: bool = False
    jitter: random.Random = field(default_factory=random.Random)


class Wire:
    """Connections to one server, in a thread of their own.

    Raises:
        BadInput: Not an http(s) address, a name and password inside it, or a token that would travel in the clear.
    """

    def __init__(self, url: str, options: WireOptions) -> None:
        try:
            import httpx
        except ImportError as error:
            raise BadInput('asking a URL needs httpx: pip install "unveil[http]"') from error
        parts = _checked_url(url)
        if options.token is not None and parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise BadInput(
                f"the token would travel unencrypted to {parts.hostname}; use https:// (plain http:// with a token is "
                "allowed to this machine only)"
            )
        self.url = url
        self.shown = shown(url)
        _keep_out_of_logs(url)
        self.options = options
        limits = httpx.Limits(
            max_connections=options.connections, max_keepalive_connections=options.connections, keepalive_expiry=2.0
        )
        self._client = httpx.AsyncClient(
            headers={"User-Agent": "unveil", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(options.timeout),
            limits=limits,
            follow_redirects=False,
            # Reading all the world's certificates takes a while, and plain HTTP (never redirected to TLS) needs none.
            verify=parts.scheme == "https",
            # A proxy named in the environment must not see what is meant for this machine.
            trust_env=not _is_loopback(parts.hostname or ""),
        )
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_turn, args=(self._loop,), name="unveil wire", daemon=True)
        thread.start()
        weakref.finalize(self, _close, self._loop, self._client, thread)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work done in the wire's thread."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def get(self, url: str) -> Reply | None:
        """A document beside the model, or None if there is none (404, 405, 501)."""
        return self.run(self.exchange("GET", url, {}, b"", 0, Budget()))

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, questions: int, budget: Budget
    ) -> Reply | None:
        """One request, sent until an answer arrives.

        Raises:
            SourceError: No answer, or a refusal. Nothing that may have been answered is sent again without permission.
        """
        for attempt in range(self.options.retries + 1):
            trouble = await self._attempt(method, url, headers, body, questions, budget)
            if not isinstance(trouble, _Trouble):
                return trouble
            if not trouble.again and not (method == "GET" and trouble.maybe):
                advice = ""
                if trouble.maybe:
                    advice = (
                        "; the server may have answered and charged all the same, so the questions were not sent "
                        "again: allow it with ask_again=True (--ask-again)"
                    )
                raise SourceError(f"{self.shown}: {trouble.text}{advice}")
            if attempt == self.options.retries or budget.stop:
                raise SourceError(f"{self.shown}: {trouble.text}; gave up after {attempt + 1} attempts")
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * budget.jitter.uniform(0.5, 1.0)
            if trouble.wait is not None:
                if trouble.wait > self.options.longest_wait:
                    raise SourceError(
                        f"{self.shown}: {trouble.text} and asks to wait {trouble.wait:.0f} s, longer than "
                        f"longest_wait={self.options.longest_wait:g}; allow more, or come back later"
                    )
                pause = max(pause, trouble.wait)
            _LOG.info("%s: %s; attempt %d in %.1f s", self.shown, trouble.text, attempt + 2, pause)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, questions: int, budget: Budget
    ) -> Reply | _Trouble | None:
        import httpx

        token = self.options.token
        secret = token.headers() if token else {}
        try:
            async with asyncio.timeout(self.options.timeout):
                for _ in range(REDIRECTS):
                    budget.sent += questions
                    request = self._client.build_request(method, url, headers={**headers, **secret}, content=body)
                    async with _Streamed(self._client, request) as response:
                        if response.has_redirect_location:
                            url = self._redirected(method, url, response)
                            continue
                        return self._judge(method, response, await self._read(response), questions)
                raise SourceError(f"{self.shown}: more than {REDIRECTS} redirects")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            budget.sent -= questions  # nothing went out
            return _Trouble(f"no connection ({self._clean(str(error)) or type(error).__name__})", again=True)
        except (TimeoutError, httpx.TimeoutException):
            text = f"no complete answer within {self.options.timeout:g} s"
            return _Trouble(text, again=self.options.ask_again, maybe=True)
        except httpx.DecodingError:
            raise SourceError(f"{self.shown}: the answer's compression is damaged") from None
        except (httpx.TransportError, httpx.StreamError) as error:
            if "location header" in str(error):  # httpx looks where a redirect leads before it is asked to
                raise SourceError(f"{self.shown} redirects to what is no address") from None
            text = f"the connection broke ({self._clean(str(error)) or type(error).__name__})"
            return _Trouble(text, again=self.options.ask_again, maybe=True)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise BadInput(f"not an address: {self.shown} ({type(error).__name__})") from None

    async def _read(self, response: httpx.Response) -> bytes:
        limit = self.options.answer_bytes
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > limit:
                raise SourceError(
                    f"{self.shown}: the answer is longer than {limit:,} bytes; ask fewer questions in one request "
                    "(batch=), or allow more from Python (WireOptions.answer_bytes)"
                )
        return bytes(body)

    def _judge(self, method: str, response: httpx.Response, body: bytes, questions: int) -> Reply | _Trouble | None:
        status = response.status_code
        if status == 200:
            return Reply({name.lower(): value for name, value in response.headers.items()}, body)
        if method == "GET" and status in (404, 405, 501):
            return None
        said = self._clean(_without_echo(body))
        text = f"the server answered {status} {response.reason_phrase}" + (f": {said}" if said else "")
        if status in (*REFUSED, *GATEWAY_STATUSES, *self.options.retry_on):
            sure = status in (*REFUSED, *self.options.retry_on)
            wait = _seconds(response.headers.get("retry-after"))
            return _Trouble(self._clean(text), again=sure or self.options.ask_again, maybe=not sure, wait=wait)
        if status in (401, 403):
            text += "; give a token in the environment variable UNVEIL_TOKEN or in a file (--token-file)"
        if status in TOO_MANY and questions > 1:
            text += f"; if {questions} questions are more than it takes at once, say how many it does: batch= (--batch)"
        if status >= 500:
            text += "; if asking again may help, allow it: retry_on=(500,) (--retry-on 500)".replace("500", str(status))
        raise SourceError(f"{self.shown}: {self._clean(text)}")

    def _redirected(self, method: str, url: str, response: httpx.Response) -> str:
        try:
            target = urljoin(url, response.headers["location"])
            old, new = urlsplit(url), urlsplit(target)
        except ValueError:
            raise SourceError(f"{self.shown} redirects to what is no address") from None
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise SourceError(
                f"{self.shown} redirects to another {'host' if old.hostname != new.hostname else 'address'}, "
                f"{self._clean(f'{new.scheme}://{new.netloc}')}; refused: name that address yourself if you trust it"
            )
        if method != "GET" and response.status_code not in (307, 308):
            raise SourceError(
                f"{self.shown} answers questions with a redirect ({response.status_code}) to "
                f"{self._clean(shown(target))}, which would drop them; if the model is there, name that address"
            )
        return target

    def _clean(self, text: str) -> str:
        """Text of a stranger, made fit for a message: no secret, no control characters, not long."""
        text = self.options.token.hide(text) if self.options.token else text
        text = re.sub(r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "?" for c in text)).strip()
        # Of a traceback the end tells most.
        return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"


def _without_echo(body: bytes) -> str:
    """The text of a refusal; of long lists in JSON the first item only: servers repeat the question they refuse."""
    text = body.decode("utf-8", "replace")
    try:
        return json.dumps(_shortened(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(item) for item in (value if len(value) <= 3 else [value[0], "…"])]
    return {key: _shortened(item) for key, item in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True)
class _Trouble:
    """Why an attempt brought no answer. `again`: it may be repeated; `maybe`: the server may have answered it."""

    text: str
    again: bool
    maybe: bool = False
    wait: float | None = None


class _Streamed:
    """A response whose body is read piece by piece, closed in any case."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        self._client, self._request = client, request

    async def __aenter__(self) -> httpx.Response:
        self._response = await self._client.send(self._request, stream=True)
        return self._response

    async def __aexit__(self, *error: object) -> None:
        await self._response.aclose()


def shown(url: str) -> str:
    """An address fit for messages: without its query, where secrets may be."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


_SECRET_QUERIES: set[str] = set()


def _keep_out_of_logs(url: str) -> None:
    """httpx logs every address in full; a query is where some services want their key."""
    if (query := urlsplit(url).query) and query not in _SECRET_QUERIES:
        _SECRET_QUERIES.add(query)
        logging.getLogger("httpx").addFilter(_without_queries)


def _without_queries(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    for query in _SECRET_QUERIES:
        text = text.replace(query, "***")
    record.msg, record.args = text, ()
    return True


def _checked_url(url: str) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises for a bad port)
    except ValueError as error:
        raise BadInput(f"not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput("a model's address must look like http://host:port/v2/models/NAME")
    if "@" in parts.netloc:
        raise BadInput(
            "a name and password inside an address end up in logs; put the token into the environment variable "
            "UNVEIL_TOKEN or a file (--token-file)"
        )
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that `Retry-After` asks for: a number, or a date."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """The wire's thread: until it is told to end."""
    try:
        loop.run_forever()
    finally:
        loop.close()


def _close(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient, thread: threading.Thread) -> None:
    """End the wire's thread; what is still under way is dropped.

    The garbage collector may call this in any thread at any time, the wire's own included, so little is done here.
    """
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(_end, loop, client)
        if thread is not threading.current_thread():
            thread.join(1)


def _end(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.create_task(client.aclose()).add_done_callback(lambda _: loop.stop())
