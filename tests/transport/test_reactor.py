"""One loop and the threads that may serve it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from parallelkit.transport.reactor import Reactor


@pytest.fixture
def reactor(no_leaks):
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run)
    thread.start()
    yield reactor
    reactor.stop()
    thread.join(10)
    assert not thread.is_alive()


def served_by(reactor: Reactor) -> threading.Thread:
    """Which thread serves the loop now."""
    found: list[threading.Thread] = []
    done = threading.Event()
    reactor.call_soon(lambda: (found.append(threading.current_thread()), done.set()))
    assert done.wait(10)
    return found[0]


def test_callbacks_of_other_threads_run_on_the_loops_thread(reactor):
    assert served_by(reactor) is not threading.current_thread()


def test_who_drives_serves_the_loop_itself(reactor):
    found: list[threading.Thread] = []
    reactor.call_soon(lambda: reactor.call_at(reactor.now() + 0.01, lambda: found.append(threading.current_thread())))
    assert reactor.drive(lambda: found, 10)
    assert found == [threading.current_thread()]


def test_a_drive_ends_in_time(reactor):
    started = time.monotonic()
    assert reactor.drive(lambda: False, 0.05)
    assert time.monotonic() - started >= 0.05


def test_after_drives_the_background_thread_is_back(reactor):
    for _ in range(5):
        reactor.drive(lambda: True, 1)
    fired = threading.Event()
    reactor.call_soon(lambda: reactor.call_at(reactor.now(), fired.set))
    assert fired.wait(10)
    assert served_by(reactor) is not threading.current_thread()


def test_timers_fire_although_nobody_asks_after_a_drive(reactor):
    fired = threading.Event()
    due = []
    reactor.call_soon(lambda: (reactor.call_at(reactor.now() + 0.02, fired.set), due.append(1)))
    reactor.drive(lambda: due, 10)
    assert fired.wait(10)


def test_one_thread_drives_and_a_second_is_told_so(reactor):
    driving, release = threading.Event(), threading.Event()
    first = threading.Thread(target=lambda: reactor.drive(lambda: driving.set() or release.is_set(), 10))
    first.start()
    assert driving.wait(10)
    assert reactor.drive(lambda: True, 10) is False
    assert served_by(reactor) is first
    release.set()
    reactor.wake()
    first.join(10)


def test_the_first_of_a_burst_is_served_by_its_caller_and_the_rest_by_the_loop(reactor):
    reactor.drive(lambda: True, 1)  # the loop is vacant for a moment
    threads: list[threading.Thread] = []
    done = threading.Event()
    for _ in range(50):
        reactor.call_here(lambda: threads.append(threading.current_thread()))
    reactor.call_here(done.set)
    assert done.wait(10)
    assert len(threads) == 50


def test_ctrl_c_during_a_drive_is_raised_at_its_end_and_cuts_nothing(reactor):
    steps: list[str] = []

    def callback() -> None:
        steps.append("begun")
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler of an ordinary SIGINT would strike here
            pass
        steps.append("ended")

    before = signal.getsignal(signal.SIGINT)
    reactor.call_soon(lambda: reactor.call_at(reactor.now() + 0.01, callback))
    with pytest.raises(KeyboardInterrupt):
        reactor.drive(lambda: False, 10)
    assert steps == ["begun", "ended"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loop_that_has_ended_drives_nobody():
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run)
    thread.start()
    reactor.stop()
    thread.join(10)
    assert reactor.drive(lambda: False, 10) is False


def test_readable_descriptors_are_served(reactor):
    read, write = os.pipe()
    got: list[bytes] = []
    arrived = threading.Event()
    reactor.call_soon(lambda: reactor.add_fd(read, lambda: (got.append(os.read(read, 10)), arrived.set())))
    os.write(write, b"x")
    assert arrived.wait(10)
    done = threading.Event()
    reactor.call_soon(lambda: (reactor.remove_fd(read), done.set()))
    assert done.wait(10)
    os.close(read)
    os.close(write)
    assert got == [b"x"]
