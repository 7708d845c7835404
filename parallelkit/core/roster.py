"""Engines at the hub: who they are, what they hold, and whether they are alive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from parallelkit.core.tasks import Task


class Engine:
    """One engine process. ``assigned`` is in the order in which it was sent, which is the order it runs in."""

    __slots__ = (
        "ahead", "assigned", "completed", "heard", "host", "id", "incarnation", "lane", "node",
        "pid", "progress", "recalling", "sent", "sent_at", "vouched",
    )  # fmt: skip

    def __init__(self, id: int, incarnation: bytes, host: str, pid: int, node: bytes, now: float) -> None:
        self.id = id
        self.incarnation = incarnation
        self.host = host
        self.pid = pid
        self.node = node
        self.heard = now
        #: When its node last saw the process running, whatever the engine itself says.
        self.vouched = now
        self.assigned: dict[int, Task] = {}
        #: Sum of the estimates of ``assigned``: seconds of work that it holds.
        self.ahead = 0.0
        #: Direct tasks for it that are not sent yet.
        self.lane: deque[Task] = deque()
        self.completed = 0
        #: When it last finished something, or got work after having none.
        self.progress = now
        self.recalling = False
        #: Number of the last assignment sent.
        self.sent = 0
        self.sent_at = now

    def __repr__(self) -> str:
        return f"<Engine {self.id} with {len(self.assigned)} tasks>"

    def oldest(self) -> Task:
        """The task that it runs now, as far as the hub can know."""
        return next(iter(self.assigned.values()))

    def hold(self, task: Task, now: float) -> None:
        if not self.assigned:
            self.progress = now
        self.assigned[task.attempt] = task
        self.ahead += task.estimate

    def release(self, attempt: int, now: float) -> Task | None:
        """Let go of an attempt; None if it is not held."""
        task = self.assigned.pop(attempt, None)
        if task is not None:
            # sums of floats drift; an engine without work is ahead by exactly nothing
            self.ahead = self.ahead - task.estimate if self.assigned else 0.0
            self.progress = now
        return task


class Roster:
    """Engines by incarnation and by id. Ids are small, and kept by an engine that is restarted."""

    def __init__(self) -> None:
        self.by_incarnation: dict[bytes, Engine] = {}
        self.by_id: dict[int, Engine] = {}

    def __iter__(self) -> Iterator[Engine]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, incarnation: bytes, host: str, pid: int, node: bytes, wanted: int, now: float) -> Engine:
        """A new engine, under the wanted id if that is free, else the smallest that is."""
        if wanted < 0 or wanted in self.by_id:
            wanted = next(n for n in range(len(self.by_id) + 1) if n not in self.by_id)
        engine = Engine(wanted, incarnation, host, pid, node, now)
        self.by_incarnation[incarnation] = self.by_id[wanted] = engine
        return engine

    def remove(self, engine: Engine) -> None:
        del self.by_incarnation[engine.incarnation]
        del self.by_id[engine.id]
