"""report, run: the stages of an audit, one after the other, and the page they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from unveil.arguments import Randomness, as_numbers, generator
from unveil.audit.actions import actions
from unveil.audit.catalogue import CATALOGUE
from unveil.audit.page import Page
from unveil.audit.provenance import provenance
from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage, held
from unveil.audit.stages import STAGES
from unveil.audit.text import count
from unveil.audit.verdict import Status, Verdict, cause
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.outcome import BadInput, BudgetExceeded, Interrupted, Outcome, UnveilError


def report(
    oracle: Oracle,
    inputs: Float[np.ndarray, "N n"] | None = None,
    *,
    rng: Randomness,
    labels: Int[np.ndarray, " N"] | None = None,
    names: Sequence[str] = (),
) -> Page:
    """Ask a model what it gives away, and tell it on one page: `report(oracle, x, rng=rng).write("audit.html")`.

    Args:
        oracle: The model.
        inputs: Example inputs, legal ones; drawn at random if there are none.
        rng: A generator, or a seed. Gives every stage its own generator.
        labels: What the examples show.
        names: Of the columns, where the examples are a table: it is asked in standard deviations of these.

    Raises:
        BadInput: The inputs, or their names, do not fit the oracle.

    Queries: see `run`

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((3, 12))
        >>> page = uv.report(uv.as_oracle(lambda x: np.tanh(x @ rows.T), shape=12), rng=rng)
        >>> page.all_figures()["span"]["rank"]
        3
    """
    must_be_asked(oracle)
    rng = generator(rng)
    if len(names) not in (0, oracle.n) or (len(names) and inputs is None):
        raise BadInput(
            f"names are those of the {oracle.n} columns of inputs, which go with them; got {len(names)} names"
        )
    inputs = None if inputs is None else as_numbers(inputs, "inputs")
    audit = Audit(oracle, inputs, labels, int(rng.integers(2**32)), oracle.name, tuple(map(str, names)))
    audit.standardise()
    return run(audit)


def run(
    audit: Audit,
    stages: Iterable[Stage] | None = None,
    watch: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
) -> Page:
    """Run the stages and assemble the page.

    A stage that cannot go on does not stop the others: its section says why. Ctrl-C ends the run; the page tells what
    was found by then, and its exit code is that of an interruption.

    Args:
        audit: What is looked at.
        stages: By default every stage that needs no flag, in the order of telling.
        watch: Makes a context around each stage, e.g. a progress bar.

    Returns:
        The page; `page.findings` tells how each stage ended, and what all of them come to.

    Queries: what the stages ask, 64 to begin with and 4 in the end, charged to `audit.oracle.ledger`; at most the
        budget, or without one what `estimate` says. Each stage leaves of a budget what those after it that have a
        flag are likely to ask, but may use half of what is left.
    """
    chosen = [stage for stage in STAGES if stage.flag is None] if stages is None else list(stages)
    audit.planned = frozenset(stage.key for stage in chosen)
    sections: list[Section] = []
    limits: dict[str, str] = {}
    interrupted = False
    if "seen" not in audit.findings:
        audit.look()
    asked = {"first look": audit.oracle.ledger.asked}
    for place, stage in enumerate(chosen):
        before = audit.oracle.ledger.asked
        try:
            with watch(stage), held(audit, stage, chosen[place + 1 :]) as limits[stage.key]:
                section = stage.run(audit)
        except UnveilError as error:
            section = _ended_by(error, stage, audit.oracle.ledger.asked - before)
        except KeyboardInterrupt:
            why = Interrupted("it was interrupted before this was found out")
            section, interrupted = _ended_by(why, stage, audit.oracle.ledger.asked - before), True
        if section is not None:
            sections.append(section)
            asked[section.title] = audit.oracle.ledger.asked - before
        if interrupted:
            break
    before = audit.oracle.ledger.asked
    if not interrupted:
        sections += _asked_again(audit, sections)
    asked["first questions again"] = audit.oracle.ledger.asked - before
    sections = _counted(_retold(sections), asked)
    sections = [_own_limit(each, limits.get(each.key, "")) for each in sections]
    tested = audit.tested or provenance(audit.oracle.name, seed=audit.seed)
    findings = Verdict(audit.oracle.name, tuple(one for each in sections if (one := each.finding) is not None))
    ledger = audit.oracle.ledger
    return Page(
        subject=audit.oracle.name,
        sections=(_asked(audit, asked), *sections),
        figures={
            "queries": ledger.asked,
            "sent": ledger.sent,
            "budget": ledger.budget,
            "seed": audit.seed,
            "tested": tested.figures(),
        },
        facts=_facts(sections),
        tariff=audit.tariff,
        actions=actions(findings.risks, {each.key: each.figures for each in sections}, audit.tariff),
    )


def _retold(sections: list[Section]) -> list[Section]:
    """The sections, those that a later one refutes told accordingly: no two of them say opposite things."""
    doubts = {key: clause for section in sections for key, clause in section.refutes.items()}
    return [
        section.refuted(doubts[section.key]) if section.key in doubts and section.refuted else section
        for section in sections
    ]


def _own_limit(section: Section, limit: str) -> Section:
    """A section that its stage's own limit ended, told so: the budget of the whole had not ended."""
    if not limit or section.outcome is not Outcome.budget_ended:
        return section

    def told(text: str) -> str:
        text = text.replace("he budget ended", f"he {limit}")
        text = text.replace("Allow a larger budget=", "Allow more questions with --budget")
        return text.replace("Allow a larger budget", "Allow more questions with --budget").replace(
            "with a larger budget", "with a --budget that allows more"
        )

    steps = tuple(map(told, section.next_steps))
    return replace(
        section, verdict=told(section.verdict), cause=told(section.cause or cause(section.outcome)), next_steps=steps
    )


def _counted(sections: list[Section], asked: dict[str, int]) -> list[Section]:
    """The sections with the questions they took, and those of the sections they stand on."""
    by_key = {each.key: asked.get(each.title, 0) + each.known for each in sections}
    return [
        replace(each, questions=sum(by_key.get(key, 0) for key in (each.key, *_needs(each.key)))) for each in sections
    ]


def _needs(key: str) -> tuple[str, ...]:
    return CATALOGUE[key].needs if key in CATALOGUE else ()


def _asked_again(audit: Audit, sections: list[Section]) -> list[Section]:
    """Known questions in the end: where they get other answers, nothing found before holds of one model."""
    try:
        audit.findings["unchanged"] = audit.oracle.unchanged()
    except UnveilError as error:
        return [_ended_by(error, Stage("unchanged", "Whether it stayed the same", lambda audit: None), 0)]
    if audit.findings["unchanged"] is not False:
        return []
    clause = "the model changed while it was asked"
    return [
        Section(
            key="unchanged",
            title="Whether it stayed the same",
            verdict="Questions of the first look got other answers in the end: another model answers now.",
            outcome=Outcome.model_changed,
            next_steps=("Everything again, of one fixed version of the model, with a new store.",),
            refutes={section.key: clause for section in sections if section.finding is not None},
        )
    ]


_ASKED = """
<div class="scroll"><table>
<caption>Questions by what they were asked for</caption>
{% for row in values.rows %}
<tr><th scope="row">{{ row }}</th><td class="number">{{ figure("for." ~ loop.index0 ~ ".questions") }}</td></tr>
{% endfor %}
<tr><th scope="row"><strong>In all</strong></th><td class="number"><strong>{{ figure("questions") }}</strong></td></tr>
</table></div>
"""


def _asked(audit: Audit, asked: dict[str, int]) -> Section:
    ledger = audit.oracle.ledger
    counted = {title: number for title, number in asked.items() if number}
    limit = (
        "No budget was set: each step kept a limit of its own"
        if ledger.budget is None
        else f"{count(ledger.budget, 'question')} were allowed"
    )
    again = f"; {count(ledger.sent)} went to the model" if ledger.sent != ledger.asked else ""
    same = {
        True: " In the end the first questions got the same answers again.",
        False: " In the end the first questions got other answers.",
        None: " Whether the model stayed the same was not asked.",
    }[audit.findings.get("unchanged")]
    used = "Only questions and answers were used."
    if "weights" in audit.findings:
        used = "Besides questions and answers its weights were used: for what its features forget, and the way back."
    return Section(
        key="asked",
        title="What was asked",
        verdict=f"{used} {limit}{again}.{same}",
        body=_ASKED,
        values={"rows": [title[0].upper() + title[1:] for title in counted]},
        figures={
            "questions": ledger.asked,
            "unchanged": audit.findings.get("unchanged"),
            "missing": ledger.missing,
            "for": [{"section": title, "questions": number} for title, number in counted.items()],
        },
    )


def _facts(sections: list[Section]) -> tuple[tuple[str, str], ...]:
    told = {section.key: section.figures for section in sections}
    facts = [("queries", "questions asked")]
    if "n" in told.get("oracle", {}):
        facts.append(("oracle.n", "inputs"))
        if told["oracle"]["answers"] != "labels":
            facts.append(("oracle.m", "outputs"))
    span = next((section for section in sections if section.key == "span"), None)
    if span is not None and span.finding is not None and "rank" in span.figures:
        sure = span.finding.status <= Status.approximate
        facts.append(("span.rank", "input directions seen" if sure else "input directions found so far"))
        if sure:
            facts.append(("span.hidden", "directions not seen"))
    return tuple(facts)


def _ended_by(error: UnveilError, stage: Stage, spent: int) -> Section:
    """A stage that an error ended: not measured, or the model failed. The others are run all the same."""
    text = str(error).rstrip(".")
    if isinstance(error, BudgetExceeded):
        return Section(
            key=stage.key,
            title=stage.title,
            verdict=f"The budget ended before this was found out, after {count(spent, 'question')} for it: {text}.",
            outcome=Outcome.budget_ended,
            cause="the budget ended before this was found out",
            next_steps=(f"{stage.title} again with a larger budget.",),
        )
    return Section(key=stage.key, title=stage.title, verdict=f"This could not be found out: {text}.", error=error)
