"""A client's latest calls by the names of their tasks, as far as somebody still has their results.

A client keeps names only: a result that nobody has is freed, and cannot be asked for again here. Nor does it keep a
list of those that somebody has, which would cost each call something: the garbage collector knows them all.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any

from parallelkit.client.mapping import AsyncMapResult
from parallelkit.client.parts import JoinedResult, PartResult
from parallelkit.client.results import AsyncResult
from parallelkit.client.session import Session

#: A task of a result, by its place there; None: all of them.
_Place = tuple[AsyncResult, int | None]


def names(session: Session) -> list[str]:
    """The names of the tasks of the latest calls, oldest first."""
    name = session.link.task_name
    return [name(seq) for seqs in list(session.history) for seq in seqs]


def missing(session: Session) -> set[str]:
    """The names of the tasks without a result."""
    return {name for result in list(session.pending) for name in result.missing}


def forget(session: Session, jobs: Iterable[str] | None) -> None:
    """Forget the names of these tasks (None: of all) where all that their call sent is meant, and done."""
    name, pending = session.link.task_name, missing(session)
    wanted = None if jobs is None else set(jobs)
    for seqs in list(session.history):
        sent = {name(seq) for seq in seqs}
        if sent.isdisjoint(pending) and (wanted is None or sent <= wanted):
            with contextlib.suppress(ValueError):  # newer calls have pushed it out meanwhile
                session.history.remove(seqs)


def find(session: Session, jobs: Any) -> AsyncResult:
    """One result for all that ``jobs`` means: see ``Client.get_result``."""
    results = _held(session)
    if jobs is None:
        if not results:
            raise LookupError("this client has no result that is still held by anything")
        return results[-1]
    places: dict[str, _Place] = {
        name: (result, index) for result in results for index, name in enumerate(result.msg_ids)
    }
    history = names(session)
    found: list[_Place] = []
    for job in [jobs] if isinstance(jobs, str | int | AsyncResult) else jobs:
        if isinstance(job, AsyncResult):
            found.append((job, None))
            continue
        name = _name(job, history)
        if name not in places:
            raise LookupError(f"no result of task {name} is still held by anything; only names are kept")
        found.append(places[name])
    return AsyncResult.join(*_gathered(found))


def _held(session: Session) -> list[AsyncResult]:
    """The results of this session's calls that there are, oldest first."""
    found = []
    for obj in gc.get_objects():
        kind = type(obj)  # not isinstance: that would run code of whatever there is
        if issubclass(kind, AsyncResult) and not issubclass(kind, PartResult | JoinedResult):
            with contextlib.suppress(AttributeError):  # one that another thread is just making
                if obj._session is session and (rows := obj._rows()):
                    found.append((rows[0][0], obj))
    return [result for _, result in sorted(found, key=itemgetter(0))]


def _name(job: Any, history: list[str]) -> str:
    if isinstance(job, str):
        return job
    if isinstance(job, int):
        try:
            return history[job]
        except IndexError:
            raise LookupError(f"job {job}: the history has {len(history)} tasks") from None
    raise TypeError(f"{job!r} is no job: use results, task names, or places in the history")


def _gathered(found: Iterable[_Place]) -> Iterable[AsyncResult]:
    """Results as they are where all their tasks are meant, else parts of them. A map is always meant as a whole."""
    for result, group in groupby(found, lambda place: place[0]):
        indices = [index for _, index in group if index is not None]
        if not indices or isinstance(result, AsyncMapResult) or indices == list(range(len(result))):
            yield result
        else:
            parts = result.split()
            yield from (parts[index] for index in indices)


def status(session: Session, jobs: Iterable[str]) -> dict[str, list[str]]:
    """The names under ``"pending"`` and ``"completed"``."""
    known = set(names(session))
    pending = missing(session)
    wanted = list(jobs)
    for name in wanted:
        if name not in known:
            raise LookupError(f"task {name} is not among the latest of this client")
    return {
        "pending": [name for name in wanted if name in pending],
        "completed": [name for name in wanted if name not in pending],
    }
