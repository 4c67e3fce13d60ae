"""What the features forget, on the page: kinds of preimages layer by layer, and inputs that look alike to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unveil.audit.chart import Chart
from unveil.audit.drawing import SPECIMENS, draw_input
from unveil.audit.section import Section
from unveil.audit.sections.hiding import normalisation
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import count
from unveil.outcome import BadInput, Outcome, UnveilError

if TYPE_CHECKING:
    from unveil.whitebox.lookalike import Comparison, Lookalike
    from unveil.whitebox.network import Network
    from unveil.whitebox.same_features import Preimage

EXAMPLES = 500  # inputs whose preimages are decided
PAIRS = 4  # lookalikes shown
LEAST_SHARE_OF_WAY = 1e-6  # a smaller share of the way is none
FACTORISED_LAYER_SIZE = 4000  # neurons or inputs beyond which a layer's factorisation takes minutes

_BODY = (
    """
{% if values.chart %}
<figure>
  {{ values.chart }}
  <ul class="legend"><li class="warm">infinite</li><li>compact</li><li class="ink">a single point</li></ul>
  <figcaption>{{ values.caption }}</figcaption>
</figure>
{% endif %}
<div class="scroll"><table>
<caption>Kinds of preimages, layer by layer</caption>
<tr><th scope="col">Layer</th><th scope="col" class="number">Inputs → neurons</th>
<th scope="col" class="number">Active</th>
<th scope="col" class="number">Point</th><th scope="col" class="number">Compact</th>
<th scope="col" class="number">Infinite</th></tr>
{% for row in values.rows %}
<tr><th scope="row">{{ row.layer }}</th><td class="number">{{ row.shape }}</td><td class="number">{{ row.active }}</td>
{% for kind in ("point", "compact", "infinite") %}
<td class="number">{{ figure("layers." ~ row.place ~ ".kinds." ~ kind) }}</td>
{% endfor %}</tr>
{% endfor %}
</table></div>
<p class="note">The {{ term("preimage") }} of each example: whether it is the only input with its features (point), or
one of a bounded set (compact), or of one that goes on for ever (infinite). {{ values.proofs }}</p>
{% if values.specimens %}
<p>Within the legal range, each picture in the middle has <em>exactly</em> the features of the first layer that the one
before it has, and so the same answer; it is as near as those features allow to the one after it.</p>
"""
    + SPECIMENS
    + """<p class="note">Asked of the original model: its answers to the first two differ by at most
{{ figure("lookalikes.difference") }}.</p>
{% endif %}
"""
)


def _run(audit: Audit) -> Section | None:
    network = known_network(audit)
    if network is None:
        return unknown(audit)
    examples = network.points(audit.examples(EXAMPLES))
    kinds = decided(network, examples)
    pairs = look_alike(audit, network, examples)
    audit.findings["preimages"], audit.findings["lookalikes"] = kinds, pairs
    return section(audit, network, kinds, pairs)


def known_network(audit: Audit) -> Network | None:
    """The network whose weights are in hand: read off by an earlier stage, or in the file that was audited."""
    known: Network | None = audit.findings.get("weights", audit.findings.get("network"))
    if known is None and Path(audit.path).suffix.lower() in (".onnx", ".npz"):
        from unveil.whitebox.formats import load

        try:
            # What the audit says of inputs it says of those that the oracle takes.
            known = load(audit.path)
            known = known.normalised(**between) if (between := normalisation(audit.oracle)) else known
        except BadInput as error:
            audit.findings["weights_refused"] = str(error)
            return None
        audit.findings["weights"] = known
    return known


def unknown(audit: Audit) -> Section:
    """Why nothing is told about weights, where it was asked for."""
    why = audit.findings.get(
        "weights_refused", "they are not in hand: an .onnx or .npz file holds them, and --identify may read them off."
    )
    return Section(
        key="forgetting",
        title="What its features forget",
        verdict=f"Its weights cannot be used: {why}",
        error=BadInput(f"its weights cannot be used: {why}"),
    )


def decided(network: Network, examples: Float[np.ndarray, "N n"]) -> dict[int, tuple[Preimage, ...]]:
    """Kinds of preimages, of every layer that is neither too large nor of an unsuitable activation."""
    from unveil.whitebox.same_features import decidable, preimages

    found: dict[int, tuple[Preimage, ...]] = {}
    for i, layer in enumerate(network.layers):
        if (
            min(layer.neurons, layer.inputs) > FACTORISED_LAYER_SIZE
            or max(layer.neurons, layer.inputs) > 4 * FACTORISED_LAYER_SIZE
        ):
            continue
        if not decidable(layer.activation):
            continue
        found[i] = tuple(preimages(network, examples, i))
    return found


def look_alike(
    audit: Audit, network: Network, examples: Float[np.ndarray, "N n"]
) -> list[tuple[Lookalike, Comparison]]:
    """A few pairs in the legal range: examples with few active neurons in the first layer, towards another answer."""
    from unveil.whitebox.lookalike import lookalike

    oracle = audit.oracle
    within = oracle.within or ((0.0, 1.0) if examples.min() >= 0 and examples.max() <= 1 else None)
    first = network.layers[0]
    if within is None or not (first.activation.injective or first.activation.piecewise_linear):
        return []
    if first.neurons > 4 * FACTORISED_LAYER_SIZE:
        return []  # programmes with so many rows do not end within minutes
    classes = network.logits(examples).argmax(axis=1)
    order = np.argsort((network.preactivations(examples, 0)[0] > 0).sum(axis=1), kind="stable")
    chosen: list[int] = []
    for i in order:
        # One example of each class first: pairs that all show the same say little.
        if classes[i] not in classes[chosen]:
            chosen.append(int(i))
    found = []
    for number, i in enumerate(chosen[:PAIRS]):
        others = np.flatnonzero(classes != classes[i])
        target = int(others[(7 * number) % len(others)]) if len(others) else int(order[-1])
        try:
            # A linear programme changes fewer inputs; where it would take long, a projection does.
            pair = lookalike(network, examples[i], examples[target], within=within, norm=1 if network.n <= 1000 else 2)
        except UnveilError:
            continue
        if pair.manipulation > LEAST_SHARE_OF_WAY:
            found.append((pair, pair.check(lambda x: oracle(oracle.nearest(x)))))
    return found


def section(
    audit: Audit,
    network: Network,
    kinds: dict[int, tuple[Preimage, ...]],
    pairs: Sequence[tuple[Lookalike, Comparison]],
) -> Section:
    """Kinds and pairs, told."""
    layers, rows = _by_layer(network, kinds)
    many = len(next(iter(kinds.values()), ()))
    uncertain = sum(len(found) - sum(p.certified for p in found) for found in kinds.values())
    figures: dict[str, Any] = {"examples": many, "layers": layers}
    if pairs:
        figures["lookalikes"] = {
            "difference": max(answer.difference for _, answer in pairs),
            "manipulation": [pair.manipulation for pair, _ in pairs],
            "distance": [pair.distance for pair, _ in pairs],
            "start": [pair.start for pair, _ in pairs],
            "predictions": [list(answer.predictions) for _, answer in pairs],
        }
    lost = layers[0]["kinds"]["infinite"] if layers else 0
    outcome, cause = _ended(layers, uncertain, pairs)
    chart, caption = _chart(kinds[0], network.n) if 0 in kinds else ("", "")
    return Section(
        key="forgetting",
        title="What its features forget",
        verdict=_verdict(many, layers, pairs),
        body=_BODY,
        values={
            "rows": rows,
            "chart": chart,
            "caption": caption,
            "specimens": [_specimen(audit, *pair) for pair in pairs],
            "proofs": "Each answer was proved and the proof checked."
            if not uncertain
            else f"{count(uncertain, 'answer')} could not be proved in float64.",
        },
        figures=figures,
        files={
            "lookalikes.npz": {
                name: np.stack([getattr(pair, name) for pair, _ in pairs]) for name in ("x", "z", "target")
            }
        }
        if pairs
        else {},
        claim="gives different inputs exactly the same features" if lost else "",
        severity=Severity.low if lost or pairs else Severity.none,
        outcome=outcome,
        cause=cause,
        next_steps=(
            ("If inputs with the same features should not exist, the first layer needs more neurons than inputs.",)
            if lost
            else ()
        ),
    )


def _by_layer(
    network: Network, kinds: dict[int, tuple[Preimage, ...]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures, and rows of the table, of each layer."""
    layers, rows = [], []
    for place, (i, found) in enumerate(kinds.items()):
        counted = Counter(p.kind for p in found)
        active = [int(p.active.sum()) for p in found]
        layers.append(
            {
                "layer": i,
                "kinds": {kind: counted[kind] for kind in ("point", "compact", "infinite")},
                "active": active,
                "certified": sum(p.certified for p in found),
            }
        )
        layer = network.layers[i]
        rows.append(
            {
                "place": place,
                "layer": i,
                "shape": f"{count(layer.inputs)} → {count(layer.neurons)}",
                "active": f"{min(active)} to {max(active)}" if min(active) < max(active) else count(active[0]),
            }
        )
    return layers, rows


def _ended(
    layers: list[dict[str, Any]], uncertain: int, pairs: Sequence[tuple[Lookalike, Comparison]]
) -> tuple[Outcome, str]:
    """How the finding ended, and why it is not measured and checked."""
    if not layers:
        return Outcome.check_failed, "no layer is of a size and an activation that can be decided"
    wrong = sum(not answer.holds for _, answer in pairs)
    if wrong:
        return Outcome.check_failed, (
            f"the model answers differently to {wrong} of {count(len(pairs), 'pair')} of inputs that by the weights in "
            "hand have the same features"
        )
    if uncertain:
        return Outcome.approximate, f"{count(uncertain, 'kind')} of a preimage could not be proved in float64"
    return Outcome.complete, ""


def _verdict(many: int, layers: list[dict[str, Any]], pairs: Sequence[tuple[Lookalike, Comparison]]) -> str:
    if not layers:
        return "No layer could be looked at."
    kinds = layers[0]["kinds"]
    if kinds["point"] == many:
        told = f"The first layer forgets nothing about any of {count(many, 'example')}."
    else:
        several = f"{count(many - kinds['point'])} of {count(many, 'example')}"
        told = f"For {several} other inputs have exactly the same features already in the first layer"
        told += f", for {count(kinds['infinite'])} without any bound." if kinds["infinite"] else "."
    best = max((pair.manipulation for pair, _ in pairs), default=0.0)
    if best > 0.01:
        told += f" One can go up to {best:.0%} of the way to an example with another answer, and nothing shows."
    return told


def _chart(found: Sequence[Preimage], n: int) -> tuple[Any, str]:
    active = np.array([int(p.active.sum()) for p in found])
    kinds = np.array([p.kind for p in found])
    if len(set(kinds)) < 2:
        return "", ""
    edges = np.linspace(active.min(), active.max() + 1, min(30, int(np.ptp(active)) + 2))
    middle = (edges[:-1] + edges[1:]) / 2
    bars = {kind: np.histogram(active[kinds == kind], edges)[0] for kind in ("infinite", "compact", "point")}
    top = max(int(bar.max()) for bar in bars.values())
    chart = Chart(
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, 1.1 * top),
        label="Examples with an infinite, a compact and a point preimage against the number of active neurons.",
        x_title="active neurons in the first layer",
        y_title="examples",
        counted=True,
    )
    chart = chart.line(middle, bars["infinite"], "warm").line(middle, bars["compact"], "accent")
    chart = chart.line(middle, bars["point"], "ink")
    if edges[0] < n < edges[-1]:
        chart = chart.mark(n, f"{n} inputs", "quiet")
    return chart.svg(), ("Examples by the kind of their first layer's preimage, against the number of active neurons.")


def _specimen(audit: Audit, pair: Lookalike, answer: Comparison) -> list[tuple[Any, str, str]]:
    oracle = audit.oracle
    shape = oracle.shape
    # Black and white of a picture: the outermost legal values.
    within = None if oracle.within is None else (float(oracle.low.min()), float(oracle.high.max()))
    x, z, target = answer.predictions
    return [
        (draw_input(pair.x, shape, "The example", within=within), f"says {x}", ""),
        (
            draw_input(pair.z, shape, "Its lookalike", within=within),
            f"says {z}",
            f"{max(pair.manipulation, 0):.0%} of the way",
        ),
        (draw_input(pair.target, shape, "What it was to look like", within=within), f"says {target}", ""),
    ]


def _cost(audit: Audit) -> tuple[float, float]:
    return (0, 3 * PAIRS)


FORGETTING = Stage(
    key="forgetting",
    title="Looking for what the features forget",
    run=_run,
    cost=_cost,
    flag="--weights",
    help="Look inside as well: what its features forget, and how stable the way back is.",
)
