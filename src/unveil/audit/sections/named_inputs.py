"""Which of the inputs, by their names, the answers depend on, and how much: told where the examples came with names."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import count, share
from unveil.audit.verdict import listed
from unveil.outcome import Outcome

INPUTS_SHOWN = 60  # inputs in the table on the page; the JSON has all
_BODY = """
<div class="scroll"><table>
<caption>Inputs by how much of them is seen, the most first</caption>
<tr><th scope="col">Input</th><th scope="col" class="number">One unit</th>
<th scope="col" class="number">Share in what is seen</th></tr>
{% for row in values.rows %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ figure("inputs." ~ row.place ~ ".unit") }}</td>
<td class="number">{{ figure("inputs." ~ row.place ~ ".seen", share) }}</td></tr>
{% endfor %}
</table></div>
<p class="note">A unit is the examples' standard deviation. The share is the length of what the directions that matter
hold of a unit step of this input alone: none of an input that changes nothing, all of one that is seen whatever the
others are.</p>
"""


def seen_shares(basis: Float[np.ndarray, "r n"], units: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Length of the part of each unit step that lies in the span, the inputs measured in `units`."""
    if not len(basis):
        return np.zeros(basis.shape[1])
    # Gradients are longer in longer units.
    rows = np.linalg.svd(basis * units, full_matrices=False)[2]
    return np.asarray(np.linalg.norm(rows, axis=0))


def _run(audit: Audit) -> Section | None:
    span = audit.findings.get("span")
    counted = (Outcome.complete, Outcome.full_rank, Outcome.approximate)
    if not audit.names or audit.inputs is None or span is None or span.outcome not in counted or not span.rank:
        return None
    spread = audit.inputs.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    shares = seen_shares(span.basis, spread)
    units = spread if audit.units is None else audit.units
    # What an approximate span left out may see any of them.
    seen = zip(audit.names, shares, strict=True)
    unseen = [] if span.misses else [name for name, part in seen if part <= 10 * span.accuracy]
    order = np.argsort(-shares, kind="stable")[:INPUTS_SHOWN]
    if unseen:
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        told = ", ".join(unseen[:10]) + more if more else listed(unseen)
        verdict = f"{count(len(unseen))} of its {count(span.n, 'input')} change no answer where it was asked: {told}."
    elif span.misses:
        verdict = (
            f"Most of all it looks at {audit.names[order[0]]}; {share(span.left_out)} of what it sees was left out."
        )
    else:
        verdict = (
            f"Each of its {count(span.n, 'input')} has a part in what it sees; most of all {audit.names[order[0]]}."
        )
    return Section(
        key="inputs",
        title="Which inputs it looks at",
        verdict=verdict,
        body=_BODY,
        values={"rows": [{"name": audit.names[place], "place": int(place)} for place in order]},
        figures={
            "inputs": [
                {"name": name, "unit": float(unit), "seen": float(part)}
                for name, unit, part in zip(audit.names, units, shares, strict=True)
            ],
            "unseen": unseen,
        },
        outcome=span.outcome if span.outcome is not Outcome.full_rank else Outcome.complete,
    )


NAMED_INPUTS = Stage(key="inputs", title="Naming what it looks at", run=_run)
