"""Which engine gets which task, and how much ahead of time. The scheduler owns one and calls it after each event.

Throughput for tiny tasks and balance for long ones come from the same two rules. An engine holds, beyond what it
runs, as much work as covers a round trip to the hub, by the measured durations of the functions; so thousands of
microsecond tasks, and none when tasks are long. And when an engine idles while another has unstarted work, half of
that is asked back. The cost of a decision does not depend on how many engines or tasks there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from parallelkit.core.durations import Durations
from parallelkit.core.effects import Effect, Recall, WakeAt
from parallelkit.core.roster import Engine
from parallelkit.core.sessions import FairShare, Lane
from parallelkit.core.tasks import Task

#: Tasks longer than this are never sent ahead: a round trip is nothing beside them, a bad guess is much.
LONG = 0.05
#: What a function is taken for that nobody has measured: too long to send ahead.
UNKNOWN = 1.0
#: Unstarted tasks at one engine, however short they are.
MAX_AHEAD = 1024
#: Direct tasks sent to one engine; more wait at the hub.
MAX_DIRECT = 256
#: An engine must be stuck, or have work, for this long before any is asked back: less is not worth the messages.
RECALL_AFTER = 0.002
#: Loaded engines looked at per decision when one idles.
RECALL_SEARCH = 8
#: What a session is charged for a task of unknown length.
DEFAULT_COST = 0.001


class Placement:
    """Queues of the sessions on one side, engines with room on the other."""

    def __init__(self, prefetch: float, new_attempt: Callable[[], int]) -> None:
        self.prefetch = prefetch
        self.new_attempt = new_attempt
        self.durations = Durations()
        self.fair = FairShare()
        #: READY tasks that may run anywhere; while there are some, any engine with room is of use.
        self.anywhere = 0
        #: READY tasks that may run on some engines only.
        self.targeted = 0
        self._idle: dict[Engine, None] = {}
        self._hungry: dict[Engine, None] = {}  # busy, but with room ahead
        self._loaded: dict[Engine, None] = {}  # with unstarted work that an idle one could take
        self._touched: dict[Engine, None] = {}  # to be looked at, whatever the queues hold

    # ------------------------------------------------------------------------------------------ what changed

    def engine_joined(self, engine: Engine) -> None:
        self._idle[engine] = None
        self._touched[engine] = None

    def engine_left(self, engine: Engine) -> None:
        for group in (self._idle, self._hungry, self._loaded, self._touched):
            group.pop(engine, None)

    def engine_freed(self, engine: Engine) -> None:
        """It finished, returned or lost something."""
        if len(engine.assigned) < 2:
            self._loaded.pop(engine, None)
        self._touched[engine] = None

    def queue(self, task: Task, *, first: bool = False) -> None:
        """A task became READY. ``first``: it had been taken before."""
        session = task.session
        lane = session.lane(task.targets)
        if first:
            lane.append_first(task)
        else:
            lane.append(task)
        session.ready += 1
        self.fair.activate(session)
        if lane.targets:
            self.targeted += 1
        else:
            self.anywhere += 1

    def unqueue(self, task: Task) -> None:
        """A task left READY without being assigned; its place in the lane is passed over later."""
        session = task.session
        session.ready -= 1
        if not session.ready:
            self.fair.deactivate(session)
        if task.targets:
            self.targeted -= 1
        else:
            self.anywhere -= 1

    def touch(self, engines: Iterable[Engine]) -> None:
        """These engines have been named by new work."""
        for engine in engines:
            self._touched[engine] = None

    # -------------------------------------------------------------------------------------------- decisions

    def assign(self, now: float) -> list[tuple[Engine, list[Task]]]:
        """What each engine should get now. The caller moves the tasks and sends them."""
        if not (self._touched or self.anywhere):
            return []
        touched, self._touched = self._touched, {}
        chosen = [(engine, self._direct(engine, now)) for engine in touched if engine.lane]
        for engine in touched:
            self._file(engine)
        share = self._share()
        if self.targeted and touched:  # for those, only engines that changed are looked at
            # What can run anywhere is left to the idle ones below: else work that was asked back would return at once.
            fair = max(share, -(-self.targeted // len(touched)))
            for engine in sorted(touched, key=lambda engine: bool(engine.assigned)):
                chosen.append((engine, self._fill(engine, fair, now, only_targeted=True)))
                self._file(engine)
        while self.anywhere:
            group = self._idle or self._hungry
            if not group:
                break
            engine = next(iter(group))
            del group[engine]
            tasks = self._fill(engine, share, now)
            if tasks:
                chosen.append((engine, tasks))
                self._file(engine)
            # else: what there is must not be sent ahead; the engine is looked at again when it is free
        return [(engine, tasks) for engine, tasks in chosen if tasks]

    def balance(self, now: float) -> list[Effect]:
        """Ask work back from loaded engines when another one idles."""
        if not self._idle or self.anywhere:
            return []
        wake: float | None = None
        for engine in list(itertools.islice(self._loaded, RECALL_SEARCH)):
            # Rotate, so that with many loaded engines each is looked at in its turn.
            del self._loaded[engine]
            self._loaded[engine] = None
            if engine.recalling:
                continue
            unstarted = [task for task in list(engine.assigned.values())[1:] if self._can_move(task)]
            if not unstarted:
                continue
            due = engine.progress + RECALL_AFTER
            if now >= due or engine.ahead - engine.oldest().estimate >= RECALL_AFTER:
                engine.recalling = True
                return [Recall(engine.incarnation, [task.attempt for task in unstarted[len(unstarted) // 2 :]])]
            wake = due if wake is None else min(wake, due)
        return [] if wake is None else [WakeAt(wake)]

    # ---------------------------------------------------------------------------------------------- details

    def _share(self) -> int:
        """Tasks for one engine in one go, so that few tasks are spread over many engines."""
        return max(1, -(-self.anywhere // max(len(self._idle) + len(self._hungry), 1)))

    def _file(self, engine: Engine) -> None:
        """Put the engine into the groups it belongs to now."""
        self._idle.pop(engine, None)
        self._hungry.pop(engine, None)
        if not engine.assigned:
            self._idle[engine] = None
        elif self._has_room(engine, self.prefetch / 2):
            self._hungry[engine] = None  # filled up only when half empty: fewer and larger assignments
        if len(engine.assigned) > 1:
            self._loaded[engine] = None

    def _has_room(self, engine: Engine, level: float) -> bool:
        """Whether it holds less than ``level`` seconds of work beyond what it runs."""
        running = engine.oldest().estimate
        return running <= LONG and engine.ahead - running < level and len(engine.assigned) < MAX_AHEAD

    def _fill(self, engine: Engine, limit: int, now: float, *, only_targeted: bool = False) -> list[Task]:
        tasks: list[Task] = []
        while len(tasks) < limit and self.fair:
            found = self._next_for(engine, only_targeted)
            if found is None:
                break
            lane, task = found
            estimate = self.durations.of(task.work.function, task.work.items)
            if engine.assigned and not (
                estimate is not None
                and estimate <= LONG
                and task.max_attempts > 1
                and self._has_room(engine, self.prefetch)
            ):
                break
            lane.take_head()
            self.unqueue(task)
            task.estimate = UNKNOWN if estimate is None else estimate
            task.session.served += DEFAULT_COST if estimate is None else estimate
            task.attempt = self.new_attempt()
            engine.hold(task, now)
            tasks.append(task)
        return tasks

    def _next_for(self, engine: Engine, only_targeted: bool) -> tuple[Lane, Task] | None:
        for session in self.fair.order():
            found = session.head_for(engine.id, only_targeted)
            if found is not None:
                return found
        return None

    def _direct(self, engine: Engine, now: float) -> list[Task]:
        tasks: list[Task] = []
        while engine.lane and len(engine.assigned) < MAX_DIRECT:
            task = engine.lane.popleft()
            task.estimate = self.durations.of(task.work.function, task.work.items) or UNKNOWN
            task.attempt = self.new_attempt()
            engine.hold(task, now)
            tasks.append(task)
        return tasks

    def _can_move(self, task: Task) -> bool:
        if task.target >= 0 or task.cancelled:
            return False
        targets = task.targets
        return not targets or any(engine.id in targets for engine in self._idle)
