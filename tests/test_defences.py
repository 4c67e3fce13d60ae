"""What coarser answers hide, of a network whose rows are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from unveil.audit.sections.defences import section
from unveil.audit.sections.defended_outputs import LARGEST, LISTED, MORE, defended_outputs
from unveil.audit.sections.defended_weights import LABELS, Weights, defended_weights
from unveil.blackbox.defences import LEAST, TIMES, Allowance, defences
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.output_span import output_span
from unveil.blackbox.row_span import row_span
from unveil.blackbox.sources import as_oracle
from unveil.identification.identify import identify
from unveil.outcome import BadInput, BudgetExceeded, Outcome
from unveil.whitebox.network import Network


def test_coarser_answers_hide_precision_but_no_direction() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.standard_normal((6, 40)) / 6, rng.standard_normal((9, 6)) / 2, rng.standard_normal((3, 9))
    oracle = as_oracle(lambda x: np.maximum(np.maximum(x @ a.T, 0) @ b.T, 0) @ c.T, shape=40)
    before = oracle.ledger.asked
    found = defences(oracle, rng=np.random.default_rng(0))
    # Rounded to two decimals, what is noise and what a weak direction is left open.
    assert [found[i].rank for i in (0, 1, 2, 4)] == [6, 6, 6, 6]
    # More questions would make two decimals sharper, but the table has a budget.
    assert all(d.outcome in (Outcome.complete, Outcome.approximate, Outcome.budget_ended) for d in found)
    assert found[0].accuracy < found[2].accuracy < found[3].accuracy
    assert found[-1].queries > 10 * found[0].queries
    assert all(d.queries <= max(TIMES * found[0].queries, LEAST) for d in found[1:-1])
    assert sum(d.queries for d in found) == oracle.ledger.asked - before
    assert "none of the 6 directions" in section(found).verdict


def test_a_span_that_is_known_already_counts_where_it_has_more_directions() -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((3, 8))
    bias = np.array([0.0, 0.0, -60.0])  # the third is at rest wherever random points fall
    oracle = as_oracle(lambda x: np.maximum(x @ a.T + bias, 0) @ np.ones((3, 1)), shape=8)
    near = 40 * a[2] / np.linalg.norm(a[2]) + rng.standard_normal((50, 8))
    known = row_span(oracle, rng=rng, x=near)
    assert known.rank == 3
    alone, beside = (defences(oracle, rng=np.random.default_rng(0), known=k) for k in (None, known))
    assert alone[0].rank == 2
    assert beside[0].rank == beside[0].leaks == 3
    assert not any("finer answers" in each.reason for each in beside)


def test_an_allowance_ends_by_itself_and_with_the_ledger_around_it() -> None:
    outer = Ledger(budget=10)
    first, second = Allowance(4, outer=outer), Allowance(100, outer=outer)
    first.charge(4)
    with pytest.raises(BudgetExceeded):
        first.charge(1)
    second.charge(5)
    assert (outer.asked, second.asked, second.left) == (9, 5, 1)
    with pytest.raises(BudgetExceeded):
        second.charge(2)
    assert (outer.asked, second.asked) == (9, 5)


def test_every_defence_ends_within_its_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).standard_normal((6, 40)) / 6
    oracle = as_oracle(lambda x: np.tanh(x @ rows.T), shape=40)
    for name, most in (("TIMES", 0), ("LEAST", 150), ("BITS", 0), ("START", 5000)):
        monkeypatch.setattr(f"unveil.blackbox.defences.{name}", most)
    found = defences(oracle, rng=np.random.default_rng(0))
    assert [d.outcome for d in found[1:]] == [Outcome.budget_ended] * 4
    assert all(d.queries <= most for d, most in zip(found[1:], (150, 150, 150, 5000), strict=True))


def test_weights_are_read_through_coarser_answers_too_and_counted_where_they_agree() -> None:
    rng = np.random.default_rng(4)
    weights = [
        (rng.standard_normal((4, 5)), 0.3 * rng.standard_normal(4)),
        (rng.standard_normal((3, 4)), 0.1 * rng.standard_normal(3)),
    ]
    truth = Network.from_weights(weights)
    oracle = as_oracle(truth, shape=5)
    plain = identify(oracle, rng=np.random.default_rng(0))
    assert plain.outcome is Outcome.complete
    before = oracle.ledger.asked
    told = {each.name: each for each in defended_weights(oracle, plain, "plain", rng=np.random.default_rng(1))}
    assert sum(each.queries for each in told.values()) - plain.queries == oracle.ledger.asked - before
    assert [each.of for each in told.values()] == [4] * 5
    for name, error in (("values, float32", 1e-4), ("values, 4 decimals", 1e-2)):
        assert told[name].neurons == 4
        assert told[name].error < error
    # Labels are exact bits: what can be read off them is exact as well.
    assert told["labels only"].neurons in (0, 4)
    assert told["labels only"].neurons == 0 or told["labels only"].error < 1e-5
    assert told["labels only"].queries <= LABELS
    with pytest.raises(BadInput, match="complete"):
        defended_weights(
            oracle, dataclasses.replace(plain, outcome=Outcome.approximate), "plain", rng=np.random.default_rng(1)
        )


def test_what_was_not_read_is_not_called_all() -> None:
    assert Weights("labels only", 0, 4, np.nan, np.nan, 10, Outcome.check_failed).words == "this attack read none"
    assert "2 of 4" in Weights("labels only", 2, 4, 1e-3, 1e-3, 10, Outcome.approximate).words
    open_number = Weights("labels only", 4, 4, 1e-9, 0.4, 10, Outcome.approximate)
    assert not open_number.whole
    assert "last layer to 0.4" in open_number.words


def wide(outputs: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    first, last = rng.standard_normal((width, 8)), rng.standard_normal((outputs, width))
    return lambda x: np.tanh(x @ first.T) @ last.T


def test_rounding_leaves_the_output_span_and_the_few_largest_hide_it() -> None:
    model = wide(60, 12, 3)
    oracle = as_oracle(model, shape=8)
    plain = output_span(oracle, rng=np.random.default_rng(0))
    before = oracle.ledger.asked
    told = defended_outputs(oracle, plain, "values, float64", rng=np.random.default_rng(1))
    assert [each.told for each in told] == [True] * 4 + [False] * 2
    assert [each.rank for each in told] == [12] * 4 + [0] * 2
    assert sum(each.queries for each in told[1:]) == oracle.ledger.asked - before
    assert all(each.queries <= 2 * (13 + plain.spare) + MORE for each in told[1:])
    off = [each.off for each in told[1:4]]
    assert off == sorted(off)
    assert 20 * off[1] < off[2] < 0.2
    assert all(each.settled for each in told[4:])
    shown = section(defences(oracle, rng=np.random.default_rng(0)), outputs=told)
    assert "12, shows as well" in shown.verdict
    assert [each["rank"] for each in shown.figures["outputs"]] == [12] * 4 + [0] * 2


def test_rounded_probabilities_hide_the_output_span_where_most_of_them_are_nothing() -> None:
    model = wide(60, 12, 4)

    def softmax(x: np.ndarray) -> np.ndarray:
        p = np.exp(model(x))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    oracle = as_oracle(softmax, shape=8, answers="probabilities")
    plain = output_span(oracle, rng=np.random.default_rng(0))
    assert plain.rank == 12
    told = defended_outputs(oracle, plain, "probabilities", rng=np.random.default_rng(1))
    assert [each.name for each in told[1:3]] == ["probabilities, 4 decimals", "probabilities, 2 decimals"]
    assert not any(each.told for each in told[1:])


def test_more_numbers_than_the_width_show_it_though_they_are_the_largest_only() -> None:
    """Two hidden neurons, of which one decides which five outputs are the largest: these are always the same."""
    last = np.random.default_rng(5).standard_normal((60, 2)) + np.r_[np.full(LARGEST, 9.0), np.zeros(55)][:, None]
    oracle = as_oracle(lambda x: (1 / (1 + np.exp(-x[:, :2]))) @ last.T, shape=4)
    plain = output_span(oracle, rng=np.random.default_rng(0))
    told = defended_outputs(oracle, plain, "values", rng=np.random.default_rng(1))[-2]
    assert told.told
    assert (told.rank, told.queries) == (2, LISTED)
