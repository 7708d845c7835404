"""Who may connect: the ZAP handler of the hub. Default deny.

libzmq asks it for every CURVE handshake. It runs on the hub's own reactor: it cannot die while the hub lives, and
with ``ZAP_ENFORCE_DOMAIN`` a hub without it refuses everyone. The answer's user id is the role that the key was
given out for; ``RouterPort`` holds every message against it.

Source: RFC 27/ZAP, RFC 26/CurveZMQ (rfc.zeromq.org).
"""

from __future__ import annotations

import logging

import zmq
from zmq.utils import z85

from parallelkit.transport.reactor import Reactor

log = logging.getLogger(__name__)

DOMAIN = b"parallelkit"
ENDPOINT = "inproc://zeromq.zap.01"


def key_pair() -> tuple[str, str]:
    """A new CURVE key pair, (public, secret) as Z85 text."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class ZapHandler:
    """Admits the keys in ``roles`` (Z85 text → role letters) and nobody else."""

    def __init__(self, reactor: Reactor, roles: dict[str, str]) -> None:
        self.roles = roles
        self.refused = 0
        self._socket: zmq.Socket[bytes] = reactor.context.socket(zmq.REP)
        self._socket.bind(ENDPOINT)
        reactor.add_socket(self._socket, self._readable)

    def _readable(self) -> None:
        request = self._socket.recv_multipart()
        version, number = request[0], request[1]
        role = self._role(request)
        if role is None:
            self.refused += 1
            if self.refused <= 100:
                log.warning("a peer with an unknown key was refused")
            answer = [b"400", b"unknown key", b"", b""]
        else:
            answer = [b"200", b"OK", role.encode(), b""]
        self._socket.send_multipart([version, number, *answer])

    def _role(self, request: list[bytes]) -> str | None:
        if len(request) != 7 or request[2] != DOMAIN or request[5] != b"CURVE" or len(request[6]) != 32:
            return None
        return self.roles.get(z85.encode(request[6]).decode())
