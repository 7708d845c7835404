"""Tasks that wait for tasks, at the hub: conditions, the graph, and what the scheduler makes of both."""

import pytest

from parallelkit.core import effects as f
from parallelkit.core import events as e
from parallelkit.core.dependencies import UNMET, Condition, unmet
from parallelkit.core.tasks import TaskState
from tests.core.test_scheduler import CLIENT, Dependency, Hub, Options, Work, assigned, of

OK, ERROR, LOST = 0, 1, 4
NAME = CLIENT.hex()[:8]


def on(*numbers, **how):
    return Dependency(tuple(numbers), **how)


def told(effects):
    """What owners are told: number → reason of tasks that never ran."""
    return {x.seq: x.reason for x in of(effects, f.Conclude) if x.outcome == UNMET}


def states(hub):
    return {seq: str(task.state) for seq, task in hub.scheduler.sessions[CLIENT].tasks.items()}


# -------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("how", "ends", "left", "possible"),
    [
        ({}, [OK, OK], 0, True),
        ({}, [OK], 1, True),
        ({}, [ERROR], 1, False),
        ({"all": False}, [OK], 0, True),
        ({"all": False}, [ERROR], 1, True),
        ({"all": False}, [ERROR, LOST], 0, False),
        ({"failure": True}, [OK, LOST], 0, True),
        ({"success": False, "failure": True}, [OK], 1, False),
        ({"success": False, "failure": True}, [ERROR, LOST], 0, True),
        ({"all": False, "success": False, "failure": True}, [OK, ERROR], 0, True),
    ],
)
def test_what_counts(how, ends, left, possible):
    condition = Condition(on(0, 1, **how))
    answers = [condition.note(number, outcome, 0) for number, outcome in enumerate(ends)]
    assert (len(condition.left), answers[-1]) == (left, possible)


def test_a_reason_names_the_first_of_a_chain_and_the_last_step_only():
    reason = unmet("t-0", ERROR)
    for number in range(1, 100):
        reason = unmet(f"t-{number}", UNMET, reason)
    assert reason == "never ran, because its dependency t-0 raised an exception (by way of t-99)"


# ---------------------------------------------------------------------------------------------------- releases


def test_a_task_starts_when_its_dependencies_have_ended():
    hub = Hub(engines=3)
    hub.submit(0, 1)
    assert assigned(hub.submit(2, after=on(0, 1))) == {}
    assert states(hub)[2] == "blocked"
    assert assigned(hub.reply(hub.task(0))) == {}
    assert list(assigned(hub.reply(hub.task(1))).values()) == [[2]]


def test_one_of_any_is_enough_and_the_others_do_not_matter_then():
    hub = Hub(engines=3)
    hub.submit(0, 1)
    hub.submit(2, after=on(0, 1, all=False))
    assert list(assigned(hub.reply(hub.task(1))).values()) == [[2]]
    assert told(hub.reply(hub.task(0), outcome=ERROR)) == {}


def test_a_number_of_any_may_still_be_followed():
    hub = Hub(engines=3)
    hub.submit(0, 1)
    hub.submit(2, after=on(0, 1, all=False), follow=on(1))
    assert assigned(hub.reply(hub.task(0))) == {}
    where = hub.task(1).engine.incarnation
    assert assigned(hub.reply(hub.task(1))) == {where: [2]}


def test_what_has_ended_and_is_not_acknowledged_is_known():
    hub = Hub()
    hub.submit(0, 1)
    hub.reply(hub.task(0))
    hub.reply(hub.task(1), outcome=ERROR)
    assert list(assigned(hub.submit(2, after=on(0))).values()) == [[2]]
    assert NAME + "-1 raised" in told(hub.submit(3, after=on(1)))[3]


def test_a_retry_is_no_end():
    hub = Hub(engines=1)
    hub.submit(0, retries=1)
    hub.submit(1, after=on(0))
    assert told(hub.reply(hub.task(0), outcome=ERROR)) == {}
    assert assigned(hub.reply(hub.task(0))) == {b"engine0": [1]}


def test_a_direct_task_waits_too():
    hub = Hub()
    hub.submit(0, targets=(0,), direct=True)
    hub.submit(1, targets=(0, 1), direct=True, after=on(0))
    assert states(hub) == {0: "assigned", 1: "blocked", 2: "blocked"}
    assert assigned(hub.reply(hub.task(0))) == {b"engine0": [1], b"engine1": [2]}


# ------------------------------------------------------------------------------------------------------- dooms


def test_a_failure_dooms_a_chain_of_thousands_and_each_names_the_first():
    hub = Hub(engines=1)
    scheduler = hub.scheduler
    hub.submit(0)
    for seq in range(1, 3000):
        work = Work(options=Options(after=on(seq - 1)))
        scheduler.handle(e.Submitted(CLIENT, [(seq, work, "cargo")]), 0.0)  # without the check after each
    scheduler.check()
    reasons = told(hub.reply(hub.task(0), outcome=ERROR))
    assert list(reasons) == list(range(1, 3000))
    assert all(f"{NAME}-0 raised an exception" in reason for reason in reasons.values())
    assert scheduler.statistics().unassigned == 0


def test_a_cancelled_dependency_dooms_and_a_blocked_task_can_be_cancelled():
    hub = Hub(engines=0)
    hub.submit(0)
    hub.submit(1, after=on(0))
    hub.submit(2, after=on(1))
    hub.submit(3, after=on(0))
    effects = hub.send(e.Cancelled(CLIENT, [(3, 4), (0, 1)]))
    assert [x.outcome for x in of(effects, f.Conclude)] == [2, 2, UNMET, UNMET]
    assert f"{NAME}-0 was cancelled" in told(effects)[1]


def test_what_waits_for_a_failure_starts_with_it_and_not_without():
    for outcome, starts in [(ERROR, True), (OK, False)]:
        hub = Hub(engines=1)
        hub.submit(0)
        hub.submit(1, after=on(0, success=False, failure=True))
        effects = hub.reply(hub.task(0), outcome=outcome)
        assert bool(assigned(effects)) is starts
        if not starts:
            assert f"{NAME}-0 succeeded" in told(effects)[1]


# ------------------------------------------------------------------------------------------------------ follow


def test_a_follower_runs_where_the_other_ran_also_when_that_is_busy():
    hub = Hub(engines=2)
    hub.submit(0, 1)
    where = hub.task(0).engine
    hub.submit(2, follow=on(0))
    hub.reply(hub.task(0))
    assert hub.task(2).engine is where
    assert states(hub)[2] == "assigned"


def test_the_client_may_know_where_it_ran():
    hub = Hub(engines=2)
    assert assigned(hub.submit(0, follow=on(engines=(1,)))) == {b"engine1": [0]}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_follower_without_the_engine_says_so(replaced):
    hub = Hub(engines=2)
    hub.submit(0, 1)
    gone = hub.task(0).engine.incarnation
    hub.submit(2, follow=on(0), after=on(1))
    hub.reply(hub.task(0))
    hub.send(e.EngineGone(gone, "died"))
    if replaced:
        hub.send(e.EngineJoined(b"another process", "host", 1, b"", 0))
    assert "engine 0, where the task that it follows ran, is gone" in told(hub.reply(hub.task(1)))[2]


def test_following_to_several_engines_at_once_is_refused():
    hub = Hub(engines=2)
    hub.submit(0, 1)
    hub.submit(2, follow=on(0, 1))
    hub.submit(3, follow=on(0, 1, all=False), targets=(7,))
    effects = hub.reply(hub.task(0)) + hub.reply(hub.task(1))
    assert "several engines: [0, 1]" in told(effects)[2]
    assert "not of its targets" in told(effects)[3]


# ---------------------------------------------------------------------------------------------- hubs that forgot


def test_a_dependent_of_what_is_not_here_is_asked_for_again():
    hub = Hub(engines=1)
    hub.submit(1, after=on(0))
    hub.submit(2, after=on(2))
    assert states(hub) == {}
    effects = hub.send(e.ClientReported(CLIENT, 1, 3, [(0, 3)]))
    assert of(effects, f.AskAgain)[0].missing == [(0, 3)]
    hub.submit(0)
    hub.submit(1, after=on(0))
    assert assigned(hub.reply(hub.task(0))) == {b"engine0": [1]}


def test_an_end_that_this_hub_never_saw_sends_the_dependents_back():
    hub = Hub(engines=0)
    hub.submit(0)
    hub.submit(1, after=on(0))
    hub.submit(2, after=on(1))
    hub.submit(3)
    effects = hub.send(e.ClientReported(CLIENT, 1, 4, [(1, 4)]))
    assert states(hub) == {3: "ready"}
    assert of(effects, f.AskAgain)[0].missing == [(1, 3)]
    hub.submit(1)
    hub.submit(2, after=on(1))
    assert states(hub) == {1: "ready", 2: "blocked", 3: "ready"}


def test_a_dependent_that_an_engine_has_already_is_left_there():
    hub = Hub(engines=1, epoch=2)
    hub.submit(0)
    hub.submit(1, follow=on(0))
    hub.send(e.EngineReported(b"engine0", 0, [(CLIENT, [(1, (1 << 40) + 1, 1)])]))
    assert hub.task(1).state is TaskState.ASSIGNED
    effects = hub.send(e.EngineGone(b"engine0", "died"))
    assert [(x.seq, x.outcome) for x in of(effects, f.Conclude)] == [(1, LOST)]  # it had followed to this engine


def test_a_client_that_leaves_takes_all_with_it():
    hub = Hub(engines=1)
    hub.submit(0)
    hub.submit(1, after=on(0))
    hub.send(e.ClientGone(CLIENT))
    assert hub.scheduler.statistics().tasks == 0
