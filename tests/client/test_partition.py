"""Cutting and joining are inverse, for lists, ranges, arrays and frames."""

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit.client.partition import join, split


@given(st.lists(st.integers()), st.integers(1, 9), st.sampled_from("br"))
def test_join_undoes_split(items, count, dist):
    parts = split(items, count, dist)
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert join(parts, dist) == items


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (2, 2)])
def test_arrays_stay_arrays_and_parts_are_views(shape, dist):
    array = numpy.arange(numpy.prod(shape)).reshape(shape)
    parts = split(array, 3, dist)
    assert all(numpy.shares_memory(part, array) for part in parts if part.size)
    joined = join(parts, dist)
    assert isinstance(joined, numpy.ndarray)
    assert (joined == array).all()


@pytest.mark.parametrize("dist", ["b", "r"])
def test_frames_are_cut_by_position_and_stay_frames(dist):
    frame = pandas.DataFrame({"x": range(7)}, index=[3.5, 1.5, 2.5, 0.5, 9.5, 8.5, 7.5])
    pandas.testing.assert_frame_equal(join(split(frame, 3, dist), dist), frame)


def test_what_cannot_be_sliced_is_cut_all_the_same():
    assert split((i for i in range(5)), 2) == [[0, 1, 2], [3, 4]]
    assert split({"a": 1, "b": 2}, 2) == [["a"], ["b"]]


def test_parts_that_are_single_items_are_joined_as_items():
    assert join([1, [2, 3], "text"]) == [1, 2, 3, "text"]


def test_an_unknown_distribution_is_refused():
    for function in (lambda: split([], 1, "x"), lambda: join([], "x")):
        with pytest.raises(ValueError, match="dist='x'"):
            function()
