"""imap: endless iterables, a bounded look ahead, slow sources, early ends."""

import itertools
import threading

import pytest

from parallelkit.errors import SerializationError

TIMEOUT = 10


def square(x):
    return x * x


def odd_fails(x):
    if x % 2:
        raise ValueError(x)
    return x


class Counting:
    """An endless iterable that knows how far it was read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.read += 1
        return self.read - 1


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("count", [0, 1, 100, 3001])
def test_imap_is_the_builtin_map(client, count, chunksize):
    view = client.load_balanced_view()
    assert list(view.imap(square, range(count), chunksize=chunksize)) == [i * i for i in range(count)]
    assert sorted(view.imap_unordered(square, range(count), chunksize=chunksize)) == [i * i for i in range(count)]


def test_several_iterables_end_with_the_shortest(client):
    assert list(client.load_balanced_view().imap(pow, [2, 3, 4], itertools.repeat(2), [None, None])) == [4, 9]
    assert list(client.load_balanced_view().imap(pow, [2, 3, 4], itertools.repeat(2))) == [4, 9, 16]


def test_an_endless_iterable_is_read_only_so_far_ahead(client):
    source = Counting()
    results = client.load_balanced_view().imap(square, source, max_outstanding=10)
    assert source.read == 0
    for taken in range(1, 40):
        assert next(results) == (taken - 1) ** 2
        assert source.read <= taken + 10
    results.cancel()


def test_auto_reads_no_more_than_the_reader_takes_in(client):
    source = Counting()
    results = client.load_balanced_view().imap(square, source)
    assert list(itertools.islice(results, 20_000)) == [i * i for i in range(20_000)]
    after = source.read
    for _ in range(3):
        next(results)
    client.load_balanced_view().apply_sync(square, 1)
    assert source.read < after + 3_000_000
    results.close()
    assert list(results) == []


def test_nothing_is_sent_while_nobody_reads(held):
    link = held.session.link
    results = held.load_balanced_view().imap(square, Counting(), max_outstanding=4)
    assert link.count == 0
    link.release()
    assert next(results) == 0
    sent = link.count
    held.load_balanced_view().apply_sync(square, 1)
    assert link.count == sent + 1
    results.cancel()


def test_max_outstanding_zero_reads_all_there_is(held):
    link = held.session.link
    results = held.load_balanced_view().imap(square, range(5000), max_outstanding=0)
    link.release()
    assert next(results) == 0
    assert link.count == 5000
    assert list(results) == [i * i for i in range(1, 5000)]
    with pytest.raises(ValueError, match="max_outstanding"):
        held.load_balanced_view().imap(square, [], max_outstanding=-1)


def test_errors_come_in_their_place(client):
    results = client.load_balanced_view().imap(odd_fails, range(4))
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert next(results) == 2
    values = list(client.load_balanced_view().imap(odd_fails, range(4), return_exceptions=True))
    assert [type(value) for value in values] == [int, ValueError, int, ValueError]


def test_an_error_of_the_iterable_comes_after_the_results_before_it(client):
    def broken():
        yield from range(5)
        raise ZeroDivisionError

    results = client.load_balanced_view().imap(square, broken())
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_an_unpicklable_item_ends_it_after_the_results_before(client):
    items = [1, 2, threading.Lock(), 3]
    results = client.load_balanced_view().imap(square, items, max_outstanding=1)
    assert (next(results), next(results)) == (1, 4)
    with pytest.raises(SerializationError):
        next(results)
    assert list(results) == []


def test_a_slow_iterable_does_not_hold_up_what_is_ready(client):
    """Each item depends on the result before it: only handing out what is ready gets anywhere."""
    view = client.load_balanced_view()
    answers = []

    def source():
        yield 0
        while len(answers) < 5:
            threading.Event().wait(0.02)  # slow: longer than imap waits to fill a chunk
            yield len(answers)

    for value in view.imap(square, source()):
        answers.append(value)  # noqa: PERF402 - the source reads it meanwhile
    assert len(answers) >= 5


def test_cancel_from_another_thread_ends_a_waiting_next(held):
    results = held.load_balanced_view().imap(square, Counting(), max_outstanding=3)
    held.session.link.wait_submitted(0)
    outcome = []
    reader = threading.Thread(target=lambda: outcome.append(next(results, "ended")))
    reader.start()
    held.session.link.wait_submitted(3)
    results.cancel()
    reader.join(TIMEOUT)
    assert outcome == ["ended"]
    assert sum(count for _, count in held.session.link.cancelled) == 3


def test_unordered_gives_what_lands_first(held):
    link = held.session.link
    results = held.load_balanced_view().imap_unordered(square, range(3), chunksize=1)
    first = []
    reader = threading.Thread(target=lambda: first.append(next(results)))
    reader.start()
    link.wait_submitted(3)
    with link._condition:
        link._queue.rotate(1)
    link.step(1)
    reader.join(TIMEOUT)
    link.release()
    assert first == [4]
    assert list(results) == [0, 1]


def test_a_direct_views_imap_streams_its_map(client):
    assert list(client[:].imap(square, range(5))) == [0, 1, 4, 9, 16]
    assert sorted(client[:].imap_unordered(square, range(5))) == [0, 1, 4, 9, 16]
