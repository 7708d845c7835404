"""``Cluster``: start a cluster on this machine, connect to it, stop it.

The methods that wait come in two forms: ``start_cluster()`` is awaited, ``start_cluster_sync()`` blocks.
"""

from __future__ import annotations

import asyncio
import html
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from parallelkit import config
from parallelkit.cluster import registry
from parallelkit.cluster.folder import CLIENT_FILE, ClusterRecord, read_record
from parallelkit.cluster.launch import STOP_TIMEOUT, Launched, launch, wait_for_hub
from parallelkit.cluster.processes import end, reap
from parallelkit.errors import ClusterError, ConfigError, EnginesMissing, HubUnreachable

if TYPE_CHECKING:
    from parallelkit.client.client import Client

OnStep = Callable[[str], object]

#: Longest wait for engines before the next look at whether the cluster is still there.
_SLICE = 0.5
#: Time between two looks for the hub's connection file.
_LOOK = 0.01


class Cluster:
    """A hub, a node and ``n`` engines on this machine, as processes of their own.

    Args:
        n: engines to start; None: what the settings say, by default one for each processor.
        name: under which other processes find it; None: a name is made up.
        engines: how engines are started; "local" is the one way there is.
        ip: address to listen on over TCP, encrypted; None: a unix socket that only this user can reach.
        shutdown_atexit: end the cluster when this process ends, however it ends. With False it stays until stopped.
        on_step: called with a text at each step of a start: "starting hub", "2/4 engines".
        settings: any other setting of :class:`parallelkit.config.Settings`.

    As a context manager it starts, connects, and stops at the end: ``with Cluster(n=4) as rc:``.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        name: str | None = None,
        engines: str = "local",
        ip: str | None = None,
        shutdown_atexit: bool = True,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> None:
        if engines != "local":
            raise ConfigError(f"engines={engines!r} is unknown; engines can be started 'local' only")
        self._settings = config.load(ip=ip, **settings)
        self.name = config.check_cluster_name(name or f"local-{secrets.token_hex(3)}")
        self.n = _count(self._settings.engines if n is None else n)
        self.shutdown_atexit = shutdown_atexit
        self._on_step: OnStep = on_step or (lambda text: None)
        self._record: ClusterRecord | None = None
        self._launched: Launched | None = None
        self._client: Client | None = None

    @classmethod
    def from_file(
        cls, name_or_path: str | os.PathLike[str] | None = None, *, on_step: OnStep | None = None, **settings: Any
    ) -> Self:
        """The running cluster of that name, or the one whose folder or file is at that path; None: the default one.

        Raises:
            ConnectionFileError: it is not running; the text says which clusters are.
        """
        known = config.load(**settings)
        wanted = known.cluster if name_or_path is None else name_or_path
        path = Path(wanted).expanduser()
        if isinstance(wanted, str) and _is_name(known, wanted):
            record = registry.find(known, wanted)
        else:
            record, folder = registry.find_by_path(known, path)
            settings["runtime_dir"] = str(folder.parent)
        owned = record.owner == os.getpid()
        cluster = cls(record.n, name=record.name, shutdown_atexit=owned, on_step=on_step, **settings)
        cluster._record = record
        return cluster

    @property
    def folder(self) -> Path:
        """Where its sockets and connection files are while it runs."""
        return config.cluster_dir(self._settings, self.name)

    @property
    def log_dir(self) -> Path:
        """Where its logs are, also after it has ended."""
        return config.log_dir(self._settings, self.name)

    def is_running(self) -> bool:
        """Whether it was started (by whomever) and has not ended."""
        if self._record is None:
            return False
        reap(self._record.pid)
        return self._record.is_running

    def logs(self, lines: int = 40) -> dict[str, str]:
        """The last lines of each log, by its name: "keeper", "hub", "node", "engine-0", … They outlive the cluster."""
        return {path.stem: config.log_tail(path, lines) for path in sorted(self.log_dir.glob("*.log"))}

    # ---------------------------------------------------------------------------------------------- starting

    def start_cluster_sync(self, n: int | None = None) -> None:
        """Start hub, node and ``n`` engines (None: as constructed). Returns when the hub listens; engines follow.

        Raises:
            ClusterError: a cluster of that name is running already.
            LaunchError: it did not start; tells the exit code and the end of the log.
        """
        self.n = self.n if n is None else _count(n)
        self._on_step("starting hub")
        owner = os.getpid() if self.shutdown_atexit else None
        launched = launch(self._settings, self.name, self.n, owner)
        try:
            wait_for_hub(launched, self._settings)
        except BaseException:  # Ctrl-C while it starts must not leave half a cluster
            end(launched.pid, launched.birth, STOP_TIMEOUT)
            reap(launched.pid)
            raise
        self._launched = launched
        self._record = read_record(self.folder)

    def connect_client_sync(self) -> Client:
        """A new client of this cluster.

        Raises:
            ClusterError: the cluster is not running.
            ConnectError: the hub does not answer, or refuses.
        """
        from parallelkit.client.client import Client  # late: these imports go on while the cluster starts

        path = self.folder / CLIENT_FILE
        deadline = time.monotonic() + self._settings.start_timeout
        while not path.exists() or not self.is_running():
            if not self.is_running():
                raise ClusterError(f"cluster {self.name!r} is not running. {registry.describe_running(self._settings)}")
            if time.monotonic() > deadline:
                raise HubUnreachable(f"the hub of cluster {self.name!r} has not started; see {self.log_dir}")
            time.sleep(_LOOK)
        return Client(path, timeout=self._settings.connect_timeout)

    def start_and_connect_sync(self, n: int | None = None) -> Client:
        """Start, connect, and wait until all engines are there.

        Raises:
            LaunchError: the cluster did not start.
            EnginesMissing: some engines did not; the cluster is up with those that did.
        """
        self.start_cluster_sync(n)
        try:
            client = self.connect_client_sync()
            try:
                self.wait_for_engines_sync(client, self.n)
            except BaseException:
                client.close()
                raise
        except EnginesMissing:
            raise
        except BaseException:  # Ctrl-C, above all
            self.stop_cluster_sync()
            raise
        return client

    def wait_for_engines_sync(self, client: Client, n: int) -> None:
        """Wait until ``client`` sees ``n`` engines; reports each step.

        Raises:
            LaunchError: the cluster ended while it was starting.
            EnginesMissing: there are fewer after ``start_timeout`` seconds; the text gives both numbers.
        """
        patience = self._settings.start_timeout
        deadline = time.monotonic() + patience
        while (have := len(client.ids)) < n:
            self._on_step(f"{have}/{n} engines")
            if not self.is_running():
                raise self._ended()
            left = deadline - time.monotonic()
            if left <= 0:
                error = EnginesMissing(have, n, patience)
                error.add_note(f"Logs of the engines and of their node are in {self.log_dir}")
                raise error
            began = time.monotonic()
            with suppress(EnginesMissing):
                client.wait_for_engines(have + 1, timeout=min(left, _SLICE))
            if len(client.ids) == have and time.monotonic() - began < _SLICE / 2:
                time.sleep(0.05)  # the hub has gone, and so does the keeper; no need to ask in a hurry

    def _ended(self) -> Exception:
        if self._launched is not None:
            return self._launched.failure("it ended while its engines were starting")
        return ClusterError(f"cluster {self.name!r} has ended")

    # ---------------------------------------------------------------------------------------------- stopping

    def stop_cluster_sync(self) -> None:
        """End all its processes and remove its files. Harmless if it has ended already."""
        record, self._record = self._record, None
        if record is None:
            return
        end(record.pid, record.birth, STOP_TIMEOUT)
        reap(record.pid)
        if self.folder.is_dir():
            registry.clean_one(self._settings, self.name)  # only if the keeper had to be killed

    # ---------------------------------------------------------------------------------------------- awaitable

    async def start_cluster(self, n: int | None = None) -> None:
        """Awaitable form of :meth:`start_cluster_sync`."""
        await asyncio.to_thread(self.start_cluster_sync, n)

    async def connect_client(self) -> Client:
        """Awaitable form of :meth:`connect_client_sync`."""
        return await asyncio.to_thread(self.connect_client_sync)

    async def start_and_connect(self, n: int | None = None) -> Client:
        """Awaitable form of :meth:`start_and_connect_sync`."""
        return await asyncio.to_thread(self.start_and_connect_sync, n)

    async def stop_cluster(self) -> None:
        """Awaitable form of :meth:`stop_cluster_sync`."""
        await asyncio.to_thread(self.stop_cluster_sync)

    # ---------------------------------------------------------------------------------------------- with

    def __enter__(self) -> Client:
        try:
            self._client = self.start_and_connect_sync()
        except BaseException:
            self.stop_cluster_sync()
            raise
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self.stop_cluster_sync()

    async def __aenter__(self) -> Client:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def __repr__(self) -> str:
        return f"<Cluster {self.name!r}: {self._state_text()}>"

    def _repr_html_(self) -> str:
        return f"<b>Cluster {html.escape(self.name)}</b>: {html.escape(self._state_text())}"

    def _state_text(self) -> str:
        engines = f"{self.n} engine{'' if self.n == 1 else 's'}"
        if self._record is None:
            return f"not running, {engines} when started"
        if not self.is_running():
            return "has ended"
        return f"running, started with {engines}, keeper {self._record.pid}"


def _is_name(settings: config.Settings, text: str) -> bool:
    """Whether this means a cluster's name and not a path, although a file could be called so."""
    if not config.CLUSTER_NAME.fullmatch(text):
        return False
    return config.cluster_dir(settings, text).exists() or not Path(text).exists()


def _count(n: int) -> int:
    if n < 0:
        raise ConfigError(f"a cluster cannot have {n} engines")
    return n
