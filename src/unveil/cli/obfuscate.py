"""unveil obfuscate: bury inputs in noise that a model does not see."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.options import Asking, Common, Scale, Source
from unveil.outcome import BadInput, Outcome, unreadable

if TYPE_CHECKING:
    from unveil.blackbox.span import RowSpan


@command
def obfuscate(
    source: Source,
    asking: Asking,
    common: Common,
    inputs: Annotated[
        Path,
        typer.Option("--inputs", metavar="FILE", help="What to bury: .npz, .npy, .csv, .png, or a folder of .png."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it, .npz.")],
    scale: Scale = None,
    noise: Annotated[float, typer.Option("--noise", help="Length of the noise, in lengths of the input.")] = 10.0,
    basis: Annotated[
        Path | None,
        typer.Option(
            "--basis", metavar="FILE", help="A basis found before, .npz; else it is found first.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Bury inputs in noise that a model does not see.

    With --within the noise is as much as stays legal; where an answer changes it is halved until it does not.

    Example: unveil obfuscate model.onnx --inputs digits.npz --within 0,1 --out hidden.npz
    """
    from unveil.audit.figures import write_arrays
    from unveil.audit.sections.hiding import bury
    from unveil.audit.sections.span import find_everywhere, typical
    from unveil.audit.stage import Audit
    from unveil.cli.inputs import read_inputs

    require_fresh(out, force, ".npz")
    if not 0 < noise < float("inf"):
        raise BadInput(f"--noise must be a finite number greater than 0; got {noise:g}")
    oracle = asking.oracle(source, common.note)
    read = read_inputs(inputs, oracle, scale, note=common.note)
    if basis is not None:
        span = _load(basis, oracle.n)
    else:
        with common.watching(oracle, "Looking for the directions it sees"):
            audit = Audit(oracle, read.x, seed=int(common.rng("span").integers(2**32)))
            span = find_everywhere(audit, typical(oracle, read.x))
    told = bury(oracle, span, read.x, oracle(read.x), oracle.within, noise, lambda: common.rng("obfuscation"))
    hidden = told.hidden
    labels = {} if read.labels is None else {"labels": read.labels}
    made = {"inputs": hidden.astype(oracle.dtype), "originals": read.x.astype(oracle.dtype), **labels}
    keep(out, lambda path: write_arrays(path, made))
    figures = told.figures(oracle)
    common.tell(
        {"queries": oracle.ledger.asked, "sent": oracle.ledger.sent, "rank": span.rank, **figures},
        f"{figures['unchanged']} of {figures['inputs']} answers stay under noise "
        f"{figures['relative_noise']:.3g} times as long as the input; written to {out}",
        *(
            [f"{told.changed} of them changed under all of the noise that was to be hidden, and take less or none"]
            if told.changed
            else []
        ),
    )
    held = Outcome.approximate if told.changed else Outcome.complete
    common.end(span.outcome, held if figures["unchanged"] == figures["inputs"] else Outcome.check_failed)


def _load(path: Path, n: int) -> RowSpan:
    import numpy as np

    from unveil.blackbox.span import RowSpan

    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = np.asarray(arrays["basis"], dtype=np.float64)
    except (ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{path} holds no basis ({unreadable(error)}); expected the .npz that `unveil span --out` writes"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != n or not 0 < len(rows) < n:
        raise BadInput(
            f"{path} holds a basis of shape {rows.shape}; the model takes {n} inputs: expected (r, {n}), r < {n}"
        )
    if not np.allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-8):
        raise BadInput(f"the rows of the basis in {path} are not orthonormal; it is no basis that unveil wrote")
    return RowSpan(
        basis=rows,
        singular_values=np.ones(len(rows)),
        noise_floor=0.0,
        accuracy=float("nan"),
        confidence=0.0,
        unseen=1.0,
        left_out=0.0,
        queries=0,
        outcome=Outcome.complete,
    )
