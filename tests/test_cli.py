"""The command line: options, files and failures, as a person or a script meets them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from unveil import BadInput, BudgetExceeded, Network, Outcome, SourceError, UnveilError, as_oracle, save
from unveil.audit.text import printable
from unveil.cli import app, program
from unveil.cli.command import clear_errors, exit_code
from unveil.cli.inputs import read_for, read_inputs
from unveil.cli.option_texts import integers, interval, number
from unveil.cli.options import Asking, Common, load
from unveil.whitebox.activation import activation
from unveil.whitebox.formats.npz import read_npz
from unveil.whitebox.network import Layer


def image_oracle(shape=(1, 4, 4), within=None, grid=None):
    def answer(x):
        return x.reshape(len(x), -1)[:, :2] * 2.0

    return as_oracle(answer, shape=shape, within=within, grid=grid)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BudgetExceeded("over"), 4),
        (BadInput("bad"), 2),
        (SourceError("broken"), 3),
        (UnveilError("other"), 1),
        (FileNotFoundError(2, "No such file or directory", "x.onnx"), 2),
        (PermissionError(13, "Permission denied", "out.html"), 2),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_is_one_line_and_a_code(error, code, capsys):
    with pytest.raises(typer.Exit) as end, clear_errors():
        raise error
    said = capsys.readouterr()
    assert end.value.exit_code == code
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("unveil: ")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError), clear_errors():
        _ = 1 / 0
    with pytest.raises(ModuleNotFoundError), clear_errors():
        raise ModuleNotFoundError("No module named 'unveil.nowhere'", name="unveil.nowhere")


def test_a_message_cannot_steer_the_terminal(capsys):
    with pytest.raises(typer.Exit), clear_errors():
        raise BadInput("\x1b[2Jcleared\nsecond line \u202egnp.exe")
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert said.count("\n") == 1


def test_printable_keeps_ordinary_text():
    assert printable("größe 7 × 10⁻³, naïve 数字") == "größe 7 × 10⁻³, naïve 数字"
    assert len(printable("x" * 9999)) == 500


def test_outcomes_have_codes():
    assert {outcome: exit_code(outcome) for outcome in Outcome if exit_code(outcome)} == {
        Outcome.budget_ended: 4,
        Outcome.check_failed: 1,
        Outcome.approximate: 5,
        Outcome.answers_in_steps: 1,
        Outcome.not_resolved: 1,
        Outcome.not_measured: 1,
        Outcome.model_changed: 3,
    }


def test_option_texts():
    assert integers("1,28,28", "--shape") == integers("1x28x28", "--shape") == (1, 28, 28)
    assert interval("-1,0.5") == (-1.0, 0.5)
    assert number("1/255", "--grid") == 1 / 255
    assert integers("0,5,0,5", "--window", least=0) == (0, 5, 0, 5)
    for wrong in ("", "1,,2", "0,3", "a"):
        with pytest.raises(BadInput, match="whole numbers"):
            integers(wrong, "--shape")
    for wrong in ("0", "1,0", "0,1,2", "a,b", "nan,1"):
        with pytest.raises(BadInput, match="--within"):
            interval(wrong)


def test_common_draws_are_independent_of_each_other():
    assert Common(seed=3).rng("span").random() == Common(seed=3).rng("span").random()
    assert Common(seed=3).rng("span").random() != Common(seed=3).rng("other").random()


def test_a_function_in_a_file_is_asked(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("def predict(x):\n    return x[:, :2] * 3.0\n\nweights = 3\n")
    oracle = Asking(shape="5", within="0,1").oracle(f"{file}:predict")
    assert (oracle.n, oracle.m, oracle.within) == (5, 2, (0.0, 1.0))
    with pytest.raises(BadInput, match="cannot ask a int"):
        Asking(shape="5").oracle(f"{file}:weights")
    with pytest.raises(BadInput, match="has nothing called forward"):
        load(f"{file}:forward")
    file.write_text("raise RuntimeError('half a file')")
    with pytest.raises(BadInput, match="half a file"):
        load(f"{file}:predict")


def test_a_file_is_run_as_python_runs_it(tmp_path):
    """With files beside it, and with dataclasses, which look their module up."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "beside_a_model.py").write_text("factor = 3.0\n")
    file = folder / "json.py"  # a name that a module has already
    file.write_text(
        "from __future__ import annotations\nimport json\nfrom dataclasses import dataclass\n"
        "from beside_a_model import factor\n\n"
        "@dataclass\nclass Model:\n    scale: float = factor\n\n"
        "    def __call__(self, x):\n        return self.scale * x[:, :2]\n\n\nmodel = Model()\n"
    )
    assert Asking(shape="5").oracle(f"{file}:model")(np.ones((1, 5))).tolist() == [[3.0, 3.0]]
    assert load(f"{file}:json") is json


@pytest.mark.parametrize("text", ["def f(x):\n    sys.exit(0)\n", "def f(x):\n    return x\n\nsys.exit(0)\n"])
def test_a_model_that_ends_the_program_is_no_result(text, tmp_path):
    (tmp_path / "model.py").write_text(f"import sys\n\n{text}")
    ended = CliRunner().invoke(app, ["span", f"{tmp_path / 'model.py'}:f", "--shape", "3"])
    assert ended.exit_code in (2, 3)
    assert "SystemExit: 0" in ended.stderr


def test_an_estimator_in_a_file_is_asked(tmp_path):
    pytest.importorskip("sklearn")
    file = tmp_path / "model.py"
    file.write_text(
        "import numpy as np\nfrom sklearn.linear_model import LinearRegression\n"
        "model = LinearRegression().fit(np.eye(4), np.arange(4.0))\n"
    )
    oracle = Asking().oracle(f"{file}:model")
    steps = oracle(np.concatenate([np.zeros((1, 4)), np.eye(4)[1:]]))
    assert oracle.n == 4
    np.testing.assert_allclose(np.diff(steps[1:, 0]), [1, 1], atol=1e-9)


def test_npz_images_and_labels(tmp_path):
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    np.savez(tmp_path / "a.npz", other=np.array(["text"]), images=images, labels=np.array([1, 2, 3]))
    plain = read_inputs(tmp_path / "a.npz", image_oracle())
    assert np.array_equal(plain.x, images.reshape(3, 16))
    assert plain.labels is not None
    assert plain.labels.tolist() == [1, 2, 3]
    boxed = read_inputs(tmp_path / "a.npz", image_oracle(within=(0, 1)))
    assert np.array_equal(boxed.x, images.reshape(3, 16) / 255)
    assert "divided by 255" in boxed.said
    assert np.array_equal(read_inputs(tmp_path / "a.npz", image_oracle(), scale=2.0).x, images.reshape(3, 16) / 2)
    assert len(read_inputs(tmp_path / "a.npz", image_oracle(), most=2).x) == 2
    with pytest.raises(BadInput, match="outside the legal range"):
        read_inputs(tmp_path / "a.npz", image_oracle(within=(0, 2)))


def test_csv_png_npy_and_folders(tmp_path):
    from PIL import Image

    rows = np.random.default_rng(0).integers(0, 256, (2, 16))
    with_label = np.column_stack([[7, 9], rows])
    np.savetxt(tmp_path / "a.csv", with_label, delimiter=",", fmt="%d", header="label,pixels", comments="")
    read = read_inputs(tmp_path / "a.csv", image_oracle(within=(0, 1)))
    assert np.array_equal(read.x, rows / 255)
    assert read.labels is not None
    assert read.labels.tolist() == [7, 9]
    Image.fromarray(rows[0].reshape(4, 4).astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(read_inputs(tmp_path / "a.png", image_oracle(within=(0, 1))).x, rows[:1] / 255)
    assert np.array_equal(read_inputs(tmp_path, image_oracle(within=(0, 1))).x, rows[:1] / 255)
    colour = np.random.default_rng(1).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    taken = read_inputs(tmp_path / "c.png", image_oracle((3, 4, 4), within=(0, 1)))
    assert np.array_equal(taken.x[0], colour.transpose(2, 0, 1).ravel() / 255)
    np.save(tmp_path / "c.npy", colour[None])
    moved = read_inputs(tmp_path / "c.npy", image_oracle((3, 4, 4), within=(0, 1)))
    assert np.array_equal(moved.x, taken.x)
    np.save(tmp_path / "one.npy", np.zeros((4, 4)))
    assert read_inputs(tmp_path / "one.npy", image_oracle()).x.shape == (1, 16)


def _pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _torn(path: Path) -> None:
    whole = io.BytesIO()
    np.savez(whole, images=np.zeros((3, 16)))
    path.write_bytes(whole.getvalue()[:200])


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pickle.npy", _pickle),
        ("torn.npz", _torn),
        ("empty.npz", lambda path: path.write_bytes(b"")),
        ("noise.npz", lambda path: path.write_bytes(bytes(range(256)))),
        ("arrayless.npz", _zip),
        ("text.csv", lambda path: path.write_text("a,b\nc,d\n")),
        ("empty.csv", lambda path: path.write_text("")),
        ("fake.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nrest")),
        ("notes.txt", lambda path: path.write_text("hello")),
        ("missing.npz", lambda path: None),
        ("wide.npy", lambda path: np.save(path, np.zeros((2, 17)))),
        ("hole.npy", lambda path: np.save(path, np.full((2, 16), np.nan))),
        ("none.npy", lambda path: np.save(path, np.zeros((0, 16)))),
        ("words.npy", lambda path: np.save(path, np.full((2, 16), "a"))),
        ("folder", lambda path: path.mkdir()),
    ],
)
def test_a_bad_file_is_a_clear_error(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(BadInput) as error:
        read_inputs(tmp_path / name, image_oracle())
    assert name in str(error.value)
    assert "load it unsafely" not in str(error.value)


def test_whole_numbers_are_pictures_for_a_network_too(tmp_path):
    network = Network.from_weights([(np.eye(4), np.zeros(4))])
    cases = {
        "whole.npy": (np.array([[0, 51, 102, 255]]), [[0, 0.2, 0.4, 1]]),
        "large.npy": (np.array([[0, 300, 1, 2]]), [[0, 300, 1, 2]]),
        "negative.npy": (np.array([[0.5, -0.5, 0, 0]]), [[0.5, -0.5, 0, 0]]),
    }
    for name, (written, expected) in cases.items():
        np.save(tmp_path / name, written)
        np.testing.assert_allclose(read_for(network, tmp_path / name).x, expected)
    with pytest.raises(BadInput, match=r"outside the legal range \[0, 1\]"):
        read_for(network, tmp_path / "negative.npy", within=(0, 1))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    with pytest.raises(BadInput, match="expected \\(N, 4\\)"):
        read_for(network, tmp_path / "wide.npy")


def test_the_stability_command_takes_pictures_and_windows(tmp_path):
    layer = Layer(np.diag(np.arange(1.0, 17)), np.full(16, -0.5), activation("relu"))
    save(Network((layer,), (1, 4, 4)), tmp_path / "net.npz")
    np.save(tmp_path / "whole.npy", np.r_[0, np.arange(15) + 241].reshape(1, 1, 4, 4))
    given = ["stability", str(tmp_path / "net.npz"), "--inputs", str(tmp_path / "whole.npy"), "--json"]
    # Of 8-bit pixels divided by 255 all but the first, which is black, exceed the threshold of their neuron.
    for options, expected in (([], np.r_[16:1:-1, 0]), (["--window", "0,2,0,2"], [6, 5, 2, 0])):
        result = CliRunner().invoke(app, [*given, *options])
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(json.loads(result.stdout)["layers"][0]["after"], expected)
    for wrong in ("0,2", "2,0,0,2", "0,2,0,5"):
        assert CliRunner().invoke(app, [*given, "--window", wrong]).exit_code == 2


def test_identify_takes_examples_in_raw_units(tmp_path):
    """Four inputs of about 1 +- 0.01: far off the questions that are asked without examples."""
    rng = np.random.default_rng(4)
    w, v = rng.standard_normal((5, 4)), rng.standard_normal((2, 5))
    np.savez(tmp_path / "weights.npz", w=w, v=v)
    examples = rng.normal(1, 0.01, (50, 4))
    np.save(tmp_path / "examples.npy", examples)
    (tmp_path / "model.py").write_text(
        f"import numpy as np\nkept = np.load({str(tmp_path / 'weights.npz')!r})\n"
        "def answer(x):\n    return np.maximum((x - 1) / 0.01 @ kept['w'].T + 0.3, 0) @ kept['v'].T\n"
    )
    given = ["identify", f"{tmp_path / 'model.py'}:answer", "--shape", "4", "--inputs", str(tmp_path / "examples.npy")]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "found.npz"), "--quiet"])
    assert result.exit_code == 0, result.output
    found = read_npz(tmp_path / "found.npz")(examples)
    assert np.abs(found - np.maximum((examples - 1) / 0.01 @ w.T + 0.3, 0) @ v.T).max() < 1e-6
    wrong = CliRunner().invoke(app, [*given, "--method", "surrogate"])
    assert wrong.exit_code == 2
    assert "--inputs" in wrong.output


def test_options_that_nothing_would_use_are_refused(tmp_path):
    save(Network.from_weights([(np.eye(3), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    model, examples = str(tmp_path / "net.onnx"), ["--inputs", str(tmp_path / "x.npy")]
    for command in ("span", "outputs", "identify", "audit"):
        result = CliRunner().invoke(app, [command, model, "--scale", "255"])
        assert result.exit_code == 2, command
        assert "--inputs" in result.output
    assert CliRunner().invoke(app, ["span", model, "--deviation", "-1"]).exit_code == 2
    given = ["obfuscate", model, *examples, "--out", str(tmp_path / "o.npz")]
    result = CliRunner().invoke(app, [*given, "--noise", "0"])
    assert result.exit_code == 2
    assert "--noise" in result.output


def test_ctrl_c_while_a_command_is_loaded_is_told_in_one_sentence(monkeypatch):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("unveil.cli.program.import_module", stop)
    commands = program._Commands()
    with pytest.raises(SystemExit) as end:
        commands["span"]
    assert end.value.code == 130


def test_numbers_without_a_bound_are_refused(tmp_path):
    save(Network((Layer(np.eye(3), np.zeros(3), activation("relu")),)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.full((2, 3), 0.5))
    for command, option in (("lookalike", "--epsilon"), ("obfuscate", "--noise")):
        words = [command, str(tmp_path / "net.onnx"), "--inputs", str(tmp_path / "x.npy"), option, "inf"]
        ended = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out.npz")])
        assert ended.exit_code == 2, ended.output
        assert "finite" in ended.stderr


def test_identify_tells_a_constant_and_an_affine_map_from_neurons(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import numpy as np\n"
        "def constant(x): return np.full((len(x), 2), [np.pi, -1 / 3])\n"
        "def coarse(x): return np.full((len(x), 2), [0.25, -3.5])\n"
        "def affine(x): return x @ np.array([[1.0], [2.0], [-1.5]]) + 1\n"
    )
    for name, said in (
        ("constant", "a constant, 3.14159, -0.333333, without a neuron"),
        ("coarse", "Not resolved: noise or rounding hides"),  # four bits may hide a change of less than a step
        ("affine", "an affine map, without a"),
    ):
        told = CliRunner().invoke(
            app, ["identify", f"{tmp_path / 'model.py'}:{name}", "--shape", "3", "--budget", "5000"]
        )
        assert said in told.output
        assert " 1 neurons" not in told.output
        assert ("Nothing to find" in told.output) == (name == "constant")
