"""What an engine can do with a task: one method for each :class:`Operation`. All of it is, or runs, user code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Protocol

from parallelkit.engine.aliasing import settle
from parallelkit.engine.coroutines import Coroutines
from parallelkit.engine.functions import Function
from parallelkit.engine.namespace import Namespace
from parallelkit.errors import SerializationError
from parallelkit.wire.failures import dump_failure
from parallelkit.wire.frames import Buffer
from parallelkit.wire.messages import AssignRecord, Operation
from parallelkit.wire.payload import Payload, dump


@dataclass(slots=True, eq=False)
class Work:
    """What an entry of the run queue stands for on an engine."""

    session: bytes
    record: AssignRecord
    frames: Sequence[Buffer]
    function: Function | None = None


class Interpreter(Protocol):
    """What is needed of the IPython shell (``shell.py``)."""

    def execute(self, code: str, filename: str, silent: bool, cell: str) -> dict[str, Any]:
        """Run source text; returns {"execution_count", "result"}; raises what the code raised."""
        ...

    def after_call(self) -> None:
        """A function has returned: show the figures that it left open."""
        ...


class Operations:
    """Performs tasks on the thread that runs user code. Raises whatever they raise."""

    def __init__(self, shell: Interpreter, namespace: Namespace, coroutines: Coroutines) -> None:
        self.engine_id = -1
        self._shell = shell
        self._namespace = namespace
        self._coroutines = coroutines
        # in the order of Operation
        self._methods: tuple[Callable[[Work], Any], ...] = (
            self._call,
            self._map,
            self._execute,
            self._push,
            self._pull,
        )

    def perform(self, work: Work) -> Payload:
        """Do it; returns the dumped result."""
        payload = self._dump(work, self._methods[work.record.operation](work))  # the value is gone after this line
        return Payload(payload.data, settle(payload.buffers, work.frames)) if payload.buffers else payload

    def describe(self, work: Work, error: BaseException) -> Payload:
        """An exception of this task, as it travels."""
        task = f"{work.session[:4].hex()}-{work.record.seq}"
        return dump_failure(error, engine=self.engine_id, run=work.record.run, task=task)

    def _dump(self, work: Work, value: Any) -> Payload:
        try:
            return dump(value)
        except SerializationError:
            if work.record.operation is not Operation.MAP:
                raise
        values, errors = value
        for index, item in enumerate(values):
            try:
                dump(item)
            except SerializationError as error:
                errors.append((index, self.describe(work, error).data))
                values[index] = None
        return dump(value)

    def _open(self, work: Work) -> Any:
        return self._namespace.open(work.record.payload, work.frames)

    def _function(self, work: Work) -> Callable[..., Any]:
        function = work.function
        assert function is not None  # the run queue holds back a task that lacks its function
        if function.call is None:
            function.call = self._namespace.load(function.data)
        return function.call

    def _call(self, work: Work) -> Any:
        function = self._function(work)
        args, kwargs = self._open(work)
        try:
            value = function(*args, **kwargs)
            return self._coroutines.run(value) if inspect.iscoroutine(value) else value
        finally:
            self._shell.after_call()

    def _map(self, work: Work) -> tuple[list[Any], list[tuple[int, bytes]]]:
        function = self._function(work)
        star, items = self._open(work)
        rest = iter(items)
        values: list[Any] = []
        errors: list[tuple[int, bytes]] = []
        while len(values) < len(items):
            try:
                self._apply(function, star, rest, values)
                if len(values) < len(items):  # map() takes a StopIteration for its own end
                    raise RuntimeError("the function raised StopIteration")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - the outcome of one item; the others go on
                errors.append((len(values), self.describe(work, error).data))
                values.append(None)
        # Either all are coroutines or none is: looking at each would cost as much as a tiny function.
        if inspect.iscoroutine(next((value for value in values if value is not None), None)):
            self._await(work, values, errors)
        self._shell.after_call()
        return values, errors

    @staticmethod
    def _apply(function: Callable[..., Any], star: bool, rest: Iterator[Any], values: list[Any]) -> None:
        """Extend ``values`` at the interpreter's own speed; after an exception it holds those before the bad item."""
        values.extend(starmap(function, rest) if star else map(function, rest))

    def _await(self, work: Work, values: list[Any], errors: list[tuple[int, bytes]]) -> None:
        """Run the coroutines that an ``async def`` returned, one after another, each in its place."""
        for index, value in enumerate(values):
            if not inspect.iscoroutine(value):
                continue
            try:
                values[index] = self._coroutines.run(value)
            except KeyboardInterrupt:
                for other in values[index + 1 :]:
                    if inspect.iscoroutine(other):
                        other.close()
                raise
            except BaseException as error:  # noqa: BLE001 - the outcome of one item
                errors.append((index, self.describe(work, error).data))
                values[index] = None

    def _execute(self, work: Work) -> dict[str, Any]:
        return self._shell.execute(**self._open(work))

    def _push(self, work: Work) -> None:
        self._namespace.push(self._open(work))

    def _pull(self, work: Work) -> list[Any]:
        return self._namespace.pull(self._open(work))
