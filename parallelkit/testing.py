"""Public fakes: a whole cluster in memory with a clock of its own, made of the product's own machines.

``LoopbackCluster`` runs the real hub, the real client service and the real engine service over
``transport.loopback``; only user code is replaced, by a script that says how long each task takes and how it ends.
Any of them can be killed at any moment, and messages lost, doubled or delayed by
the network's ``fate``::

    cluster = LoopbackCluster(engines=2)
    client = cluster.client()
    first = client.submit(3)
    cluster.network.advance_until(lambda: len(client.results) == 3)
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

from parallelkit.client.needs import Need, Needs
from parallelkit.client.service import Cargo, ClientService, TaskEntry
from parallelkit.core.ledger import Entry
from parallelkit.core.runqueue import RunQueue
from parallelkit.core.scheduler import Scheduler
from parallelkit.engine.mailbox import Letter
from parallelkit.engine.operations import Work
from parallelkit.engine.service import EngineService
from parallelkit.hub.peers import PYTHON
from parallelkit.hub.service import HubService
from parallelkit.transport.base import HUB
from parallelkit.transport.loopback import LoopbackNetwork
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer
from parallelkit.wire.payload import Function

HEARTBEAT = 1.0

#: (task name, run) → (seconds it takes, how it ends); ``None`` as the outcome kills the engine.
Script = Callable[[m.AssignRecord], tuple[float, m.Outcome | None]]


class ScriptedRunner:
    """Stands for the engine's main thread: "runs" one attempt at a time by the script."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine_id = -1
        self._engine = engine
        self._running: tuple[Work, m.Outcome | None] | None = None
        self._verdict: m.Outcome | None = None

    def wake(self) -> None:
        if self._running is not None:
            return
        entry = self._engine.tasks.next()
        if entry is None:
            return
        work = cast(Work, entry.work)
        seconds, outcome = self._engine.script(work.record)
        self._engine.starts[work.session, work.record.seq] += 1
        self._running = work, outcome
        self._verdict = None
        loop = self._engine.peer
        loop.call_at(loop.now() + seconds, lambda: self._end(work, outcome, seconds))

    def interrupt(self, attempt: int, verdict: m.Outcome) -> None:
        if self._running is not None and self._running[0].record.attempt == attempt:
            self._verdict = verdict

    def forget(self, attempt: int) -> None:
        """Nothing is kept for an attempt that has ended."""

    def _end(self, work: Work, outcome: m.Outcome | None, seconds: float) -> None:
        self._running = None
        if outcome is None:
            self._engine.kill()
            return
        record = work.record
        result = m.ResultRecord(
            record.seq,
            record.attempt,
            self._verdict or outcome,
            record.payload,
            engine=self.engine_id,
            run=record.run,
            seconds=seconds,
        )
        self._engine.service.deliver([Letter(work.session, result)])
        self.wake()


class ScriptedEngine:
    """An engine with the product's service and run queue. ``starts`` counts how often each task was begun."""

    def __init__(self, cluster: LoopbackCluster, incarnation: bytes, wanted_id: int) -> None:
        self._cluster = cluster
        self.script = cluster.script
        self.starts = cluster.starts
        self.incarnation = incarnation
        self.id = wanted_id
        self.peer = cluster.network.join(m.ROLE_ENGINE + incarnation)
        self.tasks = RunQueue()
        hello = m.EngineHello(m.PROTOCOL, PYTHON, "0", "loopback", 0, incarnation, wanted_id, b"")
        self.service = EngineService(
            self.peer, self.tasks, hello, HEARTBEAT, self._welcomed, lambda reason, code: self.kill()
        )
        self.service.port = self.peer
        self.service.runner = ScriptedRunner(self)
        self.peer.shell = self.service
        self.service.start()

    def kill(self) -> None:
        """As by SIGKILL. Whoever stands for its node may call ``LoopbackCluster.certify`` afterwards."""
        if self.peer.alive:
            self.peer.die()
            self._cluster.engines.remove(self)

    def _welcomed(self, message: m.EngineWelcome) -> None:
        self.id = message.id


class ScriptedClient:
    """A client with the product's service and ledger. ``results`` has every record that arrived, by task number."""

    def __init__(self, cluster: LoopbackCluster, session: bytes) -> None:
        self.session = session
        self.results: dict[int, list[m.ResultRecord]] = {}
        self.peer = cluster.network.join(m.ROLE_CLIENT + session)
        self.service = ClientService(self.peer, session, lambda: None)
        self.service.port = self.peer
        self.peer.shell = self.service
        self.service.start()

    def submit(self, count: int, options: m.TaskOptions | None = None, function: bytes = b"f" * 16) -> int:
        """Submit so many calls; returns the number of the first. Dependencies name tasks of this client."""
        ledger = self.service.ledger
        first = ledger.next_seq
        needs = None
        if options is not None and (options.after is not None or options.follow is not None):
            needs = Needs(self._need(options.after), self._need(options.follow))
        cargo = Cargo([], Function(function, b"code", "f"), needs)
        direct = options is not None and options.direct
        fan = len(options.targets) if options is not None and direct else 1
        entries: list[TaskEntry] = [
            Entry(
                first + call * fan + position,
                m.TaskRecord(first + call * fan, m.Operation.CALL, function, b"args", options=options),
                cargo,
                self,
                0,
                position if direct else -1,
            )
            for call in range(count)
            for position in range(fan)
        ]
        ledger.submit(entries)
        self.service.send_unsent()
        return first

    def _need(self, dependency: m.Dependency | None) -> Need | None:
        return None if dependency is None else Need(dependency, (self,) * len(dependency.numbers))

    def settle(self, record: m.ResultRecord, frames: Sequence[Buffer]) -> None:
        self.results.setdefault(record.seq, []).append(record)

    def ended(self, seq: int) -> m.ResultRecord | None:
        return self.results[seq][0] if seq in self.results else None

    def output(self, record: m.OutputRecord) -> None:
        """Scripted engines print nothing."""

    def outcomes(self) -> Counter[m.Outcome]:
        """How many tasks ended how."""
        return Counter(records[-1].outcome for records in self.results.values())


class LoopbackCluster:
    """One hub, some engines, some clients. ``check`` runs after every message that the hub handles."""

    def __init__(
        self,
        *,
        engines: int = 2,
        script: Script = lambda record: (0.01, m.Outcome.OK),
        network: LoopbackNetwork | None = None,
    ) -> None:
        self.network = network or LoopbackNetwork()
        self.script = script
        self.starts: Counter[tuple[bytes, int]] = Counter()
        self.engines: list[ScriptedEngine] = []
        self.clients: list[ScriptedClient] = []
        self.epoch = 0
        self._names = itertools.count(1)
        self.start_hub()
        for _ in range(engines):
            self.start_engine()

    def start_hub(self) -> None:
        """A hub's life, after that of the one before it."""
        self.epoch += 1
        self.peer = self.network.join(HUB)
        self.scheduler = Scheduler(epoch=self.epoch, now=self.network.now, heartbeat=HEARTBEAT)
        self.hub = HubService(
            self.peer,
            cluster="loopback",
            epoch=self.epoch,
            heartbeat=HEARTBEAT,
            scheduler=self.scheduler,
            limits={},
            output_limit=1 << 20,
        )
        self.hub.port = self.peer
        self.peer.shell = self.hub
        self.hub.start()

    def kill_hub(self) -> None:
        self.peer.die()

    def start_engine(self, wanted_id: int = -1) -> ScriptedEngine:
        engine = ScriptedEngine(self, next(self._names).to_bytes(16, "big"), wanted_id)
        self.engines.append(engine)
        return engine

    def client(self) -> ScriptedClient:
        client = ScriptedClient(self, next(self._names).to_bytes(16, "big"))
        self.clients.append(client)
        self.network.advance(0.01)
        return client
