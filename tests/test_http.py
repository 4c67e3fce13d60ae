"""A served model is asked right, or the trouble is one clear error; nothing is asked twice in vain; no token leaks."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.served import model, serve
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.choose import as_oracle
from unveil.blackbox.sources.http import HttpSource
from unveil.blackbox.sources.json_endpoint import JsonEndpoint
from unveil.blackbox.sources.open_inference import OpenInference, parse
from unveil.blackbox.sources.wire import Wire, _without_echo
from unveil.blackbox.sources.wire_options import Token, WireOptions
from unveil.blackbox.store import StoredSource
from unveil.cli.options import Asking
from unveil.outcome import BadInput, SourceError, UnveilError

SECRET = "s3cr3t-T0ken"
FAST = WireOptions(batch=8, retries=3)
# Seconds; the server takes longer over these. On a busy machine other requests may take that long, too.
PATIENCE = {"slow": 2.5, "drip": 2.5}
X = np.random.default_rng(5).standard_normal((40, 5)) * np.logspace(-30, 30, 40)[:, None]


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("UNVEIL_TOKEN", raising=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("unveil.blackbox.sources.wire.FIRST_PAUSE", 0.01)


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
@pytest.mark.parametrize("binary", [False, True, None])
def test_answers_are_exact_to_the_last_bit(datatype, binary):
    with serve(datatype=datatype, extensions=("binary_tensor_data",) if binary is None else ()) as served:
        source = HttpSource(served.url, speaks=OpenInference(binary=binary), options=FAST)
        assert source.shape == (5,)
        x = X.astype(np.float32).astype(np.float64) if datatype == "FP32" else X
        y = source.answer(x)
        assert (served.headers[-1].get("Content-Type") == "application/json") == (binary is False)
    assert y.dtype == source.dtype == (np.float32 if datatype == "FP32" else np.float64)
    assert y.tobytes() == model(x).astype(y.dtype).tobytes()
    assert source.attempts() == len(X)
    assert set(served.seen) == {row.tobytes() for row in x}


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("/instances", "/predictions"),
        ('{"instances": "$questions", "user": 1}', "/items/*/scores"),
        ('{"row": "$question"}', "/predictions/0"),
        ('{"row": "$question"}', "/predictions"),
    ],
)
def test_any_json_endpoint(request_, answer):
    with serve() as served:
        url = served.url.replace("/v2/models/m", "/predict")
        source = HttpSource(url, shape=(5,), speaks=JsonEndpoint(request_, answer), options=FAST)
        assert source.answer(X).tobytes() == model(X).tobytes()
        with pytest.raises(SourceError, match=r"nothing at '/nowhere'.*'predictions'"):
            HttpSource(url, shape=(5,), speaks=JsonEndpoint(request_, "/nowhere"), options=FAST).answer(X)
        with pytest.raises(BadInput, match="shape"):
            HttpSource(url, speaks=JsonEndpoint(request_, answer))
    for wrong in ("instances", '{"a": 1}', '["$question", "$questions"]', "{"):
        with pytest.raises(BadInput, match="request"):
            JsonEndpoint(wrong, answer)


@pytest.mark.parametrize(
    ("request_", "one"),
    [
        ('{"$question": ["a", "b", "c"], "user": 7}', {"a": 1.5, "b": -2.0, "c": 0.1, "user": 7}),
        ('{"x": {"$question": ["a", "b", "c"]}}', {"x": {"a": 1.5, "b": -2.0, "c": 0.1}}),
        ('{"rows": {"$questions": ["a", "b", "c"]}}', {"rows": [{"a": 1.5, "b": -2.0, "c": 0.1}]}),
    ],
)
def test_numbers_with_fields_of_their_own(request_, one):
    endpoint = JsonEndpoint(request_, "/y")
    wire = Wire("http://127.0.0.1:9/y", WireOptions())
    for shape in (None, (3,), (1, 3)):
        talk = endpoint.open(wire, shape)
        assert talk.shape == (shape or (3,))
        assert json.loads(talk.encode(np.array([[1.5, -2.0, 0.1]]), "0")[1]) == one
        assert talk.rows == (None if "questions" in request_ else 1)
    with pytest.raises(BadInput, match=r"4 numbers.*names 3"):
        endpoint.open(wire, (4,))
    with pytest.raises(BadInput, match="differ"):
        JsonEndpoint(request_.replace('"b"', '"a"'), "/y")


def test_a_refusal_shows_its_reason_and_not_the_question():
    body = {"detail": [{"msg": "Field required", "input": np.arange(200.0).tolist()}] * 5}
    said = _without_echo(json.dumps(body).encode())
    assert "Field required" in said
    assert len(said) < 100
    assert _without_echo(b"Traceback: no \xff") == "Traceback: no \ufffd"


def test_a_server_that_takes_fewer_at_once_is_told_how_to_say_so():
    with serve(default_fault="400") as served:
        source = HttpSource(served.url, options=FAST)
        with pytest.raises(SourceError, match=r"8 questions are more than it takes at once.*--batch"):
            source.answer(X)
        with pytest.raises(SourceError) as error:
            source.answer(X[:1])
        assert "--batch" not in str(error.value)


def test_a_redirect_to_another_host_is_told_as_such():
    with (
        serve(default_fault="redirect 307 http://other.example/") as served,
        pytest.raises(SourceError, match=r"another host, http://other\.example;"),
    ):
        HttpSource(served.url, options=FAST).answer(X)


# Every way of misbehaving: (what is done to the second request, what the error says; "" if the answer must be right).
FAULTS = {
    "500": "500",
    "400": "400",
    "401": "UNVEIL_TOKEN",
    "404": "404",
    "429": "",
    "503": "",
    "wait 0": "",
    "wait 9999": "longest_wait",
    "502": "ask_again",
    "504": "ask_again",
    "slow": "within 2.5 s",
    "drip": "within 2.5 s",
    "cut": "connection broke",
    "vanish": "connection broke",
    "redirect 307 /v2/models/m/infer": "",
    "redirect 302 /v2/models/m/infer": r"redirect \(302\) to http://127.0.0.1:\d+/v2/models/m/infer",
    "redirect 307 http://127.0.0.1:9/": "another address",
    "redirect 307 http://[": "no address",
    "truncated": "JSON",
    "empty": "JSON",
    "html": "JSON, .*beginning with",
    "deep": "JSON",
    "long": "answer_bytes",
    "bomb": "answer_bytes",
    "badgzip": "compression",
    "badhead": "JSON part",
    "nan": "NaN",
    "null": "NaN",
    "infinite": "NaN or infinity",
    "strings": "numbers",
    "ragged": "differ in length",
    "missing": "numbers",
    "bigint": "1e308",
    "flat": "one row per question",
    "fewer": "one row per question",
    "more": "one row per question",
    "narrow": "2 outputs and with 3",
    "negative": "shape",
    "noshape": "shape",
    "bytes": "datatype",
    "unhashable": "datatype",
    "binary?": "cut short",
    "order": "another request",
    "nothing": "expected one output",
    "list": "no outputs",
    "two": "name it",
}
SENT_AGAIN = ("429", "503", "wait 0", "redirect 307 /v2/models/m/infer")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_misbehaving_server_is_survived_or_told(fault):
    options = WireOptions(timeout=PATIENCE.get(fault, 60), batch=8, retries=3, connections=2, answer_bytes=1_000_000)
    with serve(faults={1: fault}) as served:
        ledger = Ledger()
        oracle = SourceOracle(HttpSource(served.url, options=options), m=3, ledger=ledger)
        if FAULTS[fault] == "":
            assert oracle(X).tobytes() == model(X).tobytes()
        else:
            with pytest.raises(SourceError, match=FAULTS[fault]) as caught:
                oracle(X)
            assert "\x1b" not in str(caught.value)
            assert len(str(caught.value)) < 900
    assert ledger.asked == len(X)
    # What took too long may have been given up before the server had read it.
    assert ledger.sent == served.questions or (fault in PATIENCE and ledger.sent > served.questions)
    repeated = sum(count > 1 for count in served.seen.values())
    assert repeated == (8 if fault in SENT_AGAIN else 0)


@pytest.mark.parametrize("fault", ["502", "504", "slow", "drip", "cut", "vanish"])
def test_what_may_be_charged_twice_is_sent_again_only_when_allowed(fault):
    allowed = WireOptions(timeout=PATIENCE.get(fault, 60), batch=8, retries=8, ask_again=True)
    with serve(faults={1: fault, 3: fault}) as served:
        source = HttpSource(served.url, options=allowed)
        assert source.answer(X).tobytes() == model(X).tobytes()
        sent = source.attempts()
        if fault in PATIENCE:
            assert sent >= len(X) + 16
            assert sent % 8 == 0
        else:
            assert sent == served.questions == len(X) + 16
        assert max(served.answered.values()) == 1 or fault in PATIENCE


class Knot:
    """Garbage that only the collector finds, and that needs some stack to be finalised."""

    finalised: ClassVar[list[bool]] = []

    def __init__(self):
        self.knot = self

    def __del__(self):
        def down(k):
            return k == 0 or down(k - 1)

        self.finalised.append(down(100))


def test_deep_answers_are_refused_before_the_stack_ends():
    """Parsed, they would spoil the finalisers of whatever the garbage collector meets at the bottom of the stack."""
    Knot.finalised.clear()
    for _ in range(50):
        Knot()
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b'["]]]]",' * 500 + b"]" * 500, b"[" * 101 + b"]" * 101):
        with pytest.raises(SourceError, match="nested deeper than 100 levels"):
            parse(deep, "it")
    gc.collect()
    assert Knot.finalised == [True] * 50
    flat = {"data": [["[[[[" * 100, '\\"{' * 200, "\\"]] * 300}
    assert parse(json.dumps(flat).encode(), "it") == flat
    assert parse(b"[" * 100 + b"]" * 100, "it")
    for cut in (b'"' + b'\\"' * 200_000, b'"' * 200_001, b'["\\'):
        with pytest.raises(SourceError, match="no valid JSON"):
            parse(cut, "it")


def test_a_wire_nobody_holds_ends_its_thread_and_its_loop(recwarn):
    with serve() as served:
        source = HttpSource(served.url)
        source.answer(X)
        loop = source._wire._loop
        (thread,) = (t for t in threading.enumerate() if t.name == "unveil wire" and t._args and t._args[0] is loop)
        del source
        gc.collect()
        thread.join(5)
        assert loop.is_closed()
        del loop
        gc.collect()
    assert not [w for w in recwarn if "never awaited" in str(w.message) or "unclosed" in str(w.message)]


def test_a_server_that_never_recovers_ends_in_an_error():
    with serve(default_fault="503") as served:
        source = HttpSource(served.url, options=WireOptions(batch=8, retries=2, connections=1))
        with pytest.raises(SourceError, match="gave up after 3 attempts"):
            source.answer(X)
        assert source.attempts() == served.questions == 3 * 8  # the other requests were not even begun
    start = time.monotonic()
    with pytest.raises(SourceError, match="no connection"):
        HttpSource(served.url, shape=(5,), options=WireOptions(retries=2))
    assert time.monotonic() - start < 60  # no wait for ever


def test_requests_overtake_each_other_and_every_answer_finds_its_question():
    with serve(faults={0: "late", 2: "late"}) as served:
        source = HttpSource(served.url, options=WireOptions(batch=3, connections=4))
        assert source.answer(X).tobytes() == model(X).tobytes()
        assert max(served.seen.values()) == 1


@pytest.mark.parametrize("seed", range(12))
def test_with_a_store_nothing_that_arrived_is_asked_again(seed, tmp_path):
    """Runs against random faults until one ends: every question was answered once, and the sums agree."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((120, 5))
    kinds = [fault for fault in FAULTS if fault not in PATIENCE]
    faults = {k: str(rng.choice(kinds)) for k in range(60) if rng.random() < 0.25}
    sent = 0
    with serve(faults=faults) as served:
        for _run in range(60):
            options = WireOptions(batch=8, retries=2, connections=3, answer_bytes=1_000_000)
            ledger = Ledger()
            try:
                source = StoredSource(HttpSource(served.url, options=options), tmp_path / "a.sqlite", check=False)
                oracle = SourceOracle(source, m=3, ledger=ledger)
                y = np.concatenate([oracle(part) for part in np.split(x, 3)])
                break
            except SourceError:
                pass
            finally:
                sent += ledger.sent
        assert y.tobytes() == model(x).tobytes(), f"seed {seed}"
        assert max(served.answered.values()) == 1
        assert sent == served.questions


def test_the_library_asks_a_url():
    with serve() as served:
        oracle = as_oracle(served.url)
        x = oracle.nearest(X[10:20])
        assert (oracle.n, oracle.m, oracle.name) == (5, 3, served.url)
        assert oracle(x).tobytes() == model(x).tobytes()
        assert oracle.ledger.sent == oracle.ledger.asked == served.questions


def test_the_command_line_asks_a_url(tmp_path):
    with serve() as served:
        oracle = Asking(token_file=None, store=tmp_path / "a", within="-1,1").oracle(served.url)
        assert (oracle.n, oracle.m) == (5, 3)
        oracle = Asking(request="/instances", answer="/predictions", shape="5").oracle(served.url)
        assert oracle(X).tobytes() == model(X).tobytes()
        with pytest.raises(BadInput, match="--request"):
            Asking(answer="/predictions", shape="5").oracle(served.url)
    with pytest.raises(BadInput, match="--ask-again is for models behind a web address"):
        Asking(ask_again=True).oracle("examples/digits.onnx")


def test_what_the_metadata_says_and_does_not_say():
    def about(shape, **more):
        return {"inputs": [{"name": "x", "datatype": "FP64", "shape": shape, **more}]}

    with serve() as served:
        for shape, given, expected in [
            ([-1, 5], None, (5,)),
            ([-1, -1], (5,), (5,)),
            ([-1, 5, 1], (5,), (5, 1)),
            ([5], (5,), (5,)),
            ([-1, 1, 5], None, (1, 5)),
        ]:
            served.metadata = about(shape)
            assert HttpSource(served.url, shape=given).shape == expected
        served.metadata = about([3, 5])  # compiled for three questions at a time
        fixed = HttpSource(served.url)
        assert fixed.answer(X).tobytes() == model(X).tobytes()
        assert fixed.attempts() == 42
        for bad, given, message in [
            (about([-1, -1]), None, "pass shape="),
            (about([-1, 6]), (5,), "declares inputs"),
            ({}, None, "pass shape="),
            (about([-1, 5], datatype="BYTES"), None, "BYTES"),
            ({"inputs": about([1])["inputs"] * 2}, (5,), "2 inputs"),
        ]:
            served.metadata = bad
            with pytest.raises(UnveilError, match=message):
                HttpSource(served.url, shape=given)
        served.metadata = {}
        assert HttpSource(served.url, shape=(5,)).answer(X).tobytes() == model(X).tobytes()
        with pytest.raises(BadInput, match="v2/models/NAME"):
            HttpSource(served.url.replace("v2", "v1"), shape=(5,))
    for bad_url in ("http://", "http://a:b/v2/models/m", "ftp://a/v2/models/m", "http://[::1/v2/models/m"):
        with pytest.raises(BadInput, match="address"):
            HttpSource(bad_url, shape=(5,))


def test_whole_numbers_are_asked_as_whole_numbers():
    with serve(datatype="UINT8", model=lambda x: model(x)) as served:
        source = HttpSource(served.url)
        with pytest.raises(BadInput, match="grid=1"):
            source.answer(X)
        with pytest.raises(BadInput, match="grid=1"):
            source.answer(np.full((1, 5), 256.0))
        assert source.attempts() == 0


def test_a_token_goes_to_its_server_only_and_is_shown_nowhere(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("UNVEIL_TOKEN", SECRET)
    texts: list[str] = []
    with serve(faults={2: "401", 3: "500", 4: "503", 5: "redirect 307 http://localhost:9/"}) as served:
        url = served.url + "?key=" + SECRET
        for k in range(4):
            try:
                source = StoredSource(HttpSource(url), tmp_path / "a.sqlite")
                source.answer(X + k)
                source.answer(X - k)
            except UnveilError as error:
                texts += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
        assert len(texts) >= 12
        assert all(seen["Authorization"] == f"Bearer {SECRET}" for seen in served.headers)
        texts += [repr(source.source.options), source.fingerprint(), source.name]
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert SECRET.encode() not in kept
    for text in [*texts, caplog.text]:
        assert SECRET not in text
    with pytest.raises(TypeError, match="pickled"):
        Token(SECRET).__reduce__()


def test_a_token_is_refused_where_it_would_leak(tmp_path):
    options = WireOptions(token=Token(SECRET))
    with pytest.raises(BadInput, match="unencrypted") as caught:
        HttpSource("http://192.0.2.1:1/v2/models/m", shape=(5,), options=options)
    assert SECRET not in str(caught.value)
    with pytest.raises(BadInput, match="end up in logs") as caught:
        HttpSource(f"https://me:{SECRET}@192.0.2.1/v2/models/m", shape=(5,))
    assert SECRET not in str(caught.value)
    (tmp_path / "token").write_text(SECRET + "\n")
    assert Token.from_file(tmp_path / "token", header="X-Key").headers() == {"X-Key": SECRET}
    for wrong in ("", "two words", "línea", "a\nb"):
        (tmp_path / "token").write_text(wrong)
        with pytest.raises(BadInput, match="token"):
            Token.from_file(tmp_path / "token")
    with pytest.raises(BadInput, match="cannot read"):
        Token.from_file(tmp_path / "none")


MLSERVER = os.environ.get("UNVEIL_MLSERVER") or shutil.which("mlserver")


@pytest.mark.slow
@pytest.mark.skipif(MLSERVER is None, reason="no mlserver on the path or in UNVEIL_MLSERVER")
def test_a_real_mlserver(tmp_path):
    """scikit-learn models behind MLServer, made by its own Python; the truth is that Python's own answer."""
    python = Path(MLSERVER).with_name("python")
    make = """
import json, sys, joblib, numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor
x, t = load_digits(return_X_y=True)
r = MLPRegressor(hidden_layer_sizes=(20,), max_iter=60, random_state=0).fit(x, t)
c = MLPClassifier(hidden_layer_sizes=(20,), max_iter=60, random_state=0).fit(x, t)
for name, fitted in (("r", r), ("c", c)):
    joblib.dump(fitted, f"{sys.argv[1]}/{name}/model.joblib")
q = np.random.default_rng(0).uniform(0, 16, (500, 64))
np.savez(f"{sys.argv[1]}/truth.npz", q=q, r=r.predict(q), c=c.predict(q), p=c.predict_proba(q))
"""
    for name in ("r", "c"):
        (tmp_path / name).mkdir()
        settings = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib"},
        }
        (tmp_path / name / "model-settings.json").write_text(json.dumps(settings))
    subprocess.run([python, "-c", make, tmp_path], check=True, capture_output=True)
    with socket.socket() as free, socket.socket() as free2, socket.socket() as free3:
        ports = []
        for s in (free, free2, free3):
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    (tmp_path / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": ports[0],
                "grpc_port": ports[1],
                "metrics_port": ports[2],
                "parallel_workers": 0,
            }
        )
    )
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen([MLSERVER, "start", tmp_path], stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{ports[0]}/v2"
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{base}/models/c/ready", timeout=10)
                urllib.request.urlopen(f"{base}/models/r/ready", timeout=10)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        truth = np.load(tmp_path / "truth.npz")
        q = truth["q"]
        r = as_oracle(f"{base}/models/r", shape=64, within=(0, 16))
        assert r.m == 1
        # One request holds 256 questions, the truth was computed from 500 at once: BLAS may differ in the last bits.
        np.testing.assert_allclose(r(q)[:, 0], truth["r"], rtol=1e-12)
        exact = HttpSource(f"{base}/models/r", shape=(64,), options=WireOptions(batch=500))
        assert exact.answer(q)[:, 0].tobytes() == truth["r"].tobytes()
        c = as_oracle(f"{base}/models/c", shape=64, within=(0, 16))
        assert c.answers == "labels"
        assert (c(q)[:, 0] == truth["c"]).all()
        p = HttpSource(f"{base}/models/c", shape=(64,), speaks=OpenInference(output="predict_proba"))
        np.testing.assert_allclose(p.answer(q), truth["p"], rtol=1e-9, atol=1e-12)
        with pytest.raises(SourceError, match="404"):
            HttpSource(f"{base}/models/none", shape=(64,)).answer(q)
        with pytest.raises(SourceError, match="features"):
            HttpSource(f"{base}/models/r", shape=(63,)).answer(q[:, :63])
    finally:
        server.terminate()
        server.wait(120)
    sys.stdout.write((tmp_path / "log").read_text()[-2000:])
