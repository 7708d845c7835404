"""What came back for one task: kept as bytes, opened by the thread that asks.

Values are kept once opened. Exceptions are not: each time somebody asks, a fresh one is built from the bytes, so
that no traceback grows with every raise and none ties a result to the frames that raised it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from parallelkit.errors import (
    EngineLost,
    HubUnreachable,
    ImpossibleDependency,
    RemoteErrors,
    ResultError,
    TaskCancelled,
    TaskTimeout,
)
from parallelkit.wire.failures import load_failure
from parallelkit.wire.frames import Buffer
from parallelkit.wire.messages import Outcome, ResultRecord
from parallelkit.wire.payload import load

#: Names a task for people, from its number: "score (a1b2c3d4-17)".
Describe = Callable[[int], str]

_UNOPENED: Any = object()
#: Two threads may open the same result at the same time; all shall see the same object.
_publish = threading.Lock()
#: More exceptions than this in one group help nobody, and opening them takes time.
GROUP_LIMIT = 100

_TEXT_OUTCOMES = {
    Outcome.CANCELLED: (TaskCancelled, "was cancelled"),
    Outcome.TIMEOUT: (TaskTimeout, "ran longer than its timeout"),
    Outcome.LOST: (EngineLost, "was lost with its engine"),
    Outcome.ABANDONED: (HubUnreachable, "was abandoned"),
    Outcome.UNMET: (ImpossibleDependency, "never ran, because of a dependency"),
}


class Arrival:
    """The end of one task, as it arrived. ``received`` is a time on this process's monotonic clock."""

    __slots__ = ("_frames", "_value", "received", "record")

    def __init__(self, record: ResultRecord, frames: Sequence[Buffer], received: float) -> None:
        self.record = record
        self.received = received
        self._frames = frames
        self._value = _UNOPENED

    @property
    def ok(self) -> bool:
        return self.record.outcome is Outcome.OK

    @property
    def cancelled(self) -> bool:
        return self.record.outcome is Outcome.CANCELLED

    def open(self) -> Any:
        """The value, the same object each time; only if :attr:`ok`.

        Raises:
            ResultError: it cannot be opened here; the next call tries again.
        """
        if self._value is _UNOPENED:
            value = load(self.record.payload, self._frames)
            with _publish:
                if self._value is _UNOPENED:
                    self._value = value
                    self._frames = ()
        return self._value

    def error(self, describe: Describe) -> Exception:
        """The exception that this task ended with, built anew; only if not :attr:`ok`."""
        record = self.record
        if record.outcome is Outcome.ERROR:
            return load_failure(record.payload, self._frames)
        kind, default = _TEXT_OUTCOMES[record.outcome]
        text = bytes(record.payload).decode(errors="replace") or default
        return kind(f"{describe(record.seq)}: {text}")


class Failure(NamedTuple):
    """Something that failed; ``open`` builds its exception anew."""

    open: Callable[[], Exception]
    cancelled: bool = False


class Failures:
    """Gathers what failed of one result, and makes one exception of it.

    Opens no more than :data:`GROUP_LIMIT` exceptions, and only the first of several cancellations: these say the
    same thing over and over.
    """

    def __init__(self) -> None:
        self.count = 0
        self._errors: list[Exception] = []
        self._cancelled = False

    def add(self, failure: Failure) -> None:
        self.count += 1
        if len(self._errors) < GROUP_LIMIT and not (failure.cancelled and self._cancelled):
            self._errors.append(failure.open())
        self._cancelled |= failure.cancelled

    def error(self, total: int, noun: str) -> Exception | None:
        """None without failures; the only one as itself; several as :class:`RemoteErrors`."""
        if len(self._errors) <= 1:
            return self._errors[0] if self._errors else None
        shown = f"; the first {GROUP_LIMIT} are shown" if len(self._errors) == GROUP_LIMIT else ""
        return RemoteErrors(f"{self.count} of {total} {noun} failed{shown}", self._errors)


def open_arrival(arrival: Arrival, describe: Describe) -> tuple[Any, Exception | None]:
    """``(value, None)`` or ``(None, exception)``; a result that cannot be opened counts as failed."""
    if not arrival.ok:
        return None, arrival.error(describe)
    try:
        return arrival.open(), None
    except ResultError as error:
        return None, error


def as_item(error: Exception) -> Exception:
    """What an iterator raises for it: a task's StopIteration must not end the loop over its results."""
    if not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    wrapped = RuntimeError(f"the task raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
