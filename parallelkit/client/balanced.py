"""``LoadBalancedView``: each task goes to whichever engine is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from parallelkit.client.lazymap import LazyMap
from parallelkit.client.link import Call
from parallelkit.client.mapping import AsyncMapResult, FedMapResult, freeze
from parallelkit.client.pieces import Work
from parallelkit.client.results import AsyncResult
from parallelkit.client.targets import resolve
from parallelkit.client.view import Flags, View, function_of, mapped, name_of
from parallelkit.core.chunking import Chunker, Chunks, FixedChunks
from parallelkit.wire.messages import TaskOptions


class LoadBalancedView(View):
    """Sends tasks to any engine, or to any of ``targets``. With no engine there yet they wait at the hub."""

    __slots__ = ()

    def _send(self, call: Call, name: str) -> AsyncResult:
        flags = self.flags
        if flags.after is not None or flags.follow is not None:
            return self._send_needing(lambda: call, name, flags, self._balanced(flags), label=flags.label)
        result = AsyncResult(self._session, name, label=flags.label)
        result.send((call,), self._balanced(flags))
        return result

    def _shape(self, flags: Flags) -> tuple[TaskOptions, dict[str, Any]]:
        return self._balanced(flags), {"label": flags.label}

    def map_async(
        self,
        f: Any,
        /,
        *sequences: Iterable[Any],
        chunksize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        track: bool = False,
    ) -> AsyncMapResult:
        """``f`` of each item of the sequences, which end with the shortest as in the builtin ``map``.

        Items travel in chunks that adapt to how long they take; ``chunksize`` sets their size instead. With the
        flags ``timeout`` or ``retries`` each item is a task of its own, because these hold for one item.
        ``ordered=False`` lets the result iterate as items arrive; ``return_exceptions`` puts the exceptions of
        failed items in the place of their values.

        Raises:
            SerializationError: the function or one of the first items cannot be sent. A later item that cannot
                ends the map with this error.
        """
        flags = self.flags
        fixed = self._chunksize(chunksize, flags)
        items, star = freeze(mapped(f, sequences))
        options = self._balanced(flags, label)
        engines = self._counter(options)
        chunks: Chunks = (
            Chunker(len(items), engines(), self._target())
            if fixed is None
            else FixedChunks(len(items), engines(), fixed)
        )
        result = FedMapResult(
            self._session,
            name_of(f),
            Work(function_of(f), star, self._map_needs(flags)),
            items,
            chunks,
            engines,
            options,
            ordered=ordered,
            return_exceptions=return_exceptions,
            label=flags.label if label is None else label,
        )
        result.feed()
        return result

    def imap(
        self,
        f: Any,
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        max_outstanding: int | Literal["auto"] = "auto",
        return_exceptions: bool = False,
        chunksize: int | None = None,
        label: str | None = None,
    ) -> LazyMap:
        """An iterator over ``f`` of each item, which reads the sequences only as far ahead as it needs to.

        They may be endless. ``max_outstanding`` is how many items may be ahead of what has been taken: 'auto' as
        many as keep the engines busy, 0 all there are. The iterator's ``cancel()`` ends it early.
        """
        flags = self.flags
        if max_outstanding != "auto" and max_outstanding < 0:
            raise ValueError(f"max_outstanding={max_outstanding!r}: 'auto', 0 for all, or a number")
        sources = mapped(f, sequences)
        star = len(sources) > 1
        options = self._balanced(flags, label)
        return LazyMap(
            self._session,
            name_of(f),
            Work(function_of(f), star, self._map_needs(flags)),
            zip(*sources, strict=False) if star else sources[0],
            self._counter(options),
            options,
            ordered=ordered,
            max_outstanding=max_outstanding,
            chunksize=self._chunksize(chunksize, flags),
            return_exceptions=return_exceptions,
            target=self._target(),
        )

    def imap_unordered(self, f: Any, /, *sequences: Iterable[Any], **how: Any) -> LazyMap:
        """:meth:`imap` with ``ordered=False``."""
        return self.imap(f, *sequences, ordered=False, **how)

    def __len__(self) -> int:
        return self._counter(self._balanced(self.flags))()

    def _where(self) -> str:
        targets = self.flags.targets
        return "any engine" if targets in (None, "all") else f"any of {targets!r}"

    def _balanced(self, flags: Flags, label: str | None = None) -> TaskOptions:
        known, options = self._options
        if known is flags and label is None:
            return options
        everywhere = flags.targets is None or (isinstance(flags.targets, str) and flags.targets == "all")
        targets = () if everywhere else resolve(flags.targets, self.client.ids)
        options = self._task_options(flags, targets, False, label)
        if label is None:
            self._options = (flags, options)
        return options

    def _places(self) -> list[TaskOptions]:
        return [self._balanced(self.flags)] * max(1, len(self))

    @staticmethod
    def _chunksize(wanted: int | None, flags: Flags) -> int | None:
        if wanted is not None and wanted < 1:
            raise ValueError(f"chunksize={wanted!r}: at least 1, or None to let it adapt")
        return 1 if flags.timeout is not None or flags.retries else wanted

    def _counter(self, options: TaskOptions) -> Callable[[], int]:
        """Counts the engines that such tasks may run on; holds no view and no thread's flags."""
        link, targets = self._session.link, options.targets
        return lambda: len(targets) or len(link.engines)

    def _target(self) -> float:
        return float(self._session.link.limits.get("chunk", 0.02))
