"""What one client has under way, and how its threads wait for it.

A :class:`Session` is shared by a client, its views and its results. When the last of them is gone the link is
closed with it; results that are pending keep it alive, because the link keeps them.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parallelkit.client.link import Call, Link
from parallelkit.client.service import Sink
from parallelkit.wire.messages import TaskOptions

if TYPE_CHECKING:
    from parallelkit.client.lazymap import LazyMap
    from parallelkit.client.results import AsyncResult

log = logging.getLogger(__name__)

#: Longest a blocked thread sleeps without a look around: for Ctrl-C on every platform, and for the hub's silence.
LOOK_AROUND = 1.0
#: Calls whose task names ``Client.history`` remembers.
HISTORY = 1000


class Session:
    """One client's life: its link, the results that are pending, the numbers of its latest calls."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pending: set[AsyncResult] = set()
        #: The imaps that somebody may still read.
        self.streams: weakref.WeakSet[LazyMap] = weakref.WeakSet()
        self.history: deque[Sequence[int]] = deque(maxlen=HISTORY)
        self.closer = weakref.finalize(self, link.close)

    def send(self, calls: Sequence[Call], options: TaskOptions, sink: Sink) -> range:
        """Send calls whose results go to ``sink``; returns the numbers of their tasks, in order."""
        first = self.link.submit(calls, options, sink)
        copies = len(options.targets) if options.direct else 1
        seqs = range(first, first + len(calls) * copies)
        self.history.append(seqs)
        return seqs

    def silence(self) -> str:
        """What to tell people while the hub is silent; empty while it is heard."""
        link = self.link
        silent = link.hub_silence  # 0.0 up to two heartbeats
        return f"hub unreachable {silent:.0f} s, {link.outstanding} tasks safe here, retrying" if silent else ""

    def tell_silence(self) -> bool:
        """Log that the hub is silent, if it is."""
        silence = self.silence()
        if silence:
            log.warning(silence)
        return bool(silence)

    def wait(self, condition: threading.Condition, ready: Callable[[], Any], timeout: float | None) -> bool:
        """Wait, holding ``condition``, until ``ready()``; False after ``timeout`` seconds (None: no limit).

        Says so, once, when the hub falls silent meanwhile. Ctrl-C ends it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        told = False
        while not ready():
            patience = LOOK_AROUND if deadline is None else min(LOOK_AROUND, deadline - time.monotonic())
            if patience <= 0:
                return False
            self._sleep(condition, ready, patience)
            told = told or (not ready() and self.tell_silence())
        return True

    def _sleep(self, condition: threading.Condition, ready: Callable[[], Any], patience: float) -> None:
        """Wait so long at most, serving the connection meanwhile unless another thread does."""
        condition.release()
        try:
            served = self.link.drive(ready, patience)
        finally:
            condition.acquire()
        if not served and not ready():
            condition.wait(patience)


def patience(timeout: float | None) -> float | None:
    """The peer's convention beside the standard library's: a negative timeout has no limit either."""
    return None if timeout is None or timeout < 0 else timeout
