"""Audit and Stage: what is looked at, one finding after the other."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unveil.audit.provenance import Provenance
from unveil.audit.section import Section
from unveil.audit.severity import Tariff
from unveil.blackbox.answers import missing
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.wrappers import Affine
from unveil.outcome import BadInput

KNOWN_QUESTIONS_AGAIN = 4.0  # known questions asked again in the end
HOPE = 0.25  # of what a stage is likely to ask: with less it hardly finds anything, and nothing is kept for it
LOOK = 64  # questions asked to see what answers look like and how long they take


@dataclass
class Audit:
    """What the stages of an audit share: the model, the examples, and what has been found so far.

    Attributes:
        oracle: The model.
        inputs: Example inputs, (N, n), legal; None if there are none.
        labels: What the examples show, or None.
        seed: Where chance starts; `rng(key)` gives a stage its own generator.
        path: Where the model came from, as one would write it in a script; for the checks on the page.
        names: Of the inputs, (n,), where the examples came with names: a table. See `standardise`.
        units: (n,) what one step of each input of a table is, in the model's own units; None if they are these.
        folder: Where the page will be: the lines that check it name the model from there.
        findings: What stages leave for later ones, by key: `span` a RowSpan, `noise` a NoiseModel...
        seconds: Time of one question in a batch, as measured by `look`.
        tested: What is tested, when and how; None if only the model's name is known.
        tariff: What asking costs whoever asks.
        planned: Keys of the stages that are run.
    """

    oracle: Oracle
    inputs: Float[np.ndarray, "N n"] | None = None
    labels: Int[np.ndarray, " N"] | None = None
    seed: int = 0
    path: str = ""
    names: tuple[str, ...] = ()
    units: Float[np.ndarray, " n"] | None = None
    folder: Path = Path()
    findings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    tested: Provenance | None = None
    tariff: Tariff = field(default_factory=Tariff)
    planned: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.inputs is not None and (self.inputs.ndim != 2 or self.inputs.shape[1] != self.oracle.n):
            raise BadInput(f"inputs must have shape (N, {self.oracle.n}); got {self.inputs.shape}")
        if self.inputs is not None and not len(self.inputs):
            raise BadInput("inputs has no rows; pass at least one input, or None for random ones")
        if self.inputs is not None and not np.isfinite(self.inputs).all():
            raise BadInput("inputs must be finite: leave out rows with NaN or infinity, or fill them in")

    def standardise(self) -> None:
        """Ask a table's model in standard deviations of the examples, from their mean.

        Columns of a table have units of their own (years, square metres): a random point or a step of one size in all
        of them is like nothing that the model was made for. With a legal step there are no other units.
        """
        if not self.names or self.inputs is None or self.oracle.grid is not None or isinstance(self.oracle, Affine):
            return
        middle, spread = self.inputs.mean(axis=0), self.inputs.std(axis=0)
        self.units = np.where(spread > 0, spread, 1.0)
        self.oracle = Affine(self.oracle, mean=-middle / self.units, deviation=1 / self.units)
        self.inputs = self.oracle.nearest((self.inputs - middle) / self.units)

    def rng(self, key: str) -> np.random.Generator:
        """A generator for one stage: a stage more or less leaves the draws of the others as they are."""
        return np.random.default_rng([self.seed, zlib.crc32(key.encode())])

    def examples(self, most: int) -> Float[np.ndarray, "N n"]:
        """The example inputs, at most so many, or legal points where there are none."""
        if self.inputs is None:
            return self.oracle.sample(min(most, 16), self.rng("examples"))
        return self.inputs[:most]

    def look(self) -> None:
        """Ask a few questions to see what comes back, and how fast; leaves `seen`: the points and the answers.

        Points without an answer are left out.

        Queries: `64`, fewer if the budget has fewer left
        """
        asked = int(min(LOOK, self.oracle.ledger.left))
        x = self.oracle.sample(asked, self.rng("look"))
        before = time.perf_counter()
        y = self.oracle.answered(x)
        self.seconds = (time.perf_counter() - before) / max(asked, 1)
        there = ~missing(y)
        self.findings["seen"] = (x[there], y[there])


@dataclass(frozen=True)
class Stage:
    """One step of an audit.

    Attributes:
        key: One word: key of its section and name of its generator.
        title: What is going on, for the progress bar.
        run: Looks, asks, and tells; None if there is nothing to tell. Whatever later stages need goes to
            `audit.findings`.
        cost: Questions it will ask, guessed before: if a tenth of the input's directions matter, and the most it may
            ask. Without a budget it is ended there.
        flag: The option of `unveil audit` that asks for it, e.g. "--weights"; None if it always runs.
        help: One line for `unveil audit --help`.
    """

    key: str
    title: str
    run: Callable[[Audit], Section | None]
    cost: Callable[[Audit], tuple[float, float]] = lambda audit: (0, 0)
    flag: str | None = None
    help: str = ""


@dataclass(frozen=True)
class Estimate:
    """What an audit will ask, told before it is run.

    Attributes:
        stages: Of each stage that asks: title, questions it is likely to ask, and the most it may ask.
        budget: What the ledger still allows; infinite without a budget.
        each: Seconds a question takes.
    """

    stages: tuple[tuple[str, float, float], ...]
    budget: float
    each: float

    @property
    def likely(self) -> float:
        """Questions, if a tenth of the input's directions matter."""
        return min(sum(likely for _, likely, _ in self.stages), self.budget)

    @property
    def most(self) -> float:
        """The bound that `run` keeps: where a budget was set, that; else each stage's own, at which it is ended."""
        if math.isfinite(self.budget):
            return self.budget
        return sum(most for _, _, most in self.stages)


def estimate(audit: Audit, stages: Iterable[Stage]) -> Estimate:
    """What the stages will ask, and what they may ask at most, the known questions in the end among it."""
    chosen = list(stages)
    audit.planned = frozenset(stage.key for stage in chosen)
    costs = [(stage.title, stage.cost(audit)) for stage in chosen]
    costs.append(("Asking known questions again", (KNOWN_QUESTIONS_AGAIN, KNOWN_QUESTIONS_AGAIN)))
    asking = tuple((title, float(likely), float(most)) for title, (likely, most) in costs if most > 0)
    return Estimate(asking, float(audit.oracle.ledger.left), audit.seconds)


@contextmanager
def held(audit: Audit, stage: Stage, later: Iterable[Stage] = ()) -> Iterator[str]:
    """Ends a stage at its own limit, and gives what is said where that ended it; "" where it has all of the budget.

    Without a budget that is the most that it was said to ask. With one it leaves what those stages after it that were
    asked for by a flag are likely to ask, but has half of what is left in any case: else one that does not come to an
    end would take all. Nothing is kept for those that the other half would be of no use to.
    """
    ledger = audit.oracle.ledger
    whole = ledger.budget
    if whole is None:
        ledger.budget, limit = ledger.asked + math.ceil(stage.cost(audit)[1]), "limit of this step was reached"
    else:
        half = ledger.left / 2
        wanted = [each.cost(audit)[0] for each in later if each.flag]
        kept = math.floor(min(sum(one for one in wanted if HOPE * one <= half), half))
        ledger.budget, limit = whole - kept, "budget of this step ended" if kept else ""
    try:
        yield limit
    finally:
        ledger.budget = whole
