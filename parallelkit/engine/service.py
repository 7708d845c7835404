"""The engine's shell: messages of the hub → the run queue and the executor; results and output → messages.

::

    hub ──► receive ──► RunQueue ──► Executor (main thread: user code)
     ▲                    │ outbox        │
     └──── flush ◄────────┴── deliver ◄── Mailbox

Everything here happens on the loop's thread. What has gathered while it served one burst leaves in one message of a
kind, output before results. Nothing is lost with a message: each beat carries the inventory, and the hub asks again.
A hub that was restarted is met with a new hello; running tasks, the outbox and the namespace stay as they are.

Order at the end (:meth:`leave`): pending output and results, then Goodbye, then the loop stops and closes its socket
(which gives them 200 ms to get out), then the process exits without waiting for the running task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import msgspec

from parallelkit.core.runqueue import Entry, RunQueue
from parallelkit.engine.functions import FunctionCache
from parallelkit.engine.mailbox import Letter
from parallelkit.engine.operations import Work
from parallelkit.errors import RemoteProtocolError
from parallelkit.transport.base import HUB, Loop, Port
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer, take

log = logging.getLogger(__name__)

#: Bytes of small payloads in one message; what is beyond leaves in the next.
BATCH = 8 << 20
#: Silence of the hub, in seconds, after which an engine without a node takes its cluster for gone. Others end with
#: their node, which ends with the cluster.
LONELY = 3600.0


class Runner(Protocol):
    """What the service needs of the executor."""

    engine_id: int

    def wake(self) -> None: ...
    def interrupt(self, attempt: int, verdict: m.Outcome) -> None: ...
    def forget(self, attempt: int) -> None: ...


class EngineService:
    """Implements :class:`parallelkit.transport.base.Shell`. ``port`` and ``runner`` are set before the loop runs.

    ``welcomed`` is called with each welcome, ``end`` with a sentence and an exit code when the engine shall end.
    """

    port: Port
    runner: Runner

    def __init__(
        self,
        loop: Loop,
        tasks: RunQueue,
        hello: m.EngineHello,
        heartbeat: float,
        welcomed: Callable[[m.EngineWelcome], None],
        end: Callable[[str, int], None],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._hello = hello
        self._heartbeat = heartbeat
        self._welcomed = welcomed
        self._end = end
        self._functions = FunctionCache()
        self._heard = loop.now()
        self._beats = 0
        self._received = 0
        self._replies: list[Letter] = []
        self._output: list[Letter] = []
        self._returned: list[int] = []
        self._missing: set[bytes] = set()  # functions to ask for with the next flush
        self._asked: set[bytes] = set()
        self._handlers: dict[type[m.Message], Callable[[Any, Sequence[Buffer]], None]] = {
            m.EngineWelcome: self._on_welcome,
            m.Introduce: self._on_introduce,
            m.Refused: self._on_refused,
            m.Goodbye: self._on_goodbye,
            m.Assign: self._on_assign,
            m.Functions: self._on_functions,
            m.Recall: self._on_recall,
            m.Interrupt: self._on_interrupt,
            m.Acknowledged: self._on_acknowledged,
            m.Resend: self._on_resend,
        }

    def start(self) -> None:
        """Say hello, and begin to beat."""
        self._introduce()
        self._loop.call_at(self._loop.now() + self._heartbeat, self._beat)

    def receive(self, peer: bytes, message: m.Message, frames: Sequence[Buffer]) -> None:
        self._heard = self._loop.now()
        handler = self._handlers.get(type(message))
        if handler is None:
            log.warning("the hub sent %s, which is not for engines; dropped", type(message).__name__)
            return
        try:
            handler(message, frames)
        except RemoteProtocolError as error:
            log.warning("message from the hub dropped: %s", error)

    def flush(self) -> None:
        """Send what has gathered."""
        if self._missing:
            self.port.send(HUB, m.NeedFunctions(sorted(self._missing)))
            self._asked |= self._missing
            self._missing.clear()
        if self._returned:
            self.port.send(HUB, m.Returned(self._returned))
            self._returned = []
        if self._output:
            output, self._output = self._output, []
            for part in _portions(output, _size_of_output):
                batches = [m.SessionOutput(session, _records(letters)) for session, letters in _by_session(part)]
                self.port.send(HUB, m.EngineOutput(batches))
        if self._replies:
            replies, self._replies = self._replies, []
            for part in _portions(replies, _size_of_result):
                self._send_replies(_by_session(part))
        if self._tasks.has_ready:
            self.runner.wake()  # last: from here on the main thread competes for the interpreter

    def deliver(self, letters: list[Letter]) -> None:
        """What the executor and the tasks' output have posted; the mailbox calls this."""
        for letter in letters:
            if isinstance(letter.record, m.ResultRecord):
                self._finish(letter)
            else:
                self._output.append(letter)
        self.flush()

    def leave(self, reason: str) -> None:
        """Tell the hub that this engine ends on purpose."""
        self.flush()
        self.port.send(HUB, m.Goodbye(reason))

    # ------------------------------------------------------------------------------------------------- the hub

    def _on_welcome(self, message: m.EngineWelcome, frames: Sequence[Buffer]) -> None:
        if not self._admit(message.epoch):
            return
        self._hello = msgspec.structs.replace(self._hello, wanted_id=message.id)
        self._heartbeat = message.heartbeat
        self.runner.engine_id = message.id
        self._welcomed(message)
        self._send_beat()

    def _on_introduce(self, message: m.Introduce, frames: Sequence[Buffer]) -> None:
        self._introduce()

    def _on_refused(self, message: m.Refused, frames: Sequence[Buffer]) -> None:
        self._end(f"the hub refused this engine ({message.kind}): {message.reason}", 1)

    def _on_goodbye(self, message: m.Goodbye, frames: Sequence[Buffer]) -> None:
        self._end(f"the hub said goodbye: {message.reason or 'no reason given'}", 0)

    def _on_assign(self, message: m.Assign, frames: Sequence[Buffer]) -> None:
        if not self._admit(message.epoch):
            return
        records = [(batch.session, record) for batch in message.batches for record in batch.tasks]
        runs = take(frames, [record.frames for _, record in records])
        self._received = max(self._received, message.number)
        self._tasks.acknowledge(message.acknowledged)
        self._supply(message.functions)
        entries = [self._entry(session, record, run) for (session, record), run in zip(records, runs, strict=True)]
        self._returned += self._tasks.accept(entries)

    def _on_functions(self, message: m.Functions, frames: Sequence[Buffer]) -> None:
        self._supply(message.functions)

    def _on_recall(self, message: m.Recall, frames: Sequence[Buffer]) -> None:
        self._returned += self._tasks.recall(message.attempts)

    def _on_interrupt(self, message: m.Interrupt, frames: Sequence[Buffer]) -> None:
        found = self._tasks.interrupt(message.attempts)
        self._returned += found.absent
        for entry in found.dropped:
            record = cast(Work, entry.work).record
            why = b"cancelled before it started"
            result = m.ResultRecord(
                entry.seq, entry.attempt, m.Outcome.CANCELLED, why, engine=self.runner.engine_id, run=record.run
            )
            self._finish(Letter(entry.session, result))
        for attempt in found.running:
            self.runner.interrupt(attempt, m.Outcome.CANCELLED)

    def _on_acknowledged(self, message: m.Acknowledged, frames: Sequence[Buffer]) -> None:
        self._tasks.acknowledge(message.attempts)

    def _on_resend(self, message: m.Resend, frames: Sequence[Buffer]) -> None:
        self._replies += [cast(Letter, entry.result) for entry in self._tasks.outbox(message.attempts)]

    def _admit(self, epoch: int) -> bool:
        if epoch > self._tasks.epoch:
            self._received = 0
        return self._tasks.admit(epoch)

    # ------------------------------------------------------------------------------------------------- liveness

    def _introduce(self) -> None:
        self.port.send(HUB, self._hello)

    def _beat(self) -> None:
        silence = self._loop.now() - self._heard
        if silence > LONELY and not self._hello.node:
            self._end(f"no hub has answered for {LONELY:g} s and no node watches this engine", 1)
            return
        if silence > 2 * self._heartbeat:
            # No beats into the void: they would all reach the next hub. Hellos do no harm there.
            self._introduce()
        elif self._tasks.epoch >= 0:
            self._send_beat()
            self._missing |= {entry.needs for entry in self._tasks.held() if entry.needs is not None}
            self.flush()
        self._loop.call_at(self._loop.now() + self._heartbeat, self._beat)

    def _send_beat(self) -> None:
        self._beats += 1
        inventory = [
            m.SessionInventory(session, [(seq, attempt, m.Stage(stage)) for seq, attempt, stage in attempts])
            for session, attempts in self._tasks.inventory().items()
        ]
        self.port.send(HUB, m.EngineBeat(self._beats, self._tasks.epoch, self._received, inventory))

    # ---------------------------------------------------------------------------------------------------- tasks

    def _entry(self, session: bytes, record: m.AssignRecord, frames: Sequence[Buffer]) -> Entry:
        work = Work(session, record, frames)
        if record.function:
            work.function = self._functions.get(record.function)
            if work.function is None:
                if record.function not in self._asked:
                    self._missing.add(record.function)
                return Entry(session, record.seq, record.attempt, work, record.function)
        return Entry(session, record.seq, record.attempt, work)

    def _supply(self, functions: dict[bytes, bytes]) -> None:
        """Functions have come: they are known from now on, and those who wait for them may start."""
        if not functions:
            return
        arrived = {digest: self._functions.add(digest, data) for digest, data in functions.items()}
        self._asked.difference_update(arrived)
        for entry in self._tasks.held():
            if entry.needs in arrived:
                cast(Work, entry.work).function = arrived[entry.needs]
                entry.needs = None
        self._tasks.release()

    def _finish(self, letter: Letter) -> None:
        self.runner.forget(letter.record.attempt)
        self._tasks.finish(letter.record.attempt, letter)
        self._replies.append(letter)

    def _send_replies(self, sessions: Iterable[tuple[bytes, list[Letter]]]) -> None:
        batches = []
        frames: list[Buffer] = []
        for session, letters in sessions:
            batches.append(m.SessionResults(session, _records(letters)))
            for letter in letters:
                frames += letter.frames
        self.port.send(HUB, m.Replies(self._tasks.epoch, batches), frames)


def _by_session(letters: Iterable[Letter]) -> Iterable[tuple[bytes, list[Letter]]]:
    sessions: dict[bytes, list[Letter]] = {}
    for letter in letters:
        sessions.setdefault(letter.session, []).append(letter)
    return sessions.items()


def _records(letters: Iterable[Letter]) -> list[Any]:
    return [letter.record for letter in letters]


def _size_of_output(letter: Letter) -> int:
    return len(cast(m.OutputRecord, letter.record).data)


def _size_of_result(letter: Letter) -> int:
    return len(cast(m.ResultRecord, letter.record).payload)


def _portions(letters: list[Letter], size: Callable[[Letter], int]) -> Iterable[list[Letter]]:
    """Consecutive parts of at most ``BATCH`` bytes, or of one letter."""
    part: list[Letter] = []
    total = 0
    for letter in letters:
        total += size(letter)
        if part and total > BATCH:
            yield part
            part, total = [], size(letter)
        part.append(letter)
    yield part
