"""Odd arguments of the commands: what cannot be written, files of the wrong kind, budgets for no gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from unveil.cli import app
from unveil.cli.files import keep, require_writable
from unveil.outcome import BadInput, DiskFull

MODEL = """
import numpy as np
W = np.random.default_rng(0).standard_normal((3, 8))
def f(x):
    return np.maximum(x @ W.T, 0)
"""


def run(*words: object) -> tuple[int, str]:
    end = CliRunner().invoke(app, [str(word) for word in words])
    return end.exit_code, end.output


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "m.py").write_text(MODEL)
    return f"{tmp_path / 'm.py'}:f"


def test_a_folder_in_place_of_a_file_is_told_before_anything_is_asked(tmp_path: Path, model: str) -> None:
    for name in ("a.npz", "a.html", "a.onnx"):
        (tmp_path / name).mkdir()
    table = tmp_path / "t.npz"
    np.savez(table, a=np.arange(9.0), b=np.arange(9.0) ** 2, y=np.arange(9.0))
    for words in (
        ("span", model, "--shape", 8, "--force", "--out", tmp_path / "a.npz"),
        ("identify", model, "--shape", 8, "--force", "--out", tmp_path / "a.onnx"),
        ("audit", model, "--shape", 8, "--force", "--report", tmp_path / "a.html"),
        ("sensitivity", table, "--output", "y", "--out", tmp_path / "a.npz"),
        ("sensitivity", table, "--output", "y", "--report", tmp_path / "a.html"),
    ):
        code, said = run(*words)
        assert code == 2
        assert "is a folder; name a file" in said
        assert "question" not in said


def test_what_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(BadInput, match=r"may not be written; name a file elsewhere"):
        require_writable(tmp_path / "a.npz")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), DiskFull("no room")])
def test_a_result_that_cannot_be_written_is_kept_elsewhere(tmp_path: Path, error: Exception) -> None:
    out, written = tmp_path / "basis.npz", []

    def write(path: Path) -> None:
        if path == out:
            raise error
        written.append(path)

    with pytest.raises((BadInput, DiskFull), match=r"kept in .*basis\.npz"):
        keep(out, write)
    assert len(written) == 1


def test_files_that_are_not_there_are_told_as_such(tmp_path: Path) -> None:
    there = tmp_path / "a.npz"
    np.savez(there, a=np.ones((3, 8)))
    for words in (("compare", "nofile", "nofile"), ("conclude", "nofile"), ("conclude", tmp_path / "no.npz", there)):
        code, said = run(*words)
        assert code == 2
        assert "there is no file" in said


def test_examples_of_booleans_are_read_and_of_objects_refused_in_words(tmp_path: Path, model: str) -> None:
    rng = np.random.default_rng(0)
    for name, array in (("bits", rng.random((30, 8)) > 0.5), ("objects", np.array([{}], dtype=object))):
        np.savez(tmp_path / f"{name}.npz", a=array)
    code, said = run("outputs", model, "--shape", 8, "--inputs", tmp_path / "bits.npz")
    assert code == 0, said
    code, said = run("outputs", model, "--shape", 8, "--inputs", tmp_path / "objects.npz")
    assert code == 2
    assert "pickle" not in said
    np.savez(tmp_path / "labels.npz", x=rng.random((30, 8)), y=np.arange(4))
    assert "`y` left out" in run("outputs", model, "--shape", 8, "--inputs", tmp_path / "labels.npz")[1]


@pytest.mark.parametrize("wrong", ["nan", "inf", "-1"])
def test_times_that_are_none_are_told_by_their_option(wrong: str) -> None:
    for option in ("--timeout", "--longest-wait"):
        code, said = run("span", "http://127.0.0.1:9/x", "--shape", 3, "--request", "/a", option, wrong)
        assert code == 2
        assert f"{option} must be a" in said


@pytest.mark.parametrize("spare", [0, 100, 250])
def test_a_budget_that_ends_before_a_gradient_is_no_noise(spare: int) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 700)) / 26
    oracle = uv.as_oracle(lambda x: np.maximum(x @ rows.T + 0.1, 0), shape=700, budget=720 + spare)
    assert uv.row_span(oracle, rng=0).outcome is uv.Outcome.budget_ended
