"""unveil identify: read the weights off the answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Asking, Common, InputsFile, Scale, Source, require_gradient
from unveil.cli.stopping import stopping
from unveil.identification.methods import METHODS, method_named

if TYPE_CHECKING:
    from unveil.identification.method import Identification
    from unveil.outcome import Outcome
    from unveil.whitebox.network import Network


CONSTANT_NUMBERS_SHOWN = 10  # numbers of a constant that are written out


@command
def identify(
    source: Source,
    asking: Asking,
    common: Common,
    inputs: InputsFile = None,
    scale: Scale = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]", help="Of the hidden layers, e.g. tanh; found if not given.", show_default=False
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N]", help="Neurons of the hidden layers, e.g. 20,4; found if not given.", show_default=False
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of auto, {', '.join(METHODS)}.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the network found to this file, .onnx or .npz.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="End after so long; the last 30 % are for the fit of what was read.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Read the weights of a model off its answers.

    Ctrl-C ends the reading, and tells what was found by then. Examples of what the model is used on (--inputs) tell in
    which units inputs lie, give labels to start from, and what a fitted network is off by for them.

    Example: unveil identify model.onnx --budget 200000 --out found.npz
    """
    from unveil.cli.inputs import read_inputs
    from unveil.cli.option_texts import integers, require_inputs
    from unveil.identification.from_labels.hard_labels import HardLabels
    from unveil.identification.identify import identify as find
    from unveil.identification.method import Identification
    from unveil.identification.reading_share import reading_allowance
    from unveil.outcome import BadInput, Outcome, Stopped
    from unveil.whitebox.formats import save

    if method != "auto" and method not in METHODS:
        raise BadInput(f"--method must be one of auto, {', '.join(METHODS)}; got {method!r}")
    require_fresh(out, force, ".onnx", ".npz")
    names = None if activation is None else tuple(activation.split(","))
    sizes = None if widths is None else integers(widths, "--widths")
    require_inputs(inputs, scale=scale)
    oracle = asking.oracle(source, common.note)
    require_gradient(oracle)
    chosen = None if method == "auto" else method_named(method, names, sizes)
    if inputs is not None and chosen is not None:
        raise BadInput("--inputs tell the automatic choice where to ask; leave out --method, or --inputs")
    points = None if inputs is None else read_inputs(inputs, oracle, scale, note=common.note).x
    expected = None
    if oracle.answers == "labels" and method in ("auto", "hard-labels"):
        expected = HardLabels().allowance(oracle) or oracle.ledger.budget
        common.note(
            f"Note: at most {expected:,} labels are asked (--budget); with --store a reading that is cut short goes on "
            "from where it was."
        )
    elif method == "auto" and oracle.ledger.budget is None:
        common.note(
            f"Note: at most {reading_allowance(oracle):,} questions are asked to read a piecewise-linear network, and "
            "20 more for each number of one that is fitted (--budget)."
        )
    with common.watching(oracle, "Reading the weights", expected), stopping(oracle.ledger, seconds, common.note):
        try:
            found = find(oracle, chosen, rng=common.rng("identify"), activation=names, widths=sizes, x=points)
        except Stopped:
            nothing = ("It was stopped before it had anything to tell.",)
            found = Identification(None, Outcome.budget_ended, oracle.ledger.asked, math.inf, "none", nothing)
    stopped = oracle.ledger.stopped
    why = (*found.why, *([f"It was stopped: {stopped}."] if stopped else []))
    lines = [found.outcome.value, *(f"- {reason}" for reason in why)]
    if found.network is not None:
        lines.append(_told(found, found.network))
        if out is not None:
            network = found.classifier()
            keep(out, lambda path: save(network, path))
            lines.append(f"written to {out}")
    figures = {
        "outcome": found.outcome,
        "method": found.method,
        "queries": found.queries,
        "sent": oracle.ledger.sent,
        "residual": found.residual,
        "widths": None if found.network is None else [layer.neurons for layer in found.network.layers],
        "why": list(why),
        "stats": dict(found.stats),
    }
    common.tell(figures, *lines)
    common.end(found.outcome)


def _told(found: Identification, network: Network) -> str:
    """What was found, and how far off it is."""
    off = "largest error on fresh inputs" if found.labels is None else "share of fresh inputs with another label"
    fresh = found.stats.get("surrogate", found.stats).get("fresh", {})
    if found.labels is None and fresh.get("largest") == found.residual:
        off = f"largest error on {fresh['inputs']:,} fresh {fresh['drawn']},"
    error = f"{found.residual:.2g}" if math.isfinite(found.residual) else "not measured"
    return f"{found.method}: {_what(network, found.outcome)}, {off} {error}, {found.queries:,} queries"


def _what(network: Network, outcome: Outcome) -> str:
    """What the network found is."""
    if len(network.layers) > 1:
        return f"{' - '.join(str(layer.neurons) for layer in network.layers)} neurons"
    if outcome.name == "nothing_to_find":
        shown = network.layers[0].bias[:CONSTANT_NUMBERS_SHOWN]
        return f"a constant, {', '.join(f'{each:.6g}' for each in shown)}, without a neuron"
    return "an affine map, without a neuron"
