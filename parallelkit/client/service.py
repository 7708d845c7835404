"""The client's shell, on the I/O thread: ledger ↔ hub. ``link.py`` is what other threads use.

A submitted task waits in the ledger until the window lets it out, leaves in a batch, and stays in the ledger until its
result is here. Acknowledgements ride along with the next batch; when there is none they follow within
``ACKNOWLEDGE_DELAY``.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from parallelkit import __version__
from parallelkit.client.needs import Failures, Needs, settle
from parallelkit.core.ledger import Entry, Ledger
from parallelkit.errors import AuthError, ConnectError, HubUnreachable, VersionMismatch
from parallelkit.transport.base import HUB, Loop, Port
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer, to_ranges
from parallelkit.wire.payload import Function

log = logging.getLogger(__name__)

#: Tasks in one message: enough to make the message's own cost vanish, few enough for the first to start soon.
BATCH = 512
ACKNOWLEDGE_DELAY = 0.05
#: Digests remembered as sent; beyond it all are forgotten and functions travel once more.
FUNCTIONS_REMEMBERED = 4096
#: Acknowledgements that do not wait any longer.
ACKNOWLEDGE_COUNT = 1024


class Sink(Protocol):
    """Who waits for results. Called on the I/O thread: quick, and never raising."""

    def settle(self, record: m.ResultRecord, frames: Sequence[Buffer]) -> None:
        """The task has ended; called once for each."""
        ...

    def output(self, record: m.OutputRecord) -> None:
        """A piece of the task's output, before its end."""
        ...

    def ended(self, seq: int) -> m.ResultRecord | None:
        """How this task ended; None as long as it has not. Any thread."""
        ...


class Cargo(NamedTuple):
    """What goes along with a record."""

    frames: list[Buffer]
    function: Function | None
    needs: Needs | None = None


TaskEntry: TypeAlias = Entry[m.TaskRecord, Cargo, Sink]


@dataclass(slots=True)
class Situation:
    """What the I/O thread last learnt of the hub. Read by other threads; replaced field by field."""

    epoch: int = -1
    cluster: str = ""
    heartbeat: float = 1.0
    heard: float = 0.0  # on the loop's clock
    engines: dict[int, m.EngineInfo] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    failure: ConnectError | None = None  # why there will be no connection


class ClientService:
    """``changed`` is called after every change of :class:`Situation`."""

    port: Port

    def __init__(self, loop: Loop, session: bytes, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._session = session
        self._changed = changed
        self.ledger: Ledger[m.TaskRecord, Cargo, Sink] = Ledger()
        self.situation = Situation()
        #: For those that wait for a task by its name alone.
        self.failures = Failures()
        #: Digests of the functions that this hub has been sent.
        self._hub_has: set[bytes] = set()
        self._answers: dict[int, Callable[[Any, str], None]] = {}
        self._acknowledging = False
        self._receivers: dict[type, Callable[[Any, Sequence[Buffer]], None]] = {
            m.ClientWelcome: self._welcome,
            m.Refused: self._refused,
            m.Introduce: self._introduce,
            m.HubBeat: self._hub_beat,
            m.NeedFunctions: self._need_functions,
            m.Results: self._results,
            m.Output: self._output,
            m.Roster: self._roster,
            m.Answer: self._answer,
            m.Goodbye: self._goodbye,
        }

    def start(self) -> None:
        """Say hello, and begin to beat. The port is in place."""
        self._hello()
        self._beat()

    # ------------------------------------------------------------------------------------------------- shell

    def receive(self, peer: bytes, message: m.Message, frames: Sequence[Buffer]) -> None:
        self.situation.heard = self._loop.now()
        receiver = self._receivers.get(type(message))
        if receiver is None:
            log.warning("a %s from the hub is not for clients; dropped", type(message).__name__)
            return
        receiver(message, frames)

    def flush(self) -> None:
        self.send_unsent()
        if self.ledger.unacknowledged > ACKNOWLEDGE_COUNT:
            self._acknowledge_now()
        elif self.ledger.unacknowledged and not self._acknowledging:
            self._acknowledging = True
            self._loop.call_at(self._loop.now() + ACKNOWLEDGE_DELAY, self._acknowledge)

    # ------------------------------------------------------------------------------------------------- tasks

    def send_unsent(self) -> None:
        """Send what the window lets out. Before the first welcome nothing leaves."""
        while self.situation.epoch >= 0 and self.ledger.has_unsent:
            entries = self.ledger.take_sendable(BATCH)
            if not entries:
                break
            self._submit([entry for entry in entries if entry.position <= 0])

    def _submit(self, entries: Sequence[TaskEntry]) -> None:
        records: list[m.TaskRecord] = []
        frames: list[Buffer] = []
        functions: dict[bytes, bytes] = {}
        for entry in entries:
            record, cargo = entry.record, entry.cargo
            if cargo.needs is not None:
                record, why = settle(record, cargo.needs, self._session)
                if why:
                    self._never(record, why)
                    continue
            records.append(record)
            if cargo.frames:
                frames.extend(cargo.frames)
            function = cargo.function
            if function is not None and function.digest not in self._hub_has:
                functions[function.digest] = function.data
        if not records:
            return
        if functions:
            self._remember(functions)
        acknowledged = self.ledger.take_acknowledged()
        self.port.send(HUB, m.Submit(self.situation.epoch, records, functions, acknowledged), frames)

    def _never(self, record: m.TaskRecord, why: str) -> None:
        """The tasks of this record will not run, because of a dependency that has ended otherwise."""
        options = record.options
        count = len(options.targets) if options is not None and options.direct else 1
        for seq in range(record.seq, record.seq + count):
            self._settle(m.ResultRecord(seq, 0, m.Outcome.UNMET, why.encode()), ())

    def _settle(self, record: m.ResultRecord, frames: Sequence[Buffer]) -> None:
        if record.outcome:
            self.failures.add(record)  # before it leaves the ledger: who looks there first finds it in one of them
        entry = self.ledger.settle(record.seq)
        if entry is not None:
            entry.sink.settle(record, frames)

    def _remember(self, digests: Iterable[bytes]) -> None:
        if len(self._hub_has) > FUNCTIONS_REMEMBERED:
            self._hub_has.clear()  # the next tasks bring theirs along once more
        self._hub_has.update(digests)

    def cancel(self, ranges: list[m.Range]) -> None:
        self.send_unsent()
        self.port.send(HUB, m.Cancel(ranges))

    def request(self, number: int, message: m.Message, answered: Callable[[Any, str], None]) -> None:
        self._answers[number] = answered
        self.port.send(HUB, message)

    def forget_request(self, number: int) -> None:
        self._answers.pop(number, None)

    def leave(self) -> None:
        """Say goodbye; the hub drops what is outstanding."""
        self.port.send(HUB, m.Goodbye())

    # -------------------------------------------------------------------------------------------- the hub says

    def _welcome(self, message: m.ClientWelcome, frames: Sequence[Buffer]) -> None:
        now = self.situation
        if message.epoch != now.epoch:
            self._hub_has.clear()
        now.epoch, now.cluster, now.heartbeat = message.epoch, message.cluster, message.heartbeat
        now.engines = {engine.id: engine for engine in message.engines}
        now.limits = message.settings
        self.ledger.window_tasks = int(message.settings.get("window_tasks", self.ledger.window_tasks))
        self.ledger.window_bytes = int(message.settings.get("window_bytes", self.ledger.window_bytes))
        self._changed()
        self._inventory()

    def _refused(self, message: m.Refused, frames: Sequence[Buffer]) -> None:
        self.fail(VersionMismatch(message.reason) if message.kind == "version" else AuthError(message.reason))

    def _introduce(self, message: m.Introduce, frames: Sequence[Buffer]) -> None:
        self._hello()

    def _goodbye(self, message: m.Goodbye, frames: Sequence[Buffer]) -> None:
        self.fail(HubUnreachable(f"the cluster has ended: {message.reason}"))

    def fail(self, error: ConnectError) -> None:
        """There is no hub any more, or never will be: everything outstanding ends with this."""
        self.situation.failure = error
        self.situation.engines = {}
        reason = str(error).encode()
        for entry in self.ledger.abandon():
            entry.sink.settle(m.ResultRecord(entry.seq, 0, m.Outcome.ABANDONED, reason), ())
        for answered in list(self._answers.values()):
            answered(None, str(error))
        self._answers.clear()
        self._changed()

    def _hub_beat(self, message: m.HubBeat, frames: Sequence[Buffer]) -> None:
        if message.epoch > self.situation.epoch:
            self._hello()  # a newer hub, whose welcome was lost
        elif message.missing and message.epoch == self.situation.epoch:
            self._hub_has.clear()  # a hub that lacks tasks may lack their functions
            again = [_alone(entry) for entry in self.ledger.again(message.missing)]
            for start in range(0, len(again), BATCH):
                self._submit(again[start : start + BATCH])

    def _need_functions(self, message: m.NeedFunctions, frames: Sequence[Buffer]) -> None:
        wanted = set(message.digests)
        functions = (entry.cargo.function for entry in self.ledger.entries())
        known = {f.digest: f.data for f in functions if f is not None and f.digest in wanted}
        self.port.send(HUB, m.Functions(known))

    def _results(self, message: m.Results, frames: Sequence[Buffer]) -> None:
        position = 0
        for record in message.results:
            mine: Sequence[Buffer] = ()
            if record.frames:
                mine = frames[position : position + record.frames]
                position += record.frames
            if record.outcome:
                self._settle(record, mine)
                continue
            entry = self.ledger.settle(record.seq)
            if entry is not None:
                entry.sink.settle(record, mine)

    def _output(self, message: m.Output, frames: Sequence[Buffer]) -> None:
        for record in message.output:
            entry = self.ledger.find(record.seq)
            if entry is not None:
                entry.sink.output(record)

    def _roster(self, message: m.Roster, frames: Sequence[Buffer]) -> None:
        engines = dict(self.situation.engines)
        for id, _ in message.left:
            engines.pop(id, None)
        engines.update({engine.id: engine for engine in message.joined})
        self.situation.engines = dict(sorted(engines.items()))
        self._changed()

    def _answer(self, message: m.Answer, frames: Sequence[Buffer]) -> None:
        answered = self._answers.pop(message.number, None)
        if answered is not None:
            answered(message.value, message.error)

    # -------------------------------------------------------------------------------------------- keeping time

    def _hello(self) -> None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.port.send(
            HUB, m.ClientHello(m.PROTOCOL, python, __version__, socket.gethostname(), os.getpid(), self._session)
        )

    def _beat(self) -> None:
        if self.situation.failure is None:
            if self.situation.epoch >= 0:
                self._inventory()
            else:
                self._hello()
            self._loop.call_at(self._loop.now() + self.situation.heartbeat, self._beat)

    def _inventory(self) -> None:
        number, next_seq, outstanding = self.ledger.inventory()
        self.port.send(HUB, m.ClientBeat(number, self.situation.epoch, next_seq, to_ranges(outstanding)))

    def _acknowledge(self) -> None:
        self._acknowledging = False
        if self.ledger.unacknowledged:
            self._acknowledge_now()

    def _acknowledge_now(self) -> None:
        self.port.send(HUB, m.Acknowledge(self.ledger.take_acknowledged()))


def _alone(entry: TaskEntry) -> TaskEntry:
    """An entry whose record stands for it and no other task."""
    if entry.position < 0:
        return entry
    record = entry.record
    options = record.options or m.TaskOptions()
    target = msgspec.structs.replace(options, targets=(options.targets[entry.position],))
    return Entry(
        entry.seq, msgspec.structs.replace(record, seq=entry.seq, options=target), entry.cargo, entry.sink, entry.size
    )
