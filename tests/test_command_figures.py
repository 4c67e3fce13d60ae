"""Commands tell the figures that the library measures, and write what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import random_weights
from unveil.cli import app


def run(*words: object, code: int = 0) -> dict[str, Any]:
    """What a command tells a script."""
    ended = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert ended.exit_code == code, ended.output
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_two_networks_are_compared_up_to_order_and_scale(tmp_path: Path, rng: np.random.Generator) -> None:
    (w, b), (v, c) = random_weights((6, 5, 2), rng, bias=0.5)
    truth = uv.Network.from_weights([(w, b), (v, c)])
    order, scale = rng.permutation(5), rng.uniform(0.5, 2, 5)
    same = uv.Network.from_weights([((w * scale[:, None])[order], (b * scale)[order]), ((v / scale)[:, order], c)])
    fewer = uv.Network.from_weights([(w[:4], b[:4]), (v[:, :4], c)])
    for name, network in (("truth", truth), ("same", same), ("fewer", fewer)):
        uv.save(network, tmp_path / f"{name}.npz")
    told = run("compare", tmp_path / "same.npz", tmp_path / "truth.npz")
    assert (told["missing"], told["false"]) == (0, 0)
    assert told["function_error"] < 1e-12
    assert told["layers"][0]["weight_error"] < 1e-12
    told = run("compare", tmp_path / "fewer.npz", tmp_path / "truth.npz")
    assert (told["missing"], told["false"]) == (1, 0)
    assert told["function_error"] > 1e-3


def test_questions_planned_in_advance_tell_the_span_once_they_are_answered(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((3, 12))
    asked, answered = tmp_path / "plan.npz", tmp_path / "answers.npz"
    told = run("plan", 12, "--rank-at-most", 4, "--precision", 64, "--out", asked)
    questions = np.load(asked)["questions"]
    assert questions.shape == (told["questions"], 12)
    np.savez(answered, answers=np.tanh(questions @ rows.T))
    told = run("conclude", asked, answered, "--out", tmp_path / "basis.npz")
    assert told["rank"] == 3
    basis = np.load(tmp_path / "basis.npz")["basis"]
    assert np.abs(rows - rows @ basis.T @ basis).max() <= 10 * told["accuracy"] * np.abs(rows).max()


def test_a_span_is_written_that_hides_noise_from_the_model(tmp_path: Path, rng: np.random.Generator) -> None:
    network = uv.Network.from_weights(random_weights((12, 3, 2), rng, bias=0.5), "tanh")
    model, basis, pictures = (tmp_path / name for name in ("net.onnx", "basis.npz", "x.npy"))
    uv.save(network, model)
    told = run("span", model, "--out", basis)
    assert told["rank"] == 3
    np.save(pictures, rng.standard_normal((4, 12)).astype(np.float32))
    run("obfuscate", model, "--inputs", pictures, "--basis", basis, "--out", tmp_path / "hidden.npz")
    hidden = np.load(tmp_path / "hidden.npz")
    x, y = np.load(pictures), hidden["inputs"].reshape(4, 12)
    assert np.linalg.norm(y - x, axis=1).min() > np.linalg.norm(x, axis=1).max()
    assert np.abs(network(y) - network(x)).max() < 1e-3


def test_inputs_that_give_an_output_are_found_or_proved_not_to_exist(tmp_path: Path) -> None:
    first = np.array([[1.0, 0, 1], [0, 1, -1]])
    network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
    uv.save(network, tmp_path / "net.npz")
    np.save(tmp_path / "of.npy", np.array([[1.5], [9.0]]))
    told = run(
        "inputs", tmp_path / "net.npz", "--of", tmp_path / "of.npy", "--within", "0,1", "--out", tmp_path / "x.npz"
    )
    assert told["verdicts"] == {"found": 1, "none": 1, "not found": 0}
    kept = np.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(kept["found"], [True, False])
    assert network(kept["x"][:1]).item() == pytest.approx(1.5, abs=1e-6)
    assert kept["x"].min() >= 0
    assert kept["x"].max() <= 1


def test_a_change_that_the_model_in_the_file_notices_fails(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv.save(uv.Network.from_weights(random_weights((6, 4, 3), rng, bias=0.5)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", rng.random((3, 6)))
    words = "lookalike", tmp_path / "net.onnx", "--inputs", tmp_path / "x.npy", "--x", 0, "--epsilon", 0.05
    assert run(*words)["difference"] <= 0.05 + 1e-3
    monkeypatch.setattr(uv.LargeChange, "check", lambda self, model: 2 * self.epsilon)
    run(*words, code=1)


@pytest.mark.parametrize(
    "command", ["audit", "span", "outputs", "obfuscate", "identify", "lookalike", "preimage", "stability"]
)
def test_every_command_says_how_it_read_the_examples(command: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Which array, which columns, which rows not: what a file was taken for is no guess that stays unsaid."""
    uv.save(uv.Network.from_weights(random_weights((4, 3, 2), rng, bias=0.5)), tmp_path / "net.onnx")
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{d:.3f},{i % 2}" for i, (a, b, c, d) in enumerate(rng.random((9, 4)))]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,class", *lines, "0.5,,0.5,0.5,1"]) + "\n")
    where = {"audit": ["--report", tmp_path / "page.html", "--plan"], "obfuscate": ["--out", tmp_path / "hidden.npz"]}
    words = command, tmp_path / "net.onnx", "--inputs", tmp_path / "t.csv", *where.get(command, [])
    said = CliRunner().invoke(app, [*map(str, words)]).stderr
    assert said.count("Read 9 inputs from") == 1, said
    assert "labels from column 'class'" in said
    assert "1 rows without a value in some column left out" in said
