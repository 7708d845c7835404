"""AsyncResult: a future in every way, and more than one where several engines answer."""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import signal
import threading
import weakref
from datetime import UTC, datetime

import pytest

from parallelkit.client.output import Output
from parallelkit.client.results import AsyncResult
from parallelkit.errors import EngineLost, RemoteErrors, ResultError, TaskCancelled, TaskTimeout
from parallelkit.wire.messages import Outcome, OutputRecord, Stream

TIMEOUT = 10


def double(x):
    return 2 * x


def fail(x):
    raise KeyError(x)


class Unopenable:
    """Travels, and cannot be opened where it arrives."""

    def __reduce__(self):
        return fail, ("closed",)


# ------------------------------------------------------------------------------------------------- as a future


def test_one_call_has_one_value(client):
    result = client.load_balanced_view().apply_async(double, 21)
    assert isinstance(result, concurrent.futures.Future)
    assert result.get(TIMEOUT) == 42
    assert result.result(TIMEOUT) == 42
    assert result.r == 42
    assert result.exception(TIMEOUT) is None
    assert (result.done(), result.ready(), result.successful(), result.cancelled()) == (True, True, True, False)


def test_the_value_stays_the_same_object(client):
    result = client.load_balanced_view().apply_async(lambda: [1, 2])
    assert result.get(TIMEOUT) is result.get(TIMEOUT)


def test_an_exception_arrives_as_itself_and_anew_each_time(client):
    result = client.load_balanced_view().apply_async(fail, "spam")
    with pytest.raises(KeyError, match="spam"):
        result.get(TIMEOUT)
    assert not result.successful()
    first, second = result.exception(), result.exception()
    assert type(first) is KeyError
    assert first is not second
    assert result.get(return_exceptions=True).args == ("spam",)


def test_concurrent_wait_and_as_completed(held):
    view = held.load_balanced_view()
    results = [view.submit(double, i) for i in range(4)] + [view.submit(fail, 0)]
    held.session.link.step(2)
    done, pending = concurrent.futures.wait(results, TIMEOUT, concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == (set(results[:2]), set(results[2:]))
    held.session.link.release()
    assert set(concurrent.futures.as_completed(results, TIMEOUT)) == set(results)
    done, pending = concurrent.futures.wait(results, TIMEOUT, concurrent.futures.FIRST_EXCEPTION)
    assert (len(done), len(pending)) == (5, 0)


def test_wait_for_the_first_exception(held):
    view = held.load_balanced_view()
    results = [view.submit(fail, 0), view.submit(double, 1)]
    waiting = concurrent.futures.ThreadPoolExecutor(1)
    with waiting:
        outcome = waiting.submit(concurrent.futures.wait, results, TIMEOUT, concurrent.futures.FIRST_EXCEPTION)
        held.session.link.step(1)
        assert outcome.result(TIMEOUT).done == {results[0]}
    held.session.link.release()


def test_callbacks_run_off_the_io_thread_and_do_not_hold_up_results(held):
    view = held.load_balanced_view()
    blocked, first_ran, threads, order = threading.Event(), threading.Event(), [], []

    def slow(result):
        threads.append(threading.current_thread().name)
        first_ran.set()
        blocked.wait(TIMEOUT)
        order.append(result)

    first, second = view.submit(double, 1), view.submit(double, 2)
    first.add_done_callback(slow)
    second.add_done_callback(order.append)
    held.session.link.release()
    assert first_ran.wait(TIMEOUT)
    assert view.submit(double, 3).get(TIMEOUT) == 6  # the I/O thread goes on
    finished = threading.Event()
    blocked.set()
    first.add_done_callback(lambda result: finished.set())
    assert finished.wait(TIMEOUT)
    second.wait(TIMEOUT)
    while len(order) < 2:
        assert concurrent.futures.wait([second], TIMEOUT).done
    assert order == [first, second]
    assert threads == ["parallelkit-callbacks"]


def test_a_failing_callback_is_logged_and_harms_nobody(client, caplog):
    ran = threading.Event()
    result = client.load_balanced_view().submit(double, 1)

    def bad(result):
        raise ZeroDivisionError

    result.add_done_callback(bad)
    result.get(TIMEOUT)
    result.add_done_callback(lambda result: ran.set())
    assert ran.wait(TIMEOUT)


# ------------------------------------------------------------------------------------------------------ asyncio


def test_await(client):
    view = client.load_balanced_view()

    async def main():
        assert await view.apply_async(double, 4) == 8
        with pytest.raises(KeyError):
            await view.apply_async(fail, "x")
        assert await asyncio.wrap_future(view.apply_async(double, 5)) == 10
        assert await asyncio.gather(view.submit(double, 1), view.submit(double, 2)) == [2, 4]
        assert await client[:].map_async(double, range(3)) == [0, 2, 4]

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_a_stop_iteration_of_a_task_does_not_hang_its_awaiter(client):
    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await client.load_balanced_view().submit(next, iter(()))

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_cancelling_the_awaiter_cancels_the_task(held):
    result = held.load_balanced_view().submit(double, 1)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(result, 0.01)

    asyncio.run(main())
    with pytest.raises(TaskCancelled):
        result.get(TIMEOUT)


def test_async_iteration_gives_results_as_they_arrive(held):
    link = held.session.link

    async def main():
        seen = []
        result = held[:].apply_async(double, 3)
        link.step(1)
        async for value in result:
            seen.append((value, result.progress))
            if not result.done():
                await asyncio.to_thread(link.step, 1)
        return seen

    assert asyncio.run(asyncio.wait_for(main(), TIMEOUT)) == [(6, 1), (6, 2)]


# ---------------------------------------------------------------------------------------------------- waiting


def test_timeouts_say_how_far_it_is(held):
    result = held[:].apply_async(double, 1)
    held.session.link.step(1)
    assert not result.wait(0)
    with pytest.raises(TimeoutError, match=r"double: 1 of 2 results within 0.01 s$"):
        result.get(0.01)
    with pytest.raises(TimeoutError):
        result.exception(0)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()


def test_a_silent_hub_is_named(held, caplog):
    result = held.load_balanced_view().apply_async(double, 1)
    held.session.link.hub_silence = 12.3
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeoutError, match="hub unreachable 12 s, 1 tasks safe here, retrying"),
    ):
        result.get(0.01)
    assert "hub unreachable 12 s" in repr(result)
    assert "hub unreachable 12 s" in repr(held)


def test_a_blocked_wait_tells_once_that_the_hub_is_silent(held, caplog):
    result = held.load_balanced_view().apply_async(double, 1)
    held.session.link.hub_silence = 12.3
    condition, rounds = threading.Condition(), iter(range(5))
    with condition, caplog.at_level(logging.WARNING):
        waker = threading.Thread(target=lambda: [_notify(condition) for _ in range(200)])
        waker.start()
        held.session.wait(condition, lambda: next(rounds, None) is None, TIMEOUT)
    waker.join(TIMEOUT)
    assert [record.message for record in caplog.records] == ["hub unreachable 12 s, 1 tasks safe here, retrying"]
    held.session.link.release()
    assert result.get(TIMEOUT) == 2


def _notify(condition):
    with condition:
        condition.notify_all()


def test_ctrl_c_ends_a_wait_and_leaves_the_task_alone(held):
    result = held.load_balanced_view().apply_async(double, 1)
    for wait in (result.get, result.wait, lambda: next(iter(held[:].apply_async(double, 1))), held.wait):
        interrupt = threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            wait()
        interrupt.join()
    held.session.link.release()
    assert result.get(TIMEOUT) == 2


def test_return_when_first_exception_does_not_wait_for_the_rest(held):
    result = held[:].apply_async(fail, "early")
    held.session.link.step(1)
    with pytest.raises(KeyError):
        result.get(TIMEOUT, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert not result.done()
    with pytest.raises(ValueError, match="return_when"):
        result.wait(0, return_when="whenever")


# -------------------------------------------------------------------------------------------------- cancelling


def test_cancel_asks_the_hub_and_the_result_still_comes_once(held):
    result = held.load_balanced_view().apply_async(double, 1)
    assert result.cancel()
    with pytest.raises(TaskCancelled, match=r"double \(a1b2c3d4-0\): cancelled by its client"):
        result.get(TIMEOUT)
    assert (result.done(), result.cancelled(), result.cancel()) == (True, True, False)
    assert held.session.link.cancelled == [(0, 1)]
    with pytest.raises(concurrent.futures.CancelledError):
        result.result()


def test_a_result_that_is_faster_than_its_cancel_counts(client):
    result = client.load_balanced_view().apply_async(double, 1)
    result.wait(TIMEOUT)
    assert not result.abort()
    assert result.get() == 2


@pytest.mark.parametrize(
    ("outcome", "kind", "text"),
    [(Outcome.TIMEOUT, TaskTimeout, "ran longer than 2 s"), (Outcome.LOST, EngineLost, "engine 1 died")],
)
def test_other_ends_have_their_own_exceptions(client, outcome, kind, text):
    client.session.link.fate = lambda task: (outcome, text.encode(), ())
    with pytest.raises(kind, match=rf"double \(a1b2c3d4-0\): {text}"):
        client.load_balanced_view().apply_sync(double, 1)


# --------------------------------------------------------------------------------------------- several engines


def test_several_engines_give_a_list(make_client):
    client = make_client(3)
    result = client[:].apply_async(double, "ab")
    assert result.get(TIMEOUT) == ["abab"] * 3
    assert list(result) == ["abab"] * 3
    assert (len(result), result.progress) == (3, 3)
    assert (result[0], result[-1], result[1:]) == ("abab", "abab", ["abab", "abab"])
    assert result.engine_id == [0, 1, 2]
    assert result.get_dict() == result.result_dict == dict.fromkeys(range(3), "abab")
    with pytest.raises(IndexError):
        result[3]


def test_one_failure_of_several_raises_as_itself(make_client):
    client = make_client(3)
    client.session.link.fate = lambda task: (Outcome.LOST, b"gone", ()) if task.target == 1 else None
    result = client[:].apply_async(double, 1)
    with pytest.raises(EngineLost):
        result.get(TIMEOUT)
    kept = result.get(return_exceptions=True)
    assert (kept[0], type(kept[1]), kept[2]) == (2, EngineLost, 2)


def test_several_failures_are_a_group(make_client):
    client = make_client(3)
    result = client[:].apply_async(fail, "k")
    with pytest.raises(RemoteErrors, match="3 of 3 engines failed") as caught:
        result.get(TIMEOUT)
    assert [type(error) for error in caught.value.exceptions] == [KeyError] * 3
    group = None
    try:
        result.get()
    except* KeyError as error:
        group = error
    assert len(group.exceptions) == 3


def test_several_cancellations_are_one(make_client):
    client = make_client(3, held=True)
    result = client[:].apply_async(double, 1)
    result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(TIMEOUT)
    assert result.cancelled()


def test_iteration_gives_each_as_it_arrives_and_goes_on_after_a_failure(make_client):
    client = make_client(3, held=True)
    link = client.session.link
    link.fate = lambda task: (Outcome.LOST, b"gone", ()) if task.target == 1 else None
    results = iter(client[:].apply_async(double, 4))
    link.step(1)
    assert next(results) == 8
    link.release()
    with pytest.raises(EngineLost):
        next(results)
    assert next(results) == 8
    with pytest.raises(StopIteration):
        next(results)


def test_a_single_result_is_not_iterable_but_has_a_first(client):
    result = client.load_balanced_view().apply_async(list)
    with pytest.raises(TypeError, match="one result"):
        iter(result)
    assert result[0] == []
    assert bool(result)


# ------------------------------------------------------------------------------------------- opened where asked


def test_what_cannot_be_opened_is_an_error_of_that_result_alone(client):
    view = client.load_balanced_view()
    bad, good = view.apply_async(Unopenable), view.apply_async(double, 1)
    assert good.get(TIMEOUT) == 2
    with pytest.raises(ResultError):
        bad.get(TIMEOUT)
    assert isinstance(bad.exception(), ResultError)
    assert bad.metadata["status"] == "ok"  # the task itself went well


def test_a_result_is_opened_by_the_thread_that_asks(client):
    result = client.load_balanced_view().apply_async(OpenedBy)
    result.wait(TIMEOUT)
    assert result.get().thread == threading.current_thread().name


class OpenedBy:
    thread = None

    def __setstate__(self, state):
        self.thread = threading.current_thread().name

    def __getstate__(self):
        return {"some": "state"}


def test_a_dropped_result_is_freed_at_once(client):
    view = client.load_balanced_view()
    gc.collect()
    gc.disable()
    try:
        for function in (lambda: double(1), lambda: fail(1), Unopenable):
            result = view.apply_async(function)
            with contextlib.suppress(KeyError, ResultError):
                result.get(TIMEOUT)
            dropped = weakref.ref(result)
            view.apply_sync(double, 1)  # the script's thread lets go of its last task
            del result
            assert dropped() is None, function
    finally:
        gc.enable()


def test_finished_results_leave_the_books(client):
    view = client.load_balanced_view()
    result = view.apply_async(double, 1)
    result.get(TIMEOUT)
    assert client.session.pending == set()
    assert client.outstanding == set()


# --------------------------------------------------------------------------------------------------- metadata


def test_metadata_of_one_task(client):
    before = datetime.now(UTC)
    result = client.load_balanced_view(label="mine").apply_async(double, 1)
    assert result.get(TIMEOUT) == 2
    row = result.metadata
    assert row["status"] == "ok"
    assert row["label"] == "mine"
    assert row["msg_id"] == result.msg_ids[0] == "a1b2c3d4-0"
    assert row["engine_id"] == result.engine_id
    assert before <= row["submitted"] <= row["started"] <= row["completed"] <= datetime.now(UTC)
    assert row["submitted"] <= row["received"]
    assert row["error"] is None
    assert result["status"] == result.status == "ok"
    assert (result.started, result.error, result.stdout) == (row["started"], None, "")
    assert result.elapsed == result.wall_time >= result.serial_time > 0
    assert result.timedelta(row["submitted"], [row["completed"], row["started"]]) > 0


def test_metadata_while_it_runs_and_after_it_failed(held):
    result = held[:].apply_async(fail, 1)
    held.session.link.step(1)
    assert result["status"] == ["error", "pending"]
    assert isinstance(result["error"][0], KeyError)
    assert result["received"][1] is None
    assert result.engine_id == [0, None]
    assert result.missing == [result.msg_ids[1]]
    assert held.outstanding == {result.msg_ids[1]}
    held.session.link.release()
    result.wait(TIMEOUT)


def test_output_is_kept_by_task_and_can_be_followed(client, capsys):
    result = AsyncResult(client.session, "loud", 1)
    result._seqs = range(7, 8)
    seen, all_seen = [], threading.Event()

    def follow(piece):
        seen.append(piece)
        if len(seen) == 5:
            all_seen.set()

    result.output(OutputRecord(7, 1, 0, Stream.STDOUT, b"one "))
    result.add_output_callback(follow)
    result.output(OutputRecord(7, 1, 0, Stream.STDOUT, b"two\n"))
    result.output(OutputRecord(7, 1, 0, Stream.STDERR, b"\xff oops\n"))
    result.output(OutputRecord(7, 1, 0, Stream.DISPLAY, b'{"data": {"text/plain": "fig"}, "metadata": {}}'))
    result.output(OutputRecord(7, 1, 0, Stream.DISPLAY, b"not json"))
    assert all_seen.wait(TIMEOUT)
    assert seen[0] == Output(0, "stdout", "one ")
    assert seen[3].content["data"] == {"text/plain": "fig"}
    assert seen[4].content["data"] == {"text/plain": "not json"}
    assert result.stdout == "one two\n"
    assert result.stderr == "� oops\n"
    assert [shown["data"]["text/plain"] for shown in result.outputs] == ["fig", "not json"]
    result.output(OutputRecord(7, 1, 0, Stream.CLEAR, b'{"wait": false}'))
    assert result.outputs == []


def test_display_outputs_prints_what_came(client, capsys):
    result = client[:].execute("print('hello')")
    result.get(TIMEOUT)
    result.display_outputs("engine")
    assert capsys.readouterr().out == "[stdout:0]\nhello\n[stdout:1]\nhello\n"
    with pytest.raises(ValueError, match="groupby"):
        result.display_outputs("colour")


def test_repr_is_honest(held):
    view = held.load_balanced_view()
    one, many = view.apply_async(double, 1), held[:].apply_async(fail, 1)
    assert repr(one) == "<AsyncResult double: waiting>"
    held.session.link.step(2)
    assert repr(one).startswith("<AsyncResult double: done in ")
    assert repr(many) == "<AsyncResult fail: 1 of 2 done>"
    held.session.link.step(1)
    assert repr(many).startswith("<AsyncResult fail: failed in ")
