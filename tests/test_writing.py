"""What is written stays whole: every file the library makes, a full disk, an interruption, and files already there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from unveil.audit.page import wrote
from unveil.audit.run import run
from unveil.audit.stage import Audit, Stage
from unveil.audit.verdict import DISK, INTERRUPTED, USAGE
from unveil.blackbox.answer_export import export_answers
from unveil.blackbox.answer_file import AnswerFile
from unveil.blackbox.plan import plan
from unveil.cli import app
from unveil.cli.files import keep
from unveil.writing import write_text, written


@contextmanager
def at_most(size: int):
    """No file may grow beyond so many bytes: what a full disk looks like, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def network() -> uv.Network:
    rng = np.random.default_rng(0)
    return uv.Network.from_weights(
        [(rng.standard_normal((40, 30)), rng.standard_normal(40)), (rng.standard_normal((3, 40)), np.zeros(3))]
    )


def writers(folder: Path):
    """Everything that writes a file: its name, and what writes it."""
    known = network()
    answers = AnswerFile(folder / "answers.sqlite")
    answers.put([(bytes([i]) * 16, b"d" + np.random.default_rng(i).standard_normal(40).tobytes()) for i in range(40)])
    oracle = uv.as_oracle(known.logits, shape=30)
    span = uv.output_span(oracle, rng=np.random.default_rng(1), most=64)
    asked = plan(30, 4, rng=np.random.default_rng(2))
    page = uv.Page("model", ())
    return {
        "network.npz": lambda path: uv.save(known, path),
        "network.onnx": lambda path: uv.save(known, path),
        "plan.npz": asked.save,
        "outputs.npz": span.save,
        "export.csv": lambda path: export_answers(answers, path),
        "export.jsonl": lambda path: export_answers(answers, path),
        "export.npz": lambda path: export_answers(answers, path),
        "page.html": page.write,
    }


def test_every_file_is_whole_or_as_it_was_and_the_owners_alone(tmp_path):
    for name, write in writers(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(b"what was there before")
        with at_most(300), pytest.raises(uv.DiskFull, match=name):
            write(path)
        assert path.read_bytes() == b"what was there before"
        write(path)
        assert path.stat().st_size > 300
        assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_file_is_untouched_by_what_interrupts_its_writing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def half() -> None:
        with written(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link_and_a_missing_folder_is_named(tmp_path):
    (tmp_path / "there").symlink_to(tmp_path / "real")
    write_text(tmp_path / "there", "text")
    assert (tmp_path / "there").is_symlink()
    assert (tmp_path / "real").read_text() == "text"
    for wrong in (tmp_path / "nowhere" / "a.txt", tmp_path):
        with pytest.raises(OSError) as error:  # noqa: PT011  the file it names is what is looked at
            write_text(wrong, "text")
        assert error.value.filename == str(wrong)


def test_where_the_disk_is_full_the_result_is_kept_elsewhere(tmp_path, monkeypatch):
    def write(path: Path) -> None:
        if path.parent == tmp_path:
            raise uv.DiskFull(f"{path} could not be written")
        write_text(path, "weights")

    with pytest.raises(uv.DiskFull, match=r"kept in (\S+)") as error:
        keep(tmp_path / "found.npz", write)
    kept = Path(str(error.value).rpartition(" ")[2])
    assert kept.read_text() == "weights"
    kept.unlink()
    kept.parent.rmdir()


def test_a_store_is_the_owners_alone_and_says_when_the_disk_is_full(tmp_path):
    path = tmp_path / "answers.sqlite"
    store = AnswerFile(path)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}

    def fill() -> None:
        for i in range(100):
            store.put([(i.to_bytes(16), bytes(20_000))])

    with at_most(100_000), pytest.raises(uv.DiskFull, match=r"answers\.sqlite") as error:
        fill()
    assert isinstance(error.value, uv.StoreError)
    assert len(list(store)) > 0


MODEL = """
def model(x):
    return x[:, :3] * 2.0

def other(x):
    return x[:, 1:4]
"""


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_nothing_is_overwritten_without_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    uv.save(network(), tmp_path / "known.npz")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(size=(4, 30)))
    precious = b"the work of a week"
    asking = (f"{model}:model", "--shape", 6, "-q")
    commands = [
        ("span", *asking, "--out", "out.npz"),
        ("outputs", *asking, "--out", "out.npz"),
        ("identify", *asking, "--out", "out.npz"),
        ("obfuscate", *asking, "--inputs", "x.npz", "--out", "out.npz"),
        ("plan", 30, "--rank-at-most", 3, "--out", "out.npz"),
        ("conclude", "plan.npz", "answers.npz", "--out", "out.npz"),
        ("lookalike", "known.npz", "--inputs", "x.npz", "--out", "out.npz"),
        ("store", "export", "answers.sqlite", "--out", "out.npz"),
        ("audit", *asking, "--report", "out.html"),
    ]
    AnswerFile(tmp_path / "answers.sqlite").close()
    (tmp_path / "out.html").write_bytes(precious)
    (tmp_path / "out.npz").write_bytes(precious)
    for arguments in commands:
        end = invoke(*arguments)
        assert end.exit_code == USAGE, (arguments, end.output)
        assert "--force" in end.stderr
        assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "out.html").read_bytes() == precious
    assert invoke("plan", 30, "--rank-at-most", 3, "--out", "out.npz", "--force").exit_code == 0
    assert "questions" in np.load(tmp_path / "out.npz")
    audit = ("audit", *asking, "--report", "page.html")
    (tmp_path / "page.json").write_bytes(precious)
    assert invoke(*audit).exit_code == USAGE
    (tmp_path / "page.json").unlink()
    assert invoke(*audit, "--budget", 200).exit_code != USAGE
    assert wrote(tmp_path / "page.html")
    # The page about the same model is written anew: an audit that ended early goes on. That of another is not lost.
    assert invoke(*audit, "--budget", 220).exit_code != USAGE
    assert json.loads((tmp_path / "page.json").read_text())["budget"] == 220
    end = invoke("audit", f"{model}:other", "--shape", 6, "-q", "--report", "page.html", "--budget", 200)
    assert end.exit_code == USAGE
    assert "another model" in end.stderr


def test_a_full_disk_has_its_own_exit_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with at_most(300):
        end = invoke("plan", 30, "--rank-at-most", 3)
    assert end.exit_code == DISK
    assert "questions.npz" in end.stderr


def test_an_interrupted_audit_tells_what_was_found():
    def stop(audit: Audit) -> None:
        raise KeyboardInterrupt

    def never(audit: Audit) -> None:
        raise AssertionError("a stage ran after the interruption")

    oracle = uv.as_oracle(lambda x: x[:, :2], shape=4)
    page = run(Audit(oracle), [Stage("one", "One thing", stop), Stage("two", "Another", never)])
    assert page.exit_code == INTERRUPTED
    assert "interrupted" in page.html()
    assert page.all_figures()["one"]["outcome"] == "Interrupted"


@pytest.mark.parametrize("command", ["audit", "span"])
def test_ctrl_c_ends_in_one_sentence_and_the_same_command_goes_on(tmp_path, command):
    (tmp_path / "model.py").write_text(
        textwrap.dedent("""
        import time
        def model(x):
            open("asked", "a").write("x")
            time.sleep(0.2)
            return x[:, :3] ** 2
        """)
    )
    line = [sys.executable, "-m", "unveil", command, "model.py:model", "--shape", "40", "--store", "kept.sqlite"]
    here = os.environ | {"PYTHONPATH": str(Path(uv.__file__).parents[1])}
    piped = subprocess.PIPE
    # Where the tests themselves run in the background an interruption is ignored, and children would inherit that.
    heard = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        running = subprocess.Popen(line, cwd=tmp_path, env=here, stdout=piped, stderr=piped, text=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    for _ in range(600):
        time.sleep(0.05)
        if (tmp_path / "asked").exists() and (tmp_path / "asked").stat().st_size > 8:
            break
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == INTERRUPTED, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("unveil: interrupted")
    assert "kept in kept.sqlite, and the same command goes on" in said.replace("\n", " ")
    assert (tmp_path / "audit.html").exists() == (command == "audit")
    assert len(list(AnswerFile(tmp_path / "kept.sqlite", existing=True))) > 0


def test_what_models_and_libraries_print_is_not_among_the_json(tmp_path: Path) -> None:
    code = """
    import os
    import numpy as np
    print("model: loaded")

    def model(x):
        print("model: asked")
        os.write(1, b"solver: one more line\\n")
        return np.tanh(x @ np.arange(12.0).reshape(6, 2) / 12)
    """
    (tmp_path / "model.py").write_text(textwrap.dedent(code))
    line = [sys.executable, "-m", "unveil", "span", "model.py:model", "--shape", "6", "--json"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.loads(ended.stdout)["rank"] == 2
    assert {"solver: one more line", "model: loaded", "model: asked"} <= set(ended.stderr.splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
@pytest.mark.parametrize("raised", ["BadInput('x')", "None"])
def test_where_stdout_takes_nothing_the_exit_code_holds(raised):
    code = f"""
import typer
from unveil.cli.command import clear_errors, results
from unveil.outcome import BadInput
def main():
    with clear_errors(as_json=True):
        if {raised} is not None:
            raise {raised}
        print("x" * 10_000, file=results(), flush=True)
typer.run(main)
"""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == (6 if raised == "None" else 2)
    assert ended.stderr.startswith("unveil: ")
    assert ended.stderr.count("\n") == 1
