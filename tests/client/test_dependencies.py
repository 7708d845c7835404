"""What calls wait for: the flags ``after`` and ``follow``, and results as arguments."""

import gc
import threading
import weakref

import pytest

import parallelkit as pk
from parallelkit.client import threads
from parallelkit.client.dependencies import DeferredResult
from parallelkit.client.needs import FAILURES_REMEMBERED, Failures
from parallelkit.errors import HubUnreachable, ImpossibleDependency, SerializationError, TaskCancelled
from parallelkit.wire.messages import Dependency, Outcome, ResultRecord
from tests.client.scripted_link import ScriptedLink

TIMEOUT = 10


def add(x, y=0):
    return x + y


def total(values):
    return sum(values.values() if isinstance(values, dict) else values)


def fail(x):
    try:
        raise KeyError(x)
    except KeyError as error:
        raise ValueError("told", x) from error


def needs(client, index=-1):
    """What the calls submitted last wait for."""
    calls, _ = client.session.link.submitted[index]
    return calls[0].needs


# ------------------------------------------------------------------------------------------------------- flags


def test_every_way_to_say_after(held):
    view = held.load_balanced_view()
    one, two = view.apply_async(add, 1), view.apply_async(add, 2)
    for value, wire in [
        (one, Dependency((0,))),
        ([one, two], Dependency((0, 1))),
        (two.msg_ids, Dependency((1,))),
        (one.msg_ids[0], Dependency((0,))),
        (pk.Dependency([one, *two.msg_ids], all=False, failure=True), Dependency((0, 1), False, True, True)),
    ]:
        with view.temp_flags(after=value):
            view.apply_async(add, 3)
        assert needs(held).after.dependency == wire
        assert needs(held).follow is None
    view.set_flags(follow=one).apply_async(add, 4)
    assert needs(held).follow.dependency == Dependency((0,))
    view.follow = None
    view.apply_async(add, 5)
    assert needs(held) is None


def test_each_task_of_a_map_and_of_a_direct_call_waits(held):
    first = held.load_balanced_view().apply_async(add, 1)
    everyone = held[:]
    everyone.set_flags(after=first)
    everyone.push({"x": 1})
    everyone.scatter("y", range(4))
    everyone.map_async(add, range(4))
    held.load_balanced_view(after=first).map_async(add, range(4), chunksize=2)
    for calls, _ in held.session.link.submitted[1:]:
        assert all(call.needs.after.dependency.numbers == (0,) for call in calls)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3, TypeError, "3 is nothing to wait for"),
        ([3], TypeError, "nothing to wait for"),
        ("elsewhere-3", ValueError, "no task of this client"),
    ],
)
def test_what_cannot_be_waited_for(client, value, error, text):
    with pytest.raises(error, match=text):
        client.load_balanced_view(after=value).apply_async(add, 1)
    assert client.session.pending == set()


def test_a_direct_view_follows_nothing(client):
    done = client[0].apply_async(add, 1)
    with pytest.raises(ValueError, match="use after="):
        client[0].set_flags(follow=done).apply_async(add, 1)


def test_a_dependency_that_nothing_can_meet():
    with pytest.raises(ValueError, match="no end of a task could count"):
        pk.Dependency([], success=False)


def test_a_task_that_never_ran_says_why(client):
    client.session.link.fate = lambda task: (Outcome.UNMET, b"never ran, because its dependency a-0 was lost", ())
    result = client.load_balanced_view().apply_async(add, 1)
    with pytest.raises(
        ImpossibleDependency, match=r"add \(a1b2c3d4-0\): never ran, because its dependency a-0 was lost"
    ):
        result.get(TIMEOUT)
    assert result.metadata["status"] == "unmet"


def test_a_call_after_a_map_is_sent_when_the_map_is_here(held):
    view, link = held.load_balanced_view(), held.session.link
    mapped = view.map_async(fail, range(2), chunksize=1)
    with view.temp_flags(after=mapped):
        result = view.apply_async(add, 1)
    with pytest.raises(ValueError, match="a map cannot wait for"), view.temp_flags(after=mapped):
        view.map_async(add, range(2))
    assert link.count == 2
    link.release()
    assert result.get(TIMEOUT) == 1  # this link knows no dependencies
    (known,) = needs(held).after.known_by
    assert (known.outcome, needs(held).after.dependency.numbers) == (Outcome.ERROR, (-1,))


def test_only_so_many_failures_are_remembered():
    failures = Failures()
    for seq in range(FAILURES_REMEMBERED + 5):
        failures.add(ResultRecord(seq, 1, Outcome.ERROR, b"large"))
    assert failures.forgotten == 4
    assert failures.ended(5) == ResultRecord(5, 0, Outcome.ERROR, b"")
    assert failures.ended(FAILURES_REMEMBERED + 5).outcome is Outcome.OK


# --------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("make", [lambda rc: rc.load_balanced_view(), lambda rc: rc[0]])
def test_a_result_as_an_argument_arrives_as_its_value(held, make):
    view, link = make(held), held.session.link
    one, two = view.apply_async(add, 1), view.apply_async(add, 2)
    sums = [
        view.apply_async(add, one, y=two),
        view.apply_async(total, [one, two]),
        view.apply_async(total, (one, two)),
        view.apply_async(total, {"a": one, "b": two}),
    ]
    chained = view.submit(add, sums[0], sums[1])
    assert link.count == 2
    assert not chained.done()
    link.release()
    assert [result.get(TIMEOUT) for result in sums] == [3, 3, 3, 3]
    assert chained.get(TIMEOUT) == 6
    assert held.wait(timeout=TIMEOUT)


def test_the_value_of_a_map_and_of_several_engines(client):
    view = client.load_balanced_view()
    assert view.apply_sync(total, view.map_async(add, range(100))) == 4950
    assert client[:].apply_sync(total, client[:].apply_async(add, 4)) == [8, 8]


def test_before_it_is_sent_a_call_is_a_pending_result(held):
    view = held.load_balanced_view()
    first = view.apply_async(add, 1)
    result = view.apply_async(add, first)
    assert "add: waiting" in repr(result)
    assert (result.metadata["status"], result.metadata["msg_id"]) == ("pending", "not sent yet")
    assert result in held.session.pending
    with pytest.raises(TimeoutError):
        result.get(0.01)
    held.session.link.step(2)
    assert result.get(TIMEOUT) == 1
    assert result.msg_ids == ["a1b2c3d4-1"]


def test_an_arguments_error_becomes_the_calls(client):
    view = client.load_balanced_view()
    result = view.apply_async(add, view.apply_async(add, view.apply_async(fail, "x")))
    with pytest.raises(ValueError, match="told") as caught:
        result.get(TIMEOUT)
    assert isinstance(caught.value.__cause__, KeyError)
    assert any("engine" in note for note in caught.value.__notes__)
    assert client.session.link.count == 1
    assert result.metadata["status"] == "error"
    assert client.session.pending == set()


def test_one_error_on_several_engines_is_one(client):
    with pytest.raises(ValueError, match="told"):
        client[:].apply_sync(add, client[0].apply_async(fail, 1))


def test_cancelled_before_it_is_sent(held):
    view = held.load_balanced_view()
    first = view.apply_async(add, 1)
    result = view.apply_async(add, first)
    after = view.apply_async(add, result)
    assert result.cancel()
    assert result.cancelled()
    assert not result.cancel()
    with pytest.raises(TaskCancelled, match="before it was sent"):
        after.get(TIMEOUT)
    held.session.link.release()
    assert first.get(TIMEOUT) == 1
    assert held.session.link.count == 1


def test_a_client_that_closes_ends_what_waits(held):
    view = held.load_balanced_view()
    result = view.apply_async(add, view.apply_async(add, 1))
    held.close()
    with pytest.raises(HubUnreachable):
        result.get(TIMEOUT)


def test_a_result_deeper_inside_cannot_be_sent(client):
    view = client.load_balanced_view()
    first = view.apply_async(add, 1)
    with pytest.raises(SerializationError, match="stays with its client"):
        view.apply_async(total, [[first]])
    with pytest.raises(SerializationError):
        view.apply_async(lambda: first.get())
    with pytest.raises(TypeError, match="cannot be called"):
        view.apply_async(3, first)
    with pytest.raises(SerializationError, match="stays with its client"):
        view.apply_async(total, [first, [first]]).get(TIMEOUT)


def test_results_of_another_client_can_be_arguments_and_dependencies(client):
    other = pk.Client.over(ScriptedLink(1))
    foreign = other.load_balanced_view().apply_async(add, 5)
    view = client.load_balanced_view()
    assert view.apply_sync(add, foreign) == 5
    with view.temp_flags(after=foreign):
        assert view.apply_sync(add, 6) == 6
    other.close()


def test_a_dependency_that_waits_itself(held):
    view = held.load_balanced_view()
    first = view.apply_async(add, 1)
    second = view.apply_async(add, first)
    with view.temp_flags(after=second):
        third = view.apply_async(add, 3)
    assert isinstance(third, DeferredResult)
    held.session.link.release()
    assert third.get(TIMEOUT) == 3
    assert needs(held).after.dependency.numbers == (1,)
    assert second.ended(1) == second.ended(1)
    assert isinstance(second.ended(1), ResultRecord)


def test_a_deferred_result_that_nobody_holds_is_freed(client):
    view = client.load_balanced_view()
    first = view.apply_async(add, 1)
    result = view.apply_async(add, first)
    assert result.get(TIMEOUT) == 1
    dead = weakref.ref(result)
    del result
    idle = threading.Event()
    threads.deferred.run(idle.set)  # after the job that has sent it, which holds it until its end
    assert idle.wait(TIMEOUT)
    gc.collect()
    assert dead() is None
