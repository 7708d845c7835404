"""The sockets of the two sides: the hub's one ROUTER, everybody else's one DEALER.

Over TCP both speak CURVE, always: the hub admits the keys it gave out (``zap.py``) and takes each message's role
from the key, not from what the peer says of itself. A unix socket is guarded by the mode of its folder.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from parallelkit.errors import LaunchError, RemoteProtocolError
from parallelkit.transport.base import Shell
from parallelkit.transport.connection import ConnectionInfo
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.zap import DOMAIN
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer, Decoder, encode

log = logging.getLogger(__name__)

#: Messages in a pipe before sends are kept here instead. Messages are batches, so this is generous.
HIGH_WATER = 10_000
#: Messages handled before what they caused is sent: bounds the delay of the first of a burst.
DRAIN = 256
#: Time between two tries to send what a full pipe refused.
RETRY = 0.005
#: At most this many complaints about malformed messages reach the log; the rest is counted.
MAX_COMPLAINTS = 100


_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # as numbers: enums are slow to combine


def _tune(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 6000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


def _arrived(socket: zmq.Socket[bytes]) -> Iterator[list[zmq.Frame]]:
    """The messages that are here, as frames that are never copied; at most ``DRAIN`` of them.

    Called when there is at least one. For more it asks first: "nothing there" as an exception costs more, and at every
    hop of every task.
    """
    for _ in range(DRAIN):
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        frames = [frame]
        while frame.more:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame)
        yield frames
        if not int(socket.get(_EVENTS)) & _POLLIN:
            return


class _Sender:
    """Sends without blocking; what a full pipe refuses waits here, in order, for each peer."""

    def __init__(self, reactor: Reactor, socket: zmq.Socket[bytes]) -> None:
        self._reactor = reactor
        self._socket = socket
        self._waiting: dict[bytes, deque[list[Any]]] = {}
        self._retrying = False

    def send(self, peer: bytes, parts: list[Any]) -> bool:
        if peer in self._waiting:
            self._waiting[peer].append(parts)
            return True
        try:
            return self._now(parts)
        except zmq.Again:
            self._waiting[peer] = deque([parts])
            self._retry_later()
            return True

    def _now(self, parts: list[Any]) -> bool:
        try:
            # Small parts are copied by pyzmq whatever we say; large ones are handed over as they are.
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=len(parts) < 3)
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise
        return True

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._reactor.call_at(self._reactor.now() + RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        for peer, queue in list(self._waiting.items()):
            try:
                while queue:
                    self._now(queue[0])
                    queue.popleft()
            except zmq.Again:
                self._retry_later()
            else:
                del self._waiting[peer]


class DealerPort:
    """The way from a client, an engine or a node to its hub; implements ``Port``."""

    def __init__(self, reactor: Reactor, socket: zmq.Socket[bytes], shell: Shell) -> None:
        self._reactor = reactor
        self._socket = socket
        self._shell = shell
        self._decoder = Decoder(m.FROM_HUB)
        self._sender = _Sender(reactor, socket)
        self.rejected = 0
        reactor.add_socket(socket, self._readable)

    def send(self, peer: bytes, message: m.Message, frames: Sequence[Buffer] = ()) -> bool:
        return self._sender.send(peer, [encode(message), *frames])

    def _readable(self) -> None:
        for parts in _arrived(self._socket):
            try:
                message = self._decoder.decode(parts[0].buffer)
            except RemoteProtocolError as error:
                self.rejected += 1
                log.warning("message from the hub dropped: %s", error)
                continue
            self._shell.receive(b"", message, parts[1:])
        self._shell.flush()


class RouterPort:
    """The hub's one port; implements ``Port``. A peer's id is its role letter and 16 bytes."""

    def __init__(self, reactor: Reactor, socket: zmq.Socket[bytes], shell: Shell, authenticated: bool) -> None:
        self._socket = socket
        self._shell = shell
        self._authenticated = authenticated
        self._decoders = {
            m.ROLE_CLIENT: Decoder(m.FROM_CLIENT),
            m.ROLE_ENGINE: Decoder(m.FROM_ENGINE),
            m.ROLE_NODE: Decoder(m.FROM_NODE),
        }
        self._sender = _Sender(reactor, socket)
        self.rejected = 0
        reactor.add_socket(socket, self._readable)

    def send(self, peer: bytes, message: m.Message, frames: Sequence[Buffer] = ()) -> bool:
        return self._sender.send(peer, [peer, encode(message), *frames])

    def _readable(self) -> None:
        for parts in _arrived(self._socket):
            try:
                peer, message = self._open(parts)
            except RemoteProtocolError as error:
                self._complain(error)
                continue
            self._shell.receive(peer, message, parts[2:])
        self._shell.flush()

    def _open(self, parts: list[zmq.Frame]) -> tuple[bytes, m.Message]:
        if len(parts) < 2:
            raise RemoteProtocolError("a message without a header")
        peer = parts[0].bytes
        role = peer[:1]
        if len(peer) != 17 or role not in self._decoders:
            raise RemoteProtocolError("a peer without a role")
        if self._authenticated and role.decode() not in str(parts[1].get("User-Id")):
            raise RemoteProtocolError("a peer whose key is not for the role it claims")
        return peer, self._decoders[role].decode(parts[1].buffer)

    def _complain(self, error: RemoteProtocolError) -> None:
        self.rejected += 1
        if self.rejected <= MAX_COMPLAINTS:
            log.warning("message dropped: %s", error)


def connect(
    reactor: Reactor,
    info: ConnectionInfo,
    identity: bytes,
    shell: Shell,
    on_auth_failure: Callable[[], None] | None = None,
) -> DealerPort:
    """Connect to the hub under ``identity``; messages that it sends reach ``shell``. Returns at once."""
    socket: zmq.Socket[bytes] = reactor.context.socket(zmq.DEALER)
    _tune(socket)
    socket.setsockopt(zmq.ROUTING_ID, identity)
    if info.server_key:
        socket.curve_serverkey = info.server_key.encode()
        socket.curve_publickey = info.public_key.encode()
        socket.curve_secretkey = info.secret_key.encode()
        if on_auth_failure is not None:
            _watch_handshake(reactor, socket, on_auth_failure)
    port = DealerPort(reactor, socket, shell)
    socket.connect(info.endpoint)
    return port


def _watch_handshake(reactor: Reactor, socket: zmq.Socket[bytes], on_auth_failure: Callable[[], None]) -> None:
    """libzmq retries a refused key for ever and says nothing; its monitor does."""
    failures = (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    monitor = socket.get_monitor_socket(failures)

    def readable() -> None:
        recv_monitor_message(monitor)
        on_auth_failure()

    reactor.add_socket(monitor, readable)


def listen(reactor: Reactor, endpoint: str, shell: Shell, secret_key: str = "") -> tuple[RouterPort, str]:
    """Bind the hub's port; returns it and the endpoint with the port number that was free.

    With ``secret_key`` (TCP) only keys admitted by the ZAP handler get in; the handler must be there already.

    Raises:
        LaunchError: the address is taken, or is none of this machine's.
    """
    socket: zmq.Socket[bytes] = reactor.context.socket(zmq.ROUTER)
    _tune(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # A peer that lost its connection comes back under the same id; ids are bound to roles by the key.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if secret_key:
        socket.curve_server = True
        socket.curve_secretkey = secret_key.encode()
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # else libzmq lets everyone in when no handler answers
    port = RouterPort(reactor, socket, shell, authenticated=bool(secret_key))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise LaunchError(f"the hub cannot listen at {endpoint}: {error.strerror}") from error
    return port, socket.getsockopt_string(zmq.LAST_ENDPOINT)
