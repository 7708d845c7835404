"""Splitting results into their tasks and joining several into one; output as it comes."""

import asyncio
import concurrent.futures
import threading

import pytest

from parallelkit.client.reply import ExecuteReply
from parallelkit.client.results import AsyncResult
from parallelkit.errors import RemoteErrors, TaskCancelled

TIMEOUT = 10


def double(x):
    return 2 * x


def fail(x):
    raise KeyError(x)


def test_the_parts_of_a_result_are_futures_of_its_tasks(held):
    whole = held[:].apply_async(double, 4)
    parts = whole.split()
    held.session.link.step(1)
    assert [part.wait(TIMEOUT if index == 0 else 0) for index, part in enumerate(parts)] == [True, False]
    assert parts[0].get() == 8
    assert parts[0] in concurrent.futures.wait(parts, TIMEOUT, "FIRST_COMPLETED").done
    held.session.link.release()
    assert parts[1].get(TIMEOUT) == 8
    assert [part.engine_id for part in parts] == whole.engine_id
    assert [part.msg_ids for part in parts] == [[name] for name in whole.msg_ids]
    assert parts[0].metadata["submitted"] == whole.metadata[0]["submitted"]
    assert [part.get() for part in whole.split()] == [8, 8], "also when it is done already"


def test_a_result_of_one_task_is_its_own_part(client):
    result = client[0].apply_async(double, 1)
    assert result.split() == [result]
    assert result.get(TIMEOUT) == 2


def test_a_part_has_its_own_failure_reply_and_output(client):
    failed = client[:].apply_async(fail, 1).split()
    with pytest.raises(KeyError):
        failed[1].get(TIMEOUT)
    replies = client[:].execute("print('hi')").split()
    assert isinstance(replies[1].get(TIMEOUT), ExecuteReply)
    assert replies[1].get().engine_id == 1
    assert replies[1].stdout == "hi\n"
    seen, heard = [], threading.Event()
    replies[1].add_output_callback(lambda piece: (seen.append(piece), heard.set()))
    assert heard.wait(TIMEOUT)
    assert [(piece.engine_id, piece.content) for piece in seen] == [(1, "hi\n")]


def test_a_part_forgets_only_its_own_callback(client):
    whole = client[:].execute("1")
    first, second = whole.split()
    for part in (first, second):
        part.add_output_callback(print)
    first.remove_output_callback(print)
    assert [list(seqs) for _, seqs in whole._listeners] == [list(second._seqs)]
    whole.wait(TIMEOUT)


def test_cancelling_a_part_leaves_the_others(held):
    whole = held[:].apply_async(double, 4)
    first, second = whole.split()
    assert second.cancel()
    with pytest.raises(TaskCancelled):
        second.get(TIMEOUT)
    held.session.link.release()
    assert first.get(TIMEOUT) == 8
    assert [type(value) for value in whole.get(TIMEOUT, return_exceptions=True)] == [int, TaskCancelled]


def test_a_map_is_not_split(client):
    result = client.load_balanced_view().map_async(double, range(3))
    with pytest.raises(TypeError, match="iterate over it"):
        result.split()
    assert result.get(TIMEOUT) == [0, 2, 4]


def test_joined_results_are_one(held):
    view = held.load_balanced_view()
    one, many, items = view.apply_async(double, 1), held[:].apply_async(double, 2), view.map_async(double, range(3))
    joined = AsyncResult.join(one, many, items)
    assert (len(joined), joined.progress, joined.done()) == (6, 0, False)
    held.session.link.step(1)
    assert next(iter(joined)) == 2
    assert joined.progress == 1
    held.session.link.release()
    assert joined.get(TIMEOUT) == [2, 4, 4, 0, 2, 4]
    assert list(joined) == joined.get()
    assert joined[-1] == 4
    assert joined.msg_ids == one.msg_ids + many.msg_ids + items.msg_ids
    assert joined["status"] == ["ok"] * len(joined.msg_ids)
    assert joined.serial_time == pytest.approx(one.serial_time + many.serial_time + items.serial_time)
    assert AsyncResult.join(one, many).get() == [2, 4, 4], "also when all are done already"
    assert AsyncResult.join(*AsyncResult.join(one, many).split()).get() == [2, 4, 4]


def test_a_joined_result_wakes_whoever_awaits_a_piece_of_it(held):
    view = held.load_balanced_view()
    joined = AsyncResult.join(view.apply_async(double, 1), view.apply_async(double, 2))

    async def follow():
        seen = []
        held.session.link.step(1)
        async for value in joined:
            seen.append(value)
            if len(seen) == 1:
                held.session.link.release()
        return seen, await joined

    assert asyncio.run(asyncio.wait_for(follow(), TIMEOUT)) == ([2, 4], [2, 4])


def test_failures_of_joined_results(client):
    view = client.load_balanced_view()
    good, bad, worse = view.apply_async(double, 1), view.apply_async(fail, 1), client[:].apply_async(fail, 2)
    with pytest.raises(KeyError):
        AsyncResult.join(good, bad).get(TIMEOUT)
    with pytest.raises(RemoteErrors, match="3 of 4 results failed") as caught:
        AsyncResult.join(good, bad, worse).get(TIMEOUT)
    assert [type(error) for error in caught.value.exceptions] == [KeyError] * 3
    kept = AsyncResult.join(good, bad).get(return_exceptions=True)
    assert kept[0] == 2
    assert isinstance(kept[1], KeyError)


def test_cancelling_a_joined_result_cancels_all(held):
    view = held.load_balanced_view()
    joined = AsyncResult.join(view.apply_async(double, 1), view.apply_async(double, 2))
    assert joined.cancel()
    with pytest.raises(TaskCancelled):
        joined.get(TIMEOUT)
    assert joined.cancelled()


def test_a_client_shows_how_far_all_its_results_are(held, capsys):
    view = held.load_balanced_view()
    results = [view.apply_async(double, 1), view.map_async(double, range(3))]
    assert not held.wait_interactive(timeout=0)
    assert "0 of 4 done" in capsys.readouterr().err
    held.session.link.release()
    assert held.wait_interactive(results, timeout=TIMEOUT)
    assert held.wait_interactive()
    with pytest.raises(TypeError, match="takes any future"):
        held.wait_interactive(concurrent.futures.Future())


def test_progress_is_shown_until_the_first_exception(held, capsys):
    result = held.load_balanced_view().map_async(fail, range(4), chunksize=1)
    held.session.link.step(1)
    assert result.wait_interactive(timeout=TIMEOUT, return_when="FIRST_EXCEPTION")
    assert not result.done()
    other = held[:].apply_async(fail, 1)
    assert not other.wait_interactive(timeout=0, return_when="FIRST_EXCEPTION")
    with pytest.raises(ValueError, match="return_when='SOON'"):
        other.wait_interactive(return_when="SOON")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.wait_interactive, timeout=TIMEOUT, return_when="FIRST_EXCEPTION", widget=False)
        held.session.link.step(4)  # the rest of the map, and one of the two
        assert waiting.result(TIMEOUT)
    assert not other.done()
    held.session.link.release()
    assert other.wait_interactive(timeout=TIMEOUT)


def test_what_can_be_joined(make_client):
    first, second = make_client(), make_client()
    with pytest.raises(ValueError, match="at least one"):
        AsyncResult.join()
    with pytest.raises(ValueError, match="same client"):
        AsyncResult.join(first[0].apply_async(double, 1), second[0].apply_async(double, 1))
    result = first[0].apply_async(double, 1)
    assert AsyncResult.join(result) is result


def test_output_is_streamed_while_the_block_runs(held, capsys):
    result = held[:].execute("print('one'); print('two', end='')")
    held.session.link.step(1)
    with result.stream_output():
        held.session.link.release()
        assert result.wait_for_output(TIMEOUT)
    assert capsys.readouterr().out.splitlines() == [
        "[stdout:0] one", "[stdout:1] one", "[stdout:0] two", "[stdout:1] two",
    ]  # fmt: skip
    assert result._listeners == []
    with AsyncResult.join(*result.split()).stream_output():
        pass
    assert sorted(capsys.readouterr().out.splitlines())[0] == "[stdout:0] one"
