"""What maps are cut into and how each piece travels.

A *piece* is one task: one item as an ordinary call, several as one ``MAP``. A *batch* is consecutive pieces of one
size that were sent together; it is the sink of their results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from parallelkit.client.arrivals import Arrival, Describe, Failure, open_arrival
from parallelkit.client.link import Call
from parallelkit.client.needs import Needs
from parallelkit.core.chunking import Chunks
from parallelkit.wire.failures import load_failure
from parallelkit.wire.frames import Buffer
from parallelkit.wire.messages import Operation, OutputRecord, ResultRecord
from parallelkit.wire.payload import Function, Payload, dump


class Work(NamedTuple):
    """The same for all pieces of a map. ``star``: each item is a tuple of arguments."""

    function: Function
    star: bool
    needs: Needs | None = None


class Owner(Protocol):
    """The map that a batch belongs to. Both are called on the I/O thread."""

    def landed(self, batch: Batch, arrival: Arrival) -> None: ...

    def output(self, record: OutputRecord) -> None: ...


class Batch:
    """``count`` pieces of ``size`` items each; the first item is number ``start`` of the map.

    ``first`` is the number of its first task, -1 until it is known. The owner's lock guards all of it.
    """

    __slots__ = ("_missing", "arrivals", "count", "first", "owner", "size", "start")

    def __init__(self, owner: Owner, start: int, size: int, count: int) -> None:
        self.owner: Owner | None = owner
        self.start = start
        self.size = size
        self.count = count
        self.first = -1
        self.arrivals: dict[int, Arrival] = {}
        self._missing = count

    @property
    def stop(self) -> int:
        """The item after its last."""
        return self.start + self.size * self.count

    @property
    def seqs(self) -> range:
        """The numbers of its tasks; none before they are known."""
        return range(self.first, self.first + self.count) if self.first >= 0 else range(0)

    def keep(self, arrival: Arrival) -> None:
        """Called by the owner, for each piece that has landed."""
        self.arrivals[arrival.record.seq] = arrival
        self._missing -= 1
        if not self._missing:
            self.owner = None  # else the two would hold each other for ever

    def settle(self, record: ResultRecord, frames: Sequence[Buffer]) -> None:
        if self.owner is not None:
            self.owner.landed(self, Arrival(record, frames, time.monotonic()))

    def ended(self, seq: int) -> ResultRecord | None:
        arrival = self.arrivals.get(seq)
        return arrival.record if arrival is not None else None

    def output(self, record: OutputRecord) -> None:
        if self.owner is not None:
            self.owner.output(record)


class Opened(NamedTuple):
    """One piece: a value for each item, None where it failed, and the failures by position."""

    values: list[Any]
    errors: dict[int, Failure]


def open_piece(arrival: Arrival, size: int, describe: Describe) -> Opened:
    """The outcomes of a piece of ``size`` items. What cannot be opened is an error of each of its items."""
    value, error = open_arrival(arrival, describe)
    if error is not None:
        return all_failed(size, Failure(lambda: open_arrival(arrival, describe)[1] or error, arrival.cancelled))
    if size == 1:
        return Opened([value], {})
    values, errors = value
    return Opened(values, {index: Failure(partial(load_failure, data, ())) for index, data in errors})


def all_failed(size: int, failure: Failure) -> Opened:
    """A piece in which every item failed for the same reason."""
    return Opened([None] * size, dict.fromkeys(range(size), failure))


def encode(work: Work, items: Sequence[Any], size: int, chunks: Chunks) -> tuple[list[Call], int]:
    """The pieces of ``size`` items each, and that size: smaller, and then fewer items, where these weigh too much.

    Raises:
        SerializationError: an item cannot be pickled.
    """
    if size == 1:
        calls = [_one(work, item) for item in items]
        chunks.weighed(1, max(_weight(call.payload) for call in calls))
        return calls, 1
    calls = [_several(work, items[start : start + size]) for start in range(0, len(items), size)]
    keep = chunks.weighed(size, _weight(calls[0].payload))
    return (calls, size) if keep >= size else encode(work, items[:keep], keep, chunks)


def piece(work: Work, items: Sequence[Any]) -> Call:
    """All these items as one piece.

    Raises:
        SerializationError: an item cannot be pickled.
    """
    return _one(work, items[0]) if len(items) == 1 else _several(work, items)


def _one(work: Work, item: Any) -> Call:
    payload = dump((item if work.star else (item,), {}), call=work.function.name)
    return Call(Operation.CALL, payload, work.function, 1, work.needs)


def _several(work: Work, items: Sequence[Any]) -> Call:
    return Call(Operation.MAP, dump((work.star, items), call=work.function.name), work.function, len(items), work.needs)


def _weight(payload: Payload) -> int:
    return len(payload.data) + sum(memoryview(buffer).nbytes for buffer in payload.buffers)
