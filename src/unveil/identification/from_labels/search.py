"""The search for hyperplanes: faces of the boundary, walks to their ends, and edges, until walks end at known ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.blackbox.ledger import Stages
from unveil.identification.from_labels.candidates import confirmed, edge_behind, explained, opened, parallel
from unveil.identification.from_labels.chart import Crossings
from unveil.identification.from_labels.dual_points import DualPoints, dual_points
from unveil.identification.from_labels.faces import ROUGH, Faces, Precision, faces_at, tangents
from unveil.identification.from_labels.hyperplanes import Edge, Hyperplanes, shared_by
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.straight import (
    ENDED,
    LATER,
    SHARE,
    UNSEEN,
    BoundaryFaces,
    bends_spent,
    bent,
    look_on,
    met_again,
    none_stands,
    sharpened,
    straight,
    told,
)
from unveil.identification.from_labels.walks import Walks, closer, faces_behind, walk

# Random faces measured at a time; faces behind known hyperplanes after each round of walks; and such rounds.
FACES_AT_ONCE, HOPS, WALK_ROUNDS = 2, 3, 4
NEW_FACE_ROUNDS = 60  # rounds of new faces, at most
# Share of the hyperplanes that must be bent before a network counts as deeper: some of one layer are met by chance.
BENDING = 0.15
BARREN = 48  # boundary points without a flat piece, before there is taken to be none
# Walks from a face at a time; so many times as many, where normals are coarse; and on the last faces behind edges.
WALKS, COARSE_WALKS_FACTOR, WALKS_ON_LAST_FACES = 8, 2, 2
DOUBTED = 3  # walks that pass a hyperplane before it is taken back, where normals are coarse
# Error of a hyperplane from which on it is measured once more before the last layer: where normals are coarse, and
# where they are fine.
COARSE_REMEASURED_ERROR, VAGUE = 5e-4, 1e-4
RETRY_ENDS_FACTOR = 1.5  # so many times as many faces must end at it before it is tried once more
OWN = 1e-4  # edges nearer than this to a known hyperplane are its own


class HyperplaneSearch:
    """Faces, dual points and hyperplanes met so far; `run` goes on with the search. `pool`: points of all labels.
    `stages`: where labels are booked; None: in a book of its own."""

    def __init__(
        self, pool: Pool, precision: Precision, rng: np.random.Generator, stages: Stages | None = None
    ) -> None:
        self.pool, self.side, self.chart = pool, pool.side, pool.chart
        self.precision, self.rng = precision, rng
        self.stages = stages or Stages(pool.chart.ledger)
        d = pool.chart.n
        self.faces = Faces.none(d)
        self.edges: list[Edge] = []
        self.through: list[Edge] = []
        self.away = np.empty((0, d))
        self.met = DualPoints.none(d)
        self.begin_with(Hyperplanes.none(d))
        self.due, self.refuted = 0.0, False
        self.supposed, self.behind_first = 0, False
        self.stale = self.lost = 0
        # Where normals are coarse a face costs as much as many walks.
        self.each = WALKS if precision.normal < ROUGH else COARSE_WALKS_FACTOR * WALKS

    def begin_with(self, planes: Hyperplanes) -> None:
        """Take these hyperplanes, of which nothing was seen yet, for those met by now."""
        self.planes = planes
        # Walks that ended at each and that went on, and how many faces had ended there when it was last sharpened.
        self.ended, self.passed, self.tried = np.zeros((3, len(planes)), dtype=int)
        # What was seen of each hyperplane from each face; ends and passes among it.
        self.seen = np.zeros((len(planes), len(self.faces)), dtype=np.int8)
        self.looked = np.zeros((2, len(planes)), dtype=int)

    def run(self, patience: int, rounds: int = NEW_FACE_ROUNDS) -> None:
        """Search until so many walks in a row ended at known hyperplanes, or until deeper layers show. Queries: `35 d`
        a face and an edge, 30 to 100 a walk."""
        if rounds == NEW_FACE_ROUNDS and self.precision.normal < ROUGH and bent(self.ended, self.passed).any():
            # Walks begin at random: whether others are bent, too, faces all over tell with fewer labels.
            self.look(self.rng.spawn(1)[0])
        for _ in range(rounds):
            if self.deeper and rounds == NEW_FACE_ROUNDS:
                return
            if self.precision.normal >= ROUGH:
                self.retract()
            fresh, each = self._new_faces(), self.each
            for _ in range(WALK_ROUNDS):
                if not len(fresh) or self.hopeless or self.barren:
                    break
                # Faces behind edges are walked on in any case: they have cost their normals already.
                known, behind = self._walk(np.repeat(fresh, each))
                done = self.stale >= patience
                fresh, each = (
                    (behind, WALKS_ON_LAST_FACES) if done else (np.concatenate([behind, self._hop(known)]), self.each)
                )
            if self.stale >= patience or self.hopeless or self.barren:
                return

    def collect(self, first: Hyperplanes, labels: int) -> None:
        """Go on behind a first layer that is known: bends are met, and no hyperplane is looked for. `first`: the first
        layer. `labels`: so many are asked. Queries: `labels`, and at most a round of walks more."""
        self.edges, self.through, self.behind_first = self.bends(first), [], True
        self.begin_with(first)
        end = self.chart.ledger.asked + labels
        while self.chart.ledger.asked < end:
            fresh = self._new_faces()
            for _ in range(WALK_ROUNDS):
                if not len(fresh) or self.chart.ledger.asked >= end:
                    break
                known, behind = self._walk(np.repeat(fresh, self.each))
                fresh = np.concatenate([behind, self._hop(known)])

    def bends(self, first: Hyperplanes) -> list[Edge]:
        """Edges met that are on none of these hyperplanes."""
        edges = [*self.edges, *self.through]
        z = np.stack([edge.z for edge in edges]) if edges else np.empty((0, self.chart.n))
        on = (np.abs(z @ first.normals.T + first.offsets) < OWN).any(axis=1)
        return [edge for edge, mine in zip(edges, on, strict=True) if not mine]

    @property
    def hopeless(self) -> bool:
        """Whether the boundary bends again and again, and at no hyperplane that holds elsewhere, too."""
        return self.refuted or (not len(self.planes) and not self.behind_first and self._bends > 1)

    @property
    def _bends(self) -> float:
        return bends_spent(self.stages.queries, self.chart.n, coarse=self.precision.normal >= ROUGH)

    def _doubt(self) -> None:
        """Now and then look whether the hyperplanes met are any, until a first layer is looked for in any case."""
        if not self.behind_first and not self.deeper and self._bends > max(1.0, self.due):
            self.due = LATER * self._bends
            # Of its own draws, so that a search that nothing is wrong with goes on as it would.
            self.look(self.rng.spawn(1)[0])
            self.refuted = none_stands(*self.looked)

    def look(self, rng: np.random.Generator) -> Bool[np.ndarray, " k"]:
        """Look from more faces all over the boundary which hyperplanes go on straight. Queries: those of `looks`."""
        self.seen = np.pad(self.seen, ((0, 0), (0, len(self.faces) - self.seen.shape[1])))
        look_on(self.seen, self.boundary, self.planes, rng)
        self.looked = told(self.seen, self.faces, self.planes)
        self.stages.end("straightness")
        return straight(*self.looked)

    @property
    def boundary(self) -> BoundaryFaces:
        """The faces met, and how the boundary is asked from them."""
        return BoundaryFaces(self.side, self.chart, self.faces, self.precision)

    @property
    def barren(self) -> bool:
        """Whether boundary points were looked at again and again, and none lies on a flat piece."""
        return not len(self.faces) and self.lost >= BARREN

    @property
    def neurons(self) -> int:
        """Neurons met."""
        return len(self.planes)

    @property
    def deeper(self) -> bool:
        """Whether hyperplanes are bent, which those of a first layer are not."""
        many = max(5, int(BENDING * len(self.planes)))
        return not self.refuted and int(bent(*self._met()).sum()) >= many

    def likely(self) -> Hyperplanes:
        """Hyperplanes that walks speak for, and that faces all over the boundary do not speak against."""
        ended, passed = self.looked
        good = straight(*self._met()) & (passed <= SHARE * ended) & (not self.refuted)
        return self.planes[np.flatnonzero(good)].distinct()

    def _met(self) -> Int[np.ndarray, "2 k"]:
        """How often each hyperplane was met as an end, and how often the boundary went on behind it."""
        return np.stack([self.ended, self.passed]) + self.looked

    def _new_faces(self) -> Int[np.ndarray, " N"]:
        self.pool.draw(FACES_AT_ONCE * 4)
        found = self.pool.crossings(FACES_AT_ONCE, self.precision.cell, latest=FACES_AT_ONCE * 4)
        if self.behind_first:
            # Some neurons show at the boundary of a rare class only.
            others = self.pool.crossings_of_all(FACES_AT_ONCE // 2, self.precision.cell)
            found = Crossings.joined([found[slice(0, FACES_AT_ONCE // 2)], others])
        inside = self.chart.margin(found.x) > 8 * self.precision.step
        faces, _ = faces_at(self.side, found[inside], self.precision, self.precision.step, self.rng)
        self.lost += len(found) - len(faces)
        self.stages.end("faces")
        return self.keep(faces)

    def keep(self, faces: Faces, away: Float[np.ndarray, "N d"] | None = None) -> Int[np.ndarray, " N"]:
        """Keep faces; `away`: from the edge across which each was reached."""
        first = len(self.faces)
        self.faces = Faces.joined([self.faces, faces])
        self.away = np.concatenate([self.away, np.zeros(faces.x.shape) if away is None else away])
        return np.arange(first, len(self.faces))

    def _walk(self, face: Int[np.ndarray, " N"]) -> tuple[Walks, Int[np.ndarray, " M"]]:
        """Walk once from each face given; walks that ended at known hyperplanes, and faces behind edges of others."""
        along = tangents(self.faces.normal[face], self.rng)
        # Back across the edge where a face begins there is nothing new.
        along *= np.where(np.sum(along * self.away[face], axis=1) < 0, -1.0, 1.0)[:, None]
        passed = np.zeros(len(self.planes), dtype=int)
        walks = walk(self.side, self.chart, self.faces, face, along, self.precision, self.planes, passed)
        self.stages.end("walks")
        self.passed[: len(passed)] += passed
        known = walks[np.flatnonzero(walks.plane >= 0)]
        np.add.at(self.ended, known.plane, 1)
        self.stale += len(known) + int((walks.plane == -2).sum())
        fresh = [np.empty(0, dtype=int)]
        for i in np.flatnonzero(walks.plane == -1):
            one = walks[np.array([i])]
            if explained(one, self.faces, self.planes, [*self.edges, *self.through]):
                self.stale += 1
                continue
            one = closer(self.side, self.faces, one, self.precision, 1e-4)
            found = dual_points(self.side, self.faces, one, self.precision)
            self.stages.end("dual points")
            # Where an edge of an unknown neuron was met before, there is nothing new either.
            self.stale += sum(int(edge.shares(found.z, found.error).sum()) for edge in self.edges)
            if not self._seen_again(found):
                self.met = DualPoints.joined([self.met, found[np.flatnonzero(self._unknown(found.z, found.error))]])
                if not self.behind_first:
                    self.edges = [edge for edge in self.edges if not self._of_known(edge)]
            self.stages.end("candidates")
            fresh.append(self._open_edges())
        return known, np.concatenate(fresh)

    def _seen_again(self, found: DualPoints) -> bool:
        """Whether a dual point is of a neuron of which an edge is known already: that settles its hyperplane."""
        known = [edge for edge in self.edges if found.face[:1] not in (edge.face, edge.other)] if len(found.z) else []
        if not known or self.behind_first or not self._unknown(found.z, found.error)[0]:
            return False
        seen = edge_behind(self.side, self.faces[found.face], known, found, self.precision, self.rng)
        return seen is not None and self._accept(known[seen[0]], seen[1].normal, seen[1].error)

    def _hop(self, known: Walks) -> Int[np.ndarray, " N"]:
        """Faces behind some of the walks that ended at known hyperplanes."""
        if not len(known):
            return np.empty(0, dtype=int)
        chosen = self.rng.choice(len(known), min(len(known), HOPS), replace=False)
        known = known[np.sort(chosen)]
        made, rows = faces_behind(self.side, self.faces, known, self.planes, self.precision)
        self.stages.end("hops")
        a, b = self.planes.normals[known.plane[rows]], self.planes.offsets[known.plane[rows]]
        return self.keep(made, a * np.sign(np.sum(a * made.x, axis=1) + b)[:, None])

    def _of_known(self, edge: Edge) -> bool:
        return bool(self.planes.holding(edge.z[None], np.array([edge.error]))[0] >= 0)

    def _accept(self, edge: Edge, normal: Float[np.ndarray, " d"], error: float) -> bool:
        self.stale = 0
        self.planes = self.planes.added(normal, edge.z, error)
        self.through.append(edge)
        self.ended, self.passed, self.tried = (np.append(each, 0) for each in (self.ended, self.passed, self.tried))
        self.looked, self.seen = np.pad(self.looked, ((0, 0), (0, 1))), np.pad(self.seen, ((0, 1), (0, 0)))
        self.edges = [other for other in self.edges if other is not edge]
        self.met = self.met[np.flatnonzero(self._unknown(self.met.z, self.met.error))]
        return True

    def suppose(self) -> None:
        """Take hyperplanes of edges that nothing else tells from faces parallel to them."""
        for edge in list(self.edges):
            seen = parallel(edge, self.faces)
            self.supposed += int(seen is not None and self._accept(edge, *seen))

    def retract(self) -> None:
        """Take out hyperplanes that walks pass rather than end at, and those met twice: some come out wrong."""
        most = self.ended if self.precision.normal < ROUGH else self.ended / 2
        self._only(np.flatnonzero((self.passed < DOUBTED) | (self.passed <= most)))
        self._only(self.planes.different(self.passed > SHARE * self.ended))

    def sharpen(self, among: Bool[np.ndarray, " k"] | None = None) -> None:
        """Measure vague hyperplanes, all or those, again; where normals are coarse by dual points from many faces.
        Queries: about 500 for each of them, or 3,000."""
        fine = self.precision.normal < ROUGH
        loose = np.flatnonzero(
            (self.planes.error > (VAGUE if fine else COARSE_REMEASURED_ERROR)) & (among is None or among)
        )
        for row in loose if fine else ():
            ends = int((self.seen[row] == ENDED).sum())
            if among is not None and ends < RETRY_ENDS_FACTOR * self.tried[row]:
                continue
            found = met_again(self.boundary, self.planes[np.array([row])], self.rng)
            self._unknown(found.z, found.error)
            self.tried[row] = ends
        loose = loose[:0] if fine else loose
        sharp = sharpened(self.boundary, self.planes[loose], self.rng)
        self.stages.end("sharpening")
        for row, a, b, error in zip(loose, sharp.normals, sharp.offsets, sharp.error, strict=True):
            self._measured(int(row), a, -b * a, float(error))

    def _only(self, keep: Int[np.ndarray, " s"]) -> None:
        self.planes = self.planes[keep]
        self.through = [self.through[i] for i in keep]
        self.ended, self.passed, self.looked = self.ended[keep], self.passed[keep], self.looked[:, keep]
        self.seen, self.tried = self.seen[keep], self.tried[keep]

    def _measured(self, which: int, normal: Float[np.ndarray, " d"], z: Float[np.ndarray, " d"], error: float) -> None:
        """A sharper measurement of a hyperplane; what was seen of a vague one may have been others beside it."""
        if self.planes.error[which] > VAGUE:
            self.seen[which] = UNSEEN
        self.planes = self.planes.measured(which, normal, z, error)

    def _unknown(self, z: Float[np.ndarray, "N d"], error: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Which dual points lie on no known hyperplane; those that do measure theirs again, by 10 labels."""
        on = self.planes.holding(z, error)
        for which in np.unique(on[on >= 0]) if not self.behind_first else ():
            edge, error_before = self.through[which], self.planes.error[which]
            vote = edge.sharpest_vote(z[on == which], error[on == which])
            # Beside a vague hyperplane lie points of other neurons, too: faces end at no hyperplane through them.
            if vote[1] + edge.rough < 0.5 * error_before and self.planes.may_be(int(which), edge.at(vote[0])):
                seen = confirmed(self.side, self.chart, self.faces, edge, vote, self.precision)
                if seen is not None:
                    self._measured(int(which), seen.normal, edge.z, seen.error)
        return np.asarray(on < 0)

    def _open_edges(self) -> Int[np.ndarray, " N"]:
        """Normals behind dual points whose neuron is not known, one after the other. Returns the faces behind."""
        fresh: list[np.ndarray] = [np.empty(0, dtype=int)]
        while not self.met.opened.all() and not self.hopeless:
            closed = np.flatnonzero(~self.met.opened)
            i = int(closed[self.met.error[closed].argmin()])
            self.met.opened[i] = True
            point = self.met[np.array([i])]
            if any(edge.shares(point.z, point.error)[0] for edge in self.edges):
                continue
            self._doubt()
            made, edge = opened(self.side, self.faces, point, self.precision, self.rng)
            self.lost += 0 if len(made) else 1
            self.stages.end("edges")
            fresh.append(self.keep(made, made.x - point.z))
            if edge is None:
                continue
            both = None if self.behind_first else shared_by(edge, self.edges)
            if both is not None:
                self._accept(edge, both.normal, both.error)
            elif self.behind_first or not self._of_known(edge):
                self.edges.append(edge)
        return np.concatenate(fresh)
