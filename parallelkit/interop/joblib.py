"""joblib's backend "parallelkit": import this module, which registers it, and then

    with joblib.parallel_config(backend="parallelkit"): ...

Nested ``Parallel`` calls, inside a task, use threads there, and those inside these nothing: they cannot deadlock.
Threads: joblib's callback sends the next batch, for which it reads the iterable of users, which may wait for the
results of another ``Parallel``. So each ``Parallel`` has a thread for its callbacks, and none uses that of others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from joblib import cpu_count, register_parallel_backend
from joblib._parallel_backends import (  # no public module has most of these, and other backends import them too
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from parallelkit.client.client import Client, current
from parallelkit.client.executor import TaskFuture, ViewExecutor
from parallelkit.client.threads import Worker
from parallelkit.cluster.connect import connect


class Run(NamedTuple):
    """What one ``Parallel`` sends its batches with, and the thread that calls it back."""

    executor: ViewExecutor
    worker: Worker


class ParallelKitBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """Runs the batches of ``joblib.Parallel`` on the engines of ``client``.

    Without one it is the latest client of this process, else that of the running cluster, or of a new one.
    ``n_jobs`` is how many batches may run at a time; negative numbers count down from the number of engines.
    ``inner_max_num_threads`` limits the threads of numerical libraries inside tasks; it needs threadpoolctl there.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self,
        client: Client | None = None,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **backend_kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **backend_kwargs)
        self._client = client
        #: One backend may serve several ``Parallel`` at a time, when one reads what the other generates.
        self._runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()
        self.parallel: Any = None

    @property
    def client(self) -> Client:
        """The client whose engines it uses."""
        if self._client is None or self._client.closed:
            self._client = current() or connect()
        return self._client

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at a time for this ``n_jobs``.

        Raises:
            ValueError: it is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs > 0:
            return n_jobs or 1
        if self.nesting_level:
            return max(1, int(cpu_count()) + 1 + n_jobs)
        if not len(self.client):
            self.client.wait_for_engines(1)
        return max(1, len(self.client) + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **how: Any) -> int:
        """Called before each ``Parallel`` call; returns how many batches run at a time."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self.nesting_level:  # inside a task: engines that wait for engines would wait for ever
            raise FallbackToBackend(ThreadingBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._runs[parallel] = Run(self.client.executor(max_workers=count), Worker("parallelkit-joblib"))
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> TaskFuture:
        """Run a batch; ``callback`` gets its future when it is done."""
        run = self._runs[getattr(callback, "parallel", self.parallel)]
        if self.inner_max_num_threads is None:
            future = run.executor.submit(func)
        else:
            future = run.executor.submit(_limited, func, self.inner_max_num_threads)
        if callback is not None:
            future.add_done_callback(lambda done: run.worker.run(partial(callback, done)))
        return future

    def retrieve_result_callback(self, out: TaskFuture) -> Any:
        """The values of a batch that is done, or its exception."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop what waits and interrupt what runs; the values will not be asked for."""
        for parallel, run in list(self._runs.items()):
            if getattr(parallel, "_aborting", True):  # joblib does not say which, and the others go on
                run.executor.abort()
                del self._runs[parallel]
                if ensure_ready:
                    executor = self.client.executor(max_workers=run.executor._max_workers)
                    self._runs[parallel] = run._replace(executor=executor)

    def terminate(self) -> None:
        """The end of a ``Parallel``, of which nothing is left but what its batches took."""
        self.reset_batch_stats()


def _limited(func: Callable[[], Any], threads: int) -> Any:
    from threadpoolctl import threadpool_limits  # late: on the engine, and only if wanted

    with threadpool_limits(limits=threads):
        return func()


register_parallel_backend("parallelkit", ParallelKitBackend)
