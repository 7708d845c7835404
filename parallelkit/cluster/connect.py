"""``connect()``: one line from a fresh notebook to a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from parallelkit import config
from parallelkit.cluster import registry
from parallelkit.cluster.cluster import Cluster
from parallelkit.cluster.progress import StepLine
from parallelkit.errors import ClusterError, ConnectionFileError

if TYPE_CHECKING:
    from parallelkit.client.client import Client


def connect(name: str | None = None, *, n: int | None = None, timeout: float | None = None) -> Client:
    """Join the running cluster of that name, or start one on this machine; shows which step it is at.

    Args:
        name: of the cluster; None: what the settings say, "default" unless set.
        n: engines to start if none is running; None: what the settings say, by default one for each processor.
        timeout: patience in seconds for the hub and for the engines; None: what the settings say.

    A cluster started here ends with this process; ``parallelkit start`` makes one that stays.

    Raises:
        LaunchError: the cluster did not start; tells the exit code and the end of the log.
        EnginesMissing: fewer engines than wanted came in time; the cluster stays, and the next call joins it.
        ConnectError: the hub does not answer, or refuses.
    """
    settings = config.load(cluster=name, start_timeout=timeout, connect_timeout=timeout)
    line = StepLine()
    try:
        cluster = _running(settings, line)
        if cluster is None:
            try:
                return _start(settings, n, timeout, line)
            except ClusterError:
                cluster = _running(settings, line)  # somebody else has started it at the same moment
                if cluster is None:
                    raise
        return _join(cluster, n, line)
    except BaseException:
        line.fail()
        raise


def _running(settings: config.Settings, line: StepLine) -> Cluster | None:
    try:
        return Cluster.from_file(
            settings.cluster,
            on_step=line.step,
            start_timeout=settings.start_timeout,
            connect_timeout=settings.connect_timeout,
        )
    except ConnectionFileError:
        if registry.clean_one(settings, settings.cluster):
            line.done(f"cleaned up after cluster {settings.cluster!r}, whose keeper was killed")
        return None


def _start(settings: config.Settings, n: int | None, timeout: float | None, line: StepLine) -> Client:
    began = time.monotonic()
    others = registry.running(settings)
    cluster = Cluster(n, name=settings.cluster, on_step=line.step, start_timeout=timeout, connect_timeout=timeout)
    instead = f" ({', '.join(map(repr, others))} could be joined)" if others else ""
    line.step(f"starting cluster {cluster.name!r}{instead}")
    client = cluster.start_and_connect_sync()
    line.done(f"cluster {cluster.name!r} is up with {_engines(client)} after {time.monotonic() - began:.1f} s")
    return client


def _join(cluster: Cluster, n: int | None, line: StepLine) -> Client:
    line.step(f"joining cluster {cluster.name!r}")
    client = cluster.connect_client_sync()
    try:
        cluster.wait_for_engines_sync(client, min(1, cluster.n))
    except BaseException:
        client.close()
        raise
    note = "" if n is None or n == len(client.ids) else f", not {n}: it was running already"
    line.done(f"joined cluster {cluster.name!r} with {_engines(client)}{note}")
    return client


def _engines(client: Client) -> str:
    return f"{len(client.ids)} engine{'' if len(client.ids) == 1 else 's'}"
