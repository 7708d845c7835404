"""The executor of a client, on a scripted link."""

import asyncio
import concurrent.futures as cf
import itertools
import multiprocessing
import threading
import weakref

import pytest

from parallelkit.errors import SerializationError, TaskCancelled

PATIENCE = 10


def double(x):
    return 2 * x


def test_values_exceptions_and_keywords(client):
    with client.executor() as ex:
        assert isinstance(ex, cf.Executor)
        future = ex.submit(dict, self=1, fn=2)
        assert isinstance(future, cf.Future)
        assert future.result(PATIENCE) == {"self": 1, "fn": 2}
        failed = ex.submit(divmod, 1, 0)
        assert isinstance(failed.exception(PATIENCE), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            failed.result()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(double, 1)


def test_what_was_not_sent_is_cancelled_at_once_and_never_runs(held):
    ex = held.executor(max_workers=1)
    sent, waiting, last = (ex.submit(double, i) for i in range(3))
    called = threading.Event()
    waiting.add_done_callback(lambda future: called.set())
    assert sent.running()
    assert not sent.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    assert "cancelled" in repr(waiting)
    assert cf.wait([waiting], 0).done == {waiting}
    assert called.wait(PATIENCE)
    with pytest.raises(cf.CancelledError):
        waiting.result(0)
    with pytest.raises(cf.CancelledError):
        waiting.exception(0)
    held.session.link.release()
    assert (sent.result(PATIENCE), last.result(PATIENCE)) == (0, 4)
    assert held.session.link.count == 2


def test_a_waiter_wakes_when_its_future_is_cancelled(held):
    ex = held.executor(max_workers=1)
    ex.submit(double, 0)
    future = ex.submit(double, 1)
    seen = []

    def wait():
        seen.append(future.exception if future.wait(PATIENCE) else None)

    thread = threading.Thread(target=wait)
    thread.start()
    assert future.cancel()
    thread.join(PATIENCE)
    assert seen != [None]


def test_abort_interrupts_what_runs(held):
    with held.executor(max_workers=1) as ex:
        future = ex.submit(double, 1)
        assert future.abort()
        with pytest.raises(TaskCancelled):
            future.result(PATIENCE)
        assert future.cancelled()


def test_shutdown_cancels_the_rest_and_waits_for_callbacks(held):
    ex = held.executor(max_workers=2)
    futures = [ex.submit(double, i) for i in range(10)]
    called = []
    for future in futures:
        future.add_done_callback(called.append)
    held.session.link.release()
    ex.shutdown(cancel_futures=True)
    ran = [future for future in futures if not future.cancelled()]
    assert len(ran) >= 2
    assert all(future.done() for future in futures)
    assert set(called) == set(futures)


@pytest.mark.parametrize(("max_workers", "sent"), [(3, 3), (4, 8), (20, 20), (None, 16)])
def test_no_more_are_sent_than_may_run_or_keep_the_engines_busy(make_client, max_workers, sent):
    client = make_client(engines=4, held=True)
    ex = client.executor(max_workers=max_workers)
    futures = [ex.submit(double, i) for i in range(50)]
    assert ex._max_workers == (max_workers or 4)
    assert client.session.link.count == sent
    client.session.link.release()
    assert [future.result(PATIENCE) for future in futures] == [2 * i for i in range(50)]


def test_what_cannot_be_pickled_is_found_in_the_future(client):
    with client.executor() as ex:
        future = ex.submit(double, threading.Lock())
        assert isinstance(future.exception(PATIENCE), SerializationError)


def test_what_is_left_when_the_client_closes_has_failed(make_client):
    client = make_client(held=True)
    ex = client.executor(max_workers=1)
    futures = [ex.submit(double, i) for i in range(3)]
    client.close()
    assert all(isinstance(future.exception(PATIENCE), Exception) for future in futures)
    ex.shutdown()


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map(client, chunksize):
    with client.executor() as ex:
        assert list(ex.map(pow, range(10), itertools.repeat(2), chunksize=chunksize)) == [i * i for i in range(10)]


def test_map_submits_at_once_or_reads_only_so_far_ahead(client):
    read = []

    def items():
        for i in itertools.count():
            read.append(i)
            yield i

    with client.executor() as ex:
        values = ex.map(double, items(), buffersize=4)
        assert len(read) == 4
        assert list(itertools.islice(values, 3)) == [0, 2, 4]
        assert len(read) == 7
        values.close()
        with pytest.raises(ValueError, match="buffersize"):
            ex.map(double, [], buffersize=0)
        with pytest.raises(ValueError, match="chunksize"):
            ex.map(double, [], chunksize=0)


def test_a_map_that_is_late_cancels_the_rest(held):
    ex = held.executor(max_workers=1)
    with pytest.raises(TimeoutError):
        next(ex.map(double, range(5), timeout=0))
    held.session.link.release()
    ex.shutdown()
    assert held.session.link.count == 1


def test_initializer_runs_once_in_each_engine_and_its_failure_breaks_the_executor(client, caplog):
    def fail(why):
        raise ValueError(why)

    with client.executor(initializer=double, initargs=(1,)) as ex:
        assert list(ex.map(double, range(3))) == [0, 2, 4]
    with client.executor(initializer=fail, initargs=("no",)) as ex, pytest.raises(cf.BrokenExecutor):
        ex.submit(double, 1).result(PATIENCE)
    with pytest.raises(cf.BrokenExecutor):
        ex.submit(double, 1)
    assert "ValueError: no" in caplog.text
    with pytest.raises(TypeError):
        client.executor(initializer=1)
    with pytest.raises(ValueError, match="max_workers"):
        client.executor(max_workers=0)


def test_views_have_executors_that_use_their_engines_and_flags(client):
    assert client[1].executor.submit(double, 2).result(PATIENCE) == 4
    assert client.session.link.submitted[-1][1].targets == (1,)
    view = client.load_balanced_view(retries=2, label="mine")
    view.executor.submit(double, 2).result(PATIENCE)
    assert client.session.link.submitted[-1][1].retries == 2
    assert client.executor(targets=[0])._max_workers == 1


def test_asyncio_runs_functions_in_it(client):
    async def main():
        loop = asyncio.get_running_loop()
        with client.executor() as ex:
            return await asyncio.gather(*(loop.run_in_executor(ex, double, i) for i in range(5)), ex.submit(double, 5))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]


def test_asyncio_cancels_what_was_not_sent(held):
    async def main(ex):
        ex.submit(double, 0)
        future = ex.submit(double, 1)
        task = asyncio.wrap_future(future)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)  # asyncio tells the future in the loop's next turn
        assert future.cancelled()

    asyncio.run(main(held.executor(max_workers=1)))


def test_an_executor_that_nobody_holds_still_finishes_its_work(held):
    ex = held.executor(max_workers=1)
    futures = [ex.submit(double, i) for i in range(3)]
    gone = weakref.ref(ex)
    del ex
    assert gone() is None
    held.session.link.release()
    assert [future.result(PATIENCE) for future in futures] == [0, 2, 4]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_at_its_end_for_what_its_parent_submitted(held):
    ex = held.executor()
    ex.submit(double, 1)
    child = multiprocessing.get_context("fork").Process(target=double, args=(1,))
    child.start()
    child.join(PATIENCE)
    code = child.exitcode
    child.kill()
    assert code == 0
