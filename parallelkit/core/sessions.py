"""Clients at the hub: their tasks, the order of each one's, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from parallelkit.core.dependencies import Graph
from parallelkit.core.tasks import Task, TaskState


class Lane:
    """Tasks of one session that may run on the same engines: highest priority first, then in order.

    A task that left READY otherwise (cancelled, or found at an engine) keeps its place and is passed over when its
    turn comes: removing it from the middle would cost the length of the queue. The ticket tells such a place from
    the one that the task has when it is queued again.
    """

    __slots__ = ("_levels", "_queues", "targets")

    def __init__(self, targets: tuple[int, ...]) -> None:
        self.targets = targets
        self._queues: dict[int, deque[tuple[Task, int]]] = {}
        self._levels: list[int] = []  # priorities in use, highest first

    def append(self, task: Task) -> None:
        task.ticket += 1
        self._queue(task.priority).append((task, task.ticket))

    def append_first(self, task: Task) -> None:
        """Put back one that had been taken: it goes before those that never were."""
        task.ticket += 1
        self._queue(task.priority).appendleft((task, task.ticket))

    def head(self) -> Task | None:
        """The next READY task; it stays."""
        while self._levels:
            queue = self._queues[self._levels[0]]
            while queue:
                task, ticket = queue[0]
                if ticket == task.ticket and task.state is TaskState.READY:
                    return task
                queue.popleft()
            del self._queues[self._levels.pop(0)]
        return None

    def take_head(self) -> None:
        """Remove what :meth:`head` just returned."""
        self._queues[self._levels[0]].popleft()

    def tasks(self) -> Iterable[Task]:
        """Those that have a place, in no order."""
        for queue in self._queues.values():
            yield from (task for task, ticket in queue if ticket == task.ticket)

    def _queue(self, priority: int) -> deque[tuple[Task, int]]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._levels.append(priority)
            self._levels.sort(reverse=True)
        return queue


class Session:
    """One client. ``tasks`` holds all that it has not acknowledged, by number."""

    __slots__ = ("beat", "graph", "heard", "id", "inventory", "lanes", "next_seq", "ready", "served", "tasks")

    def __init__(self, id: bytes, now: float) -> None:
        self.id = id
        self.heard = now
        self.tasks: dict[int, Task] = {}
        self.lanes: dict[tuple[int, ...], Lane] = {}
        #: The BLOCKED tasks; None as long as there has not been one.
        self.graph: Graph | None = None
        #: READY tasks in the lanes (direct ones wait at their engine and are not counted).
        self.ready = 0
        #: Seconds of engine time given so far, relative to the other sessions.
        self.served = 0.0
        #: Number of the newest beat, and what it said: all below ``next_seq`` that is not in it is acknowledged.
        self.beat = -1
        self.next_seq = 0
        self.inventory: list[tuple[int, int]] = []

    def lane(self, targets: Sequence[int]) -> Lane:
        key = tuple(targets)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        return lane

    def head_for(self, engine_id: int, only_targeted: bool = False) -> tuple[Lane, Task] | None:
        """The task that this session would run next on that engine; if asked so, of those that name their engines."""
        best: tuple[Lane, Task] | None = None
        for lane in self.lanes.values():
            if engine_id not in lane.targets if lane.targets else only_targeted:
                continue
            task = lane.head()
            if task is not None and (best is None or (-task.priority, task.seq) < (-best[1].priority, best[1].seq)):
                best = lane, task
        return best

    def has_acknowledged(self, seq: int) -> bool:
        """Whether the newest beat proves that the client holds this result (rule R3: absence is proof)."""
        if seq >= self.next_seq or self.beat < 0:
            return False
        return not any(start <= seq < stop for start, stop in self.inventory)


class FairShare:
    """Whose turn it is: the session that has had the least engine time among those with work.

    A session that was idle starts level with the least served of the others: rest earns no credit.
    """

    def __init__(self) -> None:
        self._active: dict[bytes, Session] = {}

    def __bool__(self) -> bool:
        return bool(self._active)

    def activate(self, session: Session) -> None:
        if session.id not in self._active:
            if self._active:
                session.served = max(session.served, min(s.served for s in self._active.values()))
            self._active[session.id] = session

    def deactivate(self, session: Session) -> None:
        self._active.pop(session.id, None)

    def order(self) -> Sequence[Session]:
        """Sessions with work, the one whose turn it is first."""
        if len(self._active) == 1:
            return tuple(self._active.values())
        return sorted(self._active.values(), key=lambda session: session.served)
