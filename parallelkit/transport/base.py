"""What the shells see of the outside: a port to send through and a clock to wait by.

Two implementations: ``sockets.py`` with ``reactor.py`` (real sockets, one thread) and ``loopback.py`` (in memory,
virtual time). Everything here is called on the one thread that runs the loop, except where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from parallelkit.wire.frames import Buffer
from parallelkit.wire.messages import Message

#: The peer id under which clients, engines and nodes address the hub.
HUB = b""


class Port(Protocol):
    """The way out of a shell."""

    def send(self, peer: bytes, message: Message, frames: Sequence[Buffer] = ()) -> bool:
        """Send one message; never blocks. False: that peer is not connected, nothing was sent."""
        ...


class Loop(Protocol):
    """Time, and the way in for other threads."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def call_at(self, when: float, callback: Callable[[], Any]) -> None:
        """Call back once, at ``when`` or soon after it."""
        ...

    def call_soon(self, callback: Callable[[], Any]) -> None:
        """Call back on the loop's thread as soon as it can. Any thread."""
        ...

    def call_lazily(self, callback: Callable[[], Any]) -> None:
        """As ``call_soon``, but for a thread that will serve the loop itself, soon. Any thread."""
        ...

    def stop(self) -> None:
        """Return from the loop after the callback that runs now."""
        ...


class DrivenLoop(Loop, Protocol):
    """A loop that a thread can serve while it waits."""

    def drive(self, done: Callable[[], Any], timeout: float) -> bool:
        """Serve until ``done()``, at most ``timeout`` seconds. False, at once, if another thread does already."""
        ...

    def serve(self) -> None:
        """Serve what there is, without waiting."""
        ...


class Shell(Protocol):
    """What a loop drives: the hub's, an engine's, a node's or a client's service."""

    def receive(self, peer: bytes, message: Message, frames: Sequence[Buffer]) -> None:
        """One message has arrived. Called for each of a batch before :meth:`flush`."""
        ...

    def flush(self) -> None:
        """All that had arrived has been handed over: send what has gathered."""
        ...
