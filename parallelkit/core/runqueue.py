"""The engine's machine: which attempts it holds, which runs next, what must not be forgotten. No I/O.

An attempt is QUEUED, then RUNNING, then FINISHED: its result stays here, in the outbox, until the hub says that the
owner has it. A session's attempts start in the order in which they arrived; one that lacks something (its function)
holds back those of its session behind it, and nobody else's.

An attempt starts at most once, however often it is assigned. Which ones are over is remembered for the last
``MEMORY`` of them; an attempt older than all those is refused, which is safe: the hub either knows how it ended or
gives the task a new attempt.

Threads: the loop's thread calls everything but :meth:`next`, which belongs to the one thread that runs user code.
They share ``_ready`` alone, and take from it by a single operation of a C dictionary (``pop``, ``popitem``) that the
interpreter does not interrupt: whoever takes an attempt out owns its start. There is no lock to wait for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from parallelkit.errors import InternalError

#: Attempts that are over and still recognised. Connections do not reorder, so only what was repeated across a lost
#: connection is older than a few; one costs about 100 bytes.
MEMORY = 8192


class Stage(IntEnum):
    """Where an attempt is; the numbers are those of the wire."""

    QUEUED = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True, eq=False)
class Entry:
    """One attempt. ``work`` and ``result`` are opaque here; ``work`` is let go as soon as it is not needed."""

    session: bytes
    seq: int
    attempt: int
    work: object
    needs: bytes | None = None  #: digest of what must arrive before it can start
    result: object = None  #: set once it has finished


class Interrupted(NamedTuple):
    """What an interrupt met. The caller owes each of ``dropped`` a result, and ``running`` a signal.

    ``absent`` are not here; they will not start, not even when they arrive after this.
    """

    dropped: list[Entry]
    running: list[int]
    absent: list[int]


class Statistics(NamedTuple):
    """Counts of attempts: by stage now (``held`` of the queued ones lack a function), and since the start."""

    queued: int
    held: int
    running: int
    finished: int
    started: int
    completed: int


class RunQueue:
    """All attempts of one engine, from their arrival until they are acknowledged."""

    def __init__(self, memory: int = MEMORY) -> None:
        #: Life of the hub that spoke last; -1 before the first.
        self.epoch = -1
        self._entries: dict[int, Entry] = {}
        self._ready: OrderedDict[int, Entry] = OrderedDict()
        self._held: dict[bytes, OrderedDict[int, Entry]] = {}
        self._retired: set[int] = set()
        self._retirement: deque[int] = deque()
        self._memory = memory
        self._mark = -1
        self._finished = 0
        self._started = 0
        self._completed = 0

    def admit(self, epoch: int) -> bool:
        """Take note of the hub's epoch; False when a newer hub has spoken already and this one must be ignored."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        return True

    def accept(self, entries: Iterable[Entry]) -> list[int]:
        """Queue the attempts that are new; return those that are over, or too old to tell: they will not start."""
        known, retired, ready, held, mark = self._entries, self._retired, self._ready, self._held, self._mark
        refused = []
        for entry in entries:
            attempt = entry.attempt
            if attempt in known:
                continue
            if attempt <= mark or attempt in retired:
                refused.append(attempt)
                continue
            known[attempt] = entry
            if entry.needs is None and entry.session not in held:
                ready[attempt] = entry
            else:
                held.setdefault(entry.session, OrderedDict())[attempt] = entry
        return refused

    def held(self) -> list[Entry]:
        """The entries that lack something, or wait behind such a one. Clear ``needs``, then :meth:`release`."""
        return [entry for line in self._held.values() for entry in line.values()]

    def release(self) -> None:
        """Make ready what waits for nothing any more."""
        for session, line in list(self._held.items()):
            while line and next(iter(line.values())).needs is None:
                attempt, entry = line.popitem(last=False)
                self._ready[attempt] = entry
            if not line:
                del self._held[session]

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`next` has something to give. Any thread."""
        return bool(self._ready)

    def next(self) -> Entry | None:
        """The attempt to start now, which runs from here on; None when none is ready. The running thread's only."""
        if not self._ready:
            return None
        try:
            _, entry = self._ready.popitem(last=False)
        except KeyError:  # the loop's thread took the last one in between
            return None
        self._started += 1
        return entry

    def finish(self, attempt: int, result: object) -> None:
        """The attempt ended: it is in the outbox until acknowledged.

        Raises:
            InternalError: it is not running.
        """
        entry = self._entries.get(attempt)
        if entry is None or entry.result is not None or self._is_queued(entry):
            raise InternalError(f"attempt {attempt} has no start that could end: {self._describe(entry)}")
        entry.result = result
        entry.work = None
        self._finished += 1
        self._completed += 1

    def acknowledge(self, attempts: Iterable[int]) -> None:
        """These results have reached their owner. Those that have not finished are left alone: their turn comes."""
        entries = self._entries
        for attempt in attempts:
            entry = entries.get(attempt)
            if entry is not None and entry.result is not None:
                del entries[attempt]
                self._finished -= 1
                self._retire(attempt)

    def recall(self, attempts: Iterable[int]) -> list[int]:
        """Give up those that have not started; return them. They never will, not even when assigned again."""
        given_up = []
        for attempt in attempts:
            entry = self._entries.get(attempt)
            if entry is None:
                given_up.append(attempt)
                self._retire(attempt)
            elif self._withdraw(entry):
                del self._entries[attempt]
                given_up.append(attempt)
                self._retire(attempt)
        self.release()
        return given_up

    def interrupt(self, attempts: Iterable[int]) -> Interrupted:
        """Withdraw the queued ones: the caller ends them with :meth:`finish`. Finished ones are no longer affected."""
        found = Interrupted(dropped=[], running=[], absent=[])
        for attempt in attempts:
            entry = self._entries.get(attempt)
            if entry is None:
                found.absent.append(attempt)
                self._retire(attempt)
            elif entry.result is None:
                if self._withdraw(entry):
                    found.dropped.append(entry)
                else:
                    found.running.append(attempt)
        self.release()
        return found

    def outbox(self, attempts: Iterable[int]) -> list[Entry]:
        """Those of the attempts whose results are here, to be sent once more."""
        found = (self._entries.get(attempt) for attempt in attempts)
        return [entry for entry in found if entry is not None and entry.result is not None]

    def inventory(self) -> dict[bytes, list[tuple[int, int, Stage]]]:
        """Everything held, by session, each as (seq, attempt, stage)."""
        found: dict[bytes, list[tuple[int, int, Stage]]] = {}
        for attempt, entry in self._entries.items():
            found.setdefault(entry.session, []).append((entry.seq, attempt, self._stage(entry)))
        return found

    def statistics(self) -> Statistics:
        held = sum(len(line) for line in self._held.values())
        queued = len(self._ready) + held
        running = len(self._entries) - queued - self._finished
        return Statistics(queued, held, running, self._finished, self._started, self._completed)

    def check(self) -> None:
        """Verify every invariant.

        Raises:
            InternalError: one does not hold.
        """
        held = {entry.attempt: entry for entry in self.held()}
        queued = {**self._ready, **held}
        finished = [entry for entry in self._entries.values() if entry.result is not None]
        faults = {
            "a queued attempt is unknown or has a result": any(
                self._entries.get(attempt) is not entry or entry.result is not None or entry.attempt != attempt
                for attempt, entry in queued.items()
            ),
            "an attempt is both ready and held": len(queued) != len(self._ready) + len(held),
            "something ready still lacks something": any(entry.needs is not None for entry in self._ready.values()),
            "a session is held back by nothing": any(
                not line or next(iter(line.values())).needs is None for line in self._held.values()
            ),
            "a line holds another session's": any(
                entry.session != session for session, line in self._held.items() for entry in line.values()
            ),
            "a result is miscounted": len(finished) != self._finished,
            "a finished attempt keeps its work": any(entry.work is not None for entry in finished),
            "an attempt is over and held": not self._retired.isdisjoint(self._entries),
            "the memory of ended attempts is out of bounds": len(self._retirement) > self._memory
            or self._retired != set(self._retirement)
            or len(self._retired) != len(self._retirement),
        }
        broken = [fault for fault, holds in faults.items() if holds]
        if broken:
            raise InternalError(f"run queue: {'; '.join(broken)}; {self.statistics()}")

    def _withdraw(self, entry: Entry) -> bool:
        """Take it away before it starts; False when it has started. Decides against :meth:`next` atomically."""
        if self._ready.pop(entry.attempt, None) is None:
            line = self._held.get(entry.session)
            if line is None or line.pop(entry.attempt, None) is None:
                return False
            if not line:
                del self._held[entry.session]
        return True

    def _retire(self, attempt: int) -> None:
        if attempt in self._retired:
            return
        self._retired.add(attempt)
        self._retirement.append(attempt)
        if len(self._retirement) > self._memory:
            oldest = self._retirement.popleft()
            self._retired.discard(oldest)
            self._mark = max(self._mark, oldest)

    def _is_queued(self, entry: Entry) -> bool:
        return entry.attempt in self._ready or entry.attempt in self._held.get(entry.session, ())

    def _stage(self, entry: Entry) -> Stage:
        if entry.result is not None:
            return Stage.FINISHED
        return Stage.QUEUED if self._is_queued(entry) else Stage.RUNNING

    def _describe(self, entry: Entry | None) -> str:
        return "it is not here" if entry is None else f"it is {self._stage(entry).name}"
