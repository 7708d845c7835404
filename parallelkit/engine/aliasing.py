"""Whether somebody else still holds the memory of a result.

A result's large buffers are the very memory of the object that a task returned, and they stay in the outbox until
they are acknowledged. Should the object live on here (a global, a cache, a thread), the next task may change it and
with it what is sent. Then, and only then, the buffer is copied: copying everything would cost large results a
second, cold, allocation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from parallelkit.wire.frames import Buffer


def settle(buffers: list[Buffer], frames: Sequence[Buffer] = ()) -> list[Buffer]:
    """The buffers, copied where user code could still change them. The object itself must be gone already.

    ``frames`` are those of the task's arguments: a result may use their memory, which user code sees only through
    the arguments.
    """
    return [buffer if _is_private(buffer, frames, _ALONE) else bytes(buffer) for buffer in buffers]


def _is_private(buffer: Buffer, frames: Sequence[Buffer], alone: int) -> bool:
    """Whether each object between ``buffer`` and its memory is referred to only by the one before it."""
    if type(buffer) is not memoryview:
        return False
    owner: Any = buffer.obj
    while not any(owner is frame for frame in frames):
        if type(owner) is bytes:
            return True  # never changes, whoever holds it
        if sys.getrefcount(owner) > alone:
            return False
        kind = type(owner)
        if kind is memoryview:
            owner = owner.obj
        elif kind is bytearray:
            return True
        elif kind.__name__ == "ndarray" and kind.__module__ == "numpy":  # not imported here: it may not be installed
            if owner.base is None:
                return True
            owner = owner.base
        else:
            return False
    return True


def _count_when_alone() -> int:
    """What ``getrefcount`` says above of an object that nobody else holds; depends on the version of Python."""
    return next(count for count in range(1, 10) if _is_private(memoryview(bytearray(1)), (), count))


_ALONE = _count_when_alone()
