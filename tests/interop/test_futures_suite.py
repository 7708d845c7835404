"""CPython's own tests of ``concurrent.futures``, run on ours. Fetched when they run: they are not ours to keep."""

import importlib
import os
import shutil
import unittest

import pytest

from tests.interop.suites import run

pytestmark = pytest.mark.system

SUITE = "cpython_futures_suite"
#: An executor for the scripts that the suite runs in processes of their own. What tasks print, comes out there.
HARNESS = """
import parallelkit as pk


class PkExecutor(pk.Executor):
    def __init__(self, max_workers=None):
        super().__init__(max_workers, client=pk.Client())

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future.add_output_callback(lambda output: print(output.content, end=""))
        return future
"""


@pytest.fixture(scope="module")
def suite(suites, cluster, tmp_path_factory):
    from tests.interop.conftest import fetch_debian

    root = fetch_debian("libpython3.11-testsuite", tmp_path_factory.mktemp("debian"))
    shutil.copy(root / "usr/lib/python3.11/test/test_concurrent_futures.py", suites / f"{SUITE}.py")
    (suites / "pk_harness.py").write_text(HARNESS)
    module = importlib.import_module(SUITE)
    original = module.assert_python_ok

    def assert_python_ok(flag, script):
        adapted = script.replace("from concurrent.futures import", "from pk_harness import")
        adapted = adapted.replace("test.test_concurrent_futures", SUITE)
        assert adapted != script
        return original(flag, adapted, PYTHONPATH=os.environ["PYTHONPATH"])

    module.assert_python_ok = assert_python_ok
    return module


@pytest.fixture
def executor_type(rc):
    def PkExecutor(max_workers=None, **how):  # the suite puts this name into scripts
        return rc.executor(max_workers=max_workers, **how)

    return PkExecutor


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "count"), [("ExecutorTest", 9), ("WaitTests", 8), ("AsCompletedTests", 5), ("ExecutorShutdownTest", 6)]
)
def test_executor(suite, executor_type, name, count):
    # not with their BaseTestCase, which counts the threads and children of the whole process
    members = {"executor_type": staticmethod(executor_type)}
    case = type(f"Pk{name}", (getattr(suite, name), suite.ExecutorMixin, unittest.TestCase), members)
    assert run(case) == count


@pytest.mark.parametrize("name", ["InitializerMixin", "FailingInitializerMixin"])
def test_initializers(suite, executor_type, name):
    members = {"executor_type": staticmethod(executor_type)}
    assert run(type(f"Pk{name}", (getattr(suite, name), unittest.TestCase), members)) == 1


def test_chunks_of_a_map(suite, executor_type):
    """The one test of those for process pools that looks at nothing private."""
    members = {
        "executor_type": staticmethod(executor_type),
        "test_map_chunksize": suite.ProcessPoolExecutorTest.test_map_chunksize,
    }
    assert run(type("PkChunks", (suite.ExecutorMixin, unittest.TestCase), members)) == 1
