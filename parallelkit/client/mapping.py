"""``AsyncMapResult``: one map, cut into pieces while it runs.

Threads: the first pieces are pickled and sent by the caller, so that what cannot be pickled fails there; the others
by the feeder thread, whenever results have made room. The I/O thread only takes note of what lands. One thread
feeds at a time (``_feeding``), so pieces go out in the order of the items.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from parallelkit.client import threads
from parallelkit.client.arrivals import Arrival, Failure, Failures, as_item
from parallelkit.client.link import Call
from parallelkit.client.pieces import Batch, Opened, Work, all_failed, encode, open_piece
from parallelkit.client.results import AsyncResult, ResultIterator
from parallelkit.client.session import Session
from parallelkit.core.chunking import Chunks
from parallelkit.errors import TaskCancelled
from parallelkit.wire.messages import TaskOptions


class AsyncMapResult(AsyncResult):
    """The value is the list of all items' results, in order. Iterates over them as they arrive.

    ``progress`` and ``len`` count items; ``metadata`` has a row for each task, which may be many items.
    """

    _noun = "items"

    _kind = "AsyncMapResult"

    def __init__(
        self,
        session: Session,
        name: str,
        items: int,
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str = "",
    ) -> None:
        super().__init__(session, name, items, single=False, label=label)
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._batches: list[Batch] = []
        #: Which pieces are here, in the order in which they came; kept for unordered iteration alone.
        self._landings: list[tuple[Batch, int]] = []
        self._items_done = 0
        self._tasks_out = 0
        self._values: list[Any] | None = None
        #: Why there are no further pieces, where a piece could not be sent.
        self._fatal: Exception | None = None
        #: Whether further pieces may follow those that are out.
        self._open = True
        #: Whether a batch is on its way out, so that its numbers are not known yet.
        self._sending = False
        self._over = False
        session.pending.add(self)

    # --------------------------------------------------------------------------------------- sending and landing

    def send_pieces(self, calls: Sequence[Call], options: TaskOptions, size: int) -> None:
        """Send the next pieces, of ``size`` items each."""
        with self._condition:
            batch = Batch(self, self._sent_items, size, len(calls))
            self._batches.append(batch)
            self._tasks_out += len(calls)
            self._sending = True
        try:
            first = self._session.send(calls, options, batch).start
        except BaseException:
            with self._condition:
                self._sending = False
                self._batches.remove(batch)
                self._tasks_out -= len(calls)
            raise
        with self._condition:
            self._sending = False
            batch.first = first
            cancelled = not self._open and batch.owner is not None
            over = self._is_over()
            if not over:
                self._announce()  # some of it may have landed before its numbers were known
        if cancelled:  # meanwhile, by someone who could not know the numbers
            self._session.link.cancel(first, batch.count)
        if over:
            self._finish()

    def close(self) -> None:
        """There are no further pieces."""
        with self._condition:
            self._open = False
            over = self._is_over()
        if over:
            self._finish()

    def landed(self, batch: Batch, arrival: Arrival) -> None:
        """A piece is here. On the I/O thread."""
        with self._condition:
            batch.keep(arrival)
            self._items_done += batch.size
            self._tasks_out -= 1
            if not arrival.ok:
                self._failed = True
            if not self._ordered:
                self._landings.append((batch, arrival.record.seq))
            self._note(batch, arrival)
            over = self._is_over()
            if not over:
                self._announce()
        if over:
            self._finish()

    def _note(self, batch: Batch, arrival: Arrival) -> None:
        """Called with the condition held, for each piece that lands."""

    def _is_over(self) -> bool:
        """True once, when nothing is out and nothing will follow."""
        if self._open or self._sending or self._tasks_out or self._over:
            return False
        self._over = True
        return True

    def cancel(self) -> bool:
        with self._condition:
            if self.done():
                return False
            self._open = False
            waiting = [batch for batch in self._batches if batch.first >= 0 and batch.owner is not None]
            over = self._is_over()
        for batch in waiting:
            self._session.link.cancel(batch.first, batch.count)
        if over:
            self._finish()
        return True

    # ------------------------------------------------------------------------------------------------- the value

    @property
    def _sent_items(self) -> int:
        return self._batches[-1].stop if self._batches else 0

    def _opened(self) -> Iterator[Opened]:
        """The pieces that are here, in order; once it is done, what was never sent as one more."""
        for batch in list(self._batches):
            for seq in batch.seqs:
                arrival = batch.arrivals.get(seq)
                if arrival is not None:
                    yield open_piece(arrival, batch.size, self._describe)
        if self.done() and self._sent_items < self._count:
            yield self._never_sent(self._count - self._sent_items)

    def _never_sent(self, items: int) -> Opened:
        """What became of the items that were not sent."""
        return all_failed(items, Failure(lambda: TaskCancelled(f"{self._name}: cancelled before it was sent"), True))

    def _error(self) -> Exception | None:
        if self._fatal is not None or self._values is not None:
            return self._fatal
        failures = Failures()
        for piece in self._opened():
            for failure in piece.errors.values():
                failures.add(failure)
        return failures.error(self._count, self._noun)

    def _collect(self, errors: bool) -> Any:
        if self._values is None:
            if self._fatal is not None:
                raise self._fatal
            values: list[Any] = []
            failed = False
            for piece in self._opened():
                start = len(values)
                values += piece.values
                for index, failure in piece.errors.items():
                    values[start + index] = failure.open()
                    failed = True
            if failed:
                return values  # exceptions are not kept
            self._values = values
        return self._values

    def _some_failed(self) -> bool:
        if self._failed or self._fatal is not None:
            return True
        with self._condition:
            # a single item's failure is its task's, which has been noted
            here = [(batch, seq) for batch in self._batches if batch.size > 1 for seq in batch.arrivals]
        return any(open_piece(batch.arrivals[seq], batch.size, self._describe).errors for batch, seq in here)

    # ------------------------------------------------------------------------------------------------ one by one

    @property
    def progress(self) -> int:
        return self._items_done

    def __iter__(self) -> Iterator[Any]:
        return MapIterator(self) if self._ordered else UnorderedIterator(self)

    def split(self) -> list[AsyncResult]:
        raise TypeError(f"{self!r} has no parts that are futures: iterate over it, or submit each item by itself")

    def _find(self, index: int) -> tuple[Batch, int] | None:
        """Batch and task of an item; None before it was sent."""
        batches = self._batches
        if index >= self._sent_items:
            return None
        batch = batches[bisect.bisect(batches, index, key=lambda batch: batch.start) - 1]
        return (batch, batch.first + (index - batch.start) // batch.size) if batch.first >= 0 else None

    def _here(self, index: int) -> bool:
        found = self._find(index)
        return found is not None and found[1] in found[0].arrivals

    def _piece(self, index: int) -> tuple[Opened, int]:
        """The piece that holds an item, and where in it; the item is here, or will never be."""
        found = self._find(index)
        if found is None:
            return self._never_sent(self._count - self._sent_items), index - self._sent_items
        batch, seq = found
        return open_piece(batch.arrivals[seq], batch.size, self._describe), (index - batch.start) % batch.size

    def _item(self, index: int) -> Any:
        piece, position = self._piece(index)
        return self._outcome(piece, position)

    def _outcome(self, piece: Opened, position: int) -> Any:
        failure = piece.errors.get(position)
        if failure is None:
            return piece.values[position]
        if failure.cancelled and self._fatal is not None:
            raise self._fatal  # that is why it was cancelled
        if self._return_exceptions:
            return failure.open()
        raise as_item(failure.open())

    def _rows(self) -> list[tuple[int, Arrival | None]]:
        with self._condition:
            batches = [batch for batch in self._batches if batch.first >= 0]
        return [(seq, batch.arrivals.get(seq)) for batch in batches for seq in batch.seqs]


class FedMapResult(AsyncMapResult):
    """A map that sends its pieces as there is room for them."""

    def __init__(
        self,
        session: Session,
        name: str,
        work: Work,
        items: Sequence[Any],
        chunks: Chunks,
        engines: Callable[[], int],
        options: TaskOptions,
        **more: Any,
    ) -> None:
        super().__init__(session, name, len(items), **more)
        self._work = work
        self._items = items
        self._chunks = chunks
        self._engines = engines
        self._options = options
        self._feeding = True

    def feed(self) -> None:
        """Send all that is due. The caller's thread at first, the feeder's later.

        Raises:
            SerializationError: an item cannot be pickled; the map ends with this error.
        """
        try:
            while taken := self._take():
                self._send_next(*taken)
        except BaseException as error:
            self._fail(error)
            raise

    def _take(self) -> tuple[int, int] | None:
        with self._condition:
            self._chunks.engines = self._engines()
            size, count = self._chunks.take() if self._open else (0, 0)
            if not size:
                self._feeding = False
                last = self._open and not self._chunks.remaining
                if not last:
                    return None
        if size:
            return size, count
        self._items = ()
        self.close()
        return None

    def _send_next(self, size: int, count: int) -> None:
        start = self._sent_items
        calls, used = encode(self._work, self._items[start : start + size * count], size, self._chunks)
        if used < size:  # these items are heavier than those before
            with self._condition:
                self._chunks.give_back(size * count - used, count - 1)
        self.send_pieces(calls, self._options, used)

    def _fail(self, error: BaseException) -> None:
        """The map ends here, with this error; what is out is called back."""
        self._items = ()
        self._feeding = False
        if isinstance(error, Exception):
            self._fatal = error.with_traceback(None)  # its frames hold this map
            self._failed = True
        self.cancel()

    def _feed_on(self) -> None:
        try:
            self.feed()
        except Exception:  # noqa: BLE001 - whatever pickling raised: the map has it and tells whoever asks
            return

    def _note(self, batch: Batch, arrival: Arrival) -> None:
        self._chunks.finished(batch.size, arrival.record.seconds if arrival.ok else None)
        if self._open and not self._feeding and self._chunks.due():
            self._feeding = True
            threads.feeder.run(self._feed_on)


class MapIterator(ResultIterator):
    """Results in order, opened piece by piece."""

    def __init__(self, result: AsyncMapResult) -> None:
        super().__init__(result, ())
        self._map = result
        self._next = 0
        self._current = Opened([], {})
        self._position = 0

    def __next__(self) -> Any:
        __tracebackhide__ = True
        if self._position >= len(self._current.values):
            self._advance()
        position = self._position
        self._position += 1
        self._next += 1
        return self._map._outcome(self._current, position)

    def _advance(self) -> None:
        result, index = self._map, self._next
        if index >= len(result):
            raise StopIteration
        if not result._here(index):
            result._block(lambda: result._here(index) or result.done(), None)
        self._current, self._position = result._piece(index)


class UnorderedIterator(MapIterator):
    """Results as they arrive, whatever their order."""

    def __init__(self, result: AsyncMapResult) -> None:
        super().__init__(result)
        self._landing = 0

    def _advance(self) -> None:
        result, landings = self._map, self._map._landings
        if len(landings) <= self._landing:
            if self._next >= len(result):
                raise StopIteration
            result._block(lambda: len(landings) > self._landing or result.done(), None)
        self._position = 0
        if len(landings) > self._landing:
            batch, seq = landings[self._landing]
            self._landing += 1
            self._current = open_piece(batch.arrivals[seq], batch.size, result._describe)
        else:  # done, and the rest was never sent
            self._current = result._never_sent(len(result) - self._next)


def freeze(sequences: Sequence[Iterable[Any]]) -> tuple[Sequence[Any], bool]:
    """The items of a map and whether each is a tuple of arguments; ends with the shortest, as the builtin does.

    What could change meanwhile is copied. A range stays one: its slices travel in a few bytes.
    """
    if len(sequences) > 1:
        return list(zip(*sequences, strict=False)), True
    only = sequences[0]
    return only if isinstance(only, range | tuple) else list(only), False
