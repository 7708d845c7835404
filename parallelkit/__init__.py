"""Interactive parallel computing in Jupyter: a notebook as big as your machines.

>>> import parallelkit as pk
>>> rc = pk.connect()                   # joins the running default cluster, or starts one on this machine
>>> view = rc.load_balanced_view()
>>> view.map_sync(score, items)

Importing this package loads none of its parts; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public names and the modules they live in.
_HOMES = {
    "AsyncResult": "parallelkit.client.results",
    "AsyncMapResult": "parallelkit.client.mapping",
    "BroadcastView": "parallelkit.client.broadcast",
    "Client": "parallelkit.client.client",
    "DirectView": "parallelkit.client.direct",
    "LoadBalancedView": "parallelkit.client.balanced",
    "Dependency": "parallelkit.client.dependencies",
    "Reference": "parallelkit.wire.payload",
    "parallel": "parallelkit.client.functions",
    "remote": "parallelkit.client.functions",
    "require": "parallelkit.wire.requirements",
    "Cluster": "parallelkit.cluster.cluster",
    "connect": "parallelkit.cluster.connect",
    "Executor": "parallelkit.interop.executor",
    "Pool": "parallelkit.interop.pool",
    "errors": "parallelkit.errors",
    **dict.fromkeys(
        (
            "EngineLost",
            "ImpossibleDependency",
            "ParallelKitError",
            "RemoteError",
            "RemoteErrors",
            "TaskCancelled",
            "TaskError",
            "TaskTimeout",
        ),
        "parallelkit.errors",
    ),
}

__all__ = [*_HOMES, "__version__", "load_ipython_extension"]

if TYPE_CHECKING:
    from parallelkit import errors as errors
    from parallelkit.client.balanced import LoadBalancedView as LoadBalancedView
    from parallelkit.client.broadcast import BroadcastView as BroadcastView
    from parallelkit.client.client import Client as Client
    from parallelkit.client.dependencies import Dependency as Dependency
    from parallelkit.client.direct import DirectView as DirectView
    from parallelkit.client.functions import parallel as parallel
    from parallelkit.client.functions import remote as remote
    from parallelkit.client.mapping import AsyncMapResult as AsyncMapResult
    from parallelkit.client.results import AsyncResult as AsyncResult
    from parallelkit.cluster.cluster import Cluster as Cluster
    from parallelkit.cluster.connect import connect as connect
    from parallelkit.errors import EngineLost as EngineLost
    from parallelkit.errors import ImpossibleDependency as ImpossibleDependency
    from parallelkit.errors import ParallelKitError as ParallelKitError
    from parallelkit.errors import RemoteError as RemoteError
    from parallelkit.errors import RemoteErrors as RemoteErrors
    from parallelkit.errors import TaskCancelled as TaskCancelled
    from parallelkit.errors import TaskError as TaskError
    from parallelkit.errors import TaskTimeout as TaskTimeout
    from parallelkit.interop.executor import Executor as Executor
    from parallelkit.interop.pool import Pool as Pool
    from parallelkit.wire.payload import Reference as Reference
    from parallelkit.wire.requirements import require as require


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'parallelkit' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home.endswith(f".{name}") and name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))


def load_ipython_extension(ip: Any) -> None:
    """``%load_ext parallelkit``: the cell magics."""
    magics = importlib.import_module("parallelkit.jupyter.magics")
    magics.load(ip)
