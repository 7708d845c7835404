"""``get`` of dask: its own tests for foreign implementations, and a collection."""

import re
import subprocess
import sys

import dask
import dask.array
import dask.bag
import pytest
from dask.utils_test import GetFunctionTestMixin

import parallelkit as pk
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


def test_dask_does_not_take_a_client_for_its_own():
    """It takes whatever has "Client" in its name and a ``get``."""
    assert not hasattr(pk.Client, "get")


PLUG = """
import dask
import parallelkit as pk
import parallelkit.interop.dask


def pytest_configure(config):
    config.parallelkit_client = pk.Client()
    dask.config.set(scheduler=parallelkit.interop.dask.get)
"""
#: Tests of dask's collections for schedulers in one process.
IN_ONE_PROCESS = (
    "test_to_delayed_optimize_graph",  # counts calls in a variable of its process
    "test_read_text_unicode_no_collection",  # computes a generator, which cannot be sent
)


@pytest.mark.timeout(300)
def test_the_tests_of_collections(suites, cluster):
    (suites / "pk_dask_plug.py").write_text(PLUG)
    (suites / "dask.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "dask.ini", "-p", "pk_dask_plug", "-p", "no:cacheprovider"]
    command += ["--timeout=60", "-k", " and ".join(f"not {name}" for name in IN_ONE_PROCESS)]
    command += ["--pyargs", "dask.bag", "dask.array.tests.test_overlap"]
    done = subprocess.run(command, cwd=suites, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 300
