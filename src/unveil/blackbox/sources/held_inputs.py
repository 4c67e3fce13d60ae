"""Models that take several inputs: one is asked, the others are held constant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

from unveil.outcome import BadInput


class HeldInputs:
    """What a function or a module gets besides the question.

    Args:
        inputs: A value by the name of each input. `...` marks the one that is asked; without it that is the first one.
            A function among the values is called with the number of questions, for what depends on it (a recurrent
            state with the batch in its second axis, say). None holds nothing.
        function: What is called. If it has parameters of these names, they are passed by name; else it gets one
            dictionary, in which the input that is asked must be marked.
        name: What people call it.

    Raises:
        BadInput: More than one input is marked, or none where one dictionary is passed.
    """

    def __init__(self, inputs: Mapping[str, Any] | None, function: Callable[..., Any], name: str) -> None:
        inputs = {} if inputs is None else dict(inputs)
        asked = [key for key, value in inputs.items() if isinstance(value, EllipsisType)]
        if len(asked) > 1:
            raise BadInput(f"inputs= marks {', '.join(asked)} with ...; one input is asked, the others get values")
        self.asked = asked[0] if asked else None
        self.held = {key: value for key, value in inputs.items() if not isinstance(value, EllipsisType)}
        parameters = _parameters(function) if inputs else None
        self.by_name = parameters is None or set(inputs) <= parameters
        if not self.by_name and self.asked is None:
            raise BadInput(
                f"{name} has no parameter {', '.join(sorted(set(inputs) - (parameters or set())))}; if it takes one "
                'dictionary, mark what is asked with ...: inputs={"x": ..., "rate": 16000} (--fix x=... --fix '
                "rate=16000)"
            )

    def call(
        self,
        function: Callable[..., Any],
        question: Any,
        count: int,
        made: Callable[[Any], Any] = lambda value: value,
    ) -> Any:
        """What the function says to `count` questions.

        Args:
            function: What is called.
            question: All questions, as the function takes them.
            count: How many there are.
            made: Turns a value that is held into what the function takes.
        """
        if not self.held and self.asked is None:
            return function(question)
        held = {key: made(value(count) if callable(value) else value) for key, value in self.held.items()}
        if not self.by_name:
            return function({self.asked: question, **held})
        return function(question, **held) if self.asked is None else function(**{self.asked: question}, **held)


def _parameters(function: Callable[..., Any]) -> set[str] | None:
    """Names that may be passed; None where any name may, or that is unknown."""
    schema = getattr(getattr(function, "forward", None), "schema", None)
    if schema is not None:  # TorchScript
        return {argument.name for argument in schema.arguments}
    try:
        # A module's own __call__ takes everything and hands it on to `forward`.
        parameters = inspect.signature(getattr(function, "forward", function)).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {name for name, p in parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}


def refuse_inputs(inputs: Mapping[str, Any] | None, name: str) -> None:
    """Say that this source has one input.

    Raises:
        BadInput: Something was to be held constant.
    """
    if inputs:
        raise BadInput(
            f"inputs= (--fix) holds inputs of an ONNX file, a torch module or a function constant; {name:.80} is none"
        )
