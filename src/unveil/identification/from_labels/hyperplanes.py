"""Neurons' hyperplanes from edges of the boundary: the one direction between two normals that dual points share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.rows import Rows

ALIKE = 1e-3  # hyperplanes nearer to each other than this are one
DOUBT = 1e-4  # how probable a hyperplane may be by chance
HELD_WITHIN_ERRORS = 5.0  # so many errors off a hyperplane its points lie, and other measurements of it, at most
SAME_FACE = 1e-5  # faces whose normals are nearer to each other than this lie in one plane
CLEARLY = 1e-3  # error of a shared normal below which edges are seen to share it


@dataclass(frozen=True)
class Hyperplanes(Rows):
    """Hyperplanes `normals @ y + offsets = 0`, unit normals, signs arbitrary."""

    normals: Float[np.ndarray, "k d"]
    offsets: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]  # error of each normal

    @classmethod
    def none(cls, d: int) -> Hyperplanes:
        return cls(np.empty((0, d)), np.empty(0), np.empty(0))

    def added(self, normal: Float[np.ndarray, " d"], z: Float[np.ndarray, " d"], error: float) -> Hyperplanes:
        """With one more, through z."""
        return Hyperplanes.joined([self, Hyperplanes(normal[None], np.array([-normal @ z]), np.array([error]))])

    def ahead(self, x: Float[np.ndarray, "N d"], along: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N k"]:
        """At what length each ray meets each hyperplane; infinite where it does not."""
        with np.errstate(divide="ignore", invalid="ignore"):
            s = -(x @ self.normals.T + self.offsets) / (along @ self.normals.T)
        return np.where(s > 0, s, np.inf)

    def aside(
        self, x: Float[np.ndarray, "N d"], along: Float[np.ndarray, "N d"], share: float
    ) -> Float[np.ndarray, "N k"]:
        """How far before and behind each hyperplane to ask: a share of the way to it, and at least as it is known."""
        ahead = self.ahead(x, along)
        with np.errstate(divide="ignore", invalid="ignore"):
            blur = 5 * self.error * (1 + ahead + np.linalg.norm(x, axis=1)[:, None]) / np.abs(along @ self.normals.T)
        return np.where(np.isfinite(ahead), np.maximum(share * ahead, blur), 0.0)

    def holding(self, z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """The hyperplane that each point lies on, or -1."""
        if not len(self):
            return np.full(len(z), -1)
        slack = self.error * (1 + np.linalg.norm(z, axis=1)[:, None]) + error[:, None]
        off = np.abs(z @ self.normals.T + self.offsets) / slack
        best = off.argmin(axis=1)
        return np.where(off[np.arange(len(z)), best] < HELD_WITHIN_ERRORS, best, -1)

    def may_be(self, which: int, normal: Float[np.ndarray, " d"]) -> bool:
        """Whether one of them may have this unit normal, up to sign, as exactly as it is known."""
        apart_by = min(float(np.linalg.norm(self.normals[which] - sign * normal)) for sign in (1, -1))
        return apart_by < HELD_WITHIN_ERRORS * float(self.error[which])

    def distinct(self) -> Hyperplanes:
        """Those that are told apart; of several measurements of one, the sharpest."""
        return self[self.different(np.zeros(len(self), dtype=bool))]

    def different(self, doubted: Bool[np.ndarray, " k"]) -> Int[np.ndarray, " s"]:
        """Which these are; `doubted` ones, however sharp they say they are, where there is no other measurement."""
        kept: list[int] = []
        told = np.concatenate([self.normals, self.offsets[:, None]], axis=1)
        for i in np.lexsort((self.error, doubted)):
            same = np.minimum(
                np.linalg.norm(told[kept] - told[i], axis=1), np.linalg.norm(told[kept] + told[i], axis=1)
            )
            if not (same < ALIKE).any():
                kept.append(int(i))
        return np.sort(np.array(kept, dtype=int))

    def measured(
        self, which: int, normal: Float[np.ndarray, " d"], z: Float[np.ndarray, " d"], error: float
    ) -> Hyperplanes:
        """With one of them replaced by a sharper measurement."""
        normals, offsets, errors = self.normals.copy(), self.offsets.copy(), self.error.copy()
        normals[which], offsets[which], errors[which] = normal, -normal @ z, error
        return Hyperplanes(normals, offsets, errors)


@dataclass(frozen=True)
class Edge:
    """A place where the boundary bends: the neuron's normal lies in the span of the normals on both sides."""

    z: Float[np.ndarray, " d"]  # a point on the edge
    normal: Float[np.ndarray, " d"]  # unit normal on the near side
    across: Float[np.ndarray, " d"]  # unit vector with which it spans the normal on the far side
    angle: float  # of the far side's normal, from `normal` towards `across`
    face: int  # the face on the near side
    other: int  # the face on the far side
    error: float  # how exactly z is known
    rough: float  # error of the normals

    @classmethod
    def between(
        cls,
        z: Float[np.ndarray, " d"],
        normals: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]],
        faces: tuple[int, int],
        error: float,
        rough: float,
    ) -> Edge | None:
        """The edge at z between two faces; None where their normals are too much alike to span a plane."""
        u, v = normals
        across = v - (u @ v) * u
        length = float(np.linalg.norm(across))
        if length < 1e3 * rough:
            return None
        across = across / length
        return cls(z, u, across, float(np.arctan2(length, u @ v)), *faces, error, rough / length)

    def votes(
        self, z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """The angle at which the neuron's hyperplane passes through each of other points, and how exactly it tells."""
        away = z - self.z
        p, q = away @ self.normal, away @ self.across
        r = np.hypot(p, q)
        with np.errstate(divide="ignore", invalid="ignore"):
            fuzz = (error + self.error) / r + self.rough * np.linalg.norm(away, axis=1) / r
        return np.arctan2(-p, q) % np.pi, fuzz

    def sharpest_vote(self, z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]) -> tuple[float, float]:
        """Of `votes` the one that tells the angle most exactly."""
        angle, fuzz = self.votes(z, error)
        best = int(np.nan_to_num(fuzz, nan=np.inf).argmin())
        return float(angle[best]), float(fuzz[best])

    def ahead_on(
        self, normal: Float[np.ndarray, " d"], x: Float[np.ndarray, " d"], along: Float[np.ndarray, " d"]
    ) -> float:
        """At what length a walk on a face like one of the edge's own, by its normal, meets it; infinite where it does
        not."""
        for angle in (0.0, self.angle):
            own = self.at(angle)
            away = self.at(angle + np.pi / 2)
            steep = float(along @ away)
            if steep and min(np.linalg.norm(normal - own), np.linalg.norm(normal + own)) < SAME_FACE:
                return float((self.z - x) @ away) / steep
        return np.inf

    def at(self, angle: float) -> Float[np.ndarray, " d"]:
        """The unit vector at an angle from `normal` towards `across`."""
        return np.asarray(np.cos(angle) * self.normal + np.sin(angle) * self.across)

    def shares(self, z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Whether points lie on the same edge, or on what would be its continuation: they tell nothing new."""
        away = z - self.z
        slack = 20 * (error + self.error + self.rough * np.linalg.norm(away, axis=1))
        return np.asarray((np.abs(away @ self.normal) < slack) & (np.abs(away @ self.across) < slack))


@dataclass(frozen=True)
class Sighted:
    """A hyperplane through an edge."""

    normal: Float[np.ndarray, " d"]  # its unit normal
    error: float  # of the normal


def shared(one: Edge, two: Edge) -> tuple[float, float] | None:
    """The angle of the normal that two edges share, and its error; None where they share none.

    Each normal lies in the span of its edge's two, and in more than three dimensions two such planes meet in a line
    only if both edges are the same neuron's, or if they have a face's normal in common.
    """
    system = np.stack([one.normal, one.across, -two.normal, -two.across], axis=1)
    if len(system) < 4:
        return None
    _, values, right = np.linalg.svd(system, full_matrices=False)
    rough = one.rough + two.rough
    error = float(4 * (rough + values[3]) / values[2]) if values[2] > 0 else np.inf
    if not (values[3] < 5 * rough and error < CLEARLY):
        return None
    angle = float(np.arctan2(right[-1][1], right[-1][0]) % np.pi)
    other = float(np.arctan2(right[-1][3], right[-1][2]) % np.pi)
    own = [(angle, 0.0), (angle, one.angle), (other, 0.0), (other, two.angle)]
    if min(float(apart(a, b)) for a, b in own) <= 20 * error + 1e-6:
        return None
    # Both edges must lie on it.
    away = two.z - one.z
    off = abs(float(one.at(angle) @ away))
    return (angle, error) if off < 5 * (one.error + two.error + error * np.linalg.norm(away)) else None


def shared_by(edge: Edge, others: list[Edge]) -> Sighted | None:
    """The hyperplane that an edge shares with one of others; None where it shares none."""
    for other in others:
        both = None if other is edge else shared(edge, other)
        if both is not None:
            return Sighted(edge.at(both[0]), both[1] + edge.rough)
    return None


def apart(
    a: Float[np.ndarray, "*shape"] | float, b: Float[np.ndarray, "*shape"] | float
) -> Float[np.ndarray, "*shape"]:
    """Distance of angles that repeat after half a turn."""
    return np.asarray(np.abs((a - b + np.pi / 2) % np.pi - np.pi / 2))
