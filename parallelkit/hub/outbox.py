"""What gathers for each peer while one batch of messages is handled, and leaves as one message each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parallelkit.core.effects import Assign, Deliver
from parallelkit.hub.functions import FunctionCache
from parallelkit.transport.base import Port
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer


class Outbox:
    """Assignments by engine and results by session. Order within each is the order in which they were added."""

    def __init__(self, epoch: int, functions: FunctionCache) -> None:
        self._epoch = epoch
        self._functions = functions
        self._assigned: dict[bytes, _Assignment] = {}
        self._results: dict[bytes, tuple[list[m.ResultRecord], list[Buffer]]] = {}
        self._released: dict[bytes, list[int]] = {}

    def assign(self, effect: Assign) -> None:
        engine = effect.engine
        batch = self._assigned.get(engine.incarnation)
        if batch is None:
            batch = self._assigned[engine.incarnation] = _Assignment()
        for task in effect.tasks:
            work: m.TaskRecord = task.work  # type: ignore[assignment]  # the shell put this record there itself
            session = task.session.id
            records = batch.sessions.get(session)
            if records is None:
                records = batch.sessions[session] = []
            timeout = work.options.timeout if work.options is not None else None
            records.append(
                m.AssignRecord(
                    task.seq, task.attempt, task.runs, work.operation, work.function, work.payload, work.frames, timeout
                )
            )
            if work.frames:
                batch.frames.setdefault(session, []).extend(task.cargo)  # type: ignore[arg-type]  # as above
            if work.function:
                batch.digests[work.function] = None
            batch.number = max(batch.number, task.number)

    def deliver(self, effect: Deliver) -> None:
        batch = self._results.get(effect.session)
        if batch is None:
            batch = self._results[effect.session] = [], []
        records, frames = batch
        for record, cargo in effect.results:
            records.append(record)  # type: ignore[arg-type]  # the shell put this record there itself
            if cargo:
                frames.extend(cargo)  # type: ignore[arg-type]  # as above

    def conclude(self, session: bytes, record: m.ResultRecord) -> None:
        self._results.setdefault(session, ([], []))[0].append(record)

    def release(self, incarnation: bytes, attempts: Iterable[int]) -> None:
        self._released.setdefault(incarnation, []).extend(attempts)

    def take_released(self, incarnation: bytes) -> list[int]:
        """What this engine may forget and has not been told of."""
        return self._released.pop(incarnation, [])

    @property
    def has_released(self) -> bool:
        return bool(self._released)

    def flush(self, port: Port) -> None:
        """Send what has gathered. Releases ride along with work; those without any wait for ``flush_released``."""
        if self._assigned:
            assigned, self._assigned = self._assigned, {}
            for incarnation, batch in assigned.items():
                self._send_assignment(port, incarnation, batch)
        if self._results:
            results, self._results = self._results, {}
            for session, (records, frames) in results.items():
                port.send(m.ROLE_CLIENT + session, m.Results(self._epoch, records), frames)

    def flush_released(self, port: Port) -> None:
        released, self._released = self._released, {}
        for incarnation, attempts in released.items():
            port.send(m.ROLE_ENGINE + incarnation, m.Acknowledged(attempts))

    def _send_assignment(self, port: Port, incarnation: bytes, batch: _Assignment) -> None:
        functions = self._functions.for_engine(incarnation, batch.digests)
        released = self.take_released(incarnation)
        batches = [m.Batch(session, records) for session, records in batch.sessions.items()]
        frames = [frame for session in batch.sessions for frame in batch.frames.get(session, ())]
        message = m.Assign(self._epoch, batch.number, batches, functions, released)
        port.send(m.ROLE_ENGINE + incarnation, message, frames)


class _Assignment:
    """What gathers for one engine."""

    __slots__ = ("digests", "frames", "number", "sessions")

    def __init__(self) -> None:
        self.number = 0
        self.sessions: dict[bytes, list[m.AssignRecord]] = {}
        self.frames: dict[bytes, list[Buffer]] = {}
        self.digests: dict[bytes, None] = {}


def pair(
    records: Sequence[m.ResultRecord], frames: Sequence[Buffer]
) -> tuple[list[tuple[m.ResultRecord, object]], int]:
    """Each record with its own frames, and how many frames they took."""
    if not frames:
        return [(record, ()) for record in records], 0
    paired: list[tuple[m.ResultRecord, object]] = []
    position = 0
    for record in records:
        paired.append((record, frames[position : position + record.frames]))
        position += record.frames
    return paired, position
