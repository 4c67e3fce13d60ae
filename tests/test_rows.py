"""Records of arrays: selecting, joining, and what edges and faces are kept in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unveil.blackbox.line import unit_rows
from unveil.blackbox.sources.confined_child import _told
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.dual_points import DualPoints
from unveil.identification.from_labels.faces import Faces
from unveil.outcome import BadInput

D = 3


def crossings(count: int, rng: np.random.Generator) -> Crossings:
    label = rng.integers(3, size=(2, count))
    return Crossings(rng.standard_normal((count, D)), *label, rng.standard_normal((count, D)), rng.uniform(size=count))


def dual(count: int, rng: np.random.Generator) -> DualPoints:
    z, onward = rng.standard_normal((2, count, D))
    gap, error = rng.uniform(size=(2, count))
    return DualPoints(z, np.arange(count) + 7, crossings(count, rng), gap, error, onward, np.arange(count) % 2 == 0)


def test_rows_are_selected_and_joined_in_every_array_also_in_records_within(rng: np.random.Generator) -> None:
    one, other = dual(4, rng), dual(3, rng)
    both = DualPoints.joined([one, other])
    assert len(both) == 7
    order = np.array([5, 0, 6])
    some = both[order]
    for name in ("z", "face", "gap", "error", "onward", "opened"):
        whole = np.concatenate([getattr(one, name), getattr(other, name)])
        assert np.array_equal(getattr(some, name), whole[order]), name
    assert np.array_equal(some.behind.x, np.concatenate([one.behind.x, other.behind.x])[order])
    assert np.array_equal(some.behind.after, np.concatenate([one.behind.after, other.behind.after])[order])
    assert np.array_equal(both[slice(4, 7)].behind.width, other.behind.width)


def test_the_way_along_a_face_to_a_hyperplane_ends_on_it_and_is_the_shortest(rng: np.random.Generator) -> None:
    normal, label = unit_rows(rng.standard_normal((20, D))), np.zeros(20, dtype=int)
    faces = Faces(rng.standard_normal((20, D)), normal, label, label + 1, np.zeros(20))
    a, b = unit_rows(rng.standard_normal((1, D)))[0], 0.3
    along, length, steep = faces.ways_to(a, b)
    end = faces.x + length[:, None] * along
    assert np.abs(end @ a + b).max() < 1e-12
    assert np.abs(np.sum(along * normal, axis=1)).max() < 1e-12
    assert np.allclose(np.linalg.norm(along, axis=1), 1)
    # Of all tangents the steepest: no other one changes a x + b faster.
    tangent = rng.standard_normal((200, 20, D))
    tangent -= np.sum(tangent * normal, axis=2, keepdims=True) * normal
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True)
    assert (np.abs(tangent @ a) <= steep + 1e-12).all()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (BadInput("the shape must be known"), "BadInput", "the shape must be known"),
        (MemoryError(), "SourceError", "more memory"),
        (RuntimeError("cannot allocate 3 GB"), "SourceError", "more memory"),
        (ZeroDivisionError("division by zero\nand more"), "SourceError", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_confined_child_tells_what_failed_in_one_line(error: Exception, kind: str, said: str) -> None:
    told = json.loads(_told(error, "cannot be loaded"))
    assert told["error"] == kind
    assert said in told["text"]
    assert "\n" not in told["text"]
