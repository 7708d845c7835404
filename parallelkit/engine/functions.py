"""The functions an engine knows, by digest: the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Function:
    """One function as it travelled; ``call`` is what it became on the thread that runs user code, at its first use.

    Tasks hold on to theirs: a function may leave the cache while some still wait to run it.
    """

    data: bytes
    call: Callable[..., Any] | None = None


class FunctionCache:
    """Bounded by number and by bytes. Belongs to the loop's thread."""

    def __init__(self, max_count: int = 1000, max_bytes: int = 256 << 20) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._functions: OrderedDict[bytes, Function] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._functions)

    def get(self, digest: bytes) -> Function | None:
        function = self._functions.get(digest)
        if function is not None:
            self._functions.move_to_end(digest)
        return function

    def add(self, digest: bytes, data: bytes) -> Function:
        """Keep it, and let go of those unused for longest; the newest always stays."""
        known = self.get(digest)
        if known is not None:
            return known
        function = self._functions[digest] = Function(data)
        self.bytes += len(data)
        while len(self._functions) > 1 and (len(self._functions) > self._max_count or self.bytes > self._max_bytes):
            self.bytes -= len(self._functions.popitem(last=False)[1].data)
        return function
