"""Is what is stated true? Random trials of a verb, each held against exact truth.

python benchmarks/calibration.py span|labels|identify [--trials 1000] [--first-seed 0] [--seconds 60] [--json FILE]
[--kernel Haswell]

A trial draws a network, the form of its answers and the inputs it takes from a broad distribution, asks through a
counter of its own, and compares what the verb states with what is so. Every trial has a seed and can be repeated alone
(`--trials 1 --first-seed SEED --tell`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import unveil as uv
from unveil.testing import Answered, KnownModel, known_model

PIECEWISE = ("relu", "relu", "relu", "leaky", "abs", "maxout", "hardtanh", "relu6")
SMOOTH = ("tanh", "tanh", "sigmoid", "softplus", "gelu", "sin")
UNSEEN = 0.01  # a direction that matters at fewer of the inputs than this may be missed
REACH = (1.0, 3.0, 30.0)  # scales at which a network that was read is held against the truth


@dataclass
class Trial:
    """One model as it is asked, with its truth."""

    seed: int
    model: KnownModel
    source: Answered
    options: dict[str, Any] = field(default_factory=dict)
    x: np.ndarray | None = None
    told: dict[str, Any] = field(default_factory=dict)


def _first_layer(model: KnownModel, how: str, rng: np.random.Generator) -> KnownModel:
    """The same network with a first layer that is sparse, badly scaled, nearly dependent, or falls off."""
    (w, b), *rest = model.weights
    k = len(w)
    if how == "sparse":
        w = np.where(rng.random(w.shape) < max(0.1, 2 / w.shape[1]), w, 0.0)
        w[:, rng.integers(w.shape[1])] += 0.5
    elif how == "scaled":
        w = w * 10 ** rng.uniform(-3, 0, (k, 1))
    elif how == "dependent" and k > 1:
        w = w.copy()
        w[-1] = w[0] + 10 ** rng.uniform(-8, -2) * w[-1]
    elif how == "falling":
        u, s, v = np.linalg.svd(w, full_matrices=False)
        w = (u * (s[0] * rng.uniform(0.3, 0.8) ** np.arange(len(s)))) @ v
    elif how == "rare":
        b = b - rng.uniform(1.5, 3.5, k) * np.linalg.norm(w, axis=1) * (rng.random(k) < 0.3)
    elif how == "biased":
        b = b + 5 * np.linalg.norm(w, axis=1) * rng.standard_normal(k)
    elif how == "dead" and rest:
        v, c = rest[0]
        v = np.where(rng.random(v.shape[1]) < 0.2, 0.0, v)
        rest = [(v, c), *rest[1:]]
    w = w.astype(model.dtype).astype(np.float64)
    return KnownModel(((w, b), *rest), model.activation, model.dtype)


def draw_span(seed: int, labels: bool = False) -> Trial:
    """A trial of `row_span`."""
    rng = np.random.default_rng([seed, 1])
    n = int(np.exp(rng.uniform(np.log(5), np.log(120 if not labels else 40))))
    depth = int(rng.integers(1, 5))
    kind = rng.choice(["piecewise", "smooth", "linear"], p=[0.55, 0.37, 0.08])
    activation = str(rng.choice(PIECEWISE if kind == "piecewise" else SMOOTH))
    m = int(rng.choice([1, 2, 3, 5, 10]))
    k = int(rng.integers(1, max(2, min(n, 30))))
    widths = [k, *(int(v) for v in rng.integers(2, 20, depth - 1))]
    sizes = (n, m) if kind == "linear" else (n, *widths, m)
    dtype = np.float64 if rng.random() < 0.6 else np.float32
    model = known_model(sizes, activation, rng=rng, bias=float(rng.choice([0.0, 0.3, 1.0])), dtype=dtype)
    how = str(
        rng.choice(
            ["plain", "sparse", "scaled", "dependent", "falling", "rare", "biased", "dead"], p=[0.5] + [0.5 / 7] * 7
        )
    )
    if kind != "linear":
        model = _first_layer(model, how, rng)
    answer: dict[str, Any] = {"kind": np.dtype(dtype).name, "rng": np.random.default_rng([seed, 2]), "flips": 1.0}
    form = str(
        rng.choice(
            ["full", "float16", "bfloat16", "decimals", "noise", "softmax"], p=[0.6, 0.06, 0.04, 0.1, 0.08, 0.12]
        )
    )
    if form in ("float16", "bfloat16"):
        answer["kind"] = form
    elif form == "decimals":
        answer["decimals"] = int(rng.integers(2, 7))
    elif form == "softmax" and m > 1:
        answer["form"] = "probabilities"
    options: dict[str, Any] = {}
    if form == "noise":
        answer["noise"] = float(10 ** rng.uniform(-6, -0.5))
        options["noisy"] = True
    if labels:
        answer = {"form": "labels", "rng": answer["rng"]}
        options = {"answers": "labels"}
        form = "labels"
    x = None
    place = str(rng.choice(["free", "box", "grid", "counts", "units"], p=[0.62, 0.14, 0.1, 0.04, 0.1]))
    if place in ("box", "grid"):
        options["within"] = (0, 1)
        model = _moved(model, np.full(n, 0.5), np.full(n, 0.3))
        if place == "grid":
            options["grid"] = 1 / 255
    elif place == "counts":
        options |= {"within": (0, 49), "grid": 1.0}
        model = _moved(model, np.full(n, 20.0), np.full(n, 14.0))
    elif place == "units":
        deviation = np.exp(rng.uniform(np.log(3e-2), np.log(1e2), n))
        centre = 3 * deviation * rng.standard_normal(n)
        model = _moved(model, centre, deviation)
        x = centre + deviation * rng.standard_normal((300, n))
    if rng.random() < 0.06:
        options["budget"] = int(10 ** rng.uniform(2.5, 4.5))
    told = {
        "sizes": sizes, "activation": "identity" if kind == "linear" else activation, "dtype": np.dtype(dtype).name,
        "first": how, "answers": form, "place": place, "budget": options.get("budget"),
    }  # fmt: skip
    return Trial(seed, model, Answered(model, **answer), options, x, told)


def _moved(model: KnownModel, centre: np.ndarray, deviation: np.ndarray) -> KnownModel:
    """The model behind a scaler: it is given (x - centre) / deviation."""
    (w, b), *rest = model.weights
    return KnownModel(((w / deviation, b - w @ (centre / deviation)), *rest), model.activation, model.dtype)


def plain(trial: Trial) -> bool:
    """Whether the README's examples are like this one."""
    told = trial.told
    usual = told["first"] == "plain" and told["answers"] == "full" and told["place"] == "free"
    return bool(usual and told["budget"] is None and told["activation"] in ("relu", "tanh", "softplus", "sigmoid"))


def _as_answered(trial: Trial) -> KnownModel:
    """The model as its answers show it: a softmax, or a label, hides what all outputs have in common."""
    if trial.source.form not in ("probabilities", "labels") or trial.model.m == 1:
        return trial.model
    *before, (w, b) = trial.model.weights
    return KnownModel((*before, (w - w.mean(axis=0), b - b.mean())), trial.model.activation, trial.model.dtype)


def run_span(trial: Trial) -> dict[str, Any]:
    """What `row_span` states of a trial, and what is so."""
    oracle = uv.as_oracle(trial.source, trial.model.n, **trial.options)
    given = {} if trial.x is None else {"x": trial.x}
    span = uv.row_span(oracle, rng=np.random.default_rng([trial.seed, 3]), **given)
    model = _as_answered(trial)
    rows = model.rows
    error = float(np.linalg.norm(span.basis - span.basis @ rows.T @ rows, 2)) if span.rank else 0.0
    rng = np.random.default_rng([trial.seed, 4])
    x = oracle.sample(2000, rng) if trial.x is None else trial.x
    gradients = model.gradients(x).reshape(len(x), -1, trial.model.n)
    whole = np.linalg.norm(gradients, axis=(1, 2))
    outside = np.linalg.norm(gradients - gradients @ span.basis.T @ span.basis, axis=(1, 2))
    size = float(np.sqrt(np.mean(whole**2)))
    seen = outside > max(1e-4, 10 * span.accuracy) * size if span.rank else outside > 1e-9 * max(size, 1e-300)
    return {
        "outcome": span.outcome.name, "rank": span.rank, "true_rank": len(rows), "stated": float(span.accuracy),
        "error": error, "missed_at": float(np.mean(seen)) if size else 0.0, "left_out": float(span.left_out),
        "truly_left_out": float(np.sqrt(np.mean(outside**2))) / size if size else 0.0,
        "queries": span.queries, "counted": trial.source.counted["questions"],
    }  # fmt: skip


def draw_identify(seed: int) -> Trial:
    """A trial of `identify`: small enough that a thousand can be run."""
    rng = np.random.default_rng([seed, 5])
    n = int(rng.integers(4, 13))
    depth = int(rng.choice([1, 1, 2]))
    widths = [int(v) for v in rng.integers(2, n + 1, depth)]
    activation = str(rng.choice(["relu", "relu", "relu", "tanh", "sigmoid", "softplus", "leaky", "gelu", "sin"]))
    m = int(rng.choice([1, 2, 3]))
    dtype = np.float64 if rng.random() < 0.55 else np.float32
    model = known_model((n, *widths, m), activation, rng=rng, bias=float(rng.choice([0.3, 1.0])), dtype=dtype)
    how = str(rng.choice(["plain", "scaled", "rare", "sparse", "dependent"], p=[0.6, 0.1, 0.1, 0.1, 0.1]))
    model = _first_layer(model, how, rng)
    answer: dict[str, Any] = {"kind": np.dtype(dtype).name, "rng": np.random.default_rng([seed, 6]), "flips": 1.0}
    form = str(rng.choice(["full", "softmax", "decimals"], p=[0.85, 0.1, 0.05]))
    if form == "softmax" and m > 1:
        answer["form"] = "probabilities"
    elif form == "decimals":
        answer["decimals"] = int(rng.integers(3, 7))
    options: dict[str, Any] = {"budget": 400_000}
    if rng.random() < 0.1:
        options["within"] = (-1, 1)
    told = {
        "sizes": (n, *widths, m), "activation": activation, "dtype": np.dtype(dtype).name, "first": how,
        "answers": form, "place": "box" if "within" in options else "free", "budget": 400_000,
    }  # fmt: skip
    return Trial(seed, model, Answered(model, **answer), options, None, told)


def run_identify(trial: Trial) -> dict[str, Any]:
    """What `identify` states of a trial, and how far the network is from the truth, further out as well."""
    oracle = uv.as_oracle(trial.source, trial.model.n, **trial.options)
    found = uv.identify(oracle, rng=np.random.default_rng([trial.seed, 7]))
    rng = np.random.default_rng([trial.seed, 8])
    errors = []
    for scale in REACH if oracle.within is None else (1.0,):
        x = oracle.nearest(scale * oracle.sample(4000, rng))
        y = np.asarray(trial.model(x), dtype=np.float64)
        if oracle.reference is not None:
            y = np.delete(y - y[:, [oracle.reference]], oracle.reference, axis=1)
        if found.network is None:
            errors.append(1.0)
            continue
        spread = float(np.abs(y - y.mean(axis=0)).max()) or 1.0
        errors.append(float(np.abs(found.network(x)[:, : y.shape[1]] - y).max()) / spread)
    return {
        "outcome": found.outcome.name, "method": found.method, "stated": float(found.residual), "error": errors[0],
        "errors": errors, "queries": found.queries, "counted": trial.source.counted["questions"],
        "uncertainty": _number(found.stats.get("uncertainty")),
    }  # fmt: skip


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(np.max(value))
    except (TypeError, ValueError):
        return None


VERBS = {
    "span": (draw_span, run_span),
    "labels": (lambda seed: draw_span(seed, labels=True), run_span),
    "identify": (draw_identify, run_identify),
}


class Endless(BaseException):
    """A trial took longer than allowed. No Exception: inside the model's answer that would be taken for its error."""


def _ring(*_: object) -> None:
    raise Endless


def once(verb: str, seed: int, seconds: int) -> dict[str, Any]:
    """One trial as one flat record, however it ends."""
    draw, run = VERBS[verb]
    trial = draw(seed)
    record: dict[str, Any] = {"seed": seed, **trial.told, "plain": plain(trial)}
    start = time.process_time()
    signal.signal(signal.SIGVTALRM, _ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record |= run(trial)
    except Endless:
        record["outcome"] = "endless"
    except uv.UnveilError as said:
        record |= {"outcome": f"refused ({type(said).__name__})", "text": str(said)[:200]}
    except Exception as error:
        at = [f for f in traceback.extract_tb(error.__traceback__) if "unveil" in f.filename][-1:]
        place = f"{Path(at[0].filename).name}:{at[0].lineno}" if at else "?"
        record |= {"outcome": "traceback", "text": f"{type(error).__name__} at {place}: {str(error)[:120]}"}
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return record | {"cpu": time.process_time() - start}


def _exceeds(records: list[dict[str, Any]], times: float = 1.0) -> int:
    # Below a few roundings of float64 the truth itself is not known better.
    return sum(r["error"] > times * r["stated"] + 2e-14 for r in records)


def summary(verb: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The table's rows."""
    by: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by.setdefault(record["outcome"], []).append(record)
    done = by.get("complete", [])
    rows: dict[str, Any] = {"trials": len(records), "outcomes": dict(Counter(r["outcome"] for r in records))}
    if verb == "identify":
        wrong = [r for r in done if max(r["errors"]) > max(10 * r["stated"], 1e-3 if r["dtype"] == "float32" else 1e-5)]
        rows["complete and wrong"] = [len(wrong), len(done)]
        single = [r for r in done if r["dtype"] == "float32"]
        rows["of them float32"] = [sum(r["dtype"] == "float32" for r in wrong), len(single)]
        rows["complete at depth 1"] = [
            sum(len(r["sizes"]) == 3 for r in done),
            sum(len(r["sizes"]) == 3 for r in records),
        ]
        rows["wrong"] = [r["seed"] for r in wrong]
    else:
        near = by.get("approximate", [])
        rows["complete, error above the stated one"] = [_exceeds(done), len(done)]
        rows["by two times; by ten"] = [_exceeds(done, 2), _exceeds(done, 10)]
        rows["complete, a direction missed that matters at over 1 %"] = sum(r["missed_at"] > UNSEEN for r in done)
        rows["approximate, error above; by ten"] = [_exceeds(near), _exceeds(near, 10), len(near)]
        off = [r for r in near if r["truly_left_out"] > 3 * r["left_out"] + 1e-9]
        rows["approximate, more than three times as much left out as stated"] = [len(off), len(near)]
        nothing = by.get("nothing_to_find", [])
        rows["false nothing to find"] = [sum(r["missed_at"] > UNSEEN for r in nothing), len(nothing)]
        full = by.get("full_rank", [])
        rows["false full rank"] = [sum(r["true_rank"] < r["rank"] for r in full), len(full)]
        ratio = [r["stated"] / r["error"] for r in done if r["error"] > 2e-14]
        rows["stated over true error, median; 90 %"] = np.quantile(ratio, [0.5, 0.9]).tolist() if ratio else []
        easy = [r for r in records if r["plain"]]
        rows["README-like: complete"] = [sum(r["outcome"] in ("complete", "full_rank") for r in easy), len(easy)]
        rows["seeds"] = [r["seed"] for r in done if r["error"] > r["stated"] + 2e-14][:20]
    rows["tracebacks"] = len(by.get("traceback", []))
    rows["not ended"] = len(by.get("endless", []))
    rows["counted otherwise than stated"] = sum("counted" in r and r["counted"] < r["queries"] for r in records)
    rows["queries"] = int(sum(r.get("queries", 0) for r in records))
    rows["cpu"] = round(sum(r["cpu"] for r in records))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60, help="processor seconds a trial may take")
    parser.add_argument("--json", type=Path, help="one record per line, written as trials end")
    parser.add_argument("--kernel", help="run under another BLAS kernel, e.g. Haswell")
    parser.add_argument("--tell", action="store_true", help="print every trial")
    given = parser.parse_args()
    if given.kernel and os.environ.get("OPENBLAS_CORETYPE") != given.kernel:
        sys.exit(
            subprocess.run([sys.executable, *sys.argv], env=os.environ | {"OPENBLAS_CORETYPE": given.kernel}).returncode
        )
    from threadpoolctl import threadpool_info

    print("BLAS kernels:", sorted({str(i.get("architecture")) for i in threadpool_info()}))
    np.seterr(all="ignore")
    records = []
    for seed in range(given.first_seed, given.first_seed + given.trials):
        records.append(once(given.verb, seed, given.seconds))
        if given.json:
            with given.json.open("a") as file:
                file.write(json.dumps(records[-1], default=str) + "\n")
        if given.tell:
            print(records[-1], flush=True)
    for name, value in summary(given.verb, records).items():
        print(f"{name:62s} {value}")


if __name__ == "__main__":
    main()
