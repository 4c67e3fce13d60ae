"""arguments: what a caller gives, as what it should be, or what is wrong with it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput

Randomness: TypeAlias = np.random.Generator | int


def as_numbers(value: object, what: str) -> Float[np.ndarray, "..."]:
    """An argument as an array of float64; `what` is how the caller calls it.

    Raises:
        BadInput: It holds what is no number, or rows of different lengths; or what numpy would drop without an error:
            an imaginary part, a mask, the unit of a date.
    """
    refused = ""
    try:
        given = np.asanyarray(value)
        if given.dtype.kind == "c":
            refused = "they are complex; pass .real, or both parts side by side"
        elif given.dtype.kind in "mM":
            refused = "they are dates or times; pass them as numbers in a unit of your choice"
        elif np.ma.is_masked(given):
            refused = "some are masked; leave these out, or fill them in"
        else:
            return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} must be numbers: {error}") from error
    raise BadInput(f"{what} must be real numbers: {refused}")


def vectors(x: object, n: int, what: str) -> Float[np.ndarray, "*N n"]:
    """An argument of n finite numbers, or of several rows of them, as float64.

    Raises:
        BadInput: Not numbers, another shape, NaN or infinity.
    """
    rows = as_numbers(x, what)
    if rows.ndim == 0 or rows.shape[-1] != n:
        flat = f"; pass them flattened, with .reshape(-1, {n})" if rows.ndim > 2 else ""
        raise BadInput(f"{what} must have shape ({n},) or (N, {n}); got {rows.shape}{flat}")
    if not np.isfinite(rows).all():
        raise BadInput(f"{what} must be finite: leave out rows with NaN or infinity, or fill them in")
    return rows


def examples(x: object, n: int, least: int = 1) -> Float[np.ndarray, "N n"] | None:
    """Example inputs `x=` as float64 rows of n numbers; None stays.

    Raises:
        BadInput: Not numbers, NaN or infinite ones, another shape, or fewer than `least` rows.
    """
    if x is None:
        return None
    rows = as_numbers(x, "x")
    if rows.ndim != 2 or rows.shape[1] != n or len(rows) < least:
        raise BadInput(f"x must have shape (N, {n}) with N >= {least}; got {rows.shape}")
    if not np.isfinite(rows).all():
        raise BadInput("x must be finite: leave out rows with NaN or infinity, or fill them in")
    return rows


def generator(rng: Randomness) -> np.random.Generator:
    """A generator as it is, or a new one from a seed.

    Raises:
        BadInput: It is neither.
    """
    try:
        # None would draw a seed that nobody can give again.
        return np.random.default_rng(rng if rng is not None else "nothing")
    except (TypeError, ValueError) as error:
        expected = "rng must be a numpy Generator or a seed, as in rng=np.random.default_rng(0) or rng=0"
        raise BadInput(f"{expected}, not {rng!r}") from error


def must_be(value: object, kind: type, what: str, advice: str) -> None:
    """Raises BadInput unless a value is of this kind; `what` names the kind, and `advice` says where one comes from."""
    if not isinstance(value, kind):
        raise BadInput(f"expected {what}, got {type(value).__name__}; {advice}")
