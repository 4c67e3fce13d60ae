"""The house stays readable: no file over 400 lines, no function whose statements take more than 60."""

from __future__ import annotations

import ast
from pathlib import Path

import unveil

ROOT = Path(unveil.__file__).parent
LINES, STATEMENTS = 400, 60


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring left out."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        body = body[1:]
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def test_files_and_functions_are_short_enough_to_be_read() -> None:
    files, functions = 0, 0
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        files += 1
        assert text.count("\n") <= LINES, f"{name} is longer than {LINES} lines: is a noun missing?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                assert statements(node) <= STATEMENTS, f"{name}:{node.lineno} {node.name} does more than one thing"
    assert files > 100 < functions
