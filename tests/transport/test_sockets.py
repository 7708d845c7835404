"""Real sockets between threads: delivery, roles, keys."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import zmq

from parallelkit.transport.base import HUB
from parallelkit.transport.connection import ConnectionInfo
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import connect, listen
from parallelkit.transport.zap import ZapHandler, key_pair
from parallelkit.wire import messages as m
from parallelkit.wire.frames import encode

SESSION = b"s" * 16
HELLO = m.ClientHello(m.PROTOCOL, "3.11", "0", "host", 1, SESSION)


class Recorder:
    """A shell that keeps what arrives and says when enough has."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, m.Message, list[bytes]]] = []
        self.arrived = threading.Event()

    def receive(self, peer, message, frames):
        self.received.append((peer, message, [bytes(memoryview(frame)) for frame in frames]))

    def flush(self):
        self.arrived.set()


class Side:
    """A reactor on a thread of its own."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.shell = Recorder()
        self.thread = threading.Thread(target=self.reactor.run, daemon=True)

    def do(self, action):
        """Run ``action`` on the reactor's thread and wait for its result."""
        done, result = threading.Event(), []
        self.reactor.call_soon(lambda: (result.append(action()), done.set()))
        assert done.wait(10)
        return result[0]

    def close(self):
        self.reactor.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def sides(no_leaks):
    made: list[Side] = []

    def make() -> Side:
        side = Side()
        made.append(side)
        return side

    yield make
    for side in made:
        side.close() if side.thread.ident else side.reactor.close()


def start(side: Side) -> None:
    side.thread.start()


def test_messages_and_frames_cross_a_unix_socket(sides, tmp_path):
    hub, peer = sides(), sides()
    port, endpoint = listen(hub.reactor, f"ipc://{tmp_path}/hub.sock", hub.shell)
    out = connect(peer.reactor, ConnectionInfo("c", endpoint), b"C" + SESSION, peer.shell)
    start(hub), start(peer)
    big = bytearray(1 << 20)
    peer.do(lambda: out.send(HUB, HELLO, [b"small", big]))
    assert hub.shell.arrived.wait(10)
    who, message, frames = hub.shell.received[0]
    assert (who, message) == (b"C" + SESSION, HELLO)
    assert frames == [b"small", bytes(big)]
    assert hub.do(lambda: port.send(who, m.Introduce()))
    assert peer.shell.arrived.wait(10)
    assert peer.shell.received[0][1] == m.Introduce()


def test_a_peer_that_is_not_there_is_told(sides, tmp_path):
    hub = sides()
    port, _ = listen(hub.reactor, f"ipc://{tmp_path}/hub.sock", hub.shell)
    start(hub)
    assert hub.do(lambda: port.send(b"C" + SESSION, m.Introduce())) is False


def test_a_message_of_another_role_is_dropped_and_counted(sides, tmp_path):
    hub, peer = sides(), sides()
    port, endpoint = listen(hub.reactor, f"ipc://{tmp_path}/hub.sock", hub.shell)
    out = connect(peer.reactor, ConnectionInfo("c", endpoint), b"E" + SESSION, peer.shell)
    start(hub), start(peer)
    peer.do(lambda: out.send(HUB, HELLO))  # an engine that says hello as a client
    peer.do(lambda: out.send(HUB, m.Goodbye()))
    while not hub.shell.received:
        assert hub.shell.arrived.wait(10)
    assert [message for _, message, _ in hub.shell.received] == [m.Goodbye()]
    assert port.rejected == 1


def secured(hub: Side) -> tuple[ConnectionInfo, ConnectionInfo]:
    """A hub on TCP; what its clients and its engines are given."""
    public, secret = key_pair()
    client, engine = key_pair(), key_pair()
    ZapHandler(hub.reactor, {client[0]: "C", engine[0]: "EN"})
    _, endpoint = listen(hub.reactor, "tcp://127.0.0.1:*", hub.shell, secret)
    return ConnectionInfo("c", endpoint, public, *client), ConnectionInfo("c", endpoint, public, *engine)


def test_a_right_key_gets_in_over_tcp(sides):
    hub, peer = sides(), sides()
    info, _ = secured(hub)
    out = connect(peer.reactor, info, b"C" + SESSION, peer.shell)
    start(hub), start(peer)
    peer.do(lambda: out.send(HUB, HELLO))
    assert hub.shell.arrived.wait(10)
    assert hub.shell.received[0][1] == HELLO


def test_a_key_that_was_not_given_out_is_refused_and_told_at_once(sides):
    hub, peer = sides(), sides()
    info, _ = secured(hub)
    public, secret = key_pair()
    refused = threading.Event()
    stranger = replace(info, public_key=public, secret_key=secret)
    out = connect(peer.reactor, stranger, b"C" + SESSION, peer.shell, refused.set)
    start(hub), start(peer)
    peer.do(lambda: out.send(HUB, HELLO))
    assert refused.wait(10)
    assert hub.shell.received == []


def test_a_key_is_good_for_its_role_only(sides):
    hub, peer = sides(), sides()
    _, engine_info = secured(hub)
    as_client = connect(peer.reactor, engine_info, b"C" + SESSION, peer.shell)
    as_engine = connect(peer.reactor, engine_info, b"E" + SESSION, peer.shell)
    start(hub), start(peer)
    peer.do(lambda: as_client.send(HUB, HELLO))
    peer.do(lambda: as_engine.send(HUB, m.Goodbye()))
    while not hub.shell.received:
        assert hub.shell.arrived.wait(10)
    assert {who[:1] for who, _, _ in hub.shell.received} == {b"E"}


def test_without_its_authenticator_the_hub_lets_nobody_in(sides):
    hub, peer = sides(), sides()
    public, secret = key_pair()
    client = key_pair()
    _, endpoint = listen(hub.reactor, "tcp://127.0.0.1:*", hub.shell, secret)  # and no ZapHandler
    refused = threading.Event()
    out = connect(peer.reactor, ConnectionInfo("c", endpoint, public, *client), b"C" + SESSION, peer.shell, refused.set)
    start(hub), start(peer)
    peer.do(lambda: out.send(HUB, HELLO))
    assert refused.wait(10)
    assert hub.shell.received == []


def test_rubbish_on_the_port_changes_nothing(sides, tmp_path):
    hub = sides()
    port, endpoint = listen(hub.reactor, f"ipc://{tmp_path}/hub.sock", hub.shell)
    start(hub)
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as stranger:
        stranger.routing_id = b"C" + SESSION
        stranger.connect(endpoint)
        for parts in ([b""], [b"\x01"], [b"\x02" * 100], [b"\x01\xff\xff"], [b"\x01" + b"\x91" * 5000], [b"x", b"y"]):
            stranger.send_multipart(parts)
        stranger.send_multipart([encode(m.Goodbye())])
        while not hub.shell.received:
            assert hub.shell.arrived.wait(10)
    assert [message for _, message, _ in hub.shell.received] == [m.Goodbye()]
    assert port.rejected == 6
