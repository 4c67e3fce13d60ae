"""What coarser answers hide, of a network whose rows are known."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.audit.sections.defences import section
from unveil.blackbox.defences import LEAST, TIMES, Allowance, defences
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.sources import as_oracle
from unveil.outcome import BudgetExceeded, Outcome


def test_coarser_answers_hide_precision_but_no_direction() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.standard_normal((6, 40)) / 6, rng.standard_normal((9, 6)) / 2, rng.standard_normal((3, 9))
    oracle = as_oracle(lambda x: np.maximum(np.maximum(x @ a.T, 0) @ b.T, 0) @ c.T, shape=40)
    before = oracle.ledger.asked
    found = defences(oracle, rng=np.random.default_rng(0))
    # Rounded to two decimals, what is noise and what a weak direction is left open.
    assert [found[i].rank for i in (0, 1, 2, 4)] == [6, 6, 6, 6]
    assert all(d.outcome in (Outcome.complete, Outcome.approximate) for d in found)
    assert found[0].accuracy < found[2].accuracy < found[3].accuracy
    assert found[-1].queries > 10 * found[0].queries
    assert all(d.queries <= max(TIMES * found[0].queries, LEAST) for d in found[1:-1])
    assert sum(d.queries for d in found) == oracle.ledger.asked - before
    assert "none of the 6 directions" in section(found).verdict


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
