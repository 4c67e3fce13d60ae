"""The row span on the page: which directions of the input matter, and how clearly they stand out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from unveil.audit.chart import Chart
from unveil.audit.section import Section
from unveil.audit.sections.span_check import SpanCheck, check, corners, larger_inputs
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.audit.verdict import Status, advice, ending
from unveil.blackbox.domain import described
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.blackbox.noise_model import NoiseModel
    from unveil.blackbox.oracle import Oracle
    from unveil.blackbox.span import RowSpan

_BODY = """
{% if values.chart %}
<figure>
  {{ values.chart }}
  <figcaption>{{ values.caption }} See {{ term("singular value") }}, {{ term("noise floor") }} and
  {{ term("direction") }}.</figcaption>
</figure>
{% endif %}
<dl class="plain">
  <dt>{{ term("rank", "Rank") }}</dt><dd>{{ figure("rank") }} of {{ figure("n") }}</dd>
  {% if values.found %}
  <dt>{{ term("accuracy", "Accuracy") }}</dt><dd>{{ values.accuracy }}</dd>
  {% endif %}
  <dt>{{ term("confidence", "Confidence") }}</dt><dd>{{ values.sure }}</dd>
  {% if values.checked %}
  <dt>Check</dt><dd>{{ figure("check.along_the_rest", share) }} of the change that any step makes, along the directions
  it does not see, at {{ figure("check.points") }} fresh points; at most
  {{ figure("check.allowed", share) }} was expected</dd>
  {% endif %}
  {% if values.left_out %}
  <dt>Left out</dt><dd>{{ values.left_out }}</dd>
  {% endif %}
  <dt>{{ term("question", "Questions") }}</dt><dd>{{ figure("queries") }}{{ values.stages }}</dd>
</dl>
"""


def _run(audit: Audit) -> Section:
    before = audit.oracle.ledger.asked
    span = find_everywhere(audit, typical(audit.oracle, audit.inputs))
    audit.findings["span"] = span
    checked = check(audit, span)
    return section(span, _where(audit), checked, checking=audit.oracle.ledger.asked - before - span.queries)


def find_everywhere(audit: Audit, x: Float[np.ndarray, "N n"] | None, accuracy: float = 1e-4) -> RowSpan:
    """The span; asked once more, with the corners of the box among the inputs, where answers there refute it.

    Args:
        audit: The model; its `noise` is used if it was measured.
        x: Where to ask.
        accuracy: Wanted sine of the largest principal angle.

    Where nothing matters at random points, but does at larger inputs, it is not measured.

    Queries: see `find_span`, `corners` and `larger_inputs`
    """
    noise = audit.findings.get("noise")
    span = find_span(audit.oracle, audit.rng("span"), x, accuracy, noise)
    if span.outcome is Outcome.nothing_to_find and larger_inputs(audit, span) is not None:
        return replace(span, outcome=Outcome.not_measured)
    more = corners(audit, span)
    if not len(more):
        return span
    usual = audit.oracle.sample(len(more), audit.rng("usual")) if x is None else x[: len(more)]
    again = find_span(audit.oracle, audit.rng("span"), np.concatenate([more, usual]), accuracy, noise)
    # It counts if it got to an end: less than what is known already would be no gain.
    if again.outcome is Outcome.budget_ended or again.rank <= span.rank:
        return span
    return replace(again, queries=span.queries + again.queries, stages=_added(span.stages, again.stages))


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {stage: first.get(stage, 0) + second.get(stage, 0) for stage in {**first, **second}}


def find_span(
    oracle: Oracle,
    rng: np.random.Generator,
    x: np.ndarray | None = None,
    accuracy: float = 1e-4,
    noise: NoiseModel | None = None,
) -> RowSpan:
    """`row_span`, imported only when an audit comes to it. Queries: see there."""
    from unveil.blackbox.row_span import row_span

    return row_span(oracle, rng=rng, accuracy=accuracy, x=x, noise=noise)


def typical(oracle: Oracle, examples: np.ndarray | None) -> np.ndarray | None:
    """The examples, where random points would show little: in a box, of a model made for images; and between labels."""
    return examples if oracle.within is not None or oracle.answers == "labels" else None


def _where(audit: Audit) -> str:
    if audit.oracle.within is None:
        return ""
    return f"inside {described(audit.oracle.within)}{'' if audit.inputs is None else ', around the examples'}"


def section(
    span: RowSpan, where: str = "", check: SpanCheck | None = None, doubt: str = "", checking: int = 0
) -> Section:
    """A RowSpan, told.

    Args:
        span: What was found.
        where: Where it was asked, if that was not everywhere, e.g. "inside [0, 1]": elsewhere the model may see more.
        check: What fresh points said.
        doubt: What showed elsewhere that it is wrong, a clause.
        checking: Questions that it took to check it.
    """
    if not doubt and check is not None and check.change is not None and not check.holds:
        doubt = (
            f"along the {count(span.n - span.rank, 'direction')} it seemed not to see, answers change by "
            f"{share(check.change)} of what any step changes them"
        )
    outcome, cause = _ended(span, check, doubt)
    sure = ending(outcome).status <= Status.approximate
    hidden = span.n - span.rank
    chart, caption = spectrum(span)
    found = 0 < span.rank < span.n
    larger = None if check is None else check.larger
    return Section(
        key="span",
        title="Which directions of the input it sees",
        verdict=_verdict(span, where, larger) if sure else _open(span, outcome, cause),
        body=_BODY,
        values={
            "chart": chart,
            "caption": caption,
            "found": found,
            "accuracy": _accuracy(span),
            "sure": _sure(span) if sure else f"none: {cause}",
            "checked": check is not None and check.change is not None,
            "left_out": f"{share(span.left_out)} of the gradient lies outside" if span.left_out > 0 else "",
            "stages": _stages(span, checking),
        },
        figures={
            "rank": span.rank,
            "n": span.n,
            "hidden": hidden if sure else None,
            "singular_values": span.singular_values,
            "noise_floor": span.noise_floor,
            "accuracy": span.accuracy,
            "confidence": span.confidence if sure else 0.0,
            "unseen": span.unseen,
            "left_out": span.left_out,
            "queries": span.queries,
            "stages": dict(span.stages),
            "check": None
            if check is None
            else {
                "along_the_rest": check.change,
                "allowed": check.allowed,
                "points": check.points,
                "larger_inputs": check.larger,
            },
        },
        files={"basis.npz": arrays(span)},
        claim=_claim(span, where, outcome, larger) if sure else "",
        outcome=outcome,
        cause=cause,
        next_steps=_next_steps(span, outcome, sure and found),
        refuted=lambda clause: section(span, where, check, clause, checking),
        severity=Severity.medium if found else Severity.none,
        confidence=_sure(span),
    )


def _ended(span: RowSpan, check: SpanCheck | None, doubt: str) -> tuple[Outcome, str]:
    """How the finding ended, checks included, and why it is not measured and checked."""
    seen = f"{count(span.rank)} of {count(span.n, 'input direction')}"
    if doubt:
        return Outcome.check_failed, doubt
    if span.outcome is Outcome.budget_ended:
        return Outcome.budget_ended, f"the budget ended when {seen} had been found"
    if check is not None and check.change is None:
        return Outcome.budget_ended, f"the budget ended when {seen} had been found, before that was checked"
    if span.outcome is Outcome.approximate:
        return Outcome.approximate, f"there is no sharp gap behind the {count(span.rank)} directions that matter most"
    return span.outcome, ""


def _open(span: RowSpan, outcome: Outcome, cause: str) -> str:
    """The section's sentence where nothing may be claimed."""
    if outcome is Outcome.check_failed:
        return (
            f"{count(span.rank)} of {count(span.n, 'direction')} were found to matter, but others do as well: {cause}."
        )
    if outcome is Outcome.budget_ended:
        return (
            f"{count(span.rank)} of {count(span.n, 'direction')} were found to matter to it. Then the budget ended: "
            "whether the others matter too is not known."
        )
    return str(outcome.value)


def _next_steps(span: RowSpan, outcome: Outcome, found: bool) -> tuple[str, ...]:
    if outcome is Outcome.budget_ended:
        return ("Allow a larger budget: directions beyond those found may matter too.",)
    if outcome is Outcome.check_failed:
        return ("Ask again with --inputs that are typical of its use, and inside the range that is legal (--within).",)
    if found:
        return (
            f"If {count(span.n - span.rank, 'invisible direction')} are more than this model should have: check inputs "
            "before it, or train a first layer that sees all of them.",
        )
    return tuple(filter(None, [advice(outcome)])) if ending(outcome).status > Status.approximate else ()


def arrays(span: RowSpan) -> dict[str, np.ndarray]:
    """What a file of a span holds."""
    return {"basis": span.basis, "singular_values": np.asarray(span.singular_values)}


def _claim(span: RowSpan, where: str, outcome: Outcome, larger: float | None) -> str:
    if span.rank == 0:
        return "did not react to any input that was tried"
    if span.rank >= span.n:
        return f"sees every one of its {count(span.n, 'input direction')}"
    if outcome is Outcome.approximate:
        return f"reacts little outside {count(span.rank)} of its {count(span.n, 'input direction')}"
    blind = "cannot see" if not where else "did not react to"
    if larger is not None:
        blind = "did not react, at random inputs of size 1, to"
    return f"{blind} {count(span.n - span.rank)} of its {count(span.n, 'input direction')}"


def _verdict(span: RowSpan, where: str, larger: float | None) -> str:
    if span.rank == 0:
        return "No change of the input changed an answer wherever it was asked."
    if span.rank >= span.n:
        return "Every direction of the input matters: there is no room to hide anything exactly."
    if span.outcome is Outcome.approximate:
        return (
            f"Nearly all of what it reacts to lies in {count(span.rank)} of {count(span.n, 'direction')}; the others "
            "matter little, but not nothing."
        )
    if where:
        return (
            f"Where it was asked, {where}, only {count(span.rank)} of {count(span.n, 'direction')} changed an answer. "
            "Elsewhere it may see more."
        )
    if larger is not None:
        return (
            f"At random inputs of size 1 only {count(span.rank)} of {count(span.n, 'direction')} change an answer. At "
            f"inputs {count(larger)} times as large others do as well: if it is used on such, ask again with --inputs."
        )
    return (
        f"Only {count(span.rank)} of {count(span.n, 'direction')} reach its first layer. Whatever is added along the "
        f"other {count(span.n - span.rank)} leaves every answer as it is."
    )


def _accuracy(span: RowSpan) -> str:
    if not span.accuracy < 1:
        return "not known: too little was asked to measure it"
    return f"{brief(span.accuracy, 2)}, three times the measured sine of the largest angle to the true span"


def _sure(span: RowSpan) -> str:
    if span.rank >= span.n:
        return "complete: every direction was seen to matter"
    if span.misses:
        return (
            f"none: {share(span.left_out)} of the gradient lies outside, so that directions that matter were left out"
        )
    if span.unseen >= 1:
        return "none: the search did not get as far as confirming that nothing is missing"
    return (
        f"with {share(span.confidence)} confidence, a direction that was missed matters at fewer than "
        f"{share(span.unseen)} of inputs"
    )


def _stages(span: RowSpan, checking: int) -> str:
    told = ": " if span.stages else ""
    told += ", ".join(f"{queries:,} {name}" for name, queries in span.stages.items() if queries)
    return told + (f"; and {count(checking)} to check it" if checking else "")


def spectrum(span: RowSpan) -> tuple[Markup, str]:
    """The singular values with the noise floor and the chosen rank drawn in, and a caption."""
    values = np.asarray(span.singular_values, dtype=np.float64)
    if not len(values) or not values.max() > 0:
        return Markup(""), ""
    lowest = values[values > 0].min()
    if span.noise_floor > 0:
        lowest = min(lowest, span.noise_floor)
    bottom, top = 10.0 ** math.floor(math.log10(lowest / 2)), 1.8 * float(values.max())
    last = max(len(values), span.rank) * 1.04 + 1
    chart = Chart(
        x=(0, last),
        y=(bottom, top),
        label=f"{len(values)} singular values from {brief(values.max())} down to {brief(values.min())}; "
        f"{span.rank} of them stand above the noise floor of {brief(span.noise_floor, 2)}.",
        x_title="number of the direction",
        y_title="size (largest = 1)",
        log=True,
        counted=True,
    )
    if span.noise_floor > 0:
        chart = chart.shade(bottom, span.noise_floor).level(
            span.noise_floor, f"noise floor {brief(span.noise_floor, 2)}", "warm"
        )
    if span.rank > 0:
        chart = chart.mark(span.rank + 0.5, f"rank {count(span.rank)}")
    number = np.arange(1, len(values) + 1)
    seen = number <= span.rank
    chart = chart.points(number[seen], values[seen], "accent").points(number[~seen], values[~seen], "quiet")
    weakest = values[seen].min() if seen.any() else 0.0
    caption = (
        "Singular values of the gradients that were asked. Everything in the band below the noise floor could be "
        "rounding of the answers."
    )
    if weakest > 0 and span.noise_floor > 0:
        caption += f" The weakest direction counted stands {brief(weakest / span.noise_floor, 2)} times above it."
    return chart.svg(), caption


def _cost(audit: Audit) -> tuple[float, float]:
    """If a tenth of the directions matter, and twice what it takes if all do, as it may be looked for twice."""
    n = audit.oracle.n
    checked = 4 * len(audit.examples(500))
    return span_cost(audit.oracle, max(1.0, n / 10)), 2 * span_cost(audit.oracle, n, most=True) + 20_000 + checked


def span_cost(oracle: Oracle, k: float, most: bool = False) -> float:
    """Questions if k directions matter; of refinements what was measured.

    Of float64 answers they took 0.2 to 0.6 passes over the complement from 200 inputs on. Of float32 ones of one output
    4 to 7 in fresh networks and 4 to 70 in trained ones; of several, where more places share a pass, 7 to 11 in fresh
    networks, 29 to 54 in the example and 8 to 70 in other trained ones, more where nothing reaches the accuracy.

    Args:
        oracle: The model.
        k: Directions.
        most: Where float64 answers leave as much to refine as they were seen to do.
    """
    n, m = oracle.n, oracle.m
    if oracle.answers == "labels":
        return 2 * min(k, n / 2) * (n - min(k, n / 2)) * math.log2(1e4) + 130_000
    first_pass, probes_and_confirmation = k * (n - k / 2) / m, 1_200
    passes = (7 if m == 1 else 33) if oracle.dtype == np.float32 else 2 if most else 0.4
    return first_pass + passes * k * (n + 1) / m + probes_and_confirmation


SPAN = Stage(key="span", title="Looking for the directions it sees", run=_run, cost=_cost)
