"""Heartbeats carry inventories; here they are held against what the hub believes (rules R1-R3, R5, R6, R11).

Level-triggered: nothing is concluded from the absence of one message, only from an inventory that is newer than what
it disagrees with.
"""

from __future__ import annotations

from parallelkit.core import events as e
from parallelkit.core.effects import AskAgain, Assign, Effect, Interrupt, Release, Resend
from parallelkit.core.roster import Engine
from parallelkit.core.sessions import Session
from parallelkit.core.state import FINISHED, LOST, State
from parallelkit.core.tasks import Task, TaskState

#: Every so many beats a client's inventory is compared whole, even if its length fits.
DEEP_CHECK = 8


class Inventories:
    """``heartbeat`` and ``silence`` are seconds, as for the scheduler."""

    def __init__(self, state: State, heartbeat: float, silence: float) -> None:
        self._state = state
        self._heartbeat = heartbeat
        self._silence = silence

    # ------------------------------------------------------------------------------------------------ engines

    def engine_reported(self, engine: Engine, event: e.EngineReported, now: float) -> list[Effect]:
        engine.recalling = False
        here: set[int] = set()
        verdicts: dict[type[Interrupt] | type[Release] | type[Resend], list[int]] = {}
        orphans: dict[tuple[bytes, int], tuple[int, int]] = {}
        for session_id, attempts in event.inventory:
            session = self._state.sessions.get(session_id)
            for seq, attempt, stage in attempts:
                here.add(attempt)
                task = session.tasks.get(seq) if session else None
                if task is not None:
                    verdict = self._reconcile(task, engine, attempt, stage, now)
                elif self._state.is_over(session_id, seq, now):
                    verdict = Release if stage == FINISHED else Interrupt
                else:
                    verdict = None  # its owner is not back yet: the engine keeps it
                    orphans[session_id, seq] = attempt, stage
                if verdict is not None:
                    verdicts.setdefault(verdict, []).append(attempt)
        self._state.orphans.pop(engine.incarnation, None)
        if orphans:
            self._state.orphans[engine.incarnation] = orphans
        effects: list[Effect] = [kind(engine.incarnation, numbers) for kind, numbers in verdicts.items()]
        return effects + self._repeat_lost(engine, here, event.received, now)

    def _repeat_lost(self, engine: Engine, here: set[int], received: int, now: float) -> list[Effect]:
        """Assignments that did not arrive are sent again under the same attempt, which starts once at most."""
        overdue = now - engine.sent_at > self._silence  # even a large message would have arrived
        lost = [
            task
            for attempt, task in engine.assigned.items()
            if attempt not in here and (task.number <= received or overdue)
        ]
        if not lost:
            return []
        engine.sent_at = now
        return [Assign(engine, lost)]

    def _reconcile(
        self, task: Task, engine: Engine, attempt: int, stage: int, now: float
    ) -> type[Interrupt] | type[Release] | type[Resend] | None:
        """One line of an engine's inventory: what the engine is to be told, None if all is well."""
        if task.attempt == attempt and task.state is TaskState.DELIVERED:
            task.engine = engine
            return None
        if task.attempt == attempt and task.state is TaskState.ASSIGNED and task.engine is engine:
            return Resend if stage == FINISHED else None  # replies go before beats: this one was lost
        if stage == FINISHED:
            # Not wanted any more, or wanted after all: a result that comes late is still a result.
            return Release if task.state is TaskState.DELIVERED else Resend
        if task.state in (TaskState.READY, TaskState.BLOCKED) and task.target in (-1, engine.id):
            self._state.adopt(task, engine, attempt, now)
            return None
        return Interrupt

    # ------------------------------------------------------------------------------------------------ clients

    def client_reported(self, session: Session, event: e.ClientReported, now: float) -> list[Effect]:
        if event.number <= session.beat:
            return []  # an old inventory proves nothing
        session.beat, session.next_seq = event.number, event.next_seq
        session.inventory = list(event.outstanding)
        effects: list[Effect] = []
        missing: list[int] = []
        count = sum(stop - start for start, stop in event.outstanding)
        if count != len(session.tasks) or event.number % DEEP_CHECK == 0:
            outstanding = {seq for start, stop in event.outstanding for seq in range(start, stop)}
            over = [seq for seq in session.tasks if seq < event.next_seq and seq not in outstanding]
            effects = self._state.forget(session, over, now, "absent from the client's inventory")
            missing = sorted(outstanding.difference(session.tasks))
        return [*effects, AskAgain(session.id, event.number, _ranges(missing)), *self._redeliver(session, now)]

    def _redeliver(self, session: Session, now: float) -> list[Effect]:
        """Results that left here long ago and that the client still misses."""
        overdue = now - 2 * self._heartbeat
        effects: list[Effect] = []
        resend: dict[bytes, list[int]] = {}
        for task in list(session.tasks.values()):
            if task.state is not TaskState.DELIVERED or task.since > overdue:
                continue
            task.since = now
            engine = task.engine
            if task.verdict is not None:
                effects.append(self._state.verdict(task, *task.verdict))
            elif engine is not None and engine.incarnation in self._state.roster.by_incarnation:
                resend.setdefault(engine.incarnation, []).append(task.attempt)
            elif task.target >= 0 or task.runs >= task.max_attempts:
                reason = "its engine died before the result reached its owner"
                effects += self._state.conclude(task, LOST, reason, now)
            else:
                self._state.requeue(task, now, "its result was lost with its engine")
        effects += [Resend(incarnation, attempts) for incarnation, attempts in resend.items()]
        return effects

    # ------------------------------------------------------------------------------------- clients come back

    def match_orphans(self, session: Session, now: float) -> list[Effect]:
        """Tasks just submitted again may be at an engine already, or finished there."""
        effects: list[Effect] = []
        for incarnation, orphans in list(self._state.orphans.items()):
            engine = self._state.roster.by_incarnation[incarnation]
            resend = []
            for key in [key for key in orphans if key[0] == session.id and key[1] in session.tasks]:
                attempt, stage = orphans.pop(key)
                task = session.tasks[key[1]]
                if task.state not in (TaskState.READY, TaskState.BLOCKED):
                    continue
                self._state.adopt(task, engine, attempt, now)
                if stage == FINISHED:
                    resend.append(attempt)
            if resend:
                effects.append(Resend(incarnation, resend))
            if not orphans:
                del self._state.orphans[incarnation]
        return effects


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as half-open ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = ranges[-1][0], number + 1
        else:
            ranges.append((number, number + 1))
    return ranges
