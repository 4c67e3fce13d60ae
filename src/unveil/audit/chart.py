"""Chart: points, lines and levels on plain or logarithmic axes, as SVG in the page's colours and width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from markupsafe import Markup

from unveil.audit.text import power, printable

Tone = Literal["ink", "accent", "quiet", "warm"]
_WIDE, _NARROW = (720.0, 300.0), (340.0, 270.0)


@dataclass(frozen=True)
class Chart:
    """What is drawn; every method returns a new chart with one thing more.

    Attributes:
        x: The range of the horizontal axis.
        y: The range of the vertical axis; positive if `log`.
        label: The whole chart in one sentence, for those who cannot see it.
        x_title: What runs to the right.
        y_title: What runs upwards; written above the axis.
        log: Whether the vertical axis is logarithmic.
        counted: Whether the horizontal axis counts something: then nothing is written between whole numbers.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    label: str
    x_title: str = ""
    y_title: str = ""
    log: bool = False
    counted: bool = False
    _parts: tuple[tuple[str, object], ...] = field(default=())

    def points(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, tone: Tone = "accent") -> Chart:
        """Dots."""
        return self._with("points", (np.asarray(x, float), np.asarray(y, float), tone))

    def line(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, tone: Tone = "accent") -> Chart:
        """A line through points."""
        return self._with("line", (np.asarray(x, float), np.asarray(y, float), tone))

    def level(self, y: float, text: str, tone: Tone = "quiet") -> Chart:
        """A dashed horizontal line with a text at its left end."""
        return self._with("level", (y, text, tone))

    def mark(self, x: float, text: str, tone: Tone = "ink") -> Chart:
        """A vertical line with a text at its top."""
        return self._with("mark", (x, text, tone))

    def shade(self, y_from: float, y_to: float) -> Chart:
        """A pale band between two heights."""
        return self._with("shade", (y_from, y_to))

    def _with(self, kind: str, what: object) -> Chart:
        return replace(self, _parts=(*self._parts, (kind, what)))

    def svg(self) -> Markup:
        """The chart twice, for wide and narrow screens; the page's style shows the one whose text is readable."""
        return Markup('<div class="chart wide">{}</div><div class="chart narrow">{}</div>').format(
            _Canvas(self, *_WIDE).draw(), _Canvas(self, *_NARROW).draw()
        )


class _Canvas:
    """One rendering of a chart at one size."""

    def __init__(self, chart: Chart, width: float, height: float) -> None:
        self.chart, self.width, self.height = chart, width, height
        self.left, self.right, self.top, self.bottom = 48.0, width - 14.0, 34.0, height - 42.0

    def across(self, x: float) -> float:
        low, high = self.chart.x
        return self.left + (self.right - self.left) * (x - low) / ((high - low) or 1.0)

    def up(self, y: float) -> float:
        low, high = self.chart.y
        if self.chart.log:
            low, high, y = math.log10(low), math.log10(high), math.log10(max(y, 1e-300))
        share = (y - low) / ((high - low) or 1.0)
        return self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0)

    def draw(self) -> Markup:
        parts = [self._axes()]
        # Bands lie under everything, texts over everything, whatever the order they were added in.
        order = {"shade": 0, "level": 1, "mark": 2, "line": 3, "points": 4}
        for kind, what in sorted(self.chart._parts, key=lambda part: order[part[0]]):
            parts.append(getattr(self, f"_{kind}")(*what))  # type: ignore[misc]
        return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, printable(self.chart.label), Markup("").join(parts)
        )

    def _axes(self) -> Markup:
        parts = []
        for value, text in self._ticks_up():
            y = self.up(value)
            parts.append(
                Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                    self.left, self.right, y, y
                )
            )
            parts.append(_text(self.left - 8, y + 4, text, "tick", "end"))
        for value in _ticks(*self.chart.x, 8 if self.width > 500 else 6, 1.0 if self.chart.counted else 0.0):
            parts.append(_text(self.across(value), self.bottom + 18, f"{value:g}", "tick", "middle"))
        parts.append(
            Markup('<line class="axis" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                self.left, self.right, self.bottom, self.bottom
            )
        )
        parts.append(_text(self.right, self.height - 6, self.chart.x_title, "title", "end"))
        parts.append(_text(self.left, 14, self.chart.y_title, "title", "start"))
        return Markup("").join(parts)

    def _ticks_up(self) -> list[tuple[float, str]]:
        low, high = self.chart.y
        if not self.chart.log:
            return [(value, f"{value:g}") for value in _ticks(low, high, 5)]
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        step = max(1, math.ceil((last - first + 1) / 6))
        return [(10.0**exponent, power(exponent)) for exponent in range(last, first - 1, -step)]

    def _points(self, x: np.ndarray, y: np.ndarray, tone: str) -> Markup:
        crowd = len(x) / (self.right - self.left)
        radius = 3.0 if crowd < 0.2 else 2.2 if crowd < 0.5 else 1.6
        return Markup('<g class="points {}">{}</g>').format(
            tone,
            Markup("").join(
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}"/>').format(self.across(a), self.up(b), radius)
                for a, b in self._thinned(x, y)
            ),
        )

    def _line(self, x: np.ndarray, y: np.ndarray, tone: str) -> Markup:
        path = " ".join(f"{self.across(a):.1f},{self.up(b):.1f}" for a, b in self._thinned(x, y))
        return Markup('<polyline class="line {}" points="{}"/>').format(tone, path)

    def _level(self, y: float, text: str, tone: str) -> Markup:
        height = self.up(y)
        return Markup('<line class="level {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>{}').format(
            tone, self.left, self.right, height, height, _text(self.left + 8, height - 8, text, f"note {tone}", "start")
        )

    def _mark(self, x: float, text: str, tone: str) -> Markup:
        place = self.across(x)
        anchor = "end" if place > (self.left + self.right) / 2 else "start"
        return Markup('<line class="mark {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>{}').format(
            tone,
            place,
            place,
            self.top - 6,
            self.bottom,
            _text(place + (-7 if anchor == "end" else 7), self.top + 4, text, f"note {tone}", anchor),
        )

    def _shade(self, y_from: float, y_to: float) -> Markup:
        high, low = sorted((self.up(y_from), self.up(y_to)))
        return Markup('<rect class="shade" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            self.left, high, self.right - self.left, low - high
        )

    def _thinned(self, x: np.ndarray, y: np.ndarray, most: int = 600) -> list[tuple[float, float]]:
        rows = np.arange(len(x)) if len(x) <= most else np.linspace(0, len(x) - 1, most).round().astype(int)
        return list(zip(x[rows].tolist(), y[rows].tolist(), strict=True))


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    if not text:
        return Markup("")
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, printable(text)
    )


def _ticks(low: float, high: float, most: int, least: float = 0.0) -> list[float]:
    """At most about `most` round numbers from low to high, at least `least` apart."""
    rough = max((high - low) / most, least) or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    assert all(a < b for a, b in pairwise(ticks))
    return ticks
