"""Examples from tables: names, the label's column wherever it stands, words as numbers, and labels that do not fit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import unveil as uv
from unveil.audit.sections.named_inputs import NAMED_INPUTS, seen_shares
from unveil.cli import app
from unveil.cli.inputs import read_inputs
from unveil.outcome import BadInput

RNG = np.random.default_rng(5)
X = RNG.standard_normal((40, 3)).round(3)
Y = (X[:, 0] > 0).astype(int)


def oracle(n=3):
    return uv.as_oracle(lambda x: np.stack([x[:, 0], -x[:, 0]], axis=1), shape=n)


def table(path, columns):
    lines = [",".join(columns), *(",".join(str(cell) for cell in row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def columns():
    return {name: X[:, place].tolist() for place, name in enumerate(("width", "height", "age"))}


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize("name", ["class", "kind"])
def test_the_label_is_found_wherever_it_stands(tmp_path, place, name):
    told = list(columns().items())
    told.insert(place, (name, Y.tolist()))
    read = read_inputs(table(tmp_path / "t.csv", dict(told)), oracle(), label=name if place == 2 else None)
    np.testing.assert_array_equal(read.x, X)
    np.testing.assert_array_equal(read.labels, Y)
    assert read.names == ("width", "height", "age")


@pytest.mark.parametrize("last", [False, True])
def test_without_names_the_column_of_whole_numbers_is_the_label(tmp_path, last):
    rows = np.column_stack([X, Y] if last else [Y, X])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", fmt="%.6g")
    read = read_inputs(tmp_path / "t.csv", oracle())
    np.testing.assert_allclose(read.x, X)
    np.testing.assert_array_equal(read.labels, Y)
    assert any("--label-column" in line for line in read.said)
    again = read_inputs(tmp_path / "t.csv", oracle(), label="-1" if last else "0")
    np.testing.assert_array_equal(again.labels, Y)
    with pytest.raises(BadInput, match="--label-column is a number"):
        read_inputs(tmp_path / "t.csv", oracle(), label="age")


def test_words_become_numbers_and_rows_without_a_value_are_left_out(tmp_path):
    rock = ["clay", "sand", "silt", "sand"] * 10
    told = columns() | {"rock": rock, "species": np.where(Y, "big", "small").tolist()}
    told["width"][4] = ""
    path = table(tmp_path / "t.csv", told)
    kept = np.arange(40) != 4
    read = read_inputs(path, oracle(6))
    assert read.names == ("width", "height", "age", "rock=clay", "rock=sand", "rock=silt")
    np.testing.assert_array_equal(read.x[:, 4], (np.array(rock) == "sand")[kept])
    np.testing.assert_array_equal(read.labels, 1 - Y[kept])
    assert any("big = 0, small = 1" in line for line in read.said)
    assert any("1 rows" in line for line in read.said)
    numbered = read_inputs(path, oracle(4), label="species")
    assert numbered.names == ("width", "height", "age", "rock")
    np.testing.assert_array_equal(numbered.x[:4, 3], [0, 1, 2, 1])
    with pytest.raises(BadInput, match="the model takes 9"):
        read_inputs(path, oracle(9))
    with pytest.raises(BadInput, match="no column 'colour'"):
        read_inputs(path, oracle(4), label="colour")


def test_parquet_reads_as_csv_does(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(columns() | {"target": Y}).to_parquet(tmp_path / "t.parquet")
    read = read_inputs(tmp_path / "t.parquet", oracle())
    np.testing.assert_array_equal(read.x, X)
    np.testing.assert_array_equal(read.labels, Y)


def audited(folder, monkeypatch, labels):
    monkeypatch.chdir(folder)
    (folder / "model.py").write_text(
        "import numpy as np\ndef fine(x): return np.eye(3)[np.digitize(x[:, 0], [-.5, .5])] * 3 + x[:, [0, 0, 1]]\n"
    )
    table(folder / "t.csv", columns() | {"class": labels.tolist()})
    asked = ["audit", "model.py:fine", "--shape", "3", "--inputs", "t.csv", "--json", "--force"]
    end = CliRunner().invoke(app, asked)
    assert end.stdout, end.output
    return json.loads(end.stdout), (folder / "audit.html").read_text()


def test_labels_shifted_by_one_are_told(tmp_path, monkeypatch):
    model = np.eye(3)[np.digitize(X[:, 0], [-0.5, 0.5])] * 3 + X[:, [0, 0, 1]]
    figures, page = audited(tmp_path, monkeypatch, model.argmax(axis=1) - 1)
    assert figures["oracle"]["labels_doubtful"]
    assert "shifted by one" in page
    figures, page = audited(tmp_path, monkeypatch, model.argmax(axis=1))
    assert not figures["oracle"]["labels_doubtful"]
    assert "shifted by one" not in page


def test_the_page_names_the_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("def fine(x): return x[:, :2] @ [[1.0, 2.0], [0.5, -1.0]]\n")
    table(tmp_path / "t.csv", columns())
    end = CliRunner().invoke(app, ["audit", "model.py:fine", "--shape", "3", "--inputs", "t.csv", "--json"])
    figures = json.loads(end.stdout)
    assert figures["inputs"]["unseen"] == ["age"]
    assert [row["name"] for row in figures["inputs"]["inputs"]] == ["width", "height", "age"]
    page = (tmp_path / "audit.html").read_text()
    assert "1 of its 3 inputs change no answer" in page
    assert "height" in page


@pytest.mark.parametrize(("left_out", "unseen"), [(0.0, ["b"]), (0.4, [])])
def test_no_input_is_called_unseen_where_directions_were_left_out(left_out, unseen):
    span = uv.RowSpan(np.eye(3)[[0, 2]], np.ones(2), 0.0, 1e-3, 0.95, 1.0, left_out, 10, uv.Outcome.approximate)
    audit = SimpleNamespace(names=("a", "b", "c"), inputs=X[:, :3], units=None, findings={"span": span})
    told = NAMED_INPUTS.run(audit)
    assert told.figures["unseen"] == unseen
    assert ("change no answer" in told.verdict) == bool(unseen)


def test_shares_are_those_of_the_gradient_in_the_units_of_the_data():
    basis = np.array([[3.0, 4.0, 0.0]]) / 5
    np.testing.assert_allclose(seen_shares(basis, np.ones(3)), [0.6, 0.8, 0])
    np.testing.assert_allclose(seen_shares(basis, np.array([4.0, 3.0, 7.0])), [0.5**0.5, 0.5**0.5, 0])


def test_a_table_is_asked_in_its_own_units(tmp_path):
    """Columns of very different sizes: in the model's own units random points show a saturated network."""
    rng = np.random.default_rng(0)
    size, middle = 10.0 ** np.arange(-3, 5), 10.0 ** np.arange(-2, 6)
    rows, last = rng.standard_normal((3, 8)), rng.standard_normal((2, 3))

    def model(x):
        return np.tanh((x - middle) / size @ rows.T) @ last.T

    x = middle + size * rng.standard_normal((60, 8))
    names = [f"column {i}" for i in range(8)]
    page = uv.report(uv.as_oracle(model, shape=8, budget=20_000), x, rng=rng, names=names)
    told = page.all_figures()
    assert told["span"]["rank"] == 3
    assert told["obfuscation"]["free"]["unchanged"] == 60
    assert [each["name"] for each in told["inputs"]["inputs"]] == names
    assert np.allclose([each["unit"] for each in told["inputs"]["inputs"]], x.std(axis=0))
    text = page.html()
    assert "in standard deviations of the examples" in text
    assert text.count("<table") == text.count("<caption>")
    assert "<th>" not in text  # every one has its scope
    # What a stranger is given to check it leads back to the model's own units.
    held = next(section for section in page.sections if section.key == "obfuscation").files["examples.npz"]
    assert np.allclose((held["inputs"] - held["mean"]) / held["deviation"], x)
    with pytest.raises(uv.BadInput, match="names"):
        uv.report(uv.as_oracle(model, shape=8), x, rng=rng, names=names[:3])
