"""Real clusters: they start, they survive what they should, and nothing is left of them, however they end."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from parallelkit import config
from parallelkit.cluster import registry
from parallelkit.cluster.cluster import Cluster
from parallelkit.cluster.connect import connect
from parallelkit.cluster.launch import launch
from parallelkit.cluster.processes import reap
from parallelkit.errors import ClusterError, ConnectionFileError, EnginesMissing, HubUnreachable, LaunchError
from tests.system.home import PROMISE, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def cluster(home):
    """A cluster of two and its client."""
    cluster = Cluster(n=2, name="test")
    try:
        yield cluster, cluster.start_and_connect_sync()
    finally:
        cluster.stop_cluster_sync()


def pids(client):
    return dict(zip(client.ids, client[:].apply_sync(os.getpid), strict=True))


def engine_pids(client):
    """As the hub knows them; needs no engine to answer."""
    return {id: row["pid"] for id, row in client.queue_status(verbose=True).items() if id != "unassigned"}


def wait_for_other_engines(client, before):
    """Until every id of ``before`` belongs to another process."""

    def replaced():
        now = engine_pids(client)
        return now.keys() == before.keys() and all(now[id] != before[id] for id in now) and now

    return wait_until(replaced, what="the replacement of all engines")


# ------------------------------------------------------------------------------------------- start and stop


def test_start_use_stop_and_nothing_is_left(home):
    steps = []
    cluster = Cluster(n=2, name="one", on_step=steps.append)
    client = cluster.start_and_connect_sync()
    assert client.ids == [0, 1]
    assert steps[0] == "starting hub"
    assert set(steps[1:]) <= {"0/2 engines", "1/2 engines", "2/2 engines"}  # a quick start passes over some
    assert cluster.is_running()
    assert repr(cluster).startswith("<Cluster 'one': running, started with 2 engines, keeper ")
    assert client[:].apply_sync(lambda x: x + 1, 41) == [42, 42]
    folder = cluster.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.glob("*.json"))
    client.close()
    cluster.stop_cluster_sync()
    home.wait_until_nothing_is_left()
    assert not cluster.is_running()
    assert set(cluster.logs()) == {"keeper", "hub", "node", "engine-0", "engine-1"}
    cluster.stop_cluster_sync()  # once more does no harm


def test_with_and_async_with(home):
    with Cluster(n=1) as client:
        assert client[0].apply_sync(abs, -1) == 1
    home.wait_until_nothing_is_left()

    async def run():
        async with Cluster(n=1) as client:
            return await asyncio.to_thread(client[0].apply_sync, abs, -2)

    assert asyncio.run(run()) == 2
    home.wait_until_nothing_is_left()


def test_the_awaitable_forms(home):
    async def run():
        cluster = Cluster(n=1)
        await cluster.start_cluster()
        client = await cluster.connect_client()
        await asyncio.to_thread(client.wait_for_engines, 1)
        client.close()
        await cluster.stop_cluster()
        return cluster

    cluster = asyncio.run(run())
    assert not cluster.is_running()
    home.wait_until_nothing_is_left()


def test_an_exception_in_the_block_ends_the_cluster_too(home):
    with pytest.raises(ZeroDivisionError), Cluster(n=1):
        raise ZeroDivisionError
    home.wait_until_nothing_is_left()


@pytest.mark.parametrize("step", ["starting hub", "0/2 engines"])
def test_ctrl_c_while_it_starts_leaves_nothing(home, step):
    def interrupt(text):
        if text == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cluster(n=2, on_step=interrupt).start_and_connect_sync()
    home.wait_until_nothing_is_left()


def test_engines_that_do_not_come_in_time_are_missed_and_the_cluster_stays(home):
    cluster = Cluster(n=1, start_timeout=0.5, on_step=lambda text: home.stop_zygote() if "engines" in text else None)
    with pytest.raises(EnginesMissing, match="0 of 1 engines"):
        cluster.start_and_connect_sync()
    assert cluster.is_running()
    cluster.stop_cluster_sync()
    home.wait_until_nothing_is_left()


def test_two_clusters_by_name(home, cluster):
    one, client = cluster
    with Cluster(n=1, name="other") as other:
        assert len(other.ids) == 1
        assert registry.running(config.load()) == ["other", "test"]
        with Cluster.from_file("test").connect_client_sync() as again:
            assert pids(again) == pids(client)
    assert registry.running(config.load()) == ["test"]
    assert client[:].apply_sync(abs, -3) == [3, 3]
    assert one.is_running()


def test_a_name_is_taken_once(home, cluster):
    with pytest.raises(ClusterError, match="'test' is running already"):
        Cluster(n=1, name="test").start_cluster_sync()
    assert cluster[1][:].apply_sync(abs, -3) == [3, 3]  # the first one did not notice


@pytest.mark.parametrize("file", ["", "cluster.json", "client.json"])
def test_a_cluster_is_found_by_its_path(home, cluster, file):
    found = Cluster.from_file(cluster[0].folder / file)
    assert found.name == "test"
    assert found.n == 2
    assert found.is_running()


def test_over_tcp(home):
    with Cluster(n=1, ip="127.0.0.1") as client:
        assert client[0].apply_sync(abs, -1) == 1


def test_a_hub_that_cannot_listen_is_a_launch_error_that_shows_its_log(home):
    with pytest.raises(LaunchError, match=r"hub\.log") as caught:
        Cluster(n=1, ip="203.0.113.1").start_and_connect_sync()  # an address for documentation: not ours
    assert caught.value.exit_code == 1
    assert "cannot listen at tcp://203.0.113.1" in caught.value.log_tail
    assert "Traceback" not in caught.value.log_tail
    home.wait_until_nothing_is_left()


def test_a_client_can_end_the_cluster(home, cluster):
    cluster[1].shutdown(hub=True)
    home.wait_until_nothing_is_left()


def test_what_user_code_started_ends_with_the_cluster(home, cluster):
    def start_daemon():
        import subprocess

        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    daemons = cluster[1][:].apply_sync(start_daemon)
    assert all(pid in home.processes() for pid in daemons)
    cluster[0].stop_cluster_sync()
    home.wait_until_nothing_is_left()


def test_stopping_works_while_engines_are_busy_in_c(home, cluster):
    def stubborn():
        import signal
        import time

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(1000)

    cluster[1][:].apply_async(stubborn)
    wait_until(lambda: all(row["tasks"] == 1 for id, row in cluster[1].queue_status().items() if id != "unassigned"))
    began = time.monotonic()
    cluster[0].stop_cluster_sync()
    assert time.monotonic() - began < PROMISE
    home.wait_until_nothing_is_left()


def test_stopping_works_while_the_node_is_stopped(home, cluster):
    os.kill(home.pid_of("parallelkit.node"), signal.SIGSTOP)
    cluster[0].stop_cluster_sync()
    home.wait_until_nothing_is_left()


# --------------------------------------------------------------------------------------------- kill -9


OWNER = """
import sys
from parallelkit.cluster.cluster import Cluster
client = Cluster(n=2, name="owned", shutdown_atexit={shutdown}).start_and_connect_sync()
print("up", flush=True)
sys.stdin.read()
"""


def start_owner(shutdown=True):
    """A process that starts a cluster and waits; returned when the cluster is up."""
    command = [sys.executable, "-c", OWNER.format(shutdown=shutdown)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_a_cluster_ends_with_its_owner(home, how):
    with start_owner() as owner:
        assert len(home.processes()) >= 7  # owner, keeper, hub, node, zygote, two engines
        if how == "killed":
            owner.kill()
        else:
            owner.communicate()
    home.wait_until_nothing_is_left()


def test_a_cluster_that_may_stay_outlives_who_started_it(home):
    with start_owner(shutdown=False) as owner:
        owner.kill()
    cluster = Cluster.from_file("owned")
    with cluster.connect_client_sync() as client:
        assert client[:].apply_sync(abs, -1) == [1, 1]
    cluster.stop_cluster_sync()
    home.wait_until_nothing_is_left()


def test_a_killed_keeper_takes_everything_with_it(home, cluster):
    os.kill(home.pid_of("parallelkit.cluster.keeper"), signal.SIGKILL)
    home.wait_until_nothing_is_left()
    assert not cluster[0].is_running()


@pytest.mark.parametrize("other", ["parallelkit.hub", "parallelkit.node"])
def test_whichever_of_hub_and_node_is_left_cleans_up_after_the_keeper(home, cluster, other):
    victims = [home.pid_of("parallelkit.cluster.keeper"), home.pid_of(other)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    home.wait_until_nothing_is_left()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3])
def test_a_keeper_that_is_killed_while_its_cluster_starts_leaves_no_process(home, delay):
    keeper = launch(config.load(), "early", 2, None)
    time.sleep(delay)  # not to wait for something, but to strike at another moment
    os.kill(keeper.pid, signal.SIGKILL)
    reap(keeper.pid, block=True)
    wait_until(lambda: not home.processes(), PROMISE)
    registry.clean(config.load())  # killed before it had started anything, nobody else was there to clean up
    home.wait_until_nothing_is_left()


def test_a_killed_node_and_its_engines_are_replaced(home, cluster):
    before = pids(cluster[1])
    os.kill(home.pid_of("parallelkit.node"), signal.SIGKILL)
    after = wait_for_other_engines(cluster[1], before)
    assert pids(cluster[1]) == after
    assert not set(before.values()) & set(home.processes())


def test_a_killed_zygote_and_its_engines_are_replaced(home, cluster):
    before = pids(cluster[1])
    node = home.pid_of("parallelkit.node")
    os.kill(home.pid_of("parallelkit.engine.zygote"), signal.SIGKILL)
    after = wait_for_other_engines(cluster[1], before)
    assert pids(cluster[1]) == after
    assert home.pid_of("parallelkit.node") == node


def test_a_killed_engine_is_replaced_under_its_id_and_the_other_is_left_alone(home, cluster):
    client = cluster[1]
    before = pids(client)
    os.kill(before[1], signal.SIGKILL)
    after = wait_until(lambda: (now := engine_pids(client)).keys() == {0, 1} and now != before and now)
    assert after[0] == before[0]
    assert pids(client) == after


def test_a_killed_hub_comes_back_and_the_engines_keep_what_they_have(home, cluster):
    client = cluster[1]
    client[:].push({"kept": 17}, block=True)
    before = pids(client)
    hub = home.pid_of("parallelkit.hub")
    os.kill(hub, signal.SIGKILL)
    wait_until(lambda: any("parallelkit.hub" in command for pid, command in home.processes().items() if pid != hub))

    def answers():
        with contextlib.suppress(HubUnreachable):
            return len(client.ids) == 2 and engine_pids(client) == before

    wait_until(answers, what="the engines' return to the new hub")
    assert client[:].pull("kept", block=True) == [17, 17]


def test_what_is_left_when_all_supervisors_are_killed_at_once_is_cleaned_up(home, capsys):
    cluster = Cluster(n=1, name="default")
    cluster.start_and_connect_sync().close()
    keeper = home.pid_of("parallelkit.cluster.keeper")
    os.killpg(keeper, signal.SIGKILL)  # with hub, node and zygote
    wait_until(lambda: not home.processes(), PROMISE)
    assert cluster.folder.exists()
    with pytest.raises(ConnectionFileError, match=f"its keeper, process {keeper}, is gone"):
        Cluster.from_file("default")
    with connect(n=1) as client:
        assert len(client.ids) == 1
    err = capsys.readouterr().err
    assert "cleaned up after cluster 'default'" in err
    assert "cluster 'default' is up with 1 engine after" in err
    Cluster.from_file().stop_cluster_sync()


# --------------------------------------------------------------------------------------------- connect


def test_connect_starts_then_joins(home, capsys):
    with connect(n=2) as first, connect() as second:
        assert pids(first) == pids(second)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        "parallelkit: starting cluster 'default' … cluster 'default' is up with 2 engines after "
    )
    assert lines[1] == "parallelkit: joining cluster 'default' … joined cluster 'default' with 2 engines"
    with connect(n=5):
        assert "with 2 engines, not 5: it was running already" in capsys.readouterr().err
    Cluster.from_file().stop_cluster_sync()


def test_two_connects_at_once_give_one_cluster(home):
    script = (
        "import os, parallelkit, sys; rc = parallelkit.connect(n=1, name='shared');"
        "print(rc[0].apply_sync(os.getpid), flush=True); sys.stdin.read()"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert len({process.stdout.readline() for process in both}) == 1
    for process in both:
        process.communicate()
    home.wait_until_nothing_is_left()


# --------------------------------------------------------------------------------------------- command line


def parallelkit(*arguments):
    return subprocess.run([sys.executable, "-m", "parallelkit", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_line_round_trip(home):
    started = parallelkit("start", "-n", "2", "--name", "mine")
    assert started.returncode == 0, started.stderr
    assert "pk.connect('mine')" in started.stdout
    (row,) = json.loads(parallelkit("list", "--json").stdout)
    assert (row["name"], row["running"], row["owner"], row["n"]) == ("mine", True, None, 2)
    status = parallelkit("status", "mine")
    assert "2 engines of 2" in status.stdout
    assert "listens at" in parallelkit("logs", "mine").stdout
    assert "engine 1 of a hub" in parallelkit("logs", "mine", "--engine", "1").stdout
    again = parallelkit("start", "-n", "1", "--name", "mine")
    assert again.returncode == 1
    assert "running already" in again.stderr
    assert "Traceback" not in again.stderr
    missing = parallelkit("status")
    assert missing.returncode == 1
    assert "Running is 'mine'" in missing.stderr
    assert parallelkit("stop", "mine").returncode == 0
    home.wait_until_nothing_is_left()


def test_stop_all(home):
    for name in ("one", "two"):
        assert parallelkit("start", "-n", "0", "--name", name).returncode == 0
    assert parallelkit("stop", "--all").returncode == 0
    home.wait_until_nothing_is_left()


def test_logs_are_followed(home, cluster):
    log = cluster[0].log_dir / "engine-0.log"
    seen = threading.Event()

    def write():
        while not seen.wait(0.05):  # again and again: who follows sees only what comes after its first look
            with log.open("a") as stream:
                stream.write("a new line\n")

    command = [sys.executable, "-m", "parallelkit", "logs", "test", "--engine", "0", "-f", "-n", "0"]
    writer = threading.Thread(target=write)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        writer.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "a new line\n"
        finally:
            seen.set()
            writer.join()
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
