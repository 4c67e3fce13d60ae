"""Stability on the page: how much of the input is left after each layer, and how badly conditioned the way back is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from unveil.audit.chart import Chart
from unveil.audit.section import Section
from unveil.audit.sections.forgetting import known_network
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.whitebox.network import Network
    from unveil.whitebox.stability import Stability

MOST_SAMPLES = 20
EFFORT = 2e12
"""Multiplications the section may take: samples are fewer where layers are large."""

_BODY = """
<figure>
  {{ values.chart }}
  <ul class="legend"><li class="quiet">first layers</li><li>middle</li><li class="ink">last layers</li></ul>
  <figcaption>Singular values of the network's linear piece after each layer; median over {{ figure("samples") }}
  inputs. A small value is a direction in which a large change of the input hardly shows.</figcaption>
</figure>
<div class="scroll"><table>
<caption>The way back, layer by layer</caption>
<tr>{% for head in values.heads %}
<th scope="col"{% if loop.index0 %} class="number"{% endif %}>{{ head }}</th>{% endfor %}</tr>
{% for row in values.rows %}
<tr>{% for cell in row %}<td{% if loop.index0 %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<p>A layer that keeps fewer directions forgets more (invariance), but those it keeps may come back more safely
(stability): the condition number often falls where the rank does.</p>
<p class="note">See {{ term("condition number") }} and {{ term("singular value") }}.</p>
"""

_HEADS = (
    "Layer", "Neurons", "Active", "Directions left", "Largest", "Smallest", "At most (Lemma 8)", "Condition",
)  # fmt: skip


def _run(audit: Audit) -> Section | None:
    network = known_network(audit)
    if network is None:
        return None
    from unveil.whitebox.stability import stability

    x = network.points(audit.examples(samples(network)))
    return section(stability(network, x[: samples(network)], lemma_9=False))


def samples(network: Network) -> int:
    """How many inputs to take the median over."""
    each = sum(8.0 * min(layer.neurons, network.n) ** 2 * max(layer.neurons, network.n) for layer in network.layers)
    return int(np.clip(EFFORT / each, 1, MOST_SAMPLES))


def section(found: Stability) -> Section:
    """A Stability, told."""
    layers = found.layers
    left = [float(np.median(each.after.rank)) for each in layers]
    condition = [_median(each.after.condition) for each in layers]
    worst = int(np.nanargmax(condition)) if np.isfinite(condition).any() else None
    rows = [
        [
            str(i),
            count(each.neurons),
            brief(float(np.median(each.active))),
            brief(left[i]),
            brief(float(np.median(each.after.largest))),
            brief(float(np.median(each.after.smallest))),
            brief(_median(each.bound_interlacing)),
            brief(condition[i]),
        ]
        for i, each in enumerate(layers)
    ]
    return Section(
        key="stability",
        title="How stable the way back is",
        verdict=_verdict(found, left, condition, worst),
        body=_BODY,
        values={"chart": _chart(found), "heads": _HEADS, "rows": rows},
        figures={
            "samples": len(layers[0].active),
            "inputs": found.inputs,
            "layers": [
                {
                    "neurons": each.neurons,
                    "active": float(np.median(each.active)),
                    "rank": left[i],
                    "condition": condition[i],
                    "largest": float(np.median(each.after.largest)),
                    "smallest": float(np.median(each.after.smallest)),
                    "bound_smallest": _median(each.bound_smallest),
                    "bound_interlacing": _median(each.bound_interlacing),
                }
                for i, each in enumerate(layers)
            ],
        },
        files={
            "singular-values.npz": {
                f"{when}_{i}": spectrum.values
                for i, each in enumerate(layers)
                for when, spectrum in (("before", each.before), ("after", each.after))
            }
        },
        outcome=Outcome.complete,
        severity=Severity.low if left[0] >= found.inputs else Severity.none,
        confidence=f"medians over {count(len(layers[0].active), 'input')}",
    )


def _verdict(found: Stability, left: list[float], condition: list[float], worst: int | None) -> str:
    if worst is None:
        return "Around the inputs tried, its features do not change at all."
    kept = f"Of {count(found.inputs, 'input direction')}, {brief(min(left))} are left where it keeps fewest"
    return f"{kept}; the way back is worst after layer {worst}, where errors can grow {brief(condition[worst])}-fold."


def _chart(found: Stability) -> Markup:
    curves = [each.after.median() for each in found.layers]
    floors = [float(np.median(each.after.floor)) for each in found.layers]
    shown = [curve[curve > floor] for curve, floor in zip(curves, floors, strict=True)]
    kept = [curve for curve in shown if len(curve)]
    if not kept:
        return Markup("")
    low, high = min(c[-1] for c in kept), max(c[0] for c in kept)
    chart = Chart(
        x=(1, max(2, max(len(c) for c in kept))),
        y=(low / 1.5, high * 1.5),
        label=f"Singular values after each of {len(curves)} layers, between {low:.1e} and {high:.1e}",
        x_title="index",
        y_title="singular value",
        log=True,
        counted=True,
    )
    for i, curve in enumerate(shown):
        if len(curve):
            tone = "quiet" if i < len(shown) / 3 else "accent" if i < 2 * len(shown) / 3 else "ink"
            draw = chart.line if len(curve) > 1 else chart.points
            chart = draw(np.arange(1, len(curve) + 1), curve, tone)  # type: ignore[arg-type]
    return chart.svg()


def _median(values: np.ndarray) -> float:
    """The median of those that are numbers; NaN if none is."""
    told = values[np.isfinite(values)]
    return float(np.median(told)) if told.size else float("nan")


STABILITY = Stage(
    key="stability",
    title="Looking at the way back",
    run=_run,
    flag="--weights",
    help="Look inside as well: what its features forget, and how stable the way back is.",
)
