"""unveil store info and unveil store export: what a file of answers holds."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, require_fresh
from unveil.cli.options import Common
from unveil.cli.program import COMMANDS, Group, homes

group = homes["store"] = typer.Typer(
    cls=Group,
    help=COMMANDS["store"][1],
    no_args_is_help=True,
    add_completion=False,
)

StoreFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file made by --store.", show_default=False)]


@functools.partial(command, home=group)
def info(file: StoreFile, common: Common) -> None:
    """Say whose answers a file holds, and how many.

    Example: unveil store info answers.store
    """
    from unveil.blackbox.answer_file import AnswerFile

    held = AnswerFile(file, existing=True).info()
    each = held.bytes / held.answers if held.answers else 0.0
    common.tell(
        {**asdict(held), "bytes_per_answer": each},
        f"{held.answers:,} answers of {held.model or 'no model yet'}",
        f"{held.bytes:,} bytes, {each:.0f} an answer; begun {held.started} UTC",
        f"fingerprint: {held.fingerprint}",
    )


@functools.partial(command, home=group)
def export(
    file: StoreFile,
    common: Common,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write: .csv, .jsonl or .npz.", show_default=False)
    ],
    force: Force = False,
) -> None:
    """Write a file's keys and answers as CSV, JSON lines or NumPy arrays.

    The questions themselves are not kept, only their 16-byte keys (see docs/store.md).

    Example: unveil store export answers.store --out answers.csv
    """
    from unveil.blackbox.answer_export import export_answers
    from unveil.blackbox.answer_file import AnswerFile

    require_fresh(out, force, ".csv", ".jsonl", ".npz")
    count = export_answers(AnswerFile(file, existing=True), out)
    common.tell({"answers": count, "out": str(out)}, f"{count:,} answers written to {out}")
