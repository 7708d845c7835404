"""The record of each task for users: who ran it, when, how it ended, what it printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from parallelkit.client.arrivals import Arrival, Describe
from parallelkit.client.output import decode, displays_of, text_of
from parallelkit.wire.messages import OutputRecord, Stream

if TYPE_CHECKING:
    from parallelkit.client.session import Session


def instant(unix: float | None) -> datetime | None:
    """A Unix time as an aware datetime; 0.0 and None mean "not yet"."""
    return datetime.fromtimestamp(unix, UTC) if unix else None


def task_metadata(
    name: str,
    label: str,
    submitted: float,
    received: float | None,
    arrival: Arrival | None,
    output: Sequence[OutputRecord],
    describe: Describe,
) -> dict[str, Any]:
    """Keys as in the peer. ``submitted`` and ``received`` are this machine's clock, ``started`` and ``completed``
    the engine's; all are aware datetimes or None. ``status`` is pending, ok, error, cancelled, timeout, lost, unmet."""
    record = arrival.record if arrival else None
    started = record.started if record else 0.0
    return {
        "msg_id": name,
        "label": label,
        "submitted": instant(submitted),
        "started": instant(started),
        "completed": instant(started + record.seconds) if record and started else None,
        "received": instant(received),
        "engine_id": record.engine if record and record.engine >= 0 else None,
        "run": record.run if record else 0,
        "status": record.outcome.name.lower() if record else "pending",
        "error": arrival.error(describe) if arrival and not arrival.ok else None,
        "stdout": text_of(output, Stream.STDOUT),
        "stderr": text_of(output, Stream.STDERR),
        "outputs": displays_of(output),
        "execute_result": next((decode(piece).content for piece in output if piece.stream is Stream.RESULT), None),
    }


def _column(key: str) -> property:
    return property(lambda records: records[key], doc=f"``{key}`` of :attr:`metadata`: of the one task, or a list.")


class TaskRecords:
    """What an :class:`AsyncResult` tells of its tasks besides their values."""

    label: str
    _name: str
    _session: Session
    _single: bool
    _submitted: float  # Unix time
    _began: float  # the same moment on the monotonic clock
    _output: dict[int, list[OutputRecord]]

    def _rows(self) -> list[tuple[int, Arrival | None]]:
        """Number and arrival of each task, in order."""
        raise NotImplementedError

    def done(self) -> bool:
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError

    def _task_name(self, seq: int) -> str:
        return self._session.link.task_name(seq) if seq >= 0 else "not sent yet"

    def _describe(self, seq: int) -> str:
        return f"{self._name} ({self._task_name(seq)})"

    @property
    def msg_ids(self) -> list[str]:
        """The names of the tasks."""
        return [self._task_name(seq) for seq, _ in self._rows()]

    @property
    def metadata(self) -> Any:
        """A dict for one task, else a list of dicts: see :func:`task_metadata`."""
        rows = self._rows()
        return self._record(*rows[0]) if self._single else [self._record(*row) for row in rows]

    def record(self, index: int) -> dict[str, Any]:
        """:attr:`metadata` of task ``index`` alone."""
        return self._record(*self._rows()[index])

    def _record(self, seq: int, arrival: Arrival | None) -> dict[str, Any]:
        return task_metadata(
            self._task_name(seq),
            self.label,
            self._submitted,
            self._submitted + arrival.received - self._began if arrival else None,
            arrival,
            list(self._output.get(seq, ())),
            self._describe,
        )

    @property
    def engine_id(self) -> Any:
        """Which engine, or a list of them; None where a task has not run yet."""
        ids = [arrival.record.engine if arrival and arrival.record.engine >= 0 else None for _, arrival in self._rows()]
        return ids[0] if self._single else ids

    # Texts, lists of {"data", "metadata"}, and for the last expression of a cell one of these or None.
    stdout = _column("stdout")
    stderr = _column("stderr")
    outputs = _column("outputs")
    execute_result = _column("execute_result")
    # Aware datetimes, or None where that has not happened yet.
    submitted = _column("submitted")
    started = _column("started")
    completed = _column("completed")
    received = _column("received")
    # A word, and an exception or None.
    status = _column("status")
    error = _column("error")

    @property
    def missing(self) -> list[str]:
        """Names of the tasks that are not done."""
        return [self._task_name(seq) for seq, arrival in self._rows() if arrival is None]

    @property
    def elapsed(self) -> float:
        """Seconds from the submission until now, or until the last result."""
        return self._ended() - self._began

    @property
    def wall_time(self) -> float:
        """As :attr:`elapsed`; both ends are on this machine's monotonic clock."""
        return self.elapsed

    @property
    def serial_time(self) -> float:
        """Seconds that the tasks ran, added up; each is measured by its engine's monotonic clock."""
        return sum(arrival.record.seconds for _, arrival in self._rows() if arrival)

    def _ended(self) -> float:
        if not self.done():
            return time.monotonic()
        return max((arrival.received for _, arrival in self._rows() if arrival), default=self._began)

    def timedelta(
        self,
        start: datetime | Iterable[datetime],
        end: datetime | Iterable[datetime],
        start_key: Callable[[Iterable[datetime]], datetime] = min,
        end_key: Callable[[Iterable[datetime]], datetime] = max,
    ) -> float:
        """Seconds between two times or two sets of them: ``ar.timedelta(ar["started"], ar["completed"])``."""
        first = start if isinstance(start, datetime) else start_key(start)
        last = end if isinstance(end, datetime) else end_key(end)
        return (last - first).total_seconds()
