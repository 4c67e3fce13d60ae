"""unveil audit: the main job. Everything a model gives away, on one page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.audit.stage import Estimate, Stage
from unveil.audit.stages import STAGES
from unveil.audit.text import count, seconds
from unveil.audit.verdict import INTERRUPTED
from unveil.cli.command import command, interrupted
from unveil.cli.files import Force, keep, require_fresh_page
from unveil.cli.options import Asking, Common, InputsFile, LabelColumn, Scale, Source, require_gradient
from unveil.cli.program import command_line
from unveil.cli.telling import Telling
from unveil.outcome import BadInput

if TYPE_CHECKING:
    from unveil.blackbox.oracle import Oracle

# A flag of a stage is an option here as soon as the stage is in the list; several stages may share one.
_HELP = {stage.flag: stage.help for stage in reversed(STAGES) if stage.flag}
_NAMES = {flag: flag.strip("-").replace("-", "_") for flag in _HELP}
Wanted = dataclasses.make_dataclass(
    "Wanted",
    [
        (_NAMES[flag], Annotated[bool, typer.Option(flag, help=_HELP[flag])], dataclasses.field(default=False))
        for flag in sorted(_HELP)
    ],
    frozen=True,
)


@command
def audit(
    source: Source,
    asking: Asking,
    wanted: Wanted,  # type: ignore[valid-type]
    common: Common,
    telling: Telling,
    inputs: InputsFile = None,
    scale: Scale = None,
    label_column: LabelColumn = None,
    force: Force = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would cost.")] = False,
) -> None:
    """Ask a model what it gives away, and write it on one page.

    Example: unveil audit model.onnx --inputs digits.npz --within 0,1 --budget 50000 --report audit.html
    """
    from unveil.audit.baseline import read_baseline
    from unveil.audit.provenance import provenance
    from unveil.audit.run import run
    from unveil.audit.stage import Audit, estimate
    from unveil.cli.option_texts import require_inputs

    page, price, tariff, least = telling.page, telling.price, telling.tariff, telling.least
    if page.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"a page is written as .html; got {page}")
    page.parent.mkdir(parents=True, exist_ok=True)  # found out before anything is asked
    if not plan:
        require_fresh_page(page, force)
        telling.require_fresh(force)
    before = None if telling.baseline is None else read_baseline(telling.baseline)
    stages = [stage for stage in STAGES if not stage.flag or getattr(wanted, _NAMES[stage.flag])]
    require_inputs(inputs, scale=scale, label_column=label_column)
    oracle = asking.oracle(source, common.note)
    require_gradient(oracle)
    if not plan:
        require_fresh_page(page, force, oracle.name)
    audited = Audit(oracle, seed=common.seed, path=source, folder=page.parent, tariff=tariff)
    audited.tested = provenance(oracle.name, source, common.seed, command_line())
    if inputs is not None:
        from unveil.cli.inputs import read_inputs

        read = read_inputs(inputs, oracle, scale, label=label_column, note=common.note)
        audited.inputs, audited.labels, audited.names = read.x, read.labels, read.names
        audited.standardise()
    audited.look()
    expected = estimate(audited, stages)
    common.note(_says(expected, oracle.ledger.asked, price))
    if plan:
        _tell_plan(common, oracle, expected, price)
        return

    def watch(stage: Stage) -> AbstractContextManager[object]:
        return common.watching(oracle, stage.title) if stage.cost(audited)[1] else nullcontext()

    made = dataclasses.replace(run(audited, stages, watch), fail_on=least, baseline=before)
    written: list[Path] = []
    keep(page, lambda path: written.extend(made.write(path)))
    written += telling.write(made)
    figures = made.all_figures()
    common.tell(
        figures | {"files": [str(file) for file in written]},
        made.verdict,
        *made.findings.causes,
        *(f"{each.severity.words:8}{each.id:15}{each.verdict}" for each in made.findings.risks),
        *_changed(figures["changes"]),
        *(f"--fail-on {least.name}: {each.id} is {each.severity.name}." for each in made.findings.too_severe if least),
        f"{count(oracle.ledger.asked, 'question')} asked; told in {written[0]}, every figure in {written[1]}",
    )
    if made.exit_code == INTERRUPTED:
        typer.echo(f"unveil: {interrupted(asking.store, page)}", err=True)
    if made.exit_code:
        raise typer.Exit(made.exit_code)


def _tell_plan(common: Common, oracle: Oracle, expected: Estimate, price: float | None) -> None:
    """What the audit would cost, by stage."""
    costs = {
        "likely": expected.likely,
        "most": expected.most,
        "seconds": {"likely": expected.likely * expected.each, "most": expected.most * expected.each},
        "money": None
        if price is None
        else {"likely": _money(expected.likely, price), "most": _money(expected.most, price)},
        "stages": [{"stage": title, "likely": likely, "most": most} for title, likely, most in expected.stages],
    }
    rows = [f"{title}: about {_few(likely)}, at most {_few(most)}" for title, likely, most in expected.stages]
    told = {"expected": costs, "queries": oracle.ledger.asked, "sent": oracle.ledger.sent}
    common.tell(told, *rows, "Nothing more was asked.")


def _changed(told: Mapping[str, Any] | None) -> list[str]:
    """What changed since the baseline, a line each."""
    if told is None:
        return []
    lines = [
        f"{one['id']}: {one['change']} ({one['severity_before'] or '–'} then, {one['severity'] or '–'} now)"
        for one in told["findings"]
    ]
    lines += [f"{one['name']}: {one['before']} then, {one['now']} now" for one in told["figures"]]
    return [f"Since the baseline: {line}." for line in lines or ["nothing changed"]]


def _says(expected: Estimate, asked: int, price: float | None) -> str:
    """In questions, time and money; of what is asked besides the first look."""
    short, long = seconds(expected.likely * expected.each), seconds(expected.most * expected.each)
    time = short if short == long else f"{short}, at most {long},"
    money = ""
    if price is not None:
        money = f" and {_money(expected.likely, price):,.2f} of money, at most {_money(expected.most, price):,.2f}"
    most = count(expected.most, "question") if math.isfinite(expected.budget) else _few(expected.most)
    return (
        f"This will ask about {_few(expected.likely)} if a tenth of the input's directions matter, never more than "
        f"{most} besides the {asked:,} asked so far: {time} of the model's time{money}. --budget sets a limit."
    )


def _few(number: float) -> str:
    """Questions to two digits, rounded up, so that a bound stays one."""
    unit = 10.0 ** max(math.floor(math.log10(max(number, 1.0))) - 1, 0)
    return count(math.ceil(number / unit) * unit, "question")


def _money(questions: float, price: float) -> float:
    return questions * price / 1000
