"""The two paths of docs/reading-the-code.md are what a run comes by, and are short enough to be followed."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_net, single

ROOT = Path(uv.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "reading-the-code.md"


def called(run: Callable[[], object]) -> dict[str, int]:
    """Lines of all functions that a run calls, file by file; those of nested functions count once."""
    codes = set()

    def seen(frame: object, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)  # type: ignore[attr-defined]

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(before)
    lines: dict[str, set[int]] = defaultdict(set)
    starts = defaultdict(set)
    for code in codes:
        if code.co_filename.startswith(str(ROOT)) and code.co_name != "<module>":
            starts[code.co_filename].add((code.co_name, code.co_firstlineno))
    for name, those in starts.items():
        for node in ast.walk(ast.parse(Path(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                if (node.name, first) in those:
                    lines[str(Path(name).relative_to(ROOT).as_posix())] |= set(range(node.lineno, node.end_lineno + 1))
    return {name: len(numbers) for name, numbers in lines.items() if numbers}


def listed(part: str) -> tuple[list[str], set[str]]:
    """The files of a path in order, and those beside it."""
    path, beside = part.split("Beside the path:")
    names = r"`((?:\w+/)+\w+\.py)`"
    return re.findall(r"^\d+\. " + names, path, re.MULTILINE), set(re.findall(names, beside))


@pytest.fixture(scope="module")
def model() -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(3)
    rows, bias, outer = rng.standard_normal((8, 20)) / 4, rng.standard_normal(8) / 2, rng.standard_normal((8, 1))
    return lambda x: np.maximum(x @ rows.T + bias, 0) @ outer


@pytest.mark.parametrize(
    ("verb", "files", "most", "below"),
    [(uv.row_span, 5, 700, "blackbox/span_search"), (uv.identify, 12, 2500, "identification")],
)
def test_a_run_comes_by_the_files_of_its_path(
    model: Callable[[np.ndarray], np.ndarray], verb: Callable[..., object], files: int, most: int, below: str
) -> None:
    part = PAGE.read_text(encoding="utf-8").split("\n## ")[1 + (verb is uv.identify)]
    path, beside = listed(part)
    assert len(path) == files
    assert all((ROOT / name).is_file() for name in {*path, *beside})
    oracle = uv.as_oracle(model, shape=20)
    found = called(lambda: verb(oracle, rng=np.random.default_rng(0)))
    unlisted = {name for name in found if name.startswith(below)} - {*path, *beside}
    assert not unlisted, f"a run comes by files that {PAGE.name} does not list"
    assert set(path) <= set(found)
    assert sum(found[name] for name in path) <= most


def test_deeper_layers_of_few_digits_are_read_in_three_files() -> None:
    rooms = ("behind_first_layer", "traced_layers", "hyperplane_tracing")
    exact = ("deeper_layers", "layer_from_points", "many_layers", "second_layer")
    part = PAGE.read_text(encoding="utf-8").split("\n## ")[3]
    assert all(f"{room}.py" in part for room in (*rooms, *exact))
    weights = single(random_weights((14, 10, 8, 6, 2), np.random.default_rng(0), bias=0.5))
    oracle = uv.as_oracle(relu_net(weights, np.float32), shape=14, budget=20_000)
    found = called(lambda: uv.CriticalPoints(attempts=1)(oracle, rng=np.random.default_rng(0)))
    lines = [found[f"identification/piecewise_linear/{room}.py"] for room in rooms]
    assert sum(lines) <= 700
    # None that is made for exact answers.
    assert not found.keys() & {f"identification/piecewise_linear/{room}.py" for room in exact}
