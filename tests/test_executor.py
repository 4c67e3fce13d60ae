"""The same seeds give the same results, whoever does the work, also when a worker dies."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import unveil as uv
from unveil.executor import Cluster, Serial, spread, workers
from unveil.outcome import BadInput, UnveilError, WorkerLost

SEEDS = range(40)


def decompose(seed: int) -> tuple[bytes, int]:
    """A result whose last bits depend on the number of BLAS threads and on the seed."""
    a = np.random.default_rng(seed).standard_normal((150, 150))
    return (np.linalg.svd(a)[0] @ a @ np.linalg.inv(a)).tobytes(), os.getpid()


def fail(seed: int) -> None:
    raise ValueError(f"seed {seed}")


def die(marker: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(part: tuple[int, Path]) -> tuple[bytes, int]:
    """Kills its own worker, the first time."""
    seed, marker = part
    if seed == 7 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decompose(seed)


@pytest.fixture(scope="module")
def truth() -> list[bytes]:
    return [result for result, _ in spread(decompose, SEEDS)]


@pytest.fixture(scope="module")
def dask_address():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address


def meet(part: tuple[int, Path]) -> tuple[bytes, int]:
    """As `decompose`, once two processes have come: else the first one up might do it all."""
    seed, place = part
    (place / str(os.getpid())).touch()
    end = time.monotonic() + 120
    while len(list(place.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return decompose(seed)


def same(executor: Executor, truth: list[bytes], place: Path | None = None) -> None:
    if place is None:
        results = spread(decompose, SEEDS, executor)
    else:
        results = spread(meet, [(seed, place) for seed in SEEDS], executor)
        assert len({pid for _, pid in results}) == 2
    assert [result for result, _ in results] == truth


def test_two_local_processes_give_the_same_bits(truth, tmp_path):
    with workers(2) as executor:
        same(executor, truth, tmp_path)
        with pytest.raises(ValueError, match="seed 3"):
            spread(fail, [3], executor)
        with pytest.raises(UnveilError, match="cannot be sent"):
            spread(lambda seed: seed, [3], executor)
        same(executor, truth)  # an error leaves the workers usable
        with pytest.raises(WorkerLost, match="fewer jobs"):
            spread(die, [Path()], executor)


def test_threads_and_this_process_give_the_same_bits(truth):
    with ThreadPoolExecutor(2) as threads, workers(1) as here:
        assert isinstance(here, Serial)
        same(threads, truth)
        same(here, truth)
    with pytest.raises(ValueError, match="seed 3"):
        spread(fail, [3])


def test_two_dask_workers_give_the_same_bits_also_when_one_is_killed(truth, dask_address, tmp_path):
    (tmp_path / "met").mkdir()
    with Cluster(dask_address) as cluster:
        same(cluster, truth, tmp_path / "met")
        results = spread(die_once, [(seed, tmp_path / "died") for seed in SEEDS], cluster)
    assert (tmp_path / "died").exists()
    assert [result for result, _ in results] == truth


def kinds(found) -> list[tuple[str, bytes | None]]:
    return [(p.kind, None if p.certificate.direction is None else p.certificate.direction.tobytes()) for p in found]


def test_preimages_are_the_same_whoever_decides_them(dask_address):
    """The executor of a verb: this process, two processes, two Dask workers of which one is killed while they work."""
    distributed = pytest.importorskip("distributed")
    rng = np.random.default_rng(2)
    network = uv.Network.from_weights([(rng.standard_normal((30, 20)), rng.standard_normal(30))], last="relu")
    x = rng.standard_normal((2500, 20))
    truth = kinds(uv.preimages(network, x))
    assert len(set(kind for kind, _ in truth)) > 1
    with workers(2) as executor:
        assert kinds(uv.preimages(network, x, executor=executor)) == truth
    with Cluster(dask_address) as cluster:
        stream = uv.preimages(network, x, executor=cluster)
        first = next(stream)
        with distributed.Client(dask_address, set_as_default=False) as client:
            victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        assert kinds([first, *stream]) == truth


def test_a_task_that_kills_every_dask_worker_is_one_error(dask_address):
    start = time.monotonic()
    with Cluster(dask_address) as cluster, pytest.raises(WorkerLost, match="killed every worker"):
        spread(die, [Path()], cluster)
    assert time.monotonic() - start < 300  # an error, not a wait for ever


def test_no_workers_to_be_had():
    with pytest.raises(BadInput, match="at least 1"):
        workers(0)
    with pytest.raises(WorkerLost, match="dask scheduler"):
        Cluster("127.0.0.1:9", patience=0.5)


def test_a_cluster_without_workers_is_an_error_and_no_wait_for_ever():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster,
        pytest.raises(WorkerLost, match="no workers"),
    ):
        Cluster(cluster.scheduler_address, patience=2)


def threads_of_blas(part: int) -> int:
    return max(int(pool["num_threads"]) for pool in threadpool_info())


def test_a_worker_s_blas_has_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with workers(2) as executor:
        assert set(uv.spread(threads_of_blas, range(8), executor)) == {1}
