"""The house stays readable: short files and functions, constants of one value, arrays with their shapes."""

from __future__ import annotations

import ast
from pathlib import Path

import unveil

ROOT = Path(unveil.__file__).parent
LINES, STATEMENTS = 400, 60
SHAPED = ("Float", "Int", "Bool", "Num", "Shaped", "Complex", "Inexact", "Integer")


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


def constants(tree: ast.Module) -> list[tuple[str, str]]:
    """Public constants of a module, and what they are set to."""
    out = []
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            named = list(target.elts) if isinstance(target, ast.Tuple) else [target]
            apart = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            values = node.value.elts if apart else [node.value] * len(named)
            pairs = zip(named, values, strict=True)
            out += [(each.id, ast.unparse(value)) for each, value in pairs if isinstance(each, ast.Name)]
    return [(name, value) for name, value in out if name.isupper() and not name.startswith("_")]


def test_a_constant_has_one_value_wherever_it_stands() -> None:
    values: dict[str, dict[str, str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for name, value in constants(ast.parse(path.read_text(encoding="utf-8"))):
            values.setdefault(name, {})[str(path.relative_to(ROOT))] = value
    assert len(values) > 1000
    several = {name: where for name, where in values.items() if len(set(where.values())) > 1}
    assert not several, "no two values under one name"


def bare_arrays(annotation: ast.expr) -> bool:
    """Whether an array without a shape stands in an annotation; what a function handed over takes may be one."""
    if isinstance(annotation, ast.Attribute):
        return ast.unparse(annotation) == "np.ndarray"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Callable", *SHAPED):
        return False
    return any(bare_arrays(child) for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr))


def test_arrays_that_a_method_hands_on_have_shapes() -> None:
    shaped, bare = 0, []
    for path in sorted((ROOT / "identification").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rooms = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for function in (node for room in rooms for node in room.body if isinstance(node, ast.FunctionDef)):
            for given in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
                if given.annotation is not None and "np.ndarray" in ast.unparse(given.annotation):
                    shaped += 1
                    if bare_arrays(given.annotation):
                        bare.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}({given.arg})")
    assert shaped > 800
    assert not bare, "say what the dimensions are: Float[np.ndarray, 'N n']"
