"""What of its weights can be read off its answers: the network found, how well it answers, what it cost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from unveil.audit.chart import Chart
from unveil.audit.section import Section
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.identification.method import Identification
    from unveil.whitebox.network import Network

_FRESH = 500
LABELS_DIFFER = 0.01  # share of fresh inputs, a third of them close to boundaries, that may have another label
# Errors on fresh inputs may exceed the stated ones so many times; so little is rounding.
TOLERANCE, FRESH_ERROR_FLOOR = 10.0, 1e-5

_BODY = """
{% if values.chart %}<figure>{{ values.chart }}<figcaption>
Errors of the network found at {{ count(values.fresh, "fresh input") }}, relative to the spread of the answers.
</figcaption></figure>{% endif %}
{% if values.stages %}<table>
<caption>Questions by stage</caption><thead><tr><th scope="col">stage</th>
<th scope="col">queries</th></tr></thead><tbody>
{% for stage, queries in values.stages %}<tr><td>{{ stage }}</td><td>{{ queries }}</td></tr>{% endfor %}
</tbody></table>{% endif %}
<ul>{% for reason in values.why %}<li>{{ reason }}</li>{% endfor %}</ul>
"""


def _run(audit: Audit) -> Section | None:
    from unveil.identification.fitting.least_squares import parameters
    from unveil.identification.identify import identify

    rng = audit.rng("identify")
    labels, differ = audit.oracle.answers == "labels", math.nan
    # Of labels random points may show a single one.
    found = identify(audit.oracle, rng=rng, x=audit.inputs if labels else None)
    chart, errors = Markup(""), np.empty(0)
    if found.network is not None and labels and audit.oracle.ledger.left >= _FRESH:
        differ = found.check(audit.oracle, rng=rng, points=_FRESH)
    elif found.network is not None and audit.oracle.ledger.left >= _FRESH:
        x = audit.oracle.sample(_FRESH, rng)
        answers = audit.oracle(x)
        spread = float(np.abs(answers - answers.mean(axis=0)).max()) or 1.0
        errors = np.abs(found.network(x) - answers).max(axis=1) / spread
        # Of a constant the spread is rounding, and errors have nothing to be relative to.
        chart = Markup("") if found.outcome is Outcome.nothing_to_find else _histogram(errors)
    allowed = max(TOLERANCE * found.residual, FRESH_ERROR_FLOOR)
    outcome, cause = _labels_ended(found, differ) if labels else _ended(found, errors, allowed)
    # Whoever looks at it later looks at what is left of it.
    audit.findings["identification"] = replace(found, outcome=outcome, why=found.why or tuple(filter(None, [cause])))
    figures = {
        "found": found.outcome,
        "method": found.method,
        "queries": found.queries,
        "residual": found.residual if math.isfinite(found.residual) else None,
        "why": list(found.why),
        "stages": dict(found.stats.get("queries per stage", {})),
    }
    verdict, claim = outcome.value if outcome is found.outcome else f"What was read does not hold: {cause}.", ""
    files = {}
    if found.network is not None:
        figures |= {"widths": list(found.network.widths), "parameters": parameters(found.network)}
        if outcome is Outcome.complete:
            audit.findings["network"] = found.network
            verdict, claim = _read_whole(found, found.network, differ if labels else None)
        files["network.npz"] = {
            f"{kind}_{i}": array
            for i, layer in enumerate(found.network.layers)
            for kind, array in (("weights", layer.dense()), ("bias", layer.bias))
        }
    return Section(
        key="identification",
        title="Reading its weights",
        verdict=verdict,
        body=_BODY,
        values={
            "chart": chart,
            "fresh": len(errors),
            "stages": list(figures["stages"].items()),  # type: ignore[attr-defined]
            "why": found.why,
        },
        figures=figures,
        files=files,
        claim=claim,
        severity=_severity(found, outcome),
        confidence=f"it was asked for at {count(_FRESH if labels else len(errors), 'fresh input')}",
        outcome=outcome,
        cause=cause,
    )


def _severity(found: Identification, outcome: Outcome) -> Severity:
    """All weights, or a network with a known error and the rows that were read, which are part of the model."""
    if outcome is Outcome.complete:
        return Severity.high
    part = found.network is not None or "rows_read" in found.stats
    return Severity.medium if outcome is Outcome.approximate and part else Severity.none


def _read_whole(found: Identification, network: Network, differ: float | None) -> tuple[str, str]:
    """Verdict and claim on a network read whole; of labels alone, which share of them `differ`."""
    from unveil.identification.fitting.least_squares import parameters

    size = count(parameters(network), "parameter")
    widths = " - ".join(str(layer.inputs) for layer in network.layers) + f" - {network.m}"
    questions = count(found.queries, "question")
    if differ is None:
        agrees, still = f"answers like it, to {brief(found.residual)} on fresh inputs", "."
    else:
        agrees = f"gives its labels at {share(1 - differ)} of fresh inputs, a third of them close to where they change"
        still = ", up to what labels cannot tell."
    verdict = f"A network {widths} {agrees}: {questions} for {size}{still}"
    return verdict, f"gives away all of its {size} in {questions}"


def _ended(found: Identification, errors: np.ndarray, allowed: float) -> tuple[Outcome, str]:
    """How it ended, the errors on fresh inputs included, and why it is not measured and checked."""
    off = errors > allowed
    if found.outcome is Outcome.check_failed and off.any():
        return found.outcome, _otherwise(errors, off)
    if found.outcome is not Outcome.complete:
        return found.outcome, ""
    if not len(errors):
        return Outcome.budget_ended, "the budget ended before the network that was read was asked for at fresh inputs"
    if off.any():
        return Outcome.check_failed, _otherwise(errors, off)
    return Outcome.complete, ""


def _labels_ended(found: Identification, differ: float) -> tuple[Outcome, str]:
    """How reading from labels ended, other labels at fresh inputs included."""
    if found.outcome is not Outcome.complete:
        return found.outcome, ""
    if math.isnan(differ):
        return Outcome.budget_ended, "the budget ended before the network that was read was asked for at fresh inputs"
    if differ > LABELS_DIFFER:
        return Outcome.check_failed, f"at {share(differ)} of fresh inputs the network that was read gives another label"
    return Outcome.complete, ""


def _otherwise(errors: np.ndarray, off: np.ndarray) -> str:
    return (
        f"at {count(int(off.sum()))} of {count(len(errors), 'fresh input')} the network that was read answers "
        f"otherwise, by up to {brief(float(errors.max()))} of the spread"
    )


def _histogram(errors: np.ndarray) -> Markup:
    """How many fresh inputs have an error of which size, by powers of ten."""
    powers = np.log10(np.maximum(errors, 1e-17))
    low, high = math.floor(powers.min()), math.ceil(powers.max() + 1e-9)
    edges = np.linspace(low, max(high, low + 1), 25)
    heights, _ = np.histogram(powers, edges)
    chart = Chart(
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, float(heights.max()) * 1.1 + 1),
        label=f"Errors at fresh inputs, between {10.0 ** powers.min():.1e} and {10.0 ** powers.max():.1e}",
        x_title="power of ten of the error",
        y_title="inputs",
    )
    return chart.line(np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)).svg()


def _cost(audit: Audit) -> tuple[float, float]:
    n = audit.oracle.n
    if audit.oracle.answers == "labels":
        return 5_000.0 * n, 20_000.0 * n + 1_000_000
    return 1_000.0 * n, 10_000.0 * n + 500_000


IDENTIFICATION = Stage(
    key="identification",
    title="Reading its weights",
    run=_run,
    cost=_cost,
    flag="--identify",
    help="Read its weights off its answers.",
)
