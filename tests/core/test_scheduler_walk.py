"""Any order of events keeps the hub's books: hypothesis picks what happens next, ``check`` runs after each step."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parallelkit.core import effects as f
from parallelkit.core import events as e
from parallelkit.core.scheduler import Scheduler
from tests.core.test_scheduler import Dependency, Options, Result, Work

CLIENTS = (b"one", b"two")


@dataclass
class Attempt:
    session: bytes
    seq: int
    attempt: int


class Walk(RuleBasedStateMachine):
    """Engines do what they are told, at a time that hypothesis picks; nothing is lost on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.now = 0.0
        self.held: dict[bytes, dict[int, Attempt]] = {}
        self.next_seq = dict.fromkeys(CLIENTS, 0)
        self.delivered: dict[tuple[bytes, int], int] = {}
        self.outcomes: dict[tuple[bytes, int], int] = {}
        self.needs: dict[tuple[bytes, int], Dependency] = {}
        self.number = 0
        self.engines = 0
        for client in CLIENTS:
            self.send(e.ClientJoined(client))

    def send(self, event) -> None:
        for effect in self.scheduler.handle(event, self.now):
            self.perform(effect)

    def perform(self, effect) -> None:
        match effect:
            case f.Assign(engine, tasks):
                for task in tasks:
                    self.may_start(task.session.id, task.seq)
                    self.held[engine.incarnation][task.attempt] = Attempt(task.session.id, task.seq, task.attempt)
            case f.Deliver(session, results):
                for record, _ in results:
                    self.deliver(session, record.seq, record.outcome)
            case f.Conclude(session, seq, outcome):
                self.deliver(session, seq, outcome)
            case f.Recall(incarnation, attempts):
                back = [a for a in list(attempts) if self.held[incarnation].pop(a, None)]
                self.send(e.Returned(incarnation, back))
            case f.Interrupt(incarnation, attempts):
                for attempt in attempts:
                    if incarnation in self.held and attempt in self.held[incarnation]:
                        self.reply(incarnation, attempt, outcome=2)

    def may_start(self, session: bytes, seq: int) -> None:
        need = self.needs.get((session, seq))
        if need is None:
            return
        ends = [self.outcomes.get((session, number)) for number in need.numbers]
        counts = [end is not None and (need.success if end == 0 else need.failure) for end in ends]
        assert all(counts) if need.all else any(counts), f"{seq} starts after {need}, which ended {ends}"

    def deliver(self, session: bytes, seq: int, outcome: int) -> None:
        key = session, seq
        self.outcomes[key] = outcome
        self.delivered[key] = self.delivered.get(key, 0) + 1
        assert self.delivered[key] == 1, f"{key} was delivered twice"

    def reply(self, incarnation: bytes, attempt: int, outcome: int) -> None:
        held = self.held[incarnation].pop(attempt)
        result = Result(held.seq, attempt, outcome, 0.01)
        self.send(e.Replied(incarnation, held.session, [(result, "cargo")]))

    @rule(client=st.sampled_from(CLIENTS), count=st.integers(1, 8), function=st.sampled_from([b"f", b"g"]),
          options=st.sampled_from([None, Options(priority=1), Options(targets=(0, 1)), Options(retries=1),
                                   Options(max_attempts=1), Options(targets=(0, 1), direct=True)]))  # fmt: skip
    def submit(self, client, count, function, options):
        fan = len(options.targets) if options and options.direct else 1
        first = self.next_seq[client]
        self.next_seq[client] += count * fan
        work = Work(function=function, options=options)
        self.send(e.Submitted(client, [(first + n * fan, work, "cargo") for n in range(count)]))

    @precondition(lambda self: any(self.next_seq.values()))
    @rule(data=st.data(), all=st.booleans(), counts=st.sampled_from([(True, False), (False, True), (True, True)]),
          kind=st.sampled_from(["after", "follow"]), direct=st.booleans())  # fmt: skip
    def submit_dependents(self, data, all, counts, kind, direct):
        """As a client does it: only what is outstanding is named."""
        client = data.draw(st.sampled_from([client for client, count in self.next_seq.items() if count]))
        for _ in range(data.draw(st.integers(1, 4))):
            waiting = [n for n in range(self.next_seq[client]) if (client, n) not in self.delivered]
            if not waiting:
                return
            numbers = data.draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=4, unique=True))
            need = Dependency(tuple(numbers), all, *counts)
            targets = {"targets": (0,), "direct": True} if direct and kind == "after" else {}
            seq = self.next_seq[client]
            self.next_seq[client] += 1
            self.needs[client, seq] = need
            self.send(e.Submitted(client, [(seq, Work(options=Options(**{kind: need}, **targets)), "cargo")]))

    @rule()
    def engine_joins(self):
        incarnation = b"engine%d" % self.engines
        self.engines += 1
        self.held[incarnation] = {}
        self.send(e.EngineJoined(incarnation, "host", 1, b"", -1))

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), outcome=st.sampled_from([0, 0, 0, 1]))
    def engine_replies(self, data, outcome):
        incarnation = data.draw(st.sampled_from([i for i, held in self.held.items() if held]))
        self.reply(incarnation, next(iter(self.held[incarnation])), outcome)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def engine_dies(self, data):
        incarnation = data.draw(st.sampled_from(list(self.held)))
        del self.held[incarnation]
        self.send(e.EngineGone(incarnation, "died"))

    @rule(client=st.sampled_from(CLIENTS), start=st.integers(0, 30), count=st.integers(1, 10))
    def cancel(self, client, start, count):
        self.send(e.Cancelled(client, [(start, min(start + count, self.next_seq[client]))]))

    @rule(client=st.sampled_from(CLIENTS))
    def beat(self, client):
        self.number += 1
        waiting = [n for n in range(self.next_seq[client]) if (client, n) not in self.delivered]
        self.send(e.ClientReported(client, self.number, self.next_seq[client], [(n, n + 1) for n in waiting]))

    @rule(seconds=st.sampled_from([0.001, 0.1, 2.0]))
    def time(self, seconds):
        self.now += seconds
        self.send(e.EnginesSeen(list(self.held)))
        self.send(e.Tick())

    @invariant()
    def books_are_in_order(self):
        self.scheduler.check()

    def teardown(self):
        self.engine_joins()
        self.engine_joins()
        for _ in range(2000):
            self.now += 0.01
            self.send(e.Tick())
            busy = [i for i, held in self.held.items() if held]
            if not busy:
                break
            for incarnation in busy:
                for attempt in list(self.held[incarnation])[:1]:
                    self.reply(incarnation, attempt, 0)
        targeted = {key for key, task in self.tasks() if task.targets}
        missing = {(c, n) for c in CLIENTS for n in range(self.next_seq[c])} - set(self.delivered)
        for client, seq in sorted(missing):  # what waits for one that waits for its engines does so too
            if (client, seq) in self.needs and targeted.intersection(
                (client, n) for n in self.needs[client, seq].numbers
            ):
                targeted.add((client, seq))
        assert missing <= targeted, f"never ended: {missing - targeted}"

    def tasks(self):
        for session in self.scheduler.sessions.values():
            for seq, task in session.tasks.items():
                yield (session.id, seq), task


Walk.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWalk = Walk.TestCase
