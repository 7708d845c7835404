"""The client's machine: what is outstanding, what may be sent, what has been answered.

A client keeps each task until it holds the result. The hub may die and forget: the inventory in the next heartbeat
tells it what it lacks, and the tasks named in its answer are sent again. A result that comes twice is taken once.

Order: numbers are sent in ascending order, so everything below ``sent`` has been sent and nothing else.
Threads: ``submit`` may be called by any thread that holds the owner's lock; the rest belongs to the I/O thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from parallelkit.errors import InternalError

RecordT = TypeVar("RecordT")
CargoT = TypeVar("CargoT")
SinkT = TypeVar("SinkT")


class Entry(Generic[RecordT, CargoT, SinkT]):
    """One task until its result is here. ``record`` and ``cargo`` are what is sent, ``sink`` is who waits."""

    __slots__ = ("cargo", "position", "record", "seq", "sink", "size")

    def __init__(self, seq: int, record: RecordT, cargo: CargoT, sink: SinkT, size: int, position: int = -1) -> None:
        self.seq = seq
        self.record = record
        self.cargo = cargo
        self.sink = sink
        #: Bytes of its payload; 0 for all but the first task of a record that stands for several.
        self.size = size
        #: Which of the several tasks of its record it is; -1: the record stands for it alone.
        self.position = position


class LedgerStatistics(NamedTuple):
    outstanding: int
    unsent: int
    bytes_sent: int


class Ledger(Generic[RecordT, CargoT, SinkT]):
    """``window_tasks`` and ``window_bytes`` bound what is at the hub at a time; more waits here, in order."""

    def __init__(self, window_tasks: int = 10_000, window_bytes: int = 256 << 20) -> None:
        self.window_tasks = window_tasks
        self.window_bytes = window_bytes
        self.next_seq = 0
        #: First number that has not been sent.
        self.sent = 0
        self._entries: dict[int, Entry[RecordT, CargoT, SinkT]] = {}
        self._unsent: deque[Entry[RecordT, CargoT, SinkT]] = deque()
        self._count = 0  # sent and not answered
        self._bytes = 0
        self._acknowledge: list[int] = []
        self._beat = 0

    def __len__(self) -> int:
        return len(self._entries)

    def submit(self, entries: Iterable[Entry[RecordT, CargoT, SinkT]]) -> None:
        """Take entries whose numbers follow :attr:`next_seq`, in order."""
        for entry in entries:
            if entry.seq != self.next_seq:
                raise InternalError(f"task {entry.seq} submitted where {self.next_seq} was due")
            self.next_seq += 1
            self._entries[entry.seq] = entry
            self._unsent.append(entry)

    def take_sendable(self, limit: int) -> list[Entry[RecordT, CargoT, SinkT]]:
        """Up to ``limit`` entries that the window lets out now; they count as sent.

        The tasks of one record leave together. An entry larger than the whole window leaves when nothing else is out.
        """
        out: list[Entry[RecordT, CargoT, SinkT]] = []
        unsent = self._unsent
        while unsent:
            entry = unsent[0]
            if entry.position <= 0 and (
                len(out) >= limit
                or self._count >= self.window_tasks
                or (self._count and self._bytes + entry.size > self.window_bytes)
            ):
                break
            unsent.popleft()
            self._count += 1
            self._bytes += entry.size
            out.append(entry)
        if out:
            self.sent = out[-1].seq + 1
        return out

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def settle(self, seq: int) -> Entry[RecordT, CargoT, SinkT] | None:
        """A result for this number is here; returns whom it is for, or None if it was here before.

        Either way the hub is told that nobody needs it any more.
        """
        self._acknowledge.append(seq)
        entry = self._entries.pop(seq, None)
        if entry is not None:
            self._count -= 1
            self._bytes -= entry.size
        return entry

    def find(self, seq: int) -> Entry[RecordT, CargoT, SinkT] | None:
        return self._entries.get(seq)

    def entries(self) -> list[Entry[RecordT, CargoT, SinkT]]:
        """All that is outstanding, in order."""
        return list(self._entries.values())

    def take_acknowledged(self) -> list[int]:
        """Numbers whose results are here and whom the hub has not been told of yet."""
        taken, self._acknowledge = self._acknowledge, []
        return taken

    @property
    def unacknowledged(self) -> int:
        return len(self._acknowledge)

    def inventory(self) -> tuple[int, int, list[int]]:
        """(number of this beat, first unsent task, tasks sent and not answered in ascending order)."""
        self._beat += 1
        return self._beat, self.sent, list(self._sent_seqs())

    def again(self, ranges: Iterable[tuple[int, int]]) -> list[Entry[RecordT, CargoT, SinkT]]:
        """The entries that the hub lacks, of those that were sent and are still wanted."""
        return [
            self._entries[seq]
            for start, stop in ranges
            for seq in range(start, min(stop, self.sent))
            if seq in self._entries
        ]

    def abandon(self) -> list[Entry[RecordT, CargoT, SinkT]]:
        """Everything outstanding, which nobody will answer now."""
        entries = self.entries()
        self._entries.clear()
        self._unsent.clear()
        self._count = self._bytes = 0
        return entries

    def statistics(self) -> LedgerStatistics:
        return LedgerStatistics(len(self._entries), len(self._unsent), self._bytes)

    def check(self) -> None:
        """Verify every invariant.

        Raises:
            InternalError: the bookkeeping disagrees with itself.
        """
        sent = [entry for entry in self._entries.values() if entry.seq < self.sent]
        if len(sent) != self._count or sum(entry.size for entry in sent) != self._bytes:
            raise InternalError(f"{len(sent)} tasks are out, counted {self._count}")
        if [entry.seq for entry in self._unsent] != list(range(self.sent, self.next_seq)):
            raise InternalError("unsent tasks are not those from the first unsent on")

    def _sent_seqs(self) -> Iterable[int]:
        for seq in list(self._entries):  # a copy: another thread may be submitting
            if seq >= self.sent:
                return
            yield seq
