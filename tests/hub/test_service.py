"""The hub with its real peers over the loopback: doors, functions, control, and its own death."""

from __future__ import annotations

import re

import pytest

from parallelkit.hub.functions import FunctionCache
from parallelkit.hub.peers import PYTHON
from parallelkit.testing import LoopbackCluster
from parallelkit.transport.base import HUB
from parallelkit.wire import messages as m


class Visitor:
    """A shell that keeps what it is told."""

    def __init__(self) -> None:
        self.received: list[m.Message] = []

    def receive(self, peer, message, frames):
        self.received.append(message)

    def flush(self):
        """Has nothing to say."""


def messages_to(cluster: LoopbackCluster, peer: bytes, kind: type) -> list[m.Message]:
    return [message for _, _, to, message in cluster.network.trace if to == peer and isinstance(message, kind)]


def ask(cluster: LoopbackCluster, client, make) -> tuple[object, str]:
    """A numbered request and its answer."""
    answers: list[tuple[object, str]] = []
    client.service.request(7, make(7), lambda value, error: answers.append((value, error)))
    cluster.network.advance_until(lambda: answers)
    return answers[0]


def test_many_tasks_travel_in_few_messages():
    cluster = LoopbackCluster(engines=2, script=lambda record: (0.00001, m.Outcome.OK))
    client = cluster.client()
    client.submit(2000)
    cluster.network.advance_until(lambda: len(client.results) == 2000)
    sent = m.Submit | m.Assign
    assert sum(isinstance(message, sent) for *_, message in cluster.network.trace) < 2000 / 10
    assert client.outcomes() == {m.Outcome.OK: 2000}


def test_a_function_travels_once_to_the_hub_and_once_to_each_engine():
    cluster = LoopbackCluster(engines=2)
    client = cluster.client()
    for _ in range(5):
        client.submit(4)
        cluster.network.advance_until(lambda: not len(client.service.ledger))
    sent = [message.functions for *_, message in cluster.network.trace if isinstance(message, m.Submit | m.Assign)]
    assert sum(len(functions) for functions in sent) == 3


def test_an_engine_that_forgot_a_function_gets_it_from_the_hub():
    cluster = LoopbackCluster(engines=1)
    client = cluster.client()
    client.submit(1)
    cluster.network.advance_until(lambda: client.results)
    for n in range(2000):  # more than the engine keeps
        client.submit(1, function=n.to_bytes(16, "big"))
        cluster.network.advance_until(lambda: not len(client.service.ledger))
    client.submit(1)
    cluster.network.advance_until(lambda: not len(client.service.ledger))
    assert client.outcomes() == {m.Outcome.OK: 2002}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"protocol": 99}, r"has parallelkit 0 \(protocol 99\), the cluster 'loopback' has .* \(protocol 1\)"),
        ({"python": "3.7"}, r"on elsewhere runs Python 3.7, the cluster 'loopback' runs Python 3\.\d+"),
    ],
)
def test_versions_that_do_not_go_together_are_refused_with_both_in_the_sentence(change, expected):
    cluster = LoopbackCluster(engines=0)
    fields = {"protocol": m.PROTOCOL, "python": PYTHON, "package": "0", "host": "elsewhere", "pid": 1}
    peer = cluster.network.join(m.ROLE_CLIENT + b"x" * 16)
    peer.shell = visitor = Visitor()
    peer.send(HUB, m.ClientHello(**{**fields, **change}, session=b"x" * 16))
    cluster.network.advance(0.1)
    (refusal,) = visitor.received
    assert refusal.kind == "version"
    assert re.search(expected, refusal.reason)
    assert cluster.scheduler.statistics().sessions == 0


def test_what_a_hub_can_be_asked():
    cluster = LoopbackCluster(engines=2)
    client = cluster.client()
    client.submit(3)
    value, error = ask(cluster, client, m.QueryQueues)
    assert error == ""
    assert [load[0] for load in value["engines"]] == [0, 1]
    assert {load[4] for load in value["engines"]} == {"ok"}
    story, _ = ask(cluster, client, lambda number: m.QueryStory(number, 0))
    assert [why for _, _, why in story][:1] == ["assigned"]


def test_a_silent_engine_is_shown_and_then_lost():
    cluster = LoopbackCluster(engines=1)
    client = cluster.client()
    cluster.network.advance(1.0)
    cluster.engines[0].kill()
    cluster.network.advance(3.5)
    value, _ = ask(cluster, client, m.QueryQueues)
    assert value["engines"][0][4] == "silent"
    cluster.network.advance_until(lambda: not client.service.situation.engines)
    assert len(messages_to(cluster, client.peer.identity, m.Roster)) == 1


def test_verbs_for_engines_without_a_node_are_refused_in_words():
    cluster = LoopbackCluster(engines=1)
    client = cluster.client()
    assert "no engine 9; there are [0]" in ask(cluster, client, lambda n: m.SignalEngines(n, [9], 2))[1]
    assert "engine 0 has no node" in ask(cluster, client, lambda n: m.StopEngines(n, [0]))[1]
    assert "no node is connected" in ask(cluster, client, lambda n: m.StartEngines(n, 1))[1]


def test_a_restarted_hub_repeats_nothing_that_runs_or_is_finished():
    cluster = LoopbackCluster(engines=2, script=lambda record: (3.0, m.Outcome.OK))
    client = cluster.client()
    client.submit(6)
    cluster.network.advance(4.0)
    cluster.kill_hub()
    cluster.network.advance(5.0)
    cluster.start_hub()
    cluster.network.advance_until(lambda: len(client.results) == 6)
    assert set(cluster.starts.values()) == {1}
    assert client.outcomes() == {m.Outcome.OK: 6}


def test_a_hub_keeps_nothing_of_what_is_done():
    cluster = LoopbackCluster(engines=2, script=lambda record: (0.0001, m.Outcome.OK))
    client = cluster.client()
    client.submit(500)
    cluster.network.advance_until(lambda: len(client.results) == 500)
    cluster.network.advance(3.0)
    assert cluster.scheduler.statistics().tasks == 0
    assert all(engine.tasks.statistics().finished == 0 for engine in cluster.engines)


def test_goodbye_of_a_client_ends_what_it_had():
    cluster = LoopbackCluster(engines=1, script=lambda record: (100.0, m.Outcome.OK))
    client = cluster.client()
    client.submit(3)
    cluster.network.advance(0.1)
    client.service.leave()
    cluster.network.advance(0.1)
    assert cluster.scheduler.statistics().sessions == 0
    assert len(messages_to(cluster, cluster.engines[0].peer.identity, m.Interrupt)) == 1


class TestFunctionCache:
    def test_the_least_recently_used_goes_first(self):
        cache = FunctionCache(capacity=10)
        cache.add({b"a": b"12345", b"b": b"12345"})
        cache.for_engine(b"e", [b"a"])
        cache.add({b"c": b"12345"})
        assert cache.for_engine(b"other", [b"a", b"b", b"c"]) == {b"a": b"12345", b"c": b"12345"}

    def test_one_larger_than_all_room_is_kept_while_it_is_alone(self):
        cache = FunctionCache(capacity=3)
        cache.add({b"a": b"12345"})
        assert cache.for_engine(b"e", [b"a"]) == {b"a": b"12345"}

    def test_what_is_missing_is_answered_when_it_comes(self):
        cache = FunctionCache()
        assert cache.ask(b"e", [b"a"]) == ({}, [b"a"])
        assert cache.add({b"a": b"1"}) == {b"e": {b"a": b"1"}}
        assert cache.add({b"a": b"1"}) == {}

    def test_an_engine_that_is_gone_wants_nothing(self):
        cache = FunctionCache()
        cache.ask(b"e", [b"a"])
        cache.forget_engine(b"e")
        assert cache.add({b"a": b"1"}) == {}
