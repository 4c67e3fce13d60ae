"""Stored answers: paid once, given back bit for bit, never a wrong one; one clear error for a bad file."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import unveil
import unveil as uv
from tests.served import serve
from unveil.blackbox.answer_file import AnswerFile
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.callable import CallableSource
from unveil.blackbox.sources.choose import as_oracle
from unveil.blackbox.store import Stored, StoredSource, Tally
from unveil.cli import app
from unveil.outcome import SourceError, StoreError

X = np.random.default_rng(3).standard_normal((300, 4))


def model(x: np.ndarray) -> np.ndarray:
    """Not a matrix product, whose last bits may depend on the other questions of a batch."""
    return np.tanh(np.stack([x[:, 0] + 2 * x[:, 1], 3 * x[:, 2] - x[:, 3] * x[:, 0]], axis=1))


class Noisy:
    """Another answer every time, and a count of the questions."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.asked = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.asked += len(x)
        return model(x) + 1e-6 * self.rng.standard_normal((len(x), 2))


def oracle(function=model, m=2):
    return SourceOracle(CallableSource(function, (4,)), m=m)


@pytest.mark.parametrize("m", [1, 10])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool, "names"])
def test_what_was_answered_is_given_back_to_the_last_bit(m, dtype, tmp_path):
    y = np.random.default_rng(1).standard_normal((len(X), m))
    y = np.where(y > 0, "cat", "naïve <b>") if dtype == "names" else (y * 3).astype(dtype)
    first = StoredSource(CallableSource(lambda x: y, (4,)), tmp_path / "a")
    again = StoredSource(CallableSource(lambda x: pytest.fail("asked again"), (4,)), tmp_path / "a")
    first.source.name = again.source.name = "f"
    one, two = first.answer(X), again.answer(X)
    assert two.dtype.kind == one.dtype.kind
    assert (two == y).all()
    if dtype != "names":
        assert two.tobytes() == y.tobytes()
    assert (again.attempts(), first.attempts()) == (0, len(X))


def test_a_question_asked_twice_on_purpose_is_two_questions(tmp_path):
    noisy = Noisy(0)
    batches = [X[:5], X[:5], np.repeat(X[:2], 3, axis=0), X[4:9], X[4:9][::-1]]

    def run(function):
        stored = Stored(oracle(function), tmp_path / "a", check=False)
        stored.oracle.source.name = "noisy"
        return stored, [stored(x) for x in batches]

    function = lambda x: noisy(x)  # noqa: E731
    a, first = run(function)
    _, second = run(function)
    assert noisy.asked == a.ledger.sent == sum(map(len, batches))
    for one, two in zip(first, second, strict=True):
        assert one.tobytes() == two.tobytes()
    assert (first[0] != first[1]).all()
    # A third run that asks once more gets the old answers and pays for the new question only.
    stored, _ = run(function)
    stored(X[:1])
    assert stored.ledger.sent == 1


def test_only_what_is_missing_is_asked(tmp_path):
    rows = []
    stored = Stored(oracle(lambda x: (rows.extend(x.tolist()), model(x))[1]), tmp_path / "a", check=False)
    stored(X[::3])
    rows.clear()
    again = Stored(oracle(stored.oracle.source.function), tmp_path / "a", check=False)
    np.testing.assert_array_equal(again(X), model(X))
    assert rows == np.delete(X, np.s_[::3], axis=0).tolist()
    assert (again.ledger.asked, again.ledger.sent) == (300, 200)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=20), max_size=12))
def test_repeats_are_counted_like_a_dictionary_would(batches):
    tally, truth = Tally(), Counter()
    for batch in batches:
        codes = np.array(batch, dtype=np.uint64)
        expected = []
        for code in batch:
            expected.append(truth[code])
            truth[code] += 1
        assert tally.before(codes).tolist() == expected
        tally.add(codes)
    assert sum(map(len, tally.runs)) == sum(map(len, batches))


def test_a_failed_batch_is_not_counted_as_asked(tmp_path):
    calls = []

    def moody(x):
        calls.append(len(x))
        if len(calls) == 1:
            raise RuntimeError("not today")
        return model(x)

    stored = Stored(oracle(moody), tmp_path / "a")
    with pytest.raises(SourceError):
        stored(X)
    np.testing.assert_array_equal(stored(X), model(X))
    with sqlite3.connect(tmp_path / "a") as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (300,)


def test_unusable_answers_are_not_kept(tmp_path):
    bad = np.where(np.arange(300)[:, None] == 7, np.nan, model(X))
    stored = StoredSource(CallableSource(lambda x: bad, (4,)), tmp_path / "a")
    with pytest.raises(SourceError, match="NaN"):
        SourceOracle(stored, m=2)(X)
    assert stored.memory.file.info().answers == 299


def test_another_model_is_refused(tmp_path):
    Stored(oracle(), tmp_path / "a")(X)
    with pytest.raises(StoreError, match="another model"):
        Stored(oracle(lambda x: model(x)), tmp_path / "a")
    changed = oracle(lambda x: model(x) + 0.1)
    changed.source.name = "model"
    stored = Stored(changed, tmp_path / "a")
    for x in (X, X + 1):  # of a function a name is all that is known: not even stored answers are its own
        with pytest.raises(StoreError, match="any more"):
            stored(x)
    slightly = oracle(lambda x: model(x) * (1 + 1e-7))
    slightly.source.name = "model"
    Stored(slightly, tmp_path / "a")(X + 1)
    assert slightly.ledger.sent == 304  # four controls


def test_the_library_keeps_its_first_look_too(tmp_path):
    with serve() as served:
        for run in range(3):
            o = as_oracle(served.url, store=tmp_path / "a")
            x = o.sample(50, np.random.default_rng(1))
            y = o(x)
            assert o.ledger.asked == 58
            if run == 0:
                first = y
            assert y.tobytes() == first.tobytes()
        assert served.questions == 58


def damage(path: Path, rng: np.random.Generator) -> str:
    """One random injury to a file."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "zero", "noise"])
    at = int(rng.integers(len(data)))
    if kind == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[at:]
    else:
        end = min(at + int(rng.integers(1, 5000)), len(data))
        data[at:end] = bytes(end - at) if kind == "zero" else rng.bytes(end - at)
    path.write_bytes(data)
    return f"{kind} at {at}"


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_store_never_gives_a_wrong_answer(seed, tmp_path, whole_store):
    path = Path(shutil.copy(whole_store, tmp_path / "a"))
    what = damage(path, np.random.default_rng(seed))
    said = ""
    try:
        stored = Stored(oracle(), path)
        y = np.concatenate([stored(part) for part in np.split(X, 3)])
    except StoreError as error:
        said = str(error)
    if said:
        assert str(path) in said
        assert len(said) < 500
    else:
        assert y.tobytes() == model(X).tobytes(), what


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a"
    stored = Stored(oracle(), path)
    for part in np.split(X, 3):
        stored(part)
    stored.memory.file.close()
    assert not path.with_name("a-wal").exists()
    return path


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "text").write_text(
        "not a database, but a text that is long enough to look like a file of something\n" * 9
    )
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    newer = AnswerFile(tmp_path / "newer")
    newer._db.execute("PRAGMA user_version=7")
    newer.close()
    for name, message in (("text", "damaged or is no store"), ("other", "not a store"), ("newer", "format 7")):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StoreError, match=message):
            Stored(oracle(), tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for path in (tmp_path, tmp_path / "none" / "a"):
        with pytest.raises(StoreError, match="folder"):
            Stored(oracle(), path)
    with pytest.raises(StoreError, match="no store at"):
        AnswerFile(tmp_path / "missing", existing=True)
    assert not (tmp_path / "missing").exists()


def test_a_read_only_store_is_one_clear_error():
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    try:
        Stored(oracle(), folder / "a")(X[:10])
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # nothing is read-only for root
        with pytest.raises(StoreError, match="may write"):
            Stored(oracle(), folder / "a")(X)
        with pytest.raises(StoreError, match="may write"):
            Stored(oracle(), folder / "b")
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def ask_on(stored: Stored) -> None:
    for k in range(99):
        stored(X + k)


def test_a_full_disk_is_one_clear_error_and_nothing_kept_is_lost(tmp_path):
    stored = Stored(oracle(), tmp_path / "a")
    stored(X[:100])
    stored.memory.file._db.execute("PRAGMA max_page_count=10")
    with pytest.raises(StoreError, match="make room on the disk"):
        ask_on(stored)
    stored.memory.file._db.execute("PRAGMA max_page_count=100000")
    np.testing.assert_array_equal(stored(X + 99), model(X + 99))  # the same run may even go on
    # A limit on the file's size fails as a disk or a quota does, at any write.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    small = Stored(oracle(), tmp_path / "b")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        with pytest.raises(StoreError, match="same command again"):
            ask_on(small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    del small
    again = Stored(oracle(), tmp_path / "b")
    np.testing.assert_array_equal(again(X), model(X))
    assert again.ledger.sent == 4  # the controls


def test_two_runs_share_a_store(tmp_path):
    a, b = Stored(oracle(), tmp_path / "a", check=False), Stored(oracle(), tmp_path / "a", check=False)
    for part in np.split(X, 3):
        np.testing.assert_array_equal(a(part), model(part))
        np.testing.assert_array_equal(b(part), model(part))
    assert (a.ledger.sent, b.ledger.sent) == (300, 0)
    with sqlite3.connect(tmp_path / "a", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        b.memory.file._db.execute("PRAGMA busy_timeout=50")
        with pytest.raises(StoreError, match="another process"):
            b(X + 1)
        other.execute("ROLLBACK")
    other.close()


def test_an_answer_takes_little_room(tmp_path):
    x = np.random.default_rng(0).standard_normal((20_000, 4))
    stored = Stored(oracle(), tmp_path / "a")
    for part in np.split(x, 20):
        stored(part)
    stored.memory.file.close()
    assert (tmp_path / "a").stat().st_size / len(x) <= 120


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npz"])
def test_the_command_line_looks_into_a_store(kind, tmp_path):
    Stored(oracle(), tmp_path / "a")(X)
    runner = CliRunner()
    told = json.loads(runner.invoke(app, ["store", "info", str(tmp_path / "a"), "--json"]).stdout)
    assert (told["answers"], told["model"]) == (300, "model")
    out = tmp_path / f"out.{kind}"
    done = runner.invoke(app, ["store", "export", str(tmp_path / "a"), "--out", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"300 answers written to {out}\n")
    if kind == "npz":
        with np.load(out) as arrays:
            keys, answers = arrays["keys"].tolist(), arrays["answers"]
    elif kind == "csv":
        rows = [line.split(",") for line in out.read_text().splitlines()]
        keys, answers = [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=float)
    else:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        keys, answers = [line["key"] for line in lines], np.array([line["answer"] for line in lines])
    assert keys == sorted(set(keys))
    assert sorted(map(tuple, answers)) == sorted(map(tuple, model(X)))
    for wrong in (["info", "missing"], ["export", str(tmp_path / "a"), "--out", "a.txt"]):
        assert runner.invoke(app, ["store", *wrong]).exit_code in (1, 2)


AUDIT = """
import sys
import numpy as np
import unveil as uv
from unveil.blackbox.row_span import row_span
oracle = uv.as_oracle(sys.argv[1], store=sys.argv[2])
span = row_span(oracle, rng=np.random.default_rng(1))
print(span.rank, span.basis.tobytes().hex(), oracle.ledger.asked, oracle.ledger.sent, flush=True)
"""
ROWS, OUT = np.random.default_rng(0).standard_normal((60, 6)), np.random.default_rng(1).standard_normal((6, 3))


@pytest.mark.slow
def test_an_audit_killed_at_random_moments_is_the_same_audit(tmp_path):
    """Four runs are killed with SIGKILL; the last one is left alone. The server is the witness."""
    rng = np.random.default_rng(20)
    with serve(n=60, delay=0.04, model=lambda x: np.tanh(x @ ROWS) @ OUT) as served:

        def start(store: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", AUDIT, served.url, str(tmp_path / store)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)

        expected = start("straight").communicate()[0].split()
        assert expected[0] == b"6"
        assert expected[2] == expected[3]
        batches, seen = served.requests, Counter(served.seen)
        served.seen.clear()
        served.requests, kills = 0, 4
        for _ in range(kills):
            # Most of a run's time goes into starting: count requests, then wait for a random part of one. More than
            # these are not answered, so that no run gets to its end however late its kill comes.
            enough = served.requests + int(rng.integers(2, 4))
            served.allowed = enough
            run = start("killed")
            while served.requests < enough and run.poll() is None:
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0, 0.06)))
            assert run.poll() is None
            run.send_signal(signal.SIGKILL)
            run.communicate()
        served.allowed = math.inf
        last = start("killed").communicate()[0].split()
        assert last[:3] == expected[:3]  # the same span to the last bit, by as many questions
        assert int(last[3]) < int(expected[3])
        assert set(served.seen) == set(seen)
        # Every batch once, but for at most the one in flight at each kill and the four controls of each new start.
        assert served.requests <= batches + kills + (kills + 1)
        asked_again = served.seen - seen
        assert sum(asked_again.values()) <= kills * 64 + 4 * (kills + 1)


def test_a_second_process_is_refused_and_the_store_is_free_when_the_first_ends(tmp_path):
    path = tmp_path / "a"
    code = (
        "import sys, unveil as uv\n"
        f"oracle = uv.as_oracle(lambda x: x[:, :2] * 1.5, shape=4, store={str(path)!r})\n"
        "print('holding', flush=True)\nsys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(unveil.__file__).parents[1])}
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert first.stdout.readline() == "holding\n"
        with pytest.raises(StoreError, match="in use"):
            as_oracle(lambda x: pytest.fail("asked"), shape=4, store=path)
        assert AnswerFile(path, existing=True).info().answers == 8  # looking into it is no asking
        first.kill()
        first.wait()
        again = as_oracle(lambda x: x[:, :2] * 1.5, shape=4, store=path)
        assert again.ledger.sent == 4  # the controls
        assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}  # nobody else's
    finally:
        first.kill()
        first.communicate()


def test_a_store_does_not_answer_for_another_function_of_the_same_name(tmp_path, rng):
    def network():
        return uv.Network.from_weights([(rng.standard_normal((5, n)), np.zeros(5)) for n in (4, 5)])

    def plain():
        inside = network()
        return lambda x: inside(x)

    def labels():
        inside = network()
        return lambda x: inside(x).argmax(axis=1)

    for name, make, match in (
        ("a", network, "another model"),
        ("b", lambda: network().logits, "another model"),
        ("c", plain, "any more"),
        ("d", labels, "any more"),
    ):
        path, one = tmp_path / name, make()
        first = as_oracle(one, shape=4, store=path)
        x = first.sample(60, rng)
        y = first(x)
        del first
        again = as_oracle(one, shape=4, store=path)
        np.testing.assert_array_equal(again(x), y)
        assert again.ledger.sent == (4 if match == "any more" else 0)  # the controls
        others, known = (make() for _ in range(50)), again.canary.questions
        other = next(each for each in others if (each(known) != one(known)).any())
        del again
        with pytest.raises(StoreError, match=match):
            as_oracle(other, shape=4, store=path)
