"""What every test gets: a seeded generator whose seed is shown on failure, the data, checked shapes."""

from __future__ import annotations

import functools
import os
import sys
import typing
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from hypothesis import settings
from threadpoolctl import threadpool_limits

# Two pytest workers with two threads each would only wait for one another. How many threads is all that is set: the
# BLAS kernel stays the machine's, and a number somebody chose stays chosen.
if "PYTEST_XDIST_WORKER" in os.environ and not {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & set(os.environ):
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)

# The same examples every time, and no clocks: a busy machine must not fail a test.
settings.register_profile("unveil", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("unveil")


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A type checker that looks at arrays only: their shapes and kinds as the signature gives them.

    Other annotations are left to mypy, which, unlike a check at run time, lets an integer be a float. A function whose
    docstring says that it raises BadInput looks at its arguments itself, and tests want to see it do so.
    """
    scope = vars(typing) | getattr(function, "__globals__", {})
    kept = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, scope)
            except Exception:
                continue
        if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
            kept[name] = hint
    function.__annotations__ = kept
    checked = beartype(function) if kept else function

    name = (function.__module__, function.__qualname__)

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        if calls[name] >= OFTEN:
            stand_down(_real(*name))
        try:
            return checked(*args, **kwargs)
        except BeartypeCallHintViolation:
            # jaxtyping hands over stand-ins; the function they stand for has the docstring.
            real = _real(*name)
            if "BadInput" in (getattr(real, "__doc__", None) or ""):
                return function(*args, **kwargs)
            raise

    return check


def _real(module: str, qualname: str) -> Any:
    """What stands under this name: a function, a method or a property; None for what is local to a function."""
    real: Any = sys.modules.get(module)
    for part in qualname.split("."):
        real = getattr(real, part, None)
    return real


def stand_down(real: Any) -> None:
    """Check this function no more until the next test begins."""
    function = getattr(real, "fget", None) or getattr(real, "__func__", None) or real
    if hasattr(function, "__dict__") and hasattr(function, "__wrapped__"):
        function.__no_type_check__ = True
        unchecked.append(function)


# Checking costs more than many a small function itself: of each, the first calls of every test are checked.
OFTEN = 20
calls: Counter[tuple[str, str]] = Counter()
unchecked: list[Any] = []


@pytest.fixture(autouse=True)
def _shapes_are_checked_anew() -> None:
    calls.clear()
    while unchecked:
        unchecked.pop().__dict__.pop("__no_type_check__", None)


# Before any part of unveil is imported: its functions are then checked whenever a test calls them.
if os.environ.get("UNVEIL_CHECK_SHAPES", "1") != "0":
    jaxtyping.install_import_hook("unveil", "tests.conftest.check_shapes")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The test's seed: fixed by its name, or UNVEIL_SEED. Pytest shows it when the test fails."""
    chosen = int(os.environ.get("UNVEIL_SEED") or zlib.crc32(request.node.name.encode()) % 10_000)
    print(f"seed {chosen} (repeat with UNVEIL_SEED={chosen})")
    return chosen


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator seeded with `seed`."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data sets and third-party networks, UNVEIL_DATA; tests that need it are skipped without."""
    folder = os.environ.get("UNVEIL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNVEIL_DATA does not name a folder")
    return Path(folder)
