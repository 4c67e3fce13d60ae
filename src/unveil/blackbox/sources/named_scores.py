"""Answers that name their classes: pairs of a label and a score, matched by name whatever their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.outcome import SourceError

LABEL_KEYS = ("label", "class", "class_name", "className", "name", "category", "predicted_label")
SCORE_KEYS = ("score", "scores", "probability", "confidence", "value", "prob", "logit")
NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)|nan", re.IGNORECASE)


@dataclass
class NamedScores:
    """The names seen in the first answer; every later one must have the same.

    Attributes:
        names: In the order of the columns: sorted, numbers in them as numbers. None as long as none were seen.
    """

    names: tuple[str, ...] | None = None

    def read(self, found: Any, count: int, source: str) -> np.ndarray | None:
        """The scores of `count` questions, one column per name; of single pairs the labels.

        Args:
            found: What came.
            count: How many questions were asked.
            source: Whom to blame.

        Returns:
            (count, classes) numbers, (count, 1) labels, or None if `found` names nothing.

        Raises:
            SourceError: Names that are missing, new or told twice, or scores that are no numbers.
        """
        if isinstance(found, dict):
            found = [found]
        if not isinstance(found, list) or not found or not all(isinstance(item, dict | list) for item in found):
            return None
        if len(found) == 1 and count > 1 and isinstance(found[0], list):
            found = found[0]  # one list of questions around everything
        if count == 1 and len(found) > 1 and all(_pair(item) for item in found):
            found = [found]  # one question, its pairs not wrapped
        if len(found) == count and all(_pair(item) for item in found):
            return np.array([[_label(item)] for item in found])
        rows = [_row(item) for item in found]
        if any(row is None for row in rows) or len(rows) != count:
            return None
        return np.array([self._matched(row, source) for row in rows if row is not None], dtype=np.float64)

    def _matched(self, row: list[tuple[str, Any]], source: str) -> list[float]:
        told = dict(row)
        names = tuple(sorted(told, key=_natural))
        if self.names is None:
            self.names = names
        if names != self.names or len(told) < len(row):
            missing, new = sorted(set(self.names) - set(names)), sorted(set(names) - set(self.names))
            what = f"without {missing[0]!r:.40}" if missing else f"with {new[0]!r:.40}" if new else "with a class twice"
            raise SourceError(
                f"{source} named {len(self.names)} classes first and now answers {what}: it tells only the largest "
                "scores; ask it for those of all classes (top_k), or for labels: --answer .../0/label"
            )
        values = [number_in(told[name]) for name in self.names]
        if any(value is None for value in values):
            raise SourceError(f"{source} gives {shown(str(told), 100)}, whose scores are no numbers")
        return [float(value) for value in values if value is not None]


def number_in(value: Any) -> float | None:
    """A number, or a text that is one; null, which many servers write for NaN, is NaN."""
    if value is None:
        return float("nan")
    if isinstance(value, str):
        return float(value) if NUMBER_PATTERN.fullmatch(value.strip()) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def without_quotes(found: Any) -> Any:
    """Nested lists whose every entry is a text that is a number, as numbers; all else as it is."""
    entries = _entries(found)
    if not entries or not all(isinstance(entry, str) and NUMBER_PATTERN.fullmatch(entry.strip()) for entry in entries):
        return found
    kind = int if all(re.fullmatch(r"[+-]?\d{1,18}", entry.strip()) for entry in entries) else float
    return _mapped(found, kind)


def _entries(found: Any) -> list[Any]:
    if isinstance(found, list):
        return [entry for item in found for entry in _entries(item)]
    return [found]


def _mapped(found: Any, kind: type[int] | type[float]) -> Any:
    return [_mapped(item, kind) for item in found] if isinstance(found, list) else kind(found)


def _pair(item: Any) -> bool:
    """Whether this is one label, perhaps with its score."""
    return isinstance(item, dict) and any(isinstance(item.get(key), str | int) for key in LABEL_KEYS)


def _label(item: dict[str, Any]) -> Any:
    return next(item[key] for key in LABEL_KEYS if isinstance(item.get(key), str | int))


def _row(item: Any) -> list[tuple[str, Any]] | None:
    """The names and scores of one question; None if this is something else."""
    if isinstance(item, list) and item and all(_pair(pair) for pair in item):
        return [(str(_label(pair)), next((pair[key] for key in SCORE_KEYS if key in pair), "?")) for pair in item]
    if not isinstance(item, dict) or not item:
        return None
    labels = next((item[key] for key in ("labels", "classes") if isinstance(item.get(key), list)), None)
    scores = next((item[key] for key in (*SCORE_KEYS, "probabilities") if isinstance(item.get(key), list)), None)
    if labels is not None and scores is not None and len(labels) == len(scores):
        return list(zip(map(str, labels), scores, strict=True))
    if all(number_in(value) is not None for value in item.values()):
        return [(str(name), value) for name, value in item.items()]
    return None


def _natural(name: str) -> list[tuple[int, str]]:
    """LABEL_2 before LABEL_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
