"""A language model behind a completions endpoint gives its width away through a few log-probabilities at a time."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import unveil as uv
from unveil.outcome import BadInput, Outcome, SourceError

torch = pytest.importorskip("torch")
pytest.importorskip("httpx")


def corpus(size):
    """Words of a text that ships with Python, and the most common of them."""
    from pydoc_data.topics import topics

    words = " ".join(topics.values()).split()[:20_000]
    kinds, counts = np.unique(words, return_counts=True)
    vocabulary = [str(word) for word in kinds[np.argsort(-counts, kind="stable")][:size]]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    return vocabulary, np.array([numbers[word] for word in words if word in numbers])


def language_model(vocabulary, width, text, steps=20):
    """The next word from four, briefly trained."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(vocabulary, width), torch.nn.Flatten(), torch.nn.Linear(4 * width, 2 * width),
        torch.nn.Tanh(), torch.nn.Linear(2 * width, width), torch.nn.LayerNorm(width),
        torch.nn.Linear(width, vocabulary),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    windows = torch.tensor(np.lib.stride_tricks.sliding_window_view(text, 5).copy())
    for step in range(steps):
        batch = windows[step * 128 % (len(windows) - 128) :][:128]
        loss = torch.nn.functional.cross_entropy(model(batch[:, :4]), batch[:, 4])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@contextmanager
def served(model, vocabulary, decimals=None, honest=True, by_number=False, put_off=()):
    """The endpoint on a free port of this machine; `.requests` counts, and the first get the statuses `put_off`."""
    refusals = list(put_off)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests += 1
            if refusals:
                self.send_response(refusals.pop())
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            chat = "messages" in body
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt]))[0]
                for token, bias in body["logit_bias"].items() if honest else ():
                    logits[int(token)] += bias
                logs = torch.log_softmax(logits, 0)
            top = torch.topk(logs, body["top_logprobs" if chat else "logprobs"]).indices.tolist()
            value = {t: float(logs[t]) if decimals is None else round(float(logs[t]), decimals) for t in top}
            name = {t: f"token_id:{t}" if by_number else vocabulary[t] for t in top}
            if chat:
                told = {"content": [{"top_logprobs": [{"token": name[t], "logprob": value[t]} for t in top]}]}
            else:
                told = {"top_logprobs": [{name[t]: value[t] for t in top}]}
            reply = json.dumps({"choices": [{"logprobs": told}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args):
            """A client that went away after an error is part of a test."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests = 0
    server.url = f"http://127.0.0.1:{server.server_port}/v1/completions"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def small():
    vocabulary, text = corpus(80)
    model = language_model(80, 8, text)
    prompts = [text[4 * i : 4 * i + 4].tolist() for i in range(30)]
    return vocabulary, model, prompts


@pytest.mark.parametrize(("chat", "by_number", "decimals"), [(False, False, None), (True, True, 3)])
def test_the_width_through_few_log_probabilities(small, chat, by_number, decimals, monkeypatch):
    monkeypatch.delenv("UNVEIL_TOKEN", raising=False)
    vocabulary, model, prompts = small
    tokens = list(range(29))
    with served(model, vocabulary, decimals, by_number=by_number) as server:
        source = uv.CompletionsSource(
            server.url, prompts, tokens, vocabulary=None if by_number else vocabulary, chat=chat
        )
        oracle = uv.as_oracle(source)
        with torch.no_grad():
            logits = model(torch.tensor([prompts[7]]))[0, :29].double().numpy()
        allowed = 4e-5 if decimals is None else 1.1 * 10.0**-decimals
        assert np.abs(oracle(np.array([[7.0]]))[0] - (logits[1:] - logits[0])).max() <= allowed
        span = uv.output_span(oracle, rng=np.random.default_rng(0))
        assert span.outcome is Outcome.complete, span.why
        assert span.rank == 7  # the LayerNorm takes one
        asked = len(source._kept)
        assert oracle.ledger.sent == server.requests == 7 * asked
        assert asked <= span.queries + 5


def test_an_endpoint_that_ignores_the_bias_is_one_clear_error(small, monkeypatch):
    monkeypatch.delenv("UNVEIL_TOKEN", raising=False)
    vocabulary, model, prompts = small
    with served(model, vocabulary, honest=False) as server:
        source = uv.CompletionsSource(server.url, prompts, range(50, 80), vocabulary=vocabulary)
        with pytest.raises(SourceError, match="does not honour logit_bias"):
            uv.as_oracle(source)


def test_requests_that_a_server_puts_off_are_sent_again(small, monkeypatch):
    monkeypatch.delenv("UNVEIL_TOKEN", raising=False)
    vocabulary, model, prompts = small
    with served(model, vocabulary, put_off=(429, 503)) as server:
        source = uv.CompletionsSource(server.url, prompts, range(9), vocabulary=vocabulary)
        answer = source.answer(np.array([[7.0]]))
        with torch.no_grad():
            logits = model(torch.tensor([prompts[7]]))[0, :9].double().numpy()
        assert np.abs(answer[0] - (logits[1:] - logits[0])).max() <= 4e-5
        assert source.attempts() == server.requests == 4  # two groups of tokens, and two that were put off


def test_bad_arguments_are_refused():
    url = "http://127.0.0.1:9/v1/completions"
    for tokens, extra, match in (
        ([1, 2], {}, "three different"),
        ([1, 2, 2], {}, "three different"),
        ([1, 2, 3], {"vocabulary": ["a", "b"]}, "not in a vocabulary"),
        ([0, 1, 2], {"vocabulary": ["a", "b", "b"]}, "both called"),
        ([0, 1, 2], {"top": 1}, "at least 2"),
    ):
        with pytest.raises(BadInput, match=match):
            uv.CompletionsSource(url, ["x", "y"], tokens, **extra)
    with pytest.raises(BadInput, match="two prompts"):
        uv.CompletionsSource(url, ["x"], [1, 2, 3])
