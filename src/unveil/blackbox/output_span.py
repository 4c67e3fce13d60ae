"""output_span: the hidden width behind the outputs and the span of the last layer's columns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, examples, generator
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.output_inputs import Inputs
from unveil.blackbox.output_search import Search
from unveil.blackbox.output_space import OutputSpan
from unveil.outcome import BadInput

MOST_INPUTS_ASKED = 4500
"""Inputs asked at most, unless told otherwise."""


def output_span(
    oracle: Oracle,
    x: Float[np.ndarray, "N n"] | None = None,
    *,
    rng: Randomness,
    most: int | None = None,
    known: Float[np.ndarray, "K a"] | None = None,
) -> OutputSpan:
    r"""Find the hidden width and the span of the last layer's columns from answers to any inputs.

    If the last layer is $W h + b$ with $h$ of width $d$ below the number of outputs, all answers lie in an affine space
    of dimension $d$, whatever made $h$. Inputs are asked until the singular values of the answers fall to what noise
    makes of them; then the answers to two further inputs must lie in the span. Behind a softmax the logarithms are
    taken, each answer centred. Equal answers count once.

    Args:
        oracle: Answers values or probabilities, more of them than the hidden width.
        x: Inputs to ask, any kind; by default `oracle.sample`. They are asked in random order, equal ones once.
        rng: A generator, or a seed. Draws inputs and their order.
        most: The largest number of inputs asked; by default all of x, or 4,500.
        known: Answers that the oracle gave before to inputs of the same kind; taken in first, and free.

    Returns:
        What was found by the time it ended; `outcome` and `why` say what the rank stands for.

    Raises:
        BadInput: The oracle answers labels, x has the wrong shape, or `most` is below 2.
        SourceError: The model failed.

    Queries: `rank + 8` to `rank + 10` where rounding is the only noise (fewer than two answers per dimension are ever
        needed otherwise, plus 64); `m + 13` at most where the rank is that of the outputs.

    Source: Carlini et al., arXiv:2403.06634; Finlayson, Ren, Swayamdipta, arXiv:2403.09539. The rank rule is our own.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> hidden, last = rng.standard_normal((4, 3)), rng.standard_normal((20, 4))
        >>> oracle = uv.as_oracle(lambda x: np.tanh(x @ hidden.T) @ last.T, shape=3)
        >>> span = uv.output_span(oracle, rng=rng)
        >>> span.rank, span.outcome.name
        (4, 'complete')
    """
    must_be_asked(oracle)
    rng = generator(rng)
    if oracle.answers == "labels":
        raise BadInput("output_span needs answers that are numbers; this oracle gives labels only")
    x = examples(x, oracle.n, least=2)
    if most is not None and most < 2:
        raise BadInput(f"most must be at least 2 inputs; got {most}")
    search = Search(oracle, Inputs(oracle, x, rng), MOST_INPUTS_ASKED if most is None and x is None else most, known)
    search.run()
    return search.result()
