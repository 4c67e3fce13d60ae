"""The options that commands share, as nouns: `Asking` makes the oracle, `Common` talks, `Parallel` finds workers."""

from __future__ import annotations

import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.audit.text import printable
from unveil.audit.verdict import exit_code
from unveil.cli.command import results
from unveil.cli.option_texts import bounds, by_channel, held, integers, number, numbers
from unveil.cli.serving import Serving
from unveil.cli.words import in_options
from unveil.outcome import BadInput, Outcome

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import numpy as np

    from unveil.blackbox.oracle import Oracle

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="The model: an ONNX file, a web address, or a Python function, torch module or estimator as file.py:name.",
        show_default=False,
    ),
]
InputsFile = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE",
        help="Examples: .npz, .npy, .csv, .parquet, .png, or a folder of .png.",
        show_default=False,
    ),
]
Examples = Annotated[
    Path,
    typer.Option("--inputs", metavar="FILE", help="Examples: .npz, .npy, .csv, .png, or a folder.", show_default=False),
]
LayerNumber = Annotated[int, typer.Option(help="The layer whose features are to stay, 0 for the first.")]
Scale = Annotated[
    float | None, typer.Option("--scale", help="Divide the examples by this, e.g. 255.", show_default=False)
]


LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help="The column of --inputs with the labels; a number, 0 for the first, where columns have no names.",
        show_default=False,
    ),
]
OutputName = Annotated[
    str | None,
    typer.Option("--output", metavar="NAME", help="Which output of an ONNX file with several.", show_default=False),
]

Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M[,M,M]",
        help="Subtracted from inputs before the model gets them; one, or one a channel.",
        show_default=False,
    ),
]
Deviation = Annotated[
    str | None,
    typer.Option(metavar="D[,D,D]", help="What they are divided by, after --mean.", show_default=False),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="NAME=VALUE",
        help="Hold another input of the model constant: a number, several with commas, or a .npy file. Again for each.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Common:
    """What every command understands: where chance starts, and who listens."""

    seed: Annotated[int, typer.Option(min=0, help="Same seed, same answer, bit for bit.")] = 0
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result, no notes and no progress.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")] = False

    def rng(self, name: str) -> np.random.Generator:
        """A generator for one purpose: another purpose more or less leaves this one's draws as they are."""
        import numpy as np

        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def note(self, text: str) -> None:
        """Say something on the way; to stderr, so that stdout holds the result alone."""
        if not self.quiet:
            typer.echo(printable(in_options(text), longest=4000), err=True)

    def tell(self, figures: Mapping[str, Any], *lines: str) -> None:
        """The result on stdout: `figures` as JSON for a machine, else `lines` for a person."""
        if self.as_json:
            from unveil.audit.figures import plain

            typer.echo(json.dumps(plain(figures), indent=2, allow_nan=False), file=results())
        else:
            for line in lines:
                typer.echo(printable(in_options(line), longest=4000), file=results())

    @staticmethod
    def end(*outcomes: Outcome) -> None:
        """End the command with the code of the worst outcome."""
        code = exit_code(*outcomes)
        if code:
            raise typer.Exit(code)

    @contextmanager
    def watching(
        self, oracle: Oracle, title: str, expected: float | None = None, noun: str = "questions"
    ) -> Iterator[None]:
        """Show how many questions were asked while something runs; now and then a line unless stderr is a terminal.

        Args:
            oracle: Its ledger is what is shown.
            title: What is going on, e.g. "Looking for the row span".
            expected: Questions this will take, if known.
            noun: What a question is called: a simulator makes runs.
        """
        if self.quiet:
            yield
            return
        if not sys.stderr.isatty():
            from unveil.cli.progress_lines import ledger_lines

            with ledger_lines(oracle.ledger, title, expected, noun, self.note):
                yield
            return
        from unveil.cli.progress import ledger_progress

        with ledger_progress(oracle.ledger, title, expected, noun):
            yield


@dataclass(frozen=True)
class Asking(Serving):
    """What a model may be asked, how often, and how to reach it."""

    shape: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,..", help="Shape of one input, if the model does not say, e.g. 1,28,28.", show_default=False
        ),
    ] = None
    within: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="The legal range of every input, e.g. 0,1; or an .npz with one bound per input, `low` and `high`.",
            show_default=False,
        ),
    ] = None
    grid: Annotated[
        str | None, typer.Option(metavar="STEP", help="The legal step of every input, e.g. 1/255.", show_default=False)
    ] = None
    budget: Annotated[
        int | None, typer.Option(min=0, help="The largest number of questions to ask.", show_default=False)
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep every answer here, so that no question is paid for twice.", show_default=False
        ),
    ] = None
    labels: Annotated[bool, typer.Option("--labels", help="Use nothing but the predicted class.")] = False
    answers: Annotated[
        str, typer.Option(metavar="KIND", help="What the answers are: auto, values, probabilities or labels.")
    ] = "auto"
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Two answers to one question may differ by chance; the spread is measured.")
    ] = False
    mean: Mean = None
    deviation: Deviation = None
    fix: Fix = None
    module: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.PY:NAME",
            help="The torch module, or its class, that a file of weights (.safetensors, .pt) belongs to.",
            show_default=False,
        ),
    ] = None
    trusted: Annotated[
        bool,
        typer.Option(
            "--trusted/--untrusted",
            help="Let the file take what time and memory it likes; else one that does not tell beforehand is confined.",
        ),
    ] = False

    def oracle(self, source: str, note: Callable[[str], None] = lambda text: None) -> Oracle:
        """The oracle that SOURCE and these options describe.

        Args:
            source: As on the command line.
            note: Told what the first look saw and what to do about it.
        """
        from unveil.blackbox.sources import as_oracle

        if self.labels and self.answers not in ("auto", "labels"):
            raise BadInput(f"--labels means --answers labels; got --answers {self.answers} as well")
        shape = None if self.shape is None else integers(self.shape, "--shape")
        within = None if self.within is None else bounds(self.within)
        grid = None if self.grid is None else number(self.grid, "--grid")
        mean = None if self.mean is None else numbers(self.mean, "--mean")
        deviation = None if self.deviation is None else numbers(self.deviation, "--deviation")
        served = source.startswith(("http://", "https://"))
        if not served:
            self.refuse_unserved(source)
        normalised = mean is not None or deviation is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what they say is among the notes
            oracle = as_oracle(
                self.served(source, shape) if served else load(source),
                shape=shape,
                within=None if normalised else within,
                grid=None if normalised else grid,
                budget=self.budget,
                store=self.store,
                answers="labels" if self.labels else self.answers,
                output=None if served else self.output,
                noisy=self.noisy,
                inputs=held(self.fix),
                trusted=self.trusted,
                module=None if self.module is None else load(self.module),
            )
        vars(self)["ledger"] = oracle.ledger  # an error in the middle tells what was sent by then
        for said in oracle.notes:
            note(f"Note: {said}.")
        if not normalised:
            return oracle
        from unveil.blackbox.wrappers import Affine

        rows = [by_channel(values, oracle.shape) for values in (mean or [0.0], deviation or [1.0])]
        return Affine(oracle, rows[0], rows[1], within=within, grid=grid)


@dataclass(frozen=True)
class Parallel:
    """Who does the work of a command that can be divided. The result is the same, whoever does."""

    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine; by default one per processor, if there is much to do."),
    ] = None
    cluster: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Dask scheduler, instead of --jobs.", show_default=False)
    ] = None

    def workers(self, parts: int) -> Executor:
        """To be used in a `with` statement, and handed to a verb's `executor=`, whose work falls into so many parts."""
        from unveil.executor import workers

        return workers(self.jobs or max(1, min(os.cpu_count() or 1, parts)), self.cluster)


def load(source: str) -> Any:
    """SOURCE as `as_oracle` takes it: `file.py:name` becomes what is called so, all else a path or an address."""
    if not source.strip():
        raise BadInput("SOURCE is empty; expected a file, a web address or file.py:function")
    scheme, mark, _ = source.partition("://")
    if mark and scheme not in ("http", "https"):
        raise BadInput(f"{scheme}:// cannot be asked; expected http:// or https://, a file, or file.py:function")
    path, colon, name = source.rpartition(":")
    if not (colon and path.endswith(".py")):
        if "://" not in source and not Path(source).exists():
            raise BadInput(f"there is no file {source}; SOURCE is a file, a web address or file.py:function")
        return source
    import importlib.util

    if not Path(path).is_file():
        raise BadInput(f"there is no file {path}")
    # No name that it could import another module by.
    spec = importlib.util.spec_from_file_location(f"_asked_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As Python itself would run it: files beside it can be imported, and its dataclasses look their module up.
    sys.path.append(str(Path(path).resolve().parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        there = hasattr(module, name)  # a module may make what is asked for
    except (Exception, SystemExit) as error:  # a program that was not meant to be imported may end itself
        raise BadInput(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not there:
        raise BadInput(
            f"{path} has nothing called {name}; expected file.py:name, where name is a function that takes (N, n) and "
            "gives (N, m), a torch module or an estimator of scikit-learn"
        )
    return getattr(module, name)


def require_gradient(oracle: Oracle) -> None:
    """Refuse a budget that ends before one gradient is known: then no direction can be found.

    Raises:
        BadInput: The budget is that small.
    """
    least = oracle.n + 1
    if oracle.ledger.left < least:
        raise BadInput(
            f"one gradient of {oracle.n:,} inputs takes {least:,} questions, and {oracle.ledger.left:,.0f} may be "
            f"asked: nothing can be found. Pass a --budget of {10 * least:,} or more, or a model with fewer inputs"
        )
