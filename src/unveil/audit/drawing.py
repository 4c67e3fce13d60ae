"""Pictures for the page: inputs as crisp PNG or bars. Nothing here needs more than numpy."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import numpy as np
from markupsafe import Markup

from unveil.audit.text import printable

SPECIMENS = """
<div class="specimens">
{% for specimen in values.specimens %}
  <div class="specimen {{ "three" if specimen|length == 3 else "two" }}">
  {% for picture, headline, detail in specimen %}
    <figure>{{ picture }}<figcaption>
      <strong>{{ headline }}</strong>{% if detail %}<br>{{ detail }}{% endif %}
    </figcaption></figure>
  {% endfor %}
  </div>
{% endfor %}
</div>
"""
"""A section's template for `values.specimens`: groups of two or three (drawing, headline, detail) side by side."""


def picture_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(channels, height, width) if inputs of this shape can be drawn as a square picture, grey or in three colours."""
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]:
        return shape[0], shape[1], shape[2]
    n = math.prod(shape)
    for channels in (1, 3):
        side = math.isqrt(n // channels)
        if side >= 4 and channels * side * side == n:
            return channels, side, side
    return None


def draw_input(
    x: np.ndarray, shape: tuple[int, ...], label: str, *, within: tuple[float, float] | None = None
) -> Markup:
    """One input, as a picture if it is square (or three squares), else as bars.

    Args:
        x: The input, n values.
        shape: The model's own shape of it.
        label: What it shows, in words, for those who cannot see it.
        within: Values that are black and white. By default the input's own range, or (0, 1) if it lies there.
    """
    x = np.asarray(x, dtype=np.float64).ravel()
    if within is None:
        within = (0.0, 1.0) if x.min() >= 0 and x.max() <= 1 and x.max() > 0.1 else _range(x)
    form = picture_shape(shape)
    return _bars(x, label, within) if form is None else _picture(x.reshape(form), label, within)


def _range(x: np.ndarray) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    # Symmetric about zero where the values are: grey is then zero.
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return low, high


def _picture(x: np.ndarray, label: str, within: tuple[float, float]) -> Markup:
    low, high = within
    scaled = np.clip((x - low) / ((high - low) or 1.0), 0, 1)
    pixels = np.round(scaled * 255).astype(np.uint8).transpose(1, 2, 0)
    address = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return Markup('<img class="input" width="{0}" height="{1}" alt="{2}" src="{3}">').format(
        pixels.shape[1], pixels.shape[0], printable(label), address
    )


def png(pixels: np.ndarray) -> bytes:
    """An 8-bit PNG file of (h, w, 1) grey or (h, w, 3) coloured pixels."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def _bars(x: np.ndarray, label: str, within: tuple[float, float], most: int = 128) -> Markup:
    """A row of bars from zero; beyond `most`, neighbours share one bar that spans their extremes."""
    groups = np.array_split(x, min(len(x), most))
    low, high = min(within[0], 0.0), max(within[1], 0.0)
    span = (high - low) or 1.0
    tall, wide = 56.0, 112.0

    def y(value: float) -> float:
        return float(tall * (1 - (np.clip(value, low, high) - low) / span))

    step = wide / len(groups)
    bars = Markup("").join(
        Markup('<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
            i * step + step * 0.1,
            y(max(0.0, float(group.max()))),
            step * 0.8,
            max(0.5, y(min(0.0, float(group.min()))) - y(max(0.0, float(group.max())))),
        )
        for i, group in enumerate(groups)
    )
    return Markup(
        '<svg class="input bars" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" preserveAspectRatio="none">{}</svg>'
    ).format(wide, tall, printable(label), bars)
