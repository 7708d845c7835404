"""A client's latest results, asked for by name."""

import gc

import pytest

TIMEOUT = 10


def double(x):
    return 2 * x


def test_a_result_is_found_by_name_place_or_as_the_latest(client):
    first = client.load_balanced_view().apply_async(double, 1)
    second = client[:].apply_async(double, 2)
    assert client.get_result(first.msg_ids[0]) is first
    assert client.get_result(second.msg_ids) is second
    assert client.get_result(0) is first
    assert client.get_result(second) is second
    assert client.get_result() is second
    assert client[0].get_result(block=True).done()
    assert client.get_result(-1).get(TIMEOUT) == 4, "the last task is a part of the second result"


def test_several_are_joined_in_the_order_asked_for(client):
    results = [client.load_balanced_view().apply_async(double, i) for i in range(3)]
    both = client[:].apply_async(double, 5)
    wanted = [both.msg_ids[1], results[2].msg_ids[0], results[0].msg_ids[0]]
    assert client.get_result(wanted).get(TIMEOUT) == [10, 4, 0]


def test_a_task_of_a_map_means_the_map(client):
    result = client.load_balanced_view().map_async(double, range(4), chunksize=1)
    assert result.get(TIMEOUT) == [0, 2, 4, 6]
    assert client.get_result(result.msg_ids[2]) is result
    assert client.get_result(result.msg_ids[1:3]) is result


def test_a_scatter_is_found_as_one(client):
    result = client[:].scatter("x", range(4))
    assert client.get_result(result.msg_ids) is result
    result.wait(TIMEOUT)


def test_results_that_nobody_has_are_not_kept(client):
    view = client.load_balanced_view()
    name = view.apply_async(double, 1).msg_ids[0]
    client.wait()
    view.apply_sync(double, 2)  # the script's thread lets go of its last task
    gc.collect()
    with pytest.raises(LookupError, match=f"no result of task {name} is still held"):
        client.get_result(name)
    assert client.result_status(name) == {"pending": [], "completed": [name]}


def test_what_cannot_be_found(client):
    with pytest.raises(LookupError, match="no result"):
        client.get_result()
    with pytest.raises(LookupError, match="the history has 0 tasks"):
        client.get_result(3)
    with pytest.raises(TypeError, match="is no job"):
        client.get_result([1.5])
    with pytest.raises(LookupError, match="not among the latest"):
        client.result_status(["nonsense"])


def test_status_of_results(held):
    result = held[:].apply_async(double, 1)
    held.session.link.step(1)
    first, second = result.msg_ids
    assert held.result_status(result) == {"pending": [second], "completed": [first]}
    held.session.link.release()
    result.wait(TIMEOUT)
    assert held.result_status([second]) == {"pending": [], "completed": [second]}


def test_names_of_what_is_done_can_be_forgotten(held):
    done, both, pending = (held[targets].apply_async(double, 1) for targets in (0, [0, 1], 1))
    held.session.link.step(3)
    held.purge_local_results(both.msg_ids[:1])
    assert len(held.history) == 4, "a call is forgotten as a whole"
    held.purge_local_results(both)
    assert held.history == done.msg_ids + pending.msg_ids
    held.purge_local_results()
    assert held.history == pending.msg_ids
    held.session.link.release()
    pending.wait(TIMEOUT)


def test_a_broadcast_view_is_a_direct_view_of_all_engines(make_client):
    client = make_client(3)
    view = client.broadcast_view(block=True, is_coalescing=True)
    assert view.apply(double, 2) == [4, 4, 4]
    assert view.map(double, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    view.push({"x": 5})
    assert view.pull("x") == [5, 5, 5]
    view.execute("x += 1")
    assert view["x"] == [6, 6, 6]
    assert [len(calls) for calls, _ in client.session.link.submitted[:1]] == [1], "one payload for all"
    assert repr(view) == "<BroadcastView targets='all', block=True>"
    assert len(client.broadcast_view([0, 2])) == 2
