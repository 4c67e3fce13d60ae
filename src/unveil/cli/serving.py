"""The options for models behind a web address: `Serving` makes their source."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unveil.outcome import BadInput

if TYPE_CHECKING:
    from unveil.blackbox.sources.http import HttpSource

_PANEL = "Models behind a web address"


@dataclass(frozen=True)
class Serving:
    """How to speak to a server."""

    api: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What it speaks: tfserving, torchserve, openai:MODEL, huggingface, mlflow or sagemaker.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    request: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Where the questions go: a JSON pointer (/instances), or JSON with "$questions" or "$question" in it; '
            'for a server with named fields {"$question": ["age", "weight"]}.',
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="POINTER",
            help="Where the answers are in the reply, e.g. /predictions.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which output holds the answers, of a server, a file or a function with several.",
            show_default=False,
        ),
    ] = None
    datatype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="FP32 or FP64, if the server does not tell.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token to send; without it the environment variable UNVEIL_TOKEN is looked at.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    connections: Annotated[int, typer.Option(min=1, help="Requests under way at once.", rich_help_panel=_PANEL)] = 4
    batch: Annotated[int, typer.Option(min=1, help="Most questions in one request.", rich_help_panel=_PANEL)] = 256
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt.", rich_help_panel=_PANEL)] = 60.0
    retries: Annotated[int, typer.Option(min=0, help="Attempts after the first.", rich_help_panel=_PANEL)] = 6
    longest_wait: Annotated[
        float,
        typer.Option(help="Most seconds to wait where the server says how long (Retry-After).", rich_help_panel=_PANEL),
    ] = 120.0
    ask_again: Annotated[
        bool,
        typer.Option(
            "--ask-again",
            help="After a broken connection, ask again even though the question may be charged twice.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    retry_on: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS,..",
            help="Ask again after these statuses, too, e.g. 500; each attempt may be charged.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None

    def served(self, url: str, shape: tuple[int, ...] | None) -> HttpSource:
        """The source at an address."""
        from unveil.blackbox.sources.apis import endpoint_of
        from unveil.blackbox.sources.http import HttpSource
        from unveil.blackbox.sources.json_endpoint import JsonEndpoint
        from unveil.blackbox.sources.open_inference import OpenInference
        from unveil.blackbox.sources.wire_options import Token, WireOptions

        options = WireOptions(
            token=Token.from_environment() if self.token_file is None else Token.from_file(self.token_file),
            connections=self.connections,
            batch=self.batch,
            timeout=self.timeout,
            retries=self.retries,
            longest_wait=self.longest_wait,
            ask_again=self.ask_again,
            retry_on=_statuses(self.retry_on),
        )
        if self.api is not None:
            if self.request is not None:
                raise BadInput("--api says where the questions go; leave --request out")
            url, known = endpoint_of(self.api, url, self.output)
            known = replace(known, answer=known.answer if self.answer is None else self.answer)
            return HttpSource(url, shape, replace(known, datatype=self.datatype or known.datatype), options)
        if self.request is None and self.answer is None:
            return HttpSource(url, shape, OpenInference(output=self.output, datatype=self.datatype), options)
        if self.request is None or self.output is not None:
            raise BadInput("--answer goes with --request or --api, and --request without --output")
        speaks = JsonEndpoint(self.request, self.answer or "", self.datatype or "FP64")
        return HttpSource(url, shape, speaks, options)

    def refuse_unserved(self, source: str) -> None:
        """Say that these options mean nothing for a file or a function.

        Raises:
            BadInput: One of them was given.
        """
        given = [field.name for field in fields(Serving) if getattr(self, field.name) != field.default]
        given = [name for name in given if name != "output"]
        if given:
            raise BadInput(f"--{given[0].replace('_', '-')} is for models behind a web address; {source} is none")


def _statuses(text: str | None) -> tuple[int, ...]:
    """`500,502` as numbers."""
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise BadInput(f"--retry-on takes statuses with commas between them, such as 500,502; got {text!r}")
    return tuple(int(part) for part in parts)
