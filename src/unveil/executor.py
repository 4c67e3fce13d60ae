"""Where parallel work runs: in this process, in local processes or on a Dask cluster, always with the same results."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import resource_tracker
from typing import Any, TypeVar
from weakref import WeakSet

from threadpoolctl import threadpool_limits

from unveil.outcome import BadInput, UnveilError, WorkerLost

T = TypeVar("T")
R = TypeVar("R")

# Tasks handed out ahead of the oldest unfinished one. Enough to keep a cluster of some hundred workers busy, few
# enough that a million parts are not all pickled at once.
AHEAD = 512


class Serial(Executor):
    """Runs every task at once, in this process."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Run the task and return its finished future."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(ProcessPoolExecutor):
    """Local processes that leave Ctrl-C to the one that started them, from their first instant on."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Hand the task to a process; one is started if there are too few."""
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        # A process starts with its parent's mask. The tracker of resources changes the mask when it is started: first.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Cluster(Executor):
    """Runs tasks on a Dask cluster; a task whose worker dies is run again on another one.

    Args:
        address: The scheduler, "host:port".
        patience: Seconds to wait for the scheduler.

    Raises:
        WorkerLost: No scheduler answers there, or it has no workers.
    """

    def __init__(self, address: str, patience: float = 10.0) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise BadInput('a cluster needs dask.distributed: pip install "unveil[cluster]"') from error
        try:
            self._client = Client(address, timeout=patience, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise WorkerLost(
                f"no Dask scheduler answers at {address} within {patience:g} s ({type(error).__name__}); "
                "start one with `dask scheduler` and workers with `dask worker HOST:PORT --nthreads 1`"
            ) from error
        try:
            # Without workers, Dask would let every task wait for ever.
            self._client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            self._client.close()
            raise WorkerLost(
                f"the Dask scheduler at {address} has no workers; start some with `dask worker HOST:PORT --nthreads 1`"
            ) from error
        self._handed_out: WeakSet[Future[Any]] = WeakSet()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Hand the task to the scheduler."""
        promise: Future[R] = Future()
        # pure=False: two equal calls are two tasks, as in any Executor.
        task = self._client.submit(fn, *args, pure=False, **kwargs)

        # Not Client.get_executor: it reads a task's status a second time after fetching the result, and takes the
        # result for an exception when the worker that held it died in between.
        def deliver(task: Any) -> None:
            if promise.set_running_or_notify_cancel():
                try:
                    promise.set_result(task.result())
                except BaseException as error:
                    promise.set_exception(error)

        def withdraw(promise: Future[R]) -> None:
            if promise.cancelled():
                task.cancel()

        task.add_done_callback(deliver)
        promise.add_done_callback(withdraw)
        self._handed_out.add(promise)
        return promise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for (or cancel) what was handed out, then leave the cluster running."""
        for promise in list(self._handed_out):
            if cancel_futures or not wait:
                promise.cancel()
        if wait:
            wait_for(list(self._handed_out))
        self._client.close()


def workers(jobs: int | None = None, cluster: str | None = None) -> Executor:
    """Something that runs tasks, to be used in a `with` statement.

    Args:
        jobs: Local processes; 1 runs everything in this process; None takes one for each processor.
        cluster: A Dask scheduler, "host:port"; then `jobs` means nothing.

    Raises:
        BadInput: `jobs` is below 1.
        WorkerLost: No scheduler answers.

    Examples:
        >>> with uv.workers(2) as pool:  # two processes; pass it on as executor=
        ...     callable(pool.submit)
        True
    """
    if cluster is not None:
        return Cluster(cluster)
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise BadInput(f"jobs must be at least 1; got {jobs}")
    if jobs == 1:
        return Serial()
    # spawn: a forked child would inherit the threads' locks of BLAS, onnxruntime or torch in whatever state they are.
    return Processes(jobs, mp_context=multiprocessing.get_context("spawn"))


def spread(task: Callable[[T], R], parts: Iterable[T], executor: Executor | None = None) -> list[R]:
    """`[task(part) for part in parts]`, by whatever workers there are.

    The results do not depend on the executor: every task runs with one BLAS thread and gets exactly one part, and the
    caller cuts the parts, never the number of workers. A part should take a tenth of a second or more (handing one out
    takes about a millisecond), for instance 20 to 100 linear programmes.

    Args:
        task: Importable by name in another process, with arguments and results that can be pickled.
        parts: Work, already cut; randomness comes along as a seed or Generator in each part.
        executor: What `workers` gave, or any other Executor; None runs here.

    Raises:
        WorkerLost: A worker died and the executor could not run its task elsewhere.

    Examples:
        >>> uv.spread(abs, [-1, 2, -3])  # without workers, one after the other
        [1, 2, 3]
    """
    executor = Serial() if executor is None else executor
    here = isinstance(executor, Serial | ThreadPoolExecutor)
    waiting: deque[Future[R]] = deque()
    results: list[R] = []
    with threadpool_limits(1) if here else nullcontext():
        try:
            for part in parts:
                waiting.append(executor.submit(_run, task, part, not here))
                if len(waiting) >= AHEAD:
                    results.append(waiting.popleft().result())
            while waiting:
                results.append(waiting.popleft().result())
        except (BrokenProcessPool, CancelledError) as error:
            raise WorkerLost(
                f"a worker died after {len(results):,} finished tasks, perhaps out of memory; "
                "run again with fewer jobs or smaller parts"
            ) from error
        except Exception as error:
            raise _explained(error, task, len(results)) from error
        finally:
            for future in waiting:
                future.cancel()
    return results


def _run(task: Callable[[T], R], part: T, elsewhere: bool) -> R:
    """One task in a worker, whose BLAS keeps to one thread from now on."""
    if elsewhere:
        threadpool_limits(1)
    return task(part)


def _explained(error: Exception, task: Callable[..., object], finished: int) -> Exception:
    """The error to raise for `error`: known troubles of the machinery in our words, the task's own errors untouched."""
    if type(error).__name__ == "KilledWorker":
        return WorkerLost(
            f"a task killed every worker that tried it, after {finished:,} finished tasks; "
            "look into the workers' logs (out of memory?) and cut smaller parts"
        )
    if isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in str(error)
    ):
        return UnveilError(f"{task!r} cannot be sent to another process ({error}); use jobs=1 or a module's function")
    return error
