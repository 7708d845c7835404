"""Universes with graphs of tasks: over losses, crashes and new hubs each starts only after what it waits for."""

from __future__ import annotations

import pytest

from parallelkit.testing import LoopbackCluster, ScriptedClient
from parallelkit.wire import messages as m
from tests.simulation.test_delivery import Universe, verify

SEEDS = 100

Key = tuple[bytes, int]


class Graphs(Universe):
    """Most tasks wait for earlier ones of their client, whether these have ended or not."""

    def __init__(self, seed: int) -> None:
        self.needs: dict[Key, m.Dependency] = {}
        #: When a run of each task will have ended well, if its engine lives so long.
        self.succeeds: dict[Key, float] = {}
        self.wrong: list[str] = []
        super().__init__(seed)

    def _script(self, record: m.AssignRecord) -> tuple[float, m.Outcome | None]:
        seconds, outcome = super()._script(record)
        key = record.function, record.seq  # each client has a function of its own
        need = self.needs.get(key)
        if need is not None and need.success and not need.failure:
            ended = [self.succeeds.get((record.function, n), 1e9) <= self.network.now for n in need.numbers]
            if not (all(ended) if need.all else any(ended)):
                self.wrong.append(f"{record.seq} starts after {need}, of which {ended} have ended")
        if outcome is m.Outcome.OK:
            self.succeeds[key] = min(self.succeeds.get(key, 1e9), self.network.now + seconds)
        return seconds, outcome

    def _submit(self, client: ScriptedClient) -> int:
        count = self.random.randint(1, 5)
        for _ in range(count):
            seq = client.service.ledger.next_seq
            numbers = self.random.sample(range(seq), min(seq, self.random.choice([0, 1, 1, 2, 4])))
            success = self.random.random() < 0.9
            failure = not success or self.random.random() < 0.3
            options = m.TaskOptions()
            self.allowed[client.session, seq] = options.max_attempts
            if numbers:
                need = m.Dependency(tuple(numbers), self.random.random() < 0.6, success, failure)
                self.needs[client.session, seq] = need
                options = m.TaskOptions(**{self.random.choice(["after", "after", "follow"]): need})
            client.submit(1, options, function=client.session)
        return count


@pytest.mark.parametrize("seed", range(SEEDS))
def test_graphs_end_whatever_happens(seed):
    universe = Graphs(seed)
    universe.run()
    verify(universe)
    assert universe.wrong == []
    for client in universe.clients:
        unmet = [seq for seq, [record] in client.results.items() if record.outcome is m.Outcome.UNMET]
        for seq in unmet:
            assert (client.session, seq) in universe.needs
            assert b"never ran, because" in client.results[seq][0].payload


def test_a_chain_over_the_deaths_of_hubs_runs_in_order():
    order: list[int] = []

    def script(record: m.AssignRecord) -> tuple[float, m.Outcome]:
        order.append(record.seq)
        return 0.05, m.Outcome.OK

    cluster = LoopbackCluster(script=script)
    client = cluster.client()
    client.submit(1)
    for seq in range(1, 100):
        client.submit(1, m.TaskOptions(after=m.Dependency((seq - 1,))))
    for _ in range(3):
        cluster.network.advance(1.0)
        cluster.kill_hub()
        cluster.network.advance(0.5)
        cluster.start_hub()
    cluster.network.advance_until(lambda: len(client.results) == 100)
    assert client.outcomes() == {m.Outcome.OK: 100}
    assert order == list(range(100))


def test_what_is_settled_when_it_is_sent_is_settled_at_the_client():
    cluster = LoopbackCluster(script=lambda r: (0.01, m.Outcome.ERROR if r.seq == 0 else m.Outcome.OK))
    client = cluster.client()
    client.submit(2)
    cluster.network.advance_until(lambda: len(client.results) == 2)
    cluster.network.advance(1.0)
    assert cluster.scheduler.statistics().tasks == 0  # the hub knows nothing of them any more
    for numbers, all in [((0, 1), True), ((0, 1), False), ((1,), True)]:
        client.submit(1, m.TaskOptions(after=m.Dependency(numbers, all)))
    client.submit(1, m.TaskOptions(after=m.Dependency((2,))))
    assert list(client.results) == [0, 1, 2, 5]  # at once
    name = client.session.hex()[:8]
    assert client.results[5][0].payload.decode() == (
        f"never ran, because its dependency {name}-0 raised an exception (by way of {name}-2)"
    )
    client.submit(1, m.TaskOptions(follow=m.Dependency((1,))))
    cluster.network.advance_until(lambda: len(client.results) == 7)
    assert client.results[6][0].engine == client.results[1][0].engine
    assert [client.results[seq][0].outcome for seq in (3, 4, 6)] == [m.Outcome.OK] * 3
    client.service.ledger.check()
