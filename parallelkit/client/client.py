"""``Client``: a cluster as a Python object."""

from __future__ import annotations

import contextlib
import html
import itertools
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from parallelkit import config
from parallelkit.client import recent
from parallelkit.client.balanced import LoadBalancedView
from parallelkit.client.broadcast import BroadcastView
from parallelkit.client.direct import DirectView
from parallelkit.client.executor import ViewExecutor
from parallelkit.client.link import Link, connect
from parallelkit.client.results import AsyncResult
from parallelkit.client.session import Session, patience
from parallelkit.client.targets import Targets, resolve
from parallelkit.errors import ConnectionFileError, EnginesMissing
from parallelkit.transport.connection import CLIENT_FILE, ConnectionInfo, read_connection
from parallelkit.wire import messages as m


class Client:
    """Connects to the hub of a running cluster.

    ``connection_info`` is the path of a connection file, what was read from one, or a cluster's name; without it the
    cluster is the one called ``cluster`` (or ``name``), else that of the settings. ``timeout`` is the patience, in
    seconds, for the hub to answer.

    Indexing gives views of engines: ``rc[0]``, ``rc[-1]``, ``rc[::2]``, ``rc[[0, 2]]``; ``rc[:]`` is all there are now.
    Pending results keep the connection open; when client, views and results are all gone, so is its thread.

    Raises:
        HubUnreachable: nobody answers there.
        ConnectionFileError: the file is missing or damaged; says which clusters are running instead.
        AuthError: the hub refused the key.
        VersionMismatch: Python or protocol versions that do not go together.
    """

    def __init__(
        self,
        connection_info: str | Path | ConnectionInfo | None = None,
        *,
        name: str | None = None,
        cluster: str | None = None,
        timeout: float | None = None,
    ) -> None:
        settings = config.load(cluster=name or cluster, connect_timeout=timeout)
        info = _connection(connection_info, settings)
        try:
            self._start(connect(info, timeout=settings.connect_timeout))
        except ConnectionFileError as error:
            raise ConnectionFileError(f"{error}; {_running(settings, besides=info.cluster)}") from None

    def _start(self, link: Link) -> None:
        #: Shared with the views and results of this client.
        self.session = Session(link)
        _clients[next(_numbers)] = self

    @classmethod
    def over(cls, link: Link) -> Self:
        """A client on a link that is there already."""
        client = cls.__new__(cls)
        client._start(link)
        return client

    # -------------------------------------------------------------------------------------------------- engines

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self.session.link.cluster

    @property
    def ids(self) -> list[int]:
        """The ids of the engines there are, ascending."""
        return sorted(self.session.link.engines)

    def __len__(self) -> int:
        return len(self.session.link.engines)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[DirectView]:
        """A view of each engine."""
        return (self[id] for id in self.ids)

    def __getitem__(self, key: int | slice | Iterable[int]) -> DirectView:
        """A view of one engine, or of those selected from the ones that are there now.

        Raises:
            NoSuchEngine: says which there are.
        """
        ids = resolve(key, self.ids)
        return DirectView(self, ids[0] if hasattr(key, "__index__") else list(ids))

    def direct_view(self, targets: Targets = "all", **flags: Any) -> DirectView:
        """A view that runs each task on all ``targets``; 'all' are those there at each call."""
        if targets != "all":
            resolve(targets, self.ids)
        return DirectView(self, targets, **flags)

    def broadcast_view(self, targets: Targets = "all", is_coalescing: bool = False, **flags: Any) -> BroadcastView:
        """A view for tasks that go to a great number of engines. ``is_coalescing`` is taken for the peer's sake:
        results are always sent together as they gather, and arrive engine by engine."""
        if targets != "all":
            resolve(targets, self.ids)
        return BroadcastView(self, targets, **flags)

    def load_balanced_view(self, targets: Targets = None, **flags: Any) -> LoadBalancedView:
        """A view that runs each task on whichever engine is free, of ``targets`` or of all."""
        if targets is not None and targets != "all":
            targets = list(resolve(targets, self.ids))
        return LoadBalancedView(self, targets, **flags)

    def executor(self, targets: Targets = None, **how: Any) -> ViewExecutor:
        """A ``concurrent.futures.Executor`` on ``targets`` or all engines; ``how`` as for :class:`ViewExecutor`."""
        return ViewExecutor(self.load_balanced_view(targets), **how)

    # -------------------------------------------------------------------------------------------------- waiting

    def wait_for_engines(self, n: int | None = None, timeout: float | None = None) -> None:
        """Wait until ``n`` engines are there (None: one). ``timeout`` in seconds; None: as the settings have it.

        Raises:
            EnginesMissing: fewer came; those stay usable.
        """
        wanted = 1 if n is None else n
        limit = config.load().start_timeout if timeout is None else timeout
        link = self.session.link
        if not self._wait_link(lambda: len(link.engines) >= wanted, limit):
            raise EnginesMissing(len(link.engines), wanted, limit)

    def _wait_link(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        link = self.session.link
        with link.changed:
            return self.session.wait(link.changed, lambda: ready() or link.failure, patience(timeout)) and ready()

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait for results (None: all that are pending), given as results, futures or task names.

        False if some are missing after ``timeout`` seconds; negative or None: without limit.
        """
        limit = patience(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        waiting = self._jobs(jobs)
        told = False
        while waiting:
            # in slices, so that the hub's silence is noticed and Ctrl-C works everywhere
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            waiting = list(wait_for_futures(waiting, max(0.0, left)).not_done)
            if waiting and deadline is not None and time.monotonic() >= deadline:
                return False
            told = told or (bool(waiting) and self.session.tell_silence())
        return True

    def wait_interactive(self, jobs: Any = None, interval: float = 1.0, timeout: float | None = -1) -> bool:
        """As :meth:`wait`, and shows how far all of them are together, as :meth:`AsyncResult.wait_interactive` does.

        Raises:
            TypeError: a job is no result of ours, so that there is no telling how far it is.
        """
        results = self._jobs(jobs)
        if not all(isinstance(result, AsyncResult) for result in results):
            raise TypeError("wait_interactive() is for results of this client; wait() takes any future")
        return not results or AsyncResult.join(*cast(list[AsyncResult], results)).wait_interactive(interval, timeout)

    def abort(self, jobs: Any = None) -> int:
        """Cancel results (None: all that are pending, imaps too); returns how many were not done yet."""
        streams = list(self.session.streams) if jobs is None else []
        return sum(job.cancel() for job in self._jobs(jobs)) + sum(stream.cancel() for stream in streams)

    def _jobs(self, jobs: Any) -> list[Future[Any]]:
        pending = list(self.session.pending)
        if jobs is None:
            return list(pending)
        wanted: list[Future[Any]] = []
        for job in [jobs] if isinstance(jobs, str | Future) else jobs:
            if isinstance(job, Future):
                wanted.append(job)
            elif isinstance(job, str):
                wanted += [result for result in pending if job in result.msg_ids]
            else:
                raise TypeError(f"{job!r} is no job: use results, futures or task names")
        return wanted

    @property
    def outstanding(self) -> set[str]:
        """Names of the tasks without a result."""
        return recent.missing(self.session)

    @property
    def history(self) -> list[str]:
        """Names of the tasks of the latest calls, oldest first."""
        return recent.names(self.session)

    def get_result(self, jobs: Any = None, block: bool | None = None) -> AsyncResult:
        """The result of earlier calls of this client: by task names, places in :attr:`history`, or results; None: the
        latest one. Several are joined; a task of a map means all of the map. With ``block`` it waits for it.

        Raises:
            LookupError: nobody has that result any more. A client keeps names, not results.
        """
        result = recent.find(self.session, jobs)
        if block:
            result.wait()
        return result

    def result_status(self, jobs: str | AsyncResult | Iterable[str]) -> dict[str, list[str]]:
        """Which of these tasks are ``"pending"`` and which ``"completed"``, in whatever way, by name.

        Raises:
            LookupError: a name is not in :attr:`history`.
        """
        return recent.status(self.session, _names(jobs))

    def purge_local_results(self, jobs: str | AsyncResult | Iterable[str] = "all") -> None:
        """Forget the names of calls that are done. There is nothing else to purge: a client holds no results, each is
        freed when nobody has it any more."""
        recent.forget(self.session, None if jobs == "all" else _names(jobs))

    # ------------------------------------------------------------------------------------------- asking the hub

    def queue_status(self, targets: Targets = "all", verbose: bool = False) -> dict[Any, Any]:
        """Tasks by engine id: ``{"queue": waiting there, "tasks": running, "completed": so far}``; and under
        ``"unassigned"`` how many wait at the hub. ``verbose`` adds each engine's host, process id and state: "ok",
        "unresponsive" (its process runs but does not answer: something in it holds the GIL) or "silent".

        Raises:
            HubUnreachable: no answer in time.
        """
        answer = self.session.link.request(m.QueryQueues)
        engines = self.session.link.engines
        wanted = resolve(targets, self.ids) if self.ids else ()
        status: dict[Any, Any] = {}
        for id, running, queued, completed, state in answer["engines"]:
            if id in wanted:
                status[id] = {"queue": queued, "tasks": running, "completed": completed}
                if verbose and id in engines:
                    status[id].update(host=engines[id].host, pid=engines[id].pid, state=state)
        status["unassigned"] = answer["unassigned"]
        return status

    def send_signal(self, sig: int | str, targets: Targets = "all") -> list[int]:
        """Send a signal (a number, or a name such as 'SIGINT') to engine processes; returns the ids reached."""
        number = _signal(sig)
        ids = list(resolve(targets, self.ids))
        return list(self.session.link.request(lambda request: m.SignalEngines(request, ids, number)))

    def interrupt(self, targets: Targets = "all") -> list[int]:
        """Interrupt what runs on these engines, as Ctrl-C would; returns the ids reached."""
        return self.send_signal(signal.SIGINT, targets)

    def shutdown(self, targets: Targets = "all", restart: bool = False, hub: bool = False) -> list[int]:
        """End engines, or with ``restart`` replace each by a fresh one; with ``hub`` end the whole cluster.

        Returns the ids of the engines reached.
        """
        link = self.session.link
        if hub:
            ids = self.ids
            link.request(m.StopCluster)
            return ids
        ids = list(resolve(targets, self.ids))
        return list(link.request(lambda request: m.StopEngines(request, ids, restart)))

    def restart_engines(self, targets: Targets = "all", timeout: float | None = None) -> list[int]:
        """Replace engines by fresh ones under the same ids, and wait until these are there.

        Raises:
            EnginesMissing: some did not come back in time.
        """
        link = self.session.link
        before = {id: info.incarnation for id, info in link.engines.items()}
        ids = self.shutdown(targets, restart=True)
        limit = config.load().start_timeout if timeout is None else timeout

        def back() -> int:
            now = link.engines
            return sum(id in now and now[id].incarnation != before[id] for id in ids)

        if not self._wait_link(lambda: back() == len(ids), limit):
            raise EnginesMissing(back(), len(ids), limit)
        return ids

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Leave the hub. What is pending ends as lost. Harmless if closed already."""
        self.session.closer()

    @property
    def closed(self) -> bool:
        return not self.session.closer.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.cluster!r}: {self._state_text()}>"

    def _state_text(self) -> str:
        link = self.session.link
        if self.closed:
            return "closed"
        if link.failure is not None:
            return str(link.failure)
        engines = f"{len(self)} engine{'' if len(self) == 1 else 's'}, {link.outstanding} tasks outstanding"
        silence = self.session.silence()
        return f"{engines}, {silence}" if silence else engines

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{info.id}</td><td>{html.escape(info.host)}</td><td>{info.pid}</td></tr>"
            for info in sorted(self.session.link.engines.values(), key=lambda info: info.id)
        )
        head = f"<b>Client of {html.escape(self.cluster)}</b>: {html.escape(self._state_text())}"
        return f"{head}<table><tr><th>engine</th><th>host</th><th>process</th></tr>{rows}</table>"


#: The clients of this process, by a number that counts them.
_clients: weakref.WeakValueDictionary[int, Client] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def current() -> Client | None:
    """The latest client of this process that is open: what a notebook's magics work on."""
    return next((client for _, client in sorted(_clients.items(), reverse=True) if not client.closed), None)


def _names(jobs: str | AsyncResult | Iterable[str]) -> list[str]:
    if isinstance(jobs, AsyncResult):
        return jobs.msg_ids
    return [jobs] if isinstance(jobs, str) else list(jobs)


def _signal(sig: int | str) -> int:
    if isinstance(sig, str):
        name = sig.upper() if sig.upper().startswith("SIG") else f"SIG{sig.upper()}"
        with contextlib.suppress(AttributeError):
            return int(getattr(signal, name))
        raise ValueError(f"{sig!r} names no signal")
    return int(sig)


def _connection(wanted: str | Path | ConnectionInfo | None, settings: config.Settings) -> ConnectionInfo:
    if isinstance(wanted, ConnectionInfo):
        return wanted
    if isinstance(wanted, Path) or (isinstance(wanted, str) and not config.CLUSTER_NAME.fullmatch(wanted)):
        return read_connection(Path(wanted).expanduser())
    if wanted is not None and Path(wanted).is_file():
        return read_connection(Path(wanted))
    name = settings.cluster if wanted is None else wanted
    path = config.cluster_dir(settings, name) / CLIENT_FILE
    if not path.exists():
        raise ConnectionFileError(f"no cluster {name!r} is running; {_running(settings)}")
    return read_connection(path)


def _running(settings: config.Settings, besides: str = "") -> str:
    found = {path.parent.name for path in config.runtime_dir(settings).glob(f"*/{CLIENT_FILE}")}
    names = sorted(found - {besides})
    return f"running: {', '.join(names)}" if names else "none is"
