"""Timeouts of the running attempt, in virtual time."""

import pytest

from parallelkit.engine.deadline import HORIZON, Deadline
from parallelkit.transport.loopback import LoopbackNetwork


class Clock:
    """A loop that counts the timers it was asked for."""

    def __init__(self):
        self.network = LoopbackNetwork()
        self.peer = self.network.join(b"E" * 17)
        self.now, self.call_soon, self.stop = self.peer.now, self.peer.call_soon, self.peer.stop
        self.timers = 0

    def call_at(self, when, callback):
        assert when <= self.now() + HORIZON
        self.timers += 1
        self.peer.call_at(when, callback)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def expired(clock):
    return []


@pytest.fixture
def deadline(clock, expired):
    return Deadline(clock, lambda attempt: expired.append((attempt, round(clock.now(), 6))))


def test_it_expires_when_the_time_is_over(clock, deadline, expired):
    deadline.start(1, 2.0)
    clock.network.advance(1.999)
    assert expired == []
    clock.network.advance(0.002)
    assert expired == [(1, 2.0)]
    clock.network.advance(60)
    assert len(expired) == 1


def test_long_ones_too(clock, deadline, expired):
    deadline.start(1, 3 * HORIZON)
    clock.network.advance(4 * HORIZON)
    assert expired == [(1, 3 * HORIZON)]


def test_one_that_ended_in_time_does_not(clock, deadline, expired):
    deadline.start(1, 2.0)
    clock.network.advance(1)
    deadline.stop()
    clock.network.advance(60)
    assert expired == []


def test_the_next_has_its_own_time(clock, deadline, expired):
    deadline.start(1, 2.0)
    clock.network.advance(1.5)
    deadline.stop()
    deadline.start(2, 2.0)
    clock.network.advance(60)
    assert expired == [(2, 3.5)]


def test_a_shorter_one_is_not_hidden_by_a_pending_timer(clock, deadline, expired):
    deadline.start(1, 60.0)
    clock.network.advance(1)
    deadline.stop()
    deadline.start(2, 0.5)
    clock.network.advance(60)
    assert expired == [(2, 1.5)]


def test_thousands_of_tasks_need_few_timers(clock, deadline, expired):
    for attempt in range(10_000):
        deadline.start(attempt, 60.0 if attempt % 2 else 1.0)
        clock.network.advance(0.001)
        deadline.stop()
    assert expired == []
    assert clock.timers < 50
