"""A network in memory with a clock of its own: the same shells, no process, no socket, no waiting.

Messages go through the real codec, arrive in the order in which they were sent, and may be lost, doubled or held
back by a ``fate`` function; with a seeded one a test is a universe that can be replayed.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from parallelkit.transport.base import HUB, Shell
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer, Decoder, encode

Callback = Callable[[], Any]

#: Seconds that a message travels when no fate says otherwise.
LATENCY = 0.001

#: (source, destination, message) → delays after which it arrives: () loses it, two double it.
Fate = Callable[[bytes, bytes, m.Message], Sequence[float]]

_DECODERS = {
    b"": Decoder(m.FROM_HUB),
    m.ROLE_CLIENT: Decoder(m.FROM_CLIENT),
    m.ROLE_ENGINE: Decoder(m.FROM_ENGINE),
    m.ROLE_NODE: Decoder(m.FROM_NODE),
}


class LoopbackNetwork:
    """All peers of one test, and the clock they share."""

    def __init__(self, fate: Fate | None = None) -> None:
        self.now = 0.0
        self.fate: Fate = fate or (lambda source, destination, message: (LATENCY,))
        #: The last messages that arrived, as (when, source, destination, message).
        self.trace: deque[tuple[float, bytes, bytes, m.Message]] = deque(maxlen=10_000)
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callback]] = []
        self._peers: dict[bytes, LoopbackPeer] = {}
        self._arrival: dict[tuple[bytes, bytes], float] = {}

    def join(self, identity: bytes) -> LoopbackPeer:
        """A new peer under this identity (``HUB`` for the hub), in place of whoever was."""
        peer = self._peers[identity] = LoopbackPeer(self, identity)
        return peer

    def leave(self, peer: LoopbackPeer) -> None:
        if self._peers.get(peer.identity) is peer:
            del self._peers[peer.identity]

    def advance(self, seconds: float) -> None:
        """Let that much time pass, and all happen that falls due in it."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self._step()
        self.now = end

    def advance_until(self, condition: Callable[[], bool], limit: float = 60.0) -> None:
        """Let time pass until ``condition`` holds.

        Raises:
            TimeoutError: it does not hold after ``limit`` seconds of virtual time.
        """
        end = self.now + limit
        while not condition():
            if not self._due or self._due[0][0] > end:
                raise TimeoutError(f"not reached within {limit:g} virtual seconds")
            self._step()

    def schedule(self, when: float, callback: Callback) -> None:
        heapq.heappush(self._due, (max(when, self.now), next(self._order), callback))

    def carry(self, source: bytes, destination: bytes, message: m.Message, frames: Sequence[Buffer]) -> bool:
        if destination not in self._peers:
            return (
                destination == HUB
            )  # who has no connection keeps messages to the hub for the next one; these are lost
        header = encode(message)
        copies = [bytes(memoryview(frame).cast("B")) for frame in frames]
        for delay in self.fate(source, destination, message):
            # A connection never reorders: what was sent later arrives later, however lucky its delay.
            when = max(self.now + delay, self._arrival.get((source, destination), 0.0))
            self._arrival[source, destination] = when
            self.schedule(when, lambda: self._arrive(source, destination, header, copies))
        return True

    def _step(self) -> None:
        self.now, _, callback = heapq.heappop(self._due)
        callback()

    def _arrive(self, source: bytes, destination: bytes, header: bytes, frames: list[bytes]) -> None:
        peer = self._peers.get(destination)
        if peer is not None and peer.shell is not None:
            message = _DECODERS[source[:1]].decode(header)
            self.trace.append((self.now, source, destination, message))
            peer.shell.receive(source, message, frames)
            peer.shell.flush()


class LoopbackPeer:
    """One life of one peer: its ``Loop`` and its ``Port``. Once dead, its timers are silent and it sends nothing."""

    def __init__(self, network: LoopbackNetwork, identity: bytes) -> None:
        self._network = network
        self.identity = identity
        self.shell: Shell | None = None
        self.alive = True

    def die(self) -> None:
        """As by SIGKILL: what is on its way to it is lost."""
        self.alive = False
        self._network.leave(self)

    def now(self) -> float:
        return self._network.now

    def call_at(self, when: float, callback: Callback) -> None:
        self._network.schedule(when, lambda: callback() if self.alive else None)

    def call_soon(self, callback: Callback) -> None:
        self.call_at(self._network.now, callback)

    def call_lazily(self, callback: Callback) -> None:
        self.call_soon(callback)

    def stop(self) -> None:
        self.die()

    def send(self, peer: bytes, message: m.Message, frames: Sequence[Buffer] = ()) -> bool:
        return self.alive and self._network.carry(self.identity, peer, message, frames)
