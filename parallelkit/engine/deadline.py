"""The timeout of the attempt that runs: one at a time, thousands a second."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from parallelkit.transport.base import Loop

#: The loop cannot take a timer back, so none is set further ahead than this (seconds): few are ever pending.
HORIZON = 5.0


class Deadline:
    """Calls ``expired(attempt)`` on the loop's thread when the attempt runs for too long.

    :meth:`start` and :meth:`stop` belong to the thread that runs user code. They cost no system call as long as a
    timer is pending that fires early enough, which is so for all but the first of a row of tasks.
    """

    def __init__(self, loop: Loop, expired: Callable[[int], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._running: tuple[float, int] | None = None
        self._armed = math.inf

    def start(self, attempt: int, timeout: float) -> None:
        when = self._loop.now() + timeout
        self._running = (when, attempt)
        if when < self._armed:
            self._loop.call_soon(self._arm)

    def stop(self) -> None:
        self._running = None

    def _arm(self) -> None:
        running = self._running
        if running is None:
            return
        when = min(running[0], self._loop.now() + HORIZON)
        if when < self._armed:
            self._armed = when
            self._loop.call_at(when, partial(self._fire, when))

    def _fire(self, when: float) -> None:
        if when != self._armed:
            return  # superseded by an earlier one
        self._armed = math.inf
        running = self._running
        if running is not None and running[0] <= self._loop.now():
            self._expired(running[1])
        else:
            self._arm()
