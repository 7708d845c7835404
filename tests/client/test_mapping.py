"""map: every item once and in order, however it is cut, whatever fails, and while it is still being fed."""

import gc
import operator
import threading
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelkit.client.client import Client
from parallelkit.client.mapping import AsyncMapResult
from parallelkit.errors import EngineLost, RemoteErrors, SerializationError, TaskCancelled
from parallelkit.wire.messages import Operation, Outcome
from parallelkit.wire.payload import Reference
from tests.client.scripted_link import ScriptedLink

TIMEOUT = 10


def square(x):
    return x * x


def odd_fails(x):
    if x % 2:
        raise ValueError(x)
    return x


class Unpicklable:
    def __reduce__(self):
        raise TypeError("no pickle of this")


def sizes(link):
    """Items of each task, in order."""
    return [call.items for calls, _ in link.submitted for call in calls]


@pytest.fixture(params=["balanced", "direct"])
def view(request, client):
    return client.load_balanced_view() if request.param == "balanced" else client[:]


# ------------------------------------------------------------------------------------------- like the builtin


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 5000])
def test_map_is_the_builtin_map(view, count):
    assert view.map_sync(square, range(count)) == list(map(square, range(count)))
    result = view.map_async(square, list(range(count)))
    assert isinstance(result, AsyncMapResult)
    assert list(result) == list(map(square, range(count)))
    assert (len(result), result.progress) == (count, count)


def test_it_ends_with_the_shortest(view):
    assert view.map_sync(operator.sub, [5, 6, 7], (1, 2)) == [4, 4]
    assert view.map_sync(operator.sub, [5, 6, 7], []) == []


def test_generators_sets_and_texts_are_iterables_too(view):
    assert view.map_sync(square, (i for i in range(4))) == [0, 1, 4, 9]
    assert sorted(view.map_sync(square, {1, 2, 3})) == [1, 4, 9]
    assert view.map_sync(str.upper, "abc") == ["A", "B", "C"]
    assert view.map_sync(str.upper, {"a": 1}) == ["A"]


def test_an_error_of_the_iterable_is_the_callers(view):
    def broken():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        view.map_async(square, broken())
    with pytest.raises(TypeError, match="at least one iterable"):
        view.map_async(square)
    with pytest.raises(TypeError, match="cannot be called"):
        view.map_async(3, [1])


def test_items_are_taken_as_they_were_when_map_was_called(held):
    items = list(range(2000))
    result = held.load_balanced_view().map_async(square, items)
    items.clear()
    held.session.link.release()
    assert result.get(TIMEOUT) == [i * i for i in range(2000)]


def test_block_says_whether_map_waits(client):
    view = client.load_balanced_view()
    assert isinstance(view.map(square, [2]), AsyncMapResult)
    assert view.map(square, [2], block=True) == [4]
    view.block = True
    assert view.map(square, [2]) == [4]


def test_a_reference_can_be_what_is_mapped(client):
    client[:].push({"remote": square}, block=True)
    assert client.load_balanced_view().map_sync(Reference("remote"), [2, 3]) == [4, 9]


def test_arrays_come_and_go(view):
    numpy = pytest.importorskip("numpy")
    rows = numpy.arange(40_000.0).reshape(4, 10_000)
    for row, twice in zip(rows, view.map_sync(lambda row: row * 2, rows), strict=True):
        assert (twice == row * 2).all()


# ----------------------------------------------------------------------------------------------------- chunks


def test_tiny_items_travel_in_few_tasks(client):
    assert client.load_balanced_view().map_sync(square, range(200_000))[-1] == 199_999**2
    cut = sizes(client.session.link)
    assert sum(cut) == 200_000
    assert len(cut) < 60


def test_long_items_travel_alone(client):
    client.load_balanced_view().map_sync(time.sleep, [0.006] * 12)
    assert set(sizes(client.session.link)) == {1}


def test_chunksize_overrides(held):
    view, link = held.load_balanced_view(), held.session.link
    result = view.map_async(square, range(100), chunksize=30)
    link.release()
    assert result.get(TIMEOUT) == [i * i for i in range(100)]
    assert sizes(link) == [30, 30, 30, 10]
    with pytest.raises(ValueError, match="chunksize"):
        view.map_async(square, [1], chunksize=0)


def test_one_task_an_item_is_bounded_and_sent_in_batches(held):
    link = held.session.link
    result = held.load_balanced_view().map_async(square, range(10_000), chunksize=1)
    assert link.count == 4096
    assert len(link.submitted) == 8
    assert {call.operation for calls, _ in link.submitted for call in calls} == {Operation.CALL}
    link.release()
    assert result.get(TIMEOUT) == [i * i for i in range(10_000)]
    assert set(sizes(link)) == {1}


@pytest.mark.parametrize("flags", [{"timeout": 5.0}, {"retries": 2}])
def test_what_holds_for_one_item_makes_each_item_a_task(client, flags):
    view = client.load_balanced_view(**flags)
    view.map_sync(square, range(100), chunksize=50)
    assert set(sizes(client.session.link)) == {1}
    assert {getattr(options, name) for _, options in client.session.link.submitted for name in flags} == set(
        flags.values()
    )


def test_heavy_items_do_not_gather_in_one_message(client):
    items = [bytes(1 << 20)] * 40
    assert client.load_balanced_view().map_sync(len, items) == [1 << 20] * 40
    heaviest = max(len(call.payload.data) for calls, _ in client.session.link.submitted for call in calls)
    assert heaviest < 10 << 20


def test_a_direct_map_gives_each_engine_one_block(make_client):
    client = make_client(3)
    link = client.session.link
    assert client[:].map_sync(square, range(8)) == [i * i for i in range(8)]
    assert sizes(link) == [3, 3, 2]
    assert [options.targets for _, options in link.submitted] == [(0,), (1,), (2,)]
    assert all(options.direct for _, options in link.submitted)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 300),
    chunksize=st.one_of(st.none(), st.integers(1, 50)),
    bad=st.sets(st.integers(0, 299), max_size=8),
    engines=st.integers(1, 5),
)
def test_every_item_comes_back_in_its_place(count, chunksize, bad, engines):
    def work(x):
        if x in bad:
            raise KeyError(x)
        return x

    with Client.over(ScriptedLink(engines)) as client:
        result = client.load_balanced_view().map_async(work, range(count), chunksize=chunksize, return_exceptions=True)
        values = result.get(TIMEOUT)
        assert [value.args[0] if isinstance(value, KeyError) else value for value in values] == list(range(count))
        assert {i for i, value in enumerate(values) if isinstance(value, KeyError)} == bad & set(range(count))
        assert [type(value) for value in result] == [type(value) for value in values]


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("chunksize", [1, 4, None])
def test_errors_are_the_items_own(client, chunksize):
    view = client.load_balanced_view()
    result = view.map_async(odd_fails, [0, 1, 2, 4], chunksize=chunksize)
    with pytest.raises(ValueError, match="1"):
        result.get(TIMEOUT)
    assert not result.successful()
    result = view.map_async(odd_fails, range(6), chunksize=chunksize)
    with pytest.raises(RemoteErrors, match="3 of 6 items failed") as caught:
        result.get(TIMEOUT)
    assert [error.args for error in caught.value.exceptions] == [(1,), (3,), (5,)]
    values = result.get(return_exceptions=True)
    assert [value if isinstance(value, int) else value.args for value in values] == [0, (1,), 2, (3,), 4, (5,)]
    assert result[2] == 2
    with pytest.raises(ValueError, match="3"):
        result[3]


def test_iteration_raises_in_place_and_goes_on(view):
    results = iter(view.map_async(odd_fails, range(4)))
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert next(results) == 2
    with pytest.raises(ValueError, match="3"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_return_exceptions_holds_for_iteration_too(view):
    values = list(view.map_async(odd_fails, range(4), return_exceptions=True))
    assert [type(value) for value in values] == [int, ValueError, int, ValueError]


def test_a_stop_iteration_of_an_item_does_not_end_the_loop(client):
    results = iter(client.load_balanced_view().map_async(next, [iter([7]), iter([])], chunksize=1))
    assert next(results) == 7
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(results)


def test_a_group_of_errors_is_bounded(client):
    result = client.load_balanced_view().map_async(odd_fails, [1] * 5000)
    with pytest.raises(RemoteErrors, match="5000 of 5000 items failed; the first 100 are shown") as caught:
        result.get(TIMEOUT)
    assert len(caught.value.exceptions) == 100


def test_a_lost_chunk_fails_its_items_alone(client):
    client.session.link.fate = lambda task: (Outcome.LOST, b"its engine died", ()) if task.seq == 1 else None
    result = client.load_balanced_view().map_async(square, range(6), chunksize=2)
    kept = result.get(TIMEOUT, return_exceptions=True)
    assert [type(value) for value in kept] == [int, int, EngineLost, EngineLost, int, int]


def test_first_exception_of_a_chunk_does_not_wait_for_the_rest(held):
    result = held.load_balanced_view().map_async(odd_fails, range(8), chunksize=2)
    held.session.link.step(1)
    with pytest.raises(ValueError, match="1"):
        result.get(TIMEOUT, return_when="FIRST_EXCEPTION")
    assert not result.done()


def test_an_unpicklable_item_among_the_first_raises_in_the_caller(view):
    with pytest.raises(SerializationError):
        view.map_async(square, [Unpicklable(), 1, 2])
    assert view.map_sync(square, [3]) == [9]


def test_a_later_unpicklable_item_ends_the_map_with_its_error(client):
    items = [*range(3000), Unpicklable(), *range(3000)]
    result = client.load_balanced_view().map_async(square, items)
    with pytest.raises(SerializationError):
        result.get(TIMEOUT)
    with pytest.raises(SerializationError):
        result.get(return_exceptions=True)
    got = []
    with pytest.raises(SerializationError):
        got.extend(result)
    assert client.load_balanced_view().map_sync(square, [3]) == [9]


# ------------------------------------------------------------------------------------------------ as it goes


def test_results_stream_in_order(held):
    link = held.session.link
    result = held.load_balanced_view().map_async(square, range(8), chunksize=2)
    results = iter(result)
    for first in range(0, 8, 2):
        link.step(1)
        assert (next(results), next(results)) == (first**2, (first + 1) ** 2)
        assert result.progress == first + 2


def test_unordered_results_come_as_they_land(held):
    link = held.session.link
    result = held.load_balanced_view().map_async(square, range(6), chunksize=2, ordered=False)
    with link._condition:
        link._queue.reverse()
    results = iter(result)
    link.step(1)
    assert (next(results), next(results)) == (16, 25)
    link.release()
    assert list(results) == [4, 9, 0, 1]
    assert list(result) == [16, 25, 4, 9, 0, 1]
    assert result.get() == [0, 1, 4, 9, 16, 25]


def test_the_feeder_sends_more_as_results_make_room(held):
    link = held.session.link
    result = held.load_balanced_view().map_async(square, range(100_000))
    assert link.count == 4  # two probes for each engine
    link.step(1)
    link.wait_submitted(5)
    link.release()
    assert result.get(TIMEOUT)[-1] == 99_999**2


def test_repr_and_metadata_count_items_and_tasks(held):
    link = held.session.link
    result = held.load_balanced_view(label="sq").map_async(square, range(6), chunksize=2)
    assert repr(result) == "<AsyncMapResult square: 0 of 6 done>"
    link.step(2)
    assert [row["status"] for row in result.metadata] == ["ok", "ok", "pending"]
    assert {row["label"] for row in result.metadata} == {"sq"}
    assert len(result.msg_ids) == len(result.engine_id) == 3
    link.release()
    result.wait(TIMEOUT)
    assert result.serial_time > 0


# --------------------------------------------------------------------------------------------------- cancelling


def test_cancel_keeps_what_is_done_and_sends_nothing_more(held):
    link = held.session.link
    result = held.load_balanced_view().map_async(square, range(10_000), chunksize=1)
    link.step(3)
    sent = link.count
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(TIMEOUT)
    assert link.count == sent
    kept = result.get(return_exceptions=True)
    assert kept[:3] == [0, 1, 4]
    assert {type(value) for value in kept[3:]} == {TaskCancelled}
    assert len(kept) == 10_000
    assert result.cancelled()
    assert not result.cancel()


def test_cancelling_while_it_is_fed(client):
    for _ in range(20):
        result = client.load_balanced_view().map_async(square, range(50_000))
        time.sleep(0)
        result.cancel()
        kept = result.get(TIMEOUT, return_exceptions=True)
        assert len(kept) == 50_000
        assert all(value == i * i or isinstance(value, TaskCancelled) for i, value in enumerate(kept))


def test_ctrl_c_in_a_waiting_call_cancels_what_it_sent(held, monkeypatch):
    link = held.session.link
    view = held.load_balanced_view()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(held.session, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        view.map_sync(square, range(10))
    with pytest.raises(KeyboardInterrupt):
        view.apply_sync(square, 1)
    assert sum(count for _, count in link.cancelled) == 4 + 1


def test_a_dropped_map_is_freed_at_once(client):
    view = client.load_balanced_view()
    gc.collect()
    gc.disable()
    try:
        for function in (square, odd_fails):
            result = view.map_async(function, range(3000))
            result.wait(TIMEOUT)
            list(result) if function is square else result.exception()
            dropped = weakref.ref(result)
            view.apply_sync(square, 1)
            idle = threading.Event()
            _feeder_is_idle(idle)
            del result
            assert dropped() is None
    finally:
        gc.enable()


def _feeder_is_idle(idle):
    from parallelkit.client import threads

    threads.feeder.run(idle.set)
    assert idle.wait(TIMEOUT)
