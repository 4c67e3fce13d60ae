"""What a defence buys, on the page: the same model asked through coarser and coarser answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from unveil.audit.section import Section
from unveil.audit.sections import defended_weights as defended
from unveil.audit.sections.defended_outputs import LISTED, MORE
from unveil.audit.sections.identification import IDENTIFICATION
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import count
from unveil.audit.verdict import cause, listed
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unveil.audit.sections.defended_outputs import Outputs
    from unveil.audit.sections.defended_weights import Weights
    from unveil.blackbox.defences import Defence

_BODY = """
<div class="scroll"><table>
<caption>What each kind of answers gives away</caption>
<tr><th scope="col">Answers</th><th scope="col" class="number">Give away at least</th>
<th scope="col" class="number">Off by at most</th>
<th scope="col" class="number">Found by this attack</th><th scope="col" class="number">Questions</th>
<th scope="col">How it ended</th>{% if values.weights %}<th scope="col">Weights</th>
<th scope="col" class="number">Questions for these</th>{% endif %}</tr>
{% for row in values.rows %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ figure("kinds." ~ loop.index0 ~ ".leaks") }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".leaks_accuracy") }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".rank") }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".queries") }}</td><td>{{ row.ended }}</td>
{% if values.weights %}<td>{{ row.weights }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".weights.queries") }}</td>{% endif %}</tr>
{% endfor %}
</table></div>
<p class="note">Directions of the input, found by asking the same model with its answers made coarser before the attack
sees them. Coarser answers can be computed from finer ones, so that finer ones give away at least as much. An attack
that failed is no proof that nothing leaks. "Off by" is the sine of the largest angle between what was found and the
truth, as the attack itself predicts it.{% if values.weights %} Weights were read through each kind of answers anew, and
counted where they agree with those read off the plain answers; through labels up to a common scale of all outputs and
what all classes share.{% endif %}</p>
{% if values.outputs %}
<div class="scroll"><table>
<caption>What each kind of answers gives away of the output span</caption>
<tr><th scope="col">Answers</th><th scope="col" class="number">Rank found</th>
<th scope="col" class="number">Off by</th><th scope="col" class="number">Questions</th>
<th scope="col">How it ended</th></tr>
{% for row in values.outputs %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ figure("outputs." ~ loop.index0 ~ ".rank") }}</td>
<td class="number">{{ figure("outputs." ~ loop.index0 ~ ".off") }}</td>
<td class="number">{{ figure("outputs." ~ loop.index0 ~ ".queries") }}</td><td>{{ row.ended }}</td></tr>
{% endfor %}
</table></div>
<p class="note">The rank is the width of the last hidden layer (one less behind a LayerNorm); "off by" is the sine of
the largest angle to the span of the plain answers. Where a bias can be put on chosen outputs, all of them
can be had, a few at a time, and show what rounding leaves.</p>
{% endif %}
"""


def section(found: Sequence[Defence], weights: Sequence[Weights] = (), outputs: Sequence[Outputs] = ()) -> Section:
    """The tables, with what each kind of answers gives away of the weights and of the output span if measured."""
    read = {each.name: each for each in weights}
    rows = [
        {"name": each.name, "ended": _words(each), "weights": read[each.name].words if read else ""} for each in found
    ]
    figures = {
        "kinds": [
            {
                "name": each.name,
                "leaks": each.leaks,
                "leaks_accuracy": each.leaks_accuracy,
                "shown_by": each.shown_by,
                "rank": each.rank,
                "accuracy": each.accuracy,
                "queries": each.queries,
                "outcome": each.outcome,
                "measured": each.measured,
                "settled": each.settled,
                "reason": each.reason,
            }
            | ({"weights": _told(read[each.name])} if read else {})
            for each in found
        ]
    }
    if outputs:
        figures["outputs"] = [
            {
                "name": each.name,
                "rank": each.rank,
                "of": each.of,
                "off": each.off,
                "queries": each.queries,
                "outcome": each.outcome,
                "settled": each.told or each.settled,
                "reason": each.reason,
            }
            for each in outputs
        ]
    outcome, because = _ended(found)
    return Section(
        key="defences",
        title="What a defence would buy",
        verdict=_verdict(found[0], found[-1]) + _of_weights(weights) + _of_outputs(outputs),
        body=_BODY,
        values={
            "rows": rows,
            "weights": bool(read),
            "outputs": [{"name": each.name, "ended": each.words} for each in outputs],
        },
        figures=figures,
        outcome=outcome,
        cause=because,
    )


def _told(weights: Weights) -> dict[str, object]:
    return {
        "neurons": weights.neurons,
        "of": weights.of,
        "error": weights.error if math.isfinite(weights.error) else None,
        "last": weights.last if math.isfinite(weights.last) else None,
        "queries": weights.queries,
        "outcome": weights.outcome,
        "reason": weights.reason,
    }


def _of_weights(weights: Sequence[Weights]) -> str:
    """What coarser answers give away of the weights, a sentence."""
    if not weights:
        return ""
    whole = [f'"{each.name}"' for each in weights[1:] if each.whole]
    if not whole:
        return " No kind of coarser answers gave all weights away to this attack, which is no proof that they cannot."
    return f" All weights can be read off {listed(whole)} as well."


def _of_outputs(outputs: Sequence[Outputs]) -> str:
    """What coarser answers give away of the hidden width, a sentence."""
    if not outputs:
        return ""
    shown = [f'"{each.name}"' for each in outputs[1:] if each.told]
    width = f"the rank of the outputs, {count(outputs[0].rank)},"
    if not shown:
        return f" No kind of coarser answers showed {width} to this attack."
    return f" Through {listed(shown)} {width} shows as well."


def _ended(found: Sequence[Defence]) -> tuple[Outcome, str]:
    """How the comparison ended: what an attack that failed left open is bounded from below only."""
    if not found[0].measured:
        why = found[0].reason.rstrip(".") or cause(found[0].outcome or Outcome.check_failed)
        return found[0].outcome or Outcome.check_failed, f"the attack through {found[0].name} failed: {why}"
    failed = [each.name for each in found if not each.measured]
    if failed:
        less = listed([f'"{name}"' for name in failed])
        return (
            Outcome.approximate,
            f"attacks failed through {less}: what these give away is known from below only",
        )
    rough = [each.name for each in found if each.outcome is Outcome.approximate]
    if rough:
        less = listed([f'"{name}"' for name in rough])
        return Outcome.approximate, f"what was found through {less} is approximate"
    return Outcome.complete, ""


def _verdict(best: Defence, last: Defence) -> str:
    if not best.leaks:
        return "Nothing was found through any kind of answers."
    if not last.measured:
        return (
            f"The attack through labels only failed after {count(last.queries, 'question')}: that labels would hide "
            f"the {count(best.leaks, 'direction')} was not shown."
        )
    if last.leaks >= best.leaks:
        times = last.queries / max(best.queries, 1)
        return (
            f"Answering with labels only hides none of the {count(best.leaks)} directions: "
            f"finding them takes {times:,.0f} times as many questions."
        )
    told = f"Labels only gave {count(last.leaks)} of the {count(best.leaks)} directions away where they were asked"
    return f"{told}." if last.settled else f"{told}; that this is all was not shown."


def _words(of: Defence) -> str:
    """How one attack ended: that it failed is told apart from that nothing leaks."""
    if of.measured:
        if of.outcome is Outcome.nothing_to_find:
            return "nothing leaks where it was asked"
        return "approximate" if of.outcome is Outcome.approximate else "found and checked"
    why = of.reason.rstrip(".") or cause(of.outcome or Outcome.check_failed)
    if of.outcome in (Outcome.nothing_to_find, Outcome.complete, Outcome.approximate, Outcome.full_rank):
        why = f"it found {count(of.rank, 'direction')}"
    shown = f"; what they give away was shown by {of.shown_by}" if of.shown_by not in ("", of.name) else ""
    return f"this attack failed: {why[0].lower()}{why[1:]}{shown}"


def _run(audit: Audit) -> Section | None:
    from unveil.blackbox.defences import defences

    if audit.oracle.answers == "labels":
        return Section(
            key="defences",
            title="What a defence would buy",
            verdict="It answers with labels, the coarsest answers there are: there is nothing left to make coarser.",
        )
    found = defences(audit.oracle, rng=audit.rng("defences"), x=audit.inputs, known=audit.findings.get("span"))
    return section(found, _weights(audit, found[0].name), _outputs(audit, found[0].name))


def _weights(audit: Audit, name: str) -> Sequence[Weights]:
    """What coarser answers give away of weights that the plain ones gave away whole."""
    plain = audit.findings.get("identification")
    if plain is None or plain.network is None or plain.outcome is not Outcome.complete:
        return ()
    return defended.defended_weights(audit.oracle, plain, name, rng=audit.rng("weights"))


def _outputs(audit: Audit, name: str) -> Sequence[Outputs]:
    """What coarser answers give away of an output span that the plain ones gave away."""
    from unveil.audit.sections.defended_outputs import defended_outputs
    from unveil.audit.sections.span import typical

    plain = audit.findings.get("outputs")
    if plain is None or plain.outcome is not Outcome.complete or plain.rank >= plain.reading.largest_rank:
        return ()
    near = typical(audit.oracle, audit.inputs)
    return defended_outputs(audit.oracle, plain, name, rng=audit.rng("defended outputs"), x=near)


def _cost(audit: Audit) -> tuple[float, float]:
    if audit.oracle.answers == "labels":
        return 0, 0
    from unveil.audit.sections.span import span_cost
    from unveil.blackbox.defences import BITS, LEAST, START, TIMES

    n, oracle = audit.oracle.n, audit.oracle
    likely = span_cost(oracle, max(1.0, n / 10))
    # Five spans; through labels each number of the span costs some 20 bits, and to begin with it is 130,000.
    bits = math.log2(1 / 0.03)
    usual = 5 * likely + 4 * (n / 10) * (9 * n / 10) * bits + 130_000
    plain = span_cost(oracle, n, most=True) + 10_000
    most = plain + 3 * max(TIMES * plain, LEAST) + START + BITS * bits * max(n * n / 4, n) + 1
    # The outputs through three kinds of rounding: a span of theirs comes from fewer than 2 m answers and 64.
    outputs = min(oracle.m, 4500)
    most += 3 * (2 * (2 * outputs + 64) + MORE) + LISTED if oracle.m > 1 else 0
    if IDENTIFICATION.key not in audit.planned:
        return usual, most
    once, longest = IDENTIFICATION.cost(audit)
    return (
        usual + 3 * once + defended.LABELS / 2,
        most + 3 * max(defended.AGAIN * longest, LEAST) + defended.LABELS,
    )


DEFENCES = Stage(
    key="defences",
    title="Asking through rounded answers and labels",
    run=_run,
    cost=_cost,
    flag="--defences",
    help="What float32, rounding and labels only would each hide.",
)
