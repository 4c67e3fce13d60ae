"""Page: sections as one self-contained HTML file, with a JSON of every figure and the sections' files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unveil.audit.actions import Actions
from unveil.audit.baseline import changes
from unveil.audit.figures import plain, write_arrays
from unveil.audit.limits import UNKNOWABLE, untried
from unveil.audit.provenance import version
from unveil.audit.section import Section
from unveil.audit.severity import AFFORDABLE, SEVERITIES, Severity, Tariff
from unveil.audit.text import brief, count, printable, seconds, share
from unveil.audit.verdict import Finding, Status, Verdict
from unveil.audit.words import TERMS, anchor, marker
from unveil.outcome import BadInput
from unveil.writing import write_text

SCHEMA = {"name": "unveil-audit", "version": "1.0"}
"""Of the JSON: within one major version keys are only added (docs/findings.md)."""


@dataclass(frozen=True)
class Page:
    """Findings, assembled.

    Attributes:
        subject: What the page is about: a model's name. May come from outside; it is escaped.
        sections: In the order of telling; the verdict follows from them.
        figures: Figures that belong to no section (`queries`, `seed`, ...); sections' keys must not be among them.
        facts: Up to four paths into the figures and what they are called, shown under the verdict.
        tariff: What asking costs whoever asks.
        actions: What to do about the findings, and what does not help.
        fail_on: The least severity that ends in exit code 7.
        baseline: The JSON of an earlier audit, to say what changed since.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))
        >>> page = uv.report(uv.as_oracle(lambda x: np.tanh(x @ rows.T), shape=12), rng=rng)
        >>> [finding["id"] for finding in page.all_figures()["findings"]]
        ['UNV-NOISE', 'UNV-SPAN']
        >>> page.exit_code
        0
    """

    subject: str
    sections: tuple[Section, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    tariff: Tariff = field(default_factory=Tariff)
    actions: Actions = field(default_factory=Actions)
    fail_on: Severity | None = None
    baseline: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        told = [section.key for section in self.sections if section.figures or section.finding]
        keys = ["schema", "actions", "tariff", "changes", *self.figures, *self.findings.figures(), *told]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise BadInput(f"two parts of a page would write the same figures: {', '.join(sorted(twice))}")

    @property
    def findings(self) -> Verdict:
        """What the sections come to: headline, status, causes and exit code."""
        found = tuple(each for section in self.sections if (each := section.finding) is not None)
        return Verdict(self.subject, found, self.tariff, self.fail_on)

    @property
    def mark(self) -> Markup:
        """The line of the page by which `wrote` knows it again."""
        return _mark(self.subject)

    @property
    def verdict(self) -> str:
        """The sentence at the top."""
        return self.findings.headline

    @property
    def status(self) -> Status:
        """How far the whole can be relied on: as far as its worst finding."""
        return self.findings.status

    @property
    def exit_code(self) -> int:
        """What `unveil audit` ends with."""
        return self.findings.exit_code

    def all_figures(self) -> dict[str, Any]:
        """Everything the JSON holds: the verdict, figures of the page, then of each section under its key."""
        told: dict[str, Any] = {"schema": SCHEMA, **self.figures, **self.findings.figures()}
        told["actions"] = self.actions.figures()
        told["tariff"] = {"rate": self.tariff.rate, "price": self.tariff.price}
        for section in self.sections:
            finding = section.finding
            if finding is not None:
                ended = {"outcome": finding.ended, "status": finding.status.name, "cause": finding.cause}
                told[section.key] = {**section.figures, **ended, "verdict": section.verdict}
            elif section.figures:
                told[section.key] = {**section.figures, "verdict": section.verdict}
        found: dict[str, Any] = plain(told)
        found["changes"] = None if self.baseline is None else changes(self.baseline, found)
        return found

    def html(self, stem: str = "audit") -> str:
        """The page as text.

        Args:
            stem: What the files beside it are called; see `write`.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        figures = self.all_figures()
        environment = Environment(
            loader=PackageLoader("unveil.audit"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["spans"] = spans
        used: set[str] = set()
        environment.globals.update(
            term=marker(used),
            brief=brief,
            count=count,
            share=share,
            seconds=seconds,
            stem=stem,
            figure=_figures(figures, ""),
            code=partial(_code, stem),
        )
        told = [
            (
                section,
                section.finding,
                Markup(
                    environment.from_string(section.body).render(
                        values=section.values, figure=_figures(figures, section.key + ".")
                    )
                ),
            )
            for section in self.sections
        ]
        return environment.get_template("page.html").render(
            page=self,
            findings=self.findings,
            sections=told,
            emblem=next((section.emblem for section, finding, _ in told if section.emblem and _holds(finding)), ""),
            next_steps=[step for section in self.sections for step in section.next_steps],
            version=version(),
            risks=self.findings.risks,
            tested=figures.get("tested"),
            changed=figures["changes"],
            severities=SEVERITIES,
            affordable=AFFORDABLE,
            shown=_shown,
            untried=untried({section.key for section in self.sections}, figures),
            unknowable=UNKNOWABLE,
            used=used,
            terms=TERMS,
            anchor=anchor,
        )

    def _repr_html_(self) -> str:
        """The page where a notebook shows it: in a frame of its own, which may run nothing."""
        frame = '<iframe title="{}" srcdoc="{}" sandbox style="width:100%;height:44rem;border:1px solid #888"></iframe>'
        return str(Markup(frame).format(printable(self.subject), self.html()))

    def write(self, path: str | Path) -> tuple[Path, ...]:
        """Write `audit.html`, `audit.json` and the sections' files (`audit.basis.npz`, ...) beside it.

        Returns:
            The files written, the page first.

        Raises:
            BadInput: The name does not end in .html.
            DiskFull: There is no room for one of them, which is named.
            OSError: The folder cannot be written to.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise BadInput(f"a page is written as .html; got {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = [path, path.with_suffix(".json")]
        write_text(written[0], self.html(path.stem))
        write_text(written[1], json.dumps(self.all_figures(), indent=1, allow_nan=False) + "\n")
        for section in self.sections:
            for name, content in section.files.items():
                beside = path.with_name(f"{path.stem}.{name}")
                if isinstance(content, str):
                    write_text(beside, content)
                else:
                    write_arrays(beside, content)
                written.append(beside)
        return tuple(written)


def wrote(path: Path, subject: str | None = None) -> bool:
    """Whether a file is a page that `Page.write` wrote: of this model, or of any."""
    try:
        with path.open("rb") as page:
            head = page.read(8192).decode("utf-8", "replace")
    except OSError:
        return False
    return (_mark("").split('""')[0] if subject is None else _mark(subject)) in head


def _mark(subject: str) -> Markup:
    return Markup('<meta name="unveil-model" content="{}">').format(printable(subject))


def _holds(finding: Finding | None) -> bool:
    return finding is not None and finding.status <= Status.approximate


def _finalize(value: Any) -> Any:
    """Applied to whatever a template inserts: text that is not markup loses its control characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, longest=2000)
    return value


def spans(text: str) -> Markup:
    """A sentence for people, in which what stands between backticks is code."""
    parts = printable(text, longest=2000).split("`")
    if len(parts) % 2 == 0:  # one is left over: none of them is taken for a mark
        return Markup("{}").format("`".join(parts))
    told = (Markup("<code>{}</code>" if place % 2 else "{}").format(part) for place, part in enumerate(parts))
    return Markup("").join(told)


def _code(stem: str, text: str) -> Markup:
    """Lines of code; `STEM + ".x"` in them becomes what the file `x` beside the page is called, as a literal."""
    named = re.sub(r'STEM \+ "([^"]*)"', lambda found: repr(stem + found[1]), text)
    lines = (printable(line, longest=2000) for line in named.splitlines())
    return Markup("<pre><code>{}</code></pre>").format("\n".join(lines))


def _figures(figures: Mapping[str, Any], prefix: str) -> Callable[..., Markup]:
    def figure(path: str, form: Callable[[Any], str] | None = None, unit: str = "") -> Markup:
        """The figure at `path` as an element that carries its exact value, so that page and JSON can be compared."""
        value: Any = figures
        for step in (prefix + path).split("."):
            value = value[int(step)] if isinstance(value, list) else value[step]
        shown = (form or _shown)(value)
        return Markup('<data data-figure="{}" value="{}">{}</data>{}').format(
            prefix + path, json.dumps(value, allow_nan=False), printable(shown), unit
        )

    return figure


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else brief(value)
