"""Functions at the hub: opaque bytes by digest, bounded, and which engine has been sent which."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

#: Bytes kept; the least recently used go first. A task whose function went is helped by asking its client.
CAPACITY = 256 << 20
#: Digests remembered for one engine; an engine that needs one once more asks.
KNOWN_PER_ENGINE = 1024


class FunctionCache:
    """Functions travel once: from a client to here, and from here to each engine that runs them."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._size = 0
        self._data: OrderedDict[bytes, bytes] = OrderedDict()
        self._known: dict[bytes, OrderedDict[bytes, None]] = {}
        self._wanted: dict[bytes, set[bytes]] = {}

    def add(self, functions: dict[bytes, bytes]) -> dict[bytes, dict[bytes, bytes]]:
        """Keep these; returns what can now be sent to the engines that asked for them."""
        answers: dict[bytes, dict[bytes, bytes]] = {}
        for digest, data in functions.items():
            if digest not in self._data:
                self._size += len(data)
            self._data[digest] = data
            self._data.move_to_end(digest)
            for engine in self._wanted.pop(digest, ()):
                answers.setdefault(engine, {})[digest] = data
        while self._size > self._capacity and len(self._data) > 1:
            self._size -= len(self._data.popitem(last=False)[1])
        return answers

    def for_engine(self, engine: bytes, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of ``digests`` that this engine has not been sent and that are here."""
        known = self._known.setdefault(engine, OrderedDict())
        fresh: dict[bytes, bytes] = {}
        for digest in digests:
            if digest in known:
                known.move_to_end(digest)
                continue
            data = self._data.get(digest)
            if data is not None:
                self._data.move_to_end(digest)
                fresh[digest] = data
                known[digest] = None
        while len(known) > KNOWN_PER_ENGINE:
            known.popitem(last=False)
        return fresh

    def ask(self, engine: bytes, digests: Iterable[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """An engine lacks these: (what is here, what a client must be asked for)."""
        known = self._known.get(engine, OrderedDict())
        here: dict[bytes, bytes] = {}
        missing: list[bytes] = []
        for digest in digests:
            known.pop(digest, None)
            if digest in self._data:
                here[digest] = self._data[digest]
            else:
                missing.append(digest)
                self._wanted.setdefault(digest, set()).add(engine)
        return here, missing

    def forget_engine(self, engine: bytes) -> None:
        self._known.pop(engine, None)
        for engines in self._wanted.values():
            engines.discard(engine)
