"""Noise that answers were asked about: what is handed out leaves every answer as it is, or says that it did not."""

from __future__ import annotations

import numpy as np

from unveil.audit.sections.hiding import disguise
from unveil.audit.sections.span import find_everywhere
from unveil.audit.stage import Audit
from unveil.blackbox.obfuscation import HALVINGS, obfuscate
from unveil.blackbox.row_span import RowSpan
from unveil.blackbox.sources import as_oracle
from unveil.outcome import Outcome


def test_noise_in_corners_that_wake_neurons_is_taken_back(rng: np.random.Generator) -> None:
    woke = 0
    for _ in range(12):
        n = 20
        rows, outer = rng.standard_normal((4, n)), rng.standard_normal((2, n))
        # The outer neurons are silent at uniform inputs, and wake in the corners of the box.
        top = 0.75 * np.maximum(outer, 0).sum(axis=1) + 0.25 * np.minimum(outer, 0).sum(axis=1)

        def model(x, rows=rows, outer=outer, top=top):
            return np.maximum((x - 0.5) @ rows.T, 0) + 3 * np.maximum(x @ outer.T - top, 0).sum(axis=1)[:, None]

        oracle = as_oracle(model, shape=n, within=(0, 1))
        basis = np.linalg.qr(rows.T)[0].T
        span = RowSpan(basis, np.ones(4), 0.0, 1e-12, 0.95, 0.01, 0.0, 0, Outcome.complete)
        x = rng.uniform(0.3, 0.7, (15, n))
        before = oracle.ledger.asked
        made = obfuscate(span, x, rng=np.random.default_rng(1), oracle=oracle)
        assert 30 <= oracle.ledger.asked - before <= (2 + HALVINGS) * 15
        blind = obfuscate(span, x, rng=np.random.default_rng(1), within=(0, 1))
        assert blind.kept is None
        assert made.kept is not None
        spread = np.ptp(model(x))
        changes = np.abs(model(made.inputs) - model(x)).max(axis=1)
        assert (changes <= 0.011 * spread).all()
        assert made.inputs.min() >= 0
        assert made.inputs.max() <= 1
        wrong = np.abs(model(blind.inputs) - model(x)).max(axis=1) > 0.011 * spread
        assert (made.kept[wrong] < 1).all()
        assert made.changed >= wrong.sum()
        np.testing.assert_allclose(made.inputs - x, made.kept[:, None] * (blind.inputs - x), atol=1e-12)
        woke += made.changed
    assert woke > 0


def test_an_audit_within_a_box_hands_out_no_noise_that_changes_an_answer() -> None:
    complete = 0
    for seed in range(4):
        rng = np.random.default_rng([seed, 5])
        n = 12
        rows, outer = rng.standard_normal((3, n)), rng.standard_normal((1, n))
        top = 0.75 * np.maximum(outer, 0).sum(axis=1) + 0.25 * np.minimum(outer, 0).sum(axis=1)

        def model(x, rows=rows, outer=outer, top=top):
            return np.maximum((x - 0.5) @ rows.T, 0) + 3 * np.maximum(x @ outer.T - top, 0)

        audit = Audit(as_oracle(model, shape=n, within=(0, 1)), rng.uniform(0.3, 0.7, (15, n)), seed=seed)
        span = find_everywhere(audit, audit.inputs)
        complete += span.rank == 4
        assert audit.inputs is not None
        before = audit.oracle(audit.inputs)
        made = disguise(audit, span, audit.inputs, before, (np.zeros(n), np.ones(n)), "boxed")
        assert (made.moved(audit.oracle) <= 0.011).all()
        assert made.changed == 0 or made.full is not None
    assert complete >= 1
