"""unveil outputs: the hidden width that the outputs give away, and whether they are an earlier model's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Asking, Common, InputsFile, Scale, Source


@command
def outputs(
    source: Source,
    asking: Asking,
    common: Common,
    inputs: InputsFile = None,
    scale: Scale = None,
    most: Annotated[int | None, typer.Option(min=2, help="The largest number of inputs asked.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the span as .npz, for --against.", show_default=False),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="A span written before: is it still the same model?", show_default=False
        ),
    ] = None,
    layer: Annotated[
        Path | None,
        typer.Option(
            "--last-layer",
            metavar="FILE",
            help="Write the last layer behind a LayerNorm or RMSNorm, up to a rotation, as .npz.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Find the hidden width that a model's outputs give away.

    Example: unveil outputs model.onnx --inputs digits.npz --out outputs.npz
    """
    from unveil.blackbox.last_layer import last_layer
    from unveil.blackbox.output_space import OutputSpan
    from unveil.blackbox.output_span import output_span
    from unveil.cli.inputs import read_inputs
    from unveil.cli.option_texts import require_inputs
    from unveil.outcome import Outcome

    require_fresh(out, force, ".npz")
    require_fresh(layer, force, ".npz", option="--last-layer")
    earlier = None if against is None else OutputSpan.load(against)
    require_inputs(inputs, scale=scale)
    oracle = asking.oracle(source, common.note)
    points = None if inputs is None else read_inputs(inputs, oracle, scale, note=common.note).x
    with common.watching(oracle, "Looking at the space of the outputs"):
        found = output_span(oracle, points, rng=common.rng("outputs"), most=most)
        known = None
        if layer is not None and found.outcome is Outcome.complete:
            known = last_layer(oracle, found, points, rng=common.rng("last layer"))
        share = None if earlier is None else earlier.check(oracle, rng=common.rng("against"), x=points)
    if out is not None:
        keep(out, found.save)
    same = None if earlier is None or share is None else share >= 0.9
    figures = {
        "rank": found.rank,
        "outputs": found.m,
        "accuracy": found.accuracy,
        "noise": found.noise,
        "rounding": found.rounding,
        "confidence": found.confidence,
        "unseen": found.unseen,
        "reading": found.reading.kind,
        "queries": oracle.ledger.asked,
        "sent": oracle.ledger.sent,
        "outcome": found.outcome,
        "why": found.why,
    }
    lines = [
        f"rank          {found.rank} of {found.m} outputs, read as {found.reading.kind}",
        f"accuracy      {found.accuracy:.1e}",
        f"noise         {found.noise:.1e} in a number; rounding alone makes {found.rounding:.1e}",
        f"questions     {oracle.ledger.asked:,}",
        f"{found.outcome.name.replace('_', ' ')}: {found.why}",
    ]
    if known is not None:
        figures |= {"last_layer_error": known.error, "last_layer_held_out": known.held_out}
        figures |= {"last_layer": known.outcome, "last_layer_why": known.why}
        lines.append(f"last layer    {known.outcome.name.replace('_', ' ')}: {known.why}")
        if layer is not None and known.outcome is Outcome.complete:
            keep(layer, known.save)
            lines.append(f"              Gram matrix to {known.error:.1e}; written to {layer}")
    if earlier is not None and share is not None:
        figures |= {"earlier_rank": earlier.rank, "in_earlier_span": share, "same_last_layer": same}
        told = "the same last layer" if same else "another last layer: the model was changed"
        lines.append(f"earlier span  holds {share:.0%} of fresh answers: {told}")
    common.tell(figures, *lines, *([] if out is None else [f"span written to {out}"]))
    ended = [Outcome.model_changed] if same is False else []
    common.end(found.outcome, *ended, *([] if known is None else [known.outcome]))
