"""Section: one finding, ready to be told on the page, in the JSON and as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from unveil.outcome import Outcome

_NOTHING = Markup("")


@dataclass(frozen=True)
class Section:
    """One finding.

    Attributes:
        key: One word; the place of `figures` in the JSON and of the section on the page (`#span`).
        title: A few words.
        verdict: One sentence a hurried reader takes away; plain text, escaped by the page.
        body: A jinja2 template of HTML, written by us. It sees `values`, every figure by its path through
            `{{ figure("rank") }}`, the text helpers `brief`, `count`, `share` and `seconds`, and `{{ code(text) }}` for
            lines to copy (`STEM + ".basis.npz"` in them becomes the name of that file beside the page). Everything it
            inserts is escaped unless it is `Markup`, so nothing from outside may be put into the template itself.
        values: What else the template needs: texts, drawings (`draw_input`, `Chart.svg`), lists of rows.
        figures: Every number of the finding, as the JSON will hold it (arrays and outcomes are welcome).
        files: Files to write beside the page: a name such as `basis.npz`, and its arrays or its text.
        claim: What the page's verdict says of the model, in the order of sections, e.g. "cannot see 704 of its 784
            input directions"; empty if there is nothing that belongs there.
        emblem: A drawing for the top of the page; the first section that has one wins.
        outcome: How the finding ended, if that is what it has.
        next_steps: What to do about it: one sentence each.
    """

    key: str
    title: str
    verdict: str
    body: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, np.ndarray] | str] = field(default_factory=dict)
    claim: str = ""
    emblem: Markup = _NOTHING
    outcome: Outcome | None = None
    next_steps: tuple[str, ...] = ()
