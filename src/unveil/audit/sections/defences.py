"""What a defence buys, on the page: the same model asked through coarser and coarser answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unveil.blackbox.defences import Defence

_BODY = """
<div class="scroll"><table>
<tr><th>Answers</th><th class="number">Directions found</th><th class="number">Off by at most</th>
<th class="number">Questions</th><th>How it ended</th></tr>
{% for row in values.rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ figure("kinds." ~ loop.index0 ~ ".rank") }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".accuracy") }}</td>
<td class="number">{{ figure("kinds." ~ loop.index0 ~ ".queries") }}</td><td>{{ row.ended }}</td></tr>
{% endfor %}
</table></div>
<p class="note">The same model, its answers made coarser before the attack sees them. "Off by" is the sine of the
largest angle between what was found and the truth, as the attack itself predicts it.</p>
"""


def section(found: Sequence[Defence]) -> Section:
    """The table."""
    best, last = found[0], found[-1]
    if last.rank >= best.rank > 0:
        times = last.queries / max(best.queries, 1)
        verdict = (
            f"Answering with labels only hides none of the {count(best.rank)} directions: "
            f"finding them takes {times:,.0f} times as many questions."
        )
    else:
        verdict = f"Labels only gave {count(last.rank)} of the {count(best.rank)} directions away."
    ended = [d.reason if d.outcome is None else d.outcome.value.split(":")[0].split(".")[0] for d in found]
    rows = [{"name": d.name, "ended": text} for d, text in zip(found, ended, strict=True)]
    figures = {
        "kinds": [
            {"name": d.name, "rank": d.rank, "accuracy": d.accuracy, "queries": d.queries, "outcome": d.outcome}
            for d in found
        ]
    }
    return Section(
        key="defences",
        title="What a defence would buy",
        verdict=verdict,
        body=_BODY,
        values={"rows": rows},
        figures=figures,
    )


def _run(audit: Audit) -> Section | None:
    from unveil.blackbox.defences import defences

    if audit.oracle.answers == "labels":
        return None
    return section(defences(audit.oracle, rng=audit.rng("defences"), x=audit.inputs))


def _cost(audit: Audit) -> tuple[float, float]:
    if audit.oracle.answers == "labels":
        return 0, 0
    n = audit.oracle.n
    # Four spans from values and one from labels, which costs some 20 bits for each number of the span.
    return 4 * n + 40 * n, (4 * n * n + 40 * n * n)


DEFENCES = Stage(
    key="defences",
    title="Asking through rounded answers and labels",
    run=_run,
    cost=_cost,
    flag="--defences",
    help="What float32, rounding and labels only would each hide.",
)
