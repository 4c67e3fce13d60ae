"""Beside other models: what is usual of a first layer of this shape, and where this model stands."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.audit.verdict import Status, ending

_BODY = """
<table>
<caption>Directions of the input that models give away; this one first</caption>
<thead><tr><th scope="col">Model</th><th scope="col" class="number">Inputs</th>
<th scope="col" class="number">{{ term("rank", "Rank") }}</th><th scope="col" class="number">Not seen</th>
<th scope="col" class="number">{{ term("question", "Questions") }}</th>
<th scope="col" class="number">Questions per direction</th></tr></thead>
<tbody>
{% for row in values.rows %}
<tr><th scope="row">{{ row.name }}</th><td class="number">{{ brief(row.n) }}</td>
<td class="number">{{ brief(row.rank) }}</td><td class="number">{{ row.hidden }}</td>
<td class="number">{{ brief(row.queries) }}</td><td class="number">{{ row.each }}</td></tr>
{% endfor %}
</tbody></table>
<p class="note">{{ values.note }}</p>
"""


def _run(audit: Audit) -> Section | None:
    span = audit.findings.get("span")
    if span is None or not span.rank or ending(span.outcome).status > Status.approximate:
        return None
    told = reference_models()
    ours = {"name": f"{audit.oracle.name} (this model)", "n": span.n, "rank": span.rank, "queries": span.queries}
    rows = [ours, *sorted(told["models"], key=lambda row: (abs(row["n"] - span.n), row["rank"]))]
    return Section(
        key="beside",
        title="Beside other models",
        verdict=_verdict(span.rank, span.n, [row["queries"] / row["rank"] for row in told["models"]], span.queries),
        body=_BODY,
        values={
            "rows": [
                row | {"hidden": share(1 - row["rank"] / row["n"]), "each": brief(row["queries"] / row["rank"])}
                for row in rows
            ],
            "note": _note(told),
        },
        figures={
            "share_unseen": 1 - span.rank / span.n,
            "questions_per_direction": span.queries / span.rank,
            "reference": told["models"],
        },
    )


def _note(told: dict[str, Any]) -> str:
    models = told["models"]
    full = sum(row["rank"] == min(row["neurons"], row["n"]) for row in models)
    blind = sum(row["rank"] < row["n"] for row in models)
    return (
        "A first layer of k neurons on more than k inputs sees k directions at most, whatever it was trained on: "
        f"{count(full)} of {count(len(models), 'reference model')} see as many as they have neurons or inputs, "
        f"{'all' if blind == len(models) else count(blind)} leave some unseen. Questions are those of the search, "
        f"without checks. Measured by {told['measured by']}."
    )


def _verdict(rank: int, n: int, each: list[float], queries: int) -> str:
    cheaper = sum(one < queries / rank for one in each)
    seen = f"It leaves {share(1 - rank / n)} of its input directions unseen" if rank < n else "It leaves none unseen"
    return (
        f"{seen}; {count(queries / rank)} questions for each direction it sees are more than those of "
        f"{count(cheaper)} of {count(len(each), 'reference model')}."
    )


def reference_models() -> dict[str, Any]:
    """The table as the package ships it."""
    text = (files("unveil.audit") / "reference_models.json").read_text(encoding="utf-8")
    told: dict[str, Any] = json.loads(text)
    return told


BESIDE = Stage(key="beside", title="Comparing it with others", run=_run)
