"""What coarser answers hide, of a network whose rows are known."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.defences import defences
from unveil.blackbox.sources import as_oracle
from unveil.outcome import Outcome
from unveil.report.defences import section


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
    assert sum(d.queries for d in found) == oracle.ledger.asked - before
    assert "none of the 6 directions" in section(found).verdict
