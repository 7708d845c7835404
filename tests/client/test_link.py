"""A link to a real hub on a thread of this process, over real sockets."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from parallelkit import config
from parallelkit.client.link import Call, connect
from parallelkit.errors import AuthError, ClusterError, HubUnreachable, VersionMismatch
from parallelkit.hub.app import make_service
from parallelkit.testing import LoopbackCluster
from parallelkit.transport.connection import ConnectionInfo
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import listen
from parallelkit.transport.zap import ZapHandler, key_pair
from parallelkit.wire import messages as m
from parallelkit.wire.payload import Payload

PATIENCE = 10.0


class Hub:
    """A hub that has no engines."""

    def __init__(self, folder, secured: bool = False) -> None:
        self.reactor = Reactor()
        self.service = make_service(self.reactor, "test", 1, config.load())
        self.info = self._secured() if secured else self._plain(folder)
        self.service.start()
        self.thread = threading.Thread(target=self.reactor.run)
        self.thread.start()

    def _plain(self, folder) -> ConnectionInfo:
        self.service.port, endpoint = listen(self.reactor, f"ipc://{folder}/hub.sock", self.service)
        return ConnectionInfo("test", endpoint)

    def _secured(self) -> ConnectionInfo:
        public, secret = key_pair()
        mine = key_pair()
        ZapHandler(self.reactor, {mine[0]: "C"})
        self.service.port, endpoint = listen(self.reactor, "tcp://127.0.0.1:*", self.service, secret)
        return ConnectionInfo("test", endpoint, public, *mine)

    def stop(self) -> None:
        self.reactor.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def hub(tmp_path, no_leaks):
    hub = Hub(tmp_path)
    yield hub
    hub.stop()


@pytest.fixture
def secured_hub(tmp_path, no_leaks):
    hub = Hub(tmp_path, secured=True)
    yield hub
    hub.stop()


@pytest.fixture
def link(hub):
    link = connect(hub.info, timeout=PATIENCE)
    yield link
    link.close()


class Waiting:
    """A sink that says when something has come."""

    def __init__(self) -> None:
        self.records: list[m.ResultRecord] = []
        self.came = threading.Event()

    def settle(self, record, frames):
        self.records.append(record)
        self.came.set()

    def output(self, record):
        """Nothing prints here."""


def call() -> Call:
    return Call(m.Operation.CALL, Payload(b"arguments", []))


def test_a_welcome_tells_what_there_is(link):
    assert link.cluster == "test"
    assert dict(link.engines) == {}
    assert link.limits["window_tasks"] == 10_000
    assert link.hub_silence == 0.0


def test_a_direct_task_without_its_engine_ends_with_a_sentence(link):
    sink = Waiting()
    first = link.submit([call()], m.TaskOptions(targets=(3,), direct=True), sink)
    assert sink.came.wait(PATIENCE)
    (record,) = sink.records
    assert (record.seq, record.outcome, bytes(record.payload)) == (first, m.Outcome.LOST, b"there is no engine 3")


def test_driving_brings_the_answer_on_this_thread(link):
    sink = Waiting()
    threads: list[threading.Thread] = []
    sink.settle = lambda record, frames: threads.append(threading.current_thread())
    link.drive(lambda: True, 1)  # the connection is this thread's for a moment
    link.submit([call()], m.TaskOptions(targets=(3,), direct=True), sink)
    assert link.drive(lambda: threads, PATIENCE)
    assert threads == [threading.current_thread()]


def test_what_waits_for_an_engine_can_be_cancelled(link):
    sink = Waiting()
    first = link.submit([call()], m.TaskOptions(), sink)
    link.cancel(first, 1)
    assert sink.came.wait(PATIENCE)
    assert sink.records[0].outcome is m.Outcome.CANCELLED
    assert link.outstanding == 0


def test_numbers_follow_each_other_from_any_thread(link):
    firsts: list[int] = []
    work = [
        threading.Thread(target=lambda: firsts.append(link.submit([call()] * 3, m.TaskOptions(), Waiting())))
        for _ in range(20)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(PATIENCE)
    assert sorted(firsts) == list(range(0, 60, 3))


def test_a_refused_request_raises_the_hubs_sentence(link):
    with pytest.raises(ClusterError, match=r"there is no engine 4; there are \[\]"):
        link.request(lambda number: m.SignalEngines(number, [4], 2))


def test_close_ends_what_is_outstanding_and_everything_after(link):
    sink = Waiting()
    link.submit([call()], m.TaskOptions(), sink)
    link.close()
    link.close()
    assert sink.records[0].outcome is m.Outcome.ABANDONED
    with pytest.raises(HubUnreachable, match="this client was closed"):
        link.submit([call()], m.TaskOptions(), sink)
    with pytest.raises(HubUnreachable, match="this client was closed"):
        link.request(m.QueryQueues)


def test_the_end_of_the_cluster_ends_what_is_outstanding(hub, link):
    sink = Waiting()
    link.submit([call()], m.TaskOptions(), sink)
    assert link.request(m.StopCluster) is True
    assert sink.came.wait(PATIENCE)
    assert b"the cluster was stopped" in bytes(sink.records[0].payload)


def test_a_right_key_gets_in(secured_hub):
    connect(secured_hub.info, timeout=PATIENCE).close()


def test_a_wrong_key_is_an_error_at_once(secured_hub):
    public, secret = key_pair()
    started = time.monotonic()
    with pytest.raises(AuthError, match="refused the key"):
        connect(replace(secured_hub.info, public_key=public, secret_key=secret), timeout=60)
    assert time.monotonic() - started < 30  # not the patience: the refusal itself


def test_a_wrong_server_key_is_no_connection(secured_hub):
    other, _ = key_pair()
    with pytest.raises((AuthError, HubUnreachable)):
        connect(replace(secured_hub.info, server_key=other), timeout=1.0)


@pytest.mark.parametrize(("kind", "error"), [("version", VersionMismatch), ("role", AuthError)])
def test_a_refusal_ends_the_connection_with_the_hubs_words(kind, error):
    cluster = LoopbackCluster(engines=0)
    client = cluster.client()
    client.submit(1)
    cluster.peer.send(client.peer.identity, m.Refused(kind, "this notebook runs Python 3.99, the cluster 3.11"))
    cluster.network.advance(0.1)
    failure = client.service.situation.failure
    assert isinstance(failure, error)
    assert str(failure) == "this notebook runs Python 3.99, the cluster 3.11"
    assert client.outcomes() == {m.Outcome.ABANDONED: 1}
