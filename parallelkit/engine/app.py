"""An engine's process: from the fork (or the command line) to its exit.

::

    main thread   Executor.run: user code; the only thread that signals interrupt
    loop's thread Reactor.run: the socket, the run queue, output, timers; ends the process

The process ends, always by ``os._exit``: when the hub says goodbye or refuses it, at SIGTERM (which reaches the
loop's thread through a pipe, even while user code is busy in C), when the loop fails. The zygote sees to it that it
also ends with its parent.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import platform
import random
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

from parallelkit import __version__, config
from parallelkit.core.runqueue import RunQueue
from parallelkit.engine.coroutines import Coroutines
from parallelkit.engine.executor import Executor
from parallelkit.engine.mailbox import Mailbox
from parallelkit.engine.namespace import Namespace
from parallelkit.engine.operations import Operations
from parallelkit.engine.output import Output, TextStream
from parallelkit.engine.service import EngineService
from parallelkit.engine.shell import EngineShell, build, forbid_input
from parallelkit.transport.connection import ConnectionInfo, read_connection
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import DealerPort, connect
from parallelkit.wire import messages as m

log = logging.getLogger(__name__)

#: How long a thread that computes may keep the interpreter while the loop's thread wants it. With CPython's 5 ms
#: every reply of a busy engine would wait 5 ms; a switch costs a few microseconds.
SWITCH_INTERVAL = 0.0005
CRASHED = 70  # exit code: EX_SOFTWARE of sysexits.h


def warm_up() -> None:
    """Import and build all that engines share, for a process that will fork them. Starts no thread and no socket."""
    build()


def run(
    connection: str | Path, wanted_id: int, node: bytes, log: str | Path | None, incarnation: bytes = b""
) -> NoReturn:
    """Be an engine until the end of this process. Call it on the main thread, right after the fork.

    Args:
        connection: path of the hub's file for engines.
        wanted_id: the id to ask for; -1: any.
        node: routing id of the node that watches this process; empty: none.
        log: file for what is printed outside of tasks, by subprocesses and by parallelkit; None: descriptors 1
            and 2 as they are.
        incarnation: 16 bytes that name this process for its node and the hub; empty: random ones.
    """
    if log is not None:
        _redirect(Path(log))
    settings = config.load()
    _start_log(settings.log_level)
    shell = build()
    _reset_process()
    hello = m.EngineHello(
        protocol=m.PROTOCOL,
        python=".".join(platform.python_version_tuple()[:2]),
        package=__version__,
        host=socket.gethostname(),
        pid=os.getpid(),
        incarnation=incarnation or os.urandom(16),
        wanted_id=wanted_id,
        node=node,
    )
    Engine(read_connection(Path(connection)), settings, shell, hello).serve()


class Engine:
    """The parts of one engine, put together."""

    def __init__(
        self, info: ConnectionInfo, settings: config.Settings, shell: EngineShell, hello: m.EngineHello
    ) -> None:
        self.reactor = Reactor(hold_interrupts=False)
        self.shell = shell
        self.tasks = RunQueue()
        self.service = EngineService(
            self.reactor, self.tasks, hello, settings.heartbeat, welcomed=self._welcomed, end=self._end
        )
        self.mailbox = Mailbox(self.reactor, self.service.deliver)
        self.output = Output(self.reactor, self.mailbox, settings.output_limit)
        coroutines = Coroutines()
        shell.publish = self.output.publish
        shell.loop_runner = coroutines.run
        operations = Operations(shell, Namespace(shell.user_ns), coroutines)
        self.executor = Executor(self.reactor, self.tasks, self.mailbox, self.output, operations)
        self.service.runner = self.executor
        self.port: DealerPort = connect(
            self.reactor, info, m.ROLE_ENGINE + hello.incarnation, self.service, on_auth_failure=self._key_refused
        )
        self.service.port = self.port
        self._ending = False
        self._exit_code = 0
        self._refusals = 0

    def serve(self) -> NoReturn:
        """Run user code here and everything else on a second thread, which ends the process."""
        self._take_over_streams()
        self._take_over_signals()
        threading.Thread(target=self._serve_loop, name="parallelkit-io", daemon=True).start()
        self.executor.run()

    def _serve_loop(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # they are for the main thread
        try:
            self.service.start()
            self.reactor.run()
        except BaseException:
            log.critical("the engine's loop failed; the engine ends", exc_info=True)
            self._exit_code = CRASHED
        finally:
            os._exit(self._exit_code)

    def _welcomed(self, message: m.EngineWelcome) -> None:
        log.info("engine %d of a hub in its life %d", message.id, message.epoch)
        self.output.limit = message.output_limit
        self.shell.assume(message.id)

    def _end(self, reason: str, code: int) -> None:
        if self._ending:
            return
        self._ending = True
        log.log(logging.ERROR if code else logging.INFO, "the engine ends: %s", reason)
        self._exit_code = code
        self.output.hand_over()
        self.mailbox.collect()
        self.service.leave(reason)
        self.reactor.stop()

    def _key_refused(self) -> None:
        # Not the end: a hub that dies during the handshake looks the same, and comes back.
        self._refusals += 1
        if self._refusals <= 10:
            log.warning("the hub refused the key of this engine's connection file; trying again")

    def _take_over_streams(self) -> None:
        sys.stdout = TextStream(self.output, m.Stream.STDOUT)
        sys.stderr = TextStream(self.output, m.Stream.STDERR)
        forbid_input()

    def _take_over_signals(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        # Every signal with a handler in Python is also announced here, at once, whatever the main thread does; its
        # handler is for when user code has taken this descriptor away (asyncio's add_signal_handler does).
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: self.reactor.call_soon(self._terminated))
        # A child that is terminated at once must not die as an engine does: SIGTERM waits until it is itself.
        os.register_at_fork(before=_hold_termination, after_in_parent=_allow_termination, after_in_child=self._forked)

        def readable() -> None:
            if signal.SIGTERM in os.read(read, 4096):
                self._terminated()

        self.reactor.add_fd(read, readable)

    def _terminated(self) -> None:
        self._end("terminated by a signal", 0)

    def _forked(self) -> None:
        """A process forked by user code is not an engine: it takes no tasks, and SIGTERM just ends it."""
        self.executor.leave()
        self.output.leave()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _allow_termination()


def _hold_termination() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _allow_termination() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _redirect(path: Path) -> None:
    """Nothing on descriptor 0, the log on 1 and 2."""
    null = os.open(os.devnull, os.O_RDONLY)
    log_file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log_file, 1), (log_file, 2)):
        os.dup2(source, target)
    for descriptor in {null, log_file} - {0, 1, 2}:
        os.close(descriptor)


def _start_log(level: str) -> None:
    """Our own log, on descriptor 2. Users' loggers are theirs: what tasks log belongs to their output."""
    handler = logging.StreamHandler(open(2, "w", closefd=False))  # noqa: SIM115 - as long as the process lives
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("parallelkit")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    faulthandler.enable(2)


def _reset_process() -> None:
    """Forget what the parent did with signals, random numbers and arguments."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the executor takes it
    sys.setswitchinterval(SWITCH_INTERVAL)
    sys.argv = [""]
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # unlike Python's own it does not notice a fork: all engines would draw the same
        numpy_random.seed()
