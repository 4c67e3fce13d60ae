"""Well-known interfaces: each asked of a server on this machine that answers like it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from unveil.blackbox.sources.apis import API_NAMES
from unveil.blackbox.sources.open_inference import numbers
from unveil.cli import app
from unveil.cli.options import Asking

pytest.importorskip("httpx")

RNG = np.random.default_rng(4)
WEIGHTS = RNG.standard_normal((5, 3))
CLASSES = ("cat", "dog", "newt")
FAST = uv.WireOptions(timeout=10, retries=1)


def scores(x: Any) -> np.ndarray:
    z = np.asarray(x, dtype=float).reshape(-1, 5) @ WEIGHTS
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def pairs(row: np.ndarray) -> list[dict[str, Any]]:
    """As pipelines write them: the largest first."""
    return [{"label": CLASSES[i], "score": float(row[i])} for i in np.argsort(-row)]


def tfserving(path: str, body: Any) -> Any:
    assert path == "/v1/models/m:predict"
    return {"predictions": scores(body["instances"]).tolist()}


def tfserving_two(path: str, body: Any) -> Any:
    p = scores(body["instances"])
    return {"predictions": [{"classes": list(CLASSES), "p": row.tolist()} for row in p]}


def torchserve(path: str, body: Any) -> Any:
    assert path == "/predictions/m"
    assert np.shape(body) == (5,)
    return scores(body)[0].tolist()


def torchserve_names(path: str, body: Any) -> Any:
    return {pair["label"]: pair["score"] for pair in pairs(scores(body)[0])}


def embeddings(path: str, body: Any) -> Any:
    assert (path, body["model"]) == ("/v1/embeddings", "small")
    assert all(type(token) is int for row in body["input"] for token in row)
    rows = scores(np.array(body["input"]) / 50)
    data = [{"object": "embedding", "index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]
    return {"object": "list", "data": data[::-1], "model": "small"}


def completions(path: str, body: Any) -> Any:
    assert (path, body["max_tokens"]) == ("/v1/completions", 1)
    rows = scores(np.array(body["prompt"]) / 50).argmax(axis=1)
    return {"choices": [{"index": i, "text": f" {CLASSES[row]}"} for i, row in enumerate(rows)]}


def huggingface(path: str, body: Any) -> Any:
    return [pairs(row) for row in scores(body["inputs"])]


def huggingface_vectors(path: str, body: Any) -> Any:
    return scores(body["inputs"]).tolist()


def mlflow(path: str, body: Any) -> Any:
    assert path == "/invocations"
    return {"predictions": scores(body["inputs"]).tolist()}


def sagemaker(path: str, body: Any) -> Any:
    assert path == "/invocations"
    p = scores(body["instances"])
    return {"predictions": [{"predicted_label": int(row.argmax()), "score": row.tolist()} for row in p]}


@contextmanager
def serving(answer: Callable[[str, Any], Any], faults: list[int] | None = None) -> Iterator[str]:
    """The address of a server that answers like this, after it has failed with these statuses."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply = 200, b""
            if faults:
                status = faults.pop(0)
            else:
                try:
                    reply = json.dumps(answer(self.path, body)).encode()
                except (AssertionError, KeyError, TypeError, ValueError) as error:
                    status, reply = 400, f"Malformed request: {error!r}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


X = RNG.standard_normal((6, 5)).astype(np.float32).astype(float)
TOKENS = RNG.integers(0, 100, (6, 5))

CASES: dict[str, tuple[str, Callable[[str, Any], Any], str, dict[str, Any]]] = {
    "tfserving": ("tfserving", tfserving, "/v1/models/m", {}),
    "tfserving, several outputs": ("tfserving", tfserving_two, "/v1/models/m:predict", {"output": "p"}),
    "torchserve": ("torchserve", torchserve, "/predictions/m", {}),
    "torchserve, names": ("torchserve", torchserve_names, "/predictions/m", {}),
    "openai, embeddings": ("openai:small", embeddings, "/v1", {}),
    "huggingface": ("huggingface", huggingface, "/", {}),
    "huggingface, vectors": ("huggingface", huggingface_vectors, "/", {}),
    "mlflow": ("mlflow", mlflow, "", {}),
    "sagemaker": ("sagemaker", sagemaker, "/invocations", {"output": "score"}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_interface_is_asked_as_it_wants_to_be(case: str) -> None:
    api, answer, path, more = CASES[case]
    tokens = api.startswith("openai")
    x = TOKENS if tokens else X
    with serving(answer) as base:
        asked = Asking(api=api, shape="5", within="0,99" if tokens else "-9,9", answers="values", **more)
        oracle = asked.oracle(base + path)
        assert np.allclose(oracle(x), scores(x / 50 if tokens else x), atol=1e-6)
        assert oracle.grid == (1.0 if tokens else None)
        assert oracle.ledger.sent == oracle.ledger.asked == 8 + len(x)
        named = answer in (huggingface, torchserve_names)
        assert oracle.classes == (dict(enumerate(CLASSES)) if named else None)


def test_every_interface_has_a_case() -> None:
    assert {api.partition(":")[0] for api, *_ in CASES.values()} == set(API_NAMES)
    told = re.findall(r"^\| `(\w+)(?::MODEL)?` \|", Path("docs/http.md").read_text(encoding="utf-8"), re.M)
    assert sorted(told) == sorted(API_NAMES)
    with pytest.raises(uv.BadInput, match="knows huggingface, mlflow"):
        uv.HttpSource("http://127.0.0.1:9/", shape=(5,), api="grpc")
    with pytest.raises(uv.BadInput, match="model's name"):
        uv.HttpSource("http://127.0.0.1:9/v1", shape=(5,), api="openai")
    with pytest.raises(uv.BadInput, match="takes no name"):
        uv.HttpSource("http://127.0.0.1:9/v1", shape=(5,), api="mlflow:m")
    with pytest.raises(uv.BadInput, match="CompletionsSource"):
        uv.HttpSource("http://127.0.0.1:9/v1/chat/completions", shape=(5,), api="openai:m")


def test_completions_answer_the_next_token_as_a_label() -> None:
    with serving(completions) as base:
        source = uv.HttpSource(f"{base}/v1/completions", shape=(5,), api="openai:small", options=FAST)
        oracle = uv.as_oracle(source, within=(0, 99))
        assert (oracle.answers, oracle.grid) == ("labels", 1.0)
        told = [oracle.classes[label] for label in oracle.predictions(oracle(TOKENS))]
        assert told == [f" {CLASSES[i]}" for i in scores(TOKENS / 50).argmax(axis=1)]


REPLIES: dict[str, Callable[[np.ndarray], Any]] = {
    "pairs": lambda p: [pairs(row) for row in p],
    "objects": lambda p: [{pair["label"]: pair["score"] for pair in pairs(row)} for row in p],
    "texts": lambda p: [[str(value) for value in row] for row in p],
    "pairs of texts": lambda p: [[{**pair, "score": str(pair["score"])} for pair in pairs(row)] for row in p],
    "lists": lambda p: [
        {"labels": [pair["label"] for pair in pairs(row)], "scores": [pair["score"] for pair in pairs(row)]}
        for row in p
    ],
}


@pytest.mark.parametrize("kind", REPLIES)
def test_scores_are_matched_by_name_whatever_their_order(kind: str) -> None:
    with serving(lambda path, body: {"out": REPLIES[kind](scores(body["x"]))}) as base:
        source = uv.HttpSource(base, shape=(5,), speaks=uv.JsonEndpoint("/x", "/out"), options=FAST)
        oracle = uv.as_oracle(source, answers="values")
        assert np.allclose(oracle(X), scores(X), atol=1e-12)
        assert oracle.classes == (None if kind == "texts" else dict(enumerate(CLASSES)))


def test_labels_and_largest_scores_alone() -> None:
    def top(count: int) -> Callable[[str, Any], Any]:
        return lambda path, body: [pairs(row)[:count] for row in scores(body["x"])]

    with serving(lambda path, body: [pairs(row)[0] for row in scores(body["x"])]) as base:
        source = uv.HttpSource(base, shape=(5,), speaks=uv.JsonEndpoint("/x"), options=FAST)
        oracle = uv.as_oracle(source)
        assert oracle.answers == "labels"
        assert [oracle.classes[v] for v in oracle(X)[:, 0]] == [CLASSES[i] for i in scores(X).argmax(axis=1)]
    with serving(top(2)) as base:
        source = uv.HttpSource(base, shape=(5,), speaks=uv.JsonEndpoint("/x"), options=FAST)
        with pytest.raises(uv.SourceError, match="only the largest scores"):
            uv.as_oracle(source, within=(-3, 3))(X * 0.5)


def test_parts_of_an_answer_are_named() -> None:
    with serving(tfserving_two) as base:
        source = uv.HttpSource(f"{base}/v1/models/m", shape=(5,), api="tfserving", options=FAST)
        with pytest.raises(uv.SourceError, match=r"'classes', 'p'.*--output NAME"):
            source.answer(X)


def test_statuses_may_be_asked_again_and_it_counts() -> None:
    command = ["audit", "--plan", "--api", "mlflow", "--shape", "5", "--within=-2,2", "--answers", "values", "--json"]
    with serving(mlflow, [500]) as base:
        end = CliRunner().invoke(app, [*command, base])
        assert end.exit_code == 3
        assert "--retry-on 500" in end.stderr
        assert json.loads(end.stdout)["sent"] == 4  # the first four questions of the first look
    with serving(mlflow, [500, 502]) as base:
        end = CliRunner().invoke(app, [*command, base, "--retry-on", "500,502"])
        assert end.exit_code == 0, end.output
        told = json.loads(end.stdout)
        assert told["sent"] == told["queries"] + 8
    with serving(mlflow, [502]) as base:
        end = CliRunner().invoke(app, [*command, base, "--ask-again"])
        told = json.loads(end.stdout)
        assert told["sent"] == told["queries"] + 4
    end = CliRunner().invoke(app, [*command, "http://127.0.0.1:9", "--retry-on", "many"])
    assert end.exit_code == 2
    with pytest.raises(uv.BadInput, match="400 to 599"):
        uv.WireOptions(retry_on=(200,))


def failing_after(count: int, reply: Any) -> Callable[[str, Any], Any]:
    """MLflow's answers to the first requests, then something else."""
    asked = [0]

    def answer(path: str, body: Any) -> Any:
        asked[0] += 1
        return mlflow(path, body) if asked[0] <= count else reply

    return answer


@pytest.mark.parametrize("kept", [True, False])
def test_a_server_that_fails_midway_is_told_of_with_what_was_kept(tmp_path: Path, kept: bool) -> None:
    store = ["--store", str(tmp_path / "s.sqlite")] if kept else []
    command = ["span", "--api", "mlflow", "--shape", "5", "--answers", "values", "--json", *store]
    with serving(failing_after(6, {"error": "quota used up"})) as base:
        end = CliRunner().invoke(app, [*command, base])
        assert end.exit_code == 3
        assert "'error': 'quota used up'" in end.stderr
        assert ("every answer is kept in" if kept else "with --store FILE the same command would go on") in end.stderr


def test_words_and_rows_that_are_missing_among_numbers() -> None:
    good = [[1.0, 2.0], [3.0, 4.0]]
    assert numbers([*good, None], "it")[:2].tolist() == good
    assert np.isnan(numbers([None, *good], "it")[0]).all()
    assert np.isnan(numbers([1.0, None], "it")[1])
    for reply, said in (([[1.0, 2.0], [3.0, "N/A"]], "'N/A' at /1/1"), (None, "'None'"), ({"p": 1}, "'p'")):
        with pytest.raises(uv.SourceError, match=f"expected numbers, got .*{said}"):
            numbers(reply, "it")


def test_a_token_that_comes_back_is_not_shown() -> None:
    options = uv.WireOptions(token=uv.Token("correct-horse"))
    with serving(lambda path, body: {"you sent": "correct-horse"}) as base:
        source = uv.HttpSource(base, shape=(5,), speaks=uv.JsonEndpoint("/x", "/out"), options=options)
        with pytest.raises(uv.SourceError, match=r"'you sent': '\*\*\*'"):
            source.answer(X)


def test_a_server_that_answers_with_noise_is_asked_from_the_command_line() -> None:
    rng = np.random.default_rng(0)

    def noisy(path: str, body: Any) -> Any:
        said = np.asarray(body["x"])
        return {"out": (np.tanh(said @ np.eye(5)[:, :2]) + 1e-6 * rng.standard_normal((len(said), 2))).tolist()}

    command = ["span", "--request", "/x", "--answer", "/out", "--shape", "5", "--json", "--budget", "20000"]
    with serving(noisy) as base:
        end = CliRunner().invoke(app, [*command, base])
        assert end.exit_code == 3
        assert "pass --noisy" in end.stderr
        end = CliRunner().invoke(app, [*command, base, "--noisy"])
        assert json.loads(end.stdout)["rank"] == 2


def test_a_forgotten_shape_says_what_to_pass() -> None:
    with serving(mlflow) as base:
        for options, said in (
            (["--api", "mlflow"], "--shape 784"),
            (["--request", "/inputs", "--answer", "/predictions"], "--shape 784"),
            ([], "--api"),
        ):
            end = CliRunner().invoke(app, ["span", base, *options])
            assert end.exit_code == 2
            assert said in end.stderr
        end = CliRunner().invoke(app, ["span", f"{base}/v2/models/m"])
        assert "--shape 784" in end.stderr
        assert "--request" in end.stderr
