"""One thread, all sockets: a poll loop with timers and a way in for other threads.

A plain loop instead of asyncio, because a client must work with and without a running asyncio loop, and because
the loop's own cost is part of every task's latency.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

Callback = Callable[[], Any]


class Reactor:
    """Implements :class:`parallelkit.transport.base.Loop`. All but ``call_soon`` belongs to the thread in ``run``."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._poller = zmq.Poller()
        self._handlers: dict[Any, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._soon: deque[Callback] = deque()
        self._stopped = False
        self._closers: list[Callback] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._waking = False
        self.add_fd(self._wake_read, self._woken)

    def now(self) -> float:
        return time.monotonic()

    def add_socket(self, socket: zmq.Socket[bytes], callback: Callback) -> None:
        """Call back whenever ``socket`` has something to read; it is closed with the reactor."""
        self._handlers[socket] = callback
        self._poller.register(socket, zmq.POLLIN)
        self._closers.append(lambda: socket.close(linger=200))

    def remove_socket(self, socket: zmq.Socket[bytes]) -> None:
        if self._handlers.pop(socket, None) is not None:
            self._poller.unregister(socket)

    def add_fd(self, fd: int, callback: Callback) -> None:
        """Call back whenever ``fd`` is readable (a pipe, a pidfd, a listening socket)."""
        self._handlers[fd] = callback
        self._poller.register(fd, zmq.POLLIN)

    def remove_fd(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def call_at(self, when: float, callback: Callback) -> None:
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def call_soon(self, callback: Callback) -> None:
        self._soon.append(callback)
        self.wake()

    def wake(self) -> None:
        """Make the loop look around now. Any thread; one byte for all calls until it has."""
        if not self._waking:
            self._waking = True
            try:
                os.write(self._wake_write, b"\0")
            except OSError:  # closed: nobody is left to wake
                return

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    def run(self) -> None:
        """Serve until :meth:`stop`, then close every socket."""
        try:
            while not self._stopped:
                self.turn()
        finally:
            self.close()

    def turn(self) -> None:
        """One round: wait for something, then serve all of it."""
        for source, _ in self._poller.poll(self._patience()):
            handler = self._handlers.get(source)
            if handler is not None:  # else an earlier handler of this round removed it
                handler()
        while self._soon:
            self._soon.popleft()()
        if self._timers:
            self._fire()

    def close(self) -> None:
        """Close sockets (those with unsent messages get 200 ms), then the context."""
        for closer in self._closers:
            closer()
        self._closers.clear()
        self._handlers.clear()
        self.context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _patience(self) -> int | None:
        if self._soon:
            return 0
        if not self._timers:
            return None
        # round up: waking a fraction early would spin until the deadline
        return max(0, int((self._timers[0][0] - time.monotonic()) * 1000) + 1)

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _woken(self) -> None:
        # The flag falls before the queue is read: whoever appends after this point writes a new byte.
        try:
            os.read(self._wake_read, 4096)
        finally:
            self._waking = False
