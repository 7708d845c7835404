"""The main thread's loop: every operation, every way to end, and interrupts that hit only what they are meant for."""

import asyncio
import functools
import inspect
import os
import signal
import threading
import time

import pytest

from parallelkit.core.runqueue import Entry, RunQueue
from parallelkit.engine.coroutines import Coroutines
from parallelkit.engine.executor import Executor
from parallelkit.engine.functions import Function
from parallelkit.engine.mailbox import Mailbox
from parallelkit.engine.namespace import Namespace
from parallelkit.engine.operations import Operations, Work
from parallelkit.engine.output import Output, TextStream
from parallelkit.errors import SerializationError
from parallelkit.transport.reactor import Reactor
from parallelkit.wire.failures import load_failure
from parallelkit.wire.frames import pack, unpack
from parallelkit.wire.messages import AssignRecord, Operation, Outcome, OutputRecord, ResultRecord, Stream
from parallelkit.wire.payload import Reference, dump, dump_function, load

SESSION = bytes.fromhex("a1b2c3d4") + bytes(12)


class PlainShell:
    """An interpreter without IPython: what the executor needs of one."""

    def __init__(self):
        self.user_ns = {"__name__": "__main__"}
        self.calls = 0

    def execute(self, code, filename, silent, cell):
        exec(compile(code, filename, "exec"), self.user_ns)
        return {"execution_count": 1, "result": None}

    def after_call(self):
        self.calls += 1


class Engine:
    """An executor on this thread, a real loop on another, and a list of what was posted."""

    def __init__(self, tasks=None):
        self.reactor = Reactor()
        self.tasks = tasks or RunQueue()
        self.letters = []
        self.arrived = threading.Condition()
        self.mailbox = Mailbox(self.reactor, self.deliver)
        self.output = Output(self.reactor, self.mailbox, 1 << 20)
        self.shell = PlainShell()
        operations = Operations(self.shell, Namespace(self.shell.user_ns), Coroutines())
        self.executor = Executor(self.reactor, self.tasks, self.mailbox, self.output, operations)
        self.executor.engine_id = 3
        self.numbers = iter(range(1, 1000))
        self.thread = threading.Thread(target=self.reactor.run)

    def deliver(self, letters):
        with self.arrived:
            for letter in letters:
                if isinstance(letter.record, ResultRecord):
                    self.executor.forget(letter.record.attempt)
                    self.tasks.finish(letter.record.attempt, letter)
            self.letters += letters
            self.arrived.notify_all()

    def add(self, operation, value, function=None, timeout=None):
        number = next(self.numbers)
        payload = dump(value)
        data, frames = pack(payload.data, payload.buffers)
        record = AssignRecord(number, 1 << 40 | number, 2, operation, b"", data, len(frames), timeout)
        wrapped = Function(dump_function(function).data) if function else None
        entry = Entry(SESSION, number, record.attempt, Work(SESSION, record, frames, wrapped))
        self.tasks.accept([entry])
        return entry

    def run(self, operation, value, function=None, timeout=None):
        """One task, through the real machinery; returns (outcome, opened payload, its record)."""
        self.add(operation, value, function, timeout)
        return self.run_next()

    def run_next(self):
        entry = self.tasks.next()
        self.executor.run_one(entry)
        return self.result_of(entry.attempt)

    def result_of(self, attempt):
        def found():
            records = [x for x in self.letters if isinstance(x.record, ResultRecord) and x.record.attempt == attempt]
            return records[0] if records else None

        with self.arrived:
            assert self.arrived.wait_for(lambda: found() is not None, 10)
            letter = found()
        record = letter.record
        data, buffers = unpack(record.payload, letter.frames)
        if record.outcome is Outcome.OK:
            return record.outcome, load(data, buffers), record
        if record.outcome is Outcome.ERROR:
            return record.outcome, load_failure(data, buffers), record
        return record.outcome, bytes(data).decode(), record

    def call(self, function, *args, timeout=None, **kwargs):
        return self.run(Operation.CALL, (args, kwargs), function, timeout)


@pytest.fixture
def engine():
    engine = Engine()
    engine.thread.start()
    before = signal.signal(signal.SIGINT, engine.executor.on_sigint)
    yield engine
    signal.signal(signal.SIGINT, before)
    engine.reactor.stop()
    engine.thread.join(10)
    loop = engine.executor._operations._coroutines._loop
    if loop is not None:
        loop.close()


class TestCall:
    def test_value_and_facts(self, engine):
        before = time.time()
        outcome, value, record = engine.call(lambda x, *, y: (x, y), 1, y=2)
        assert (outcome, value) == (Outcome.OK, (1, 2))
        assert (record.engine, record.run) == (3, 2)
        assert before <= record.started <= time.time()
        assert 0 < record.seconds < 10

    def test_large_results_travel_as_frames(self, engine):
        _, value, record = engine.call(lambda: bytearray(100_000))
        assert len(value) == 100_000
        assert record.frames > 0
        assert len(record.payload) < 20_000

    def test_references_are_looked_up_here(self, engine):
        engine.shell.user_ns["there"] = {"a": [1, 2]}
        _, value, _ = engine.call(lambda x, y: (x, y), Reference("there['a']"), y=[Reference("there")])
        assert value == ([1, 2], [{"a": [1, 2]}])

    def test_coroutines_are_run(self, engine):
        async def double(x):
            await asyncio.sleep(0)
            return 2 * x

        assert engine.call(double, 4)[1] == 8
        assert engine.call(functools.partial(double, 5))[1] == 10

    def test_the_event_loop_is_the_same_for_all_tasks(self, engine):
        async def who():
            return id(asyncio.get_running_loop())

        assert engine.call(who)[1] == engine.call(who)[1]

    def test_figures_are_shown_whatever_the_function_did(self, engine):
        engine.call(int, "1")
        engine.call(int, "x")
        assert engine.shell.calls == 2


class TestMap:
    def test_values(self, engine):
        assert engine.run(Operation.MAP, (False, [1, 2, 3]), lambda x: x * x)[1] == ([1, 4, 9], [])
        assert engine.run(Operation.MAP, (True, [(1, 2), (3, 4)]), lambda x, y: x + y)[1] == ([3, 7], [])
        assert engine.run(Operation.MAP, (False, []), abs)[1] == ([], [])

    def test_one_bad_item_spares_the_others(self, engine):
        outcome, (values, errors), _ = engine.run(Operation.MAP, (False, [1, 0, 2, 0]), lambda x: 1 // x)
        assert outcome is Outcome.OK
        assert values == [1, None, 0, None]
        assert [index for index, _ in errors] == [1, 3]
        assert isinstance(load_failure(errors[0][1], []), ZeroDivisionError)

    def test_stop_iteration_does_not_cut_the_map_short(self, engine):
        def function(x):
            if x == 1:
                raise StopIteration
            return x

        values, errors = engine.run(Operation.MAP, (False, [0, 1, 2]), function)[1]
        assert values == [0, None, 2]
        assert "StopIteration" in str(load_failure(errors[0][1], []))

    def test_system_exit_is_the_outcome_of_its_item(self, engine):
        values, errors = engine.run(Operation.MAP, (False, [0, 1]), lambda x: exit(x) if x else "fine")[1]
        assert values == ["fine", None]
        assert len(errors) == 1

    def test_one_value_that_cannot_be_sent_spares_the_others(self, engine):
        values, errors = engine.run(Operation.MAP, (False, [0, 1, 2]), lambda x: threading.Lock() if x == 1 else x)[1]
        assert values == [0, None, 2]
        assert [index for index, _ in errors] == [1]
        assert isinstance(load_failure(errors[0][1], []), SerializationError)

    def test_coroutines_are_run_in_their_places(self, engine):
        async def function(x):
            await asyncio.sleep(0)
            return 6 // x

        values, errors = engine.run(Operation.MAP, (False, [0, 1, 2]), function)[1]
        assert values == [None, 6, 3]
        assert [index for index, _ in errors] == [0]

    def test_an_interrupt_ends_all_of_it(self, engine):
        def function(x):
            if x == 1:
                signal.raise_signal(signal.SIGINT)
            return x

        outcome, error, _ = engine.run(Operation.MAP, (False, [0, 1, 2]), function)
        assert outcome is Outcome.ERROR
        assert "KeyboardInterrupt" in repr(error)


def test_a_result_on_its_way_is_not_changed_by_the_next_task(engine):
    np = pytest.importorskip("numpy")
    engine.shell.user_ns["model"] = np.zeros(100_000, np.uint8)
    entry = engine.add(Operation.PULL, ["model"])
    engine.run_next()
    request = {"code": "model += 1", "filename": "<cell>", "silent": True, "cell": ""}
    assert engine.run(Operation.EXECUTE, request)[0] is Outcome.OK
    assert engine.result_of(entry.attempt)[1][0].max() == 0


class TestNamespace:
    def test_execute_push_pull(self, engine):
        assert engine.run(Operation.PUSH, {"a": 1, "b": [2]})[:2] == (Outcome.OK, None)
        request = {"code": "c = a + b[0]", "filename": "<cell>", "silent": False, "cell": ""}
        assert engine.run(Operation.EXECUTE, request)[1] == {"execution_count": 1, "result": None}
        assert engine.run(Operation.PULL, ["c", "b[0]"])[1] == [3, 2]

    def test_a_missing_name_is_the_error_it_would_be_here(self, engine):
        outcome, error, _ = engine.run(Operation.PULL, ["nowhere"])
        assert outcome is Outcome.ERROR
        assert isinstance(error, NameError)


class Unloadable:
    def __reduce__(self):
        return _fail_to_load, ()


def _fail_to_load():
    raise ValueError("not here")


class Undumpable:
    def __reduce__(self):
        raise ValueError("cannot be dumped")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self):
        raise RuntimeError("no pickle")


def deep():
    return deep()


def hollow():
    value = None
    for _ in range(100_000):
        value = [value]
    return value


def raise_it(error):
    raise error


class TestEveryEndIsAResult:
    @pytest.mark.parametrize(
        ("function", "argument"),
        [
            (lambda x: 1 // 0, None),
            (lambda x: exit(3), None),
            (lambda x: raise_it(KeyboardInterrupt()), None),
            (lambda x: raise_it(GeneratorExit()), None),
            (lambda x: raise_it(MemoryError()), None),
            (lambda x: Undumpable(), None),
            (lambda x: threading.Lock(), None),
            (lambda x: raise_it(Unspeakable()), None),
            (lambda x: deep(), None),
            (lambda x: hollow(), None),
            (lambda x: x, Unloadable()),
        ],
        ids=lambda value: getattr(value, "__name__", type(value).__name__),
    )
    def test_errors(self, engine, function, argument):
        outcome, error, record = engine.call(function, argument)
        assert outcome is Outcome.ERROR
        assert isinstance(error, Exception)
        assert (record.engine, record.run) == (3, 2)
        assert engine.call(len, "next")[1] == 4

    def test_a_function_that_cannot_be_loaded(self, engine):
        entry = engine.add(Operation.CALL, ((), {}), len)
        entry.work.function.data = b"garbage"
        assert engine.run_next()[0] is Outcome.ERROR

    def test_arguments_that_are_garbage(self, engine):
        entry = engine.add(Operation.CALL, ((), {}), len)
        record = entry.work.record
        entry.work.record = AssignRecord(record.seq, record.attempt, 1, Operation.CALL, b"", b"garbage")
        assert engine.run_next()[0] is Outcome.ERROR

    def test_an_error_names_engine_task_and_run(self, engine):
        _, error, record = engine.call(lambda: {}["missing"])
        assert isinstance(error, KeyError)
        assert "engine 3 on host" in "\n".join(error.__notes__)
        assert f"a1b2c3d4-{record.seq}" in "\n".join(error.__notes__)


def spin():
    while True:
        time.sleep(0.001)


class TestInterrupts:
    def run_interrupted(self, engine, function):
        """Run a function, which is interrupted as soon as it has called its argument."""
        entry = engine.add(Operation.CALL, ((), {}), int)

        def ready():
            engine.reactor.call_soon(lambda: engine.executor.interrupt(entry.attempt, Outcome.CANCELLED))

        entry.work.function.call = lambda: function(ready)
        return engine.run_next()[:2]

    def test_a_running_task_is_cancelled(self, engine):
        def work(ready):
            ready()
            spin()

        assert self.run_interrupted(engine, work) == (Outcome.CANCELLED, "interrupted on engine 3")

    def test_one_that_is_about_to_start_does_not(self, engine):
        entry = engine.add(Operation.CALL, ((), {}), spin)
        engine.executor.interrupt(entry.attempt, Outcome.CANCELLED)
        assert engine.run_next()[0] is Outcome.CANCELLED

    def test_a_coroutine_is_cancelled_and_cleans_up(self, engine):
        steps = []

        async def wait(ready):
            try:
                ready()
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                steps.append("cleaned up")

        assert self.run_interrupted(engine, wait)[0] is Outcome.CANCELLED
        assert steps == ["cleaned up"]

    def test_one_that_ends_with_an_error_of_its_own_says_so(self, engine):
        def stubborn(ready):
            try:
                ready()
                spin()
            except KeyboardInterrupt:
                raise ValueError("secret") from None

        sentence = "interrupted on engine 3; it ended with ValueError"
        assert self.run_interrupted(engine, stubborn) == (Outcome.CANCELLED, sentence)

    def test_one_that_returns_all_the_same_has_its_value(self, engine):
        def defiant(ready):
            try:
                ready()
                spin()
            except KeyboardInterrupt:
                return "done"

        assert self.run_interrupted(engine, defiant) == (Outcome.OK, "done")

    def test_the_dump_of_its_result_can_be_interrupted(self, engine):
        class Slow:
            def __init__(self, ready):
                self.ready = ready

            def __reduce__(self):
                self.ready()
                spin()

        assert self.run_interrupted(engine, Slow)[0] is Outcome.CANCELLED

    def test_a_late_interrupt_hits_nobody(self, engine):
        first = engine.add(Operation.CALL, ((), {}), int)
        engine.run_next()
        second = engine.add(Operation.CALL, ((), {}), int)

        def work():
            # As if the loop's thread had looked a moment before the first attempt ended.
            engine.executor._signals_sent += 1
            engine.executor._verdicts[first.attempt] = Outcome.CANCELLED
            signal.raise_signal(signal.SIGINT)
            return "untouched"

        second.work.function.call = work
        assert engine.run_next()[:2] == (Outcome.OK, "untouched")

    def test_between_two_tasks_a_signal_does_nothing(self, engine):
        os.kill(os.getpid(), signal.SIGINT)
        assert engine.call(len, "abc")[1] == 3

    def test_a_signal_from_outside_interrupts_what_runs(self, engine):
        def work():
            os.kill(os.getpid(), signal.SIGINT)
            spin()

        outcome, error, _ = engine.call(work)
        assert outcome is Outcome.ERROR
        assert "KeyboardInterrupt" in repr(error)


class TestTimeout:
    def test_it_ends_the_task(self, engine):
        outcome, text, record = engine.call(spin, timeout=0.05)
        assert outcome is Outcome.TIMEOUT
        assert text == "ran longer than its timeout of 0.05 s on engine 3"
        assert record.seconds < 5

    def test_those_in_time_are_left_alone(self, engine):
        for _ in range(20):
            assert engine.call(len, "abc", timeout=0.05)[1] == 3
        assert engine.call(lambda: time.sleep(0.2), timeout=None)[0] is Outcome.OK

    def test_one_in_time_leaves_nothing_behind(self, engine):
        assert engine.call(len, "abc", timeout=0.05)[0] is Outcome.OK
        over = threading.Event()
        engine.reactor.call_soon(lambda: engine.reactor.call_at(engine.reactor.now() + 0.1, over.set))
        assert over.wait(10)
        assert engine.executor._verdicts == {}

    def test_each_has_its_own(self, engine):
        assert engine.call(len, "abc", timeout=60)[0] is Outcome.OK
        assert engine.call(spin, timeout=0.05)[0] is Outcome.TIMEOUT
        assert engine.call(lambda: time.sleep(0.1), timeout=60)[0] is Outcome.OK


class TestOutput:
    def test_it_belongs_to_its_task_and_precedes_the_result(self, engine):
        stream = TextStream(engine.output, Stream.STDOUT)
        entry = engine.add(Operation.CALL, ((), {}), int)
        entry.work.function.call = lambda: print("hello", file=stream)
        engine.run_next()
        assert [type(letter.record) for letter in engine.letters] == [OutputRecord, ResultRecord]
        assert engine.letters[0].record.attempt == entry.attempt
        assert engine.letters[0].record.engine == 3


def test_the_loop_serves_until_the_end_of_the_process(engine):
    """``run`` on a thread of its own: signals are this thread's, so only the hand-over is looked at."""
    served = threading.Thread(target=_serve_quietly, args=(engine.executor,), daemon=True)
    served.start()
    for _ in range(200):
        entry = engine.add(Operation.CALL, (("abc",), {}), len)
        engine.reactor.call_soon(engine.executor.wake)
        assert engine.result_of(entry.attempt)[1] == 3
    assert served.is_alive()


def _serve_quietly(executor):
    while True:
        executor.run_one(executor._next())


class Late(RunQueue):
    """Something arrives, and wakes nobody, right after it was found empty."""

    late = None

    def next(self):
        entry = super().next()
        if entry is None and self.late:
            self.accept([self.late])
        return entry


def test_what_arrives_while_the_executor_goes_to_sleep_is_not_missed():
    engine = Engine(Late())
    entry = engine.tasks.late = Entry(SESSION, 1, 1 << 40 | 1, None)
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.executor._next()), daemon=True)
    thread.start()
    thread.join(10)
    assert found == [entry]
    engine.reactor.close()


def test_operations_are_in_the_order_of_the_wire():
    names = [name.lower() for name in Operation.__members__]
    source = inspect.getsource(Operations.__init__)
    assert [f"self._{name}," in source for name in names] == [True] * len(names)
    positions = [source.index(f"self._{name},") for name in names]
    assert positions == sorted(positions)
