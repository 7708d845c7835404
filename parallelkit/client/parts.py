"""Results made of other results: one task of several, and several as one.

They send nothing and open nothing of their own; what arrives at the results they are made of, wakes them.
Locks: a source's condition may be held while theirs is taken, never the other way round.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import accumulate
from typing import Any

from parallelkit.client.arrivals import Arrival, Failure, Failures
from parallelkit.client.output import Output
from parallelkit.client.results import AsyncResult, _itself
from parallelkit.errors import RemoteErrors


class PartResult(AsyncResult):
    """Task ``index`` of a result that has several."""

    def __init__(self, source: AsyncResult, index: int) -> None:
        super().__init__(source._session, source._name, label=source.label)
        self._source = source
        self._index = index
        self._seqs = (source._seqs[index],)
        self._submitted, self._began = source._submitted, source._began
        self._output = source._output
        source._watch(partial(source._here, index), self._take)

    def _take(self) -> None:
        (seq,) = self._seqs
        arrival = self._source._arrivals[seq]
        self._arrivals[seq] = arrival
        self._failed = not arrival.ok
        self._finish()

    def _converted(self, index: int, value: Any) -> Any:
        return self._source._converted(self._index, value)

    def add_output_callback(self, callback: Callable[[Output], Any]) -> None:
        self._source._listen(callback, self._seqs)

    def remove_output_callback(self, callback: Callable[[Output], Any]) -> None:
        self._source._unlisten(callback, self._seqs)


class JoinedResult(AsyncResult):
    """All that several results are: their values, tasks and output one after the other."""

    _noun = "results"

    def __init__(self, sources: Sequence[AsyncResult]) -> None:
        sessions = {source._session for source in sources}
        if len(sessions) > 1:
            raise ValueError("only results of the same client can be joined")
        names = dict.fromkeys(source._name for source in sources)
        super().__init__(sessions.pop(), ", ".join(names), sum(map(len, sources)), single=False)
        self._sources = tuple(sources)
        #: Where each source's values begin among all.
        self._starts = list(accumulate(map(len, sources), initial=0))[:-1]
        self._submitted = min(source._submitted for source in sources)
        self._began = min(source._began for source in sources)
        self._left = len(sources)
        for source in sources:
            source._watch(self._moved, partial(self._source_done, source))

    def _moved(self) -> bool:
        """Part of a source is here, which is part of this one."""
        with self._condition:
            self._announce()
        return False

    def _source_done(self, source: AsyncResult) -> None:
        with self._condition:
            self._failed |= source._failed
            self._left -= 1
            over = not self._left
            if not over:
                self._announce()
        if over:
            self._finish()

    # ---------------------------------------------------------------------------------------------- as they are

    @property
    def progress(self) -> int:
        return sum(source.progress for source in self._sources)

    def _error(self) -> Exception | None:
        failures = Failures()
        for source in self._sources:
            error = None if source._return_exceptions else source._error()
            for one in error.exceptions if isinstance(error, RemoteErrors) else (error,):
                if one is not None:
                    failures.add(Failure(partial(_itself, one), isinstance(one, CancelledError)))
        return failures.error(self._count, self._noun)

    def _collect(self, errors: bool) -> list[Any]:
        values: list[Any] = []
        for source in self._sources:
            value = source._collect(errors or source._return_exceptions)
            values += [value] if source._single else value
        return values

    def _some_failed(self) -> bool:
        return any(source._some_failed() for source in self._sources)

    def cancel(self) -> bool:
        return sum(source.cancel() for source in self._sources) > 0

    def split(self) -> list[AsyncResult]:
        return [part for source in self._sources for part in source.split()]

    def _rows(self) -> list[tuple[int, Arrival | None]]:
        return [row for source in self._sources for row in source._rows()]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for source in self._sources:
            rows += [source.metadata] if source._single else source.metadata
        return rows

    def record(self, index: int) -> dict[str, Any]:
        return self.metadata[index]

    def _here(self, index: int) -> bool:
        source, position = self._find(index)
        return source._here(position)

    def _item(self, index: int) -> Any:
        source, position = self._find(index)
        return source._item(position)

    def _find(self, index: int) -> tuple[AsyncResult, int]:
        found = bisect.bisect(self._starts, index) - 1
        return self._sources[found], index - self._starts[found]

    def add_output_callback(self, callback: Callable[[Output], Any]) -> None:
        for source in self._sources:
            source.add_output_callback(callback)

    def remove_output_callback(self, callback: Callable[[Output], Any]) -> None:
        for source in self._sources:
            source.remove_output_callback(callback)
