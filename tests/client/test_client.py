"""Client: engines by index, waiting, asking the hub, and leaving nothing behind."""

import gc
import itertools
import json
import os
import signal
import socket
import threading
import time
import weakref
from concurrent.futures import Future

import pytest

from parallelkit.client.client import Client
from parallelkit.client.direct import DirectView
from parallelkit.errors import ConnectionFileError, EnginesMissing, HubUnreachable, NoSuchEngine
from parallelkit.wire import messages as m
from tests.client.scripted_link import ScriptedLink

TIMEOUT = 10


def double(x):
    return 2 * x


# -------------------------------------------------------------------------------------------------- engines


def test_engines_by_index(make_client):
    client = make_client(4)
    assert client.ids == [0, 1, 2, 3]
    assert len(client) == 4
    assert [view.targets for view in client] == client.ids
    assert client[0].targets == 0
    assert client[-1].targets == 3
    assert client[:].targets == [0, 1, 2, 3]
    assert client[::2].targets == [0, 2]
    assert client[[0, 2]].targets == [0, 2]
    assert isinstance(client[1], DirectView)
    assert client[1].apply_sync(double, 4) == 8
    with pytest.raises(NoSuchEngine, match="no engine 9; there are 0, 1, 2, 3"):
        client[9]
    with pytest.raises(IndexError):
        client[9]


def test_dask_does_not_take_it_for_a_client_of_its_own():
    assert not hasattr(Client, "get")


def test_wait_for_engines(client):
    client.wait_for_engines(2, timeout=0)
    joining = threading.Timer(0.01, client.session.link.join_engine, [2])
    joining.start()
    client.wait_for_engines(3, timeout=TIMEOUT)
    joining.join()
    with pytest.raises(EnginesMissing, match=r"3 of 5 engines registered within 0\.01 s") as caught:
        client.wait_for_engines(5, timeout=0.01)
    assert (caught.value.available, caught.value.expected) == (3, 5)


# --------------------------------------------------------------------------------------------------- waiting


def test_wait_for_everything_and_for_some(held):
    link = held.session.link
    view = held.load_balanced_view()
    first, second = view.apply_async(double, 1), view.apply_async(double, 2)
    assert not held.wait(timeout=0)
    link.step(1)
    assert held.wait(first, timeout=TIMEOUT)
    assert held.wait([first.msg_ids[0]], timeout=0)
    assert not held.wait([first, second.msg_ids[0]], timeout=0.01)
    assert not view.wait(second, timeout=0)
    link.release()
    assert held.wait()
    assert held.wait(timeout=None)
    other = Future()
    other.set_result(1)
    assert held.wait([other, second])
    with pytest.raises(TypeError, match="no job"):
        held.wait([3])


def test_abort_cancels_what_is_pending(held):
    view = held.load_balanced_view()
    results = [view.apply_async(double, i) for i in range(3)]
    assert held.abort(results[0]) == 1
    assert results[0].wait(TIMEOUT)
    assert held.abort(results[1].msg_ids) == 1
    assert held.abort() >= 1
    assert held.wait(timeout=TIMEOUT)
    assert all(result.cancelled() for result in results)
    assert held.abort() == 0


def test_abort_of_everything_ends_imaps_too(client):
    endless = client.load_balanced_view().imap(double, itertools.count())
    assert next(endless) == 0
    assert client.abort() == 1
    assert list(endless) == []
    assert client.abort() == 0


def test_history_is_bounded(client):
    view = client.load_balanced_view()
    results = [view.apply_async(double, 0) for _ in range(1500)]
    assert client.history[-1] == results[-1].msg_ids[0]
    assert len(client.history) == 1000
    assert client.wait(timeout=TIMEOUT)
    assert client.outstanding == set()


# ---------------------------------------------------------------------------------------------------- the hub


def test_queue_status(client):
    answer = {"engines": [[0, 1, 5, 40, "ok"], [1, 0, 0, 41, "unresponsive"]], "unassigned": 7, "sessions": 1}
    client.session.link.answers.extend([answer] * 2)
    assert client.queue_status() == {
        0: {"queue": 5, "tasks": 1, "completed": 40},
        1: {"queue": 0, "tasks": 0, "completed": 41},
        "unassigned": 7,
    }
    status = client[1].queue_status(verbose=True)
    assert status == {
        1: {"queue": 0, "tasks": 0, "completed": 41, "host": "host1", "pid": 4001, "state": "unresponsive"},
        "unassigned": 7,
    }


def test_signals_reach_the_engines_named(client):
    link = client.session.link
    link.answers.extend([[0, 1], [1], [1]])
    assert client.interrupt() == [0, 1]
    assert client.send_signal("usr1", targets=1) == [1]
    assert client[1].interrupt() == [1]
    assert link.requests == [
        m.SignalEngines(1, [0, 1], signal.SIGINT),
        m.SignalEngines(2, [1], signal.SIGUSR1),
        m.SignalEngines(3, [1], signal.SIGINT),
    ]
    with pytest.raises(ValueError, match="names no signal"):
        client.send_signal("SIGNOTHING")
    with pytest.raises(NoSuchEngine):
        client.interrupt(5)


def test_shutdown_of_engines_and_of_everything(client):
    link = client.session.link
    link.answers.extend([[0, 1], [1], None])
    assert client.shutdown() == [0, 1]
    assert client[1].shutdown(restart=True) == [1]
    assert client.shutdown(hub=True) == [0, 1]
    assert link.requests == [m.StopEngines(1, [0, 1], False), m.StopEngines(2, [1], True), m.StopCluster(3)]


def test_restart_waits_for_the_new_engines(client):
    link = client.session.link
    link.answers.extend([[1], [1]])

    def come_back():
        with link.changed:
            new = m.EngineInfo(1, b"new" * 5 + b"x", "host1", 5001)
            link.engines = {**link.engines, 1: new}
            link.changed.notify_all()

    joining = threading.Timer(0.01, come_back)
    joining.start()
    assert client.restart_engines(1, timeout=TIMEOUT) == [1]
    joining.join()
    with pytest.raises(EnginesMissing):
        client.restart_engines(1, timeout=0.01)


# ---------------------------------------------------------------------------------------------------- the end


def test_a_closed_client_says_so_and_its_results_end(held):
    result = held.load_balanced_view().apply_async(double, 1)
    with held:
        assert not held.closed
    assert held.closed
    with pytest.raises(HubUnreachable, match="this client was closed"):
        result.get(TIMEOUT)
    with pytest.raises(HubUnreachable):
        held.load_balanced_view().apply_async(double, 1)
    assert repr(held) == "<Client of 'scripted': closed>"
    held.close()


def test_a_dropped_client_closes_its_link():
    link = ScriptedLink()
    client = Client.over(link)
    view = client.load_balanced_view()
    dropped = weakref.ref(client)
    del client
    assert view.apply_sync(double, 1) == 2  # a view keeps its client
    del view
    gc.collect()
    assert dropped() is None
    assert link.closed
    assert not link._thread.is_alive()


def test_a_pending_result_keeps_the_link_open_and_no_longer():
    link = ScriptedLink(held=True)
    result = Client.over(link).load_balanced_view().apply_async(double, 21)
    gc.collect()
    assert not link.closed
    link.release()
    assert result.get(TIMEOUT) == 42
    del result
    deadline = time.monotonic() + TIMEOUT
    while not link.closed and time.monotonic() < deadline:
        link._thread.join(0.01)
    assert link.closed


def test_reprs(client):
    assert repr(client) == "<Client of 'scripted': 2 engines, 0 tasks outstanding>"
    client.session.link.cluster = "<b>x</b>"
    shown = client._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in shown
    assert "<b>x</b>" not in shown
    assert "<td>4001</td>" in shown
    client.session.link.failure = HubUnreachable("the cluster has ended: stopped")
    assert "the cluster has ended: stopped" in repr(client)


# ------------------------------------------------------------------------------------------------- connecting


def test_a_cluster_that_is_not_running_says_which_are(cluster_home):
    with pytest.raises(ConnectionFileError, match="no cluster 'default' is running; none is"):
        Client()
    for name in ("one", "two"):
        folder = os.path.join(cluster_home, "run", name)
        os.makedirs(folder, mode=0o700)
        open(os.path.join(folder, "client.json"), "w").close()
    for connect in (lambda: Client("three"), lambda: Client(cluster="three"), lambda: Client(name="three")):
        with pytest.raises(ConnectionFileError, match="no cluster 'three' is running; running: one, two"):
            connect()


def test_a_missing_or_damaged_file_is_named(cluster_home, tmp_path):
    with pytest.raises(ConnectionFileError, match=r"nowhere\.json"):
        Client(tmp_path / "nowhere.json")
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    damaged.chmod(0o600)
    with pytest.raises(ConnectionFileError, match="damaged"):
        Client(str(damaged))


def _connection_file(path, endpoint):
    path.write_text(json.dumps({"cluster": "gone", "endpoint": endpoint}))
    path.chmod(0o600)
    return path


def test_a_connection_file_that_outlived_its_hub_is_stale(cluster_home, tmp_path):
    stale = _connection_file(tmp_path / "stale.json", f"ipc://{cluster_home}/gone.sock")
    with pytest.raises(ConnectionFileError, match=r"'gone' is stale: nobody listens at .*; none is"):
        Client(stale, timeout=0.05)


def test_a_hub_that_does_not_answer_is_unreachable(cluster_home, tmp_path):
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{cluster_home}/mute.sock")
        mute.listen()
        file = _connection_file(tmp_path / "mute.json", f"ipc://{cluster_home}/mute.sock")
        with pytest.raises(HubUnreachable, match="'gone'"):
            Client(file, timeout=0.05)
