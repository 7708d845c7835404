"""The task state machine, as a table.

Rule 1: every state a task can be in, and every move between states, is in this file.
Rule 2: nothing here knows about sockets, clocks or who is asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from parallelkit.core.roster import Engine
    from parallelkit.core.sessions import Session


class TaskState(IntEnum):
    """Numbers, because the table is asked three times for every task and an int is quick to look up."""

    READY = 0  # could run now, waits for an engine
    ASSIGNED = 1  # an engine has it, queued or running
    DELIVERED = 2  # its result is on the way to its owner, who has not acknowledged it
    FORGOTTEN = 3  # the owner has the result, or is gone: the hub keeps nothing of it
    BLOCKED = 4  # waits for other tasks: see dependencies.py

    def __str__(self) -> str:
        return self.name.lower()


TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # to BLOCKED: only when it is admitted, before it has a place in a queue
    TaskState.READY: frozenset({TaskState.ASSIGNED, TaskState.DELIVERED, TaskState.FORGOTTEN, TaskState.BLOCKED}),
    # to ASSIGNED: found at an engine, which has it from before this hub; its dependencies were met then
    TaskState.BLOCKED: frozenset({TaskState.READY, TaskState.ASSIGNED, TaskState.DELIVERED, TaskState.FORGOTTEN}),
    # back to READY: given back unstarted, its engine lost, or a retry after an error
    TaskState.ASSIGNED: frozenset({TaskState.READY, TaskState.DELIVERED, TaskState.FORGOTTEN}),
    # back to READY: the engine died that alone held the result, before the owner had it
    TaskState.DELIVERED: frozenset({TaskState.FORGOTTEN, TaskState.READY}),
    TaskState.FORGOTTEN: frozenset(),
}


class Dependency(Protocol):
    """What a task waits for; see ``wire.messages.Dependency`` for the meaning of each."""

    @property
    def numbers(self) -> Sequence[int]: ...
    @property
    def all(self) -> bool: ...
    @property
    def success(self) -> bool: ...
    @property
    def failure(self) -> bool: ...
    @property
    def engines(self) -> Sequence[int]: ...


class Options(Protocol):
    """What a task asks of the scheduler; see ``wire.messages.TaskOptions`` for the meaning of each."""

    @property
    def targets(self) -> Sequence[int]: ...
    @property
    def direct(self) -> bool: ...
    @property
    def priority(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def after(self) -> Dependency | None: ...
    @property
    def follow(self) -> Dependency | None: ...


class Work(Protocol):
    """What the core reads of a submitted record."""

    @property
    def function(self) -> bytes: ...
    @property
    def items(self) -> int: ...
    @property
    def options(self) -> Options | None: ...


class Ended(Protocol):
    """What the core reads of a result."""

    @property
    def seq(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def outcome(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Task:
    """One task at the hub. Its payload is ``work`` and ``cargo``, which the core carries and never opens."""

    __slots__ = (
        "attempt", "cancelled", "cargo", "engine", "estimate", "number", "outcome", "retries", "runs",
        "seq", "session", "since", "state", "target", "ticket", "verdict", "work",
    )  # fmt: skip

    def __init__(self, session: Session, seq: int, work: Work, cargo: object, target: int = -1) -> None:
        self.session = session
        self.seq = seq
        self.work = work
        self.cargo = cargo
        #: For a direct task, or one that follows another: the one engine id it is for. -1: any that its options allow.
        self.target = target
        self.state = TaskState.READY
        #: Who has it, or held its result.
        self.engine: Engine | None = None
        #: The attempt that counts; 0 before the first.
        self.attempt = 0
        #: Runs that have begun, as far as the hub can know.
        self.runs = 0
        self.retries = work.options.retries if work.options else 0
        #: Seconds that it was expected to take when it was assigned.
        self.estimate = 0.0
        #: Number of the assignment message that carried it.
        self.number = 0
        #: When it got into its state; kept for DELIVERED only.
        self.since = 0.0
        self.cancelled = False
        #: Number of its last place in a queue.
        self.ticket = 0
        #: How it ended, while it is DELIVERED; else -1.
        self.outcome = -1
        #: (outcome, reason) when the hub itself ended it.
        self.verdict: tuple[int, str] | None = None

    @property
    def max_attempts(self) -> int:
        return self.work.options.max_attempts if self.work.options else DEFAULT_MAX_ATTEMPTS

    @property
    def priority(self) -> int:
        return self.work.options.priority if self.work.options else 0

    @property
    def targets(self) -> Sequence[int]:
        return self.work.options.targets if self.work.options else ()

    def __repr__(self) -> str:
        return f"<Task {self.session.id.hex()[:8]}-{self.seq} {self.state}>"


DEFAULT_MAX_ATTEMPTS = 4
