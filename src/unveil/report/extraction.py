"""Weights that were read off, on the page: how much of the network came out of its answers, and what its rows look
like."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from unveil.outcome import Outcome
from unveil.report.audit import Audit, Stage
from unveil.report.drawing import draw_input
from unveil.report.forgetting import known_network
from unveil.report.section import Section
from unveil.report.text import brief, count

if TYPE_CHECKING:
    from unveil.identify.method import Identification
    from unveil.whitebox.network import Network

PICTURES = 8  # first-layer rows shown
ALIKE = 0.999  # |cosine| from which a row is the true one

_BODY = """
<table>
<tr><th>Neurons found, layer by layer</th><td>{{ values.neurons }}</td></tr>
<tr><th>Queries</th><td>{{ figure("queries") }}</td></tr>
<tr><th>Queries per parameter of what was found</th><td>{{ figure("queries_per_parameter") }}</td></tr>
<tr><th>Largest error on fresh inputs, relative</th><td>{{ figure("residual") }}</td></tr>
{% if values.known %}
<tr><th>Share of the true first layer's neurons</th><td>{{ figure("share_of_first_layer") }}</td></tr>
<tr><th>Same label as the model, on the examples</th><td>{{ figure("same_label") }}</td></tr>
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
    if network is None:
        return Section(
            key="extraction",
            title="Weights that were read off",
            verdict=f"No weights were read off its answers in {count(found.queries, 'question')}.",
            figures=figures,
            outcome=found.outcome,
            next_steps=found.why,
        )
    sizes = [layer.neurons for layer in network.layers]
    rows = np.asarray(network.layers[0].weights)
    size = sum(layer.neurons * (layer.inputs + 1) for layer in network.layers)
    figures |= {"neurons": sizes, "queries_per_parameter": found.queries / size}
    best, cos = None, None
    if truth is not None and getattr(truth.layers[0], "weights", np.empty(0)).shape[1:] == rows.shape[1:]:
        best = np.asarray(truth.layers[0].weights)
        cos = np.abs(_unit(best) @ _unit(rows).T)
        x = audit.examples(2000)
        figures |= {
            "share_of_first_layer": float((cos.max(axis=1) > ALIKE).mean()),
            "same_label": float(np.mean(truth(x).argmax(axis=1) == network(x).argmax(axis=1))),
        }
    pictures = []
    for i in np.argsort(-np.linalg.norm(rows, axis=1), kind="stable")[:PICTURES] if rows.shape[1] >= 16 else ():
        pair = [(draw_input(rows[i], audit.oracle.shape, f"row {i}, read off"), "read off")]
        if best is not None and cos is not None:
            near = int(cos[:, i].argmax())
            true = best[near] * np.sign(best[near] @ rows[i])
            pair.append((draw_input(true, audit.oracle.shape, f"true row {near}"), f"true, |cos| {cos[near, i]:.4f}"))
        pictures.append(pair)
    good = found.outcome is Outcome.complete
    asked = count(found.queries, "question")
    if good:
        verdict = (
            f"The whole network came out of its answers: {count(size, 'parameter')} from {asked}, "
            f"right to {brief(found.residual)} on fresh inputs."
        )
    else:
        verdict = (
            f"What was put together from {asked} does not answer as the model does: parts of it may still be right."
        )
    return Section(
        key="extraction",
        title="Weights that were read off",
        verdict=verdict,
        body=_BODY,
        values={"neurons": " - ".join(map(str, sizes)), "pictures": pictures, "known": best is not None},
        figures=figures,
        outcome=found.outcome,
        next_steps=found.why,
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))


EXTRACTION = Stage(
    key="extraction",
    title="Looking at the weights that were read off",
    run=_run,
    flag="--identify",
)
