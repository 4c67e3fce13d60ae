"""Hostile and odd input in numbers: python benchmarks/fuzz.py [--cases 300] [--first-seed 0] [--only NAME].

Every batch of cases runs in a process of its own with bounded memory and time, so that a crash, a hang or a memory bomb
of a parser is counted, not suffered. A finding is printed with its case and seed, to be repeated with
`tests.hostile.run(case, seed, folder)`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "src")]

BATCH = 50
MEMORY = 6 << 30
SECONDS = 120  # for a batch


def child(name: str, first: int, count: int) -> None:
    """Run a batch; print a JSON line before and after every case."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.alarm(SECONDS)
    from tests.hostile import run

    for seed in range(first, first + count):
        print(json.dumps([seed, "begun", ""]), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                ended, told = run(name, seed, Path(folder)), ""
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
                ended = "finding"
        print(json.dumps([seed, ended, told[:300]]), flush=True)


def batch(name: str, first: int, count: int) -> tuple[collections.Counter[str], list[str]]:
    """How the cases of one batch ended, and the findings."""
    command = [sys.executable, __file__, "--child", name, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended: collections.Counter[str] = collections.Counter()
    findings = []
    last = None
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            seed, how, told = json.loads(line)
            last = (seed, how)
            ended[how] += 1
            if how == "finding":
                findings.append(f"{name} seed {seed}: {told}")
    if done.returncode:
        ended["finding"] += 1
        findings.append(f"{name} {last}: the process ended with {done.returncode} {done.stderr[-200:]}")
    return ended, findings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=300, help="of each kind")
    parser.add_argument("--full", action="store_true", help="5,000 of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], int(given.child[1]), int(given.child[2]))
        return
    from tests.hostile import CASES

    end = given.first_seed + (5000 if given.full else given.cases)
    total: collections.Counter[str] = collections.Counter()
    findings = []
    print(f"{'case':16} {'answered':>9} {'refused':>9} {'findings':>9} {'seconds':>8}")
    for name in [given.only] if given.only else CASES:
        ended: collections.Counter[str] = collections.Counter()
        start = time.monotonic()
        for first in range(given.first_seed, end, BATCH):
            more, found = batch(name, first, min(BATCH, end - first))
            ended.update(more)
            findings += found
        total.update(ended)
        took = time.monotonic() - start
        print(f"{name:16} {ended['answered']:9,} {ended['refused']:9,} {ended['finding']:9,} {took:8.0f}", flush=True)
    print(f"{'all':16} {total['answered']:9,} {total['refused']:9,} {total['finding']:9,}")
    print("\n".join(findings[:100]))
    sys.exit(bool(findings))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
