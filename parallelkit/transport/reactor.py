"""One loop, all sockets: a poll loop with timers and a way in for other threads.

A plain loop instead of asyncio, because a client must work with and without a running asyncio loop, and because
the loop's own cost is part of every task's latency.

Whose thread serves it: one at a time, whoever holds ``_owner``. A background thread calls :meth:`run`. A thread that
has to wait for something anyway takes over with :meth:`drive` and serves the loop itself, so that what it waits for
arrives without a change of threads (measured: two thirds of a round trip were such changes). Between two drives the
loop is vacant, and the background thread takes it back when it has been so for ``VACANCY``, or at once when something
is asked of it. Sockets may change threads, since the lock orders them.
"""

from __future__ import annotations

# The C module: the wrappers of ``signal`` turn numbers into enums, at 3 µs each for nothing.
import _signal  # type: ignore[import-not-found]  # not in the stubs
import heapq
import itertools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import zmq

Callback = Callable[[], Any]

#: Seconds without anyone serving the loop (after a burst: twice ``LONG_DRIVE``) after which the background thread does.
VACANCY = 0.005
#: A drive that lasted longer than this hands the loop back at its end: whoever waited so long does not ask in bursts.
LONG_DRIVE = 0.01
#: What comes faster than this is left to the loop, which sends it in batches.
BURST = 0.00006


class Reactor:
    """Implements :class:`parallelkit.transport.base.Loop`.

    ``call_soon``, ``call_lazily``, ``call_here``, ``wake``, ``drive``, ``serve`` and ``stop`` may be called by any
    thread; the rest belongs to the thread that serves the loop, or to its maker before :meth:`run`.
    """

    def __init__(self, *, hold_interrupts: bool = True) -> None:
        """``hold_interrupts=False``: the process's SIGINT handler never raises while the loop is served."""
        self._interrupt: type[_HeldInterrupt] | type[_FreeInterrupt] = (
            _HeldInterrupt if hold_interrupts else _FreeInterrupt
        )
        self.context = zmq.Context()
        self._poller = zmq.Poller()
        self._handlers: dict[Any, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._soon: deque[Callback] = deque()
        self._stopped = False
        self._closers: list[Callback] = []
        self._owner = threading.Lock()
        self._driver = threading.Lock()  # held by the one thread that drives, or is about to
        self._driving = False
        self._drives = 0
        self._recall = threading.Event()  # the background thread is wanted
        self._here = 0.0  # when a caller last served its own request
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._sleeping = False  # in poll, or about to be: a byte in the pipe is needed
        self.add_fd(self._wake_read, self._woken)

    def now(self) -> float:
        return time.monotonic()

    def add_socket(self, socket: zmq.Socket[bytes], callback: Callback) -> None:
        """Call back whenever ``socket`` has something to read; it is closed with the reactor."""
        self._handlers[socket] = callback
        self._poller.register(socket, zmq.POLLIN)
        self._closers.append(lambda: socket.close(linger=200))

    def add_fd(self, fd: int, callback: Callback) -> None:
        """Call back whenever ``fd`` is readable (a pipe, a pidfd, a listening socket)."""
        self._handlers[fd] = callback
        self._poller.register(fd, zmq.POLLIN)

    def remove_fd(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def call_at(self, when: float, callback: Callback) -> None:
        heapq.heappush(self._timers, (when, next(self._order), callback))

    # --------------------------------------------------------------------------------------- from other threads

    def call_soon(self, callback: Callback) -> None:
        self._soon.append(callback)
        self.wake()

    def call_lazily(self, callback: Callback) -> None:
        """As ``call_soon``, for who is about to serve or drive the loop anyway: nobody is woken who does not serve."""
        self._soon.append(callback)
        if self._sleeping:
            self.wake()

    def call_here(self, callback: Callback) -> None:
        """As ``call_soon``, but if nobody serves the loop and this is no burst, the caller does it now, itself."""
        self._soon.append(callback)
        now = time.monotonic()
        if self._sleeping or now - self._here < BURST or self._owner.locked():
            self.wake()
            return
        self._here = now
        with self._interrupt(self.wake):
            if not self._owner.acquire(blocking=False):
                self.wake()
                return
            try:
                self._run_soon()
            finally:
                self._owner.release()

    def wake(self) -> None:
        """Make whoever serves the loop look around now, or the background thread if nobody does."""
        if self._sleeping:
            self._sleeping = False  # one byte for all callers until it looks
            try:
                os.write(self._wake_write, b"\0")
            except OSError:  # full: it will wake; or closed: nobody is left to wake
                return
        elif not self._driving:
            self._recall.set()

    def drive(self, done: Callable[[], Any], timeout: float) -> bool:
        """Serve the loop on this thread until ``done()``, at most ``timeout`` seconds.

        False, at once, when another thread drives already or the loop has ended: the caller then waits by other
        means. Ctrl-C is held back while a callback runs, which must not be cut in half, and raised at the end.
        """
        started = time.monotonic()
        with self._interrupt(self.wake) as interrupt:
            if self._stopped or not self._driver.acquire(blocking=False):
                return False
            self._driving = True
            self._drives += 1
            try:
                if not self._owner.acquire(blocking=False):
                    self.wake()  # the background thread sees that someone drives, and lets go
                    self._owner.acquire()
                try:
                    self._drive(lambda: done() or interrupt.came, started + timeout)
                finally:
                    self._owner.release()
            finally:
                self._driving = False
                self._driver.release()
                if self._stopped or time.monotonic() - started > LONG_DRIVE:
                    self._recall.set()
            return True

    def _drive(self, done: Callable[[], Any], deadline: float) -> None:
        while True:
            self._run_soon()  # first: it is what this thread has just asked for, and goes out before the wait
            left = deadline - time.monotonic()
            if self._stopped or done() or left <= 0:
                return
            self.turn(left)

    def serve(self) -> None:
        """Serve what there is, without waiting, unless another thread serves the loop."""
        if not self._stopped and self._owner.acquire(blocking=False):
            try:
                self.turn(0.0)
            finally:
                self._owner.release()

    def stop(self) -> None:
        self._stopped = True
        self._recall.set()
        self.wake()

    # ------------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Serve until :meth:`stop`, then close every socket. The background thread, or the only one."""
        try:
            while not self._stopped:
                with self._owner:
                    while not (self._stopped or self._driving):
                        self.turn()
                self._stand_by()
        finally:
            with self._owner:
                self.close()

    def _stand_by(self) -> None:
        """Let others drive; return when nobody has for a while, or this thread is wanted."""
        seen = -1
        patience: float | None = VACANCY
        while not self._stopped:
            wanted = self._recall.wait(patience)
            self._recall.clear()
            if not self._driving and (wanted or self._drives == seen):
                return
            if self._drives != seen:
                seen, patience = self._drives, 2 * LONG_DRIVE
            elif self._driving:
                patience = None  # a drive of this length calls at its end

    def turn(self, patience: float | None = None) -> None:
        """One round: wait for something, at most so many seconds, then serve all of it."""
        self._sleeping = True  # said before the queue is looked at: who appends after this point writes a byte
        wait = self._patience(patience)
        ready = self._poller.poll(wait)
        self._sleeping = False
        for source, _ in ready:
            handler = self._handlers.get(source)
            if handler is not None:  # else an earlier handler of this round removed it
                handler()
        self._run_soon()
        if self._timers:
            self._fire()

    def _run_soon(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def close(self) -> None:
        """Close sockets (those with unsent messages get 200 ms), then the context."""
        for closer in self._closers:
            closer()
        self._closers.clear()
        self._handlers.clear()
        self.context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _patience(self, limit: float | None) -> int | None:
        """Milliseconds to poll for, rounded up: waking a fraction early would spin until the deadline."""
        if self._soon or limit == 0.0:
            return 0
        if self._timers:
            due = max(0.0, self._timers[0][0] - time.monotonic())
            limit = due if limit is None else min(limit, due)
        return None if limit is None else int(limit * 1000) + 1

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)


_SIGINT = int(signal.SIGINT)
_MAIN = threading.main_thread().ident


class _FreeInterrupt:
    """Leaves SIGINT as it is."""

    came = False

    def __init__(self, wake: Callback) -> None:
        """Nothing to hold, nothing to wake."""

    def __enter__(self) -> _FreeInterrupt:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing was held."""


class _HeldInterrupt:
    """SIGINT, held back on the main thread and given to its handler at the end; elsewhere it changes nothing."""

    def __init__(self, wake: Callback) -> None:
        self.came = False
        self._wake = wake
        self._handler: Any = None

    def __enter__(self) -> _HeldInterrupt:
        if threading.get_ident() == _MAIN:
            handler = _signal.getsignal(_SIGINT)
            if callable(handler):
                self._handler = handler
                _signal.signal(_SIGINT, self._hold)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._handler is None:
            return
        _signal.signal(_SIGINT, self._handler)
        if self.came:
            self._handler(_SIGINT, None)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self._wake()
