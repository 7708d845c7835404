"""``Pool``: the look-alike of ``multiprocessing.Pool``, for programs that were written for that.

Threads: what a result is made of is opened, and the callbacks of users are called, on the thread for callbacks; only
then is the result ready, as there.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import CLOSE, RUN, TERMINATE, RemoteTraceback  # type: ignore[attr-defined]  # typeshed lacks the last
from types import TracebackType
from typing import Any, Self

from parallelkit.client.client import Client
from parallelkit.client.executor import TaskFuture, ViewExecutor, call_each
from parallelkit.errors import SerializationError
from parallelkit.interop.executor import Executor

Callback = Callable[[Any], object]

#: Chunks of an imap, per worker, that are read ahead of what has been taken.
AHEAD = 8
#: Chunks of a map for each worker, as in the standard library.
CHUNKS = 4


class Pool:
    """Runs functions on the engines of ``client``; without one on those of the running cluster, or a new one.

    ``processes`` is how many tasks may run at a time; None: as many as there are engines. ``maxtasksperchild`` is
    taken and has no effect: engines stay. Where this differs: functions need not be importable, ``imap`` reads its
    iterable only as far ahead as it needs to, and ``terminate`` ends with an error what would be pending for ever.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        *,
        client: Client | None = None,
    ) -> None:
        self._state = TERMINATE  # should the rest fail
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._executor: ViewExecutor = Executor(processes, initializer, tuple(initargs), client=client)
        self._processes = self._executor._max_workers
        #: Of imaps that have not been read to their end: ``join`` has still to send what they lack.
        self._streams: set[PoolIterator] = set()
        self._state = RUN

    @property
    def _pool(self) -> Sequence[int]:
        """Programs ask it for its length."""
        return range(self._processes)

    # ---------------------------------------------------------------------------------------------------- calls

    def apply(self, func: Any, args: Iterable[Any] = (), kwds: dict[str, Any] | None = None) -> Any:
        """``func(*args, **kwds)``."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Any,
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """:meth:`apply` that goes on at once."""
        self._check_running()
        future = self._executor.submit(func, *args, **(kwds or {}))
        return PoolResult([future], _only, callback, error_callback)

    def map(self, func: Any, iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """The list of ``func`` of each item."""
        values: list[Any] = self.map_async(func, iterable, chunksize).get()
        return values

    def map_async(
        self,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """:meth:`map` that goes on at once."""
        self._check_running()
        return self._map(func, [(item,) for item in iterable], chunksize, callback, error_callback)

    def starmap(self, func: Any, iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[Any]:
        """The list of ``func(*item)`` of each item."""
        values: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return values

    def starmap_async(
        self,
        func: Any,
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """:meth:`starmap` that goes on at once."""
        self._check_running()
        return self._map(func, [tuple(item) for item in iterable], chunksize, callback, error_callback)

    def _map(
        self,
        func: Any,
        items: list[tuple[Any, ...]],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> PoolResult:
        size = -(-len(items) // (CHUNKS * self._processes)) if chunksize is None else chunksize
        chunks = [items[start : start + size] for start in range(0, len(items), max(1, size))]
        futures = [self._executor.submit(call_each, func, chunk) for chunk in chunks]
        return PoolResult(futures, _concatenated, callback, error_callback)

    def imap(self, func: Any, iterable: Iterable[Any], chunksize: int = 1) -> PoolIterator:
        """An iterator over ``func`` of each item, in order; its ``next(timeout)`` takes seconds."""
        return self._stream(OrderedIterator, func, iterable, chunksize)

    def imap_unordered(self, func: Any, iterable: Iterable[Any], chunksize: int = 1) -> PoolIterator:
        """:meth:`imap`, in the order in which results arrive."""
        return self._stream(UnorderedIterator, func, iterable, chunksize)

    def _stream(self, kind: type[PoolIterator], func: Any, iterable: Iterable[Any], chunksize: int) -> PoolIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        submit = partial(self._executor.submit, call_each, func)
        stream = kind(submit, iter(iterable), chunksize, AHEAD * self._processes, self._streams.discard)
        self._streams.add(stream)
        stream.feed()
        return stream

    # ------------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Take no more work."""
        if self._state == RUN:
            self._state = CLOSE

    def terminate(self) -> None:
        """Take no more work, drop what waits, interrupt what runs."""
        self._state = TERMINATE
        self._streams.clear()
        self._executor.abort()

    def join(self) -> None:
        """Wait until all work has ended.

        Raises:
            ValueError: neither ``close`` nor ``terminate`` was called.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        for stream in list(self._streams):
            stream.feed_all()
        self._executor.shutdown()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def __del__(self) -> None:
        if self._state == RUN:
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} state={self._state} pool_size={self._processes}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class PoolResult:
    """What the ``_async`` methods return, as ``multiprocessing.pool.AsyncResult``."""

    def __init__(
        self,
        futures: list[TaskFuture],
        join: Callable[[list[Any]], Any],
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._futures = futures
        self._join = join
        self._callbacks = (callback, error_callback)
        self._missing = len(futures)
        self._value: Any = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        if not futures:
            self._value = join([])
            self._ended.set()
        for future in list(futures):
            future.add_done_callback(self._arrived)

    def get(self, timeout: float | None = None) -> Any:
        """The value, waiting up to ``timeout`` seconds.

        Raises:
            multiprocessing.TimeoutError: it is not here.
        """
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeoutError
        if self._failure is not None:
            raise self._failure
        return self._value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is ready, up to ``timeout`` seconds."""
        self._ended.wait(timeout)

    def ready(self) -> bool:
        """Whether it is here and its callback has been called."""
        return self._ended.is_set()

    def successful(self) -> bool:
        """Whether :meth:`get` would return a value.

        Raises:
            ValueError: it is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._failure is None

    def _arrived(self, future: Future[Any]) -> None:
        self._missing -= 1  # callbacks come one after the other
        if self._missing:
            return
        futures, self._futures = self._futures, []
        callback, error_callback = self._callbacks
        try:
            try:
                self._value = self._join([value_of(future) for future in futures])
            except Exception as error:  # noqa: BLE001 - what the function raised
                self._failure = error.with_traceback(None)
                if error_callback is not None:
                    error_callback(self._failure)
            else:
                if callback is not None:
                    callback(self._value)
        finally:
            self._ended.set()


class PoolIterator(Iterator[Any]):
    """What the imaps return. For one thread at a time."""

    def __init__(
        self,
        submit: Callable[[list[tuple[Any, ...]]], TaskFuture],
        items: Iterator[Any],
        chunksize: int,
        ahead: int,
        ended: Callable[[PoolIterator], object],
    ) -> None:
        self._submit = submit
        self._items = items
        self._chunksize = chunksize
        self._ahead = ahead
        self._ended = ended
        self._exhausted = False
        #: What the iterable raised, in the place of the chunk that could not be read.
        self._error: Exception | None = None
        self._untaken = 0
        self._values: deque[Any] = deque()

    def feed(self) -> None:
        """Send what there is room for."""
        while not self._exhausted and self._untaken < self._ahead:
            self._send()

    def feed_all(self) -> None:
        """Send all there is."""
        while not self._exhausted:
            self._send()

    def _send(self) -> None:
        try:
            chunk = [(item,) for item in islice(self._items, self._chunksize)]
        except Exception as error:  # noqa: BLE001 - the iterable is user code
            self._error, chunk = error, []
        if chunk:
            self._untaken += 1
            self.sent(self._submit(chunk))
        else:
            self._exhausted = True
            self._ended(self)

    def sent(self, future: TaskFuture) -> None:
        """A chunk is on its way."""
        raise NotImplementedError

    def take(self, timeout: float | None) -> TaskFuture:
        """The next chunk that is done, of at least one that is on its way."""
        raise NotImplementedError

    def next(self, timeout: float | None = None) -> Any:
        """The next value, waiting up to ``timeout`` seconds.

        Raises:
            multiprocessing.TimeoutError: it is not here.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._values:
            self.feed()
            if not self._untaken:
                error, self._error = self._error, None
                raise StopIteration if error is None else error
            future = self.take(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._untaken -= 1
            self._values.extend(value_of(future))
        return self._values.popleft()

    def __next__(self) -> Any:
        return self.next()


class OrderedIterator(PoolIterator):
    """Of ``imap``."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._sent: deque[TaskFuture] = deque()

    def sent(self, future: TaskFuture) -> None:
        self._sent.append(future)

    def take(self, timeout: float | None) -> TaskFuture:
        if not self._sent[0].wait(timeout):
            raise PoolTimeoutError
        return self._sent.popleft()


class UnorderedIterator(PoolIterator):
    """Of ``imap_unordered``."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def sent(self, future: TaskFuture) -> None:
        future.add_done_callback(self._done.put)

    def take(self, timeout: float | None) -> TaskFuture:
        try:
            future: TaskFuture = self._done.get(timeout=timeout)
        except queue.Empty:
            raise PoolTimeoutError from None
        return future


def value_of(future: TaskFuture) -> Any:
    """The value of a future that is done; exceptions as ``multiprocessing`` has them.

    That is: the engine's traceback as their cause, and what pickling an argument raised as itself.
    """
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, SerializationError) and isinstance(error.__cause__, Exception):
        error.__cause__.add_note(str(error))
        error = error.__cause__
    elif error.__cause__ is None and getattr(error, "__notes__", None):
        text = "\n".join(error.__notes__)
        del error.__notes__  # else it would be shown twice
        error.__cause__ = RemoteTraceback(f'\n"""\n{text}\n"""')
    raise error


def _only(values: list[Any]) -> Any:
    return values[0]


def _concatenated(chunks: list[list[Any]]) -> list[Any]:
    return [value for chunk in chunks for value in chunk]
