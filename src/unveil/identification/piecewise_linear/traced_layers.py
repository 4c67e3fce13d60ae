"""trace_layers: the layers behind the first from answers with few digits, from hyperplanes that are followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import Line
from unveil.identification.fitting.output_layer import AffineMap
from unveil.identification.piecewise_linear.behind import Behind, Lines
from unveil.identification.piecewise_linear.completeness import leaks, steady
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.derivative_sums import HELD, Sums, told
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_tracing import follow
from unveil.identification.piecewise_linear.neuron import Neuron, same_hyperplane
from unveil.identification.piecewise_linear.partial_network import alike
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.rare_neurons import suiting_most, suits_most

# Lines searched at a time, and most per layer; how far they reach.
LINES_AT_A_TIME, MOST_LINES, TRACED_LINE_REACH = 4, 80, 1e3
# Where all neurons of the first layer are positive for sure begins so many errors of their normals inside: inputs there
# are up to ten times as large as usual ones.
INSIDE = 30.0
USUAL_SQUARE_DISTANCE = 2.0  # square distance of usual inputs from each other, in units of their own square length
# Share of the derivatives that must be sums of a layer's active neurons for it to be whole: some left their region, and
# whether a neuron is missing usual points tell.
WHOLE_LAYER_SHARE = 0.9
# Rounds in a row that show nothing new before a layer is looked at as a whole; those that may as long as some neuron
# was crossed by few lines; until it is given up; and where nothing at all was met that is not explained.
CALM_ROUNDS, SELDOM_CROSSED_ROUNDS, GIVING_UP_ROUNDS, NOTHING = 2, 6, 8, 2
# Lines that must cross the hyperplane of each neuron that any of them crosses: as long as some is crossed once or twice
# others as rare have not been met (Good, 1953).
CROSSINGS_PER_NEURON = 3
# Hyperplanes followed in each round among usual points, the clearest ones: most are of deeper layers.
FOLLOWED_PER_ROUND = 20
SAME_NEURON_DIFFERENCE = 0.03  # neurons that differ less, as far as both are known, are one
# Usual points where a layer is asked whether a neuron is missing, of so many times as many where that may be seen; the
# share of them that may say so; how far beyond both points lines between such points reach. Halvings of a line from a
# point where one is to a point where none is.
MISSING_CHECK_POINTS, MISSING_CHECK_FACTOR, MISSING_POINTS_SHARE, BETWEEN_USUAL_OVERSHOOT = 300, 2, 0.01, 0.3
MISSING_LINE_HALVINGS = 5
# Share of the answers' spread that may be left behind the last layer; of most answers, where some lack a neuron.
ENDS, MOSTLY_ENDS = 0.01, 1e-3
FINE_ROW_ERROR = 3e-4  # errors of rows that leave less than that, where those of the layers before are no larger


@dataclass(frozen=True)
class Traced:
    """What was read behind the first layer, in the coordinates of what its neurons sum up."""

    layers: tuple[AffineMap, ...] = ()  # read whole, signs settled; the first one is that layer in these coordinates
    spreads: tuple[np.ndarray, ...] = ()  # covariances of the errors of each layer's rows, biases at the end
    partial: tuple[Neuron, ...] = ()  # neurons of the next one, signs unknown
    whole: AffineMap | None = None  # all of it, signs settled, once that is known
    looked: frozenset[int] = frozenset()  # which of `unexplained` were followed for this layer
    lines: tuple[Line, ...] = ()  # searched where all values are positive
    among: tuple[Line, ...] = ()  # searched among usual ones
    stations: tuple[Station, ...] = ()  # where derivatives were measured
    unexplained: tuple[CriticalPoint, ...] = ()  # those met on lines that no layer explains
    ends: bool = False  # whether nothing lies behind the last of `layers`
    # of each layer read, the share of usual points at which one of its neurons is missing
    lacking: tuple[float, ...] = ()

    @classmethod
    def begun(cls, error: Float[np.ndarray, " d"]) -> Traced:
        """Behind neurons with these errors of their normals, of unit norm.

        They are the coordinates: where all are active nothing is off. Where some are not, each is off by its error in
        units of a usual input, from the place where it was measured.
        """
        d = len(error)
        return cls(((np.eye(d), np.zeros(d)),), (USUAL_SQUARE_DISTANCE * error[:, None, None] ** 2,))

    @property
    def unknown(self) -> AffineMap | None:
        """Rows and biases of the next layer's neurons, up to sign; None if there are none."""
        if not self.partial:
            return None
        return np.array([one.weights for one in self.partial]), np.array([one.bias for one in self.partial])

    @property
    def before(self) -> float:
        """The largest error of a row of the layers that were read whole."""
        return _largest(self.spreads)

    @property
    def doubt(self) -> float:
        """The largest error of a row."""
        return _largest([*self.spreads, np.array([one.spread[:-1, :-1] for one in self.partial])])

    def spacing(self, anywhere: bool) -> float:
        """Typical distance between breakpoints of lines, among usual values or where all are positive."""
        lines = self.among if anywhere and self.among else self.lines
        length = sum((each.high - each.low) * np.linalg.norm(each.direction) for each in lines)
        return float(length / max(1, sum(len(each.t) for each in lines)))

    def left_behind(self, layer: AffineMap) -> Traced:
        """With this layer read whole."""
        spreads = (*self.spreads, np.array([one.spread for one in self.partial]))
        layers = (*self.layers, layer)
        return replace(self, layers=layers, spreads=spreads, partial=(), looked=frozenset(), whole=None)


def _largest(spreads: Sequence[Float[np.ndarray, "_ ..."]]) -> float:
    """The largest error of a row with these covariances."""
    return float(np.sqrt(max(np.trace(each, axis1=1, axis2=2).max() for each in spreads if len(each))))


def first_sums(probe: Probe, frame: Frame, error: Float[np.ndarray, " d"]) -> tuple[Probe, Frame, Frame]:
    """What the first layer's neurons sum up as inputs: how they are asked, where all are positive for sure, and at
    usual inputs. `probe`: asks inputs. `frame`: where all neurons of the first layer are active. `error`: of their
    normals."""
    d = frame.d
    stretch = float(np.linalg.norm(frame.lift)) / np.sqrt(d)
    noise = probe.noise
    noise = replace(noise, size=noise.size / stretch)
    eye, none = np.eye(d), np.zeros(d)
    positive = Frame(eye, none, eye, eye, none, eye, none)
    usual = replace(positive, G=eye[:0], g=none[:0], usual=(np.linalg.qr(frame.M.T)[1].T, frame.c))
    sums = Probe(lambda z: probe.ask(z @ frame.lift.T + frame.shift), noise, probe.rng)
    return sums, positive.smaller(INSIDE * error), usual


def trace_layers(
    probe: Probe,
    frame: Frame,
    usual: Frame,
    error: Float[np.ndarray, " d"],
    most_layers: int,
    enough: Callable[[], bool],
) -> Iterator[Traced]:
    """Layer after layer until one is the last, cannot be read whole, or enough was asked.

    `frame`: where all that the first layer's neurons sum up, which `probe` asks about, is positive; `usual`: usual
    sums; `error`: of its normals. Queries: those of `line_search` for at most `MOST_LINES` lines per layer, of
    `derivatives` beside breakpoints that no neuron explains, of `follow` for each of these, and those of
    `leaks`.
    """
    state = Traced.begun(error)
    for _ in range(most_layers):
        now = state
        for now in _next_layer(probe, frame, usual, state, enough):
            yield now
        if now.whole is None:
            return
        state = now.left_behind(now.whole)
        state = replace(state, ends=_last(probe, frame, state))
        yield state
        if state.ends:
            return


def _next_layer(
    probe: Probe, frame: Frame, usual: Frame, state: Traced, enough: Callable[[], bool]
) -> Iterator[Traced]:
    """What was read of the next layer, until it is whole or nothing new is met.

    Neurons are looked for where all of the first layer are active: there one place shows all weights. What is missing
    is active elsewhere: usual points tell, and lines lead there.
    """
    quiet = searched = aimed = 0
    before, looked_at = len(state.unexplained), None
    while searched < MOST_LINES and quiet < (GIVING_UP_ROUNDS if len(state.unexplained) > before else NOTHING):
        had = len(state.partial)
        behind, spacing = _behind(probe, usual if aimed else frame, state), state.spacing(bool(aimed))
        fresh = [i for i in range(len(state.unexplained)) if i not in state.looked]
        for i in sorted(fresh, key=lambda i: state.unexplained[i].error)[: FOLLOWED_PER_ROUND if aimed else None]:
            if enough():
                return
            state = replace(state, looked=state.looked | {i})
            seen = state.unexplained[i]
            if behind.explained(seen.x[None], np.zeros(1), state.partial)[0]:
                continue
            one = follow(behind, seen, spacing, state.partial, min(state.before, FINE_ROW_ERROR))
            if one is not None:
                state = replace(state, partial=_with(state.partial, one))
                yield state
        quiet, aimed = (0, min(aimed, 1)) if len(state.partial) > had else (quiet + 1, aimed)
        if not aimed and (
            not searched or quiet < CALM_ROUNDS or (quiet < SELDOM_CROSSED_ROUNDS and _seldom(behind, state))
        ):
            state = _search(probe, frame, state, frame.lines(LINES_AT_A_TIME, TRACED_LINE_REACH, probe.rng))
        else:
            if not aimed and state.partial:
                state = _with_telling(probe, frame, state, behind.layers)
            summed = _summed(behind.layers, state)
            if summed is None:
                among = aimed % 2 == 0
                lines = (
                    _through(usual, probe.rng) if among else frame.lines(LINES_AT_A_TIME, TRACED_LINE_REACH, probe.rng)
                )
                state = _search(probe, usual if among else frame, state, lines)
            else:
                of_layer, layer = summed
                if looked_at is None or not np.array_equal(layer[0], looked_at):
                    # The same layer as before leaks where it did.
                    some, looked_at = usual.sample(MISSING_CHECK_FACTOR * MISSING_CHECK_POINTS, probe.rng), layer[0]
                    right, wrong = leaks(probe, behind.layers, layer, some, MISSING_CHECK_POINTS, state.doubt)
                # A few may be for errors of rows, but lines that lead to them are cheap.
                few = not len(wrong) or (aimed > 0 and len(wrong) <= MISSING_POINTS_SHARE * len(right))
                if quiet > SELDOM_CROSSED_ROUNDS or few or not len(right):
                    share = len(wrong) / max(len(right) + len(wrong), 1)
                    yield replace(state, partial=of_layer, whole=layer, lacking=(*state.lacking, share))
                    return
                if aimed % 2:
                    state = _search(probe, frame, state, frame.lines(LINES_AT_A_TIME, TRACED_LINE_REACH, probe.rng))
                else:
                    # Lines that lead to where the layer is wrong say nothing of how often it is.
                    lines = _across(probe, behind, layer, state.doubt, wrong, right)
                    state = replace(_search(probe, usual, state, lines), stations=state.stations)
            aimed += 1
        yield state
        searched += LINES_AT_A_TIME


def _seldom(behind: Behind, state: Traced) -> bool:
    """Whether some neuron's hyperplane was crossed by few of the lines where all values are positive."""
    if state.unknown is None or not state.lines:
        return False
    ends = [each.base + t * each.direction for each in state.lines for t in (each.low, each.high)]
    z = behind.see(np.array(ends)).h @ state.unknown[0].T + state.unknown[1]
    crossed = ((z[::2] > 0) != (z[1::2] > 0)).sum(axis=0)
    return bool(((crossed > 0) & (crossed < CROSSINGS_PER_NEURON)).any())


def _summed(layers: list[AffineMap], state: Traced) -> tuple[tuple[Neuron, ...], AffineMap] | None:
    """The neurons of the layer, and it; None where derivatives do not show that they are all of it. Those that none
    calls for were met by mistake, or twice."""
    if not state.partial:
        return None
    sums = Sums.of_stations(layers, state.partial, state.stations, HELD[False])
    chosen = sums.made_up(np.ones(len(state.partial), dtype=bool), WHOLE_LAYER_SHARE)
    if chosen.telling < HELD[False].telling or len(chosen.wrong) > (1 - WHOLE_LAYER_SHARE) * chosen.telling:
        return None
    return tuple(compress(state.partial, chosen.use)), chosen.layer(state.partial)


def _with_telling(probe: Probe, frame: Frame, state: Traced, layers: list[AffineMap]) -> Traced:
    """With derivatives that could contradict the neurons met so far as a layer, where too few of those beside their
    breakpoints do. Queries: those of `told`."""
    sums = Sums.of_stations(layers, state.partial, state.stations, HELD[False])
    chosen, pool = (
        sums.made_up(np.zeros(len(state.partial), dtype=bool), 0.0),
        frame.sample(MISSING_CHECK_POINTS, probe.rng),
    )
    return replace(state, stations=(*state.stations, *told(probe, layers, state.partial, chosen, pool)))


def _through(usual: Frame, rng: np.random.Generator) -> Lines:
    """Lines through usual points."""
    start, end = np.split(usual.sample(2 * LINES_AT_A_TIME, rng), 2)
    return (
        start,
        end - start,
        np.full(LINES_AT_A_TIME, -BETWEEN_USUAL_OVERSHOOT),
        np.full(LINES_AT_A_TIME, 1 + BETWEEN_USUAL_OVERSHOOT),
    )


def _across(
    probe: Probe,
    behind: Behind,
    layer: AffineMap,
    doubt: float,
    wrong: Float[np.ndarray, "W d"],
    right: Float[np.ndarray, "R d"],
) -> Lines:
    """Short lines across where the layer begins to be wrong, between points at which much the same neurons are active.
    Queries: those of `steady` at `LINES_AT_A_TIME` points, `MISSING_LINE_HALVINGS` times."""
    start = wrong[probe.rng.integers(len(wrong), size=LINES_AT_A_TIME)]
    end = alike(behind.layers, start, right, probe.rng, 1)
    for _ in range(MISSING_LINE_HALVINGS):
        middle = (start + end) / 2
        changing = np.isin(
            np.arange(LINES_AT_A_TIME), steady(probe, behind.layers, layer, middle, LINES_AT_A_TIME, doubt)[1]
        )[:, None]
        start, end = np.where(changing, middle, start), np.where(changing, end, middle)
    return start, end - start, np.full(LINES_AT_A_TIME, -1.0), np.full(LINES_AT_A_TIME, 2.0)


def _behind(probe: Probe, frame: Frame, state: Traced) -> Behind:
    """What was read. Errors of the first layer matter only where not all of it is active."""
    first, *others = state.spreads
    return Behind(probe, frame, list(state.layers), [first if frame.free else first[:0], *others])


def _search(probe: Probe, frame: Frame, state: Traced, lines: Lines) -> Traced:
    """With these lines, and derivatives beside breakpoints that no neuron explains."""
    behind = _behind(probe, frame, state)
    new, points, stations = behind.searched(lines, state.partial)
    state = replace(state, among=(*state.among, *new)) if frame.free else replace(state, lines=(*state.lines, *new))
    return replace(state, unexplained=(*state.unexplained, *points), stations=(*state.stations, *stations))


def _last(probe: Probe, frame: Frame, state: Traced) -> bool:
    """Whether the answers are a linear function of the last layer's values, but for few where a neuron is missing.
    Queries: `3 k + 60`."""
    k = len(state.layers[-1][1])
    x = frame.sample(3 * k + 60, probe.rng)
    y = probe.ask(x)
    F = np.concatenate([_behind(probe, frame, state).see(x).h, np.ones((len(x), 1))], axis=1)
    fitted = np.arange(len(x)) % 3 > 0
    out = np.linalg.lstsq(F[fitted], y[fitted], rcond=None)[0]
    left = y[~fitted] - F[~fitted] @ out
    if float(np.sqrt((left**2).mean())) <= ENDS * float(y.std()):
        return True
    return suits_most(y[~fitted] - F[~fitted] @ suiting_most(F[fitted], y[fitted]), y[~fitted], MOSTLY_ENDS)


def _with(found: tuple[Neuron, ...], new: Neuron) -> tuple[Neuron, ...]:
    """With one more neuron, or with more of one that was found before."""
    for i in np.flatnonzero(same_hyperplane(new, found, SAME_NEURON_DIFFERENCE**2 / 2)):
        return (*found[:i], new, *found[i + 1 :]) if new.known.sum() > found[i].known.sum() else found
    return (*found, new)
