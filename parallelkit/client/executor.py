"""``ViewExecutor``: a view as a ``concurrent.futures.Executor``.

A future can be cancelled at once as long as its task has not been sent. So no more tasks are sent than keep the engines
busy; the others wait here, and each result sends the next of them.
Locks: a queue's condition guards its counts; nothing is pickled, sent or called back while it is held.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from parallelkit.client import threads
from parallelkit.client.link import Call
from parallelkit.client.results import AsyncResult
from parallelkit.client.view import call, name_of
from parallelkit.wire.frames import Buffer
from parallelkit.wire.messages import ResultRecord, TaskOptions

if TYPE_CHECKING:
    from parallelkit.client.balanced import LoadBalancedView
    from parallelkit.client.session import Session

log = logging.getLogger("concurrent.futures")  # where the standard library's executors log too

#: Tasks sent per engine when the executor has no ``max_workers``: enough that none waits for the next.
AHEAD = 4


class TaskFuture(AsyncResult):
    """What an executor's ``submit`` returns: an :class:`AsyncResult` whose ``cancel`` is that of the standard library.

    ``cancel`` succeeds at once if the task has not been sent, and it never runs; else it is refused.
    """

    def __init__(self, queue: TaskQueue, name: str, label: str = "") -> None:
        super().__init__(queue.session, name, label=label)
        self._queue = queue
        self._calls: Sequence[Call] = ()
        self._failure: Exception | None = None

    def hold(self, work: Call) -> None:
        """What to send when its turn has come."""
        self._calls = (work,)

    def start(self, options: TaskOptions) -> bool:
        """Send it; False if it was cancelled, or could not be sent and has failed."""
        with self._condition:
            if self._state != "PENDING":
                return False
            self.set_running_or_notify_cancel()
        calls, self._calls = self._calls, ()
        self._session.pending.add(self)
        try:
            self._seqs = self._session.send(calls, options, self)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever asks for the result
            self.fail(error)
            return False
        return True

    def fail(self, error: Exception) -> None:
        """It ends with this exception, without having run."""
        with self._condition:
            if self.done():
                return
            self._failure, self._failed, self._calls = error.with_traceback(None), True, ()
        self._finish()
        self._session.link.poke()

    def settle(self, record: ResultRecord, frames: Sequence[Buffer]) -> None:
        self._seqs = range(record.seq, record.seq + 1)  # ``start`` may not have come to it yet
        super().settle(record, frames)
        self._queue.finished()

    def result(self, timeout: float | None = None) -> Any:
        """The value, waiting up to ``timeout`` seconds (None: without limit)."""
        __tracebackhide__ = True
        try:
            return self.get(_limit(timeout))
        finally:
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What :meth:`result` would raise, or None.

        Raises:
            CancelledError: it was cancelled.
        """
        error = super().exception(_limit(timeout))
        if isinstance(error, CancelledError):
            raise error
        return error

    def cancel(self) -> bool:
        """Whether it is cancelled now: it had not been sent, and never runs."""
        with self._condition:
            if not Future.cancel(self):
                return False
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()
                self._calls = ()
                self._wake(lambda ready: True)
        self._session.link.poke()
        return True

    def abort(self) -> bool:
        """As :meth:`cancel`; if it runs already, ask for an end: it is interrupted. False if it was done."""
        return self.cancel() or AsyncResult.cancel(self)

    def _state_text(self) -> str:
        return "cancelled" if Future.cancelled(self) else super()._state_text()

    def _error(self) -> Exception | None:
        if Future.cancelled(self):
            return CancelledError()
        return self._failure or super()._error()


class TaskQueue:
    """The tasks of one executor: those that wait, and how many are out. Kept alive by the tasks that are out."""

    def __init__(self, session: Session, window: Callable[[], int]) -> None:
        self.session = session
        self.closed = ""
        self._window = window
        self._waiting: deque[tuple[TaskFuture, TaskOptions]] = deque()
        self._out = 0
        self._changed = threading.Condition()
        _queues.add(self)

    def add(self, future: TaskFuture, options: TaskOptions) -> None:
        """Run it when its turn has come.

        Raises:
            RuntimeError: the executor was shut down.
        """
        with self._changed:
            if self.closed:
                raise RuntimeError(self.closed)
            self._waiting.append((future, options))
        self._pump()

    def finished(self) -> None:
        """A task that was out has ended. I/O thread."""
        self._ended()
        self._pump()

    def close(self, reason: str) -> None:
        """Take no more."""
        with self._changed:
            self.closed = self.closed or reason

    def cancel(self) -> None:
        """Cancel what has not been sent."""
        self._drop(lambda future: future.cancel())

    def abort(self) -> None:
        """Cancel what has not been sent, and interrupt what has."""
        self.cancel()
        for future in list(self.session.pending):
            if isinstance(future, TaskFuture) and future._queue is self:
                future.abort()

    def fail(self, error: Callable[[], Exception]) -> None:
        """End what has not been sent with this exception."""
        self._drop(lambda future: future.fail(error()))

    def wait(self) -> None:
        """Until all has ended and its callbacks have been called."""
        with self._changed:
            self.session.wait(self._changed, lambda: not self._out and not self._waiting, None)
        threads.callbacks.drain()

    def _drop(self, end: Callable[[TaskFuture], Any]) -> None:
        with self._changed:
            dropped = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            end(future)

    def _pump(self) -> None:
        """Send what there is room for."""
        window = self._window()
        while True:
            with self._changed:
                if not self._waiting or self._out >= window:
                    return
                future, options = self._waiting.popleft()
                self._out += 1
            if not future.start(options):
                self._ended()

    def _ended(self) -> None:
        with self._changed:
            self._out -= 1
            if not self._out and not self._waiting:
                self._changed.notify_all()


class ViewExecutor(Executor):
    """Runs functions on the engines of a view, as ``concurrent.futures`` has it; made by ``rc.executor()``.

    ``max_workers`` is how many tasks may run at a time; None: as many as there are engines.
    ``initializer(*initargs)`` is called in each engine before its first task of this executor. If it fails the executor
    is broken: all its tasks raise :class:`concurrent.futures.BrokenExecutor`.
    Exceptions of pickling are found in the future.
    """

    def __init__(
        self,
        view: LoadBalancedView,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.view = view
        self._wanted = max_workers
        self._setup = (uuid.uuid4().hex, initializer, tuple(initargs))
        self._queue = TaskQueue(view.client.session, partial(_window, view, max_workers))
        self._broken: str | bool = False

    @property
    def _max_workers(self) -> int:
        """How many tasks run at a time; dask and others look for this name."""
        return self._wanted or len(self.view) or 1

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Run ``fn(*args, **kwargs)`` on an engine; returns its future.

        Raises:
            RuntimeError: the executor was shut down.
            BrokenExecutor: its initializer has failed.
        """
        if self._broken:
            raise BrokenExecutor(self._broken)
        flags = self.view.flags
        queue = self._queue
        if queue.closed:
            raise RuntimeError(queue.closed)
        future = TaskFuture(queue, name_of(fn), flags.label)
        try:
            future.hold(self._call(fn, args, kwargs))
        except Exception as error:  # noqa: BLE001 - pickling runs user code
            future.fail(error)
            return future
        if self._setup[1] is not None:
            future.add_done_callback(partial(_look_for_breakage, weakref.ref(self)))
        queue.add(future, self.view._balanced(flags))
        return future

    def _call(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if self._setup[1] is None:
            return call(fn, args, kwargs)
        return call(_set_up_and_call, (*self._setup, fn, args, kwargs), {})

    def map(
        self,
        fn: Any,
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """An iterator over ``fn`` of each item, in order. ``chunksize`` items make one task.

        ``timeout``: seconds from now after which the iterator raises ``TimeoutError`` for what is missing.
        ``buffersize``: submit no more tasks ahead of what has been taken; None: all, at once.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._results((partial(self.submit, fn, *item) for item in items), deadline, buffersize)
        chunks = iter(lambda: list(islice(items, chunksize)), [])
        pieces = self._results((partial(self.submit, call_each, fn, chunk) for chunk in chunks), deadline, buffersize)
        return _flat(pieces)

    def _results(
        self, submits: Iterator[Callable[[], TaskFuture]], deadline: float | None, buffersize: int | None
    ) -> Iterator[Any]:
        futures = deque(submit() for submit in islice(submits, buffersize))
        return _taken(futures, submits, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; ``cancel_futures`` cancels those that were not sent yet, ``wait`` waits for the rest."""
        self._queue.close("cannot schedule new futures after shutdown")
        if cancel_futures:
            self._queue.cancel()
        if wait:
            self._queue.wait()

    def abort(self) -> None:
        """Take no more tasks, cancel those that have not been sent, and interrupt the others."""
        self.shutdown(wait=False)
        self._queue.abort()

    def _break(self, error: BaseException) -> None:
        if self._broken:
            return
        log.critical("Exception in initializer:", exc_info=error)
        self._broken = str(error)
        self._queue.fail(lambda: BrokenExecutor(self._broken))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.view!r}, {self._max_workers} workers>"


def _limit(timeout: float | None) -> float | None:
    """The standard library's convention: a negative timeout has passed."""
    return None if timeout is None else max(0.0, timeout)


def _window(view: LoadBalancedView, max_workers: int | None) -> int:
    engines = max(1, len(view))
    if max_workers is None:
        return AHEAD * engines
    # An engine runs one task at a time anyway; with a second one there it need not wait for the first one's answer.
    return max_workers if max_workers < engines else max(max_workers, 2 * engines)


def _taken(
    futures: deque[TaskFuture], submits: Iterator[Callable[[], TaskFuture]], deadline: float | None
) -> Generator[Any, None, None]:
    try:
        while futures:
            # no name is given to future or result: this frame would keep it
            yield _value(futures, submits, deadline)
    finally:
        for future in futures:
            future.cancel()


def _value(futures: deque[TaskFuture], submits: Iterator[Callable[[], TaskFuture]], deadline: float | None) -> Any:
    future = futures.popleft()
    for submit in islice(submits, 1):
        futures.append(submit())
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        future.cancel()
        raise
    finally:
        del future


def _flat(pieces: Iterator[list[Any]]) -> Generator[Any, None, None]:
    try:
        for piece in pieces:
            piece.reverse()
            while piece:
                yield piece.pop()
    finally:
        pieces.close()  # type: ignore[attr-defined]  # it is a generator


def _look_for_breakage(executor: weakref.ref[ViewExecutor], future: Future[Any]) -> None:
    alive = executor()
    if alive is None or future.cancelled():
        return
    error = future.exception()
    if isinstance(error, BrokenExecutor):
        alive._break(error)


# ------------------------------------------------------------------------------------------------- on the engines

#: Initializers that have been called in this engine, and what they raised.
_set_up: dict[str, BaseException | None] = {}


def _set_up_and_call(
    token: str, initializer: Callable[..., object], initargs: tuple[Any, ...], fn: Any, args: Any, kwargs: Any
) -> Any:
    if token not in _set_up:
        try:
            initializer(*initargs)
        except Exception as error:  # noqa: BLE001 - user code
            _set_up[token] = error
        else:
            _set_up[token] = None
    failed = _set_up[token]
    if failed is not None:
        raise BrokenExecutor("A worker's initializer failed, the executor is not usable anymore") from failed
    return fn(*args, **kwargs)


def call_each(fn: Any, chunk: list[tuple[Any, ...]]) -> list[Any]:
    """``fn`` of each item of a chunk, each a tuple of arguments."""
    return [fn(*item) for item in chunk]


# ------------------------------------------------------------------------------------------------ the interpreter's end

_queues: weakref.WeakSet[TaskQueue] = weakref.WeakSet()


def _at_exit() -> None:
    """As the standard library does: take no more, and wait for what was submitted."""
    queues = list(_queues)
    for queue in queues:
        queue.close("cannot schedule new futures after interpreter shutdown")
    for queue in queues:
        queue.wait()


# A forked child has neither the connection nor its thread, and would wait for ever.
os.register_at_fork(after_in_child=_queues.clear)
# Ordinary exit handlers come too late: those of ``weakref.finalize`` may have closed the connection by then.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # private, and what concurrent.futures itself uses
