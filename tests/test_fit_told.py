"""What `identify` tells of a network that was fitted where a reading failed is told of that network."""

from __future__ import annotations

from importlib import import_module

import numpy as np

import unveil as uv
from tests.helpers import random_weights, single
from unveil.identification.surrogate.fitting import MEASURED_REMARK

identifying = import_module("unveil.identification.identify")  # the face has a verb of that name


def test_what_is_told_of_a_fit_is_of_the_network_returned(monkeypatch) -> None:
    """Errors of the reading before are not its own, and of one that passes the check weights do say something."""
    rng = np.random.default_rng(0)
    truth = uv.Network.from_weights(single(random_weights((4, 3, 1), rng, bias=0.5)))
    read = uv.Identification(None, uv.Outcome.check_failed, 0, np.inf, "critical points", (), {"errors": {}})
    said, approximate = (f"A network was fitted. {MEASURED_REMARK}",), uv.Outcome.approximate
    for needed in (True, False):
        copy = uv.Identification(truth, approximate, 0, 1e-12, "surrogate", said, {"all_needed": needed})
        monkeypatch.setattr(identifying, "_tried", lambda method, oracle, rng, copy=copy: copy)
        found = identifying._fitted(read, uv.as_oracle(truth.logits, shape=4), rng, None, None)
        assert found.network is truth
        assert "errors" not in found.stats
        assert (found.outcome is uv.Outcome.complete) == needed
        assert (MEASURED_REMARK in " ".join(found.why)) != needed
