"""The face: light to import, and every public name is where it says it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import typer

import unveil
from unveil.cli import program

HEAVY = ["torch", "onnx", "onnxruntime", "matplotlib", "sklearn", "dask", "httpx", "scipy.optimize"]


def printed_by(code: str) -> list[str]:
    """What `code` prints as JSON in a process of its own, which finds the package where this one did."""
    path = os.pathsep.join([str(Path(unveil.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: list[str] = json.loads(done.stdout)
    return told


def test_import_takes_nothing_heavy() -> None:
    code = f"import sys, json, unveil; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert printed_by(code) == []


def test_asking_a_function_takes_no_framework() -> None:
    code = (
        "import sys, json, unveil; o = unveil.as_oracle(lambda x: x.sum(1), 3); o([[1., 2., 3.]]);"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert printed_by(code) == []


def test_deciding_preimages_takes_nothing_heavy() -> None:
    """Every worker process imports what decides."""
    code = (
        "import sys, json, numpy as np, unveil\n"
        "net = unveil.Network.from_weights([(np.eye(3)[:2], np.zeros(2))], last='relu')\n"
        "assert unveil.preimage(net, np.ones(3)).kind == 'infinite'\n"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert printed_by(code) == []


def test_the_command_line_s_help_takes_no_arithmetic() -> None:
    code = (
        "import sys, json\nfrom typer.testing import CliRunner\nfrom unveil.cli import app\n"
        "for words in (['--help'], ['span', '--help']):\n"
        "    done = CliRunner().invoke(app, words); assert done.exit_code == 0, done.output\n"
        f"print(json.dumps([m for m in {[*HEAVY, 'numpy', 'jaxtyping']} if m in sys.modules]))"
    )
    assert printed_by(code) == []


def test_the_program_says_of_each_command_what_the_command_says_of_itself() -> None:
    files = {path.stem for path in Path(program.__file__).parent.glob("*.py") if "\n@command\n" in path.read_text()}
    assert files | {"store"} == {file for file, _ in program.COMMANDS.values()}
    made = typer.main.get_command(program.app)
    for name, (_, said) in program.COMMANDS.items():
        one = made.commands[name]  # type: ignore[attr-defined]
        assert one.name == name
        assert one.help.split("\n")[0] == said


def test_every_public_name_exists() -> None:
    for name, module in unveil._PUBLIC.items():
        assert getattr(unveil, name).__module__.startswith(f"unveil.{module.split('.')[0]}"), name
    assert set(unveil._PUBLIC) <= set(dir(unveil))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(unveil.__file__).read_text())
    shown = {
        alias.asname: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == {name: f"unveil.{module}" for name, module in unveil._PUBLIC.items()}
