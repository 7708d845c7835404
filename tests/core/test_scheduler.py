"""The scheduler as a table: one event in, effects out. Time is a number, engines and clients are names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from parallelkit.core import effects as f
from parallelkit.core import events as e
from parallelkit.core.scheduler import Scheduler
from parallelkit.core.tasks import TRANSITIONS, TaskState
from parallelkit.errors import InternalError

CLIENT = b"client"


@dataclass(frozen=True)
class Dependency:
    numbers: tuple[int, ...]
    all: bool = True
    success: bool = True
    failure: bool = False
    engines: tuple[int, ...] = ()


@dataclass(frozen=True)
class Options:
    targets: tuple[int, ...] = ()
    direct: bool = False
    priority: int = 0
    retries: int = 0
    max_attempts: int = 4
    after: Dependency | None = None
    follow: Dependency | None = None


@dataclass(frozen=True)
class Work:
    function: bytes = b"f"
    items: int = 1
    options: Options | None = None


@dataclass(frozen=True)
class Result:
    seq: int
    attempt: int
    outcome: int = 0
    seconds: float = 0.01


class Hub:
    """A scheduler with a clock, checked after each event."""

    def __init__(self, engines: int = 2, **settings) -> None:
        self.scheduler = Scheduler(**settings)
        self.now = 0.0
        self.send(e.ClientJoined(CLIENT))
        for n in range(engines):
            self.join(n)

    def send(self, event) -> list:
        effects = self.scheduler.handle(event, self.now)
        self.scheduler.check()
        return effects

    def join(self, n: int, node: bytes = b"") -> list:
        return self.send(e.EngineJoined(b"engine%d" % n, "host", 1, node, n))

    def submit(self, *seqs: int, client: bytes = CLIENT, **work) -> list:
        options = {k: work.pop(k) for k in list(work) if k in Options.__dataclass_fields__}
        record = Work(options=Options(**options) if options else None, **work)
        return self.send(e.Submitted(client, [(seq, record, f"cargo{seq}") for seq in seqs]))

    def reply(self, task, outcome: int = 0, seconds: float = 0.01, client: bytes = CLIENT) -> list:
        engine = task.engine.incarnation
        return self.send(e.Replied(engine, client, [(Result(task.seq, task.attempt, outcome, seconds), "result")]))

    def task(self, seq: int, client: bytes = CLIENT):
        return self.scheduler.sessions[client].tasks[seq]

    def learn(self, seconds: float, function: bytes = b"f") -> None:
        """Let the hub see one run of the function."""
        seq = 1_000_000 + int(self.now * 1000)
        self.submit(seq, function=function)
        self.reply(self.task(seq), seconds=seconds)
        self.send(e.Acknowledged(CLIENT, [seq]))


def of(effects: list, kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def assigned(effects: list) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for effect in of(effects, f.Assign):
        found.setdefault(effect.engine.incarnation, []).extend(task.seq for task in effect.tasks)
    return found


def test_one_task_goes_out_and_its_result_comes_back():
    hub = Hub(engines=1)
    assert assigned(hub.submit(0)) == {b"engine0": [0]}
    effects = hub.reply(hub.task(0))
    assert of(effects, f.Deliver)[0].results[0][1] == "result"
    assert of(hub.send(e.Acknowledged(CLIENT, [0])), f.Release) == [f.Release(b"engine0", [hub_attempt(1)])]
    assert hub.scheduler.statistics().tasks == 0


def hub_attempt(n: int, epoch: int = 1) -> int:
    return (epoch << 40) + n


def test_unmeasured_tasks_are_spread_one_to_each_engine():
    hub = Hub(engines=3)
    assert assigned(hub.submit(*range(10))) == {b"engine0": [0], b"engine1": [1], b"engine2": [2]}


def test_short_tasks_are_sent_ahead_and_long_ones_are_not():
    hub = Hub(engines=1, prefetch=0.004)
    hub.learn(0.0001)
    assert len(assigned(hub.submit(*range(100)))[b"engine0"]) == pytest.approx(41, abs=1)  # 4 ms beyond the running one
    slow = Hub(engines=1)
    slow.learn(1.0)
    assert len(assigned(slow.submit(*range(100)))[b"engine0"]) == 1


def test_few_short_tasks_are_shared_among_idle_engines():
    hub = Hub(engines=4)
    hub.learn(0.00001)
    counts = [len(seqs) for seqs in assigned(hub.submit(*range(8))).values()]
    assert counts == [2, 2, 2, 2]


def test_an_idle_engine_gets_half_of_what_another_has_not_begun():
    hub = Hub(engines=2)
    hub.learn(0.001)
    hub.submit(0, 1, 2, 3, 4, 5)
    first = [t.seq for t in hub.scheduler.roster.by_id[0].assigned.values()]
    for task in list(hub.scheduler.roster.by_id[1].assigned.values()):
        hub.now += 0.001
        effects = hub.reply(task)
    hub.now += 0.01  # engine 0 is stuck
    recall = of(effects, f.Recall) or of(hub.send(e.Tick()), f.Recall)
    assert recall[0].incarnation == b"engine0"
    back = [hub.scheduler.roster.by_id[0].assigned[a].seq for a in recall[0].attempts]
    assert back == first[len(first) - len(back) :]
    assert first[0] not in back
    moved = hub.send(e.Returned(b"engine0", recall[0].attempts))
    assert assigned(moved)[b"engine1"] == back
    assert hub.task(back[0]).runs == 1


def test_direct_tasks_keep_their_order_and_their_engine():
    hub = Hub(engines=2)
    effects = hub.submit(0, targets=(0, 1), direct=True)
    assert assigned(effects) == {b"engine0": [0], b"engine1": [1]}
    assert assigned(hub.submit(2, 3, targets=(1,), direct=True)) == {b"engine1": [2, 3]}
    effects = hub.send(e.EngineGone(b"engine1", "was killed by SIGKILL"))
    verdicts = of(effects, f.Conclude)
    assert sorted(v.seq for v in verdicts) == [1, 2, 3]
    assert all(v.outcome == 4 and "engine 1 was killed by SIGKILL" in v.reason for v in verdicts)


def test_a_direct_task_for_an_engine_that_is_not_there_ends_at_once():
    hub = Hub(engines=1)
    (verdict,) = of(hub.submit(0, targets=(7,), direct=True), f.Conclude)
    assert verdict.reason == "there is no engine 7"


def test_targets_hold_for_balanced_tasks():
    hub = Hub(engines=3)
    assert assigned(hub.submit(0, 1, 2, targets=(1, 2))) == {b"engine1": [0], b"engine2": [1]}
    effects = hub.reply(hub.task(0))
    assert assigned(effects) == {b"engine1": [2]}


def test_priority_goes_first_within_a_client():
    hub = Hub(engines=1)
    hub.submit(0)
    hub.submit(1, 2)
    hub.submit(3, priority=5)
    assert assigned(hub.reply(hub.task(0), seconds=1.0)) == {b"engine0": [3]}


def test_a_newcomer_is_served_beside_a_million_tasks():
    hub = Hub(engines=1)
    hub.send(e.ClientJoined(b"other"))
    hub.learn(1.0)
    hub.submit(*range(1000))
    hub.submit(0, 1, 2, client=b"other")
    order = []
    for _ in range(7):
        (task,) = hub.scheduler.roster.by_id[0].assigned.values()
        order.append(task.session.id)
        hub.reply(task, seconds=1.0, client=task.session.id)
    assert order.count(b"other") == 3


def test_what_ran_on_a_lost_engine_is_repeated_and_what_waited_there_is_unharmed():
    hub = Hub(engines=2)
    hub.learn(0.001)
    hub.submit(0, 1, 2, 3)
    held = list(hub.scheduler.roster.by_id[0].assigned.values())
    hub.send(e.EngineGone(b"engine0", "was killed by SIGKILL"))
    assert [task.runs for task in held] == [1, *[0] * (len(held) - 1)] or all(task.runs <= 2 for task in held)
    assert all(task.state in (TaskState.READY, TaskState.ASSIGNED) for task in held)


def test_at_most_once_means_once():
    hub = Hub(engines=1)
    hub.submit(0, max_attempts=1)
    (verdict,) = of(hub.send(e.EngineGone(b"engine0", "exited with code 1")), f.Conclude)
    assert (verdict.outcome, verdict.runs) == (4, 1)
    assert "had begun once and may not again" in verdict.reason


def test_at_most_once_tasks_are_never_sent_ahead():
    hub = Hub(engines=1)
    hub.learn(0.00001)
    assert assigned(hub.submit(*range(5), max_attempts=1)) == {b"engine0": [0]}


def test_a_task_that_kills_its_engines_is_given_up():
    hub = Hub(engines=0)
    hub.submit(0, max_attempts=3)
    for n in range(3):
        assert assigned(hub.join(n)) == {b"engine%d" % n: [0]}
        effects = hub.send(e.EngineGone(b"engine%d" % n, "exited with code 1"))
    (verdict,) = of(effects, f.Conclude)
    assert "had begun 3 times" in verdict.reason


def test_retries_repeat_what_raised_and_then_deliver_the_error():
    hub = Hub(engines=1)
    hub.submit(0, retries=1)
    effects = hub.reply(hub.task(0), outcome=1)
    assert assigned(effects) == {b"engine0": [0]}
    assert not of(effects, f.Deliver)
    assert of(hub.reply(hub.task(0), outcome=1), f.Deliver)
    assert hub.task(0).runs == 2


def test_cancel_ends_a_waiting_task_at_once_and_interrupts_a_running_one():
    hub = Hub(engines=1)
    hub.submit(0, 1)
    effects = hub.send(e.Cancelled(CLIENT, [(0, 2)]))
    assert [v.seq for v in of(effects, f.Conclude)] == [1]
    (interrupt,) = of(effects, f.Interrupt)
    assert interrupt.attempts == [hub.task(0).attempt]
    assert of(hub.reply(hub.task(0), outcome=2), f.Deliver)


def test_cancelled_and_lost_is_cancelled():
    hub = Hub(engines=1)
    hub.submit(0)
    hub.send(e.Cancelled(CLIENT, [(0, 1)]))
    (verdict,) = of(hub.send(e.EngineGone(b"engine0", "was silent")), f.Conclude)
    assert verdict.outcome == 2


def test_silence_costs_an_engine_its_place_and_a_word_of_its_node_keeps_it():
    hub = Hub(engines=2, silence=6.0)
    hub.now = 5.0
    hub.send(e.EnginesSeen([b"engine1"]))
    hub.now = 7.0
    (change,) = of(hub.send(e.Tick()), f.RosterChanged)
    assert change.left == [(0, "was silent for 6 s")]


def test_an_engine_that_was_given_up_and_comes_back_with_its_result_is_welcome():
    hub = Hub(engines=1)
    hub.submit(0)
    attempt = hub.task(0).attempt
    hub.now = 10.0
    hub.send(e.Tick())
    assert hub.task(0).state is TaskState.READY
    hub.join(0)
    effects = hub.send(e.EngineReported(b"engine0", 1, [(CLIENT, [(0, attempt, 2)])]))
    assert of(effects, f.Resend) == [f.Resend(b"engine0", [attempt])]
    effects = hub.send(e.Replied(b"engine0", CLIENT, [(Result(0, attempt), "late")]))
    assert of(effects, f.Deliver)[0].results[0][1] == "late"


def test_the_first_result_wins_and_the_other_run_is_interrupted():
    hub = Hub(engines=1)
    hub.submit(0)
    first = hub.task(0).attempt
    hub.now = 10.0
    hub.send(e.Tick())
    hub.join(1)
    second = hub.task(0).attempt
    assert second > first
    hub.send(e.EngineJoined(b"engine0", "host", 1, b"", 0))
    effects = hub.send(e.Replied(b"engine0", CLIENT, [(Result(0, first), "first")]))
    assert of(effects, f.Deliver)
    assert of(effects, f.Interrupt) == [f.Interrupt(b"engine1", [second])]


def test_absence_from_a_newer_inventory_is_an_acknowledgement():
    hub = Hub(engines=1)
    hub.submit(0, 1)
    hub.reply(hub.task(0))
    effects = hub.send(e.ClientReported(CLIENT, 1, 2, [(1, 2)]))
    assert of(effects, f.Release)
    assert list(hub.scheduler.sessions[CLIENT].tasks) == [1]
    stale = hub.send(e.ClientReported(CLIENT, 1, 2, []))
    assert stale == []
    assert list(hub.scheduler.sessions[CLIENT].tasks) == [1]


def test_a_client_is_asked_for_what_the_hub_lacks():
    hub = Hub(engines=1)
    (ask,) = of(hub.send(e.ClientReported(CLIENT, 1, 9, [(2, 4), (6, 7)])), f.AskAgain)
    assert ask.missing == [(2, 4), (6, 7)]


def test_a_lost_assignment_is_sent_again_under_the_same_attempt():
    hub = Hub(engines=1)
    hub.submit(0)
    attempt = hub.task(0).attempt
    assert not of(hub.send(e.EngineReported(b"engine0", 0, [])), f.Assign)  # it may still be on its way
    (again,) = of(hub.send(e.EngineReported(b"engine0", 1, [])), f.Assign)
    assert [task.attempt for task in again.tasks] == [attempt]


def test_a_result_that_died_with_its_engine_is_computed_again():
    hub = Hub(engines=1, heartbeat=1.0)
    hub.submit(0)
    hub.reply(hub.task(0))
    hub.send(e.EngineGone(b"engine0", "was killed"))
    hub.now = 3.0
    hub.send(e.ClientReported(CLIENT, 1, 1, [(0, 1)]))
    assert hub.task(0).state is TaskState.READY


def test_a_new_hub_waits_for_inventories_and_repeats_nothing_that_runs():
    hub = Hub(engines=1, epoch=2, heartbeat=1.0)
    old = hub_attempt(7, epoch=1)
    hub.send(e.EngineReported(b"engine0", 0, [(CLIENT, [(0, old, 1)])]))
    assert not assigned(hub.submit(0, 1))
    assert hub.task(0).state is TaskState.ASSIGNED
    hub.now = 3.0
    assert not assigned(hub.send(e.Tick()))  # engine 0 is busy with task 0
    effects = hub.send(e.Replied(b"engine0", CLIENT, [(Result(0, old), "result")]))
    assert of(effects, f.Deliver)
    assert assigned(effects) == {b"engine0": [1]}


def test_a_client_that_leaves_takes_its_tasks_along():
    hub = Hub(engines=1)
    hub.submit(0, 1)
    attempt = hub.task(0).attempt
    effects = hub.send(e.ClientGone(CLIENT))
    assert of(effects, f.Interrupt) == [f.Interrupt(b"engine0", [attempt])]
    late = hub.send(e.Replied(b"engine0", CLIENT, [(Result(0, attempt), "result")]))
    assert late == [f.Release(b"engine0", [attempt])]
    assert hub.scheduler.statistics().sessions == 0


def test_a_replaced_engine_keeps_its_id_even_if_the_notice_of_death_is_late():
    hub = Hub(engines=0)
    hub.join(0, node=b"node")
    effects = hub.send(e.EngineJoined(b"new", "host", 2, b"node", 0))
    changes = of(effects, f.RosterChanged)
    assert changes[0].left == [(0, "was replaced by its node")]
    assert changes[1].joined[0].id == 0


def test_a_forbidden_move_raises_with_the_story():
    hub = Hub(engines=1)
    hub.submit(0)
    with pytest.raises(InternalError, match=r"cannot become assigned.*assigned"):
        hub.scheduler._state.assigned(hub.task(0), hub.task(0).engine, 0.0, "twice")


def test_the_story_of_a_task():
    hub = Hub(engines=1)
    hub.submit(0)
    hub.reply(hub.task(0))
    assert [line.why for line in hub.scheduler.story(CLIENT, 0)] == ["assigned", "result"]


def test_every_state_but_the_last_can_be_left():
    assert set(TRANSITIONS) == set(TaskState)
    assert [s for s, to in TRANSITIONS.items() if not to] == [TaskState.FORGOTTEN]


def test_events_and_effects_are_frozen():
    for module in (e, f):
        for thing in vars(module).values():
            if dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__:
                assert thing.__dataclass_params__.frozen, thing
