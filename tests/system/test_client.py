"""Client, views and results against a real hub and real engines: what only they can show."""

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time

import pytest

import parallelkit as pk
from parallelkit.errors import EngineLost, NoSuchEngine, RemoteError, SerializationError, TaskCancelled, TaskTimeout

pytestmark = pytest.mark.system

TIMEOUT = 30


@pytest.fixture(scope="module")
def cluster():
    """One cluster of two engines for all tests of this file."""
    folder = tempfile.mkdtemp(prefix="pk-")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PARALLELKIT_RUNTIME_DIR", f"{folder}/run")
        environment.setenv("PARALLELKIT_STATE_DIR", f"{folder}/state")
        environment.setenv("PARALLELKIT_CONFIG", f"{folder}/config.toml")
        cluster = pk.Cluster(n=2)
        cluster.start_and_connect_sync().close()
        yield cluster
        cluster.stop_cluster_sync()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def rc(cluster):
    with pk.Client(cluster=cluster.name) as rc:
        rc.wait_for_engines(2, timeout=TIMEOUT)
        rc[:].clear(block=True)
        yield rc


def test_calls_maps_and_namespaces(rc):
    view, everyone = rc.load_balanced_view(), rc[:]
    offset = 10

    def shifted(x):
        return x + offset

    assert view.apply_sync(shifted, 1) == 11
    assert view.map_sync(shifted, range(20_000)) == list(range(10, 20_010))
    assert view.map_sync(shifted, range(3000), chunksize=1) == list(range(10, 3010))
    assert everyone.map_sync(shifted, range(7)) == list(range(10, 17))
    assert list(itertools.islice(view.imap(shifted, itertools.count()), 500)) == list(range(10, 510))
    everyone["x"] = 5
    assert everyone["x"] == [5, 5]
    everyone.execute("y = x + 1", block=True)
    assert everyone.pull(["x", "y"], block=True) == [[5, 6], [5, 6]]
    everyone.scatter("part", range(5), block=True)
    assert everyone.gather("part", block=True) == list(range(5))
    assert everyone.apply_sync(shifted, pk.Reference("y * 2")) == [22, 22]
    assert len(set(everyone.apply_sync(os.getpid))) == 2


def test_decorated_functions_and_what_is_made_of_their_results(rc):
    @rc.load_balanced_view().remote()
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @rc[:].parallel(block=True)
    def halves(numbers):
        return [number / 2 for number in numbers]

    joined = pk.AsyncResult.join(fibonacci(10), rc[:].apply_async(os.getpid), fibonacci.map(range(3)))
    first, *pids, zero, one, two = joined.get(TIMEOUT)
    assert (first, zero, one, two) == (55, 0, 1, 1)
    assert [part.get(TIMEOUT) for part in rc[:].apply_async(os.getpid).split()] == pids
    assert halves(range(5)) == [0, 0.5, 1, 1.5, 2]


def test_earlier_results_by_name_and_broadcast(rc):
    everywhere = rc.broadcast_view()
    pids = everywhere.apply_async(os.getpid)
    assert len(set(rc.get_result().get(TIMEOUT))) == 2
    assert rc.get_result(pids.msg_ids[1]).get(TIMEOUT) == pids.get(TIMEOUT)[1]
    assert rc.result_status(pids) == {"pending": [], "completed": pids.msg_ids}
    assert everywhere.map_sync(abs, range(-3, 0)) == [3, 2, 1]


def test_imports_on_real_engines(rc):
    with rc[:].sync_imports(quiet=True):
        import json as j
    assert rc[:]["j.__name__"] == [j.__name__] * 2


def test_requirements_are_met_on_the_engine(rc):
    @rc[0].remote(block=True)
    @pk.require("json as j", limit=3)
    def dumped():
        return j.dumps([limit, scale])  # noqa: F821 - that is the point

    rc[0]["scale"] = 7
    assert dumped() == "[3, 7]"
    with pytest.raises(ModuleNotFoundError) as caught:
        rc[0].apply_sync(pk.require("no_such_module")(abs), 1)
    assert any("abs requires the module" in note for note in caught.value.__notes__)


def test_output_streams_while_a_task_runs(rc, capsys):
    result = rc[:].execute("print('begins'); import time; time.sleep(0.2); print('ends')")
    with result.stream_output():
        result.get(TIMEOUT)
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "[stdout:0] begins", "[stdout:0] ends", "[stdout:1] begins", "[stdout:1] ends",
    ]  # fmt: skip


def test_a_diamond_of_calls(rc, tmp_path):
    view = rc.load_balanced_view()
    log = tmp_path / "log"

    def step(name, seconds=0.05):
        time.sleep(seconds)
        with log.open("a") as file:
            file.write(name)
        return os.getpid()

    top = view.apply_async(step, "a", 0.3)
    with view.temp_flags(after=top):
        left, right = view.apply_async(step, "b"), view.apply_async(step, "c")
    with view.temp_flags(after=[left, right]):
        bottom = view.apply_async(step, "d")
    with view.temp_flags(follow=left, after=bottom):
        beside = view.apply_async(step, "e")
    assert beside.get(TIMEOUT) == left.get(TIMEOUT)
    assert log.read_text() in {"abcde", "acbde"}
    with view.temp_flags(follow=left):  # long done, and forgotten at the hub
        assert view.apply_sync(os.getpid) == left.get()
    with view.temp_flags(after=left.msg_ids):
        assert view.apply_sync(abs, -1) == 1
    with view.temp_flags(follow=left.msg_ids), pytest.raises(ValueError, match="use its AsyncResult instead"):
        view.apply_sync(os.getpid)
    with view.temp_flags(after=left.msg_ids[0] + "00000"), pytest.raises(ValueError, match="there is no task"):
        view.apply_sync(os.getpid)


def test_a_chain_of_two_thousand(rc):
    view = rc.load_balanced_view()
    count = 2000
    result = view.apply_async(time.sleep, 0.2)
    results = [result]
    for _ in range(count):
        with view.temp_flags(after=results[-1]):
            results.append(view.apply_async(time.monotonic))
    assert rc.wait(results, timeout=TIMEOUT)
    times = [result.get() for result in results[1:]]
    assert times == sorted(times)  # engines of one machine share this clock
    values = view.apply_async(int)
    for _ in range(50):
        values = view.apply_async(lambda x: x + 1, values)
    assert values.get(TIMEOUT) == 50


def test_a_failure_ends_what_depends_on_it_and_is_named(rc):
    view = rc.load_balanced_view()

    def broken(seconds):
        time.sleep(seconds)
        raise KeyError("spam")

    for seconds in (0.0, 0.3):  # it has failed before, or fails after the others are sent
        first = view.apply_async(broken, seconds)
        if not seconds:
            first.wait(TIMEOUT)
        with view.temp_flags(after=first):
            second = view.apply_async(os.getpid)
        with view.temp_flags(after=second):
            third = view.apply_async(os.getpid)
        with view.temp_flags(after=pk.Dependency([first, second], success=False, failure=True)):
            rescue = view.apply_async(lambda: "rescued")
        name = first.msg_ids[0]
        with pytest.raises(pk.ImpossibleDependency, match=f"its dependency {name} raised an exception"):
            second.get(TIMEOUT)
        with pytest.raises(pk.ImpossibleDependency, match=f"{name} raised an exception .by way of {second.msg_ids[0]}"):
            third.get(TIMEOUT)
        assert rescue.get(TIMEOUT) == "rescued"
        with view.temp_flags(after=first.msg_ids), pytest.raises(pk.ImpossibleDependency, match=name):
            view.apply_sync(os.getpid)
        with pytest.raises(KeyError, match="spam"):
            view.apply_sync(os.path.join, "a", first)


def test_a_name_that_the_client_lacks_is_the_engines(rc):
    rc[0]["scale"] = 3
    assert rc[0].apply_sync(lambda x: x * scale, 4) == 12  # noqa: F821 - that is the point


def test_an_exception_arrives_as_itself_with_the_engines_traceback(rc):
    class Custom(Exception):
        pass

    def broken(x):
        try:
            {}[x]
        except KeyError as error:
            raise Custom("told", 7) from error

    with pytest.raises(Custom) as caught:
        rc.load_balanced_view().apply_sync(broken, "spam")
    assert caught.value.args == ("told", 7)
    assert isinstance(caught.value.__cause__, KeyError)
    assert any("engine" in note and "run 1" in note for note in caught.value.__notes__)


def test_output_comes_with_the_result(rc):
    result = rc[:].execute("print('hello'); import sys; print('oops', file=sys.stderr); 6 * 7", silent=False)
    replies = result.get(TIMEOUT)
    assert result.stdout == ["hello\n"] * 2
    assert result.stderr == ["oops\n"] * 2
    assert [reply.text for reply in replies] == ["42", "42"]
    assert [reply.stdout for reply in replies] == ["hello\n"] * 2
    printed = rc.load_balanced_view().apply_async(print, "from a call")
    printed.get(TIMEOUT)
    assert printed.stdout == "from a call\n"


def test_metadata_of_real_tasks(rc):
    result = rc[:].apply_async(time.sleep, 0.05)
    result.get(TIMEOUT)
    assert result.engine_id == rc.ids
    assert result.serial_time >= 0.1
    assert 0.05 <= result.wall_time < result.serial_time + 5
    for row in result.metadata:
        assert row["submitted"] <= row["started"] < row["completed"]
        assert row["run"] == 1


def sleeps_at(mark):
    """Leaves a mark when it runs, and then takes its time."""
    open(mark, "w").close()
    time.sleep(60)


def wait_for_file(path):
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not appeared"
        time.sleep(0.005)


def test_cancel_interrupts_what_runs(rc, tmp_path):
    began = time.monotonic()
    running, queued = rc[0].apply_async(sleeps_at, str(tmp_path / "mark")), rc[0].apply_async(time.sleep, 60)
    wait_for_file(tmp_path / "mark")
    running.cancel()
    queued.cancel()
    for result in (running, queued):
        with pytest.raises(TaskCancelled):
            result.get(TIMEOUT)
    assert rc[0].apply_sync(abs, -1) == 1
    assert time.monotonic() < began + TIMEOUT


def test_a_cancelled_map_leaves_the_engines_free(rc):
    result = rc.load_balanced_view().map_async(time.sleep, [60] * 200)
    result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(TIMEOUT)
    assert rc[:].apply_sync(abs, -1) == [1, 1]


def test_a_timeout_ends_a_task(rc):
    view = rc.load_balanced_view(timeout=0.2)
    with pytest.raises(TaskTimeout):
        view.apply_sync(time.sleep, 60)
    kept = view.map_async(time.sleep, [0, 60, 0], return_exceptions=True).get(TIMEOUT)
    assert [type(value) for value in kept] == [type(None), TaskTimeout, type(None)]


def test_retries_run_a_failing_item_again(rc, tmp_path):
    marks = str(tmp_path)

    def fails_once(x):
        import os

        mark = os.path.join(marks, str(x))
        if not os.path.exists(mark):
            open(mark, "w").close()
            raise OSError(x)
        return x

    assert rc.load_balanced_view(retries=1).map_sync(fails_once, range(6)) == list(range(6))


def test_what_cannot_be_sent_or_returned_names_itself_and_the_cluster_goes_on(rc):
    view = rc.load_balanced_view()
    with pytest.raises(SerializationError, match="lock"):
        view.apply_async(abs, threading.Lock())
    with pytest.raises(SerializationError, match="lock"):
        view.apply_sync(lambda: __import__("threading").Lock())
    kept = view.map_async(
        lambda x: __import__("threading").Lock() if x else x, [0, 1], return_exceptions=True, chunksize=1
    )
    assert isinstance(kept.get(TIMEOUT)[1], SerializationError)
    assert view.apply_sync(abs, -2) == 2


def test_await_and_async_for(rc):
    view = rc.load_balanced_view()

    async def main():
        assert await view.apply_async(abs, -1) == 1
        squares = [value async for value in view.map_async(lambda x: x * x, range(50))]
        assert squares == [x * x for x in range(50)]
        assert await asyncio.gather(*(view.submit(abs, -x) for x in range(20))) == list(range(20))

        async def remote(x):
            import asyncio

            await asyncio.sleep(0)
            return x

        assert await view.apply_async(remote, 3) == 3

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_uneven_items_use_both_engines(rc):
    result = rc.load_balanced_view().map_async(time.sleep, [0.005] * 20 + [0.05] * 2 + [0.005] * 20)
    result.get(TIMEOUT)
    assert set(result.engine_id) == set(rc.ids)
    assert len(result.msg_ids) == 42


def test_queue_status_and_signals(rc, tmp_path):
    status = rc.queue_status(verbose=True)
    assert set(status) == {*rc.ids, "unassigned"}
    assert {status[id]["pid"] for id in rc.ids} == set(rc[:].apply_sync(os.getpid))
    with pytest.raises(NoSuchEngine, match="there are 0, 1"):
        rc[7]
    running = rc[0].apply_async(sleeps_at, str(tmp_path / "mark"))
    wait_for_file(tmp_path / "mark")
    assert rc.interrupt(0) == [0]
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        running.get(TIMEOUT)


def test_a_dead_engine_fails_its_direct_tasks_and_no_others(rc):
    view = rc.load_balanced_view()
    pid = rc[1].apply_sync(os.getpid)
    doomed = rc[1].apply_async(time.sleep, 60)
    others = view.map_async(time.sleep, [0.02] * 40)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineLost):
        doomed.get(TIMEOUT)
    assert others.get(TIMEOUT) == [None] * 40
    deadline = time.monotonic() + TIMEOUT
    while len(rc) < 2 or rc[1].apply_sync(os.getpid) == pid:
        assert time.monotonic() < deadline, "the engine has not come back"
        time.sleep(0.02)


def test_engines_can_be_restarted(rc):
    rc[0]["kept"] = 1
    before = rc[:].apply_sync(os.getpid)
    assert rc.restart_engines(0, timeout=TIMEOUT) == [0]
    after = rc[:].apply_sync(os.getpid)
    assert before[0] != after[0]
    assert before[1] == after[1]
    with pytest.raises(NameError):
        rc[0]["kept"]


def test_clients_leave_no_thread_behind(cluster):
    def io_threads():
        return {thread for thread in threading.enumerate() if thread.name == "parallelkit-io" and thread.is_alive()}

    before = io_threads()
    for _ in range(3):
        pk.Client(cluster=cluster.name).load_balanced_view().apply_sync(abs, -1)
    deadline = time.monotonic() + TIMEOUT
    while io_threads() - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
