"""Threads for what the I/O thread must not do: users' callbacks, pickling a map's next chunks, calls that had to wait.

Each may block or take long, and then only their own kind waits. A thread starts when there is something to do and
ends when there was nothing for a while.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

#: Seconds without work after which the thread ends.
IDLE = 0.2


class Worker:
    """Runs jobs one after another, in order, on one thread of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Callable[[], Any]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], Any]) -> None:
        """Run it soon; returns at once. Any thread. An exception is logged and ends only that job."""
        with self._changed:
            self._jobs.append(job)
            # not alive: never started, ended when idle, or left behind by a fork
            if self._thread is not None and self._thread.is_alive():
                self._changed.notify()
            else:
                self._start()

    def drain(self) -> None:
        """Wait until what was handed over before this has run; at once if called by one of these jobs."""
        with self._changed:
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        done = threading.Event()
        self.run(done.set)
        while not done.wait(IDLE) and self._thread is not None:
            pass  # None: it could not be started again, because the interpreter is shutting down

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: nobody is left to run for
            self._jobs.clear()
        else:
            self._thread = thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._changed.wait_for(lambda: self._jobs, IDLE):
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                log.exception("%s: a job failed", self._name)
            del job  # else the last job's objects would live until the next one


#: Done-callbacks and output callbacks, in the order in which results arrived.
callbacks = Worker("parallelkit-callbacks")
#: Maps that have room for more chunks.
feeder = Worker("parallelkit-feeder")
#: Calls whose arguments, or what else they waited for, have arrived.
deferred = Worker("parallelkit-deferred")
