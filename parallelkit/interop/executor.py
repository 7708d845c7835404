"""``Executor``: all cores as a ``concurrent.futures.Executor``, in place of a ``ProcessPoolExecutor``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parallelkit.client.client import Client
from parallelkit.client.executor import ViewExecutor
from parallelkit.cluster.connect import connect


class Executor(ViewExecutor):
    """A :class:`ViewExecutor` on a cluster of its own choice: ``client``'s, else the running one, else a new one.

    Arguments as those of the standard library's executors. With ``max_workers`` None all engines work. ``shutdown``
    leaves the cluster running for the next; one that was started here ends with this process.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        client: Client | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        client = connect() if client is None else client
        super().__init__(client.load_balanced_view(), max_workers, initializer, initargs)
