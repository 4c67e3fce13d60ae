"""Small things that everyone meets: the version, results in one line, and the command line's own words."""

from __future__ import annotations

import dataclasses
import json
import logging
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import random_weights
from unveil.cli import app
from unveil.cli.words import in_options
from unveil.one_line import one_line


def results():
    rng = np.random.default_rng(0)
    network = uv.Network.from_weights(random_weights([12, 8, 3], rng))
    x = rng.standard_normal((5, 12))
    oracle = uv.as_oracle(network.logits, shape=12)
    yield network
    yield network.layers[0]
    yield oracle
    yield oracle.ledger
    yield uv.preimage(network, x[0], 0)
    yield uv.stability(network, x)
    yield uv.lookalike(network, x[0], x[1], 0, within=(-9, 9))
    yield uv.large_change(network, x[0], 0.1, within=(-9, 9))
    yield uv.compare(network, network, x)
    yield uv.linear_region(network, x[0])
    yield uv.row_span(oracle, rng=rng)
    yield uv.output_span(oracle, rng=rng)


def test_every_result_tells_of_itself_in_one_line():
    for result in results():
        told = repr(result)
        assert "\n" not in told, told
        assert len(told) < 500, told
        assert " at 0x" not in told, told
        assert type(result).__name__ in told
    assert repr(next(iter(results()))) == "Network(12 - 8 - 3; relu, identity)"


def test_a_notebook_shows_a_table_and_the_picture_where_there_is_one():
    for result in results():
        if hasattr(result, "_repr_html_"):
            shown = result._repr_html_()
            assert len(shown) < 200_000
            assert ("<svg" in shown) == hasattr(result, "plot"), type(result)
    for kind in (uv.RowSpan, uv.OutputSpan, uv.Stability, uv.Lookalike, uv.LargeChange, uv.ActiveSubspace):
        assert hasattr(kind, "plot"), kind
        assert hasattr(kind, "_repr_html_"), kind


def test_what_a_notebook_shows_is_escaped():
    @one_line
    @dataclasses.dataclass
    class Named:
        text: str

    assert "<script>" not in Named("<script>")._repr_html_()


def test_every_public_result_that_can_hold_arrays_has_such_a_line():
    for name in uv._PUBLIC:
        kind = getattr(uv, name)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            continue
        if any("ndarray" in str(each.type) for each in dataclasses.fields(kind) if each.init):
            assert kind.__repr__.__qualname__.startswith((one_line.__name__, "Network")), name


def test_the_version_is_a_name():
    assert uv.__version__[0].isdigit()


@pytest.mark.parametrize(
    ("python", "options"),
    [
        ("Allow a larger budget=.", "Allow a larger --budget."),
        ("pass grid=1 and e.g. within=(0, 255)", "pass --grid 1 and e.g. --within 0,255"),
        ("pass shape=, e.g. shape=(3, 32, 32)", "pass --shape, e.g. --shape 3,32,32"),
        ("ask for labels (answers='labels', --answers labels)", "ask for labels (--answers labels)"),
        ("is looked at; output= (--output) chooses another", "is looked at; --output chooses another"),
        ("give typical inputs (x=).", "give typical inputs (--inputs)."),
        ("f(x) = y, max=3, a.x=2, http://h/?budget=abc", "f(x) = y, max=3, a.x=2, http://h/?budget=abc"),
        ("allow it with ask_again=True (--ask-again)", "allow it with --ask-again"),
        ("allow it: retry_on=(500,) (--retry-on 500)", "allow it: --retry-on 500"),
        ("longer than longest_wait=120; allow more", "longer than --longest-wait 120; allow more"),
        ("or pass noisy=True", "or pass --noisy"),
        ("it does: batch= (--batch)", "it does: --batch"),
        (
            "mark what is asked with ... (--fix x=... --fix rate=16000)",
            "mark what is asked with ... (--fix x=... --fix rate=16000)",
        ),
    ],
)
def test_the_command_line_speaks_of_its_options(python, options):
    assert in_options(python) == options


def test_outcomes_on_the_command_line_name_options():
    for outcome in uv.Outcome:
        assert "=" not in in_options(outcome.value)


def test_what_cannot_be_asked_is_refused_as_what_it_is():
    for source, told in (("ftp://host/model.onnx", "ftp:// cannot be asked"), ("", "SOURCE is empty")):
        end = CliRunner().invoke(app, ["span", source])
        assert end.exit_code == 2
        assert told in end.stderr


def commands():
    group = typer.main.get_command(app)
    for name, one in group.commands.items():
        yield from (
            ([name, inner, "--help"] for inner in one.commands) if hasattr(one, "commands") else ([name, "--help"],)
        )


@pytest.mark.parametrize("asked", list(commands()), ids=" ".join)
def test_every_help_has_an_example_and_the_words_of_the_command_line(asked):
    end = CliRunner().invoke(app, asked, env={"COLUMNS": "200"})
    assert end.exit_code == 0
    assert f"Example: unveil {' '.join(asked[:-1])} " in end.stdout
    for word in ("<bool>", "<int", "<float", "<path>", "<str>", "{network}"):
        assert word not in end.stdout
    example, options = end.stdout.split("Example:")[1].split("\n", 1)
    for option in re.findall(r"--[a-z-]+", example):
        assert option in options, option


def test_a_shell_can_complete():
    assert "--show-completion" in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout


@pytest.fixture
def scaled(tmp_path):
    """A network on inputs whose examples lie outside [0, 1], and the same examples as the network gets them."""
    rng = np.random.default_rng(1)
    network = uv.Network.from_weights(random_weights([9, 6, 3], rng))
    uv.save(network, tmp_path / "net.npz")
    x = rng.uniform(-40, 90, size=(6, 9)).round(2)
    np.savez(tmp_path / "as_they_are.npz", x=x)
    np.savez(tmp_path / "normalised.npz", x=(x - 25) / 30)
    return tmp_path


@pytest.mark.parametrize("verb", ["preimage", "stability", "lookalike"])
def test_mean_and_deviation_do_to_examples_what_one_would_do_before(verb, scaled):
    told = []
    for file, options in (("as_they_are.npz", ["--mean", "25", "--deviation", "30"]), ("normalised.npz", [])):
        asked = [verb, str(scaled / "net.npz"), "--inputs", str(scaled / file), "--json", *options]
        end = CliRunner().invoke(app, asked)
        assert end.exit_code == 0, end.output
        told.append(json.loads(end.stdout))
    if verb == "lookalike":
        assert told[0]["x"] == told[1]["x"]
        assert told[0]["distance"] == pytest.approx(told[1]["distance"], rel=1e-6)
    else:
        assert flat(told[0]) == pytest.approx(flat(told[1]), rel=1e-6, abs=1e-9)


def flat(told):
    if isinstance(told, dict | list):
        return [each for value in (told.values() if isinstance(told, dict) else told) for each in flat(value)]
    return [told] if isinstance(told, int | float) else []


def test_lookalike_writes_examples_in_their_own_units_and_inside_their_range(scaled):
    out = scaled / "pair.npz"
    asked = ["lookalike", str(scaled / "net.npz"), "--inputs", str(scaled / "as_they_are.npz"), "--x", "2"]
    end = CliRunner().invoke(app, [*asked, "--out", str(out), "--mean", "25", "--deviation", "30"])
    assert end.exit_code == 0, end.output
    x = np.load(scaled / "as_they_are.npz")["x"]
    assert f"{x.min():g} to {x.max():g}" in end.stderr
    with np.load(out) as kept:
        np.testing.assert_allclose(kept["x"], x[2], atol=1e-9)
        assert kept["z"].min() >= x.min()
        assert kept["z"].max() <= x.max()


def test_a_deviation_of_none_and_channels_that_are_not_there_are_refused(scaled):
    for options, told in ((["--deviation", "0"], "greater than 0"), (["--mean", "1,2"], "channels")):
        asked = ["stability", str(scaled / "net.npz"), "--inputs", str(scaled / "normalised.npz"), *options]
        end = CliRunner().invoke(app, asked)
        assert end.exit_code == 2
        assert told in end.stderr


def test_questions_are_logged_under_unveil(caplog):
    with caplog.at_level(logging.DEBUG, logger="unveil"):
        uv.as_oracle(lambda x: x.sum(axis=1), 3)(np.zeros((5, 3)))
    assert any(each.name.startswith("unveil.") and "5 questions" in each.getMessage() for each in caplog.records)


def test_known_activations_are_named_once_each():
    with pytest.raises(uv.BadInput, match="no activation called 'prelu'") as told:
        uv.identify(uv.as_oracle(lambda x: x.sum(axis=1), 3), rng=np.random.default_rng(0), activation="prelu")
    named = str(told.value).split("known: ")[1].split(", ")
    assert "leaky_relu" in named
    assert len(set(named)) == len(named)


def test_a_budget_that_ends_while_answers_are_looked_at_is_told_in_a_sentence():
    network = uv.Network.from_weights(random_weights([12, 9, 2], np.random.default_rng(1)))
    found = uv.identify(uv.as_oracle(network.logits, shape=12, budget=40), rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.budget_ended
    assert found.queries <= 40
    assert found.why == ("The budget ended while answers were looked at to choose a method.",)
