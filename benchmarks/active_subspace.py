"""Active subspaces: ours beside finite differences, quadratics, outer products of gradients and SALib.

Run `python benchmarks/active_subspace.py --keep runs.jsonl`; it needs torch (exact gradients by autograd) and SALib
(`pip install SALib`; without it that column is empty). `--only otl,borehole+noise`, `--budgets 100,500` and
`--seeds 10` choose; every run is one line of the kept file, and one that is there already is not made again.
`--table` only prints the medians of what is kept.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from simulators import FUNCTIONS, HALF, reference, scaled, spoiled

import unveil as uv

# What the median over the seeds shall not exceed: evaluations, sine at dimension 1 and 2.
TARGETS = {
    "otl": (100, 0.02, 0.06),
    "borehole": (100, 0.02, 0.06),
    "piston": (100, 0.02, 0.06),
    "wing": (100, 0.02, 0.06),
    "ebola": (300, 0.10, None),
    "sobol-g": (500, 0.03, None),
    "ishigami": (500, 0.06, None),
    "ridge": (500, None, 1e-4),
    "diffusion": (500, None, None),
    "enzyme": (100, None, None),
}
# Eigenvalues above this share of all of them are the ones that matter.
MATTERS = 1e-3
Tool = Callable[[Callable[[np.ndarray], np.ndarray], int, int, int], np.ndarray]


def sine(basis: np.ndarray, truth: np.ndarray, dimension: int) -> float:
    """Sine of the largest angle between the leading directions."""
    a, b = basis[:dimension], truth[:dimension]
    return float(np.linalg.norm(a - (a @ b.T) @ b, 2)) if a.shape == b.shape else 1.0


def leading(covariance: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.linalg.eigh(covariance)[1][:, ::-1].T)


def finite_differences(f: Callable[[np.ndarray], np.ndarray], n: int, budget: int, seed: int) -> np.ndarray:
    """Forward differences at as many random points as the budget allows."""
    rng, rows = np.random.default_rng(seed), []
    for x in rng.uniform(-1, 1, size=(budget // (n + 1), n)):
        y = f(np.vstack([x, x + 1e-6 * np.where(x > 0, -1, 1)[:, None] * np.eye(n)]))
        rows.append((y[1:] - y[0]) / (1e-6 * np.where(x > 0, -1, 1)))
    return leading(np.array(rows).T @ np.array(rows)) if rows else np.empty((0, n))


def quadratic(f: Callable[[np.ndarray], np.ndarray], n: int, budget: int, seed: int) -> np.ndarray:
    """Least squares on all products of two inputs."""
    x = np.random.default_rng(seed).uniform(-1, 1, size=(budget, n))
    first, second = np.triu_indices(n)
    design = np.hstack([np.ones((budget, 1)), x, x[:, first] * x[:, second]])
    c = np.linalg.lstsq(design, f(x), rcond=None)[0]
    bend = np.zeros((n, n))
    bend[first, second] = c[n + 1 :]
    bend = bend + bend.T
    return leading(np.outer(c[1 : n + 1], c[1 : n + 1]) + bend @ bend / 3)


def outer_product_of_gradients(f: Callable[[np.ndarray], np.ndarray], n: int, budget: int, seed: int) -> np.ndarray:
    """Slopes of a plane fitted around every row, near rows counting most.

    Source: Xia, Tong, Li, Zhu, JRSS B 64, 2002, section 3.1 (Gaussian kernel, bandwidth by the normal rule).
    """
    x = np.random.default_rng(seed).uniform(-1, 1, size=(budget, n))
    y, width = f(x), 2.34 * budget ** (-1 / (max(n, 3) + 6)) * x.std()
    slopes = np.empty((budget, n))
    for place, here in enumerate(x):
        apart = x - here
        near = np.exp(-np.sum(apart**2, axis=1) / (2 * width**2))
        design = np.hstack([np.ones((budget, 1)), apart]) * np.sqrt(near)[:, None]
        slopes[place] = np.linalg.lstsq(design, y * np.sqrt(near), rcond=None)[0][1:]
    return leading(slopes.T @ slopes)


def salib_top(f: Callable[[np.ndarray], np.ndarray], n: int, budget: int, seed: int) -> tuple[int, int]:
    """The most important input by SALib's DGSM and by its total Sobol indices, at no more evaluations."""
    from SALib.analyze import dgsm
    from SALib.analyze import sobol as sobol_indices
    from SALib.sample import finite_diff
    from SALib.sample import sobol as sobol_sample

    problem = {"num_vars": n, "names": [f"x{i}" for i in range(n)], "bounds": [[-1, 1]] * n}
    tops = []
    x = finite_diff.sample(problem, max(2, budget // (n + 1)), delta=0.001, seed=seed)
    found = dgsm.analyze(problem, x, f(x), seed=seed)
    tops.append(int(np.argmax(found["vi"])))
    x = sobol_sample.sample(problem, 2 ** int(np.log2(max(2, budget // (n + 2)))), calc_second_order=False, seed=seed)
    found = sobol_indices.analyze(problem, f(x), calc_second_order=False, seed=seed)
    tops.append(int(np.argmax(found["ST"])))
    return tops[0], tops[1]


PEERS: dict[str, Tool] = {
    "differences": finite_differences,
    "quadratic": quadratic,
    "outer products": outer_product_of_gradients,
}


def ours(name: str, budget: int, seed: int) -> dict[str, Any]:
    """One run of `active_subspace`, held against the exact directions."""
    values, axes = reference(name.partition("+")[0])
    f, inputs = spoiled(name, seed)
    oracle = uv.Simulator(f, inputs, takes="batch", name=name)
    start = time.process_time()
    found = uv.active_subspace(oracle, budget=budget, rng=np.random.default_rng(seed))
    seconds = time.process_time() - start
    assert oracle.ledger.asked <= budget
    # The reference itself is an average over 100,000 points, known to half a per cent.
    inside = (found.intervals[:, 0] <= values * 1.005) & (values * 0.995 <= found.intervals[:, 1])
    large = values > MATTERS * values.sum()
    return {
        "sines": [sine(found.basis, axes, d) for d in (1, 2)],
        "top": bool(np.argmax(found.activity) == _top(name)),
        "held": inside.tolist(),
        "large": large.tolist(),
        "explained": found.explained,
        "exact": 0 if found.span is None else found.span.rank,
        "outcome": found.outcome.value,
        "surrogate": "" if found.surrogate is None else found.surrogate.name,
        "missing": found.missing,
        "seconds": seconds,
    }


def _top(name: str) -> int:
    """The input with the largest activity score, all directions counted."""
    values, axes = reference(name.partition("+")[0])
    return int(np.argmax(np.sum(values[:, None] * axes**2, axis=0)))


def peers(name: str, budget: int, seed: int) -> dict[str, Any]:
    """The other tools with as many evaluations, of the plain simulator."""
    n, axes = len(HALF[name]), reference(name)[1]
    f = scaled(name)
    told: dict[str, Any] = {
        tool: [sine(find(f, n, budget, seed), axes, d) for d in (1, 2)] for tool, find in PEERS.items()
    }
    try:
        told["salib"] = [place == _top(name) for place in salib_top(f, n, budget, seed)]
    except ImportError:
        warnings.warn("SALib is not there: pip install SALib", stacklevel=1)
    return told


def run(names: list[str], budgets: list[int], seeds: range, keep: Path, alone: bool) -> None:
    """Every run that is not kept yet, each kept as soon as it is there."""
    there = {tuple(row[key] for key in ("name", "budget", "seed")) for row in kept(keep)}
    for name in names:
        for budget in budgets or [TARGETS[name.partition("+")[0]][0]]:
            for seed in seeds:
                if (name, budget, seed) in there:
                    continue
                row = {"name": name, "budget": budget, "seed": seed, **ours(name, budget, seed)}
                if "+" not in name and not alone:
                    row["peers"] = peers(name, budget, seed)
                with keep.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def kept(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: list[dict[str, Any]]) -> None:
    """Medians over the seeds, in Markdown."""
    columns = ["simulator", "inputs", "asked", "seeds", "ours", *PEERS, "intervals hold", "those that matter"]
    columns += ["top input: ours, DGSM, Sobol", "exact", "s"]
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for name, budget in dict.fromkeys((row["name"], row["budget"]) for row in rows):
        here = [row for row in rows if (row["name"], row["budget"]) == (name, budget)]
        cells = [f"{name} | {len(HALF[name.partition('+')[0]])} | {budget:,} | {len(here)}", _pair(here, "sines")]
        others = [row["peers"] for row in here if "peers" in row]
        cells += [_pair(others, tool) if others else "" for tool in PEERS]
        held, large = (np.concatenate([row[key] for row in here]) for key in ("held", "large"))
        cells += [f"{held.mean():.2f}", f"{held[large.astype(bool)].mean():.2f}"]
        tops = [str(sum(row["top"] for row in here))]
        tops += map(str, np.sum([other["salib"] for other in others if "salib" in other], axis=0)) if others else []
        cells += [", ".join(tops), str(sum(row["exact"] > 0 for row in here))]
        print("| " + " | ".join([*cells, f"{np.median([row['seconds'] for row in here]):.0f}"]) + " |")
    held, large = (np.concatenate([row[key] for row in rows]) for key in ("held", "large"))
    matter = held[large.astype(bool)]
    print(
        f"\nIntervals that hold: {held.mean():.3f} of {held.size}; of those that matter {matter.mean():.3f} of", end=" "
    )
    print(f"{len(matter)}; top input {sum(row['top'] for row in rows)} of {len(rows)}.")


def _pair(rows: list[dict[str, Any]], key: str) -> str:
    return " / ".join(
        f"{part:.1g}" if part < 1e-3 else f"{part:.3f}".lstrip("0")
        for part in np.median([row[key] for row in rows], axis=0)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default=",".join(FUNCTIONS))
    parser.add_argument("--budgets", default="", help="By default the one that the target names.")
    parser.add_argument("--keep", type=Path, default=Path("active_subspace.jsonl"), help="Where every run is kept.")
    parser.add_argument("--alone", action="store_true", help="Without the other tools.")
    parser.add_argument("--table", action="store_true", help="Only print the medians of what is kept.")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="(?!__main__)")
    if not asked.table:
        numbers = [int(text) for text in asked.budgets.split(",") if text]
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        run(asked.only.split(","), numbers, seeds, asked.keep, asked.alone)
    table(kept(asked.keep))
