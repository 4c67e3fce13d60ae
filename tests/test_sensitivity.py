"""`unveil sensitivity`: tables and simulators from the command line, its page, and what bad input is told."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from unveil import BadInput, Input, Inputs
from unveil.blackbox.active_subspace import active_subspace
from unveil.blackbox.plan import plan
from unveil.cli import app
from unveil.cli.problem import read_problem
from unveil.cli.tables import read_table

PROBLEM = {"a": [0, 2], "b": [0, 1], "c": [0, 1]}
MODEL = """
import math
def drag(v):
    if v[2] > 0.9:
        raise RuntimeError("no convergence")
    return math.exp(v[0]) + 0.1 * v[1]
def named(a, b, c):
    return math.exp(a) + 0.1 * b
def broken(v):
    raise RuntimeError("licence server not found")
def flat(v):
    return 1.0
def leaves(v):
    raise SystemExit(2)
"""


def unveil(*words):
    return CliRunner().invoke(app, ["sensitivity", *map(str, words)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, what its inputs are, and a table of its runs with two gaps and a constant column."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "problem.json").write_text(json.dumps(PROBLEM))
    rng = np.random.default_rng(4)
    lines = ["run,a,b,c,material,drag"]
    for row, (a, b, c) in enumerate(rng.uniform(size=(24, 3)) * [2, 1, 1]):
        drag = "" if row == 3 else f"{np.exp(a) + 0.1 * b}"
        lines.append(f"r{row},{'NA' if row == 5 else a},{b},{c},steel,{drag}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_table_with_gaps(folder):
    done = unveil("runs.csv", "--output", "drag", "--ignore", "run", "--json", "--out", "found.npz")
    assert done.exit_code == 5, done.output
    told = json.loads(done.stdout)
    assert told["ranking"][0] == "a"
    assert {each["name"] for each in told["inputs"]} == {"a", "b", "c"}
    assert (told["rows"], told["missing"], told["queries"]) == (22, 2, 0)
    assert told["dimension"] == 1
    assert told["outcome"] == "approximate"
    assert "material" in done.stderr
    assert "1 of 24 rows" in done.stderr
    with np.load(folder / "found.npz") as held:
        np.testing.assert_allclose(held["eigenvalues"], told["eigenvalues"])
        assert held["names"].tolist() == ["a", "b", "c"]


def test_the_page_has_every_part_and_speaks_of_simulators(folder):
    done = unveil("runs.csv", "--output", "drag", "--ignore", "run", "--report", "page.html", "-q")
    assert done.exit_code == 5
    text = re.sub(r"<style>.*?</style>", "", (folder / "page.html").read_text(), flags=re.DOTALL)
    assert set(re.findall(r'<section id="(\w+)"', text)) >= {"directions", "summary", "activity", "surrogate"}
    assert text.count('class="chart wide"') == 4
    assert not re.search(r"\b(hid\w*|attack\w*|secret\w*|leak\w*|queries|model's)\b", text, re.IGNORECASE)
    told = json.loads((folder / "page.json").read_text())
    assert told["activity"]["scores"][0]["name"] == "a"
    assert told["exit_code"] == 5
    assert (told["rows"], told["missing"]) == (22, 2)
    shown = re.search(r'data-figure="directions.dimension" value="(\d+)"', text)
    assert shown
    assert int(shown[1]) == told["directions"]["dimension"] == 1


def test_a_function_that_fails_for_some_inputs(folder):
    """Runs are counted and kept: with the store, a second time only failed ones and a control are run again."""
    words = ("model.py:drag", "--problem", "problem.json", "--budget", 12, "--store", "runs.store", "--json")
    first = unveil(*words)
    assert first.exit_code == 5, first.output
    told = json.loads(first.stdout)
    assert told["queries"] == 12
    assert told["missing"] > 0
    assert "no convergence" in first.stderr
    assert told["ranking"][0] == "a"
    again = json.loads(unveil(*words, "--seed", 0).stdout)
    assert again == told


@pytest.mark.slow
def test_processes_give_the_same_result(folder):
    words = ("model.py:drag", "--problem", "problem.json", "--budget", 12, "--json")
    assert json.loads(unveil(*words, "--jobs", 2).stdout) == json.loads(unveil(*words).stdout)


def test_a_function_of_names(folder):
    done = unveil("model.py:named", "--problem", "problem.json", "--budget", 12, "--takes", "names", "--json")
    assert done.exit_code == 5, done.output
    assert json.loads(done.stdout)["ranking"][0] == "a"


def test_a_command(folder):
    (folder / "run.py").write_text("import sys\na, b, c = map(float, sys.argv[1:])\nprint('drag', 3 * a * a + b)\n")
    done = unveil("--command", f"{sys.executable} -S run.py {{inputs}}", "--problem", "problem.json", "--budget", 8)
    assert done.exit_code in (1, 5), done.output
    assert "runs 8" in done.stdout


def test_conclude_says_what_a_table_is_good_for(folder):
    words = ["conclude", "runs.csv", "--output", "drag", "--ignore", "run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 5, done.output
    assert "22 answers explain" in done.stdout
    assert "material" in done.stdout
    assert "rows 22, 2 more" in done.stdout
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["ranking"][0] == "a"
    plan(3, 1, rng=np.random.default_rng(0)).save("plan.npz")
    np.save("plan.npy", np.zeros((2, 3)))
    for wrong, said in (
        (["plan.npz"], "is no table"),
        (["plan.npy"], "is no table"),
        (["nowhere.npy"], "no file"),
        (["runs.csv", "--out", "x.npz"], "unveil sensitivity"),
    ):
        refused = CliRunner().invoke(app, ["conclude", *wrong])
        assert refused.exit_code == 2
        assert said in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere.csv",), 2, "no file"),
        (("runs.csv",), 2, "--output NAME"),
        (("runs.csv", "--output", "lift"), 2, "run, a, b, c, material, drag"),
        (("runs.csv", "--output", "run"), 2, "must be numbers"),
        (("runs.csv", "--output", "drag"), 2, "'run'"),
        (("runs.csv", "--output", "drag", "--budget", 9), 2, "--budget"),
        (("runs.csv", "--output", "drag", "--problem", "nowhere.json"), 2, "no file"),
        (("runs.csv", "--output", "drag", "--ignore", "x"), 2, "no column 'x'"),
        (("runs.csv", "--output", "drag", "--ignore", "run", "--share", 2), 2, "share"),
        (("runs.csv", "--output", "drag", "--report", "page.pdf"), 2, ".html"),
        (("model.onnx",), 2, "file.py:name"),
        ((), 2, "--command"),
        (("model.py:drag",), 2, "--problem"),
        (("model.py:drag", "--problem", "problem.json", "--output", "y"), 2, "--output"),
        (("model.py:nothing", "--problem", "problem.json"), 2, "nothing called"),
        (("model.py:drag", "--problem", "problem.json", "--takes", "all"), 2, "takes"),
        (("model.py:drag", "--problem", "problem.json", "--timeout", 3), 2, "--command"),
        (("--command", "run", "--problem", "problem.json"), 2, "{inputs}"),
        (("--command", "./nowhere {inputs}", "--problem", "problem.json", "--budget", 4), 3, "No such file"),
        (("model.py:broken", "--problem", "problem.json", "--budget", 4), 3, "licence server"),
        (("model.py:leaves", "--problem", "problem.json", "--budget", 4), 3, "SystemExit"),
    ],
)
def test_bad_input_is_one_line_and_a_code(folder, words, code, said):
    done = unveil(*words)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("unveil: ")
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_same_answer_everywhere(folder):
    done = unveil("model.py:flat", "--problem", "problem.json", "--budget", 6, "--report", "page.html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outcome"] == "nothing_to_find"
    assert "one answer everywhere" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("1,2,3\n4,5,6\n", "names of the columns"),
        ("a,a,y\n1,2,3\n", "differ"),
        ("a,b,y\n1,2\n", "row 2"),
        ("a,b,y\n1,2,3\nx,5,6\n", "'x' in row 2"),
        ("y\n1\n2\n", "could be an input"),
        ('a,y\n"1,2\n', "cannot be read"),
        ("\x00\x01\xff", "cannot be read"),
        ("Größe,y\n1,2\n", "save it as UTF-8"),
    ],
)
def test_what_a_csv_must_be(tmp_path, text, said):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=said):
        read_table(tmp_path / "t.csv", "y" if "y" in text else None)


def test_a_csv_from_a_spreadsheet(tmp_path):
    """A mark at its beginning, semicolons, decimal commas, words, empty cells and an empty last line."""
    (tmp_path / "t.csv").write_bytes("\ufeffa;kind;y\n1,5;wood;2,5\n2;steel;\n;wood;1\n\n".encode())
    read = read_table(tmp_path / "t.csv", None)
    assert read.names == ("a", "kind")
    assert read.rows.tolist() == [[1.5, "wood"], [2.0, "steel"]]
    np.testing.assert_array_equal(read.y, [2.5, np.nan])
    assert read.missing == 1


def test_npz_tables(tmp_path):
    x, y = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    np.savez(tmp_path / "wide.npz", x=x, y=y, names=np.array(["height", "width"]))
    np.savez(tmp_path / "columns.npz", height=x[:, 0], width=x[:, 1], y=y[:, None])
    for name in ("wide", "columns"):
        read = read_table(tmp_path / f"{name}.npz", None)
        assert read.names == ("height", "width")
        assert read.rows.tolist() == x.tolist()
        assert read.y.tolist() == y.tolist()
    np.savez(tmp_path / "uneven.npz", x=x, y=y[:3])
    with pytest.raises(BadInput, match="equally long"):
        read_table(tmp_path / "uneven.npz", None)
    (tmp_path / "no.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput, match="cannot be read"):
        read_table(tmp_path / "no.npz", None)


def test_parquet_is_read_or_says_what_it_needs(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "y": [1.0, 4.0, 9.0]})
    try:
        frame.to_parquet(tmp_path / "t.parquet")
    except ImportError:
        (tmp_path / "t.parquet").write_bytes(b"PAR1")
        with pytest.raises(BadInput, match="pyarrow"):
            read_table(tmp_path / "t.parquet", "y")
    else:
        assert read_table(tmp_path / "t.parquet", "y").rows.tolist() == [[1.0], [2.0], [3.0]]


def test_problems(tmp_path):
    file = tmp_path / "p.json"
    file.write_text(
        '{"a": [1, 2], "n": {"low": 1, "high": 9, "integer": true, "unit": "m"}, "k": {"levels": ["x", "y"]}}'
    )
    assert read_problem(file) == Inputs(
        (Input("a", 1.0, 2.0), Input("n", 1.0, 9.0, "m", integer=True), Input("k", levels=("x", "y")))
    )
    file.write_text('{"num_vars": 2, "names": ["a", "b"], "bounds": [[1, 10], [0, 2]], "dists": ["logunif", "unif"]}')
    assert read_problem(file).all == (Input("a", 1.0, 10.0, log=True), Input("b", 0.0, 2.0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "{}",
        '{"a": 1}',
        '{"a": [0, 1], "a": [0, 2]}',
        '{"a": [1]}',
        '{"a": ["x", 2]}',
        '{"a": [2, 1]}',
        '{"a": {"low": 1}}',
        '{"a": {"low": 1, "high": 2, "size": 3}}',
        '{"a": {"low": 1, "high": 2, "log": "no"}}',
        '{"a": {"levels": 5}}',
        '{"a": {"levels": [[1], [2]]}}',
        '{"num_vars": "x", "bounds": []}',
        '{"num_vars": 1, "names": ["a"], "bounds": [5]}',
        '{"num_vars": 1, "names": ["a"], "bounds": [[1]]}',
    ],
)
def test_bad_problems_are_named(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(BadInput, match=r"p\.json|input 'a'"):
        read_problem(tmp_path / "p.json")


def test_words_in_a_table_are_levels():
    """With names only: a column of words is a category, numbers keep their own range."""
    rng = np.random.default_rng(0)
    kind = np.where(rng.uniform(size=20) < 0.5, "wood", "steel")
    size = rng.uniform(size=20)
    rows = np.array(list(zip(size.tolist(), kind.tolist(), strict=True)), dtype=object)
    found = active_subspace(rows, size + 3.0 * (kind == "wood"), inputs=["size", "kind"])
    assert found.inputs.all[1].levels == ("steel", "wood")
    assert found.inputs.all[0].high == size.max()
    assert found.ranking[0] == "kind"
    # What is foretold of a row without it is what `explained` is about.
    missed = np.mean((found.y - found.foretold) ** 2)
    assert found.explained == pytest.approx(1 - missed / found.y.var())
    with pytest.raises(BadInput, match="2 columns"):
        active_subspace(rows, size, inputs=["size"])
