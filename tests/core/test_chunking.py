"""How a map is cut: every item once, always an end, few chunks for tiny items, an even finish for uneven ones."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit.core.chunking import CHUNK_BYTES, FIXED_WINDOW, SINGLES, Chunker, FixedChunks
from parallelkit.errors import InternalError

#: What a chunk costs on its way, in seconds, and what the engine's own loop adds.
ROUND_TRIP, OVERHEAD = 0.0005, 5e-6


def simulate(chunks, durations, engines):
    """Run a map against a central queue: (makespan in seconds, sizes in the order in which they were sent)."""
    now, position, sizes, queue = 0.0, 0, [], []
    idle, running = [0.0] * engines, []  # when each free engine became free; (end, order, start, size)
    while True:
        while chunks.due():
            size, count = chunks.take()
            assert size >= 1
            assert count >= 1
            for _ in range(count):
                queue.append((now + ROUND_TRIP / 2, position, size))
                sizes.append(size)
                position += size
        while queue and idle:
            ready, start, size = queue.pop(0)
            begin = max(ready, idle.pop(0))
            seconds = sum(durations[start : start + size]) + OVERHEAD
            heapq.heappush(running, (begin + seconds, len(sizes), start, size, seconds))
        if not running:
            break
        end, _, _, size, seconds = heapq.heappop(running)
        idle.append(end)
        idle.sort()
        now = max(now, end + ROUND_TRIP / 2)
        chunks.finished(size, seconds)
    assert position == len(durations)
    assert sum(sizes) == len(durations)
    return max(idle), sizes


@given(
    st.lists(st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 0.01, 0.3]), max_size=400),
    st.integers(1, 40),
    st.sampled_from([0.01, 0.02, 0.05]),
)
def test_every_item_goes_out_exactly_once_and_it_ends(durations, engines, target):
    chunks = Chunker(len(durations), engines, target)
    simulate(chunks, durations, engines)
    assert (chunks.remaining, chunks.outstanding) == (0, 0)


@given(st.integers(0, 20_000), st.integers(1, 40), st.integers(1, 9000), st.one_of(st.none(), st.integers(1, 100)))
def test_fixed_sizes_cover_every_item_with_a_bounded_number_outstanding(items, engines, size, window):
    chunks = FixedChunks(items, engines, size, window)
    bound = window or max(3 * engines, FIXED_WINDOW // size + 1)
    flying, sent = [], 0
    while chunks.remaining or flying:
        while chunks.due():
            each, count = chunks.take()
            assert each == size or chunks.remaining == 0
            flying += [each] * count
            sent += each * count
        assert len(flying) <= bound
        chunks.finished(flying.pop(), 0.0)
    assert sent == items
    assert chunks.take() == (0, 0)


def test_tiny_items_need_few_chunks():
    makespan, sizes = simulate(Chunker(200_000, 2), [1e-7] * 200_000, 2)
    assert len(sizes) <= 24
    assert makespan < 1.5 * 200_000 * 1e-7 / 2
    assert sizes[:4] == [1, 1, 1, 1]


@pytest.mark.parametrize("engines", [2, 4])
def test_uneven_items_finish_together(engines):
    durations = [0.005] * 150 + [0.1] * 6 + [0.005] * 150
    makespan, sizes = simulate(Chunker(len(durations), engines), durations, engines)
    assert set(sizes) == {1}
    assert makespan <= 1.03 * sum(durations) / engines


@pytest.mark.parametrize("seed", range(5))
def test_short_uneven_items_finish_together(seed):
    rng = random.Random(seed)
    durations = [rng.choice([0.0002, 0.0002, 0.0002, 0.002]) for _ in range(8000)]
    makespan, sizes = simulate(Chunker(len(durations), 4), durations, 4)
    assert makespan <= 1.03 * sum(durations) / 4
    assert len(sizes) < 1000


def test_long_items_are_shared_fairly_even_where_the_first_ones_mislead():
    durations = [1e-6] * 8 + [0.2] * 32
    makespan, sizes = simulate(Chunker(len(durations), 4), durations, 4)
    assert max(sizes) <= 4
    assert makespan <= 1.3 * 0.2 * 32 / 4


def test_a_chunk_lasts_about_the_target():
    _, sizes = simulate(Chunker(100_000, 2, 0.02), [1e-4] * 100_000, 2)
    assert 150 <= sorted(sizes)[len(sizes) // 2] <= 250


def test_few_items_are_sent_singly():
    _, sizes = simulate(Chunker(6, 4), [3.0] * 6, 4)
    assert sizes == [1] * 6


def test_heavy_arguments_make_small_chunks():
    chunks = Chunker(10_000, 2)
    chunks.take()
    assert chunks.weighed(1, 1 << 20) == 1
    chunks.finished(1, 1e-6)
    size, _ = chunks.take()
    assert size == CHUNK_BYTES >> 20
    chunks.weighed(size, size * 100)
    assert chunks.size() < 10  # one light chunk does not prove that all are


def test_a_chunk_that_turns_out_too_heavy_is_cut_and_the_rest_taken_again():
    chunks = Chunker(1000, 1)
    chunks.take()
    chunks.finished(1, 1e-5)
    size, count = chunks.take()
    assert (size > 10, count) == (True, 1)
    keep = chunks.weighed(size, size << 20)
    assert keep == CHUNK_BYTES >> 20
    before = chunks.remaining
    chunks.give_back(size - keep, 0)
    assert chunks.remaining == before + size - keep
    chunks.give_back(keep, 1)
    assert (chunks.remaining, chunks.outstanding) == (before + size, 1)


def test_the_users_chunk_size_holds_whatever_it_weighs():
    assert FixedChunks(100, 2, 50).weighed(50, 1 << 30) == 50


def test_engines_that_join_widen_the_window():
    chunks = Chunker(1000, 1)
    assert chunks.take() == (1, 2)
    chunks.engines = 4
    assert chunks.take() == (1, 6)


def test_the_window_bounds_what_is_outstanding():
    chunks = Chunker(10_000, 2)
    sent = chunks.take()[1]
    assert sent == 4
    assert not chunks.due()
    assert chunks.take() == (0, 0)
    chunks.finished(1, 1.0)  # long items: engines that join later shall find some
    assert chunks.take() == (1, SINGLES - 3)


def test_a_chunk_without_a_time_says_nothing_of_its_cost():
    chunks = Chunker(100, 1)
    chunks.take()
    chunks.finished(1, None)
    assert chunks.size() == 1


@pytest.mark.parametrize("chunks", [Chunker(5, 1), FixedChunks(5, 1, 2)])
def test_a_chunk_that_never_left_cannot_come_back(chunks):
    with pytest.raises(InternalError):
        chunks.finished(1, 0.1)
