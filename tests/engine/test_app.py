"""A real engine process against a scripted hub with a real socket."""

# ruff: noqa: T201 - what tasks print is under test

import os
import signal
import subprocess
import sys
import time

import cloudpickle
import pytest

from parallelkit.errors import ConnectionFileError
from parallelkit.transport.connection import ConnectionInfo, write_connection
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import listen
from parallelkit.wire import messages as m
from parallelkit.wire.failures import load_failure
from parallelkit.wire.frames import pack, take, unpack
from parallelkit.wire.payload import dump, dump_function, load

pytestmark = pytest.mark.system

SESSION = b"s" * 16
PATIENCE = 30

# The engine's process cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class ScriptedHub:
    """One life of a hub, on the test's own thread: it works while the test waits for something."""

    def __init__(self, folder, epoch=1, output_limit=1 << 20):
        self.epoch = epoch
        self.output_limit = output_limit
        self.reactor = Reactor()
        self.engine = b""
        self.hellos = []
        self.beats = []
        self.goodbyes = []
        self.results = {}
        self.printed = {}
        self.numbers = iter(range(1, 1000))
        self.port, endpoint = listen(self.reactor, f"ipc://{folder}/hub.sock", self)
        self.file = folder / "engine.json"
        write_connection(self.file, ConnectionInfo("test", endpoint))

    def receive(self, peer, message, frames):
        self.engine = peer
        if isinstance(message, m.EngineHello):
            self.hellos.append(message)
            self.port.send(peer, m.EngineWelcome(self.epoch, 7, 0.2, self.output_limit))
        elif isinstance(message, m.EngineBeat):
            self.beats.append(message)
            self.port.send(peer, m.Acknowledged([]) if self.hellos else m.Introduce())
        elif isinstance(message, m.Replies):
            records = [record for batch in message.batches for record in batch.results]
            for record, run in zip(records, take(frames, [record.frames for record in records]), strict=True):
                self.results[record.seq] = record, [bytes(frame) for frame in run]
        elif isinstance(message, m.EngineOutput):
            for record in (record for batch in message.batches for record in batch.output):
                kinds = self.printed.setdefault(record.seq, {})
                kinds[record.stream] = kinds.get(record.stream, b"") + record.data
        elif isinstance(message, m.Goodbye):
            self.goodbyes.append(message)

    def flush(self):
        pass

    def wait(self, condition):
        end = time.monotonic() + PATIENCE
        self.reactor.call_at(end, lambda: None)
        while not condition():
            assert time.monotonic() < end, "the engine did not do it"
            self.reactor.turn()

    def wait_for_exit(self, process):
        def look():
            self.reactor.call_at(self.reactor.now() + 0.01, look)

        look()
        self.wait(lambda: process.poll() is not None)
        return process.returncode

    def submit(self, operation, value, function=None, timeout=None):
        seq = next(self.numbers)
        payload = dump(value)
        data, frames = pack(payload.data, payload.buffers)
        functions, digest = {}, b""
        if function is not None:
            dumped = dump_function(function)
            digest = dumped.digest
            functions[digest] = dumped.data
        record = m.AssignRecord(seq, self.attempt(seq), 1, operation, digest, data, len(frames), timeout)
        self.port.send(self.engine, m.Assign(self.epoch, seq, [m.Batch(SESSION, [record])], functions, []), frames)
        return seq

    def attempt(self, seq):
        return self.epoch << 40 | seq

    def result(self, seq):
        self.wait(lambda: seq in self.results)
        record, frames = self.results[seq]
        data, buffers = unpack(record.payload, frames)
        if record.outcome is m.Outcome.OK:
            return load(data, buffers)
        if record.outcome is m.Outcome.ERROR:
            return load_failure(data, buffers)
        return record.outcome, bytes(data).decode()

    def call(self, function, *args, timeout=None):
        return self.result(self.submit(m.Operation.CALL, (args, {}), function, timeout))

    def execute(self, code):
        request = {"code": code, "filename": "<cell>", "silent": False, "cell": ""}
        seq = self.submit(m.Operation.EXECUTE, request)
        return self.result(seq), self.printed.get(seq, {})


def start_engine(hub, folder, *arguments):
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "PARALLELKIT_HEARTBEAT": "0.2"}
    command = [sys.executable, "-m", "parallelkit.engine", "--connection", str(hub.file), *arguments]
    return subprocess.Popen([*command, "--log", str(folder / "engine.log")], env=environment)


@pytest.fixture
def hub(tmp_path):
    hub = ScriptedHub(tmp_path)
    yield hub
    hub.reactor.close()


@pytest.fixture
def process(hub, tmp_path):
    process = start_engine(hub, tmp_path, "--id", "7")
    hub.wait(lambda: hub.beats)
    yield process
    process.kill()
    process.wait(PATIENCE)


def test_calls_cells_output_and_errors(hub, process, tmp_path):
    hello = hub.hellos[0]
    assert (hello.wanted_id, hello.pid, hello.protocol) == (7, process.pid, m.PROTOCOL)
    assert hub.engine == m.ROLE_ENGINE + hello.incarnation

    assert hub.call(lambda x: x + 1, 2) == 3
    assert isinstance(hub.call(lambda: {}["x"]), KeyError)

    reply, printed = hub.execute("import sys\nprint('out'); print('err', file=sys.stderr)\nengine_id")
    assert reply["result"] == {"text/plain": "7"}
    assert printed[m.Stream.STDOUT] == b"out\n"
    assert printed[m.Stream.STDERR] == b"err\n"
    error, _ = hub.execute("1 / 0")
    assert isinstance(error, ZeroDivisionError)

    assert hub.call(lambda: sys.exit(3)).args  # an outcome, not the engine's end
    assert "nobody to ask" in str(hub.call(lambda: input("name? ")))
    hub.execute("import os; os.system('echo below'); sys.__stdout__.write('underneath\\n'); sys.__stdout__.flush();")
    assert {"below", "underneath"} <= set((tmp_path / "engine.log").read_text().splitlines())


def test_interrupts_and_timeouts_leave_the_engine_as_it_was(hub, process):
    hub.execute("kept = 5")

    def spin():
        print("started", flush=True)
        while True:
            time.sleep(0.01)

    seq = hub.submit(m.Operation.CALL, ((), {}), spin)
    hub.wait(lambda: seq in hub.printed)
    hub.port.send(hub.engine, m.Interrupt([hub.attempt(seq)]))
    assert hub.result(seq) == (m.Outcome.CANCELLED, "interrupted on engine 7")

    assert hub.call(spin, timeout=0.2)[0] is m.Outcome.TIMEOUT

    seq = hub.submit(m.Operation.CALL, ((), {}), spin)
    hub.wait(lambda: seq in hub.printed)
    os.kill(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in repr(hub.result(seq))

    os.kill(process.pid, signal.SIGINT)
    assert hub.execute("kept")[0]["result"] == {"text/plain": "5"}


def test_beats_go_on_and_output_flows_while_user_code_computes(hub, process):
    def compute():
        print("begun")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass

    before = len(hub.beats)
    seq = hub.submit(m.Operation.CALL, ((), {}), compute)
    hub.wait(lambda: seq in hub.printed)
    assert seq not in hub.results
    hub.result(seq)
    stages = {stage for beat in hub.beats[before:] for held in beat.inventory for _, _, stage in held.attempts}
    assert m.Stage.RUNNING in stages


def test_a_hub_restart_loses_nothing(hub, process, tmp_path):
    hub.execute("namespace = 'intact'")

    def slow(release):
        print("started", flush=True)
        while not release.exists():
            time.sleep(0.01)
        return "finished meanwhile"

    release = tmp_path / "release"
    seq = hub.submit(m.Operation.CALL, ((release,), {}), slow)
    hub.wait(lambda: seq in hub.printed)
    attempt = hub.attempt(seq)
    hub.reactor.close()
    release.touch()
    second = ScriptedHub(tmp_path, epoch=2)
    try:
        finished = seq, attempt, m.Stage.FINISHED
        second.wait(
            lambda: any(
                finished in held.attempts for beat in second.beats if beat.epoch == 2 for held in beat.inventory
            )
        )
        assert second.hellos[-1].incarnation == hub.hellos[0].incarnation
        second.port.send(second.engine, m.Resend([attempt]))
        assert second.result(seq) == "finished meanwhile"
        second.port.send(second.engine, m.Acknowledged([attempt]))
        second.numbers = iter(range(500, 600))
        assert second.execute("namespace")[0]["result"] == {"text/plain": "'intact'"}
    finally:
        second.reactor.close()
        hub.reactor = Reactor()


def test_two_hundred_megabytes_printed_are_bounded(hub, process):
    def chatter():
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2000):
            print("x" * 99_999)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    seq = hub.submit(m.Operation.CALL, ((), {}), chatter)
    assert hub.result(seq) < 30_000  # kilobytes
    assert len(hub.printed[seq][m.Stream.STDOUT]) == 1 << 20
    assert hub.printed[seq][m.Stream.STDERR] == "… 199 MB more were printed; not sent\n".encode()


def test_processes_that_tasks_start_are_not_engines(hub, process, tmp_path):
    def fork_and_terminate():
        ends = set()
        for _ in range(20):
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            ends.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return ends

    def fork_and_return():
        child = os.fork()
        if not child:
            print("from the child")
        return child

    def reap(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert hub.call(fork_and_terminate) == {-signal.SIGTERM}
    assert hub.call(reap, hub.call(fork_and_return)) == 0
    assert "from the child" in (tmp_path / "engine.log").read_text()
    assert hub.call(len, "still here") == 10
    assert hub.goodbyes == []


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_ends_it_with_a_goodbye(hub, process, busy):
    if busy:
        seq = hub.submit(m.Operation.CALL, (("begun",), {}), lambda text: (print(text), time.sleep(60)))
        hub.wait(lambda: seq in hub.printed)
    process.terminate()
    hub.wait(lambda: hub.goodbyes)
    assert hub.goodbyes[0].reason == "terminated by a signal"
    assert hub.wait_for_exit(process) == 0


def test_goodbye_from_the_hub_ends_it(hub, process):
    hub.port.send(hub.engine, m.Goodbye("the cluster stops"))
    assert hub.wait_for_exit(process) == 0


def test_a_refusal_is_in_the_log_and_in_the_exit_code(hub, tmp_path):
    hub.receive = lambda peer, message, frames: hub.port.send(peer, m.Refused("version", "Python 3.13 is wanted"))
    process = start_engine(hub, tmp_path)
    assert hub.wait_for_exit(process) == 1
    assert "the hub refused this engine (version): Python 3.13 is wanted" in (tmp_path / "engine.log").read_text()


def test_without_a_cluster_it_says_so(tmp_path):
    command = [sys.executable, "-m", "parallelkit.engine", "--connection", str(tmp_path / "engine.json")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"{ConnectionFileError.__name__}: there is no connection file")
