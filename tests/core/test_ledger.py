"""The client's machine: windows, acknowledgements, inventories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit.core.ledger import Entry, Ledger
from parallelkit.errors import InternalError


def fill(ledger: Ledger, count: int, size: int = 1) -> list[Entry]:
    entries = [Entry(ledger.next_seq + n, f"record{n}", "cargo", "sink", size) for n in range(count)]
    ledger.submit(entries)
    return entries


def test_the_window_lets_out_so_many_tasks():
    ledger = Ledger(window_tasks=3)
    fill(ledger, 5)
    assert [e.seq for e in ledger.take_sendable(100)] == [0, 1, 2]
    assert ledger.take_sendable(100) == []
    ledger.settle(1)
    assert [e.seq for e in ledger.take_sendable(100)] == [3]
    ledger.check()


def test_the_window_lets_out_so_many_bytes_but_always_one_task():
    ledger = Ledger(window_bytes=10)
    fill(ledger, 3, size=100)
    assert [e.seq for e in ledger.take_sendable(100)] == [0]
    ledger.settle(0)
    assert [e.seq for e in ledger.take_sendable(100)] == [1]


def test_a_result_that_comes_twice_is_taken_once_and_acknowledged_twice():
    ledger = Ledger()
    fill(ledger, 1)
    ledger.take_sendable(1)
    assert ledger.settle(0) is not None
    assert ledger.settle(0) is None
    assert ledger.take_acknowledged() == [0, 0]
    assert ledger.take_acknowledged() == []


def test_an_inventory_names_what_was_sent_and_not_answered():
    ledger = Ledger(window_tasks=3)
    fill(ledger, 5)
    ledger.take_sendable(100)
    ledger.settle(1)
    assert ledger.inventory() == (1, 3, [0, 2])
    assert ledger.inventory()[0] == 2


def test_only_what_was_sent_and_is_still_wanted_goes_again():
    ledger = Ledger(window_tasks=3)
    fill(ledger, 5)
    ledger.take_sendable(100)
    ledger.settle(1)
    assert [e.seq for e in ledger.again([(0, 10)])] == [0, 2]


def test_the_tasks_of_one_record_leave_together():
    ledger = Ledger(window_tasks=2)
    ledger.submit([Entry(n, "record", "cargo", "sink", 0, position=n) for n in range(4)])
    assert len(ledger.take_sendable(1)) == 4


def test_numbers_follow_each_other():
    with pytest.raises(InternalError, match="7 submitted where 0"):
        Ledger().submit([Entry(7, None, None, None, 0)])


def test_abandon_gives_everything_back():
    ledger = Ledger(window_tasks=1)
    fill(ledger, 3)
    ledger.take_sendable(9)
    assert len(ledger.abandon()) == 3
    assert len(ledger) == 0
    assert not ledger.has_unsent


MOVES = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 5)),
    st.tuples(st.just("settle"), st.integers(0, 30)),
    st.tuples(st.just("send"), st.integers(1, 4)),
)


@given(st.lists(MOVES))
def test_any_order_of_moves_keeps_the_books(moves):
    ledger = Ledger(window_tasks=4, window_bytes=6)
    sent: set[int] = set()
    for move, number in moves:
        if move == "submit":
            fill(ledger, number, size=number)
        elif move == "send":
            out = ledger.take_sendable(number)
            assert sent.isdisjoint(e.seq for e in out)
            sent.update(e.seq for e in out)
        elif number in sent:
            ledger.settle(number)
        ledger.check()
    assert len(sent) == ledger.sent
