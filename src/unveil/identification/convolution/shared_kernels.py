"""SharedKernels: read a first layer that is a convolution off few breakpoints, whatever lies behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.convolution.geometry import Grid, grid_of, padding_of
from unveil.identification.convolution.kernel import Kernel, match, windows
from unveil.identification.convolution.output import unknowns, with_outputs
from unveil.identification.convolution.search import KernelSearch
from unveil.identification.kernels import Kernels
from unveil.identification.method import Identification, Method
from unveil.identification.picture import Picture
from unveil.identification.validation import how_many, validate
from unveil.outcome import BadInput, BudgetExceeded, Outcome
from unveil.whitebox.network import Network

# Lines through either corner of the picture, for the padding, and lines that no kernel has seen, for its error.
CORNERS, HELD_OUT = 2, 1


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

    def __call__(self, oracle: Oracle, *, rng: np.random.Generator) -> Identification:
        """Read the kernels.

        Raises:
            BadInput: The inputs are no picture, or the answers are labels.
        """
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
        first, last = ([search.line((self._channel(), *end)) for _ in range(CORNERS)] for end in ends)
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

    def _described(self, grid: Grid, padding: tuple[int, int, int, int] | None, held_out: np.ndarray) -> Kernels:
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


def _expected(kernel: Kernel, search: KernelSearch, grid: Grid, shift: np.ndarray) -> int:
    total = 0
    for seen in search.lines:
        where = windows(kernel, seen)
        inside = (where.t > seen.line.low) & (where.t < seen.line.high)
        total += sum(grid.holds(place) for place in where.corner[inside] - shift)
    return total
