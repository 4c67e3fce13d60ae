"""Trained networks read from their answers: other people's victims, logits of our own, scikit-learn models as they are.

    python benchmarks/trained.py --victims FOLDER                published victims, small ones first; seeds 0 to 9
    python benchmarks/trained.py --logits                        networks trained here, asked for what they compute
    python benchmarks/trained.py --logits --box --only digits    the same on pixels, asked within [0, 1] only
    python benchmarks/trained.py --logits --defences --only digits
    python benchmarks/trained.py --files examples/digits.onnx --dtype float32 --seeds 1
    python benchmarks/trained.py                                 scikit-learn's, through predict and predict_proba

FOLDER (or the environment's UNVEIL_VICTIMS) holds .npz files of arrays w0, b0, w1, b1, ..., rows are neurons, ReLU
between, the last layer affine. With UNVEIL_DATA naming a folder that has mnist/ in it, MNIST's test images are the
inputs given; nothing of them is told to `identify`, nor any weight. Last bits of all answers are flipped at random, as
another processor would (`tests.helpers.flipped`): each seed is another run on another processor. A network counts as
whole where the outcome is complete, the widths are right, every neuron is matched and none is false, and the outputs at
all fresh and all given inputs are right to 1e-6 of their spread (1e-3 in float32). Complete and not that is `wrong`.
Beside it stands how many of the first layer's neurons were read, of those that switch where it may be asked, and how
many rows were stated that are none. Within a box the neurons that never switch there are no part of what is asked for:
whole is then `complete`, right outputs, every other neuron of the first layer, and none false.

scikit-learn's regressors answer through `predict`, classifiers through `predict_proba`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from gate import OutOfTime, cpu_limit, roundings, victims
from scipy.spatial.distance import cdist
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import unveil as uv
from tests.helpers import flipped
from unveil.audit.sections.defended_weights import defended_weights
from unveil.identification.identify import identify

DATA = ("diabetes", "iris", "wine", "breast_cancer", "digits")
KINDS = ("tanh", "logistic", "relu")
WIDTHS: tuple[tuple[int, ...], ...] = ((8,), (32,), (16, 8), (64,), (32, 16))
# Networks trained here and asked for their logits: data, hidden widths.
LOGITS = (("digits", (32,)), ("digits", (32, 16)), ("breast_cancer", (20, 10)), ("wine", (64, 64)), ("mnist", (64, 32)))
LOGITS += (("mnist", (128, 64)), ("mnist", (512,)), ("mnist", (256, 256)))
# A row whose distance from a true one, both of unit norm and up to sign, is larger is false.
ALIKE = 0.05
# Errors of the outputs, relative to their spread, of a network that was read.
RIGHT = {"float64": 1e-6, "float32": 1e-3}
# Questions allowed, per parameter and in any case.
PER_PARAMETER, ANYWAY = 40, 20_000
# What the papers say of their own attacks on them.
PUBLISHED = {
    "neurips24_mnist784": "Foerster et al., NeurIPS 2024: one layer at a time, those before given; two hidden "
    "layers of 16,721 parameters in 98 minutes",
    "neurips24_cifar3072": "Foerster et al., NeurIPS 2024: signs only. Liu et al., EUROCRYPT 2026: eight layers, "
    "each right on 95 % of the inputs",
    "neurips25": "Train to Defend, NeurIPS 2025: its authors' attack, against training that makes neurons alike",
}


@dataclass(frozen=True)
class Victim:
    """A network to read.

    Attributes:
        name: Where it comes from, and its widths.
        truth: The network.
        given: Inputs of its use, if they are at hand.
        within: The box it may be asked in.
        least: Whether its label is the least output.
    """

    name: str
    truth: uv.Network
    given: np.ndarray | None = None
    within: tuple[float, float] | None = None
    least: bool = False

    def fresh(self, rng: np.random.Generator) -> np.ndarray:
        """Inputs to score at: normal ones; within a box as they come from its corners and from its middle."""
        shape = (10_000, self.truth.n)
        return rng.standard_normal(shape) if self.within is None else rng.beta(0.5, 0.5, shape)

    def label(self, y: np.ndarray) -> np.ndarray:
        """The largest output, or the least; of a single one, its sign."""
        return np.asarray(y[:, 0] > 0 if y.shape[1] == 1 else (-y if self.least else y).argmax(axis=1))

    def switching(self) -> np.ndarray:
        """Which neurons of the first layer switch where it may be asked."""
        layer = self.truth.layers[0]
        weights, middle = layer.dense(), layer.affine(np.full((1, self.truth.n), 0.5))[0]
        return (
            np.linalg.norm(weights, axis=1) > 0 if self.within is None else abs(middle) < abs(weights).sum(axis=1) / 2
        )


@dataclass(frozen=True)
class Run:
    """One reading of one network.

    Attributes:
        name: Of the network, and the precision of its answers.
        seed: Of everything random.
        outcome: As told, `error: ...`, or `out of time`.
        whole: Complete and right.
        wrong: Complete and not right.
        widths: Of what was found.
        fresh: Largest error at fresh normal inputs, relative to the spread of the answers there; inf without a network.
        given: The same at the inputs given, NaN where there are none.
        labels: Share of the inputs given with the same label, of fresh ones where there are none.
        first: Neurons of the first layer that were read, those that there are to read, and false rows.
        rms: Root mean square error at the fresh inputs, relative to the same spread.
        why: What the outcome says of itself.
        queries: Asked in all.
        per_parameter: Queries per parameter of the true network.
        seconds: CPU seconds.
    """

    name: str
    seed: int
    outcome: str
    whole: bool
    wrong: bool
    widths: tuple[int, ...]
    fresh: float
    given: float
    labels: float
    first: tuple[int, int, int]
    rms: float
    why: tuple[str, ...]
    queries: int
    per_parameter: float
    seconds: float


def read(victim: Victim, dtype: str, seed: int, limit: float, most: float) -> Run:
    """Read one network, and score it against the truth afterwards; at most `most` questions per parameter."""
    rng, truth, given = np.random.default_rng([7, seed]), victim.truth, victim.given
    size = sum(layer.dense().size + len(layer.bias) for layer in truth.layers)
    answer = flipped(lambda x: truth(x).astype(dtype), rng, lambda x: roundings(truth, x))
    oracle = uv.as_oracle(answer, truth.n, within=victim.within, budget=int(ANYWAY + most * size))
    start, found = time.process_time(), None
    try:
        with cpu_limit(limit):
            found = identify(oracle, rng=rng)
        outcome = found.outcome.name
    except OutOfTime:
        outcome = "out of time"
    except Exception as error:  # a traceback is a result here
        outcome = f"error: {type(error).__name__}: {error}"
    seconds, queries = time.process_time() - start, oracle.ledger.asked
    complete, first = outcome == "complete", first_layer(victim, found)
    widths, fresh, rms, at_given, labels, matched = (), np.inf, np.inf, np.nan, np.nan, False
    if found is not None and found.network is not None:
        network, x = found.network, victim.fresh(np.random.default_rng([8, seed]))
        widths, (fresh, rms) = network.widths, off(network, truth, x)
        if given is not None:
            at_given, _ = off(network, truth, given)
            x = given
        labels = float(np.mean(victim.label(network(x)) == victim.label(truth(x))))
        if victim.within is not None:
            matched = first[0] == first[1] and not first[2]
        elif network.widths == truth.widths:
            match = uv.compare(network, truth)
            matched = bool(match.layers) and not match.missing and not match.false
    whole = complete and matched and not max(fresh, np.nan_to_num(at_given)) > RIGHT[dtype]
    told, scored = f"{victim.name} {dtype}", (widths, fresh, at_given, labels, first, rms, found.why if found else ())
    return Run(told, seed, outcome, whole, complete and not whole, *scored, queries, queries / size, seconds)


def first_layer(victim: Victim, found: uv.Identification | None) -> tuple[int, int, int]:
    """Neurons of the first layer that were read, those that there are to read, and rows that are none."""
    there, rows = victim.switching(), np.zeros((0, victim.truth.n))
    if found is not None and "rows_read" in found.stats:
        rows = found.stats["rows_read"][0]
    elif found is not None and found.network is not None and found.outcome.name in ("complete", "approximate"):
        rows = found.network.layers[0].dense()
        # Opposite ones only carry an affine part (`found.stats["affine_part"]`).
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
        rows = rows[cdist(unit, -unit).min(axis=1, initial=2.0) > 1e-9]
    if not len(rows):
        return 0, int(there.sum()), 0
    sets = (rows, true := victim.truth.layers[0].dense())
    unit = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-300) for each in sets]
    far = np.minimum(cdist(*unit), cdist(unit[0], -unit[1]))
    met = np.zeros(len(true), dtype=bool)
    met[far.argmin(axis=1)[far.min(axis=1) < ALIKE]] = True
    return int((met & there).sum()), int(there.sum()), int((far.min(axis=1) >= ALIKE).sum())


def off(network: uv.Network, truth: uv.Network, x: np.ndarray) -> tuple[float, float]:
    """Largest error of the outputs and its root mean square, in units of their spread."""
    y = truth(x)
    error, spread = network(x) - y, max(float((y - y.mean(axis=0)).std()), 1e-300)
    return float(np.abs(error).max()) / spread, float(np.sqrt((error**2).mean())) / spread


def idx(name: str, header: int) -> np.ndarray | None:
    """The bytes of one of MNIST's files behind its header, if it is at hand."""
    path = Path(os.environ.get("UNVEIL_DATA", "")) / "mnist" / name
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header) if path.is_file() else None


def mnist() -> np.ndarray | None:
    """MNIST's test images, if they are at hand."""
    pixels = idx("t10k-images-idx3-ubyte.gz", 16)
    return None if pixels is None else pixels.reshape(-1, 784) / 255.0


def cifar() -> np.ndarray | None:
    """A hundred of CIFAR-10's test images, if they are at hand (cifar10/eran_cifar10_test.csv: label, pixels)."""
    path = Path(os.environ.get("UNVEIL_DATA", "")) / "cifar10" / "eran_cifar10_test.csv"
    return np.loadtxt(path, delimiter=",")[:, 1:] / 255.0 if path.is_file() else None


def logits(data: str, widths: tuple[int, ...], box: bool, only: str = "") -> Victim | None:
    """A ReLU network trained here (MNIST: on its test images), without its softmax, and these inputs; one at least
    whose name contains `only`, with the type of its answers behind it."""
    if data == "mnist":
        images, labels = mnist(), idx("t10k-labels-idx1-ubyte.gz", 8)
        if images is None or labels is None:
            return None
        x, y = images, labels
    else:
        x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
        scaler = MinMaxScaler() if box else StandardScaler()
        x = scaler.fit_transform(x)
    kind = MLPRegressor if data == "wine" else MLPClassifier
    classes = 1 if data == "wine" else len(np.unique(y))
    name = f"{data} {'-'.join(map(str, (x.shape[1], *widths, classes if classes > 2 else 1)))}"
    name += " in [0, 1]" if box else ""
    if not any(only in f"{name} {dtype}" for dtype in RIGHT):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = kind(hidden_layer_sizes=widths, max_iter=30 if data == "mnist" else 300, random_state=0)
        model.fit(x, y.astype(float) if data == "wine" else y)
    truth = uv.Network.from_weights([(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)])
    return Victim(name, truth, np.asarray(x), (0.0, 1.0) if box else None)


def from_file(path: Path) -> Victim:
    """A network of ReLU layers from a file, with MNIST's test images where they fit; ACAS Xu takes the least score."""
    truth = uv.load(path)
    name = f"{path.stem} {'-'.join(map(str, (truth.n, *truth.widths)))}"
    return Victim(name, truth, mnist() if truth.n == 784 else None, least=path.stem.startswith("ACASXU"))


HEAD = (
    f"{'network':48s} {'whole':>6s} {'wrong':>5s} {'worst error, fresh':>18s} {'rms':>8s} {'given':>8s} {'labels':>8s} "
    f"{'layer 1':>8s} {'false':>5s} "
    f"{'q/par':>6s} {'most':>6s} {'CPU s':>6s} {'most':>6s}  outcomes; not whole: seeds"
)


def row(runs: list[Run]) -> str:
    """All seeds of one network; errors, queries and seconds of those read whole, of all where none was."""
    good = [run for run in runs if run.whole] or runs
    fresh, given, rms = (max(getattr(run, key) for run in good) for key in ("fresh", "given", "rms"))
    least, there = min(run.first[0] for run in runs), runs[0].first[1]
    labels = min(run.labels for run in good)
    asked = [run.per_parameter for run in good]
    seconds = [run.seconds for run in runs]
    outcomes = [run.outcome for run in runs]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in sorted(set(outcomes)))
    failed = [run.seed for run in runs if not run.whole]
    return (
        f"{runs[0].name:48s} {sum(run.whole for run in runs):3d}/{len(runs):2d} {sum(run.wrong for run in runs):5d} "
        f"{fresh:18.1e} {rms:8.1e} {given:8.1e} {labels:8.3%} {f'{least}/{there}':>8s} "
        f"{sum(run.first[2] for run in runs):5d} {np.median(asked):6.2f} {max(asked):6.2f} "
        f"{np.median(seconds):6.1f} {max(seconds):6.1f}  {counts}" + (f"; {failed}" if failed else "")
    )


def defences(victim: Victim, limit: float) -> None:
    """What of the weights still comes out of coarser answers: float32, decimal places, labels."""
    oracle = uv.as_oracle(victim.truth, victim.truth.n, within=victim.within)
    plain = identify(oracle, rng=np.random.default_rng(40))
    with cpu_limit(limit):
        for each in defended_weights(oracle, plain, "float64", rng=np.random.default_rng(41)):
            ended = "-" if each.outcome is None else each.outcome.name
            print(f"{victim.name:30s} {each.name:24s} {ended:14s} {each.queries:9,d}  {each.words}", flush=True)


def table(networks: list[Victim], options: argparse.Namespace) -> None:
    """One row per network, kept as they come."""
    print(HEAD, flush=True)
    kept: list[Run] = []
    for victim in networks:
        name = victim.name
        for dtype in options.dtype:
            if options.only not in f"{name} {dtype}":
                continue
            runs = []
            for seed in range(options.first, options.first + options.seeds):
                run = read(victim, dtype, seed, options.limit, options.most)
                runs.append(run)
                if options.each:
                    print(f"    {run}", flush=True)
            print(row(runs), flush=True)
            for start, text in PUBLISHED.items():
                if name.startswith(start):
                    print(f"    published: {text}", flush=True)
            kept += runs
            if options.json:
                options.json.write_text(json.dumps([asdict(run) for run in kept], indent=1) + "\n")


def trained(data: str, widths: tuple[int, ...], activation: str) -> tuple[MLPClassifier | MLPRegressor, np.ndarray]:
    """The network after 300 passes, and its data, each feature of mean 0 and deviation 1."""
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    kind = MLPRegressor if data == "diabetes" else MLPClassifier
    if data == "diabetes":
        y = (y - y.mean()) / y.std()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = kind(hidden_layer_sizes=widths, activation=activation, max_iter=300, random_state=0).fit(x, y)
    return model, x


def line(data: str, widths: tuple[int, ...], activation: str, seed: int) -> str:
    """Train, find, score."""
    model, x = trained(data, widths, activation)
    ask = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    size = sum(w.size + b.size for w, b in zip(model.coefs_, model.intercepts_, strict=True))
    oracle = uv.as_oracle(ask, shape=x.shape[1])
    before = time.process_time()
    found = identify(oracle, rng=np.random.default_rng(seed))
    seconds = time.process_time() - before
    told = (
        f"{data:<14} {activation:<9} {'-'.join(map(str, (x.shape[1], *widths, model.n_outputs_))):<14} "
        f"{found.outcome.name:<13} {found.queries:>9,} queries ({found.queries / size:6.2f} per parameter) "
        f"{seconds:6.1f} s"
    )
    if found.network is None:
        return told
    theirs, ours = oracle(x), found.network(x)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    told += f"  {'-'.join(map(str, found.network.widths)):<12} error {error:7.1e}"
    if ask == model.predict:
        return told
    same = int((oracle.predictions(ours) == oracle.predictions(theirs)).sum())
    return f"{told}  {same:,} of {len(x):,} predictions"


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("UNVEIL_VICTIMS")
    parser.add_argument("--victims", type=Path, default=folder and Path(folder), help="folder of .npz files")
    parser.add_argument("--logits", action="store_true", help="networks trained here, asked for their logits")
    parser.add_argument("--box", action="store_true", help="with --logits: inputs scaled to [0, 1], asked within it")
    parser.add_argument("--defences", action="store_true", help="with --logits: what coarser answers leave to read")
    parser.add_argument("--files", type=Path, nargs="+", help="networks of ReLU layers from files (ONNX)")
    parser.add_argument("--most", type=float, default=PER_PARAMETER, help="questions allowed per parameter")
    parser.add_argument("--only", default="", help="networks whose name contains this, such as '16x2'")
    parser.add_argument("--dtype", choices=tuple(RIGHT), nargs="+", default=("float64",))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--limit", type=float, default=300.0, help="CPU seconds for one reading")
    parser.add_argument("--each", action="store_true", help="print every reading")
    parser.add_argument("--json", type=Path, help="keep every reading here")
    parser.add_argument("--full", action="store_true", help="all widths")
    parser.add_argument("--data", choices=DATA, nargs="+", default=DATA)
    parser.add_argument("--activation", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--seed", type=int, default=0, help="of scikit-learn's models")
    options = parser.parse_args()
    if options.files:
        table([from_file(path) for path in options.files], options)
    elif options.logits:
        every = (logits(data, widths, options.box, options.only) for data, widths in LOGITS)
        networks = [each for each in every if each]
        if not options.defences:
            table(networks, options)
        for each in networks if options.defences else []:
            if options.only in each.name:
                defences(each, options.limit)
    elif options.victims:
        found = victims(options.victims).items()
        named = [Victim(name, net, {784: mnist, 3072: cifar}.get(net.n, lambda: None)()) for name, net in found]
        table(
            sorted(named, key=lambda each: (len(each.truth.layers), each.truth.n * each.truth.layers[0].neurons)),
            options,
        )
    else:
        for activation in options.activation:
            for data in options.data:
                for widths in WIDTHS if options.full else WIDTHS[:3]:
                    print(line(data, widths, activation, options.seed), flush=True)


if __name__ == "__main__":
    main()
