"""The node's end of its zygote: fork requests out, reports in, and a new zygote when one dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from parallelkit.transport.base import Loop
from parallelkit.wire import zygote as z

log = logging.getLogger(__name__)

#: Forks asked for and not answered yet: with few in flight neither side can fill the socket and block.
MAX_IN_FLIGHT = 16
#: Zygotes in a row that may die before they are ready; then something is broken that no restart mends.
MAX_FAILURES = 3
RELAUNCH_DELAY = 0.1
#: Time for a zygote to kill its engines and exit.
CLOSE_TIMEOUT = 2.0

Launch = Callable[[], tuple[subprocess.Popen[bytes], socket.socket]]


class FdLoop(Loop, Protocol):
    """A loop that also watches file descriptors, as the reactor does."""

    def add_fd(self, fd: int, callback: Callable[[], object]) -> None: ...
    def remove_fd(self, fd: int) -> None: ...


class Reports(Protocol):
    """Whom a zygote's reports go to: the node's service. Called on the loop's thread."""

    def forked(self, report: z.Forked) -> None: ...
    def exited(self, report: z.Exited) -> None: ...
    def end(self, reason: str, exit_code: int = 0) -> None: ...


class Zygote:
    """One zygote after the other. ``reports`` is set before the loop runs; all methods belong to its thread."""

    reports: Reports

    def __init__(self, loop: FdLoop, launch: Launch, first: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
        self._loop = loop
        self._launch = launch
        self._ready = False
        self._failures = 0
        self._queue: deque[z.Fork] = deque()
        self._in_flight: set[bytes] = set()
        self._engines: dict[int, bytes] = {}
        self._process, self._control = first
        self._loop.add_fd(self._control.fileno(), self._receive)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, request: z.Fork) -> None:
        """Have an engine forked as soon as possible; answered with ``forked`` or ``exited``."""
        self._queue.append(request)
        self._pump()

    def signal(self, pid: int, number: int) -> None:
        """Deliver a signal to an engine; one that has ended is spared, and so is who has its number now."""
        self._send(z.Deliver(pid, number))

    def close(self) -> None:
        """End the zygote and with it all engines; returns when they are gone."""
        self._loop.remove_fd(self._control.fileno())
        self._control.close()
        if not self._ready:
            self._process.kill()  # it would see the end of the socket only after its imports; it has no engines
        try:
            self._process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _pump(self) -> None:
        while self._ready and self._queue and len(self._in_flight) < MAX_IN_FLIGHT:
            request = self._queue.popleft()
            self._in_flight.add(request.incarnation)
            self._send(request)

    def _send(self, packet: z.Packet) -> None:
        with suppress(OSError):  # a zygote that has died; the end of its socket is about to be read
            self._control.send(z.encode(packet))

    def _receive(self) -> None:
        try:
            data = self._control.recv(z.MAX_PACKET)
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        report = z.decode_from_zygote(data)
        if isinstance(report, z.Ready):
            self._ready, self._failures = True, 0
        else:
            self._in_flight.discard(report.incarnation)
            if isinstance(report, z.Forked):
                self._engines[report.pid] = report.incarnation
                self.reports.forked(report)
            else:
                self._engines.pop(report.pid, None)
                self.reports.exited(report)
        self._pump()

    def _lost(self) -> None:
        """The zygote is dead, hence so are its engines: the kernel kills them with it."""
        self._loop.remove_fd(self._control.fileno())
        self._control.close()
        self._process.kill()
        code = self._process.wait()
        log.warning("the zygote ended with code %d; its %d engines end with it", code, len(self._engines))
        self._failures = 0 if self._ready else self._failures + 1
        self._ready = False
        dead = dict.fromkeys(self._in_flight, 0)
        for pid, incarnation in self._engines.items():
            dead[incarnation] = pid
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what the engine had started in its process group
        self._in_flight.clear()
        self._engines.clear()
        if self._failures >= MAX_FAILURES:
            self.reports.end(f"{self._failures} zygotes in a row died before they were ready", 1)
            return
        self._loop.call_at(self._loop.now() + RELAUNCH_DELAY, self._relaunch)
        for incarnation, pid in dead.items():
            self.reports.exited(z.Exited(incarnation, pid, 0, signal.SIGKILL, 0))

    def _relaunch(self) -> None:
        self._process, self._control = self._launch()
        self._loop.add_fd(self._control.fileno(), self._receive)
