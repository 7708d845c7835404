"""A link without a hub: what is submitted runs in this process, on one thread that plays I/O thread and engines.

Payloads go through the real codec and the real engine operations, so views and results are really exercised.
Deterministic: while the link holds, nothing runs; ``step(n)`` lets n tasks run, ``release()`` all.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import deque

from parallelkit.client.needs import Failures
from parallelkit.engine.coroutines import Coroutines
from parallelkit.engine.functions import Function
from parallelkit.engine.namespace import Namespace
from parallelkit.engine.operations import Operations, Work
from parallelkit.errors import HubUnreachable
from parallelkit.wire.frames import pack
from parallelkit.wire.messages import (
    AssignRecord,
    EngineInfo,
    Operation,
    Outcome,
    OutputRecord,
    ResultRecord,
    Stream,
)

#: A test waits so long for what must happen.
PATIENCE = 10.0


class PlainShell:
    """An interpreter without IPython."""

    def __init__(self):
        self.user_ns = {"__name__": "__main__", "get_ipython": lambda: self}
        self.count = 0

    def execute(self, code, filename, silent, cell):
        self.count += 1
        exec(compile(code, filename or f"cell {self.count}", "exec"), self.user_ns)
        return {"execution_count": self.count, "result": {"text/plain": repr(self.user_ns.get("_"))}}

    def run_line_magic(self, name, line):
        assert (name, line) == ("reset", "-f -s")
        keep = ("__name__", "get_ipython")
        for key in [key for key in self.user_ns if key not in keep]:
            del self.user_ns[key]

    def after_call(self):
        pass


class ScriptedEngine:
    def __init__(self, id):
        self.shell = PlainShell()
        self.operations = Operations(self.shell, Namespace(self.shell.user_ns), Coroutines())
        self.operations.engine_id = id
        self.info = EngineInfo(id, bytes([id]) * 16, f"host{id % 2}", 4000 + id)
        self.functions = {}


class Task:
    def __init__(self, seq, call, options, target, sink):
        self.seq, self.call, self.options, self.target, self.sink = seq, call, options, target, sink


class ScriptedLink:
    """Has the attributes and methods of :class:`parallelkit.client.link.Link`."""

    heartbeat = 1.0

    def __init__(self, engines=2, held=False, ids=None):
        self.session = bytes.fromhex("a1b2c3d4") + bytes(12)
        self.changed = threading.Condition()
        self.limits = {"chunk": 0.02, "max_attempts": 4}
        self.cluster = "scripted"
        self.hub_silence = 0.0
        self.failure = None
        self.closed = False
        self.scripted = {id: ScriptedEngine(id) for id in (range(engines) if ids is None else ids)}
        self.engines = {id: engine.info for id, engine in self.scripted.items()}
        #: Everything submitted, as (calls, options); every cancel; every request.
        self.submitted = []
        self.cancelled = []
        self.requests = []
        self.answers = deque()
        #: Answers a task instead of running it: (task) → (outcome, payload, frames) or None.
        self.fate = lambda task: None
        self._queue = deque()
        self._next = 0
        self._allowed = 0 if held else None
        self._turn = 0
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="scripted-io", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------------- what Link has

    def submit(self, calls, options, sink):
        if self.closed:
            raise HubUnreachable("this client was closed")
        with self._condition:
            first = self._next
            self.submitted.append((tuple(calls), options))
            for call in calls:
                for target in options.targets if options.direct else (None,):
                    self._queue.append(Task(self._next, call, options, target, sink))
                    self._next += 1
            self._condition.notify_all()
        return first

    def cancel(self, first, count):
        with self._condition:
            self.cancelled.append((first, count))
            gone = [task for task in self._queue if first <= task.seq < first + count]
            self._queue = deque(task for task in self._queue if task not in gone)
            self._queue.extendleft(Cancelled(task) for task in reversed(gone))
            if self._allowed is not None:
                self._allowed += len(gone)  # the answer to a cancel is not held up
            self._condition.notify_all()

    def request(self, make, timeout=None):
        self.requests.append(make(len(self.requests) + 1))
        return self.answers.popleft()

    def knows(self, seq, *, engine=False):
        with self._condition:
            return next((task.sink for task in self._queue if task.seq == seq), Failures())

    def task_name(self, seq):
        return f"{self.session.hex()[:8]}-{seq}"

    @property
    def outstanding(self):
        return len(self._queue)

    def close(self):
        with self._condition:
            self.closed = True
            self._condition.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    # ------------------------------------------------------------------------------------------------ the script

    def step(self, count=1):
        """Let ``count`` tasks run, and wait until they have."""
        with self._condition:
            self._allowed += count
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._allowed == 0, PATIENCE), "there was less to run"

    def release(self):
        with self._condition:
            self._allowed = None
            self._condition.notify_all()

    def join_engine(self, id):
        with self.changed:
            self.scripted[id] = ScriptedEngine(id)
            self.engines = {**self.engines, id: self.scripted[id].info}
            self.changed.notify_all()

    def wait_submitted(self, count):
        """Wait until so many tasks have been submitted."""
        with self._condition:
            assert self._condition.wait_for(lambda: self._next >= count, PATIENCE), f"only {self._next} submitted"

    @property
    def count(self):
        """Tasks submitted so far."""
        return self._next

    def poke(self):
        """Nobody drives this link."""

    def drive(self, done, timeout):
        """This link is served by its own thread, always."""
        return False

    # ------------------------------------------------------------------------------------------------ the thread

    def _serve(self):
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self.closed or (self._queue and self._allowed != 0))
                if self.closed:
                    left, self._queue = self._queue, deque()
                    break
                task = self._queue.popleft()
            self._run(task)
            with self._condition:
                if self._allowed is not None:
                    self._allowed -= 1
                self._condition.notify_all()
            del task  # else it would keep the last result alive
        for task in left:
            task.sink.settle(ResultRecord(task.seq, 0, Outcome.ABANDONED, b"this client was closed"), ())

    def _run(self, task):
        if isinstance(task, Cancelled):
            task.sink.settle(ResultRecord(task.seq, 0, Outcome.CANCELLED, b"cancelled by its client"), ())
            return
        fate = self.fate(task)
        if fate is not None:
            outcome, payload, frames = fate
            task.sink.settle(ResultRecord(task.seq, 1, outcome, payload, len(frames), engine=0, run=1), frames)
            return
        self._execute(task, self._engine(task))

    def _engine(self, task):
        ids = [task.target] if task.target is not None else list(task.options.targets or self.engines)
        self._turn += 1
        return self.scripted[ids[self._turn % len(ids)]]

    def _execute(self, task, engine):
        payload, frames = pack(task.call.payload.data, task.call.payload.buffers)
        function = task.call.function
        digest = b"" if function is None else function.digest
        if function is not None:
            function = engine.functions.setdefault(digest, Function(function.data))
        record = AssignRecord(task.seq, 1, 1, task.call.operation, digest, payload, len(frames))
        work = Work(self.session, record, [bytes(memoryview(frame).cast("B")) for frame in frames], function)
        printed, outcome = io.StringIO(), Outcome.OK
        started, began = time.time(), time.perf_counter()
        with contextlib.redirect_stdout(printed) if task.call.operation is Operation.EXECUTE else _nothing():
            try:
                answer = engine.operations.perform(work)
            except Exception as error:  # noqa: BLE001 - whatever the task raised is its outcome
                answer, outcome = engine.operations.describe(work, error), Outcome.ERROR
        seconds = time.perf_counter() - began
        id = engine.info.id
        if printed.getvalue():
            task.sink.output(OutputRecord(task.seq, 1, id, Stream.STDOUT, printed.getvalue().encode()))
        data, buffers = pack(answer.data, [bytes(memoryview(buffer).cast("B")) for buffer in answer.buffers])
        task.sink.settle(ResultRecord(task.seq, 1, outcome, data, len(buffers), id, 1, started, seconds), buffers)


class Cancelled:
    """Stands in the queue for a task that was cancelled."""

    def __init__(self, task):
        self.seq, self.sink = task.seq, task.sink


def _nothing():
    return contextlib.nullcontext()
