"""The span of the outputs on the page: the hidden width that they give away, and the last layer's column space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unveil.audit.section import Section
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.blackbox.output_space import OutputSpan

_BODY = """
<dl class="plain">
  <dt>{{ term("rank", "Rank") }} of the answers</dt><dd>{{ figure("rank") }} of {{ figure("outputs") }}</dd>
  <dt>What it stands for</dt><dd>{{ values.why }}</dd>
  {% if values.settled %}
  <dt>{{ term("accuracy", "Accuracy") }}</dt>
  <dd>sine of the largest angle to the last layer's column space: {{ figure("accuracy") }}</dd>
  <dt>Noise</dt><dd>{{ figure("noise") }} in a number, where rounding alone makes {{ figure("rounding") }}</dd>
  <dt>{{ term("confidence", "Confidence") }}</dt><dd>{{ values.sure }}</dd>
  {% endif %}
  <dt>Questions</dt><dd>{{ figure("answers") }}, of which {{ figure("queries") }} besides those of the first look</dd>
</dl>
"""


def section(span: OutputSpan, known: int = 0) -> Section:
    """An OutputSpan, told, that was given `known` answers of the first look."""
    settled = span.outcome is Outcome.complete
    steps: tuple[str, ...] = ()
    if settled:
        steps = (
            "Give fewer outputs (the most likely ones, without a way to bias them), or labels: "
            "answers to a few more inputs than the width tell the width, and whether this model gave an answer.",
        )
    return Section(
        key="outputs",
        title="What the outputs give away",
        verdict=_verdict(span),
        body=_BODY,
        values={
            "why": span.why,
            "settled": settled,
            "sure": f"{share(span.confidence)} that answers to all but {share(span.unseen)} of inputs lie in the span",
        },
        figures={
            "rank": span.rank,
            "outputs": span.m,
            "accuracy": span.accuracy,
            "noise": span.noise,
            "rounding": span.rounding,
            "confidence": span.confidence,
            "unseen": span.unseen,
            "singular_values": span.singular_values,
            "reading": span.reading.kind,
            "answers": span.queries + known,
            "queries": span.queries,
        },
        files={"outputs.npz": arrays(span)} if settled else {},
        claim=f"tells the width of its last hidden layer, {count(span.rank)}, by its outputs" if settled else "",
        outcome=span.outcome,
        cause="" if settled else span.why,
        next_steps=steps,
        severity=Severity.low if settled or span.outcome is Outcome.approximate else Severity.none,
        known=known,
        confidence=f"{share(span.confidence)} that answers to all but {share(span.unseen)} of inputs lie in the span",
    )


def arrays(span: OutputSpan) -> dict[str, np.ndarray]:
    """What a file of a span holds."""
    return {"basis": span.basis, "origin": span.origin, "singular_values": span.singular_values}


def _verdict(span: OutputSpan) -> str:
    if span.outcome is Outcome.complete:
        return (
            f"Its {count(span.m, 'output')} lie in a space of {count(span.rank, 'dimension')}: the width of the hidden "
            f"layer before them (one more behind a LayerNorm), known to a sine of {brief(span.accuracy, 2)}."
        )
    if span.outcome is Outcome.full_rank:
        return f"Its {count(span.m, 'output')} fill their space: they tell nothing of the layer before them."
    return f"The width of the hidden layer was not found: {span.why}."


def _run(audit: Audit) -> Section | None:
    oracle = audit.oracle
    if oracle.answers == "labels" or oracle.m < 2:
        return None
    from unveil.audit.sections.span import typical
    from unveil.blackbox.output_span import output_span

    near = typical(oracle, audit.inputs)
    known = audit.findings["seen"][1] if near is None or _few(oracle.m) else None
    span = output_span(oracle, near, rng=audit.rng("outputs"), known=known)
    audit.findings["outputs"] = span
    nothing = span.outcome in (Outcome.full_rank, Outcome.nothing_to_find)
    return None if nothing and not span.queries else section(span, 0 if known is None else len(known))


def _few(outputs: int) -> bool:
    """Whether the 64 answers of the first look show it, if outputs fill their space."""
    return outputs <= 50


def _cost(audit: Audit) -> tuple[float, float]:
    if audit.oracle.answers == "labels" or _few(audit.oracle.m):
        return 0, 0
    return audit.oracle.m / 8, 2 * min(audit.oracle.m, 4500) + 1000


OUTPUTS = Stage(key="outputs", title="Looking at the space of the outputs", run=_run, cost=_cost)
