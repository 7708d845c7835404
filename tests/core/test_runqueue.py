"""The engine's machine, driven event by event; every invariant is checked after every step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parallelkit.core.runqueue import Entry, RunQueue, Stage
from parallelkit.errors import InternalError

A, B = b"a" * 16, b"b" * 16


def attempt(number, epoch=1):
    return epoch << 40 | number


def entry(number, session=A, needs=None, epoch=1):
    return Entry(session, number, attempt(number, epoch), f"work {number}", needs)


@pytest.fixture
def tasks():
    queue = RunQueue(memory=4)
    yield queue
    queue.check()


def start_all(queue):
    started = []
    while (found := queue.next()) is not None:
        started.append(found.attempt)
    return started


def test_attempts_start_in_the_order_in_which_they_came(tasks):
    tasks.accept([entry(2), entry(1)])
    tasks.accept([entry(3)])
    assert start_all(tasks) == [attempt(2), attempt(1), attempt(3)]


def test_a_repeated_assignment_starts_nothing_twice(tasks):
    for stage in ("queued", "running", "finished"):
        assert tasks.accept([entry(1)]) == [], stage
        if stage == "queued":
            assert start_all(tasks) == [attempt(1)]
        elif stage == "running":
            assert start_all(tasks) == []
            tasks.finish(attempt(1), "result")
    assert start_all(tasks) == []


def test_what_is_over_is_refused_when_it_is_assigned_again(tasks):
    tasks.accept([entry(1)])
    tasks.next()
    tasks.finish(attempt(1), "result")
    tasks.acknowledge([attempt(1)])
    assert tasks.accept([entry(1)]) == [attempt(1)]
    assert tasks.next() is None


def test_what_is_older_than_the_memory_is_refused_too(tasks):
    for number in range(1, 8):
        tasks.accept([entry(number)])
        tasks.next()
        tasks.finish(attempt(number), "result")
        tasks.acknowledge([attempt(number)])
    assert tasks.accept([entry(1), entry(3), entry(8)]) == [attempt(1), attempt(3)]
    assert start_all(tasks) == [attempt(8)]


def test_an_older_hub_is_ignored(tasks):
    assert tasks.admit(2)
    assert not tasks.admit(1)
    assert tasks.admit(2)
    assert tasks.epoch == 2


def test_results_stay_until_they_are_acknowledged(tasks):
    tasks.accept([entry(1), entry(2)])
    start_all(tasks)
    tasks.finish(attempt(1), "one")
    assert [found.result for found in tasks.outbox([attempt(1), attempt(2), attempt(3)])] == ["one"]
    tasks.acknowledge([attempt(1), attempt(2), attempt(3)])
    assert tasks.outbox([attempt(1)]) == []
    assert tasks.inventory() == {A: [(2, attempt(2), Stage.RUNNING)]}


def test_a_finished_attempt_lets_go_of_its_arguments(tasks):
    tasks.accept([entry(1)])
    running = tasks.next()
    tasks.finish(attempt(1), "result")
    assert running.work is None


@pytest.mark.parametrize("prepare", ["absent", "queued", "held", "finished"])
def test_only_a_running_attempt_can_finish(tasks, prepare):
    if prepare != "absent":
        tasks.accept([entry(1, needs=b"f" if prepare == "held" else None)])
    if prepare == "finished":
        tasks.next()
        tasks.finish(attempt(1), "result")
    with pytest.raises(InternalError, match=str(attempt(1))):
        tasks.finish(attempt(1), "again")


class TestRecall:
    def test_unstarted_attempts_are_given_up_for_ever(self, tasks):
        tasks.accept([entry(1), entry(2), entry(3)])
        tasks.next()
        assert tasks.recall([attempt(1), attempt(3)]) == [attempt(3)]
        assert start_all(tasks) == [attempt(2)]
        assert tasks.accept([entry(3)]) == [attempt(3)]
        assert tasks.next() is None

    def test_one_that_has_not_arrived_will_not_start_when_it_does(self, tasks):
        assert tasks.recall([attempt(1)]) == [attempt(1)]
        assert tasks.accept([entry(1)]) == [attempt(1)]
        assert tasks.next() is None

    def test_a_finished_one_is_answered_by_its_result(self, tasks):
        tasks.accept([entry(1)])
        tasks.next()
        tasks.finish(attempt(1), "result")
        assert tasks.recall([attempt(1)]) == []
        assert tasks.inventory() == {A: [(1, attempt(1), Stage.FINISHED)]}


class TestInterrupt:
    def test_queued_running_finished_and_unknown(self, tasks):
        tasks.accept([entry(1), entry(2), entry(3)])
        tasks.next()
        tasks.finish(attempt(1), "result")
        tasks.next()
        found = tasks.interrupt([attempt(1), attempt(2), attempt(3), attempt(4)])
        assert [dropped.attempt for dropped in found.dropped] == [attempt(3)]
        assert found.running == [attempt(2)]
        assert found.absent == [attempt(4)]
        tasks.finish(attempt(3), "cancelled")
        assert tasks.next() is None
        assert tasks.accept([entry(4)]) == [attempt(4)]


class TestMissingFunctions:
    def test_one_session_waits_and_the_others_pass(self, tasks):
        tasks.accept([entry(1, A, b"f"), entry(2, A), entry(3, B)])
        assert start_all(tasks) == [attempt(3)]
        for held in tasks.held():
            held.needs = None
        tasks.release()
        assert start_all(tasks) == [attempt(1), attempt(2)]

    def test_order_is_kept_when_the_second_function_comes_first(self, tasks):
        tasks.accept([entry(1, A, b"f"), entry(2, A, b"g"), entry(3, A)])
        tasks.held()[1].needs = None
        tasks.release()
        assert start_all(tasks) == []
        tasks.held()[0].needs = None
        tasks.release()
        assert start_all(tasks) == [attempt(1), attempt(2), attempt(3)]

    @pytest.mark.parametrize("how", ["recall", "interrupt"])
    def test_taking_the_first_away_frees_those_behind_it(self, tasks, how):
        tasks.accept([entry(1, A, b"f"), entry(2, A)])
        getattr(tasks, how)([attempt(1)])
        assert start_all(tasks) == [attempt(2)]
        if how == "interrupt":
            tasks.finish(attempt(1), "cancelled")


def test_statistics_count_by_stage(tasks):
    tasks.accept([entry(1), entry(2), entry(3, B, b"f")])
    tasks.next()
    tasks.finish(attempt(1), "result")
    tasks.next()
    assert tasks.statistics()._asdict() == {
        "queued": 1,
        "held": 1,
        "running": 1,
        "finished": 1,
        "started": 2,
        "completed": 1,
    }


class Machine(RuleBasedStateMachine):
    """A hub that repeats itself and forgets, an engine that starts at most once."""

    numbers = st.integers(1, 12)

    def __init__(self):
        super().__init__()
        self.tasks = RunQueue(memory=3)
        self.started = []
        self.given_up = set()
        self.acknowledged = set()
        self.running = []

    @rule(numbers=st.lists(numbers, max_size=4), session=st.sampled_from([A, B]), needs=st.sampled_from([None, b"f"]))
    def assign(self, numbers, session, needs):
        entries = [Entry(A if number % 2 else B, number, attempt(number), "work", needs) for number in numbers]
        for refused in self.tasks.accept(entries):
            assert refused not in self.running
            self.given_up.add(refused)

    @rule()
    def functions_arrive(self):
        for held in self.tasks.held():
            held.needs = None
        self.tasks.release()

    @rule()
    def start(self):
        found = self.tasks.next()
        if found is not None:
            assert found.attempt not in self.started
            assert found.attempt not in self.given_up
            self.started.append(found.attempt)
            self.running.append(found.attempt)

    @rule(data=st.data())
    def finish(self, data):
        if self.running:
            chosen = data.draw(st.sampled_from(self.running))
            self.running.remove(chosen)
            self.tasks.finish(chosen, "result")

    @rule(numbers=st.lists(numbers, max_size=4))
    def recall(self, numbers):
        for number in self.tasks.recall([attempt(n) for n in numbers]):
            assert number not in self.running
            self.given_up.add(number)

    @rule(numbers=st.lists(numbers, max_size=4))
    def interrupt(self, numbers):
        found = self.tasks.interrupt([attempt(n) for n in dict.fromkeys(numbers)])
        assert set(found.running) <= set(self.running)
        for dropped in found.dropped:
            assert dropped.attempt not in self.started
            self.started.append(dropped.attempt)  # it has had its one ending: it may not start after it
            self.tasks.finish(dropped.attempt, "cancelled")
        self.given_up.update(found.absent)

    @rule(numbers=st.lists(numbers, max_size=4))
    def acknowledge(self, numbers):
        self.tasks.acknowledge([attempt(n) for n in numbers])

    @invariant()
    def holds_together(self):
        self.tasks.check()
        stages = {number: stage for found in self.tasks.inventory().values() for _, number, stage in found}
        assert sorted(number for number, stage in stages.items() if stage is Stage.RUNNING) == sorted(self.running)
        assert all(number in self.started for number, stage in stages.items() if stage is not Stage.QUEUED)


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
