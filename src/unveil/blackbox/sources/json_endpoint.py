"""Any endpoint that takes and gives JSON, described by a small template."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown as for_a_line
from unveil.blackbox.source import Questions, float_dtype
from unveil.blackbox.sources.named_scores import NamedScores, without_quotes
from unveil.blackbox.sources.open_inference import JSON_NUMBER, numbers, parse
from unveil.blackbox.sources.wire import Reply, Wire
from unveil.outcome import BadInput, SourceError

QUESTIONS_MARK, ONE = "$questions", "$question"


@dataclass(frozen=True)
class JsonEndpoint:
    """Where the questions go and where the answers are.

    Attributes:
        request: Where the questions go: a JSON pointer ("/instances"), or a JSON text in which the string "$questions"
            stands for a list of questions or "$question" for a single one (then every request asks one). Where each
            number has a field of its own, the field's names stand there: {"$question": ["age", "weight"]} becomes
            {"age": 41.5, "weight": 70.2}, beside what else the object holds, and with "$questions" the list of these.
        answer: Where the answers are, a JSON pointer ("/predictions"; "" for the whole reply). "*" stands for every
            element of a list: "/data/*/scores"; elements that tell their `index` are put in that order. Pairs of a
            label and a score, and objects {label: score}, are matched by name whatever their order.
        datatype: "FP64" or "FP32": the precision the endpoint computes in. "INT64": it takes whole numbers.

    Examples:
        >>> endpoint = uv.JsonEndpoint("/instances", "/predictions/scores")
        >>> endpoint.request, endpoint.answer
        ('/instances', '/predictions/scores')
    """

    request: str
    answer: str = ""
    datatype: str = "FP64"

    def __post_init__(self) -> None:
        if self.datatype not in ("FP64", "FP32", "INT64"):
            raise BadInput(f"datatype must be FP64, FP32 or INT64; got {self.datatype!r}")
        if self.answer and not self.answer.startswith("/"):
            raise BadInput(f'--answer must be a JSON pointer such as /predictions, or "" for all; got {self.answer!r}')
        marks = _marks(self.template())
        if len(marks) != 1:
            raise BadInput(
                f'the request must hold "{QUESTIONS_MARK}" or "{ONE}" once, for instance '
                f'{{"instances": "{QUESTIONS_MARK}"}}, or the names of one question\'s fields: '
                f'{{"{ONE}": ["age", "weight"]}}'
            )
        if len(set(marks[0][1])) < len(marks[0][1]):
            raise BadInput(f'the names of "{marks[0][0]}" must differ')

    def template(self) -> Any:
        """The request with its placeholder."""
        if self.request.startswith("/"):
            filled: Any = QUESTIONS_MARK
            for part in reversed(_parts(self.request)):
                filled = {part: filled}
            return filled
        try:
            return json.loads(self.request)
        except (ValueError, RecursionError):
            raise BadInput("the request must be a JSON pointer such as /instances, or a JSON text") from None

    def open(self, wire: Wire, shape: tuple[int, ...] | None) -> JsonTalk:
        """Nothing is asked: such an endpoint has no metadata.

        Raises:
            BadInput: No shape, or not one name for each number.
        """
        [(_, names)] = _marks(self.template())
        if shape is None and not names:
            raise BadInput(f"{wire.shown} cannot tell the shape of its input: pass shape=784 (--shape 784)")
        shape = (len(names),) if shape is None else shape
        if names and math.prod(shape) != len(names):
            raise BadInput(f"a question has {math.prod(shape)} numbers, and the request names {len(names)} fields")
        return JsonTalk(wire.url, wire.shown, shape, self, self.template())


@dataclass(frozen=True)
class JsonTalk:
    """Questions into JSON, JSON into answers."""

    url: str
    shown: str
    shape: tuple[int, ...]
    endpoint: JsonEndpoint
    template: Any
    named: NamedScores = field(default_factory=NamedScores)

    @property
    def classes(self) -> dict[int, str] | None:
        """The name of each output, where the endpoint told names."""
        return None if self.named.names is None else dict(enumerate(self.named.names))

    @property
    def grid(self) -> float | None:
        """1 where whole numbers are asked."""
        return 1.0 if self.endpoint.datatype == "INT64" else None

    @property
    def rows(self) -> int | None:
        return 1 if _marks(self.template)[0][0] == ONE else None

    @property
    def dtype(self) -> np.dtype[np.floating]:
        return float_dtype(np.float32 if self.endpoint.datatype == "FP32" else np.float64)

    @property
    def question_bytes(self) -> int:
        return math.prod(self.shape) * JSON_NUMBER

    @property
    def about(self) -> str:
        # The template may hold a key: only its digest leaves this object.
        text = f"{self.endpoint.request}\0{self.endpoint.answer}\0{self.endpoint.datatype}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def encode(self, x: Questions, number: str) -> tuple[dict[str, str], bytes]:
        """Headers and body."""
        named = bool(_marks(self.template)[0][1])
        questions = x if named else x.reshape(len(x), *self.shape)
        if self.grid:
            if (questions != np.round(questions)).any():
                raise BadInput(f"{self.shown} takes whole numbers; pass grid=1 and within=(low, high)")
            questions = questions.astype(np.int64)
        data = questions.tolist()
        filled = _filled(self.template, data if self.rows is None else data[0])
        return {"Content-Type": "application/json", "Accept": "application/json"}, json.dumps(filled).encode()

    def decode(self, reply: Reply, count: int, number: str) -> np.ndarray:
        """`count` rows of answers.

        Raises:
            SourceError: There is nothing at the pointer, or not one row of numbers per question.
        """
        found = without_quotes(self._found(parse(reply.body, self.shown), _parts(self.endpoint.answer)))
        named = self.named.read(found, count, self.shown)
        if named is not None:
            return named.astype(np.float32) if named.dtype.kind == "f" and self.endpoint.datatype == "FP32" else named
        self._refuse_parts(found)
        y = np.atleast_1d(np.array(found)) if _is_names(found) else numbers(found, self.shown)
        if self.rows == 1 and (y.ndim == 0 or len(y) != 1 or y.ndim == 1):
            y = y.reshape(1, -1)
        if y.ndim == 0 or len(y) != count or y.size == 0:
            raise SourceError(f"{self.shown} answered {count} questions with shape {y.shape}; expected ({count}, m)")
        y = y.reshape(count, -1)
        return y.astype(np.float32) if y.dtype.kind == "f" and self.endpoint.datatype == "FP32" else y

    def _refuse_parts(self, found: Any) -> None:
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, dict):
            told = ", ".join(sorted(map(repr, first))[:8])[:200]
            where = f"{self.endpoint.answer}/*" if isinstance(found, list) else self.endpoint.answer
            raise SourceError(
                f"{self.shown} answers with {told}; say which of it holds the answers: --answer {where}/NAME, or with "
                "--api --output NAME"
            )

    def _found(self, value: Any, parts: list[str]) -> Any:
        for depth, part in enumerate(parts):
            if part == "*" and isinstance(value, list):
                value = _in_order(value)
                return [self._found(item, parts[depth + 1 :]) for item in value]
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                there = _told(value)
                raise SourceError(
                    f"{self.shown}: nothing at {self.endpoint.answer!r} in the answer (no {part!r}; there is {there}); "
                    "correct --answer"
                )
        return value


def _told(value: Any) -> str:
    """What is there instead of the answers: names, with the text of those that hold one, such as an error."""
    if not isinstance(value, dict):
        return for_a_line(str(value), 60)
    names = (repr(key) + (f": {item!r}" if isinstance(item, str) else "") for key, item in sorted(value.items())[:8])
    return for_a_line(", ".join(names), 200)


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _in_order(items: list[Any]) -> list[Any]:
    """Items that tell their place, in that order."""
    at = {item["index"]: item for item in items if isinstance(item, dict) and type(item.get("index")) is int}
    return [at[place] for place in range(len(items))] if set(at) == set(range(len(items))) else items


def _is_names(found: Any) -> bool:
    return isinstance(found, str) or (
        isinstance(found, list) and bool(found) and all(isinstance(v, str) for v in found)
    )


def _marks(template: Any) -> list[tuple[str, list[str]]]:
    """Every placeholder in a template, and the names of the fields it stands for (none: a list of numbers)."""
    if isinstance(template, dict):
        mark = _named(template)
        beside = [found for key, value in template.items() if key != mark for found in _marks(value)]
        return beside if mark is None else [(mark, template[mark]), *beside]
    if isinstance(template, list):
        return [found for value in template for found in _marks(value)]
    return [(template, [])] if isinstance(template, str) and template in (QUESTIONS_MARK, ONE) else []


def _named(template: dict[str, Any]) -> str | None:
    """The placeholder that is a key of this object, with the names of a question's fields."""
    return next(
        (mark for mark in (QUESTIONS_MARK, ONE) if isinstance(template.get(mark), list) and _is_names(template[mark])),
        None,
    )


def _filled(template: Any, data: Any) -> Any:
    if isinstance(template, dict):
        mark = _named(template)
        if mark is None:
            return {key: _filled(value, data) for key, value in template.items()}
        beside = {key: value for key, value in template.items() if key != mark}
        records = [beside | dict(zip(template[mark], row, strict=True)) for row in ([data] if mark == ONE else data)]
        return records[0] if mark == ONE else records
    if isinstance(template, list):
        return [_filled(value, data) for value in template]
    return data if isinstance(template, str) and template in (QUESTIONS_MARK, ONE) else template
