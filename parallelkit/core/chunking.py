"""How a map cuts itself into tasks: guided self-scheduling from measured durations.

A chunk costs a message and a round trip, so it should run for a while; but whoever holds a long chunk at the end
keeps everybody waiting. Hence: single items first, to learn what one costs; then chunks that last about ``target``
seconds; smaller ones towards the end; and no chunks at all once a single item lasts long enough by itself.
"""

from __future__ import annotations

import math
from typing import Protocol

from parallelkit.errors import InternalError

#: Chunks that wait or run for each engine: one runs, the others cover the way there and back.
PER_ENGINE = 3
#: Before anything has been measured, so that few items are sent singly for nothing.
PROBES_PER_ENGINE = 2
#: When each item is a task: enough that engines that join find work, few enough to change course.
SINGLES = 64
#: A chunk is at most so many times larger than the largest that has come back: the first items may mislead.
GROWTH = 256
#: A single item of this share of ``target`` is worth its own round trip.
ALONE = 0.25
#: Chunks for each engine that what is left should be good for.
TAIL = 4
#: Chunks do not get shorter than this share of ``target``.
SHORTEST = 0.1
#: Weight of the newest measurement.
NEWEST = 0.5
#: What the arguments of one chunk may weigh, in bytes.
CHUNK_BYTES = 4 << 20
#: Items outstanding at once, and sent at once, when the user has set the chunk size.
FIXED_WINDOW, FIXED_BATCH = 4096, 512


class Chunks(Protocol):
    """What a map asks. ``take``, ``give_back``, ``weighed`` and ``finished`` are its only inputs."""

    engines: int
    remaining: int
    outstanding: int

    def window(self) -> int:
        """How many chunks may be outstanding."""
        ...

    def due(self) -> bool:
        """Whether ``take`` would give something now."""
        ...

    def take(self) -> tuple[int, int]:
        """``(size, count)``: send ``count`` chunks of ``size`` items each; ``(0, 0)``: nothing for now."""
        ...

    def give_back(self, items: int, chunks: int) -> None:
        """Of what was taken, so many items and so many whole chunks were not sent."""
        ...

    def weighed(self, size: int, nbytes: int) -> int:
        """The arguments of a chunk of ``size`` items take ``nbytes``; returns how many of them to send as one."""
        ...

    def finished(self, size: int, seconds: float | None) -> None:
        """A chunk came back after running ``seconds``; None: it did not run to its end."""
        ...


class _Counted:
    """What both kinds of :class:`Chunks` count."""

    def __init__(self, items: int, engines: int) -> None:
        self.engines = engines
        self.remaining = items
        self.outstanding = 0

    def _taken(self, size: int, count: int) -> tuple[int, int]:
        self.remaining -= size * count
        self.outstanding += count
        return size, count

    def give_back(self, items: int, chunks: int) -> None:
        self.remaining += items
        self.outstanding -= chunks

    def finished(self, size: int, seconds: float | None) -> None:
        self.outstanding -= 1
        if self.outstanding < 0:
            raise InternalError("a chunk of a map came back that was not outstanding")


class Chunker(_Counted):
    """Chooses chunk sizes for ``items`` items on ``engines`` engines. Implements :class:`Chunks`.

    ``target`` is the time in seconds that one chunk should run.
    """

    def __init__(self, items: int, engines: int, target: float = 0.02) -> None:
        super().__init__(items, engines)
        self._target = target
        self._item_seconds: float | None = None
        self._item_bytes = 0.0
        self._measured = 0
        self._largest = 1

    def window(self) -> int:
        engines = max(1, self.engines)
        if self._item_seconds is None:
            return PROBES_PER_ENGINE * engines
        return max(PER_ENGINE * engines, SINGLES) if self._alone() else PER_ENGINE * engines

    def due(self) -> bool:
        return self.remaining > 0 and self.outstanding < self.window()

    def take(self) -> tuple[int, int]:
        """The next chunk, or as many single items as may be outstanding."""
        if not self.due():
            return 0, 0
        size = self.size()
        return self._taken(size, min(self.window() - self.outstanding, self.remaining) if size == 1 else 1)

    def size(self) -> int:
        """Items of the next chunk."""
        if self._item_seconds is None or self._alone():
            return 1
        engines = max(1, self.engines)
        left = self.remaining * self._item_seconds / (engines * TAIL)
        seconds = min(max(left, self._target * SHORTEST), self._target)
        # Beyond a fair share of what is left a chunk needs evidence: the items ahead may cost more than those behind.
        fair = max(self.remaining / (engines * 2), self._measured / engines)
        size = min(seconds / self._item_seconds, self._largest * GROWTH, fair, self.remaining)
        if self._item_bytes:
            size = min(size, CHUNK_BYTES / self._item_bytes)
        return max(1, int(size))

    def weighed(self, size: int, nbytes: int) -> int:
        """Heavier items than before count at once, lighter ones only slowly."""
        each = nbytes / size
        self._item_bytes = max(each, NEWEST * each + (1 - NEWEST) * self._item_bytes)
        return size if nbytes <= 2 * CHUNK_BYTES else max(1, int(CHUNK_BYTES / each))

    def finished(self, size: int, seconds: float | None) -> None:
        super().finished(size, seconds)
        if seconds is None:
            return
        each = max(seconds / size, 1e-9)  # a clock may not see a very short run
        known = self._item_seconds
        self._item_seconds = each if known is None else NEWEST * each + (1 - NEWEST) * known
        self._measured += size
        self._largest = max(self._largest, size)

    def _alone(self) -> bool:
        return self._item_seconds is not None and self._item_seconds >= self._target * ALONE


class FixedChunks(_Counted):
    """Chunks of the size that the user asked for, sent in large batches. Implements :class:`Chunks`.

    ``window`` is how many chunks may be outstanding; None: enough that many engines and tiny items never wait.
    """

    def __init__(self, items: int, engines: int, size: int, window: int | None = None) -> None:
        super().__init__(items, engines)
        self._size = size
        self._window = window

    def window(self) -> int:
        return self._window or max(PER_ENGINE * self.engines, math.ceil(FIXED_WINDOW / self._size))

    def due(self) -> bool:
        window = self.window()
        return self.remaining > 0 and self.outstanding <= window - self._batch(window)

    def take(self) -> tuple[int, int]:
        """A batch of chunks, once there is room for a whole one; the odd rest at the end is a chunk of its own."""
        if not self.due():
            return 0, 0
        size = min(self._size, self.remaining)
        return self._taken(size, min(self._batch(self.window()), self.remaining // size))

    def weighed(self, size: int, nbytes: int) -> int:
        """All of them: the user has set the size."""
        return size

    @staticmethod
    def _batch(window: int) -> int:
        return max(1, min(FIXED_BATCH, window // 8))
