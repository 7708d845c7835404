"""``get``: dask's graphs on the engines. ``dask.config.set(scheduler=parallelkit.interop.dask.get)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask
import dask.local
from dask.optimization import cull
from dask.utils import ensure_dict

from parallelkit.client.client import Client, current
from parallelkit.cluster.connect import connect


def get(
    dsk: Mapping[Any, Any], keys: Any, *, client: Client | None = None, num_workers: int | None = None, **how: Any
) -> Any:
    """The values of ``keys`` in the graph ``dsk``; ``keys`` may be nested lists.

    ``client``: whose engines compute; None: those of the latest client of this process, else of the running cluster,
    or of a new one. ``num_workers``: how many tasks run at a time; None: as dask is configured, else all engines.
    ``how`` as for :func:`dask.local.get_async`. Data goes from engine to engine by way of this process.
    """
    client = client or current() or connect()
    with client.executor(max_workers=num_workers or dask.config.get("num_workers", None)) as executor:
        graph, _ = cull(ensure_dict(dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk), keys)
        return dask.local.get_async(executor.submit, executor._max_workers, graph, keys, **how)
