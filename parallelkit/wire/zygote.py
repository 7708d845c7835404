"""Messages between a node and its zygote, the process that forks engines; each is one packet on a socket pair.

From node to zygote: :class:`Fork`, :class:`Deliver`. From zygote to node: :class:`Ready`, :class:`Forked`,
:class:`Exited`. The end of the connection ends the zygote and all its engines.
"""

from __future__ import annotations

import msgspec

#: Longest packet. Paths are what they carry.
MAX_PACKET = 64 << 10


class Packet(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of everything that can be a packet."""


class Fork(Packet, frozen=True, tag=1):
    """Start an engine process. Answered with :class:`Forked`, or with :class:`Exited` when that failed."""

    incarnation: bytes
    engine_id: int  # the id it shall ask the hub for; -1: any
    connection: str  # path of the connection file
    node: bytes  # routing id of the node
    log: str  # path of the engine's log


class Deliver(Packet, frozen=True, tag=2):
    """Send a signal to an engine process; SIGKILL also reaches whatever it started in its process group."""

    pid: int
    signal: int


class Ready(Packet, frozen=True, tag=3):
    """All is imported: forks are fast from now on."""

    pid: int


class Forked(Packet, frozen=True, tag=4):
    incarnation: bytes
    pid: int


class Exited(Packet, frozen=True, tag=5):
    """An engine process has ended and is reaped. ``signal`` is 0 for an exit; ``pid`` 0 for a fork that failed."""

    incarnation: bytes
    pid: int
    exit_code: int
    signal: int
    peak_memory: int  # bytes


_encoder = msgspec.msgpack.Encoder()
_from_node: msgspec.msgpack.Decoder[Fork | Deliver] = msgspec.msgpack.Decoder(Fork | Deliver)
_from_zygote: msgspec.msgpack.Decoder[Ready | Forked | Exited] = msgspec.msgpack.Decoder(Ready | Forked | Exited)


def encode(packet: Packet) -> bytes:
    return _encoder.encode(packet)


def decode_from_node(data: bytes) -> Fork | Deliver:
    return _from_node.decode(data)


def decode_from_zygote(data: bytes) -> Ready | Forked | Exited:
    return _from_zygote.decode(data)
