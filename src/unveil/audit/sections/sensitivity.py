"""An active subspace on its own page: eigenvalues, summary plots, activity scores, what the surrogate explains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from unveil.audit.chart import Chart, Tone
from unveil.audit.page import Page
from unveil.audit.section import Section
from unveil.audit.text import count, share
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.blackbox.active_subspace import ActiveSubspace

# Rows of a table and values of a chart that a person still reads; all are in the JSON.
ROWS_SHOWN = 20
# Smaller than this times the largest, an eigenvalue is drawn at the lower edge.
DEPTH = 1e-8

_DIRECTIONS = """
{% if values.chart %}
<figure>{{ values.chart }}<figcaption>Eigenvalues of the mean outer product of the gradients (dots): the mean square
derivative of the answers along each direction. Lines are intervals of {{ values.confidence }}; one that reaches
the lower edge cannot be told from 0.</figcaption></figure>
<dl class="plain">
  <dt>Active directions</dt><dd>{{ figure("dimension") }} of {{ figure("directions") }}: the fewest that keep
  {{ values.share }} of the mean squared gradient; {{ values.sure }} of the possible spectra give this number</dd>
  <dt>Left out</dt><dd>{{ figure("left_out", share) }} of the mean squared gradient; the active directions keep
  {{ figure("least", share) }} or more at the worst ends of the intervals</dd>
  <dt>Largest gap</dt><dd>after direction {{ figure("gap") }}, in {{ values.gap_sure }} of the possible spectra</dd>
</dl>
{% endif %}
"""
_SUMMARY = """
<figure>{{ values.one }}<figcaption>Every answer against the first active variable, the sum of the scaled inputs times
their weights. The closer the points are to one curve, the more the first direction alone tells.</figcaption></figure>
{% if values.two %}
<figure>{{ values.two }}<figcaption>Where it was evaluated, along the first two directions: the lowest third of the
answers
<svg width="10" height="10" class="chart"><circle class="points quiet" cx="5" cy="5" r="4"/></svg>, the middle third
<svg width="10" height="10" class="chart"><circle class="points warm" cx="5" cy="5" r="4"/></svg> and the highest
<svg width="10" height="10" class="chart"><circle class="points" cx="5" cy="5" r="4"/></svg>.</figcaption></figure>
{% endif %}
"""
_INPUTS = """
<div class="scroll"><table>
<caption>How much each input matters</caption>
<thead><tr><th scope="col">Input</th><th scope="col" class="number">Activity score</th>
<th scope="col" class="number">from</th><th scope="col" class="number">to</th>
<th scope="col">Share of all</th>
{% for place in values.weights %}<th scope="col" class="number">Weight {{ place }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in values.rows %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ figure("scores." ~ row.place ~ ".score") }}</td>
<td class="number">{{ brief(row.low) }}</td><td class="number">{{ brief(row.high) }}</td><td>{{ row.bar }}</td>
{% for weight in row.weights %}<td class="number">{{ weight }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if values.more %}<p class="note">{{ values.more }} more, with lower scores, are in the JSON.</p>{% endif %}
<p class="note">The score of an input is the sum, over all directions, of its squared weight times the eigenvalue, the
mean square derivative along it: how much the answers change with it over its range. Scores compare inputs only
over the ranges that were given.</p>
"""
_SURROGATE = """
<figure>{{ values.chart }}<figcaption>Every answer against what the surrogate foretells of it from the other rows. On
the line it would be foretold exactly.</figcaption></figure>
<dl class="plain">
  <dt>Surrogate</dt><dd>{{ figure("name") }}</dd>
  <dt>Explained</dt><dd>{{ figure("explained", values.shown) }} of the variance of rows left out in turn</dd>
  <dt>Noise</dt><dd>standard deviation {{ figure("noise") }}; the answers have {{ figure("deviation") }}</dd>
</dl>
"""


def told(found: ActiveSubspace, subject: str, *, seed: int | None = None) -> Page:
    """A page about a simulator, or a table of its runs.

    Args:
        found: What `active_subspace` found.
        subject: What the simulator or table is called.
        seed: For the JSON: what the randomness started from.
    """
    sections = [_directions(found)]
    if found.outcome is not Outcome.nothing_to_find:
        sections += [_summary(found), _inputs(found)]
        if found.surrogate is not None:
            sections.append(_surrogate(found))
    answers = {"runs": found.queries, "rows": len(found.y), "missing": found.missing, "seed": seed}
    facts = [("directions.dimension", "active directions"), ("directions.directions", "directions in all")]
    facts += [("runs", "runs") if found.queries else ("rows", "rows with an answer"), ("missing", "without an answer")]
    return Page(subject, tuple(sections), answers, tuple(facts))


def figures(found: ActiveSubspace) -> dict[str, Any]:
    """Every number of it, for JSON."""
    return {
        **_spectrum(found),
        "inputs": _scores(found),
        "ranking": found.ranking,
        "cautions": found.cautions,
        "basis": found.basis,
        "explained": found.explained,
        "surrogate": None if found.surrogate is None else found.surrogate.name,
        "noise": found.noise,
        "queries": found.queries,
        "rows": len(found.y),
        "missing": found.missing,
    }


def arrays(found: ActiveSubspace) -> dict[str, np.ndarray]:
    """What a file of it holds."""
    return {
        "basis": found.basis,
        "eigenvalues": found.eigenvalues,
        "intervals": found.intervals,
        "activity": found.activity,
        "names": np.array(found.inputs.names),
        "x": found.x,
        "y": found.y,
    }


def _spectrum(found: ActiveSubspace) -> dict[str, Any]:
    return {
        "dimension": found.dimension,
        "directions": found.n,
        "share": found.share,
        "sure": found.sure,
        "gap": found.gap,
        "gap_sure": found.gap_sure,
        "left_out": found.left_out,
        "least": found.least,
        "eigenvalues": found.eigenvalues,
        "intervals": found.intervals,
        "confidence": found.confidence,
        "exact": None if found.span is None else found.span.rank,
    }


def _scores(found: ActiveSubspace) -> list[dict[str, Any]]:
    """The most active first."""
    columns = zip(found.inputs.all, found.activity.tolist(), found.activity_intervals.tolist(), strict=True)
    scores = [{"name": one.name, "unit": one.unit, "score": score, "interval": ends} for one, score, ends in columns]
    return [scores[place] for place in np.argsort(-found.activity, kind="stable")]


def _directions(found: ActiveSubspace) -> Section:
    nothing = found.outcome is Outcome.nothing_to_find
    approximate, failed = found.outcome is Outcome.approximate, found.outcome is Outcome.check_failed
    explained = share(max(found.explained, 0.0)) if math.isfinite(found.explained) else ""
    exact = "exactly" if found.span is not None else "mostly"
    few = f"changes {exact} along {found.dimension} of its {count(found.n, 'input direction')}"
    cause = ""
    if nothing:
        cause = "all answers are the same"
    elif failed:
        cause = f"the surrogate explains {explained} of the variance of rows left out, and at least half is needed"
    elif approximate and found.surrogate is None:
        cause = f"directions that carry {share(found.left_out)} of the mean squared gradient are left out"
    elif approximate:
        cause = f"directions are those of a surrogate, which explains {explained} of the variance of rows left out"
    steps = {
        Outcome.check_failed: ("Evaluate more, or at inputs that vary more; look for noise in the answers.",),
        Outcome.approximate: ("Ask fresh inputs, along the inactive directions too: `ActiveSubspace.check` does.",),
        Outcome.nothing_to_find: ("Widen the ranges of the inputs, or look whether the answer is read correctly.",),
    }.get(found.outcome, ())
    return Section(
        key="directions",
        title="Which directions matter",
        verdict=found.conclusion(),
        body=_DIRECTIONS,
        values={
            "chart": "" if nothing else _spectrum_chart(found).svg(),
            "confidence": share(found.confidence),
            "share": share(found.share),
            "sure": share(found.sure),
            "gap_sure": share(found.gap_sure),
        },
        figures=_spectrum(found),
        files={"subspace.npz": arrays(found)},
        claim="gave one answer everywhere" if nothing else "" if failed else few,
        outcome=found.outcome,
        cause=cause,
        next_steps=steps,
    )


def _spectrum_chart(found: ActiveSubspace) -> Chart:
    top = min(found.n, 2 * ROWS_SHOWN)
    high = float(max(found.intervals.max(), found.eigenvalues[0]))
    low = 10.0 ** math.floor(math.log10(max(float(found.eigenvalues[found.eigenvalues > 0].min()), DEPTH * high)))
    chart = Chart(
        x=(0.5, top + 0.5),
        y=(low, 10.0 ** math.ceil(math.log10(high))),
        label=f"Eigenvalues of {count(top, 'direction')} with their intervals; the first {found.dimension} are active.",
        x_title="direction",
        y_title="mean square derivative",
        log=True,
        counted=True,
    )
    for place in range(top):
        chart = chart.line([place + 1] * 2, np.maximum(found.intervals[place], low), "quiet")
    chart = chart.points(np.arange(1, top + 1), np.maximum(found.eigenvalues[:top], low))
    return chart.mark(found.dimension + 0.5, "active to the left") if found.dimension < top else chart


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values' range with a little room."""
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _summary(found: ActiveSubspace) -> Section:
    along = found.coordinates(found.x, min(2, found.n))
    one = Chart(
        x=_range(along[:, 0]),
        y=_range(found.y),
        label="The answers against the first active variable.",
        x_title="first active variable",
        y_title="answer",
    ).points(along[:, 0], found.y)
    two = None
    if found.n > 1:
        chart = Chart(
            x=_range(along[:, 0]),
            y=_range(along[:, 1]),
            label="Inputs along the first two directions, in three groups by their answers.",
            x_title="first active variable",
            y_title="second active variable",
        )
        group = np.searchsorted(np.quantile(found.y, [1 / 3, 2 / 3]), found.y)
        tones: tuple[Tone, ...] = ("quiet", "warm", "accent")
        for place, tone in enumerate(tones):
            chart = chart.points(along[group == place, 0], along[group == place, 1], tone)
        two = chart.svg()
    return Section(
        key="summary",
        title="The answers along them",
        verdict="If the points lie along one curve, one combination of the inputs stands for all of them.",
        body=_SUMMARY,
        values={"one": one.svg(), "two": two},
    )


def _inputs(found: ActiveSubspace) -> Section:
    scores, titles = _scores(found), {one.name: one.title for one in found.inputs.all}
    total = float(found.activity.sum()) or 1.0
    # A category has several columns and no single weight in a direction.
    shown = range(min(found.dimension, 3)) if found.inputs.n == len(found.inputs.all) else range(0)
    column = {name: place for place, name in enumerate(found.inputs.names)}
    rows = [
        {
            "name": titles[each["name"]],
            "place": place,
            "low": each["interval"][0],
            "high": each["interval"][1],
            "bar": _bar(each["score"] / total),
            "weights": [_weight(found.basis[row, column[each["name"]]]) for row in shown],
        }
        for place, each in enumerate(scores[:ROWS_SHOWN])
    ]
    first = scores[0]["name"]
    return Section(
        key="activity",
        title="Which inputs matter",
        verdict=f"The answers change most with {first}: {share(scores[0]['score'] / total)} of all activity scores.",
        body=_INPUTS,
        values={"rows": rows, "weights": [place + 1 for place in shown], "more": max(0, len(scores) - ROWS_SHOWN)},
        figures={"scores": scores, "basis": found.basis},
    )


def _weight(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def _bar(part: float) -> Markup:
    return Markup(
        '<svg class="chart" width="120" height="10" role="img" aria-label="{}"><rect class="shade" width="120" '
        'height="10"/><rect width="{:.1f}" height="10" fill="var(--accent)"/></svg>'
    ).format(share(part), 120 * part)


def _surrogate(found: ActiveSubspace) -> Section:
    assert found.surrogate is not None
    ends = _range(np.concatenate([found.y, found.foretold]))
    chart = (
        Chart(
            x=ends,
            y=ends,
            label="Answers against what the surrogate foretells of them from the other rows.",
            x_title="foretold from the other rows",
            y_title="answer",
        )
        .line(ends, ends, "quiet")
        .points(found.foretold, found.y)
    )
    explained = max(found.explained, 0.0)
    return Section(
        key="surrogate",
        title="How well the surrogate foretells",
        verdict=f"From the other rows it explains {share(explained)} of the variance of rows left out in turn.",
        body=_SURROGATE,
        values={"chart": chart.svg(), "shown": lambda value: share(max(value, 0.0))},
        figures={
            "name": found.surrogate.name,
            "explained": found.explained,
            "noise": found.noise,
            "deviation": float(found.y.std()),
        },
    )
