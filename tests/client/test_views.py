"""Views: flags, targets, namespaces, and what one call sends."""

import contextvars
import threading

import pytest

from parallelkit.client.reply import ExecuteReply
from parallelkit.client.results import AsyncResult
from parallelkit.errors import NoSuchEngine, SerializationError
from parallelkit.wire.messages import Operation, TaskOptions
from parallelkit.wire.payload import Reference

TIMEOUT = 10


def add(x, y=0):
    return x + y


# ------------------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize("make", [lambda rc: rc.load_balanced_view(), lambda rc: rc[0]])
def test_the_ways_to_call(client, make):
    view = make(client)
    assert view.apply_async(add, 1, y=2).get(TIMEOUT) == 3
    assert view.apply_sync(add, 1, y=2) == 3
    assert view.submit(add, 1, y=2).result(TIMEOUT) == 3
    assert isinstance(view.apply(add, 1), AsyncResult)
    view.block = True
    assert view.apply(add, 1) == 1


def test_a_keyword_may_be_called_f_or_self(client):
    def function(**names):
        return names

    assert client.load_balanced_view().apply_sync(function, f=1, self=2) == {"f": 1, "self": 2}


def test_what_cannot_be_sent_fails_at_once_and_leaves_nothing_behind(client):
    view, lock = client.load_balanced_view(), threading.Lock()
    for send in (
        lambda: view.apply_async(add, lock),
        lambda: client[:].push({"lock": lock}),
        lambda: view.apply_async(lambda: lock),
    ):
        with pytest.raises(SerializationError):
            send()
    with pytest.raises(TypeError, match="cannot be called"):
        view.apply_async(3)
    assert client.session.pending == set()
    assert client.session.link.count == 0


def test_a_payload_for_several_engines_is_sent_once(make_client):
    client = make_client(4)
    client[:].apply_sync(add, 1)
    ((calls, options),) = client.session.link.submitted
    assert len(calls) == 1
    assert (options.direct, options.targets) == (True, (0, 1, 2, 3))


def test_references_are_looked_up_on_the_engine(client):
    client[0].push({"x": 10, "plus": add}, block=True)
    client[1].push({"x": 20, "plus": add}, block=True)
    assert client[:].apply_sync(add, Reference("x"), y=Reference("x + 1")) == [21, 41]
    assert client[:].apply_sync(Reference("plus"), 1, y=Reference("x")) == [11, 21]


# ------------------------------------------------------------------------------------------------------- flags


def test_flags_become_options_of_the_tasks(client):
    view = client.load_balanced_view(timeout=2.5, retries=3, priority=7, label="work", max_attempts=1)
    view.apply_sync(add, 1)
    client[1].set_flags(label="direct").apply_sync(add, 1)
    (_, balanced), (_, direct) = client.session.link.submitted
    assert balanced == TaskOptions((), False, 7, 3, 1, 2.5, "work")
    assert direct == TaskOptions((1,), True, 0, 0, 4, None, "direct")


def test_flags_are_checked(client):
    view = client.load_balanced_view()
    with pytest.raises(TypeError, match="no flag 'blok'; there are after, block"):
        view.set_flags(blok=True)
    with pytest.raises(AttributeError):
        view.blok = True
    for wrong in ({"timeout": 0}, {"retries": -1}, {"max_attempts": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            view.set_flags(**wrong)
    assert view.set_flags(retries=1) is view
    assert view.retries == 1


def test_balanced_targets_narrow_the_choice(make_client):
    client = make_client(3)
    view = client.load_balanced_view([0, -1])
    assert len(view) == 2
    assert {view.apply_async(add, 1).get(TIMEOUT) for _ in range(3)} == {1}
    assert client.session.link.submitted[0][1].targets == (0, 2)
    assert len(client.load_balanced_view()) == 3


def test_temp_flags_end_with_the_block(client):
    view = client.load_balanced_view()
    with view.temp_flags(block=True, label="inner") as same:
        assert same is view
        assert view.apply(add, 1) == 1
        with view.temp_flags(label="innermost"):
            assert (view.label, view.block) == ("innermost", True)
        view.retries = 2
        assert (view.label, view.retries) == ("inner", 2)
    assert (view.label, view.block, view.retries) == ("", False, 0)


def test_temp_flags_are_of_one_thread_alone(client):
    view = client.load_balanced_view()
    seen = []
    with view.temp_flags(block=True):
        thread = threading.Thread(target=lambda: seen.append(view.block))
        thread.start()
        thread.join(TIMEOUT)
        copied = contextvars.copy_context()
    assert seen == [False]
    assert copied.run(lambda: view.block)
    assert not view.block


def test_repr_shows_what_differs(client):
    assert repr(client[:]) == "<DirectView targets=[0, 1]>"
    assert repr(client.direct_view()) == "<DirectView targets='all'>"
    assert repr(client.load_balanced_view(retries=2)) == "<LoadBalancedView any engine, retries=2>"
    assert repr(client.load_balanced_view(1)) == "<LoadBalancedView any of [1]>"


# ----------------------------------------------------------------------------------------------------- targets


def test_all_is_looked_up_at_each_call_and_a_slice_is_not(client):
    everyone, snapshot = client.direct_view(), client[:]
    client.session.link.join_engine(2)
    assert everyone.apply_sync(add, 1) == [1, 1, 1]
    assert snapshot.apply_sync(add, 1) == [1, 1]
    assert (len(everyone), len(snapshot)) == (3, 2)


def test_wrong_engines_are_named_with_those_that_exist(make_client):
    client = make_client(ids=[0, 3, 5])
    assert client[-1].targets == 5
    assert client[::2].targets == [0, 5]
    assert client[[3, 0]].apply_async(add, 1).engine_id is not None
    for wrong in (lambda: client[1], lambda: client[[0, 7]], lambda: client[-4], lambda: client[0].push({}, targets=9)):
        with pytest.raises(NoSuchEngine, match="there are 0, 3, 5"):
            wrong()
    with pytest.raises(TypeError):
        client["0"]
    with pytest.raises(TypeError):
        client.direct_view(targets=1.5)


def test_without_engines_a_direct_call_says_so_and_a_balanced_one_waits(make_client):
    client = make_client(0, held=True)
    with pytest.raises(NoSuchEngine, match="wait_for_engines"):
        client.direct_view().apply_async(add, 1)
    result = client.load_balanced_view().apply_async(add, 1)
    assert not result.done()
    client.session.link.join_engine(0)
    client.session.link.release()
    assert result.get(TIMEOUT) == 1


# ------------------------------------------------------------------------------------------------------- code


def test_execute_runs_source_text_and_replies(client):
    result = client[:].execute("x = 3; _ = x * 2; print(x)", block=True)
    first, second = result.get(TIMEOUT)
    assert isinstance(first, ExecuteReply)
    assert (first.text, first.execution_count, first.stdout, first.engine_id) == ("6", 1, "3\n", 0)
    assert second["engine_id"] == 1
    assert repr(first) == "<ExecuteReply[1] on engine 0: 6>"
    assert first._repr_mimebundle_() == {"text/plain": "6"}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = first.nonsense
    assert isinstance(client[0].execute("1").get(TIMEOUT), ExecuteReply)


def test_execute_raises_what_the_code_raised(client):
    with pytest.raises(ZeroDivisionError):
        client[0].execute("1 / 0", block=True)
    result = client[0].execute("1 / 0")
    with pytest.raises(ZeroDivisionError):
        result.get(TIMEOUT)


def test_run_executes_a_file_under_its_name(client, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("where = __name__\n1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        client[0].run(script, block=True)
    assert client[0]["where"] == "__main__"
    assert str(script) in _printed(caught.value)


def _printed(error):
    import traceback

    return "".join(traceback.format_exception(error))


# -------------------------------------------------------------------------------------------------- namespaces


def test_push_and_pull(client):
    view = client[:]
    assert view.push({"a": 1, "b": [2]}, block=True) == [None, None]
    assert view.pull("a", block=True) == [1, 1]
    assert view.pull(["a", "b"]).get(TIMEOUT) == [[1, [2]], [1, [2]]]
    assert client[0].pull(("b", "a"), block=True) == [[2], 1]
    assert view.pull("a + b[0]", targets=1, block=True) == 3
    view.update({"a": 5}).get(TIMEOUT)
    assert view.get("a") == [5, 5]
    with pytest.raises(NameError):
        client[0].pull("missing", block=True)


def test_a_view_is_a_dictionary_of_the_engines_namespaces(client):
    view = client[0]
    view["config"] = type(add)  # something with attributes
    view.execute("import types; config = types.SimpleNamespace()", block=True)
    view["config.depth"] = 4
    assert view["config.depth"] == 4
    assert view["config"].depth == 4
    view["table"] = {}
    view["table['k']"] = 5
    assert view["table"] == {"k": 5}
    for wrong in ("a b", "", "1x", "a..b", "a.b = c", "f()", "x: int", "a; b"):
        with pytest.raises(ValueError, match="cannot be assigned to"):
            view[wrong] = 1
    with pytest.raises(TypeError):
        view[3] = 1
    with pytest.raises(TypeError):
        view[3]
    with pytest.raises(TypeError):
        iter(view)
    with pytest.raises(TypeError, match="a name, or a list of names"):
        view.pull([1])


def test_clear_empties_the_namespace(client):
    view = client[0]
    view["x"] = 1
    view.clear(block=True)
    with pytest.raises(NameError):
        view["x"]


@pytest.mark.parametrize("dist", ["b", "r"])
def test_scatter_and_gather(make_client, dist):
    client = make_client(3)
    view = client[:]
    assert view.scatter("part", range(8), dist=dist, block=True) == [None] * 3
    parts = [[0, 1, 2], [3, 4, 5], [6, 7]] if dist == "b" else [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [list(part) for part in view["part"]] == parts
    assert view.gather("part", dist=dist, block=True) == list(range(8))
    assert view.gather("part", dist=dist).get(TIMEOUT) == list(range(8))


def test_scatter_with_flatten_gives_single_items(make_client):
    client = make_client(3)
    client[:].scatter("rank", range(3), flatten=True, block=True)
    assert client[:]["rank"] == [0, 1, 2]
    assert client[:].gather("rank", block=True) == [0, 1, 2]


def test_scatter_and_gather_of_arrays(make_client):
    numpy = pytest.importorskip("numpy")
    client = make_client(3)
    array = numpy.arange(100_001.0)
    client[:].scatter("a", array, block=True)
    lengths = client[:].apply_sync(len, Reference("a"))
    assert lengths == [33334, 33334, 33333]
    gathered = client[:].gather("a", block=True)
    assert isinstance(gathered, numpy.ndarray)
    assert (gathered == array).all()


def test_a_scatter_is_one_result_over_tasks_of_different_payloads(make_client):
    client = make_client(2, held=True)
    result = client[:].scatter("x", [1, 2, 3])
    assert [call.operation for calls, _ in client.session.link.submitted for call in calls] == [Operation.PUSH] * 2
    client.session.link.step(1)
    assert result.progress == 1
    result.cancel()
    assert sum(count for _, count in client.session.link.cancelled) == 2
    client.session.link.release()
    result.wait(TIMEOUT)
