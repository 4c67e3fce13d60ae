"""Weights that were read off, on the page: how much of the network came out of its answers, and what its rows look
like."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from unveil.audit.drawing import draw_input
from unveil.audit.section import Section
from unveil.audit.sections.forgetting import known_network
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count
from unveil.blackbox.line import unit_rows
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.identification.method import Identification
    from unveil.whitebox.network import Network

PICTURES = 8  # first-layer rows shown
TRUE_ROW_COSINE = 0.999  # |cosine| from which a row is the true one

_BODY = """
<table>
<caption>What was read</caption>
<tr><th scope="row">Neurons found, layer by layer</th><td>{{ values.neurons }}</td></tr>
<tr><th scope="row">Queries</th><td>{{ figure("queries") }}</td></tr>
<tr><th scope="row">Queries per parameter of what was found</th><td>{{ figure("queries_per_parameter") }}</td></tr>
<tr><th scope="row">Largest error on fresh inputs, relative</th><td>{{ figure("residual") }}</td></tr>
{% if values.known %}
<tr><th scope="row">Share of the true first layer's neurons</th><td>{{ figure("share_of_first_layer") }}</td></tr>
{% if values.labels %}
<tr><th scope="row">Same label as the model, on the examples</th><td>{{ figure("same_label") }}</td></tr>
{% endif %}
{% endif %}
</table>
{% if values.pictures %}
<div class="specimens">
{% for pair in values.pictures %}
  <div class="specimen">
  {% for picture, words in pair %}<figure>{{ picture }}<figcaption>{{ words }}</figcaption></figure>{% endfor %}
  </div>
{% endfor %}
</div>
<p class="note">Rows of the first layer as they were read off{% if values.known %}, each beside the true row nearest
to it{% endif %}.</p>
{% endif %}
"""


def _run(audit: Audit) -> Section | None:
    found = audit.findings.get("identification")
    if found is None or found.method != "critical points":
        return None
    # The truth, if the file holds it; never the network that was just read off.
    given = {key: value for key, value in audit.findings.items() if key != "network"}
    return section(found, audit, known_network(replace(audit, findings=given)))


def section(found: Identification, audit: Audit, truth: Network | None) -> Section:
    """An Identification, told; `truth` only to say how good it is."""
    network = found.network
    figures: dict[str, object] = {"queries": found.queries, "residual": found.residual, "method": found.method}
    # A constant has no weights, whatever stands for it.
    layers = [] if found.outcome in (Outcome.nothing_to_find, Outcome.not_resolved) else _read(found)
    if not layers:
        return Section(
            key="extraction",
            title="Weights that were read off",
            verdict=f"No weights were read off its answers in {count(found.queries, 'question')}.",
            figures=figures,
            outcome=found.outcome,
        )
    rows = layers[0]
    size = sum(len(each) * (each.shape[1] + 1) for each in layers)
    figures |= {"neurons": [len(each) for each in layers], "queries_per_parameter": found.queries / size}
    best, cos = None, None
    if truth is not None and getattr(truth.layers[0], "weights", np.empty(0)).shape[1:] == rows.shape[1:]:
        best = np.asarray(truth.layers[0].weights)
        cos = np.abs(unit_rows(best) @ unit_rows(rows).T)
        figures["share_of_first_layer"] = float((cos.max(axis=1) > TRUE_ROW_COSINE).mean())
        if network is not None:
            x = audit.examples(2000)
            figures["same_label"] = float(np.mean(truth(x).argmax(axis=1) == network(x).argmax(axis=1)))
    pictures = []
    for i in np.argsort(-np.linalg.norm(rows, axis=1), kind="stable")[:PICTURES] if rows.shape[1] >= 16 else ():
        pair = [(draw_input(rows[i], audit.oracle.shape, f"row {i}, read off"), "read off")]
        if best is not None and cos is not None:
            near = int(cos[:, i].argmax())
            true = best[near] * np.sign(best[near] @ rows[i])
            pair.append((draw_input(true, audit.oracle.shape, f"true row {near}"), f"true, |cos| {cos[near, i]:.4f}"))
        pictures.append(pair)
    return Section(
        key="extraction",
        title="Weights that were read off",
        verdict=_verdict(found, layers, size, figures.get("same_label")),
        body=_BODY,
        values={
            "neurons": " - ".join(str(len(each)) for each in layers),
            "pictures": pictures,
            "known": best is not None,
            "labels": "same_label" in figures,
        },
        figures=figures,
        outcome=found.outcome,
        cause="what lies behind the neurons that were read did not come out"
        if found.outcome is Outcome.check_failed and "rows_read" in found.stats
        else "",
        severity=Severity.medium,
    )


def _read(found: Identification) -> list[np.ndarray]:
    """Rows of the layers that were read: all, or those told apart from what was trained behind them."""
    if found.outcome is not Outcome.complete:
        if found.stats.get("layers_read"):
            return [np.asarray(rows) for rows, _ in found.stats["layers_read"]]
        if "rows_read" in found.stats:
            return [np.asarray(found.stats["rows_read"][0])]
    return [] if found.network is None else [np.asarray(layer.weights) for layer in found.network.layers]


def _verdict(found: Identification, layers: list[np.ndarray], size: int, same: object) -> str:
    asked = count(found.queries, "question")
    if found.outcome is Outcome.complete:
        return (
            f"The whole network came out of its answers: {count(size, 'parameter')} from {asked}, "
            f"right to {brief(found.residual)} on fresh inputs."
        )
    if "rows_read" in found.stats:
        told = " and ".join(f"{len(each)} in layer {i}" for i, each in enumerate(layers))
        ending = "what lies behind them did not come out"
        if isinstance(same, float):
            ending += f"; a network trained behind them gives the same label on {same:.1%} of the examples"
        return f"Neurons were read off in {asked}: {told}; {ending}."
    if found.outcome is Outcome.approximate:
        return (
            f"A network was put together from {asked} that answers nearly as the model does, off by at most "
            f"{brief(found.residual)} on fresh inputs: its weights need not be the model's."
        )
    return f"What was put together from {asked} does not answer as the model does: parts of it may still be right."


EXTRACTION = Stage(
    key="extraction",
    title="Looking at the weights that were read off",
    run=_run,
    flag="--identify",
)
