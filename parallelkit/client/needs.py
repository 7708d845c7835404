"""What a call waits for, as its client sends it: only what is not settled when it leaves.

Rule: the client knows how each of its own tasks ended. A dependency whose result is here is never sent: one that
counts is left out, one that dooms ends the dependent here. So the hub, also a new one that is sent all of it again,
only ever hears of dependencies that are outstanding, and those are sent before what waits for them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Protocol

import msgspec

from parallelkit.core.dependencies import Condition, task_name, unmet
from parallelkit.wire import messages as m

#: Tasks that failed, of which the number and the outcome are remembered when nobody holds their results.
FAILURES_REMEMBERED = 10_000


class Knows(Protocol):
    """Who can tell how a task ended."""

    def ended(self, seq: int) -> m.ResultRecord | None:
        """None as long as it has not."""
        ...


class Stand(NamedTuple):
    """Stands under a negative number for something that ended and is no single task of this client."""

    name: str
    outcome: m.Outcome

    def ended(self, seq: int) -> m.ResultRecord:
        return m.ResultRecord(seq, 0, self.outcome, b"")


class Failures:
    """Tells how tasks ended whose entries are gone from the ledger: well, if it knows nothing else."""

    def __init__(self) -> None:
        self._records: OrderedDict[int, m.ResultRecord] = OrderedDict()
        #: Highest number that has been forgotten.
        self.forgotten = -1

    def add(self, record: m.ResultRecord) -> None:
        reason = record.payload if record.outcome is m.Outcome.UNMET else b""
        self._records[record.seq] = m.ResultRecord(record.seq, 0, record.outcome, reason)
        if len(self._records) > FAILURES_REMEMBERED:
            self.forgotten = max(self.forgotten, self._records.popitem(last=False)[0])

    def ended(self, seq: int) -> m.ResultRecord:
        return self._records.get(seq) or m.ResultRecord(seq, 0, m.Outcome.OK, b"")


class Need(NamedTuple):
    """A dependency, and for each of its numbers who knows."""

    dependency: m.Dependency
    known_by: tuple[Knows, ...]


class Needs(NamedTuple):
    after: Need | None = None
    follow: Need | None = None

    def options(self, options: m.TaskOptions) -> m.TaskOptions:
        """The options of a task that has these needs, as if none were settled."""
        return msgspec.structs.replace(
            options,
            after=self.after.dependency if self.after is not None else None,
            follow=self.follow.dependency if self.follow is not None else None,
        )


def settle(record: m.TaskRecord, needs: Needs, session: bytes) -> tuple[m.TaskRecord, str]:
    """The record as it is to be sent now; or why its task will never run."""
    after, why = _left(needs.after, session)
    follow, instead = _left(needs.follow, session)
    if after is not None and not after.numbers:
        after = None
    options = msgspec.structs.replace(record.options or m.TaskOptions(), after=after, follow=follow)
    return msgspec.structs.replace(record, options=options), why or instead


def _left(need: Need | None, session: bytes) -> tuple[m.Dependency | None, str]:
    if need is None:
        return None, ""
    dependency = need.dependency
    condition = Condition(dependency)
    for number, knows in zip(dependency.numbers, need.known_by, strict=True):
        ended = knows.ended(number)
        if ended is None or number not in condition.left:
            continue
        if not condition.note(number, ended.outcome, ended.engine):
            name = knows.name if isinstance(knows, Stand) else task_name(session, number)
            reason = bytes(ended.payload).decode(errors="replace") if ended.outcome is m.Outcome.UNMET else ""
            return None, unmet(name, ended.outcome, reason)
    left = tuple(sorted(condition.left))
    return msgspec.structs.replace(dependency, numbers=left, engines=tuple(condition.engines)), ""
