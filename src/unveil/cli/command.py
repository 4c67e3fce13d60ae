"""`command` turns a function into a command whose failures are one clear line and an exit code."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO, get_args, get_type_hints

import typer
import typer.core
import typer.models

from unveil.audit.text import printable
from unveil.audit.verdict import DISK, INCOMPLETE, INTERRUPTED, USAGE, Status, ending
from unveil.audit.verdict import exit_code as exit_code
from unveil.cli.program import homes
from unveil.cli.words import in_options
from unveil.outcome import (
    BadInput,
    DiskFull,
    MissingAnswers,
    ModelChanged,
    SourceError,
    StepAnswers,
    StoreError,
    UnsteadyAnswers,
    UnveilError,
)
from unveil.writing import FULL

# What stands for a value in the help, where an option names nothing itself; a switch takes none.
PLACEHOLDERS = {bool: "", int: "N", float: "X", str: "TEXT", Path: "FILE"}

# What a model answered, and no failure to answer: asked again it would say the same.
NOT_FAILED = (MissingAnswers, ModelChanged, StepAnswers, UnsteadyAnswers)

_stdout: ContextVar[TextIO | None] = ContextVar("stdout", default=None)


class _Command(typer.core.TyperCommand):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        for parameter in self.params:
            # An argument's name and help say what it is; Python's type beside them says nothing more.
            if isinstance(parameter, typer.core.TyperArgument):
                parameter.display_type = lambda ctx: ""  # type: ignore[method-assign]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


def command(function: Callable[..., None], home: typer.Typer | None = None) -> Callable[..., None]:
    """Register a command of `unveil` under its function's name, or in `home`, a group of commands.

    A parameter whose type is a dataclass (`Asking`, `Common`) becomes one option per field, so that commands share
    their options as nouns. Whatever is raised on purpose ends in one line on stderr and an exit code.
    """
    hints = get_type_hints(function, include_extras=True)
    nouns = {name: kind for name, kind in hints.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in nouns:
            parameters += _options(nouns[parameter.name])
        else:
            parameters.append(
                parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY),
            )

    def run(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in nouns.items()
        }
        as_json = any(getattr(noun, "as_json", False) for noun in made.values())
        asking = next((noun for noun in made.values() if hasattr(noun, "store")), None)
        said = "interrupted" if asking is None else interrupted(asking.store)
        ledger = functools.partial(getattr, asking, "ledger", None)
        # A server that failed may answer another time; a file or a function says the same again.
        served = str(given.get("source", "")).startswith(("http://", "https://"))
        rest = going_on(asking.store) if served and asking is not None else ""
        with _only_results(), clear_errors(as_json, said, ledger, rest), _warnings_as_notes():
            function(**given, **made)

    functools.update_wrapper(run, function)
    del run.__wrapped__  # type: ignore[attr-defined]  # typer would look through it, past the options
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    for parameter in parameters:
        _name_value(parameter)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    name = function.__name__.strip("_")
    if home is None:
        home = homes[name] = typer.Typer(add_completion=False)
    home.command(name=name, cls=_Command)(run)
    return function


def _name_value(parameter: inspect.Parameter) -> None:
    """Give an option without a `metavar` one in the words of the command line, an argument its name in capitals."""
    kind, *more = get_args(parameter.annotation) or (parameter.annotation,)
    plain = next((each for each in get_args(kind) if each is not type(None)), kind)
    for each in more:
        if isinstance(each, typer.models.ArgumentInfo) and each.metavar is None:
            each.metavar = parameter.name.upper()
        elif isinstance(each, typer.models.OptionInfo) and each.metavar is None:
            each.metavar = PLACEHOLDERS.get(plain)


def _options(noun: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(noun, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(noun)
    ]


@contextmanager
def _only_results() -> Iterator[None]:
    """What a model or a library prints goes to stderr: stdout is for `results`, and may be somebody's JSON."""
    before = _stdout.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.reset(before)


def results() -> TextIO:
    """Where the result of a command is written."""
    return _stdout.get() or sys.stdout


@contextmanager
def clear_errors(
    as_json: bool = False,
    said: str = "interrupted",
    counted: Callable[[], Any] = lambda: None,
    rest: str = "",
) -> Iterator[None]:
    """Turn what can go wrong outside the program into one line on stderr and an exit code; let bugs show themselves.

    Args:
        as_json: Whether whoever called reads JSON: then the cause and the code stand on stdout as well.
        said: What Ctrl-C ends with.
        counted: Gives the ledger of the model that was asked, if one was.
        rest: What becomes of the answers that a model gave before it failed.
    """
    _end = functools.partial(_ended, as_json=as_json, counted=counted)
    try:
        yield
    except BrokenPipeError:
        raise
    except DiskFull as error:
        _end(error, exit_code(error))
    except (BadInput, StoreError) as error:
        _end(error, USAGE)
    except UnveilError as error:
        failed = isinstance(error, SourceError) and not isinstance(error, NOT_FAILED)
        _end(f"{error}; {rest}" if failed and rest and counted() is not None else error, exit_code(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("unveil"):
            raise
        _end(f"this needs the package {error.name}, which is not installed", USAGE)
    except OSError as error:
        if error.errno in FULL:
            _end(f"{error.strerror}: {error.filename or 'no file is named'}", DISK)
        _end(f"{error.strerror or error}: {error.filename}" if error.filename else error, USAGE)
    except MemoryError as error:
        _end(f"not enough memory ({error or 'no details'}); use fewer inputs or a smaller budget", INCOMPLETE)
    except KeyboardInterrupt:
        _end(said, INTERRUPTED)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """What the library warns of is a note here, without the line of code it came from."""

    def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            typer.echo(f"Note: {printable(in_options(str(message)), longest=2000)}.", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = note
        yield


def interrupted(store: Path | None, page: Path | None = None) -> str:
    """What Ctrl-C ends with, and how to go on.

    Args:
        store: Where answers are kept.
        page: The page that tells what was found by then.
    """
    found = "" if page is None else f"; what was found is in {page}"
    return f"interrupted{found}; {going_on(store)}"


def going_on(store: Path | None) -> str:
    """What became of the answers that had come before a command ended, and how to go on.

    Args:
        store: Where answers are kept.
    """
    if store is not None:
        return f"every answer is kept in {store}, and the same command goes on from there"
    return "answers were not kept: with --store FILE the same command would go on"


def _ended(error: object, code: int, as_json: bool, counted: Callable[[], Any]) -> None:
    text = printable(in_options(str(error)), longest=2000)
    typer.echo(f"unveil: {text}", err=True)
    try:
        if as_json:
            from unveil.audit.figures import plain

            status = ending(error).status if isinstance(error, UnveilError) else Status.not_measured
            ledger = counted()
            sent = getattr(error, "sent", None) if ledger is None else ledger.sent
            told = {"status": status.name, "exit_code": code, "causes": [text]} | (
                {} if sent is None else {"sent": sent}
            )
            typer.echo(json.dumps(plain(told), indent=2, allow_nan=False), file=results())
        results().flush()
    except OSError:
        # Nor does stdout take this: what it still holds goes nowhere, or Python would try once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), results().fileno())
    raise typer.Exit(code)
