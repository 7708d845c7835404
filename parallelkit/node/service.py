"""The node's shell: the hub's verbs → the zygote; its reports → death certificates, restarts and beats.

    hub ──Start, Signal, Stop──► node ──Fork, Deliver──► zygote ──fork──► engines
        ◄──EngineExited, Beat───      ◄──Forked, Exited──

An engine that dies is started again under the same id, sooner or later depending on how often that happens, unless
its end was wanted. A hub that is silent changes nothing here: engines and their namespaces outlive it, and the node
says hello again until there is one. Order at the end: SIGTERM to the engines, SIGKILL to those left, Goodbye.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from parallelkit import __version__, config
from parallelkit.node.processes import sample
from parallelkit.transport.base import HUB, Loop, Port
from parallelkit.wire import messages as m
from parallelkit.wire import zygote as z
from parallelkit.wire.frames import Buffer

log = logging.getLogger(__name__)

#: Wait before a dead engine's successor starts: doubles with each death, starts over after a healthy life.
FIRST_DELAY, LAST_DELAY = 0.1, 10.0
HEALTHY_LIFE = 30.0
#: Time between SIGTERM and SIGKILL: for one engine that is stopped, and for all when the node ends.
STOP_GRACE, END_GRACE = 2.0, 1.0
LOG_LINES = 20


class Spawner(Protocol):
    """What the service needs of a zygote."""

    def fork(self, request: z.Fork) -> None: ...
    def signal(self, pid: int, number: int) -> None: ...


@dataclass(slots=True)
class Engine:
    """One engine process, from the request for it to its end. ``pid`` is 0 until it is forked."""

    id: int
    incarnation: bytes
    delay: float
    pid: int = 0
    started: float = 0.0
    memory: int = 0  # bytes, when last seen
    wanted: bool = False  # its end is
    restart: bool = False  # and a successor


class NodeService:
    """Implements :class:`parallelkit.transport.base.Shell`. ``port`` is set before :meth:`start`."""

    port: Port

    def __init__(self, loop: Loop, spawner: Spawner, identity: bytes, connection: Path, log_dir: Path) -> None:
        self.exit_code = 0
        self._loop = loop
        self._spawner = spawner
        self._identity = identity
        self._connection = connection
        self._log_dir = log_dir
        self._engines: dict[bytes, Engine] = {}
        self._pausing: set[int] = set()  # ids of dead engines whose successors wait for their time
        self._connected = False
        self._ending = False
        self._heartbeat = 1.0
        self._heard = loop.now()
        self._beats = 0
        self._handlers: dict[type[m.Message], Callable[[Any], None]] = {
            m.NodeWelcome: self._on_welcome,
            m.Introduce: lambda message: self._introduce(),
            m.NodeStart: lambda message: self._start_engines(message.ids),
            m.NodeSignal: self._on_signal,
            m.NodeStop: self._on_stop,
            m.Refused: lambda message: self.end(f"the hub refused this node ({message.kind}): {message.reason}", 1),
            m.Goodbye: lambda message: self.end(f"the hub said goodbye: {message.reason or 'no reason given'}"),
        }

    def start(self, engines: int) -> None:
        """The hub can be reached from now on: say hello, start engines, begin to beat."""
        self._connected = True
        self._introduce()
        self._start_engines(range(engines))
        self._loop.call_at(self._loop.now() + self._heartbeat, self._beat)

    def receive(self, peer: bytes, message: m.Message, frames: Sequence[Buffer]) -> None:
        self._heard = self._loop.now()
        handler = self._handlers.get(type(message))
        if handler is None:
            log.warning("the hub sent %s, which is not for nodes; dropped", type(message).__name__)
        else:
            handler(message)

    def flush(self) -> None:
        """Nothing gathers here: what a node has to say is rare and urgent."""

    def end(self, reason: str, exit_code: int = 0) -> None:
        """End all engines, then the loop."""
        if self._ending:
            return
        log.log(logging.ERROR if exit_code else logging.INFO, "%s; the node ends", reason)
        self._ending = True
        self.exit_code = exit_code
        for engine in self._engines.values():
            engine.wanted, engine.restart = True, False
            self._signal(engine, signal.SIGTERM)
        self._loop.call_at(self._loop.now() + END_GRACE, self._finish)  # the zygote kills those that are left
        self._finish_if_empty()

    # ----------------------------------------------------------------------------------------------- the zygote

    def forked(self, report: z.Forked) -> None:
        engine = self._engines.get(report.incarnation)
        if engine is None:
            return
        engine.pid, engine.started = report.pid, self._loop.now()
        log.info("engine %d started, pid %d", engine.id, engine.pid)
        if engine.wanted:  # told to stop before it was there
            self._terminate(engine)

    def exited(self, report: z.Exited) -> None:
        engine = self._engines.pop(report.incarnation, None)
        if engine is None:
            return
        how = f"killed by signal {report.signal}" if report.signal else f"exit code {report.exit_code}"
        log.log(logging.INFO if engine.wanted else logging.WARNING, "engine %d ended, %s", engine.id, how)
        peak = max(report.peak_memory, engine.memory)
        tail = config.log_tail(self._log_of(engine.id), LOG_LINES)
        self._send(
            m.EngineExited(report.incarnation, report.exit_code, report.signal, engine.wanted, peak, tail),
        )
        if self._ending:
            self._finish_if_empty()
        elif engine.restart:
            self._start_engine(engine.id, FIRST_DELAY)
        elif not engine.wanted:
            self._start_later(engine)

    def _start_later(self, engine: Engine) -> None:
        healthy = engine.pid > 0 and self._loop.now() - engine.started >= HEALTHY_LIFE
        delay = FIRST_DELAY if healthy else engine.delay

        def start() -> None:
            self._pausing.discard(engine.id)
            if not self._ending:
                self._start_engine(engine.id, min(2 * delay, LAST_DELAY))

        self._pausing.add(engine.id)
        self._loop.call_at(self._loop.now() + delay, start)

    def _start_engines(self, ids: Iterable[int]) -> None:
        if self._ending:
            return
        for id in ids:
            taken = {engine.id for engine in self._engines.values()} | self._pausing
            if id in taken:
                log.warning("engine %d is there already; not started again", id)
                continue
            self._start_engine(id if id >= 0 else _smallest_free(taken), FIRST_DELAY)

    def _start_engine(self, id: int, delay: float) -> None:
        engine = Engine(id, os.urandom(16), delay)
        self._engines[engine.incarnation] = engine
        request = z.Fork(engine.incarnation, id, str(self._connection), self._identity, str(self._log_of(id)))
        self._spawner.fork(request)

    def _log_of(self, id: int) -> Path:
        return self._log_dir / f"engine-{id}.log"

    # --------------------------------------------------------------------------------------------------- the hub

    def _on_welcome(self, message: m.NodeWelcome) -> None:
        self._heartbeat = message.heartbeat

    def _on_signal(self, message: m.NodeSignal) -> None:
        for engine in self._named(message.incarnations):
            self._signal(engine, message.signal)

    def _on_stop(self, message: m.NodeStop) -> None:
        for engine in self._named(message.incarnations):
            engine.wanted, engine.restart = True, message.restart
            self._terminate(engine)

    def _named(self, incarnations: Iterable[bytes]) -> list[Engine]:
        return [self._engines[key] for key in incarnations if key in self._engines]

    def _terminate(self, engine: Engine) -> None:
        """SIGTERM now, SIGKILL if it is still there after the grace."""

        def kill() -> None:
            if engine.incarnation in self._engines:
                self._signal(engine, signal.SIGKILL)

        self._signal(engine, signal.SIGTERM)
        self._loop.call_at(self._loop.now() + STOP_GRACE, kill)

    def _signal(self, engine: Engine, number: int) -> None:
        if engine.pid:
            self._spawner.signal(engine.pid, number)

    def _introduce(self) -> None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._send(m.NodeHello(m.PROTOCOL, python, __version__, socket.gethostname(), os.getpid()))

    def _beat(self) -> None:
        if self._ending:
            return
        if self._loop.now() - self._heard > 2 * self._heartbeat:
            self._introduce()  # the hub may be another one by now; its welcome also shows that there is one
        else:
            self._beats += 1
            self._send(m.NodeBeat(self._beats, self._sample()))
        self._loop.call_at(self._loop.now() + self._heartbeat, self._beat)

    def _sample(self) -> list[m.ProcessState]:
        states = []
        for engine in self._engines.values():
            state = sample(engine.pid, engine.incarnation) if engine.pid else None
            if state is not None:
                engine.memory = state.memory
                states.append(state)
        return states

    def _send(self, message: m.Message) -> None:
        if self._connected:
            self.port.send(HUB, message)

    # --------------------------------------------------------------------------------------------------- the end

    def _finish_if_empty(self) -> None:
        if not any(engine.pid for engine in self._engines.values()):
            self._finish()

    def _finish(self) -> None:
        self._send(m.Goodbye("the node ends"))
        self._connected = False
        self._loop.stop()


def _smallest_free(taken: set[int]) -> int:
    return next(id for id in range(len(taken) + 1) if id not in taken)
