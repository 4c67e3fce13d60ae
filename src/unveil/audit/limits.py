"""What an audit did not try, and what no audit by asking can know: in the words of whoever reads the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unveil.audit.stages import STAGES

_KINDS = {
    "--defences": "whether rounding, fewer digits or labels would hide anything (--defences)",
    "--identify": "whether weights can be read off the answers (--identify)",
    "--weights": "what its features forget and how well inputs come back from them, which needs the weights "
    "(--weights)",
}


def untried(keys: Collection[str], figures: Mapping[str, Any]) -> tuple[str, ...]:
    """What was not tried, one clause each.

    Args:
        keys: Of the sections that there are.
        figures: Of the page.
    """
    flags = {stage.flag for stage in STAGES if stage.flag and stage.key not in keys}
    done = {stage.flag for stage in STAGES if stage.flag and stage.key in keys}
    told = [_KINDS[flag] for flag in sorted(flags - done) if flag in _KINDS]
    oracle = figures.get("oracle", {})
    if oracle.get("within") is not None:
        told.append("inputs outside the range that was given as legal")
    if "inputs" not in oracle:
        told.append("inputs of its actual use: no examples were given, points were drawn at random (--inputs)")
    return (*told, "what it was trained on, and whether a given record was among it (membership inference)")


UNKNOWABLE = (
    "Answers show what the model does where it was asked. A direction, a neuron or a rule that only rare inputs wake "
    "can "
    "have stayed unseen; how rare, is stated with each finding as far as it was measured.",
    "An attack that did not succeed is no proof that none would. Only what was found is certain.",
    "Severity tells what an attacker with answers gains, not what your model is worth, nor who may ask it.",
)
