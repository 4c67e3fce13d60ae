"""SharedKernels: a first layer that is a convolution off few breakpoints, where its windows lie, and what is behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from unveil.arguments import Randomness, generator
from unveil.blackbox.oracle import Oracle
from unveil.identification.convolution.kernel import Kernel, Matched, PixelLine, match, windows
from unveil.identification.convolution.search import KernelSearch
from unveil.identification.kernels import Kernels
from unveil.identification.method import Identification, Method
from unveil.identification.picture import Picture
from unveil.identification.validation import how_many, validate
from unveil.outcome import BadInput, BudgetExceeded, Outcome
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network

# Lines through either corner of the picture, for the padding, and lines that no kernel has seen, for its error.
LINES_PER_CORNER, HELD_OUT = 2, 1


@dataclass(frozen=True)
class SharedKernels(Method):
    """Read the kernels of a first convolution, and a linear layer behind it.

    Lines along which one pixel changes meet few neurons, all of them of windows that hold it. A normal is read in the
    smallest window outside of which it is zero. It is a kernel if other breakpoints, in other windows and pictures, lie
    where its shifts say; these sharpen it. So a layer costs as much as its kernels, not as its neurons.

    Attributes:
        largest: Windows wider than this belong to no kernel of the first layer.
        most_lines: Lines at most.
        most_reads: Normals read per line at most.
        accept: Largest error on fresh points of a complete network, in units of the square root of the answers'
            relative rounding.
        most_unknowns: Up to so many weights per output the linear layer behind is solved for.

    Source: the idea of reading normals at breakpoints: Carlini, Jagielski, Mironov, CRYPTO 2020 (arXiv:2003.04884).
    Windows, confirmation by shifts and differences under maximum pooling are our own.

    Examples:
        >>> method = uv.SharedKernels(largest=5)
        >>> method.largest  # rows and columns of a kernel, at most
        5
    """

    largest: int = 11
    most_lines: int = 16
    most_reads: int = 12
    accept: float = 10.0
    most_unknowns: int = 3000

    def __call__(self, oracle: Oracle, *, rng: Randomness) -> Identification:
        """Read the kernels. Raises BadInput: the inputs are no picture, or the answers are labels."""
        rng = generator(rng)
        picture = Picture.of(oracle.shape)
        if picture is None:
            raise BadInput(f"shared kernels need inputs that are a picture, (c, h, w) or (h, w); got {oracle.shape}")
        if oracle.answers != "values":
            raise BadInput(f"shared kernels are read from values; {oracle.name} answers {oracle.answers}")
        return _Reading(self, oracle, picture, rng).run()


class _Reading:
    def __init__(self, method: SharedKernels, oracle: Oracle, picture: Picture, rng: np.random.Generator) -> None:
        self.method, self.oracle, self.picture, self.rng = method, oracle, picture, rng
        self.start = oracle.ledger.asked
        self.search = KernelSearch(
            oracle, picture, rng, largest=method.largest, most_lines=method.most_lines, most_reads=method.most_reads
        )
        self.why: list[str] = []
        self.kernels: Kernels | None = None

    def run(self) -> Identification:
        try:
            self.search.run()
            if not self.search.kernels:
                return self._nothing()
            self.kernels = self._measured()
            self.why.append(self.kernels.described())
            network = self._network(self.kernels)
            if network is None:
                return self._end(None, Outcome.approximate, np.inf)
            seen = validate(network, self.oracle, how_many(self.oracle), self.rng)
        except BudgetExceeded:
            if self.kernels is None and self.search.kernels:
                grid = grid_of(self.search.kernels, self.search.met)
                self.kernels = self._described(grid, None, np.full(len(self.search.kernels), np.nan))
                self.why.append(self.kernels.described())
            return self._end(None, Outcome.budget_ended, np.inf)
        assert self.search.noise is not None
        if seen.residual <= self.method.accept * np.sqrt(self.search.noise.relative):
            return self._end(network, Outcome.complete, seen.residual)
        self.why.append(
            f"A linear layer behind the convolution is wrong by {seen.residual:.2g} of the answers' spread at fresh "
            "points: the network goes on behind it."
        )
        return self._end(None, Outcome.approximate, np.inf)

    def _nothing(self) -> Identification:
        search = self.search
        if search.curved:
            self.why.append("The answers curve everywhere: this is no piecewise-linear network.")
        else:
            self.why.append(
                f"No kernel was found: of {len(search.read)} normals read on {len(search.lines)} lines, {search.wide} "
                f"reach over more than a kernel, and {len(search.candidates)} fit into a window but were not met again."
            )
        return self._end(None, Outcome.check_failed, np.inf)

    def _measured(self) -> Kernels:
        """Padding from the corners, and the error on a line that no kernel has seen."""
        search = self.search
        grid = grid_of(search.kernels, search.met)
        fresh = [search.line(search.pixel()) for _ in range(HELD_OUT)]
        _, height, width = self.picture.shape
        ends = (0, 0), (height - 1, width - 1)
        first, last = ([search.line((self._channel(), *end)) for _ in range(LINES_PER_CORNER)] for end in ends)
        padding = padding_of(search.kernels, grid, (first, last), self.picture.shape)
        held_out = np.full(len(search.kernels), np.nan)
        for i, kernel in enumerate(search.kernels):
            met = match(kernel, fresh)
            if not len(met.line):
                # Lines on which rounding hides it: short ones show more.
                met = search.look_beside(kernel).met
            if len(met.line):
                held_out[i] = np.abs(met.equations @ np.append(kernel.weights.ravel(), kernel.bias)).max()
        return self._described(grid, padding, held_out)

    def _channel(self) -> int:
        return int(self.rng.integers(self.picture.shape[0]))

    def _described(
        self, grid: Grid, padding: tuple[int, int, int, int] | None, held_out: Float[np.ndarray, " C"]
    ) -> Kernels:
        search = self.search
        count, channels = len(search.kernels), self.picture.shape[0]
        weights = np.zeros((count, channels, *grid.size))
        for w, kernel, (i, j) in zip(weights, search.kernels, grid.shift, strict=True):
            a, b = kernel.size
            w[:, i : i + a, j : j + b] = kernel.weights
        seen = sum(len(met.line) for met in search.met)
        return Kernels(
            weights=weights,
            bias=np.array([kernel.bias for kernel in search.kernels]),
            error=np.array([kernel.error.max() for kernel in search.kernels]),
            held_out=held_out,
            sightings=np.array([len(met.line) for met in search.met]),
            expected=np.array([_expected(k, search, grid, s) for k, s in zip(search.kernels, grid.shift, strict=True)]),
            stride=grid.stride if seen >= 2 * count else None,
            padding=padding,
            pooling=tuple(sorted(search.shifts)),
            unexplained=len(search.candidates) + search.unknown,
            wide=search.wide,
        )

    def _network(self, kernels: Kernels) -> Network | None:
        """The whole network, where what lies behind may be one linear layer."""
        left = []
        if kernels.pooling:
            left.append(f"the larger one of neurons {', '.join(map(str, kernels.pooling))} apart is taken behind it")
        if kernels.wide:
            left.append(f"{kernels.wide} of the normals read belong to deeper layers")
        if kernels.padding is None:
            left.append("the corners did not show the padding")
        size = unknowns(kernels, self.picture)
        if not left and size > self.method.most_unknowns:
            left.append(f"a linear layer behind it would take {size:,} queries: pass most_unknowns={size}")
        if not left:
            network = with_outputs(kernels, self.picture, self.oracle, self.rng)
            if network is not None:
                return network
            left.append("what lies behind it is no linear layer")
        if kernels.unexplained:
            left.append(f"{kernels.unexplained} normals that fit into a window were met too rarely to be believed")
        self.why.append("What lies behind the first layer was not read: " + "; ".join(left) + ".")
        return None

    def _end(self, network: Network | None, outcome: Outcome, error: float) -> Identification:
        stats: dict[str, Any] = {"lines": len(self.search.lines), "normals_read": len(self.search.read)}
        if self.kernels is not None:
            stats |= {
                "kernels": len(self.kernels),
                "kernel_size": list(self.kernels.weights.shape[2:]),
                "stride": self.kernels.stride,
                "padding": self.kernels.padding,
                "sightings": self.kernels.sightings.tolist(),
                "kernel_error": self.kernels.error.tolist(),
            }
        asked = self.oracle.ledger.asked - self.start
        return Identification(
            network, outcome, asked, error, "shared kernels", tuple(self.why), stats, kernels=self.kernels
        )


def _expected(kernel: Kernel, search: KernelSearch, grid: Grid, shift: Int[np.ndarray, " 2"]) -> int:
    total = 0
    for seen in search.lines:
        where = windows(kernel, seen)
        inside = (where.t > seen.line.low) & (where.t < seen.line.high)
        total += sum(grid.holds(place) for place in where.corner[inside] - shift)
    return total


SURPLUS_ANSWERS_SHARE = 0.1  # answers beyond the unknowns, as a share of them
KERNEL_SIGN_MISFIT = 0.05  # how far from "active above" or "active below" a kernel's sign may come out


def unknowns(kernels: Kernels, picture: Picture) -> int:
    """Queries that the layer behind takes at least; 0 if the convolution is not known."""
    convolution = kernels.convolution(picture)
    return 0 if convolution is None else convolution.output_size + int(np.prod(picture.shape)) + 1


def with_outputs(kernels: Kernels, picture: Picture, oracle: Oracle, rng: np.random.Generator) -> Network | None:
    """The network of a convolution, a ReLU and one linear layer, if the oracle is one.

    Answers are a sum of the neurons, of a linear function and a constant. A kernel whose sign is wrong shows in the
    linear part: relu(-z) = relu(z) - z, in every window of it. Returns the network; None if the linear part is not that
    of some signs: then more lies behind. Queries: `1.1 unknowns + 20`.
    """
    convolution = kernels.convolution(picture)
    assert convolution is not None
    matrix = convolution.matrix()
    positions = convolution.output_size // len(kernels)
    bias = np.repeat(kernels.bias, positions)
    count = int((1 + SURPLUS_ANSWERS_SHARE) * unknowns(kernels, picture)) + 20
    x = oracle.sample(count, rng)
    y = oracle(x)
    flat = picture.planes(x).reshape(count, -1)
    z = (matrix @ flat.T).T + bias
    features = np.concatenate([np.maximum(z, 0), flat, np.ones((count, 1))], axis=1)
    solved = linalg.lstsq(features, y, lapack_driver="gelsy", check_finite=False)[0]
    weights, straight, constant = np.split(solved.T, [len(bias), len(bias) + flat.shape[1]], axis=1)
    # What each kernel would leave behind if its sign were wrong.
    parts = []
    for c in range(len(kernels)):
        rows = slice(c * positions, (c + 1) * positions)
        parts.append(-(matrix[rows].T @ weights[:, rows].T).T.ravel())
    system = np.stack(parts, axis=1)
    wrong = np.linalg.lstsq(system, straight.ravel(), rcond=None)[0]
    left = np.linalg.norm(straight.ravel() - system @ np.round(wrong))
    if np.abs(
        wrong - np.clip(np.round(wrong), 0, 1)
    ).max() > KERNEL_SIGN_MISFIT or left > KERNEL_SIGN_MISFIT * np.linalg.norm(system):
        return None
    sign = np.where(np.round(wrong) == 1, -1.0, 1.0)
    each = np.repeat(sign, positions)
    offset = constant[:, 0] + (weights * bias) @ (each < 0)
    return _network(kernels, picture, sign, weights, offset)


def _network(
    kernels: Kernels,
    picture: Picture,
    sign: Float[np.ndarray, " C"],
    weights: Float[np.ndarray, "m k"],
    offset: Float[np.ndarray, " m"],
) -> Network:
    convolution = kernels.convolution(picture)
    assert convolution is not None
    turned = type(convolution)(
        kernels.weights * sign[:, None, None, None], picture.shape, convolution.stride, convolution.padding
    )
    matrix = turned.matrix()
    bias = np.repeat(kernels.bias * sign, turned.output_size // len(kernels))
    if picture.last:
        c, h, w = picture.shape
        matrix = matrix[:, np.arange(c * h * w).reshape(c, h, w).transpose(1, 2, 0).ravel()]
    first = Layer(matrix, bias, activation("relu"), None if picture.last else turned)
    shape = (picture.shape[1], picture.shape[2], picture.shape[0]) if picture.last else picture.shape
    return Network((first, Layer(weights, offset, activation("identity"))), shape)


ON_GRID = 0.95  # share of the windows met that must lie on the grid: a few more are met by chance


@dataclass(frozen=True)
class Grid:
    """Where windows lie."""

    size: tuple[int, int]  # rows and columns of all kernels
    stride: tuple[int, int]  # rows, columns
    origin: tuple[int, int]  # row and column of some window's corner, modulo the stride
    shift: Int[np.ndarray, "C 2"]  # rows and columns that each kernel lies inside its window

    def holds(self, place: Int[np.ndarray, " 2"]) -> bool:
        """Whether a window lies on it."""
        return all((int(place[a]) - self.origin[a]) % self.stride[a] == 0 for a in range(2))


def grid_of(kernels: list[Kernel], met: list[Matched]) -> Grid:
    """The grid that explains where kernels were met.

    Along each axis the largest stride such that all windows of a kernel leave the same remainder. A kernel with empty
    rows or columns at its edges is put where its windows lie on the grid of the others.
    """
    size, stride, origin, shift = [], [], [], np.zeros((len(kernels), 2), dtype=int)
    for axis in range(2):
        widest = max(kernel.size[axis] for kernel in kernels)
        places = [each.corner[:, axis] for each in met]
        step = _stride(places)
        full = [i for i, kernel in enumerate(kernels) if kernel.size[axis] == widest]
        most = max(full, key=lambda i: len(places[i]))
        rest = _remainder(places[most], step)
        for i, kernel in enumerate(kernels):
            spare = widest - kernel.size[axis]
            own = _remainder(places[i], step)
            shift[i, axis] = min(((own - rest) % step), spare)
        size.append(widest)
        stride.append(step)
        origin.append(rest)
    return Grid((size[0], size[1]), (stride[0], stride[1]), (origin[0], origin[1]), shift)


def padding_of(
    kernels: list[Kernel], grid: Grid, corners: tuple[list[PixelLine], list[PixelLine]], shape: tuple[int, int, int]
) -> tuple[int, int, int, int] | None:
    """Zeros above, left, below and right, or None where no line shows whether there are some.

    A line that moves the first pixel of a picture meets every window that begins in the padding, if there is one; the
    last pixel's every window that ends there. `grid`: where their windows lie. `corners`: lines through the first
    pixel, and through the last.
    """
    ends: list[int] = []
    for which, lines in enumerate(corners):
        for axis in range(2):
            met, could = _rows(kernels, grid, lines, axis)
            size, side = grid.size[axis], shape[1 + axis]
            inner = 0 if which == 0 else side - size
            # The windows that lie inside are there in any case, on the grid.
            first = inner + (grid.origin[axis] - inner) % grid.stride[axis] * (1 if which == 0 else 0)
            if which == 1:
                first = inner - (inner - grid.origin[axis]) % grid.stride[axis]
            places = met | {first}
            end = min(places) if which == 0 else max(places)
            beyond = end - grid.stride[axis] if which == 0 else end + grid.stride[axis]
            reaches = beyond > -size if which == 0 else beyond < side
            if reaches and beyond not in could:
                return None
            ends.append(max(0, -end) if which == 0 else max(0, end + size - side))
    return ends[0], ends[1], ends[2], ends[3]


def _rows(kernels: list[Kernel], grid: Grid, lines: list[PixelLine], axis: int) -> tuple[set[int], set[int]]:
    """Rows (or columns) of windows met, and of those that would have been met if they were there."""
    met, could = set(), set()
    for kernel, shift in zip(kernels, grid.shift, strict=True):
        for place in match(kernel, lines).corner - shift:
            if grid.holds(place):
                met.add(int(place[axis]))
        for seen in lines:
            where = windows(kernel, seen)
            inside = (where.t > seen.line.low) & (where.t < seen.line.high)
            could |= {int(p[axis]) for p in where.corner[inside] - shift if grid.holds(p)}
    return met, could


def _stride(places: list[Int[np.ndarray, " M"]]) -> int:
    spans = [int(np.ptp(p)) for p in places if len(p)]
    for step in range(max(spans, default=1), 1, -1):
        agree = [(p % step == _remainder(p, step)).sum() for p in places]
        if sum(agree) >= ON_GRID * sum(map(len, places)):
            return step
    return 1


def _remainder(places: Int[np.ndarray, " M"], step: int) -> int:
    return int(np.bincount(places % step, minlength=step).argmax()) if len(places) else 0
