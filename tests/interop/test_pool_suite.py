"""CPython's own tests of ``multiprocessing.Pool``, run on ours; and what they do not look at."""

import importlib
import importlib.util
import itertools
import multiprocessing

import pytest

import parallelkit as pk
from tests.interop.suites import run

pytestmark = pytest.mark.system


#: The engines import it: methods of the class are among the functions that they are sent.
HARNESS = """
import test._test_multiprocessing as suite
import unittest
import parallelkit as pk


class PkPool(suite._TestPool, unittest.TestCase):
    TYPE = "processes"
    Pool = staticmethod(pk.Pool)
"""


@pytest.mark.timeout(240)
def test_pool(suites, cluster):
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test._test_multiprocessing") is None:
        pytest.fail("this Python comes without its tests; Debian has them in the package libpython3-testsuite")
    (suites / "pk_pool_suite.py").write_text(HARNESS)
    module = importlib.import_module("pk_pool_suite")
    assert run(module.PkPool) >= 25


def test_imap_reads_only_as_far_ahead_as_it_needs_to(rc):
    with pk.Pool(2, client=rc) as pool:
        values = pool.imap(abs, itertools.count(), chunksize=10)
        assert list(itertools.islice(values, 500)) == list(range(500))


def test_join_runs_also_what_nobody_has_taken(rc):
    pool = pk.Pool(2, client=rc)
    values = pool.imap(abs, range(1000))
    late = pool.imap_unordered(abs, range(300))
    pool.close()
    pool.join()
    assert list(values) == list(range(1000))
    assert sorted(late) == list(range(300))


def test_next_has_a_timeout(rc):
    def slow(x):
        import time

        time.sleep(60)

    with pk.Pool(1, client=rc) as pool:
        for values in pool.imap(slow, [1]), pool.imap_unordered(slow, [1]):
            with pytest.raises(multiprocessing.TimeoutError):
                values.next(timeout=0.01)
        with pytest.raises(multiprocessing.TimeoutError):
            pool.apply_async(slow, [1]).get(0.01)
        result = pool.apply_async(slow, [1])
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
    result.wait(30)
    assert not result.successful()  # terminated, and so not left pending for ever


def test_arguments_are_checked(rc):
    with pytest.raises(ValueError, match="maxtasksperchild"):
        pk.Pool(1, maxtasksperchild=0, client=rc)
    with pk.Pool(1, client=rc) as pool:
        with pytest.raises(ValueError, match="still running"):
            pool.join()
        with pytest.raises(ValueError, match="Chunksize"):
            pool.imap(abs, [], chunksize=0)


def test_without_a_client_it_finds_the_running_cluster(cluster, capsys):
    with pk.Pool() as pool:
        assert len(pool._pool) == cluster.n
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
