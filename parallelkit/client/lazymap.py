"""``imap``: a map over an iterable of any length, read only as far ahead as keeps the engines busy.

The iterable is read by the thread that asks for results, inside ``next``: an iterable may belong to its thread, and
one that blocks holds up nobody else. Hence the bound on what is in flight *and* on what has not been taken yet.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

from parallelkit.client.arrivals import Arrival, as_item
from parallelkit.client.pieces import Batch, Opened, Work, encode, open_piece
from parallelkit.client.session import Session
from parallelkit.core.chunking import Chunker, Chunks, FixedChunks
from parallelkit.wire.messages import OutputRecord, TaskOptions

#: Seconds after which a chunk is sent with the items that a slow iterable has given so far.
SLOW = 0.01
#: Windows of chunks that may be in flight or wait to be taken, so that one slow item does not stop the others.
AHEAD = 4
ENDLESS = sys.maxsize


class LazyMap(Iterator[Any]):
    """Iterator over the results of ``imap``; ``cancel`` ends it early. For one thread at a time."""

    def __init__(
        self,
        session: Session,
        name: str,
        work: Work,
        items: Iterable[Any],
        engines: Callable[[], int],
        options: TaskOptions,
        *,
        ordered: bool = True,
        max_outstanding: int | Literal["auto"] = "auto",
        chunksize: int | None = None,
        return_exceptions: bool = False,
        target: float = 0.02,
    ) -> None:
        self._session = session
        self._name = name
        self._work = work
        self._items = iter(items)
        self._engines = engines
        self._options = options
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._chunks, self._limit = _chunks(max_outstanding, chunksize, target)
        #: Guards what the I/O thread touches: the chunks, ``_landed``, ``_out`` and the arrivals of the batches.
        self._condition = threading.Condition()
        self._out: set[Batch] = set()
        #: Pieces not taken yet, as (batch, task): in order, or as they landed.
        self._sent: deque[tuple[Batch, int]] = deque()
        self._landed: deque[tuple[Batch, int]] = deque()
        self._untaken = 0
        self._current = Opened([], {})
        self._position = 0
        #: Items that were read and not sent.
        self._spare: list[Any] = []
        self._sent_items = 0
        self._exhausted = False
        self._stopped = False
        #: What ended it early: of the iterable itself, or of an item that cannot be pickled.
        self._error: Exception | None = None
        session.streams.add(self)

    # ------------------------------------------------------------------------------------ the I/O thread's side

    def landed(self, batch: Batch, arrival: Arrival) -> None:
        """A piece is here."""
        with self._condition:
            batch.keep(arrival)
            self._chunks.finished(batch.size, arrival.record.seconds if arrival.ok else None)
            if batch.owner is None:
                self._out.discard(batch)
            if not self._ordered:
                self._landed.append((batch, arrival.record.seq))
            self._condition.notify_all()

    def output(self, record: OutputRecord) -> None:
        """What items print is not kept: there may be no end to it."""

    # -------------------------------------------------------------------------------------------------- taking

    def __iter__(self) -> LazyMap:
        return self

    def __next__(self) -> Any:
        if self._stopped:
            raise StopIteration
        while self._position >= len(self._current.values):
            self._current, self._position = self._next_piece(), 0
        position = self._position
        self._position += 1
        failure = self._current.errors.get(position)
        if failure is None:
            return self._current.values[position]
        if self._return_exceptions:
            return failure.open()
        raise as_item(failure.open())

    def cancel(self) -> bool:
        """End it here: what is out is called back, the next ``next`` raises StopIteration. False if it had ended.

        Any thread.
        """
        with self._condition:
            if self._stopped:
                return False
            self._stopped = True
            batches = [batch for batch in self._out if batch.first >= 0]
            self._condition.notify_all()
        for batch in batches:
            self._session.link.cancel(batch.first, batch.count)
        return True

    def close(self) -> None:
        """As :meth:`cancel`; the name that generators have for it."""
        self.cancel()

    def _next_piece(self) -> Opened:
        self._feed()
        with self._condition:
            if self._untaken:
                self._session.wait(self._condition, self._ready, None)
            if self._stopped or not self._untaken:
                self._end()
            batch, seq = self._sent.popleft() if self._ordered else self._landed.popleft()
            self._untaken -= 1
            arrival = batch.arrivals.pop(seq)
        return open_piece(arrival, batch.size, self._describe)

    def _ready(self) -> bool:
        if self._stopped:
            return True
        if not self._ordered:
            return bool(self._landed)
        batch, seq = self._sent[0]
        return seq in batch.arrivals

    def _end(self) -> NoReturn:
        self._stopped = True
        self._current = Opened([], {})
        error, self._error = self._error, None
        if error is not None:
            raise error  # after all the results before it
        raise StopIteration

    def _describe(self, seq: int) -> str:
        return f"{self._name} ({self._session.link.task_name(seq)})"

    # ------------------------------------------------------------------------------------------------- sending

    def _feed(self) -> None:
        """Read and send what is due, but rather hand out a result than wait for a slow iterable."""
        while not self._stopped and (self._spare or not self._exhausted):
            with self._condition:
                self._chunks.engines = self._engines()
                limit = self._limit or AHEAD * self._chunks.window()
                size, count = self._chunks.take() if self._untaken < limit else (0, 0)
            if not size:
                return
            slow = self._send(size, count)
            with self._condition:
                if slow and self._untaken and self._ready():
                    return

    def _send(self, size: int, count: int) -> bool:
        """Send up to ``count`` pieces of ``size`` items; whether the iterable was slow."""
        pieces = 0
        items: list[Any] = []
        try:
            items, slow = self._read(size * count)
            whole = len(items) - len(items) % size
            for part, each in ((items[:whole], size), (items[whole:], len(items) - whole)):
                if part:
                    pieces += self._send_batch(part, each)
            return slow
        except Exception as error:  # noqa: BLE001 - pickling runs user code
            self._error, self._exhausted, self._spare = error.with_traceback(None), True, []
            return False
        finally:
            with self._condition:
                self._chunks.give_back(size * count - len(items), count - pieces)

    def _read(self, wanted: int) -> tuple[list[Any], bool]:
        spare, began, slow = self._spare, time.monotonic(), False
        while len(spare) < wanted and not slow:
            try:
                spare.append(next(self._items))
            except StopIteration:
                self._exhausted = True
                break
            except Exception as error:  # noqa: BLE001 - the iterable is user code
                own = error.__traceback__  # this frame, which holds the map; the iterable's own frames stay
                self._error, self._exhausted = error.with_traceback(own and own.tb_next), True
                break
            slow = time.monotonic() - began > SLOW
        self._spare = spare[wanted:]
        return spare[:wanted], slow

    def _send_batch(self, items: list[Any], size: int) -> int:
        """Send these items; returns the number of pieces."""
        calls, used = encode(self._work, items, size, self._chunks)
        # Only the last piece of a turn can be cut, so what is left of it comes before all that is still to be read.
        self._spare = items[used * len(calls) :] + self._spare
        batch = Batch(self, self._sent_items, used, len(calls))
        with self._condition:
            self._out.add(batch)
        try:
            seqs = self._session.send(calls, self._options, batch)
        except BaseException:
            with self._condition:
                self._out.discard(batch)
            raise
        with self._condition:
            batch.first = seqs.start
            self._sent_items += used * len(calls)
            self._untaken += len(calls)
            if self._ordered:
                self._sent.extend((batch, seq) for seq in seqs)
            stopped = self._stopped and batch in self._out
        if stopped:  # by a thread that could not know the numbers
            self._session.link.cancel(batch.first, batch.count)
        return len(calls)


def _chunks(wanted: int | Literal["auto"], chunksize: int | None, target: float) -> tuple[Chunks, int]:
    """What decides the pieces, and how many of them may be ahead of the reader (0: a multiple of its window)."""
    if wanted != "auto":
        window = wanted or ENDLESS
        return FixedChunks(ENDLESS, 1, chunksize or 1, window), window
    if chunksize is not None:
        return FixedChunks(ENDLESS, 1, chunksize), 0
    return Chunker(ENDLESS, 1, target), 0
