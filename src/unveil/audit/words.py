"""The words of the page: what each means, for its tooltips and its glossary."""

from __future__ import annotations

import re
from collections.abc import Callable

from markupsafe import Markup

TERMS = {
    "accuracy": "How far what was found can be from the truth: the sine of the largest angle between the two. 0 is "
    "exact; "
    "0.001 means that a thousandth of a step along a direction found can point elsewhere.",
    "active neuron": "A ReLU neuron whose input is positive: it passes on what it gets. The others give 0.",
    "basis": "Directions at right angles to each other, of length 1, of which every direction found is a mixture.",
    "condition number": "Largest singular value divided by the smallest: how many times larger an error can be on "
    "the way "
    "back than on the way there.",
    "confidence": "In how many of 100 repetitions a statement made this way would be true.",
    "direction": "A way of changing an input: some inputs up, others down, in fixed proportions.",
    "feature": "What a layer inside the network makes of an input.",
    "log-ratio": "The logarithm of one probability divided by another; the numbers a softmax is made of, up to a "
    "shift.",
    "noise floor": "The size below which a singular value could be rounding of the answers and nothing else.",
    "preimage": "All inputs that give the same features: one point, a bounded set (compact), or one without end "
    "(infinite).",
    "question": "One input for which an answer was asked. Many questions can go out in one request.",
    "rank": "How many directions, none of them a mixture of the others.",
    "row span": "All directions along which the first layer's weight vectors look; the model sees nothing else.",
    "singular value": "How strongly answers change along a direction, relative to the strongest one.",
    "softmax": "What turns scores into probabilities that add up to 1.",
    "spread": "The difference between the largest and the smallest answer that was seen.",
}


def anchor(term: str) -> str:
    """Where the glossary explains it."""
    return "word-" + re.sub(r"[^a-z]+", "-", term)


def marker(used: set[str]) -> Callable[..., Markup]:
    """`term(name, shown)` for templates: a link to the glossary with the meaning as a tooltip.

    Args:
        used: Gets every term that is marked, so that the glossary holds those and no others.
    """

    def term(name: str, shown: str = "") -> Markup:
        used.add(name)
        return Markup('<a class="term" href="#{}" title="{}">{}</a>').format(anchor(name), TERMS[name], shown or name)

    return term
