"""unveil lookalike: another input with exactly the same features, as near to a target as they allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Common, Fix, OutputName, Scale, held
from unveil.cli.preimage import Examples, LayerNumber

if TYPE_CHECKING:
    import numpy as np

NOTHING = 1e-6
"""A smaller share of the way to the target is none."""


@command
def lookalike(
    network: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    inputs: Examples,
    common: Common,
    x: Annotated[
        int | None, typer.Option(help="Which example's features to keep; by default one that forgets most.")
    ] = None,
    target: Annotated[int | None, typer.Option(help="Which example to look like; by default another class.")] = None,
    layer: LayerNumber = 0,
    within: Annotated[str, typer.Option(metavar="LOW,HIGH", help="The legal range of every input.")] = "0,1",
    norm: Annotated[int, typer.Option(min=1, max=2, help="Near in the 1-norm or the 2-norm.")] = 1,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0, help="Instead: the largest change found that moves every logit by at most this.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write x, z and the target to this .npz.", show_default=False)
    ] = None,
    scale: Scale = None,
    output: OutputName = None,
    fix: Fix = None,
    force: Force = False,
) -> None:
    """Find an input near a target that has exactly the features of x, and ask the model in the file about both."""
    import numpy as np

    from unveil.blackbox.sources import as_oracle
    from unveil.cli.inputs import read_inputs
    from unveil.cli.options import interval
    from unveil.outcome import BadInput, Outcome
    from unveil.whitebox.formats import load
    from unveil.whitebox.large_change import large_change
    from unveil.whitebox.lookalike import lookalike as find

    require_fresh(out, force, ".npz")
    known, legal = load(network, output, held(fix)), interval(within)
    # The original, where there is one to ask: onnxruntime on the very file, in its own precision.
    original = network.suffix.lower() == ".onnx"
    if original:
        oracle = as_oracle(str(network), within=legal, output=output, inputs=held(fix), trusted=False)
    else:
        oracle = as_oracle(known.logits, shape=known.shape, within=legal)
    given = read_inputs(inputs, oracle, scale)
    for line in given.said:
        common.note(line)
    for name, number in (("--x", x), ("--target", target)):
        if number is not None and not 0 <= number < len(given.x):
            raise BadInput(f"{name} must be 0 to {len(given.x) - 1}: there are {len(given.x)} examples; got {number}")
    level = known.level(layer)
    if x is None:
        x = int((known.preactivations(given.x)[level] > 0).sum(axis=1).argmin())
    classes = known.logits(given.x).argmax(axis=1)

    def ask(points: np.ndarray) -> np.ndarray:
        return oracle(oracle.nearest(points))

    if epsilon is not None:
        change = large_change(known, given.x[x], epsilon, within=legal)
        difference = change.check(ask)
        told: dict[str, Any] = {
            "x": x, "epsilon": epsilon, "change": change.change, "most": change.most, "share": change.manipulation,
            "moves": change.moves, "difference": difference, "asked": "the file" if original else "our evaluation",
        }  # fmt: skip
        common.tell(
            told,
            f"example {x} can change by {change.change:.4g} of {change.most:.4g} in the 1-norm (a lower bound)",
            f"the model's answers then differ by {difference:.2g}; {change.moves} linear regions entered",
        )
        _write(out, x=change.x, z=change.z)
        return
    if target is None:
        others = np.flatnonzero(classes != classes[x])
        target = int(others[0]) if others.size else (x + 1) % len(given.x)
    if target == x:
        raise BadInput(
            f"example {x} cannot be made to look like itself; pass another --target, or --inputs with more examples"
        )
    found = find(known, given.x[x], given.x[target], level, within=legal, norm=norm)
    answer = found.check(ask)
    figures: dict[str, Any] = {
        "x": x, "target": target, "layer": level, "norm": norm, "distance": found.distance, "start": found.start,
        "bound": found.bound, "manipulation": found.manipulation, "deviation": found.deviation, "moves": found.moves,
        "difference": answer.difference, "predictions": list(answer.predictions),
        "asked": "the file" if original else "our evaluation",
    }  # fmt: skip
    first, second, third = answer.predictions
    near = f"an input {found.distance:.4g} from example {target} (example {x} is {found.start:.4g} away), {norm}-norm"
    common.tell(
        figures,
        near if found.manipulation > NOTHING else f"{near}: these features leave no way there",
        f"features after layer {level} differ from those of example {x} by {found.deviation:.2g}; "
        f"{found.moves} linear regions entered",
        f"the model says class {first} to example {x}, {second} to the lookalike, {third} to the target; "
        f"its answers to the first two differ by {answer.difference:.2g}",
    )
    _write(out, x=found.x, z=found.z, target=found.target)
    common.end(Outcome.complete if answer.holds else Outcome.check_failed)


def _write(out: Path | None, **arrays: np.ndarray) -> None:
    if out is not None:
        from unveil.audit.figures import write_arrays

        keep(out, lambda path: write_arrays(path, arrays))
