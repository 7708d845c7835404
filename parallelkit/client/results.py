"""``AsyncResult``: the future of one call, or of the same call on several engines.

Threads: ``settle`` and ``output`` run on the I/O thread and only take note. Everything is opened by the thread that
asks; users' callbacks run on a thread of their own, so that a slow one delays no result.
Locks: ``Future._condition`` guards what arrives; nothing is opened and no callback runs while it is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, CancelledError, Future
from functools import partial
from typing import Any

from parallelkit.client import display, threads
from parallelkit.client.arrivals import Arrival, Failure, Failures, as_item, open_arrival
from parallelkit.client.link import Call
from parallelkit.client.listening import Listener, TaskOutput
from parallelkit.client.records import TaskRecords
from parallelkit.client.session import Session, patience
from parallelkit.wire.frames import Buffer, to_ranges
from parallelkit.wire.messages import OutputRecord, ResultRecord, TaskOptions

Ready = Callable[[], bool]


class AsyncResult(Future[Any], TaskRecords, TaskOutput):
    """Comes from a view. ``count`` tasks; the value is the one's result if ``single``, else the list of all.

    A ``concurrent.futures.Future``: works with ``wait``, ``as_completed`` and ``asyncio.wrap_future``; can itself be
    awaited, iterated as results arrive (also with ``async for``) and indexed: ``ar[0]`` is the first result,
    ``ar["status"]`` a key of :attr:`metadata`.
    """

    #: What a list of values is called in texts.
    _noun = "engines"
    #: The base class's own; no type information tells of it.
    _done_callbacks: list[Callable[[Future[Any]], Any]]
    _return_exceptions = False

    #: What it is called in texts; subclasses are a matter of how it is fed.
    _kind = "AsyncResult"

    def __init__(
        self,
        session: Session,
        name: str,
        count: int = 1,
        *,
        single: bool = True,
        label: str = "",
        convert: Callable[[AsyncResult, int, Any], Any] | None = None,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """``convert`` makes of task i's value what users get, ``join`` of the list of values the one of the whole."""
        super().__init__()
        self.label = label
        self._session = session
        self._name = name
        self._count = count
        self._single = single
        self._convert = convert
        self._join = join
        self._seqs: Sequence[int] = ()
        self._arrivals: dict[int, Arrival] = {}
        self._output: dict[int, list[OutputRecord]] = {}
        self._failed = False
        #: Threads that wait for part of the result.
        self._partial = 0
        self._watchers: list[tuple[Ready, Callable[[], None]]] = []
        self._listeners: list[Listener] = []
        self._submitted = time.time()
        self._began = time.monotonic()

    def send(self, calls: Sequence[Call], options: TaskOptions) -> None:
        """Hand over its tasks, or the next of them."""
        session = self._session
        session.pending.add(self)
        try:
            seqs = session.send(calls, options, self)
        except BaseException:
            session.pending.discard(self)
            raise
        self._seqs = [*self._seqs, *seqs] if self._seqs else seqs

    # ------------------------------------------------------------------------------- the I/O thread's side (Sink)

    def settle(self, record: ResultRecord, frames: Sequence[Buffer]) -> None:
        arrival = Arrival(record, frames, time.monotonic())
        with self._condition:
            self._arrivals[record.seq] = arrival
            if not arrival.ok:
                self._failed = True
            done = len(self._arrivals) == self._count
            if not done:
                self._announce()
        if done:
            self._finish()

    def ended(self, seq: int) -> ResultRecord | None:
        arrival = self._arrivals.get(seq)
        return arrival.record if arrival is not None else None

    @property
    def session(self) -> Session:
        """The client's life that it belongs to."""
        return self._session

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of its tasks; negative before they have any."""
        return self._seqs

    def when_done(self, job: Callable[[], None]) -> None:
        """Call ``job`` once all is here, on whichever thread that finds out; it is quick and takes no lock of ours."""
        with self._condition:
            if not self.done():
                self._watchers.append((self.done, job))
                return
        job()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a result stays with its client; as an argument of its own, or directly in a list, tuple or dict that is "
            "one, it is sent as its value"
        )

    def _announce(self) -> None:
        """Part of it is here: wake those who wait for that part. Called with the condition held."""
        if self._partial:
            self._condition.notify_all()
        if self._watchers:
            self._wake(lambda ready: ready())

    def _wake(self, chosen: Callable[[Ready], bool]) -> None:
        left = []
        for ready, wake in self._watchers:
            if chosen(ready):
                wake()
            else:
                left.append((ready, wake))
        self._watchers = left

    def _finish(self) -> None:
        """All is here. The base class wakes ``wait``, ``as_completed`` and blocked threads."""
        self._session.pending.discard(self)
        if self._failed:
            super().set_exception(None)  # which one, ``exception`` finds out when asked
        else:
            super().set_result(None)
        with self._condition:
            self._wake(lambda ready: True)

    def _invoke_callbacks(self) -> None:
        """Called once by the base class when done; here the callbacks leave the I/O thread."""
        if self._done_callbacks:
            threads.callbacks.run(self._run_callbacks)

    def _run_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]  # private to the standard library, the same since 3.2
        self._done_callbacks.clear()  # they often hold this result

    # ----------------------------------------------------------------------------------------------- the value

    def get(self, timeout: float | None = None, return_exceptions: bool = False, return_when: str | None = None) -> Any:
        """The value, waiting for it up to ``timeout`` seconds (None or negative: without limit).

        ``return_exceptions`` puts exceptions in the place of values instead of raising them.
        ``return_when=FIRST_EXCEPTION`` raises as soon as one task has failed.

        Raises:
            TimeoutError: it is not complete; says how far it is, and if the hub is silent.
            Exception: what the function raised, as itself; several failures as :class:`RemoteErrors`.
        """
        __tracebackhide__ = True
        error: Exception | None = None
        keep = return_exceptions or self._return_exceptions
        try:
            if not self.done():
                self._await(timeout, return_when)
            if not keep:
                error = self._error()
            if error is not None:
                raise error
            return self._collect(keep)
        finally:
            error = None  # the traceback holds this frame: without these it would hold itself and the result
            del self

    def result(self, timeout: float | None = None) -> Any:
        """As :meth:`get`."""
        __tracebackhide__ = True
        try:
            return self.get(timeout)
        finally:
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What :meth:`get` would raise; None if it would return a value."""
        self._await(timeout)
        return self._error()

    @property
    def r(self) -> Any:
        """As :meth:`get`."""
        return self.get()

    def get_dict(self, timeout: float | None = None) -> dict[int, Any]:
        """Results by engine id.

        Raises:
            ValueError: an engine has more than one of them.
        """
        values = self.get(timeout)
        engines = self.engine_id
        if self._single:
            return {engines: values}
        if len(set(engines)) != len(engines):
            raise ValueError(f"{self!r}: an engine has several of the results; use get()")
        return dict(zip(engines, values, strict=True))

    @property
    def result_dict(self) -> dict[int, Any]:
        """As :meth:`get_dict`."""
        return self.get_dict()

    def _await(self, timeout: float | None, return_when: str | None = None) -> None:
        limit = patience(timeout)
        if self.wait(limit, return_when):
            return
        silence = self._session.silence()
        raise TimeoutError(
            f"{self._name}: {self.progress} of {len(self)} results within {limit:g} s" + (silence and f"; {silence}")
        )

    def _error(self) -> Exception | None:
        failures = Failures()
        error: Exception | None = None
        try:
            for arrival in list(self._arrivals.values()):
                error = open_arrival(arrival, self._describe)[1]
                if error is not None:
                    failures.add(Failure(partial(_itself, error), arrival.cancelled))
            return failures.error(self._count, self._noun)
        finally:
            del error, failures  # as in get: the frames of an opening that failed lead here

    def _collect(self, errors: bool) -> Any:
        """The value, with exceptions in the place of failures if ``errors``; else there are none."""
        values = []
        for index in range(self._count):
            value, error = open_arrival(self._arrivals[self._seqs[index]], self._describe)
            values.append(self._converted(index, value) if error is None else error)
        if self._single:
            return values[0]
        if self._join is not None and not any(isinstance(value, Exception) for value in values):
            return self._join(values)
        return values

    def _converted(self, index: int, value: Any) -> Any:
        return value if self._convert is None else self._convert(self, index, value)

    # ------------------------------------------------------------------------------------------------- waiting

    def ready(self) -> bool:
        """Whether all of it is here."""
        return self.done()

    def successful(self) -> bool:
        """Whether :meth:`get` would return a value.

        Raises:
            ValueError: it is not ready.
        """
        if not self.done():
            raise ValueError(f"{self!r} is not ready")
        return self._error() is None

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> bool:
        """Wait up to ``timeout`` seconds (None or negative: without limit); whether it is ready.

        With ``return_when=FIRST_EXCEPTION`` also True as soon as one task has failed.
        """
        if return_when == FIRST_EXCEPTION:
            return self._wait_first_exception(patience(timeout))
        if return_when not in (None, ALL_COMPLETED, "FIRST_COMPLETED"):
            raise ValueError(f"return_when={return_when!r}: use FIRST_EXCEPTION or ALL_COMPLETED")
        with self._condition:
            return self._session.wait(self._condition, self.done, patience(timeout))

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        return_when: str | None = None,
    ) -> bool:
        """As :meth:`wait`, and shows how far it is: a live line in a notebook whose extension is loaded (not with
        ``widget=False``), a bar in a terminal that is redrawn each ``interval`` seconds, else one line at the end."""
        return display.watch(self, interval, patience(timeout), widget is not False, return_when)

    def _wait_first_exception(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self.progress
            if self.done() or self._some_failed():
                return True
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._block(partial(self._further_than, seen), left):
                return False

    def _further_than(self, seen: int) -> bool:
        return self.done() or self.progress > seen

    def _some_failed(self) -> bool:
        return self._failed

    def _block(self, ready: Ready, timeout: float | None) -> bool:
        """Wait for part of it."""
        with self._condition:
            self._partial += 1
            try:
                return self._session.wait(self._condition, ready, patience(timeout))
            finally:
                self._partial -= 1

    async def _until(self, ready: Ready) -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # that loop is closed: its coroutines are gone too
                loop.call_soon_threadsafe(_resolve, arrived)

        watcher = (ready, wake)
        with self._condition:
            if self.done() or ready():
                return
            self._watchers.append(watcher)
        try:
            await arrived
        finally:
            with self._condition:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

    def _watch(self, ready: Ready, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, when ``ready()`` or done, perhaps at once; asks ``ready`` whenever part of it is here.
        Both are called with the condition held."""
        with self._condition:
            if self.done() or ready():
                wake()
            else:
                self._watchers.append((ready, wake))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        try:
            await self._until(self.done)
        except asyncio.CancelledError:
            self.cancel()  # as asyncio does with whatever a cancelled task awaits
            raise
        return self.get()

    # ---------------------------------------------------------------------------------------------- cancelling

    def cancel(self) -> bool:
        """Ask for an end: what is queued is dropped, what runs is interrupted; False if it was done already.

        It stays pending until the answer is here: :class:`TaskCancelled`, or a result that was faster.
        """
        if self.done():
            return False
        for start, stop in to_ranges(sorted(self._seqs)):
            self._session.link.cancel(start, stop - start)
        return True

    def abort(self) -> bool:
        """As :meth:`cancel`."""
        return self.cancel()

    def cancelled(self) -> bool:
        """Whether it ended by being cancelled."""
        return self.done() and isinstance(self._error(), CancelledError)

    # ---------------------------------------------------------------------------------------------- one by one

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True  # a future is not false for having no items

    def _rows(self) -> list[tuple[int, Arrival | None]]:
        return [(seq, self._arrivals.get(seq)) for seq in self._seqs]

    @property
    def progress(self) -> int:
        """How many of ``len(self)`` are here."""
        return len(self._arrivals)

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            raise TypeError(f"{self!r} is one result, there is nothing to iterate over; use get()")
        return ResultIterator(self, range(len(self)))

    async def __aiter__(self) -> AsyncIterator[Any]:
        for index in range(len(self)):
            await self._until(partial(self._here, index))
            yield self._item(index)

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            metadata = self.metadata
            return metadata[key] if isinstance(metadata, dict) else [row[key] for row in metadata]
        if isinstance(key, slice):
            return list(ResultIterator(self, range(len(self))[key]))
        return next(ResultIterator(self, [range(len(self))[key]]))

    def _here(self, index: int) -> bool:
        return self._seqs[index] in self._arrivals

    def _item(self, index: int) -> Any:
        """The result at ``index``, which is here; raises if it failed."""
        __tracebackhide__ = True
        value, error = open_arrival(self._arrivals[self._seqs[index]], self._describe)
        if error is None:
            return self._converted(index, value)
        if self._return_exceptions:
            return error
        try:
            raise as_item(error)
        finally:
            del error, self

    def split(self) -> list[AsyncResult]:
        """A result for each task; a result of one task is its own part. Cancelling a part cancels that task alone.

        Raises:
            TypeError: it is a map, whose tasks are no more than a way to send its items.
        """
        from parallelkit.client.parts import PartResult  # late: it builds upon this module

        return [self] if self._single else [PartResult(self, index) for index in range(self._count)]

    @classmethod
    def join(cls, *results: AsyncResult) -> AsyncResult:
        """One result for all tasks, or items, of several: its value is the list of all their values.

        A single one is returned as it is.

        Raises:
            ValueError: there are none, or they come from different clients.
        """
        from parallelkit.client.parts import JoinedResult  # late: it builds upon this module

        if not results:
            raise ValueError("join() needs at least one result")
        return results[0] if len(results) == 1 else JoinedResult(results)

    # -------------------------------------------------------------------------------------------------- output

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait until all output is here, up to ``timeout`` seconds (None or negative: without limit).

        As :meth:`wait`: a task's output arrives before its result.
        """
        return self.wait(timeout)

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Show what the tasks printed and displayed, grouped by ``type`` or ``engine``, or in ``order``."""
        self.wait()
        display.show(self, groupby, result_only)

    def __repr__(self) -> str:
        return f"<{self._kind} {self._name}: {self._state_text()}>"

    def _state_text(self) -> str:
        if self.done():
            return f"{'failed' if self._failed else 'done'} in {self.elapsed:.3g} s"
        silence = self._session.silence()
        text = "waiting" if self._single else f"{self.progress} of {len(self)} done"
        return f"{text}, {silence}" if silence else text


def _itself(error: Exception) -> Exception:
    return error


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # else whoever waited has been cancelled
        future.set_result(None)


class ResultIterator(Iterator[Any]):
    """Results in the given order, each as soon as it is here. One that failed raises; the next call goes on."""

    def __init__(self, result: AsyncResult, indices: Iterable[int]) -> None:
        self._result = result
        self._indices = iter(indices)

    def __next__(self) -> Any:
        __tracebackhide__ = True
        index = next(self._indices)
        result = self._result
        if not result._here(index):
            result._block(lambda: result._here(index) or result.done(), None)
        return result._item(index)
