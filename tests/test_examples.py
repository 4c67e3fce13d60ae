"""The examples in the docstrings of the face are executed: `>>>` lines of every public function and class."""

from __future__ import annotations

import doctest
import importlib.util
import inspect

import numpy as np
import pytest

import unveil as uv

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NEEDS = {"from_torch": "torch", "to_torch": "torch", "from_sklearn": "sklearn", "active_subspace": "sklearn",
         "ActiveSubspace": "sklearn"}  # fmt: skip


def examples(name: str) -> list[doctest.DocTest]:
    """Of a public name and of its methods."""
    found = doctest.DocTestFinder(recurse=True).find(getattr(uv, name), name, globs={"uv": uv, "np": np})
    return [each for each in found if each.examples]


def is_error(name: str) -> bool:
    thing = getattr(uv, name)
    return inspect.isclass(thing) and issubclass(thing, Exception)


@pytest.mark.parametrize("name", sorted(uv._PUBLIC))
def test_examples_run(name: str) -> None:
    """They suppose `import numpy as np` and `import unveil as uv`, as the API's page says."""
    tests = examples(name)
    assert tests or is_error(name), f"{name} has no example"
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    for test in tests:
        told: list[str] = []
        failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
        assert not failed, "".join(told)
