"""A client's connection to its hub, as other threads see it: submit, cancel, ask. One background I/O thread."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from parallelkit.client.needs import Knows, Needs
from parallelkit.client.service import Cargo, ClientService, Sink, TaskEntry
from parallelkit.core.ledger import Entry
from parallelkit.errors import AuthError, ClusterError, HubUnreachable
from parallelkit.transport.connection import ConnectionInfo, require_listener
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import connect as connect_socket
from parallelkit.wire import messages as m
from parallelkit.wire.frames import pack
from parallelkit.wire.payload import Function, Payload

#: How long ``close`` waits for the I/O thread, which has only to send a goodbye.
CLOSE_TIMEOUT = 5.0
#: Seconds without a listener after which a connection file is stale; a hub that is restarted is back much sooner.
STALE_AFTER = 2.0


@dataclass(slots=True)
class Call:
    """A task before it has a number. ``items`` is the length of a map's chunk, else 1."""

    operation: m.Operation
    payload: Payload
    function: Function | None = None
    items: int = 1
    needs: Needs | None = None


class Link:
    """Use :func:`connect` to get one. All methods may be called from any thread."""

    def __init__(self, info: ConnectionInfo) -> None:
        self.session = os.urandom(16)
        self.changed = threading.Condition()
        self._info = info
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._reactor = Reactor()
        self._service = ClientService(self._reactor, self.session, self._notify)
        self._sending = False
        self._closed = False
        self._service.port = connect_socket(
            self._reactor, info, m.ROLE_CLIENT + self.session, self._service, self._auth_failed
        )
        # Runs until close(), whoever still holds this link: a Client closes its link when it is dropped.
        self._thread = threading.Thread(target=self._reactor.run, name="parallelkit-io", daemon=True)
        self._reactor.call_soon(self._service.start)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------- state

    @property
    def engines(self) -> Mapping[int, m.EngineInfo]:
        """The engines there are, by id; a new mapping at each change."""
        return self._service.situation.engines

    @property
    def limits(self) -> Mapping[str, Any]:
        """What the hub asks of its clients."""
        return self._service.situation.limits

    @property
    def cluster(self) -> str:
        return self._service.situation.cluster or self._info.cluster

    @property
    def heartbeat(self) -> float:
        return self._service.situation.heartbeat

    @property
    def hub_silence(self) -> float:
        """Seconds since the hub was last heard; 0.0 while it beats as it should."""
        situation = self._service.situation
        silence = time.monotonic() - situation.heard
        return silence if silence > 2 * situation.heartbeat else 0.0

    @property
    def outstanding(self) -> int:
        """Tasks without a result."""
        return len(self._service.ledger)

    @property
    def failure(self) -> Exception | None:
        """Why there is no hub any more, or None."""
        return self._service.situation.failure

    @property
    def closed(self) -> bool:
        return self._closed

    def task_name(self, seq: int) -> str:
        return f"{self.session.hex()[:8]}-{seq}"

    def knows(self, seq: int, *, engine: bool = False) -> Knows:
        """Who can tell how this task ends; with ``engine`` also where.

        Raises:
            ValueError: nobody can.
        """
        ledger, failures = self._service.ledger, self._service.failures
        if not 0 <= seq < ledger.next_seq:
            raise ValueError(f"there is no task {self.task_name(seq)}")
        entry = ledger.find(seq)
        if entry is not None:
            return entry.sink
        if engine or seq <= failures.forgotten:
            known = "where it ran" if engine else "how it ended"
            raise ValueError(f"{self.task_name(seq)} has ended, and {known} is not kept: use its AsyncResult instead")
        return failures

    # -------------------------------------------------------------------------------------------------- work

    def submit(self, calls: Sequence[Call], options: m.TaskOptions, sink: Sink) -> int:
        """Hand over tasks; returns the number of the first, the others follow.

        With ``options.direct`` and n targets each call stands for n tasks, in the order of the targets.

        Raises:
            HubUnreachable: this client is closed, or its cluster has ended.
        """
        self._require_open()
        fan = len(options.targets) if options.direct else 1
        ledger = self._service.ledger
        with self._lock:
            first = seq = ledger.next_seq
            entries: list[TaskEntry] = []
            for call in calls:
                entries += _entries(seq, call, options, sink)
                seq += fan
            ledger.submit(entries)
        if not self._sending:
            self._sending = True
            self._reactor.call_here(self._send)
        return first

    def drive(self, done: Callable[[], Any], timeout: float) -> bool:
        """Serve the connection on this thread until ``done()``: for who has nothing to do but wait for a result.

        False when another thread does so already, or the connection is closed: wait for it then.
        """
        return self._reactor.drive(done, timeout)

    def poke(self) -> None:
        """Let a thread in :meth:`drive` look whether it is done: something has changed that no message told of."""
        self._reactor.wake()

    def cancel(self, first: int, count: int) -> None:
        """Ask for the end of these tasks; each still gets one result."""
        self._require_open()
        self._reactor.call_soon(lambda: self._service.cancel([(first, first + count)]))

    def request(self, make: Callable[[int], m.Message], timeout: float | None = None) -> Any:
        """Send a numbered request and wait for its answer.

        Raises:
            ClusterError: the hub refused; the text is its reason.
            HubUnreachable: no answer within ``timeout`` seconds (default 10).
        """
        self._require_open()
        number = next(self._numbers)
        answer: Future[Any] = Future()

        def answered(value: Any, error: str) -> None:
            answer.set_exception(ClusterError(error)) if error else answer.set_result(value)

        self._reactor.call_soon(lambda: self._service.request(number, make(number), answered))
        try:
            return answer.result(10.0 if timeout is None else timeout)
        except TimeoutError:
            self._reactor.call_soon(lambda: self._service.forget_request(number))
            raise HubUnreachable(f"the hub of {self.cluster!r} did not answer in time") from None

    def close(self) -> None:
        """Leave the hub; it drops what is outstanding. Once is enough, more is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._reactor.call_soon(self._leave)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT)
        self._notify()

    # ------------------------------------------------------------------------------------- on the I/O thread

    def _send(self) -> None:
        # The flag falls first: whoever submits after this point calls again.
        self._sending = False
        self._service.send_unsent()

    def _leave(self) -> None:
        self._service.leave()
        self._service.fail(HubUnreachable("this client was closed"))
        self._reactor.stop()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _auth_failed(self) -> None:
        self._service.fail(AuthError(f"the hub of {self._info.cluster!r} refused the key of this connection file"))

    def _require_open(self) -> None:
        failure = self._service.situation.failure
        if failure is not None:
            raise failure
        if self._closed:
            raise HubUnreachable("this client was closed")


def _entries(seq: int, call: Call, options: m.TaskOptions, sink: Sink) -> list[TaskEntry]:
    """One entry for each task that the call stands for; they share one record."""
    payload, frames = pack(call.payload.data, call.payload.buffers)
    function = call.function
    digest = b"" if function is None else function.digest
    if call.needs is not None:
        options = call.needs.options(options)
    record = m.TaskRecord(seq, call.operation, digest, payload, len(frames), call.items, options)
    cargo = Cargo(frames, function, call.needs)
    size = len(call.payload.data)
    if frames:
        size += sum(memoryview(buffer).nbytes for buffer in call.payload.buffers)
    if not options.direct:
        return [Entry(seq, record, cargo, sink, size)]
    return [
        Entry(seq + position, record, cargo, sink, 0 if position else size, position)
        for position in range(len(options.targets))
    ]


def connect(info: ConnectionInfo, *, timeout: float) -> Link:
    """Connect to a hub and wait until it has let us in.

    Raises:
        HubUnreachable: nobody answered within ``timeout`` seconds.
        ConnectionFileError: nobody listens there at all.
        AuthError: the key was refused.
        VersionMismatch: Python or protocol versions that do not go together.
    """
    require_listener(info, min(timeout, STALE_AFTER))
    link = Link(info)
    deadline = time.monotonic() + timeout
    situation = link._service.situation
    with link.changed:
        while situation.epoch < 0 and situation.failure is None and time.monotonic() < deadline:
            link.changed.wait(max(0.0, deadline - time.monotonic()))
    if situation.epoch >= 0:
        return link
    failure = situation.failure or HubUnreachable(
        f"the hub of {info.cluster!r} at {info.endpoint} did not answer within {timeout:g} s"
    )
    link.close()
    raise failure
