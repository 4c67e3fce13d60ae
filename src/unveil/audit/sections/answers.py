"""First section: what was asked, and what the answers look like."""

from __future__ import annotations

from typing import Any

import numpy as np

from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.blackbox.answers import missing
from unveil.blackbox.domain import described
from unveil.blackbox.oracle import Oracle

TOO_FEW_EXAMPLES = 10  # examples of which it cannot be told that labels are wrong

_BODY = """
<dl class="plain">
  {% for name, text in values.rows %}
  <dt>{{ name }}</dt><dd>{{ text }}</dd>
  {% endfor %}
</dl>
"""


def _run(audit: Audit) -> Section:
    oracle = audit.oracle
    figures: dict[str, Any] = {
        "name": oracle.name,
        "shape": list(oracle.shape),
        "n": oracle.n,
        "m": oracle.m + (oracle.reference is not None),  # of m probabilities, m - 1 log-ratios are asked
        "answers": _kind_of_answers(oracle),
        "within": oracle.within,
        "grid": oracle.grid,
        "precision": oracle.dtype.name,
        "resolution": oracle.resolution,
        "notes": list(oracle.notes),
        "signal_to_noise": oracle.signal_to_noise,
        "missing": oracle.ledger.missing,
    }
    _, y = audit.findings["seen"]
    rows = [
        ("It takes", f"{count(oracle.n, 'number')}{_shape(oracle)}, {_legal(oracle)}, in {oracle.dtype.name}"),
        ("It answers", _answers(oracle)),
    ]
    if audit.units is not None:
        figures["units"] = audit.units
        rows.insert(1, ("Each of them is asked", "in standard deviations of the examples, from their mean"))
    if oracle.answers == "labels":
        classes = np.unique(y)
        figures["classes_seen"] = classes
        rows.append(("On random points", f"{count(len(classes), 'class', 'classes')} of answers"))
        verdict = "It answers with a class and nothing else: each question brings one bit or a few."
    else:
        measured, told, verdict = _values(audit, y)
        figures |= measured
        rows += told
    if audit.inputs is not None:
        measured, told = _examples(audit, audit.inputs)
        figures |= measured
        rows += told
    if oracle.ledger.missing:
        rows.append(("Left out", f"{count(oracle.ledger.missing, 'question')} so far that got NaN or infinity"))
    rows += [("To know", note) for note in oracle.notes]
    return Section(
        key="oracle",
        title="What it answers",
        verdict=verdict,
        body=_BODY,
        values={"rows": rows},
        figures=figures,
    )


def _values(audit: Audit, y: np.ndarray) -> tuple[dict[str, Any], list[tuple[str, str]], str]:
    """Figures, rows and a verdict on answers that are numbers."""
    from unveil.audit.sections.span import typical
    from unveil.blackbox.noise_model import measure_noise

    oracle = audit.oracle
    noise = measure_noise(oracle, rng=audit.rng("noise"), x=typical(oracle, audit.inputs))
    audit.findings["noise"] = noise
    level, low, high = float(np.median(noise.level)), float(y.min()), float(y.max())
    figures = {
        "kind": noise.kind,
        "digits": noise.digits,
        "noise": level,
        "reach": noise.reach,
        "low": low,
        "high": high,
    }
    rows = [
        ("On random points", f"from {brief(low)} to {brief(high)}"),
        ("Rounding", f"{count(noise.digits, 'digit')} can be trusted; noise of {brief(level, 2)} in an answer"),
        ("Form", _forms()[noise.kind]),
    ]
    return figures, rows, f"It answers with {count(noise.digits, 'digit')} and is {_short_form(noise.kind)}."


def _examples(audit: Audit, inputs: np.ndarray) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Figures and rows on the examples given, and how often it is right on them."""
    oracle = audit.oracle
    figures: dict[str, Any] = {"inputs": len(inputs)}
    rows = [("Examples given", count(len(inputs), "input"))]
    classes = oracle.m > 1 or oracle.answers == "labels" or oracle.reference is not None
    if audit.labels is not None and not oracle.ordered and classes:
        answers = oracle.answered(inputs)
        there = ~missing(answers)
        predictions, labels = oracle.predictions(answers[there]), audit.labels[there]
        figures["examples_right"] = right = float(np.mean(predictions == labels))
        rows.append(("Right on them", share(right)))
        doubt = _doubted(predictions, labels)
        figures["labels_doubtful"] = bool(doubt)
        rows += [("To know", doubt)] if doubt else []
    return figures, rows


def _doubted(predictions: np.ndarray, labels: np.ndarray) -> str:
    """What is odd about labels that the model is right on less often than guessing would be; empty if nothing is."""
    classes = np.union1d(predictions, labels)
    chance = sum(float(np.mean(predictions == one) * np.mean(labels == one)) for one in classes)
    fair = max(chance, 1 / max(len(classes), 2))
    right = float(np.mean(predictions == labels))
    if (
        len(labels) < TOO_FEW_EXAMPLES
        or right > fair / 2
        or right + 3 * np.sqrt(fair * (1 - fair) / len(labels)) > fair
    ):
        return ""
    shifted = {by: float(np.mean(predictions == labels + by)) for by in (-1, 1)}
    by = max(shifted, key=lambda by: shifted[by])
    told = f"The model is right on {share(right)} of the examples, where guessing would be on {share(fair)}"
    if shifted[by] > max(2 * fair, 0.5):
        return f"{told}: the labels are shifted by one, with {by:+d} it would be right on {share(shifted[by])}."
    return f"{told}: are these its labels, and its inputs in its own order? --label-column names another column."


def _kind_of_answers(oracle: Oracle) -> str:
    if oracle.answers == "labels":
        return "labels"
    return "values" if oracle.reference is None else "probabilities"


def _answers(oracle: Oracle) -> str:
    if oracle.answers == "labels":
        return "a class label"
    if oracle.reference is not None:
        return f"{count(oracle.m + 1, 'probability', 'probabilities')}, asked through their log-ratios"
    return count(oracle.m, "number")


def _shape(oracle: Oracle) -> str:
    return f" of shape {' × '.join(map(str, oracle.shape))}" if len(oracle.shape) > 1 else ""


def _legal(oracle: Oracle) -> str:
    step = f" in steps of {oracle.grid:.4g}" if oracle.grid is not None else ""
    if oracle.within is None:
        return f"any value{step}"
    return f"within {described(oracle.within)}{step}"


def _forms() -> dict[str, str]:
    return {
        "piecewise linear": "piecewise linear, as a ReLU network is: long steps stay exact inside a region",
        "smooth": "smooth: it bends a little everywhere, so steps must be short",
        "linear": "linear wherever it was asked",
        "constant": "constant wherever it was asked",
    }


def _short_form(kind: str) -> str:
    return {"smooth": "smooth", "piecewise linear": "piecewise linear"}.get(kind, f"{kind} wherever it was asked")


def _cost(audit: Audit) -> tuple[float, float]:
    asked = 174.0 if audit.oracle.answers != "labels" else 0.0
    if audit.inputs is not None and audit.labels is not None:
        asked += len(audit.inputs)
    return asked, 4 * asked + 100


ANSWERS = Stage(key="oracle", title="Looking at the answers", run=_run, cost=_cost)
