"""Small rooms of the command line: rows in files, normalised inputs, tables of examples, and how findings are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unveil.audit.severity import Severity
from unveil.cli.example_table import read_examples
from unveil.cli.normalised import Normalised
from unveil.cli.telling import Telling
from unveil.cli.vectors import figures, line, read_rows
from unveil.outcome import BadInput
from unveil.whitebox.activation import activation
from unveil.whitebox.inversion import from_features
from unveil.whitebox.network import Layer, Network


def test_rows_are_read_from_every_format_and_one_may_be_flat(tmp_path: Path) -> None:
    rows = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", name=np.array("x"), count=np.array(4.0), rows=rows)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",")
    np.save(tmp_path / "flat.npy", rows[1])
    np.save(tmp_path / "picture.npy", np.arange(12).reshape(4, 1, 3))
    for name in ("a.npy", "a.npz", "a.csv", "picture.npy"):
        read = read_rows(tmp_path / name, 3, "--features")
        np.testing.assert_array_equal(read, rows)
        assert read.dtype == np.float64
    np.testing.assert_array_equal(read_rows(tmp_path / "flat.npy", 3, "--features"), rows[1:2])
    # Three rows of four are not four rows of three.
    np.save(tmp_path / "turned.npy", rows.T)
    np.save(tmp_path / "words.npy", np.array(["a", "b", "c"]))
    np.savez(tmp_path / "none.npz", name=np.array("x"))
    (tmp_path / "torn.npz").write_bytes(b"PK")
    (tmp_path / "a.txt").write_text("1")
    for name, word in (
        ("turned.npy", "rows of 4"), ("words.npy", "expected rows"), ("none.npz", "no array"), ("torn.npz", "cannot"),
        ("a.txt", "takes"), ("missing.npy", "no file"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=word):
            read_rows(tmp_path / name, 3, "--features")


def test_inversions_are_told_in_one_line_and_as_numbers() -> None:
    network = Network((Layer(np.eye(2), np.zeros(2), activation("relu")),))
    found = from_features(network, np.array([0.5, 0.25]), 0, (0.0, 1.0), np.zeros(2), 1, None)
    told = figures(found)
    assert told["verdict"] == "found"
    assert told["holds"]
    assert told["distance"] == pytest.approx(0.75)
    assert line(3, found).startswith("3: an input was found")
    assert "0.75 from --near" in line(3, found)
    none = from_features(network, np.array([5.0, 0.0]), 0, (0.0, 1.0), None, 1, None)
    assert (figures(none)["verdict"], figures(none)["holds"]) == ("none", True)
    assert "no input gives it, proved" in line(0, none)
    assert "distance" not in figures(none)


def test_mean_and_deviation_are_spread_over_their_channels() -> None:
    mean, deviation = Normalised("0.5,0.25", "2,4").units((2, 1, 2))
    np.testing.assert_array_equal(mean, [0.5, 0.5, 0.25, 0.25])
    np.testing.assert_array_equal(deviation, [2, 2, 4, 4])
    mean, deviation = Normalised().units((3,))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(deviation, 1)
    np.testing.assert_array_equal(Normalised("0.5").units((2, 2, 2))[0], 0.5)
    np.testing.assert_array_equal(Normalised("1,2").units((2, 1, 3))[0], [1, 1, 1, 2, 2, 2])
    for wrong in (Normalised("1,2,3"), Normalised(None, "0"), Normalised(None, "-1"), Normalised("a")):
        with pytest.raises(BadInput, match="--"):
            wrong.units((2, 1, 2))


def test_a_table_s_columns_become_inputs_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("colour,size,class\nred,1.5,b\nblue,2,a\nred,,b\nblue,4,a\n")
    whole = read_examples(path, 2, None)
    # Words numbered in alphabetical order; the row without a size is left out.
    np.testing.assert_array_equal(whole.x, [[1, 1.5], [0, 2], [0, 4]])
    np.testing.assert_array_equal(whole.labels, [1, 0, 0])
    assert whole.names == ("colour", "size")
    assert any("1 rows without" in each for each in whole.said)
    assert "categories colour: their words numbered in alphabetical order" in whole.said
    assert "labels a = 0, b = 1" in whole.said
    split = read_examples(path, 3, "class")
    assert "categories colour: one input for each word" in split.said
    assert split.names == ("colour=blue", "colour=red", "size")
    np.testing.assert_array_equal(split.x[:, :2], [[0, 1], [1, 0], [1, 0]])
    path.write_text("a,b,c\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n")
    numbers = read_examples(path, 2, None)
    # The column at the edge that looks like labels; whole numbers stay whole.
    np.testing.assert_array_equal(numbers.labels, [0, 1, 0, 1])
    assert numbers.x.dtype == np.int64
    assert read_examples(path, 3, None).labels is None
    np.testing.assert_array_equal(read_examples(path, 2, "a").labels, [1, 3, 5, 7])
    path.write_text("a,y\n1,0.5\n2,1\n")
    assert read_examples(path, 1, None).labels is None
    for n, label in ((5, None), (1, "z")):
        with pytest.raises(BadInput, match="column"):
            read_examples(path, n, label)


def test_how_findings_are_told_is_checked_beforehand(tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    told = Telling(page, fail_on="medium", rate=20.0, price=3.0)
    assert told.least is Severity.medium
    assert (told.tariff.rate, told.tariff.price) == (20.0, 3.0)
    assert Telling(page).least is None
    for wrong in (Telling(rate=0.0), Telling(rate=np.inf), Telling(price=-1.0)):
        with pytest.raises(BadInput, match="--"):
            _ = wrong.tariff
    with pytest.raises(BadInput, match="--fail-on"):
        _ = Telling(fail_on="grave").least
    Telling(page, sarif=tmp_path / "a.sarif").require_fresh(False)
    (tmp_path / "there.sarif").write_text("")
    for sarif, word in (
        (tmp_path / "a.txt", "must end"),
        (tmp_path / "no" / "a.sarif", "no folder"),
        (page.with_suffix(".json"), "overwrite"),
        (tmp_path / "there.sarif", "there"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=word):
            Telling(page, sarif=sarif).require_fresh(False)
    Telling(page, sarif=tmp_path / "there.sarif").require_fresh(True)
