"""``get`` of dask: its own tests for foreign implementations, and a collection."""

import dask
import dask.array
import dask.bag
import pytest
from dask.utils_test import GetFunctionTestMixin

from parallelkit.interop.dask import get

pytestmark = pytest.mark.system


@pytest.mark.usefixtures("rc")
class TestGet(GetFunctionTestMixin):
    get = staticmethod(get)


def test_collections_compute_with_get_and_with_an_executor(rc):
    numbers = dask.bag.range(100, npartitions=4).map(lambda x: x + 1)
    matrix = dask.array.arange(10_000, chunks=1000).reshape(100, 100)
    for scheduler in get, rc.executor():
        with dask.config.set(scheduler=scheduler):
            assert numbers.sum().compute() == 5050
            assert (matrix + 1).sum(axis=0).max().compute() == sum(range(99, 10_000, 100)) + 100


def test_the_client_and_the_number_of_workers_can_be_given(rc):
    assert get({"x": 1, "y": (max, "x", 2)}, ["y", ["x"]], client=rc, num_workers=1) == (2, (1,))
