"""The helper threads: in order, one failure spares the rest, gone when idle and back when needed."""

import threading

from parallelkit.client import threads

TIMEOUT = 10


def test_jobs_run_in_order_on_one_thread_and_a_failure_spares_the_rest(caplog):
    worker, seen, done = threads.Worker("parallelkit-test"), [], threading.Event()

    def fail():
        raise ZeroDivisionError

    for number in range(5):
        worker.run(lambda number=number: seen.append((number, threading.current_thread().name)))
    worker.run(fail)
    worker.run(done.set)
    assert done.wait(TIMEOUT)
    assert seen == [(number, "parallelkit-test") for number in range(5)]
    assert "a job failed" in caplog.text


def test_an_idle_thread_ends_and_another_takes_over(monkeypatch):
    monkeypatch.setattr(threads, "IDLE", 0.001)
    worker, idents = threads.Worker("parallelkit-test"), []
    for _ in range(3):
        done = threading.Event()
        worker.run(lambda: idents.append(threading.current_thread()))
        worker.run(done.set)
        assert done.wait(TIMEOUT)
        idents[-1].join(TIMEOUT)
        assert not idents[-1].is_alive()
    assert len(idents) == 3
