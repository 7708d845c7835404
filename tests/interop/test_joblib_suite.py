"""joblib's own tests of its registered backends, run on ours; and what they do not look at."""

import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
from joblib import Parallel, delayed, parallel_config

import parallelkit as pk
from parallelkit.interop.joblib import ParallelKitBackend

pytestmark = pytest.mark.system

#: Registers the backend before joblib's tests make their lists.
PLUG = """
import parallelkit as pk
import parallelkit.interop.joblib

client = pk.Client()
"""
SETTINGS = """
[pytest]
markers =
    thread_unsafe
    no_cover
"""
#: What they ask of the backends that joblib has built in, and why ours does not do it.
OTHERWISE = (
    "test_dispatch_multiprocessing[parallelkit]",  # a manager lets in the children of its process alone
    # by default as many jobs as there are engines, as with dask, not one
    "test_nested_backend_in_sequential[parallel_config-parallelkit-None]",
    "test_nested_backend_in_sequential[parallel_backend-parallelkit-None]",
)


def square(x):
    return x * x


def squares(n):
    return Parallel(n_jobs=2)(delayed(square)(i) for i in range(n))


@pytest.fixture
def backend(rc):
    with parallel_config(backend="parallelkit"):
        yield


@pytest.mark.timeout(300)
def test_parallel(suites, cluster):
    source = Path(joblib.__file__).parent / "test" / "test_parallel.py"
    text = source.read_text()
    # where it names the built-in ones; and in each process that imports it, as in those of other backends
    patched = text.replace('["threading"]\n', '["threading", "parallelkit"]\n', 1)
    patched = patched.replace("import mmap\n", "import mmap\nimport parallelkit.interop.joblib\n", 1)
    assert patched.count("parallelkit") == 2
    (suites / "pk_joblib_plug.py").write_text(PLUG)
    (suites / "test_joblib_parallel.py").write_text(patched)
    (suites / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pk_joblib_plug", "-p", "no:cacheprovider"]
    command += ["-k", "parallelkit or ParallelKit", "--timeout=60", "test_joblib_parallel.py"]
    command += [f"--deselect=test_joblib_parallel.py::{name}" for name in OTHERWISE]
    done = subprocess.run(command, cwd=suites, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 100


@pytest.mark.usefixtures("backend")
class TestBackend:
    def test_values_come_as_lists_and_as_generators(self):
        wanted = [square(i) for i in range(200)]
        assert Parallel()(delayed(square)(i) for i in range(200)) == wanted
        assert list(Parallel(return_as="generator")(delayed(square)(i) for i in range(200))) == wanted
        assert sorted(Parallel(return_as="generator_unordered")(delayed(square)(i) for i in range(200))) == wanted

    def test_one_may_read_what_another_generates(self):
        first = Parallel(return_as="generator")(delayed(square)(i) for i in range(100))
        second = Parallel(return_as="generator")(delayed(square)(i) for i in first)
        assert list(second) == [i**4 for i in range(100)]

    def test_nested_calls_do_not_wait_for_engines(self):
        assert Parallel()(delayed(squares)(i) for i in range(10)) == [squares(i) for i in range(10)]

    def test_a_timeout_interrupts_what_runs_and_leaves_the_engines_free(self):
        with Parallel(timeout=0.2) as parallel, pytest.raises(multiprocessing.TimeoutError):
            parallel(delayed(time.sleep)(60) for _ in range(10))
        assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]

    def test_an_exception_arrives_and_the_backend_works_on(self):
        with Parallel() as parallel:
            with pytest.raises(ZeroDivisionError):
                parallel(delayed(divmod)(1, i) for i in range(5))
            assert parallel(delayed(square)(i) for i in range(3)) == [0, 1, 4]

    def test_scikit_learn_searches_with_it(self):
        model_selection = pytest.importorskip("sklearn.model_selection")
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        x, y = load_digits(return_X_y=True)
        search = model_selection.GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(x[:300], y[:300])
        assert search.best_score_ > 0.9
        assert search.n_splits_ == 3


def test_inner_threads_are_limited(rc):
    def threads():
        import numpy  # noqa: F401 - whose threads are counted
        from threadpoolctl import threadpool_info

        return {info["num_threads"] for info in threadpool_info()}

    with parallel_config(backend="parallelkit", inner_max_num_threads=1):
        assert Parallel(n_jobs=2)(delayed(threads)() for _ in range(2)) == [{1}, {1}]


def test_jobs_are_counted_from_the_engines(rc):
    backend = ParallelKitBackend(rc)
    assert [backend.effective_n_jobs(n) for n in (-1, -2, -100, 1, 3, None)] == [len(rc), len(rc) - 1, 1, 1, 3, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)


def test_without_a_client_it_connects(cluster):
    backend = ParallelKitBackend()
    assert isinstance(backend.client, pk.Client)
    backend.client.close()
    assert not backend.client.closed
    backend.client.close()
