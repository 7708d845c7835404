"""What must hold of the hub's state after every event. Run by every test at each step, and in production on request."""

from __future__ import annotations

from parallelkit.core.sessions import Session
from parallelkit.core.state import State
from parallelkit.core.tasks import Task, TaskState
from parallelkit.errors import InternalError


def check(state: State) -> None:
    """Verify that the bookkeeping agrees with itself.

    Raises:
        InternalError: it does not; the text says where.
    """
    for engine in state.roster:
        _require(state.roster.by_incarnation.get(engine.incarnation) is engine, f"{engine} is not filed as itself")
        for attempt, task in engine.assigned.items():
            _require(task.attempt == attempt and task.engine is engine, f"{task} is held under a wrong attempt")
            _require(task.state is TaskState.ASSIGNED, f"{task} is held by {engine}")
        ahead = sum(task.estimate for task in engine.assigned.values())
        _require(abs(engine.ahead - ahead) < 1e-3, f"{engine} is ahead by {ahead} s, counted {engine.ahead}")
        for task in engine.lane:
            _require(task.state is TaskState.READY and task.target == engine.id, f"{task} waits at {engine}")
    for session in state.sessions.values():
        _check_session(state, session)
    ready = [
        task
        for session in state.sessions.values()
        for task in session.tasks.values()
        if task.state is TaskState.READY and task.target < 0
    ]
    targeted = sum(bool(task.targets) for task in ready)
    counted = state.placement.targeted, state.placement.anywhere
    _require(counted == (targeted, len(ready) - targeted), f"{len(ready)} tasks are ready, counted {counted}")
    known = set(state.roster.by_incarnation)
    _require(known.issuperset(state.orphans), "orphans of an engine that is gone")


def _check_session(state: State, session: Session) -> None:
    ready = blocked = 0
    queued = {id(task) for lane in session.lanes.values() for task in lane.tasks()}
    for seq, task in session.tasks.items():
        _require(task.seq == seq and task.session is session, f"{task} is filed under {seq}")
        _require(task.state is not TaskState.FORGOTTEN, f"{task} is still held")
        _require(task.runs >= 0, f"{task} ran {task.runs} times")
        _require((task.outcome >= 0) == (task.state is TaskState.DELIVERED), f"{task} has outcome {task.outcome}")
        if task.state is TaskState.BLOCKED:
            blocked += 1
            _check_blocked(session, task)
        elif task.state is TaskState.ASSIGNED:
            held = task.engine is not None and task.engine.assigned.get(task.attempt) is task
            _require(held, f"{task} is not held by {task.engine}")
        elif task.state is TaskState.READY and task.target < 0:
            ready += 1
            _require(id(task) in queued, f"{task} is in no queue")
        elif task.state is TaskState.READY:
            engine = state.roster.by_id.get(task.target)
            _require(engine is not None and task in engine.lane, f"{task} waits at no engine")
    _require(session.ready == ready, f"a session has {ready} ready tasks, counted {session.ready}")
    if session.graph is not None:
        _require(len(session.graph) == blocked, f"{blocked} tasks are blocked, {len(session.graph)} in the graph")
        edges = {(seq, n) for seq in session.tasks if (b := session.graph.find(seq)) is not None for n in b.numbers()}
        _require(session.graph.edges() == edges, f"edges in one direction only: {session.graph.edges() ^ edges}")


def _check_blocked(session: Session, task: Task) -> None:
    found = session.graph.find(task.seq) if session.graph is not None else None
    _require(found is not None and found.task is task and found.waits, f"{task} waits for nothing")
    for number in found.numbers() if found is not None else ():
        dependency = session.tasks.get(number)
        held = dependency is not None and dependency.outcome < 0 and number < task.seq
        _require(held, f"{task} waits for {number}, which is not on its way: {dependency}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InternalError(otherwise)
