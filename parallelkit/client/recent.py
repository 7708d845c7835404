"""A client's latest calls by the names of their tasks, as far as somebody still has their results.

A client keeps names only: a result that nobody has is freed, and cannot be asked for again here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from parallelkit.client.mapping import AsyncMapResult
from parallelkit.client.results import AsyncResult
from parallelkit.client.session import Session

#: A task of a result, by its place there; None: all of them.
_Place = tuple[AsyncResult, int | None]


def names(session: Session) -> list[str]:
    """The names of the tasks of the latest calls, oldest first."""
    name = session.link.task_name
    return [name(seq) for seqs in list(session.history) for seq in seqs]


def find(session: Session, jobs: Any) -> AsyncResult:
    """One result for all that ``jobs`` means: see ``Client.get_result``."""
    results = [result for ref in list(session.results) if (result := ref()) is not None]
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
    pending = {name for result in list(session.pending) for name in result.missing}
    wanted = list(jobs)
    for name in wanted:
        if name not in known:
            raise LookupError(f"task {name} is not among the latest of this client")
    return {
        "pending": [name for name in wanted if name in pending],
        "completed": [name for name in wanted if name not in pending],
    }
