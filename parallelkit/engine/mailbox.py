"""From the threads that run user code to the loop's thread: results and output, in the order in which they happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parallelkit.transport.base import Loop
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer


class Letter(NamedTuple):
    """One record of a session, with the frames that belong to it."""

    session: bytes
    record: m.ResultRecord | m.OutputRecord
    frames: Sequence[Buffer] = ()


class Mailbox:
    """A queue that wakes the loop once for each burst, not once for each letter.

    :meth:`post` may be called by any thread. ``deliver`` is called on the loop's thread with all that has gathered.
    """

    def __init__(self, loop: Loop, deliver: Callable[[list[Letter]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._letters: deque[Letter] = deque()
        self._announced = False

    def post(self, letter: Letter) -> None:
        self._letters.append(letter)
        if not self._announced:
            self._announced = True
            self._loop.call_lazily(self.collect)

    def collect(self) -> None:
        """Deliver what has been posted so far. The loop's thread."""
        # The flag falls before the letters are read: whoever posts after this point announces it again.
        self._announced = False
        letters = []
        while self._letters:
            letters.append(self._letters.popleft())
        if letters:
            self._deliver(letters)
