"""Multipart layout: messages ↔ lists of frames. Everything a peer sent is checked here before anyone sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from parallelkit.errors import LocalProtocolError, RemoteProtocolError
from parallelkit.wire import messages as m

#: What a frame may be on this side: anything with the buffer protocol.
Buffer: TypeAlias = Any

#: First byte of every header. A peer of another protocol is told so instead of being misread.
VERSION = bytes([m.PROTOCOL])
#: A header carries a whole batch with its small payloads and functions; this bounds what a peer can make us parse.
MAX_HEADER = 256 << 20
#: A payload up to this size travels inside its record, a larger one as the first of the record's frames.
INLINE = 16 << 10

_encoder = msgspec.msgpack.Encoder()


class Decoder:
    """Turns headers of one direction into messages, strictly: unknown tags and wrong types are refused."""

    def __init__(self, allowed: tuple[type[m.Message], ...]) -> None:
        union: Any = allowed[0]
        for kind in allowed[1:]:
            union = union | kind
        self._decoder: msgspec.msgpack.Decoder[m.Message] = msgspec.msgpack.Decoder(union)

    def decode(self, header: Buffer) -> m.Message:
        """The message of this header.

        Raises:
            RemoteProtocolError: it is too long, of another protocol version, of a kind that this peer may not
                send, or malformed.
        """
        view = memoryview(header)
        if len(view) > MAX_HEADER:
            raise RemoteProtocolError(f"header of {len(view)} bytes, at most {MAX_HEADER} are allowed")
        if view[:1] != VERSION:
            raise RemoteProtocolError(f"header of protocol {bytes(view[:1])!r}, this side speaks {m.PROTOCOL}")
        try:
            return self._decoder.decode(view[1:])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"malformed header: {error}") from error


def encode(message: m.Message) -> bytes:
    """The header of ``message``.

    Raises:
        LocalProtocolError: it would be longer than a peer accepts.
    """
    header = VERSION + _encoder.encode(message)
    if len(header) > MAX_HEADER:
        raise LocalProtocolError(f"header of {len(header)} bytes, at most {MAX_HEADER} can be sent")
    return header


def take(frames: Sequence[Buffer], counts: Sequence[int]) -> list[Sequence[Buffer]]:
    """Split ``frames`` into consecutive runs of the given lengths.

    Raises:
        RemoteProtocolError: the counts do not add up to the frames there are.
    """
    if any(count < 0 for count in counts) or sum(counts) != len(frames):
        raise RemoteProtocolError(f"{len(frames)} frames, the records speak of {sum(counts)}")
    runs, position = [], 0
    for count in counts:
        runs.append(frames[position : position + count])
        position += count
    return runs


def pack(data: bytes, buffers: Sequence[Buffer]) -> tuple[bytes, list[Buffer]]:
    """A payload as (what goes into the record, the record's frames)."""
    if len(data) <= INLINE:
        return data, list(buffers)
    return b"", [data, *buffers]


def unpack(payload: bytes, frames: Sequence[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
    """What :func:`pack` was given: (data, buffers)."""
    if payload or not frames:
        return payload, frames
    return frames[0], frames[1:]


def to_ranges(numbers: Sequence[int]) -> list[m.Range]:
    """Ascending numbers as half-open ranges."""
    ranges: list[m.Range] = []
    start = stop = -1
    for number in numbers:
        if number == stop:
            stop += 1
            continue
        if stop >= 0:
            ranges.append((start, stop))
        start, stop = number, number + 1
    if stop >= 0:
        ranges.append((start, stop))
    return ranges
