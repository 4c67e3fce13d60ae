"""The program `unveil`: its commands by name, each imported when it is used, so that the program starts at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

from unveil.__main__ import interrupted

# Name, file and the first line of the help (a test compares it with the command's own), in the order of the story.
COMMANDS = {
    "audit": ("audit", "Ask a model what it gives away, and write it on one page."),
    "span": ("span", "Find the directions of the input that a model sees."),
    "outputs": ("outputs", "Find the hidden width that a model's outputs give away."),
    "obfuscate": ("obfuscate", "Bury inputs in noise that a model does not see."),
    "identify": ("identify", "Read the weights of a model off its answers."),
    "compare": ("compare", "Compare two networks up to the order, sign and scale of their neurons."),
    "preimage": (
        "preimage",
        "Tell for every example of which kind the inputs with the same features are: a point, compact or infinite.",
    ),
    "inputs": (
        "inputs_of",
        "Find inputs that give the outputs in a file, or prove that none in the box does.",
    ),
    "lookalike": (
        "lookalike",
        "Find an input near a target that has exactly the features of x, and ask the model in the file about both.",
    ),
    "stability": (
        "stability",
        "Tell how stable the way back from features to inputs is: singular values layer by layer.",
    ),
    "sensitivity": ("sensitivity", "Find the directions along which a simulator's answers change."),
    "plan": ("plan", "Choose all questions in advance, for a model that may not leave its room."),
    "conclude": (
        "conclude",
        "Find the directions a model sees from answers to planned questions, or tell what a table is good for.",
    ),
    "store": ("store", "Look into a file of stored answers."),
}

homes: dict[str, typer.Typer] = {}
"""What the files of the commands made, by the command's name: filled when a file is imported."""

_words: ContextVar[tuple[str, ...]] = ContextVar("words", default=())


class Group(typer.core.TyperGroup):
    """A group of commands whose `--help` takes no value."""

    def get_help_option(self, ctx: Any) -> Any:
        """Click's own, without the word for a value."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


class _Commands(Mapping[str, Any]):
    """The commands by name; each is imported when it is taken out."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            try:
                import_module(f"unveil.cli.{COMMANDS[name][0]}")
            except KeyboardInterrupt:
                interrupted()
            self._made[name] = typer.main.get_command(homes[name])
            self._made[name].name = name
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Program(Group):
    _named = False  # a command's name came first
    _telling = False  # the help is being written: it names the commands, and needs none of them

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._telling and cmd_name in COMMANDS:
            said = COMMANDS[cmd_name][1]
            return typer.core.TyperCommand(cmd_name, help=said, rich_markup_mode=self.rich_markup_mode)
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._names_only():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._names_only():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _names_only(self) -> Iterator[None]:
        self._telling = True
        try:
            yield
        finally:
            self._telling = False

    def get_params(self, ctx: Any) -> list[Any]:
        return [] if self._named else super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Kept for `command_line`; a page tells how it was made.
        _words.set(tuple(args))
        # Where a command's name comes first, the program's own options were not used. Checking their values all the
        # same would take the largest import of a start.
        self._named = bool(args) and args[0] in COMMANDS
        try:
            return list(super().parse_args(ctx, args))
        finally:
            self._named = False


app = typer.Typer(
    name="unveil",
    cls=_Program,
    help="What a neural network gives away: found by asking, told on one page.",
    epilog="Exit codes: 0 measured and checked, 1 failed its check or not measured, 2 bad usage or input, 3 the model "
    "failed, 4 the budget ended first, 5 approximate, 6 the disk is full, 7 more severe than --fail-on allows, "
    "130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from unveil.version import __version__

        typer.echo(f"unveil {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def command_line() -> tuple[str, ...]:
    """The words of the command that is running, without the program's name."""
    return _words.get()
