"""The main job and its commands, from the command line to the files they write."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from tests.helpers import onnx_net, random_weights
from tests.test_page import CHROMIUM, assert_equals_json, assert_fits, assert_self_contained
from unveil.audit.stages import STAGES
from unveil.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def unveil(*words: object):
    """The command in this process: its exit code, standard output and standard error."""
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def weights():
    """36-6-5; the first layer's biases put the middle of [0, 1] on every neuron's breakpoint."""
    (first, _), second = random_weights([36, 6, 5], np.random.default_rng(2), dtype=np.float32)
    return [(first, -first.sum(axis=1) / 2), second]


@pytest.fixture(scope="module")
def audited(tmp_path_factory, weights):
    """One audit of a small ONNX file with a hostile name, and what it said."""
    folder = tmp_path_factory.mktemp("audit")
    model = onnx_net(weights, folder / "<img src=x onerror=alert(1)>'.onnx", batch=1)
    np.savez(folder / "images.npz", images=np.random.default_rng(0).random((9, 6, 6)), labels=np.arange(9) % 5)
    said = unveil("audit", model, "--inputs", folder / "images.npz", "--report", folder / "audit.html", "--json")
    return folder, said


def test_an_audit_writes_a_page_a_json_and_arrays(audited, weights):
    folder, said = audited
    assert said.exit_code == 0, said.stderr
    figures = json.loads(said.stdout)
    assert json.loads((folder / "audit.json").read_text()) == {k: v for k, v in figures.items() if k != "files"}
    assert sorted(Path(file).name for file in figures["files"]) == [
        "audit.basis.npz", "audit.examples.npz", "audit.html", "audit.json",
    ]  # fmt: skip
    assert figures["span"]["rank"] == 6
    assert figures["oracle"]["n"] == 36
    assert figures["queries"] == sum(row["questions"] for row in figures["asked"]["for"])
    assert figures["obfuscation"]["free"]["unchanged"] == 9
    basis = np.load(folder / "audit.basis.npz")["basis"]
    first = weights[0][0].astype(float)
    outside = first - first @ basis.T @ basis
    assert np.linalg.norm(outside) < 1e-3 * np.linalg.norm(first)
    assert "9 inputs" in said.stderr
    assert "This will ask about" in said.stderr


def test_the_page_is_safe_and_its_numbers_are_the_figures(audited):
    folder, _ = audited
    text = (folder / "audit.html").read_text()
    assert_self_contained(text)
    assert "<img src=x" not in text
    assert assert_equals_json(text, json.loads((folder / "audit.json").read_text())) > 15
    assert text.index("<h1>") < 20_000  # the verdict comes before everything but the style


def test_the_lines_on_the_page_check_the_finding(audited, monkeypatch, capsys):
    folder, _ = audited
    monkeypatch.chdir(folder)
    code = re.search(r"<pre><code>(.*?)</code></pre>", (folder / "audit.html").read_text(), re.DOTALL)
    assert code
    exec(compile(unescape(code[1]), "page", "exec"), {})
    hidden, usual = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert hidden < 1e-3 * usual


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_an_audit_fits_on_a_telephone(audited, tmp_path):
    assert_fits(audited[0] / "audit.html", tmp_path)


def test_the_same_seed_writes_the_same_bytes_but_for_when_and_how(audited):
    folder, _ = audited
    model = next(folder.glob("*.onnx"))
    again = unveil("audit", model, "--inputs", folder / "images.npz", "--report", folder / "again" / "audit.html")
    assert again.exit_code == 0
    for name in ("audit.html", "audit.json", "audit.basis.npz", "audit.examples.npz"):
        first, second = ((place / name).read_bytes() for place in (folder, folder / "again"))
        if not name.endswith(".npz"):
            # Only the time and the command line, which names another page, may differ.
            first, second = (
                [line for line in text.splitlines() if b"<dt>When" not in line and b"<dt>Command" not in line
                 and b'"when"' not in line and b'"command"' not in line]
                for text in (first, second)
            )  # fmt: skip
        assert first == second, name


def test_a_budget_ends_with_code_4_and_a_page(audited, tmp_path):
    model = next(audited[0].glob("*.onnx"))
    for budget in (100, 300):
        ended = unveil("audit", model, "--budget", budget, "--report", tmp_path / "page.html", "--json")
        assert ended.exit_code == 4, ended.stderr
        figures = json.loads(ended.stdout)
        assert figures["queries"] <= budget
        assert "budget_ended" in figures["outcomes"].values()
        assert figures["status"] == "not_measured"
        assert "budget ended" in figures["verdict"]
        assert_self_contained((tmp_path / "page.html").read_text())
    refused = unveil("audit", model, "--budget", 3, "--report", tmp_path / "none.html")
    assert refused.exit_code == 4
    assert not (tmp_path / "none.html").exists()


def test_in_a_box_nothing_illegal_is_asked(tmp_path, weights):
    held = [[array.astype(float).tolist() for array in pair] for pair in weights]
    (tmp_path / "model.py").write_text(
        "import numpy as np\n"
        f"(first, bias), (second, _) = [[np.array(a) for a in pair] for pair in {held}]\n"
        "def predict(x):\n"
        "    assert x.min() >= 0 and x.max() <= 1\n"
        "    return np.maximum(x @ first.T + bias, 0) @ second.T\n"
    )
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    said = unveil(
        "audit", f"{tmp_path}/model.py:predict", "--shape", 36, "--within", "0,1", "--inputs", tmp_path / "images.npz",
        "--report", tmp_path / "audit.html", "--json",
    )  # fmt: skip
    assert said.exit_code == 0, said.stderr
    figures = json.loads(said.stdout)
    assert figures["span"]["rank"] == 6
    assert [k for k in figures["obfuscation"] if k in ("free", "boxed")] == ["boxed"]
    assert figures["obfuscation"]["boxed"]["unchanged"] == 9
    examples = np.load(tmp_path / "audit.examples.npz")
    assert np.allclose(examples["inputs"], images.reshape(9, 36) / 255)
    assert examples["boxed"].min() >= 0
    assert examples["boxed"].max() <= 1
    assert "divided by 255" in said.stderr


def test_span_and_obfuscate(tmp_path, weights):
    model = onnx_net(weights, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((4, 36)))
    found = unveil("span", model, "--out", tmp_path / "basis.npz", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["rank"] == 6
    out, basis = tmp_path / "hidden.npz", tmp_path / "basis.npz"
    made = unveil("obfuscate", model, "--inputs", tmp_path / "x.npy", "--basis", basis, "--out", out, "--noise", 5)
    assert made.exit_code == 0, made.stderr
    assert "4 of 4 answers stay" in made.stdout
    told = np.load(out)
    noise = np.linalg.norm(told["inputs"] - told["originals"], axis=1) / np.linalg.norm(told["originals"], axis=1)
    assert np.allclose(noise, 5, rtol=1e-3)
    wrong = unveil("obfuscate", model, "--inputs", tmp_path / "x.npy", "--basis", tmp_path / "x.npy", "--out", "y.npz")
    assert wrong.exit_code == 2
    assert "holds no basis" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["audit"], 2, "SOURCE"),
        (["audit", "missing.onnx"], 2, "missing.onnx"),
        (["audit", "notes.txt"], 2, "notes.txt"),
        (["audit", "broken.onnx"], 3, "broken.onnx"),
        (["audit", "model.py:missing", "--shape", "3"], 2, "nothing called missing"),
        (["audit", "model.py:fine"], 2, "shape"),
        (["audit", "model.py:fine", "--shape", "3,a"], 2, "--shape"),
        (["audit", "model.py:fine", "--shape", "3", "--within", "1,0"], 2, "--within"),
        (["audit", "model.py:fine", "--shape", "3", "--grid", "x"], 2, "--grid"),
        (["audit", "model.py:fine", "--shape", "3", "--budget", "-1"], 2, "--budget"),
        (["audit", "model.py:fine", "--shape", "3", "--inputs", "missing.npz"], 2, "missing.npz"),
        (["audit", "model.py:fine", "--shape", "3", "--inputs", "broken.npz"], 2, "broken.npz"),
        (["audit", "model.py:fine", "--shape", "3", "--report", "page.pdf"], 2, "page.pdf"),
        (["audit", "model.py:holes", "--shape", "3"], 3, "NaN"),
        (["audit", "model.py:chance", "--shape", "3"], 3, "differently"),
        (["audit", "model.py:crash", "--shape", "3"], 3, "out of luck"),
        (["span", "model.py:fine", "--shape", "3", "--out", "basis.txt"], 2, "basis.txt"),
        (["obfuscate", "model.py:fine", "--shape", "3", "--out", "x.npz"], 2, "--inputs"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(tmp_path, monkeypatch, words, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage" * 9)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "model.py").write_text(
        "import numpy as np\n"
        "def fine(x): return x[:, :2]\n"
        "def holes(x): return x[:, :2] * np.nan\n"
        "def chance(x): return np.random.default_rng().random((len(x), 2))\n"
        "def crash(x): raise RuntimeError('out of luck')\n"
    )
    ended = unveil(*words)
    assert ended.exit_code == code, ended.stderr
    assert says in re.sub(r"\s*[│\n]\s*", " ", ended.stderr)
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not list(tmp_path.glob("*.html"))


def test_piped_output_is_plain_and_quiet_is_quiet(tmp_path):
    (tmp_path / "model.py").write_text("def fine(x): return x[:, :2] * 1.5\n")
    words = [sys.executable, "-m", "unveil", "audit", "model.py:fine", "--shape", "6", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": ""}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("fine ")
    assert [line.split()[:2] for line in lines[1:-1]] == [["High", "UNV-NOISE"], ["Medium", "UNV-SPAN"]]
    assert "questions asked" in lines[-1]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_sees_progress(tmp_path):
    (tmp_path / "model.py").write_text("def fine(x): return x[:, :2] * 1.5\n")
    ours, theirs = os.openpty()
    words = [sys.executable, "-m", "unveil", "audit", "model.py:fine", "--shape", "6", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm"}
    pieces: list[bytes] = []

    def read() -> None:
        # A terminal that nobody reads takes some thousand bytes and then makes the writer wait for ever.
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while piece := os.read(ours, 10_000):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True)
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    shown = b"".join(pieces).decode()
    assert "Looking for the directions it sees" in shown
    assert "questions" in shown
    assert json.loads(done.stdout)["span"]["rank"] == 2


def test_a_plan_asks_only_to_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("def fine(x): return x[:, :2] * 1.5\n")
    said = unveil("audit", "model.py:fine", "--shape", 6, "--plan", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["queries"] == 72
    assert not list(tmp_path.glob("audit.*"))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_a_page(name):
    command = COMMANDS[name]
    assert command.help
    assert len(command.help.splitlines()[0]) > 20
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if f"unveil {name}" in page.read_text()]
    assert pages, f"no page in docs/ tells of `unveil {name}`"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))])
def test_commands_in_the_docs_parse(page):
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            found = re.search(r"(?:^|/|&& )unveil (\S.*?)(?: &&.*|  #.*)?$", line)
            if found:
                name, *words = shlex.split(found[1])
                COMMANDS[name].make_context(name, words)


@pytest.mark.skipif(not os.environ.get("UNVEIL_DATA"), reason="needs UNVEIL_DATA")
@pytest.mark.parametrize(
    ("file", "budget", "words"),
    [
        ("ACASXU_run2a_1_1_batch_2000.onnx", 20_000, []),
        ("mnist-net_256x2.onnx", 3_000, ["--within", "0,1"]),
        ("Convnet_maxpool.onnx", 4_000, ["--within", "0,1"]),
        ("cifar_base_kw.onnx", 4_000, []),
        ("resnet_2b.onnx", 4_000, []),
    ],
)
def test_networks_of_others(tmp_path, file, budget, words):
    model = Path(os.environ["UNVEIL_DATA"], "onnx", file)
    ended = unveil("audit", model, "--budget", budget, "--report", tmp_path / "page.html", "--json", *words)
    # Whatever a budget this small shows: measured, approximate, not resolved or ended, never an error.
    assert ended.exit_code in (0, 1, 4, 5), ended.stderr
    figures = json.loads(ended.stdout)
    assert 0 < figures["queries"] <= budget
    text = (tmp_path / "page.html").read_text()
    assert_self_contained(text)
    assert_equals_json(text, json.loads((tmp_path / "page.json").read_text()))
    if file.startswith("ACAS"):
        assert figures["span"]["outcome"] == "full_rank"
        assert figures["span"]["rank"] == 5


def test_labels_alone_show_the_same_directions(tmp_path, weights):
    """Of a 36-6-5 network that tells its class and nothing else, the span of the first layer."""
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).random((9, 6, 6)))
    model = onnx_net(weights, tmp_path / "model.onnx")
    words = ["--labels", "--inputs", tmp_path / "images.npz", "--report", tmp_path / "audit.html", "--json"]
    said = unveil("audit", model, *words)
    assert said.exit_code == 0, said.stderr
    figures = json.loads(said.stdout)
    assert figures["oracle"]["answers"] == "labels"
    assert figures["span"]["rank"] == 6
    assert figures["obfuscation"]["free"]["unchanged"] == 9
    assert "probability" not in figures["obfuscation"]["free"]
    text = (tmp_path / "audit.html").read_text()
    assert_self_contained(text)
    assert assert_equals_json(text, json.loads((tmp_path / "audit.json").read_text())) > 5


def test_weights_are_read_off_labels_and_what_was_read_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Of ten such models one has a class that is hardly ever met, and is read approximately: one of three will do.
    for seed in (4, 5, 6):
        (tmp_path / "model.py").write_text(
            "import numpy as np\n"
            f"rng = np.random.default_rng({seed})\n"
            "w, b = rng.standard_normal((5, 6)), 0.3 * rng.standard_normal(5)\n"
            "v, c = rng.standard_normal((3, 5)), 0.1 * rng.standard_normal(3)\n"
            "values = lambda x: np.maximum(x @ w.T + b, 0) @ v.T + c\n"
            "labels = lambda x: values(x).argmax(axis=1)\n"
        )
        said = unveil(
            "audit", "model.py:labels", "--shape", "6", "--labels", "--identify", "--json", "--quiet", "--force"
        )
        figures = json.loads(said.stdout)["identification"]
        if figures["outcome"] == "complete":
            break
    assert figures["outcome"] == "complete", figures
    assert figures["widths"] == [5, 3]
    assert "labels" in figures["verdict"]
    said = unveil(
        "audit", "model.py:values", "--shape", "6", "--identify", "--defences", "--json", "--quiet", "--force"
    )
    told = json.loads(said.stdout)
    assert told["identification"]["outcome"] == "complete"
    assert [each["weights"]["of"] for each in told["defences"]["kinds"]] == [5] * 5
    assert told["defences"]["kinds"][1]["weights"]["neurons"] == 5
    assert "hidden neurons" in (tmp_path / "audit.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_whole_page_fits_on_a_telephone(tmp_path, weights):
    """With every stage that has a flag, but the one that reads weights off: that can take minutes in float32."""
    model = onnx_net(weights, tmp_path / "model.onnx")
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).random((9, 6, 6)))
    flags = sorted({stage.flag for stage in STAGES if stage.flag} - {"--identify"})
    said = unveil(
        "audit", model, "--inputs", tmp_path / "images.npz", "--report", tmp_path / "audit.html", "--json", *flags
    )
    # Through two decimals the answers give directions away approximately.
    assert said.exit_code in (0, 5), said.stderr
    assert_self_contained((tmp_path / "audit.html").read_text())
    for width in (320, 400, 1280):
        assert_fits(tmp_path / "audit.html", tmp_path, width)
