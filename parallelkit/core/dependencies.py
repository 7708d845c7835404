"""Tasks that wait for other tasks of their session: what releases them, and what says that they will never run.

A task names tasks that were submitted before it, so there are no cycles. The hub holds it, BLOCKED, until enough of
them have ended the way it asks for; each end costs the number of tasks that wait for it, and nothing is searched.

Rule: a blocked task waits only for tasks that the hub holds and whose end it has not seen. Where that cannot be so
(a submission was lost, or the client has a result that this hub never saw) the hub keeps nothing of the dependent
either: it is then missing in the client's next inventory, and the client, who knows the end of all that it does not
wait for any more, submits it again without what is settled.
"""

from __future__ import annotations

from parallelkit.core.tasks import Dependency, Task

OK, UNMET = 0, 6
#: How a dependency ended, by its outcome: see ``wire.messages.Outcome``.
HOW = {OK: "succeeded", 1: "raised an exception", 2: "was cancelled", 3: "ran out of time", 4: "was lost"}
_BY_WAY = " (by way of "


def task_name(session: bytes, seq: int) -> str:
    """What people and other tasks call a task."""
    return f"{session.hex()[:8]}-{seq}"


def unmet(name: str, outcome: int, reason: str = "") -> str:
    """Why a task never ran: the dependency of this name ended so. ``reason`` is its own where it never ran itself.

    Names the first that failed of a whole chain, and the one that it is known from.
    """
    if outcome == UNMET and reason:
        return f"{reason.partition(_BY_WAY)[0]}{_BY_WAY}{name})"
    return f"never ran, because its dependency {name} {HOW.get(outcome, 'never ran')}"


class Condition:
    """One dependency of one task, as far as it is settled. ``engines`` are where those ran that count."""

    __slots__ = ("_all", "_failure", "_success", "engines", "left")

    def __init__(self, dependency: Dependency) -> None:
        self.left = set(dependency.numbers)
        self.engines = list(dependency.engines)
        self._all = dependency.all
        self._success = dependency.success
        self._failure = dependency.failure

    def note(self, number: int, outcome: int, engine: int) -> bool:
        """This task has ended; False if the condition can never hold now. It holds once nothing is left."""
        self.left.discard(number)
        if self._success if outcome == OK else self._failure:
            self.engines.append(engine)
            if not self._all:
                self.left = set()
            return True
        return not self._all and bool(self.left)


class Blocked:
    """A task that waits, and for what."""

    __slots__ = ("after", "follow", "process", "task")

    def __init__(self, task: Task, after: Dependency | None, follow: Dependency | None) -> None:
        self.task = task
        self.after = Condition(after) if after is not None else None
        self.follow = Condition(follow) if follow is not None else None
        #: Incarnation of the engine to follow to, if the task there has ended under this hub's eyes.
        self.process = b""

    @property
    def conditions(self) -> list[Condition]:
        return [condition for condition in (self.after, self.follow) if condition is not None]

    @property
    def waits(self) -> bool:
        return any(condition.left for condition in self.conditions)

    def numbers(self) -> set[int]:
        """The tasks that it still waits for."""
        return set().union(*(condition.left for condition in self.conditions))

    def note(self, ended: Task) -> tuple[str, set[int]]:
        """One of them has ended: why this one will never run, or nothing; and which others do not matter now."""
        engine = ended.engine.id if ended.engine is not None else -1
        dropped: set[int] = set()
        for condition in self.conditions:
            left = condition.left
            if ended.seq not in left:
                continue
            if not condition.note(ended.seq, ended.outcome, engine):
                reason = ended.verdict[1] if ended.verdict is not None else ""
                why = unmet(task_name(ended.session.id, ended.seq), ended.outcome, reason)
                return why, self.numbers() | dropped
            if condition is self.follow and ended.engine is not None:
                self.process = ended.engine.incarnation
            if condition.left is not left:  # one of "any" was enough
                dropped |= left
        return "", dropped - self.numbers() if dropped else dropped

    def place(self) -> tuple[int, str]:
        """For a task that waits for nothing now: the engine id that it must run on, -1 for any; or why it cannot."""
        task = self.task
        if self.follow is None:
            return task.target, ""
        engines = set(self.follow.engines)
        if len(engines) != 1:
            return -1, f"never ran, because the tasks that it follows ran on several engines: {sorted(engines)}"
        (engine,) = engines
        if engine < 0:
            return -1, "never ran, because the task that it follows ran on no engine"
        if task.targets and engine not in task.targets:
            return -1, f"never ran, because engine {engine}, where the task that it follows ran, is not of its targets"
        return engine, ""


class Graph:
    """The blocked tasks of one session, by number and by what they wait for."""

    __slots__ = ("_blocked", "_waiting")

    def __init__(self) -> None:
        self._blocked: dict[int, Blocked] = {}
        #: Number → the numbers of those that wait for it, in order.
        self._waiting: dict[int, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._blocked)

    def add(self, blocked: Blocked) -> None:
        self._blocked[blocked.task.seq] = blocked
        for number in blocked.numbers():
            self._waiting.setdefault(number, {})[blocked.task.seq] = None

    def find(self, seq: int) -> Blocked | None:
        return self._blocked.get(seq)

    def drop(self, seq: int) -> None:
        """It waits no longer, for whatever reason."""
        for number in self._blocked.pop(seq).numbers():
            self._let_go(number, seq)

    def waiting_for(self, number: int) -> list[int]:
        return list(self._waiting.get(number, ()))

    def ended(self, task: Task) -> list[tuple[Blocked, str]]:
        """Those that this end settles, each out of the graph: free to run, or with the reason why they never will."""
        settled: list[tuple[Blocked, str]] = []
        for seq in self._waiting.pop(task.seq, ()):
            blocked = self._blocked[seq]
            why, dropped = blocked.note(task)
            for number in dropped:
                self._let_go(number, seq)
            if why or not blocked.waits:
                del self._blocked[seq]
                settled.append((blocked, why))
        return settled

    def edges(self) -> set[tuple[int, int]]:
        """(waits, waited for), for the check of invariants."""
        return {(seq, number) for number, waiting in self._waiting.items() for seq in waiting}

    def _let_go(self, number: int, seq: int) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.pop(seq, None)
            if not waiting:
                del self._waiting[number]
