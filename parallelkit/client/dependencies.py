"""``Dependency``, the flags ``after`` and ``follow``, and calls that are sent when what they wait for is here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any

from parallelkit.client import threads
from parallelkit.client.arrivals import Arrival, Describe
from parallelkit.client.link import Call
from parallelkit.client.mapping import AsyncMapResult
from parallelkit.client.needs import Knows, Need, Needs, Stand
from parallelkit.client.results import AsyncResult
from parallelkit.client.session import Session
from parallelkit.errors import TaskCancelled
from parallelkit.wire import messages as m

_counting = threading.Lock()


class Dependency:
    """What a call waits for: ``Dependency(ids, all=True, success=True, failure=False)``.

    ``ids`` are results or names of tasks (``ar.msg_ids``), one or several. Each counts once it has ended: well with
    ``success``, badly (raised, cancelled, lost, never ran) with ``failure``. With ``all`` each has to count, else one.

    Raises:
        TypeError: there is something else among the ids.
        ValueError: nothing could ever count.
    """

    def __init__(self, ids: Any, all: bool = True, success: bool = True, failure: bool = False) -> None:
        several = isinstance(ids, Iterable) and not isinstance(ids, AsyncResult | str)
        self.ids: tuple[AsyncResult | str, ...] = tuple(ids) if several else (ids,)
        self.all = all
        self.success = success
        self.failure = failure
        for id in self.ids:
            if not isinstance(id, AsyncResult | str):
                raise TypeError(f"{id!r} is nothing to wait for: use results, their msg_ids, or a Dependency of these")
        if not (success or failure):
            raise ValueError("Dependency(success=False, failure=False): no end of a task could count")

    def __repr__(self) -> str:
        return f"<Dependency on {'all' if self.all else 'any'} of {len(self.ids)}>"


def as_dependency(value: Any) -> Dependency | None:
    """What users give for the flags ``after`` and ``follow``; None for nothing to wait for."""
    if value is None or isinstance(value, Dependency):
        return value
    return Dependency(value)


def results_in(args: Sequence[Any], kwargs: dict[str, Any]) -> list[AsyncResult]:
    """The results among the arguments of a call, and inside lists, tuples and dicts among them."""
    found: list[AsyncResult] = []
    for value in (*args, *kwargs.values()):
        kind = type(value)
        inside = value if kind is list or kind is tuple else value.values() if kind is dict else (value,)
        found += [part for part in inside if isinstance(part, AsyncResult)]
    return found


def filled(value: Any) -> Any:
    """An argument with the values of its results in their places. They are here, and did not fail."""
    kind = type(value)
    if kind is list or kind is tuple:
        return kind(map(_value, value))
    if kind is dict:
        return {key: _value(part) for key, part in value.items()}
    return _value(value)


def _value(part: Any) -> Any:
    return part.get() if isinstance(part, AsyncResult) else part


def unnumbered(session: Session, *dependencies: Dependency | None) -> list[AsyncResult]:
    """Those results whose ends the hub cannot tell of as one task's: they have to be waited for here.

    Maps, whose items fail on their own and whose last pieces may not have been sent; calls that wait themselves;
    results of other clients.
    """
    return [
        id
        for dependency in dependencies
        if dependency is not None
        for id in dependency.ids
        if isinstance(id, AsyncResult) and not id.done() and not _is_numbered(id, session)
    ]


def _is_numbered(result: AsyncResult, session: Session) -> bool:
    return not isinstance(result, AsyncMapResult) and result.session is session and result.numbers[0] >= 0


def needs_of(session: Session, after: Dependency | None, follow: Dependency | None) -> Needs:
    """What the flags mean, when there is nothing :func:`unnumbered` to wait for.

    Raises:
        ValueError: a name is no task of this client, or what ``follow`` names ran on no engine that is known.
    """
    return Needs(_need(session, after), _need(session, follow, follows=True))


def _need(session: Session, dependency: Dependency | None, *, follows: bool = False) -> Need | None:
    if dependency is None or not dependency.ids:
        return None
    known: dict[int, Knows] = {}
    for id in dependency.ids:
        if isinstance(id, str):
            seq = _number(session, id)
            known[seq] = session.link.knows(seq, engine=follows)
        elif _is_numbered(id, session):
            known.update(dict.fromkeys(id.numbers, id))
        elif follows:
            raise ValueError(f"follow={id!r}: only single calls of the same client ran on an engine to follow to")
        else:
            known[-1 - len(known)] = Stand(repr(id), _outcome(id))
    wire = m.Dependency(tuple(known), dependency.all, dependency.success, dependency.failure)
    return Need(wire, tuple(known.values()))


def _number(session: Session, name: str) -> int:
    number = name.rpartition("-")[2]
    if not number.isdecimal() or session.link.task_name(int(number)) != name:
        raise ValueError(f"{name!r} is no task of this client: tasks can wait only for those of the same one")
    return int(number)


def _outcome(result: AsyncResult) -> m.Outcome:
    error = result.exception()
    if error is None:
        return m.Outcome.OK
    return m.Outcome.CANCELLED if isinstance(error, CancelledError) else m.Outcome.ERROR


class Refusal(Arrival):
    """The end of a task that was never sent."""

    __slots__ = ("_why",)

    def __init__(self, seq: int, why: Exception, received: float) -> None:
        outcome = m.Outcome.CANCELLED if isinstance(why, CancelledError) else m.Outcome.ERROR
        super().__init__(m.ResultRecord(seq, 0, outcome, b""), (), received)
        self._why = why

    def error(self, describe: Describe) -> Exception:
        return self._why


class DeferredResult(AsyncResult):
    """A call that is sent, by a thread for such, when all that it waits for here has ended. Cannot be told from others
    but by its tasks having no names until then."""

    def __init__(self, session: Session, name: str, count: int = 1, **more: Any) -> None:
        super().__init__(session, name, count, **more)
        self._seqs = range(-count, 0)
        self._make: Callable[[], Call] | None = None
        self._options = m.TaskOptions()
        self._refusal: Exception | None = None
        self._left = 0
        self._cancelled_early = False

    def begin(self, waits: Iterable[AsyncResult], make: Callable[[], Call], options: m.TaskOptions) -> None:
        """Send what ``make`` returns once the others have ended; what it raises becomes the error of this one."""
        self._make, self._options = make, options
        self._session.pending.add(self)
        waiting = list(dict.fromkeys(waits))
        self._left = len(waiting)
        for result in waiting:
            result.when_done(self._one_done)

    def _one_done(self) -> None:
        with _counting:  # not the condition: the other's is held here
            self._left -= 1
            last = not self._left
        if last:
            threads.deferred.run(self._go)

    def _claim(self) -> Callable[[], Call] | None:
        """What is to be sent, for the one who gets it."""
        with self._condition:
            make, self._make = self._make, None
        return make

    def _go(self) -> None:
        make = self._claim()
        if make is None:
            return  # cancelled meanwhile
        try:
            call = make()
            with self._condition:  # whatever arrives waits until the numbers are known
                self._seqs = self._session.send((call,), self._options, self)
        except Exception as error:  # noqa: BLE001 - an argument's own error, or what pickling raised: told to who asks
            self._refuse(error)
            return
        if self._cancelled_early:
            super().cancel()

    def _refuse(self, error: Exception) -> None:
        self._refusal = error.with_traceback(None)  # its frames hold this result
        received = time.monotonic()
        with self._condition:
            self._arrivals = {seq: Refusal(seq, error, received) for seq in self._seqs}
            self._failed = True
        self._finish()

    def _error(self) -> Exception | None:
        return super()._error() if self._refusal is None else self._refusal

    def cancel(self) -> bool:
        """As of every result; one that has not been sent ends at once."""
        if self.done():
            return False
        if self._claim() is not None:
            self._refuse(TaskCancelled(f"{self._name}: cancelled before it was sent"))
            return True
        self._cancelled_early = True  # it may be on its way out just now
        return super().cancel() if self._seqs[0] >= 0 else True
