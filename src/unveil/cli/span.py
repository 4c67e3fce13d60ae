"""unveil span: the input directions a model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Asking, Common, InputsFile, Scale, Source, require_gradient


@command
def span(
    source: Source,
    asking: Asking,
    common: Common,
    inputs: InputsFile = None,
    scale: Scale = None,
    accuracy: Annotated[
        float, typer.Option(help="Wanted sine of the largest angle to the true span; 1e-8 needs float64 answers.")
    ] = 1e-4,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the basis as .npz.", show_default=False)
    ] = None,
    force: Force = False,
) -> None:
    """Find the directions of the input that a model sees.

    Example: unveil span model.onnx --within 0,1 --out basis.npz
    """
    from unveil.audit.figures import write_arrays
    from unveil.audit.sections.span import arrays, find_everywhere, section
    from unveil.audit.sections.span_check import check
    from unveil.audit.stage import Audit
    from unveil.cli.inputs import read_inputs
    from unveil.cli.option_texts import require_inputs

    require_fresh(out, force, ".npz")
    require_inputs(inputs, scale=scale)
    oracle = asking.oracle(source, common.note)
    require_gradient(oracle)
    points = None if inputs is None else read_inputs(inputs, oracle, scale, note=common.note).x
    with common.watching(oracle, "Looking for the directions it sees"):
        audit = Audit(oracle, points, seed=int(common.rng("span").integers(2**32)))
        found = find_everywhere(audit, points, accuracy)
        checked = check(audit, found)
    told = section(found, check=checked)
    ended = told.outcome or found.outcome
    if out is not None:
        keep(out, lambda path: write_arrays(path, arrays(found)))
    larger = None if checked is None else checked.larger
    sure = f"{found.confidence:.0%} that what was missed matters at fewer than {found.unseen:.1%} of inputs"
    if found.unseen >= 1:
        sure = "none: what was missed may matter at any input"
    common.tell(
        {**told.figures, "queries": oracle.ledger.asked, "sent": oracle.ledger.sent, "outcome": ended},
        f"rank          {found.rank} of {found.n}",
        f"accuracy      {found.accuracy:.1e}",
        f"noise floor   {found.noise_floor:.1e} of the largest singular value",
        *([f"left out      {found.left_out:.1%} of the gradient lies outside"] if found.misses else []),
        f"confidence    {sure}",
        *([] if larger is None else [f"elsewhere     inputs {larger:,.0f} times as large show more: see --inputs"]),
        f"questions     {oracle.ledger.asked:,}",
        ended.value,
        *([] if out is None else [f"basis written to {out}"]),
    )
    common.end(ended)
