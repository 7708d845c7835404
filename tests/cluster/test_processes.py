"""Processes that are told apart by number and birth."""

import os
import signal
import subprocess
import sys
import time

import pytest

from parallelkit.cluster import processes

SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(1000)"]


@pytest.fixture
def sleeper():
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_birth_stays_and_differs_between_processes(sleeper):
    born = processes.birth(sleeper.pid)
    assert born is not None
    assert processes.birth(sleeper.pid) == born
    assert born >= (processes.birth(os.getpid()) or 0)


def test_a_zombie_counts_as_gone(sleeper):
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # dead and not reaped
    assert processes.birth(sleeper.pid) is None


def test_waiting_returns_as_soon_as_it_ends_and_gives_up_in_time(sleeper):
    born = processes.birth(sleeper.pid)
    assert born is not None
    assert not processes.wait_for_end(sleeper.pid, born, 0.05)
    os.kill(sleeper.pid, signal.SIGTERM)
    assert processes.wait_for_end(sleeper.pid, born, 10)


def test_ending_kills_what_ignores_sigterm_together_with_its_group():
    script = (
        "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        born, child_born = processes.birth(process.pid), processes.birth(child)
        assert born is not None
        assert child_born is not None
        assert not processes.end(process.pid, born, 0.1)
        assert processes.birth(process.pid) is None
        assert processes.wait_for_end(child, child_born, 10)


def test_ending_in_order_says_so(sleeper):
    born = processes.birth(sleeper.pid)
    assert born is not None
    assert processes.end(sleeper.pid, born, 10)


def test_a_number_that_belongs_to_another_process_by_now_gets_no_signal(sleeper):
    born = processes.birth(sleeper.pid)
    assert born is not None
    began = time.monotonic()
    assert processes.end(sleeper.pid, born - 1, 10)  # the process that is meant has ended
    assert time.monotonic() - began < 5
    assert processes.birth(sleeper.pid) == born


def test_reaping_gives_the_exit_code_once_and_none_for_others():
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    assert processes.reap(process.pid, block=True) == 5
    assert processes.reap(process.pid) is None
    assert processes.reap(1) is None
    process.returncode = 5  # reaped behind its back
