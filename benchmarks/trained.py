"""Trained networks read from their answers: other people's victims, logits of our own, scikit-learn models as they are.

    python benchmarks/trained.py --victims FOLDER                published victims, small ones first; seeds 0 to 9
    python benchmarks/trained.py --victims FOLDER --only 16x2 --seeds 3 --limit 60
    python benchmarks/trained.py --logits                        networks trained here, asked for what they compute
    python benchmarks/trained.py                                 scikit-learn's, through predict and predict_proba
    python benchmarks/trained.py --full --data digits --activation relu

FOLDER (or the environment's UNVEIL_VICTIMS) holds .npz files of arrays w0, b0, w1, b1, ..., rows are neurons, ReLU
between, the last layer affine. With UNVEIL_DATA naming a folder that has mnist/ in it, MNIST's test images are the
inputs given; nothing of them is told to `identify`, nor any weight. Last bits of all answers are flipped at random, as
another processor would (`tests.helpers.flipped`): each seed is another run on another processor. A network counts as
whole where the outcome is complete, the widths are right, every neuron is matched and none is false, and the outputs at
all fresh and all given inputs are right to 1e-6 of their spread (1e-3 in float32). Complete and not that is `wrong`.

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
from gate import cpu_limit, roundings, victims
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

import unveil as uv
from tests.helpers import flipped
from unveil.blackbox.sources import as_oracle
from unveil.identification.identify import identify

DATA = ("diabetes", "iris", "wine", "breast_cancer", "digits")
WIDTHS: tuple[tuple[int, ...], ...] = ((8,), (32,), (16, 8), (64,), (32, 16))
# Networks trained here and asked for their logits: data, hidden widths.
LOGITS = (("digits", (32,)), ("digits", (32, 16)), ("breast_cancer", (20, 10)), ("wine", (64, 64)), ("mnist", (64, 32)))
LOGITS += (("mnist", (128, 64)), ("mnist", (512,)), ("mnist", (256, 256)))
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
    "asiacrypt24": "Chen et al., ASIACRYPT 2024: from labels (2^19.4 to 2^20.3 of them)",
}


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
        labels: Share of the inputs given with the same label, NaN where there are none.
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
    queries: int
    per_parameter: float
    seconds: float


def read(name: str, truth: uv.Network, given: np.ndarray | None, dtype: str, seed: int, limit: float) -> Run:
    """Read one network, and score it against the truth afterwards."""
    rng = np.random.default_rng([7, seed])
    size = sum(layer.dense().size + len(layer.bias) for layer in truth.layers)
    answer = flipped(lambda x: truth(x).astype(dtype), rng, lambda x: roundings(truth, x))
    oracle = uv.as_oracle(answer, truth.n, budget=ANYWAY + PER_PARAMETER * size)
    start, found = time.process_time(), None
    try:
        with cpu_limit(limit):
            found = identify(oracle, rng=rng)
        outcome = found.outcome.name
    except Exception as error:  # a traceback is a result here
        outcome = "out of time" if type(error).__name__ == "OutOfTime" else f"error: {type(error).__name__}: {error}"
    seconds, queries = time.process_time() - start, oracle.ledger.asked
    widths, fresh, at_given, labels, matched = (), np.inf, np.nan, np.nan, False
    if found is not None and found.network is not None:
        network = found.network
        widths = network.widths
        fresh = off(network, truth, np.random.default_rng([8, seed]).standard_normal((10_000, truth.n)))
        if given is not None:
            at_given = off(network, truth, given)
            labels = float(np.mean(label(network(given)) == label(truth(given))))
        if network.widths == truth.widths:
            match = uv.compare(network, truth)
            matched = bool(match.layers) and not match.missing and not match.false
    complete = outcome == "complete"
    whole = complete and matched and not max(fresh, np.nan_to_num(at_given)) > RIGHT[dtype]
    wrong = complete and not whole
    told = f"{name} {dtype}"
    return Run(told, seed, outcome, whole, wrong, widths, fresh, at_given, labels, queries, queries / size, seconds)


def off(network: uv.Network, truth: uv.Network, x: np.ndarray) -> float:
    """Largest error of the outputs in units of their spread."""
    y = truth(x)
    return float(np.abs(network(x) - y).max() / max(float((y - y.mean(axis=0)).std()), 1e-300))


def label(y: np.ndarray) -> np.ndarray:
    """The largest output; of a single one, its sign."""
    return np.asarray(y[:, 0] > 0 if y.shape[1] == 1 else y.argmax(axis=1))


def idx(name: str, header: int) -> np.ndarray | None:
    """The bytes of one of MNIST's files behind its header, if it is at hand."""
    path = Path(os.environ.get("UNVEIL_DATA", "")) / "mnist" / name
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header) if path.is_file() else None


def mnist() -> np.ndarray | None:
    """MNIST's test images, if they are at hand."""
    pixels = idx("t10k-images-idx3-ubyte.gz", 16)
    return None if pixels is None else pixels.reshape(-1, 784) / 255.0


def logits(data: str, widths: tuple[int, ...]) -> tuple[str, uv.Network, np.ndarray] | None:
    """A ReLU network trained here (MNIST: on its test images), without its softmax, and these inputs."""
    if data == "mnist":
        images, labels = mnist(), idx("t10k-labels-idx1-ubyte.gz", 8)
        if images is None or labels is None:
            return None
        x, y = images, labels
    else:
        x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
        x = StandardScaler().fit_transform(x)
    kind = MLPRegressor if data == "wine" else MLPClassifier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = kind(hidden_layer_sizes=widths, max_iter=30 if data == "mnist" else 300, random_state=0)
        model.fit(x, y.astype(float) if data == "wine" else y)
    weights = [(w.T.copy(), b.copy()) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    truth = uv.Network.from_weights(weights)
    return f"{data} {'-'.join(map(str, truth.widths))}", truth, np.asarray(x)


def asked_for(data: str, widths: tuple[int, ...], only: str) -> bool:
    """Whether `--only` may mean this network: others need not be trained."""
    told = f"{data} {'-'.join(map(str, widths))}"
    return only in told or only.startswith(told) or not any(name in only for name, _ in LOGITS)


HEAD = (
    f"{'network':48s} {'whole':>6s} {'wrong':>5s} {'worst error, fresh':>18s} {'given':>8s} {'labels':>7s} "
    f"{'q/par':>6s} {'most':>6s} {'CPU s':>6s} {'most':>6s}  outcomes; not whole: seeds"
)


def row(runs: list[Run]) -> str:
    """All seeds of one network; errors, queries and seconds of those read whole, of all where none was."""
    good = [run for run in runs if run.whole] or runs
    fresh, given = max(run.fresh for run in good), max(run.given for run in good)
    labels = min(run.labels for run in good)
    asked = [run.per_parameter for run in good]
    seconds = [run.seconds for run in runs]
    outcomes = [run.outcome for run in runs]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in sorted(set(outcomes)))
    failed = [run.seed for run in runs if not run.whole]
    return (
        f"{runs[0].name:48s} {sum(run.whole for run in runs):3d}/{len(runs):2d} {sum(run.wrong for run in runs):5d} "
        f"{fresh:18.1e} {given:8.1e} {labels:7.2%} {np.median(asked):6.2f} {max(asked):6.2f} "
        f"{np.median(seconds):6.1f} {max(seconds):6.1f}  {counts}" + (f"; {failed}" if failed else "")
    )


def table(networks: list[tuple[str, uv.Network, np.ndarray | None]], options: argparse.Namespace) -> None:
    """One row per network, kept as they come."""
    print(HEAD)
    kept: list[Run] = []
    for name, truth, given in networks:
        for dtype in options.dtype:
            if options.only not in f"{name} {dtype}":
                continue
            runs = []
            for seed in range(options.first, options.first + options.seeds):
                run = read(name, truth, given, dtype, seed, options.limit)
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
    oracle = as_oracle(ask, shape=x.shape[1])
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
    parser.add_argument("--only", default="", help="networks whose name contains this, such as '16x2'")
    parser.add_argument("--dtype", choices=tuple(RIGHT), nargs="+", default=("float64",))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--limit", type=float, default=300.0, help="CPU seconds for one reading")
    parser.add_argument("--each", action="store_true", help="print every reading")
    parser.add_argument("--json", type=Path, help="keep every reading here")
    parser.add_argument("--full", action="store_true", help="all widths")
    parser.add_argument("--data", choices=DATA, nargs="+", default=DATA)
    parser.add_argument(
        "--activation", choices=("tanh", "logistic", "relu"), nargs="+", default=("tanh", "logistic", "relu")
    )
    parser.add_argument("--seed", type=int, default=0, help="of scikit-learn's models")
    options = parser.parse_args()
    if options.logits:
        wanted = [pair for pair in LOGITS if asked_for(*pair, options.only)]
        table([each for data, widths in wanted if (each := logits(data, widths))], options)
    elif options.victims:
        images = mnist()
        named = [(name, net, images if net.n == 784 else None) for name, net in victims(options.victims).items()]
        table(sorted(named, key=lambda each: (len(each[1].layers), each[1].n * each[1].layers[0].neurons)), options)
    else:
        for activation in options.activation:
            for data in options.data:
                for widths in WIDTHS if options.full else WIDTHS[:3]:
                    print(line(data, widths, activation, options.seed), flush=True)


if __name__ == "__main__":
    main()
