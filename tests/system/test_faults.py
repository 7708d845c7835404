"""What may die or stop, and who notices. Each execution leaves a line in a file: nothing else is proof."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import Counter

import pytest

from parallelkit.cluster.cluster import Cluster
from tests.system.home import wait_until

pytestmark = pytest.mark.system

TIMEOUT = 60


@pytest.fixture
def client(home):
    """A client of a cluster of two that loses patience sooner than the default, so that the tests need not wait."""
    with Cluster(n=2, name="faults", heartbeat=0.25, silence=1.5) as client:
        yield client


def logged(path, item, seconds):
    """Say that it runs, then take a while."""
    with open(path, "a") as log:
        log.write(f"{item}\n")
    time.sleep(seconds)
    return item


def runs(path) -> Counter:
    return Counter(int(line) for line in path.read_text().split())


@pytest.mark.parametrize("ip", ["", "127.0.0.1"])
def test_a_killed_hub_costs_no_task_and_repeats_none(home, tmp_path, ip):
    log = tmp_path / "log"
    with Cluster(n=2, name="hub", heartbeat=0.25, ip=ip) as client:
        view = client.load_balanced_view()
        client[:]["kept"] = 42
        before = sorted(client[:].apply_sync(os.getpid))
        result = view.map_async(logged, [str(log)] * 60, range(60), [0.05] * 60, chunksize=1)
        for kill in range(2):
            wait_until(lambda kill=kill: log.exists() and len(runs(log)) >= 10 * (kill + 1))
            os.kill(home.pid_of("parallelkit.hub"), signal.SIGKILL)
            wait_until(lambda kill=kill: result.progress > 10 * (kill + 1), TIMEOUT)
        assert result.get(TIMEOUT) == list(range(60))
        assert runs(log) == dict.fromkeys(range(60), 1)
        assert client[:]["kept"] == [42, 42]
        assert sorted(client[:].apply_sync(os.getpid)) == before


def test_a_killed_engine_costs_its_running_task_one_more_run_and_the_others_none(client, tmp_path):
    log = tmp_path / "log"
    view = client.load_balanced_view()
    result = view.map_async(logged, [str(log)] * 40, range(40), [0.05] * 40, chunksize=1)
    wait_until(lambda: log.exists() and len(runs(log)) >= 10)
    os.kill(client[0].apply_async(os.getpid).get(TIMEOUT), signal.SIGKILL)
    assert result.get(TIMEOUT) == list(range(40))
    counts = runs(log)
    assert set(counts) == set(range(40))
    assert sum(counts.values()) <= 41


def test_a_stopped_engine_is_given_up_and_taken_back_with_its_result(client):
    pids = client[:].apply_sync(os.getpid)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        wait_until(lambda: client.ids == [1], TIMEOUT, "the loss of the stopped engine")
        assert client.load_balanced_view().apply_sync(os.getpid) == pids[1]
    finally:
        os.kill(pids[0], signal.SIGCONT)
    client.wait_for_engines(2, timeout=TIMEOUT)
    assert sorted(client[:].apply_sync(os.getpid)) == sorted(pids)


def hold_the_gil(seconds):
    return ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def test_an_engine_that_cannot_answer_is_shown_as_such_and_kept(client):
    result = client[0].apply_async(hold_the_gil, 4)

    def state():
        return client.queue_status(verbose=True)[0]["state"]

    wait_until(lambda: state() == "unresponsive", TIMEOUT)
    assert result.get(TIMEOUT) == 0
    assert client.ids == [0, 1]
    wait_until(lambda: state() == "ok", TIMEOUT)
