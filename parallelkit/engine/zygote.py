"""The process that engines are forked from: ``python -m parallelkit.engine.zygote FD``.

    node ══ socket pair ══ zygote ──fork── engine
                                  └─fork── engine

It imports and builds all that engines have in common, once, and stays single-threaded without a zmq context, so
that a fork is safe and its memory is shared. It is the engines' parent: it reaps them at once and tells the node
how they ended. Lifetimes: an engine dies with its zygote (parent-death signal), the zygote ends when the node
closes the socket or dies, after it has killed its engines and what they started.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from parallelkit.errors import InternalError
from parallelkit.wire import zygote as z

log = logging.getLogger(__name__)  # never configured here: engines inherit that, and their users' logging is theirs

_PR_SET_PDEATHSIG = 1
#: ru_maxrss is in kilobytes on Linux and in bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
#: An engine whose start failed in the zygote's part of the child.
_EXIT_NOT_STARTED = 70

_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: What becomes an engine: called in the child, never returns to the zygote.
Engine = Callable[[z.Fork], object]


def die_with_parent(parent: int, number: int) -> None:
    """Let the kernel send this process a signal when ``parent`` ends. Exits now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(_EXIT_NOT_STARTED)


class Zygote:
    """Forks, reaps and reports until the node closes ``control``."""

    def __init__(self, control: socket.socket, engine: Engine) -> None:
        self._control = control
        self._engine = engine
        self._engines: dict[int, bytes] = {}
        self._open = True
        self._pid = os.getpid()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def serve(self) -> None:
        # Signals for the whole process group (Ctrl-C in a terminal) are the node's to handle: it ends us in order.
        # Blocked and not ignored: one that reaches a child before it is an engine waits there and is not lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ, self._receive)
            selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
            self._send(z.Ready(self._pid))
            while self._open:
                for key, _ in selector.select():
                    key.data()
        self._end()

    def _send(self, packet: z.Packet) -> None:
        try:
            self._control.send(z.encode(packet))
        except OSError:
            self._open = False

    def _receive(self) -> None:
        try:
            data = self._control.recv(z.MAX_PACKET)
        except OSError:
            data = b""
        if not data:
            self._open = False
            return
        packet = z.decode_from_node(data)
        if isinstance(packet, z.Fork):
            self._fork(packet)
        elif packet.pid in self._engines:  # else reaped: the number may be somebody else's by now
            self._deliver(packet.pid, packet.signal)

    def _fork(self, request: z.Fork) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            log.error("no engine could be forked: %s", error)
            self._send(z.Exited(request.incarnation, 0, _EXIT_NOT_STARTED, 0, 0))
            return
        if pid == 0:
            self._become_engine(request)
        self._engines[pid] = request.incarnation
        self._send(z.Forked(request.incarnation, pid))

    def _become_engine(self, request: z.Fork) -> NoReturn:
        try:
            # The order matters: first what kills us with the zygote, then what the zygote's signals would disturb.
            die_with_parent(self._pid, signal.SIGKILL)
            os.setsid()  # a process group of its own, so that the engine's children can be ended with it
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is no task yet that it could mean
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            _redirect_output(Path(request.log))
            self._engine(request)
        except BaseException:  # noqa: BLE001 - top of a process: nothing may unwind into the zygote's loop
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(_EXIT_NOT_STARTED)

    def _deliver(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        self._reap(os.WNOHANG)

    def _reap(self, options: int) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | options)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            # Not reaped yet, so the number is still its own: end what it left running in its process group.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            incarnation = self._engines.pop(pid, None)
            if incarnation is not None:
                self._send(_exited(incarnation, pid, status, usage.ru_maxrss * _MAXRSS_UNIT))

    def _end(self) -> None:
        for pid in self._engines:
            self._deliver(pid, signal.SIGKILL)
        self._reap(0)


def _exited(incarnation: bytes, pid: int, status: int, peak_memory: int) -> z.Exited:
    code = os.waitstatus_to_exitcode(status)
    return z.Exited(incarnation, pid, max(code, 0), max(-code, 0), peak_memory)


def _redirect_output(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main(control_fd: int) -> None:
    """Warm up, then serve the node at the other end of ``control_fd``."""
    die_with_parent(os.getppid(), signal.SIGHUP)  # while warming up; later the socket's end tells us
    from parallelkit.engine import app  # late: this import is the work that the zygote does once for all engines

    app.warm_up()
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise InternalError(f"the zygote has several threads and cannot fork safely: {names}")
    gc.collect()
    gc.freeze()

    def engine(request: z.Fork) -> None:
        app.run(request.connection, request.engine_id, request.node, request.log, request.incarnation)

    Zygote(socket.socket(fileno=control_fd), engine).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
