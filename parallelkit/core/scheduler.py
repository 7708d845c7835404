"""The hub's machine: decides who runs what, and sees to it that every task ends exactly once.

``handle(event, now) -> list[Effect]``; no I/O, see ``events.py`` and ``effects.py``. The hub is soft state: a client
keeps each task until it has acknowledged the result, an engine keeps each result until the hub says that the owner
has it, and both send inventories with every heartbeat. Whatever message is lost, the next inventory repairs it; a hub
that lost everything is filled again by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parallelkit.core import events as e
from parallelkit.core import invariants
from parallelkit.core.effects import Assign, Deliver, Effect, Interrupt, Release, RosterChanged, WakeAt
from parallelkit.core.inventories import Inventories
from parallelkit.core.roster import Engine
from parallelkit.core.state import CANCELLED, ERROR, LOST, OK, Line, State, Statistics
from parallelkit.core.tasks import Ended, Task, TaskState


class Scheduler:
    """Mutate me only through :meth:`handle`.

    ``heartbeat``, ``silence`` (after which an engine counts as lost) and ``patience`` (after which a silent client's
    tasks are dropped) are seconds; ``prefetch`` is seconds of work sent ahead to an engine.
    """

    def __init__(
        self,
        *,
        epoch: int = 1,
        now: float = 0.0,
        heartbeat: float = 1.0,
        silence: float = 6.0,
        patience: float = 60.0,
        prefetch: float = 0.004,
    ) -> None:
        self.epoch = epoch
        self._silence = silence
        self._patience = patience
        # A hub that follows another waits for the inventories before it hands out what may be running already.
        self._recovered = now if epoch == 1 else now + 2 * heartbeat + 0.5
        self._state = State(epoch, prefetch, patience, now)
        self._inventories = Inventories(self._state, heartbeat, silence)
        self.roster = self._state.roster
        self.sessions = self._state.sessions
        self._handlers: dict[type, Callable[[Any, float], list[Effect]]] = {
            e.EngineJoined: self._engine_joined,
            e.EngineReported: self._engine_reported,
            e.EngineGone: self._engine_gone,
            e.EnginesSeen: self._engines_seen,
            e.ClientJoined: self._client_joined,
            e.ClientReported: self._client_reported,
            e.ClientGone: self._client_gone,
            e.Submitted: self._submitted,
            e.Acknowledged: self._acknowledged,
            e.Cancelled: self._cancelled,
            e.Replied: self._replied,
            e.Returned: self._returned,
            e.Tick: self._tick,
        }

    def handle(self, event: e.Event, now: float) -> list[Effect]:
        """Take in one event; all that follows from it, in the order in which it must be done."""
        return self._handlers[type(event)](event, now) + self._assign(now)

    def story(self, session: bytes, seq: int) -> list[Line]:
        """The last moves of one task, as far as they are remembered."""
        return self._state.story(session, seq)

    def statistics(self) -> Statistics:
        """Counts of what is held now."""
        return self._state.statistics()

    def check(self) -> None:
        """Verify every invariant; raises InternalError where one does not hold."""
        invariants.check(self._state)

    # ------------------------------------------------------------------------------------------------ engines

    def _engine_joined(self, event: e.EngineJoined, now: float) -> list[Effect]:
        engine = self.roster.by_incarnation.get(event.incarnation)
        if engine is not None:
            engine.heard = now
            return []
        effects: list[Effect] = []
        before = self.roster.by_id.get(event.wanted_id)
        if before is not None and event.node and before.node == event.node:
            # Its node starts an id anew only when the old process is dead; the notice of it is still on its way.
            effects = self._state.lose(before, "was replaced by its node", now)
        engine = self.roster.add(event.incarnation, event.host, event.pid, event.node, event.wanted_id, now)
        self._state.placement.engine_joined(engine)
        return [*effects, RosterChanged([engine], [])]

    def _engine_reported(self, event: e.EngineReported, now: float) -> list[Effect]:
        engine = self.roster.by_incarnation.get(event.incarnation)
        if engine is None:
            return []
        engine.heard = now
        return self._inventories.engine_reported(engine, event, now)

    def _engine_gone(self, event: e.EngineGone, now: float) -> list[Effect]:
        engine = self.roster.by_incarnation.get(event.incarnation)
        return [] if engine is None else self._state.lose(engine, event.reason, now)

    def _engines_seen(self, event: e.EnginesSeen, now: float) -> list[Effect]:
        for incarnation in event.incarnations:
            engine = self.roster.by_incarnation.get(incarnation)
            if engine is not None:
                engine.vouched = now
        return []

    def _returned(self, event: e.Returned, now: float) -> list[Effect]:
        engine = self.roster.by_incarnation.get(event.incarnation)
        if engine is None:
            return []
        engine.recalling = False
        effects: list[Effect] = []
        for attempt in reversed(event.attempts):  # last first, so that they keep their order at the head of the queue
            task = self._state.let_go(engine, attempt, now)
            if task is None:
                continue
            task.runs -= 1
            if task.cancelled:
                effects += self._state.conclude(task, CANCELLED, "cancelled before it began", now)
            else:
                self._state.requeue(task, now, "given back unstarted")
        self._state.placement.engine_freed(engine)
        return effects

    # ------------------------------------------------------------------------------------------------ clients

    def _client_joined(self, event: e.ClientJoined, now: float) -> list[Effect]:
        self._state.enroll(event.session, now)
        return []

    def _client_reported(self, event: e.ClientReported, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        if session is None:
            return []
        session.heard = now
        return self._inventories.client_reported(session, event, now)

    def _client_gone(self, event: e.ClientGone, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        return [] if session is None else self._state.dismiss(session, now)

    def _submitted(self, event: e.Submitted, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        if session is None:
            return []  # its hello is on the way; its next inventory will ask for these
        session.heard = now
        effects: list[Effect] = []
        for seq, work, cargo in event.tasks:
            options = work.options
            if options is not None and options.direct:
                for position, target in enumerate(options.targets):
                    effects += self._admit(Task(session, seq + position, work, cargo, target), now)
            else:
                effects += self._admit(Task(session, seq, work, cargo), now)
        if self._state.orphans:
            effects += self._inventories.match_orphans(session, now)
        return effects

    def _admit(self, task: Task, now: float) -> list[Effect]:
        session = task.session
        if task.seq in session.tasks or session.has_acknowledged(task.seq):
            return []  # submitted twice, because the first answer was lost
        options = task.work.options
        if options is not None and (options.after is not None or options.follow is not None):
            return self._state.block(task, now)
        session.tasks[task.seq] = task
        if task.target >= 0 and task.target not in self.roster.by_id:
            return self._state.conclude(task, LOST, f"there is no engine {task.target}", now)
        self._state.queue(task)
        return []

    def _acknowledged(self, event: e.Acknowledged, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        return [] if session is None else self._state.forget(session, event.seqs, now, "acknowledged")

    def _cancelled(self, event: e.Cancelled, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        if session is None:
            return []
        effects: list[Effect] = []
        interrupt: dict[bytes, list[int]] = {}
        wanted = (seq for start, stop in event.tasks for seq in range(start, stop))
        for task in [session.tasks[seq] for seq in wanted if seq in session.tasks]:
            if task.state is TaskState.READY or task.state is TaskState.BLOCKED:
                self._state.leave_queue(task)
                effects += self._state.conclude(task, CANCELLED, "cancelled before it began", now)
            elif task.state is TaskState.ASSIGNED and task.engine is not None:
                task.cancelled = True
                interrupt.setdefault(task.engine.incarnation, []).append(task.attempt)
        effects += [Interrupt(incarnation, attempts) for incarnation, attempts in interrupt.items()]
        return effects

    # ------------------------------------------------------------------------------------------------ results

    def _replied(self, event: e.Replied, now: float) -> list[Effect]:
        session = self.sessions.get(event.session)
        engine = self.roster.by_incarnation.get(event.incarnation)
        if engine is None:
            return []  # it was given up: it will say hello again, report these as finished and be asked for them
        engine.heard = now
        deliver: list[tuple[Ended, object]] = []
        release: list[int] = []
        effects: list[Effect] = []
        ended: list[Task] = []
        learnt: dict[bytes, list[float]] = {}
        for result in event.results:
            record = result[0]
            task = session.tasks.get(record.seq) if session is not None else None
            if task is None:
                if self._state.is_over(event.session, record.seq, now):
                    release.append(record.attempt)
                # else its owner is not back yet: the engine keeps it
            elif task.attempt != record.attempt or task.state is not TaskState.ASSIGNED:
                effects += self._late(task, engine, result, release, deliver, now)
                if task.state is TaskState.DELIVERED and task.session.graph is not None:
                    ended.append(task)
            else:
                self._account(task, engine, record, learnt, now)
                if record.outcome == ERROR and task.retries > 0 and not task.cancelled:
                    task.retries -= 1
                    release.append(record.attempt)
                    self._state.requeue(task, now, "raised; to be tried again")
                else:
                    self._state.delivered(task, record.outcome, now, "result")
                    deliver.append(result)
                    if task.session.graph is not None:
                        ended.append(task)
        for function, (items, seconds) in learnt.items():
            self._state.placement.durations.learn(function, int(items), seconds)
        if deliver:
            effects.append(Deliver(event.session, deliver))
        if release:
            effects.append(Release(event.incarnation, release))
        for task in ended:
            effects += self._state.settle_dependents(task, now)
        return effects

    def _account(self, task: Task, engine: Engine, record: Ended, learnt: dict[bytes, list[float]], now: float) -> None:
        self._state.let_go(engine, record.attempt, now)
        engine.completed += 1
        if record.outcome == OK:
            sums = learnt.get(task.work.function)
            if sums is None:
                learnt[task.work.function] = [task.work.items, record.seconds]
            else:
                sums[0] += task.work.items
                sums[1] += record.seconds
        if task.target < 0:
            task.session.served += record.seconds - task.estimate

    def _late(
        self,
        task: Task,
        engine: Engine,
        result: tuple[Ended, object],
        release: list[int],
        deliver: list[tuple[Ended, object]],
        now: float,
    ) -> list[Effect]:
        """A result that was sent again, or comes from an attempt that had been given up. The first good one wins."""
        record = result[0]
        if task.state is TaskState.DELIVERED:
            (deliver.append(result) if task.attempt == record.attempt else release.append(record.attempt))
            return []
        if record.outcome != OK or (task.state in (TaskState.READY, TaskState.BLOCKED) and task.target >= 0):
            release.append(record.attempt)
            return []
        effects: list[Effect] = []
        if task.state is TaskState.ASSIGNED and task.engine is not None:
            self._state.let_go(task.engine, task.attempt, now)
            effects.append(Interrupt(task.engine.incarnation, [task.attempt]))
        else:
            self._state.leave_queue(task, engine)
        task.attempt, task.engine = record.attempt, engine
        self._state.delivered(task, record.outcome, now, "late result")
        deliver.append(result)
        return effects

    # --------------------------------------------------------------------------------------------------- time

    def _tick(self, event: e.Tick, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for engine in list(self.roster):
            if now - max(engine.heard, engine.vouched) > self._silence:
                effects += self._state.lose(engine, f"was silent for {self._silence:g} s", now)
        for session in list(self.sessions.values()):
            if now - session.heard > self._patience:
                effects += self._state.dismiss(session, now)
        return effects

    def _assign(self, now: float) -> list[Effect]:
        if now < self._recovered:
            return [WakeAt(self._recovered)]
        effects: list[Effect] = []
        for engine, tasks in self._state.placement.assign(now):
            engine.sent += 1
            engine.sent_at = now
            for task in tasks:
                task.runs += 1
                task.number = engine.sent
                self._state.assigned(task, engine, now, "assigned")
            effects.append(Assign(engine, tasks))
        return effects + self._state.placement.balance(now)
