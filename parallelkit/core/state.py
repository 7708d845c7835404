"""What the hub knows, and the few moves by which that changes. The scheduler and its inventories are built on it.

Every move of a task goes through ``_move`` and so through the table in ``tasks.py``; each leaves a line in the story.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parallelkit.core.dependencies import UNMET, Blocked, Graph
from parallelkit.core.effects import Conclude, Effect, Interrupt, Release, RosterChanged
from parallelkit.core.placement import Placement
from parallelkit.core.roster import Engine, Roster
from parallelkit.core.sessions import Session
from parallelkit.core.tasks import TRANSITIONS, Task, TaskState
from parallelkit.errors import InternalError

# Outcomes and stages as numbers: their names are in wire.messages, which the core does not import.
OK, ERROR, CANCELLED, LOST = 0, 1, 2, 4
QUEUED, RUNNING, FINISHED = 0, 1, 2

#: Attempts are ``epoch << EPOCH_SHIFT | n``.
EPOCH_SHIFT = 40
#: Moves kept for ``story()``.
STORY_LENGTH = 10_000
#: Sessions remembered after they left, so that late results of theirs are released.
GONE_REMEMBERED = 1_000


class Line(NamedTuple):
    """One move of one task."""

    when: float
    session: bytes
    seq: int
    to: TaskState
    why: str


class Statistics(NamedTuple):
    """What the hub holds; nothing in it grows with the number of tasks ever done."""

    engines: int
    sessions: int
    tasks: int
    unassigned: int
    orphans: int


class State:
    """Engines, sessions and their tasks."""

    def __init__(self, epoch: int, prefetch: float, patience: float, now: float) -> None:
        self.roster = Roster()
        self.sessions: dict[bytes, Session] = {}
        self.placement = Placement(prefetch, self._new_attempt)
        #: By engine: attempts in its inventory whose client has not come back, as (session, seq) → (attempt, stage).
        self.orphans: dict[bytes, dict[tuple[bytes, int], tuple[int, int]]] = {}
        self._attempts = epoch << EPOCH_SHIFT
        self._patience = patience
        self._born = now
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._story: deque[Line] = deque(maxlen=STORY_LENGTH)

    # ----------------------------------------------------------------------------------------------- engines

    def lose(self, engine: Engine, reason: str, now: float) -> list[Effect]:
        """Its process is gone: what ran there is repeated elsewhere if it may be, what had not begun is unharmed."""
        self.roster.remove(engine)
        self.placement.engine_left(engine)
        self.orphans.pop(engine.incarnation, None)
        effects: list[Effect] = [RosterChanged([], [(engine.id, reason)])]
        held = list(engine.assigned.values())
        engine.assigned.clear()
        for position in reversed(range(len(held))):  # last first: each goes before those that are put back already
            effects += self._recover(held[position], engine, reason, began=position == 0, now=now)
        for task in engine.lane:
            effects += self.conclude(task, LOST, f"engine {engine.id} {reason} before it began", now)
        engine.lane.clear()
        return effects

    def _recover(self, task: Task, engine: Engine, reason: str, *, began: bool, now: float) -> list[Effect]:
        if not began:
            task.runs -= 1
        lost = f"engine {engine.id} {reason}"
        if task.cancelled:
            return self.conclude(task, CANCELLED, "cancelled; its engine was lost meanwhile", now)
        if task.target >= 0:
            return self.conclude(task, LOST, f"{lost}; its namespace went with it, so this was not repeated", now)
        if task.runs >= task.max_attempts:
            runs = "once" if task.runs == 1 else f"{task.runs} times"
            return self.conclude(task, LOST, f"{lost} under it; it had begun {runs} and may not again", now)
        self.requeue(task, now, lost)
        return []

    def let_go(self, engine: Engine, attempt: int, now: float) -> Task | None:
        """The engine does not have this attempt any more; None if it was not known to."""
        task = engine.release(attempt, now)
        if task is not None:
            self.placement.engine_freed(engine)
        return task

    def adopt(self, task: Task, engine: Engine, attempt: int, now: float) -> None:
        """It is there already, from before this hub or before the engine was given up."""
        self.leave_queue(task, engine)
        task.attempt = attempt
        task.runs = max(task.runs, 1)
        engine.hold(task, now)
        self.assigned(task, engine, now, "found at the engine")
        self.placement.engine_freed(engine)

    # -------------------------------------------------------------------------------------------------- tasks

    def queue(self, task: Task, *, first: bool = False) -> None:
        """A READY task waits for an engine: any that fits, or the one that it is for."""
        if task.target < 0:
            self.placement.queue(task, first=first)
            if task.targets:
                ids = self.roster.by_id
                self.placement.touch(ids[id] for id in task.targets if id in ids)
            return
        engine = self.roster.by_id[task.target]
        if first:
            engine.lane.appendleft(task)
        else:
            engine.lane.append(task)
        self.placement.touch([engine])

    def leave_queue(self, task: Task, engine: Engine | None = None) -> None:
        """A READY or BLOCKED task will not be assigned by its place in the queue; it was found at ``engine``."""
        if task.state is TaskState.BLOCKED:
            self._graph(task.session).drop(task.seq)
            if engine is not None and task.work.options is not None and task.work.options.follow is not None:
                task.target = engine.id
            return
        if task.target < 0:
            self.placement.unqueue(task)
            return
        engine = self.roster.by_id.get(task.target)
        if engine is not None and task in engine.lane:
            engine.lane.remove(task)

    def requeue(self, task: Task, now: float, why: str) -> None:
        self._move(task, TaskState.READY, now, why)
        task.engine = None
        task.outcome = -1
        self.queue(task, first=True)

    def assigned(self, task: Task, engine: Engine, now: float, why: str) -> None:
        self._move(task, TaskState.ASSIGNED, now, why)
        task.engine = engine

    def delivered(self, task: Task, outcome: int, now: float, why: str) -> None:
        """It has ended. Whoever has waited for it is told by :meth:`settle_dependents`."""
        self._move(task, TaskState.DELIVERED, now, why)
        task.outcome = outcome
        task.since = now

    def conclude(self, task: Task, outcome: int, reason: str, now: float) -> list[Effect]:
        """The hub itself ends this task; the owner gets the reason. The caller has taken it out of its queue."""
        effects: list[Effect] = [self._conclude(task, outcome, reason, now)]
        if task.session.graph is not None:
            effects += self.settle_dependents(task, now)
        return effects

    def _conclude(self, task: Task, outcome: int, reason: str, now: float) -> Effect:
        if task.state is not TaskState.DELIVERED:
            self.delivered(task, outcome, now, reason)
        task.since = now
        task.outcome = outcome
        task.verdict = outcome, reason
        return self.verdict(task, outcome, reason)

    # ------------------------------------------------------------------------------------------- dependencies

    def block(self, task: Task, now: float) -> list[Effect]:
        """Take in a task with dependencies; not at all if one of them is not held here: its client asks again."""
        options, session = task.work.options, task.session
        blocked = Blocked(task, options.after, options.follow) if options is not None else Blocked(task, None, None)
        numbers = sorted(blocked.numbers())
        if not all(number in session.tasks and number < task.seq for number in numbers):
            return []
        session.tasks[task.seq] = task
        for number in numbers:
            dependency = session.tasks[number]
            why = blocked.note(dependency)[0] if dependency.outcome >= 0 else ""
            if why:
                return [self._conclude(task, UNMET, why, now)]
        if not blocked.waits:
            return self._unblock(blocked, now)
        self._move(task, TaskState.BLOCKED, now, f"waits for {len(blocked.numbers())} tasks")
        if session.graph is None:
            session.graph = Graph()
        session.graph.add(blocked)
        return []

    def settle_dependents(self, task: Task, now: float) -> list[Effect]:
        """This one has ended: those that have waited for it go on, or end too, and so on. Its graph exists."""
        graph = self._graph(task.session)
        effects: list[Effect] = []
        ended = deque([task])
        while ended:
            for blocked, why in graph.ended(ended.popleft()):
                effects += [self._conclude(blocked.task, UNMET, why, now)] if why else self._unblock(blocked, now)
                if blocked.task.state is TaskState.DELIVERED:
                    ended.append(blocked.task)
        return effects

    def _unblock(self, blocked: Blocked, now: float) -> list[Effect]:
        """It waits for nothing any more; it is in no graph and no queue."""
        task = blocked.task
        target, why = blocked.place()
        if why:
            return [self._conclude(task, UNMET, why, now)]
        engine = self.roster.by_id.get(target)
        if blocked.follow is not None and (engine is None or blocked.process not in (b"", engine.incarnation)):
            why = f"never ran, because engine {target}, where the task that it follows ran, is gone"
            return [self._conclude(task, UNMET, why, now)]
        if target >= 0 and engine is None:
            return [self._conclude(task, LOST, f"there is no engine {target}", now)]
        task.target = target
        if task.state is TaskState.BLOCKED:
            self._move(task, TaskState.READY, now, "its dependencies are met")
        self.queue(task)
        return []

    @staticmethod
    def _graph(session: Session) -> Graph:
        if session.graph is None:
            raise InternalError("a blocked task in a session without any")
        return session.graph

    # ------------------------------------------------------------------------------------------------- the end

    def verdict(self, task: Task, outcome: int, reason: str) -> Conclude:
        engine = task.target if task.target >= 0 else -1
        return Conclude(task.session.id, task.seq, outcome, reason, engine, task.runs)

    def forget(self, session: Session, seqs: Iterable[int], now: float, why: str) -> list[Effect]:
        """Nobody needs these any more; whoever works on them or holds their results is told."""
        release: dict[bytes, list[int]] = {}
        interrupt: dict[bytes, list[int]] = {}
        for seq in seqs if session.graph is None else self._with_dependents(session.graph, session, seqs):
            task = session.tasks.pop(seq, None)
            if task is None:
                continue
            engine = task.engine
            if task.state is TaskState.READY or task.state is TaskState.BLOCKED:
                self.leave_queue(task)
            elif task.state is TaskState.ASSIGNED and engine is not None:
                self.let_go(engine, task.attempt, now)
                interrupt.setdefault(engine.incarnation, []).append(task.attempt)
            elif engine is not None:
                release.setdefault(engine.incarnation, []).append(task.attempt)
            self._move(task, TaskState.FORGOTTEN, now, why)
        return [
            *(Release(incarnation, attempts) for incarnation, attempts in release.items()),
            *(Interrupt(incarnation, attempts) for incarnation, attempts in interrupt.items()),
        ]

    @staticmethod
    def _with_dependents(graph: Graph, session: Session, seqs: Iterable[int]) -> Iterator[int]:
        """These, and all that wait for one of them, whose end is not seen here: see the rule in dependencies.py."""
        left = deque(seqs)
        while left:
            seq = left.popleft()
            left.extend(graph.waiting_for(seq))
            yield seq

    def enroll(self, session_id: bytes, now: float) -> Session:
        """A client is here, for the first time or again."""
        session = self.sessions.get(session_id)
        if session is None:
            session = self.sessions[session_id] = Session(session_id, now)
            self._gone.pop(session_id, None)
        session.heard = now
        return session

    def dismiss(self, session: Session, now: float) -> list[Effect]:
        """The client is gone for good."""
        del self.sessions[session.id]
        self.placement.fair.deactivate(session)
        self._gone[session.id] = None
        if len(self._gone) > GONE_REMEMBERED:
            self._gone.popitem(last=False)
        return self.forget(session, list(session.tasks), now, "its client left")

    def is_over(self, session_id: bytes, seq: int, now: float) -> bool:
        """Whether nobody will ever ask for the result of this task, which is not known here."""
        session = self.sessions.get(session_id)
        if session is not None:
            return session.has_acknowledged(seq)
        return session_id in self._gone or now - self._born > self._patience

    def _new_attempt(self) -> int:
        self._attempts += 1
        return self._attempts

    def _move(self, task: Task, to: TaskState, now: float, why: str) -> None:
        if to not in TRANSITIONS[task.state]:
            raise InternalError(f"{task} cannot become {to} ({why}): {self.story(task.session.id, task.seq)}")
        self._story.append(Line(now, task.session.id, task.seq, to, why))
        task.state = to

    # ---------------------------------------------------------------------------------------------- questions

    def story(self, session: bytes, seq: int) -> list[Line]:
        """The last moves of one task, as far as they are remembered."""
        return [line for line in self._story if line.seq == seq and line.session == session]

    def statistics(self) -> Statistics:
        """Counts of what is held now."""
        sessions: Sequence[Session] = list(self.sessions.values())
        return Statistics(
            engines=len(self.roster),
            sessions=len(sessions),
            tasks=sum(len(session.tasks) for session in sessions),
            unassigned=sum(s.ready + (len(s.graph) if s.graph else 0) for s in sessions)
            + sum(len(engine.lane) for engine in self.roster),
            orphans=sum(len(orphans) for orphans in self.orphans.values()),
        )
