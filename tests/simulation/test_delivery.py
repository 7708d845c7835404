"""Universes: the product's own client, hub and engine machines over a hostile network, with crashes of every role.

One seed is one universe, replayed by its number. After the faults stop every task must have exactly one outcome, no
task may have begun more often than it was allowed, and nobody may hold anything any more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from parallelkit.testing import LoopbackCluster, ScriptedClient
from parallelkit.transport.loopback import LoopbackNetwork
from parallelkit.wire import messages as m

SEEDS = 150
#: Virtual seconds in which faults happen; then the universe has peace to settle.
HOSTILE = 40.0
PEACE = 120.0


class Universe:
    """A cluster whose fate is one random generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.drop = self.random.choice([0.0, 0.02, 0.15])
        self.double = self.random.choice([0.0, 0.02, 0.15])
        self.slow = self.random.choice([0.0, 0.05, 0.3])
        self.cut_until: dict[bytes, float] = {}
        self.network = LoopbackNetwork(self._fate)
        self.cluster = LoopbackCluster(engines=3, script=self._script, network=self.network)
        self.allowed: dict[tuple[bytes, int], int] = {}
        self.poison: set[tuple[bytes, int]] = set()
        self.clients = [self.cluster.client() for _ in range(2)]
        self.hub_alive = True
        self.hubs_die = seed % 2 == 0

    @property
    def hostile(self) -> bool:
        return self.network.now < HOSTILE

    def _script(self, record: m.AssignRecord) -> tuple[float, m.Outcome | None]:
        seconds = self.random.choice([0.001, 0.05, 0.5, 2.0])
        if record.payload == b"args" and record.seq % 17 == 13 and self.hostile:
            return seconds, None  # takes its engine along
        return seconds, m.Outcome.ERROR if record.seq % 7 == 5 else m.Outcome.OK

    def _fate(self, source: bytes, destination: bytes, message: m.Message) -> Sequence[float]:
        if not self.hostile:
            return (0.001,)
        peer = source or destination
        if self.cut_until.get(peer, 0.0) > self.network.now or self.random.random() < self.drop:
            return ()
        delay = self.random.uniform(0.0005, 0.003)
        if self.random.random() < self.slow:
            delay += self.random.uniform(0.01, 2.0)
        return (delay, delay) if self.random.random() < self.double else (delay,)

    def run(self) -> None:
        tasks = 0
        while self.hostile:
            self.network.advance(self.random.uniform(0.05, 0.8))
            roll = self.random.random()
            if roll < 0.35 and tasks < 60:
                tasks += self._submit(self.random.choice(self.clients))
            elif roll < 0.42 and self.hub_alive and self.hubs_die:
                self.cluster.kill_hub()
                self.hub_alive = False
                self.network.schedule(self.network.now + self.random.choice([0.1, 1.0, 5.0]), self._hub_again)
            elif roll < 0.52 and self.cluster.engines:
                self._kill_engine()
            elif roll < 0.60:
                peers = [e.peer for e in self.cluster.engines] + [c.peer for c in self.clients]
                victim = self.random.choice(peers).identity
                self.cut_until[victim] = self.network.now + self.random.choice([0.5, 3.0, 9.0])
            elif roll < 0.64:
                client = self.random.choice(self.clients)
                client.service.cancel([(0, client.service.ledger.next_seq)])
            self._replace_engines()
        self._settle()

    def _submit(self, client: ScriptedClient) -> int:
        attempts = self.random.choice([1, 4, 4])
        options = m.TaskOptions(max_attempts=attempts, retries=self.random.choice([0, 0, 1]))
        count = self.random.randint(1, 6)
        first = client.submit(count, options)
        for seq in range(first, first + count):
            self.allowed[client.session, seq] = attempts + options.retries
        return count

    def _kill_engine(self) -> None:
        engine = self.random.choice(self.cluster.engines)
        engine.kill()

    def _replace_engines(self) -> None:
        while len(self.cluster.engines) < 3:
            self.cluster.start_engine()

    def _hub_again(self) -> None:
        self.cluster.start_hub()
        self.hub_alive = True

    def _settle(self) -> None:
        def settled() -> bool:
            self._replace_engines()
            return (
                self.hub_alive
                and not any(len(client.service.ledger) for client in self.clients)
                and self.cluster.scheduler.statistics().tasks == 0
                and all(engine.tasks.statistics().finished == 0 for engine in self.cluster.engines)
            )

        self.network.advance_until(settled, PEACE)


def verify(universe: Universe) -> None:
    for client in universe.clients:
        for seq in range(client.service.ledger.next_seq):
            assert len(client.results.get(seq, [])) == 1, f"task {seq} has {len(client.results.get(seq, []))} outcomes"
        client.service.ledger.check()
    # What had begun is known to one hub; only a journal could tell the next of an engine that died in between.
    if universe.cluster.epoch == 1:
        for task, allowed in universe.allowed.items():
            starts = universe.cluster.starts[task]
            assert starts <= allowed, f"task {task[1]} began {starts} times, allowed {allowed}"
    universe.cluster.scheduler.check()
    for engine in universe.cluster.engines:
        engine.tasks.check()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_task_ends_once_whatever_happens(seed):
    universe = Universe(seed)
    universe.run()
    verify(universe)
