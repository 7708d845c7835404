"""Both ends of the zygote, with real processes: forks, signals, reaping, and that nobody survives anybody."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from parallelkit.node.zygote import MAX_FAILURES, Zygote
from parallelkit.transport.reactor import Reactor
from parallelkit.wire import zygote as z

pytestmark = pytest.mark.system

#: An engine for each of these ids; all else of the zygote is real.
SCRIPT = """
import os, signal, socket, subprocess, sys, time
from parallelkit.engine.zygote import Zygote

def engine(request):
    if request.engine_id == 0:
        os._exit(7)
    if request.engine_id == 1:
        bytearray(64 << 20)
        os.kill(os.getpid(), signal.SIGSEGV)
    if request.engine_id == 2:  # with a child of its own
        child = subprocess.Popen(["sleep", "1000"])
        print(child.pid, flush=True)
    if request.engine_id == 3:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if request.engine_id == 4:
        raise ValueError("no such engine")
    if request.engine_id == 5:
        print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgrp() == os.getpid(), flush=True)
    while True:
        time.sleep(1000)

Zygote(socket.socket(fileno=int(sys.argv[1])), engine).serve()
"""


def launch(script=SCRIPT):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        fd = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", script, str(fd)], pass_fds=[fd], stderr=subprocess.DEVNULL)
    return process, ours


class Node:
    """Collects reports; runs the loop until there are enough of them."""

    def __init__(self, log_dir, script=SCRIPT):
        self.loop = Reactor()
        self.log_dir = log_dir
        self.launches = 0
        self.pids = {}
        self.ended = {}
        self.reasons = []
        self.script = script
        self.zygote = Zygote(self.loop, self.launch, self.launch())
        self.zygote.reports = self

    def launch(self):
        self.launches += 1
        return launch(self.script)

    def fork(self, id):
        incarnation = b"%d-%d" % (id, len(self.pids))
        self.zygote.fork(z.Fork(incarnation, id, "unused", b"N", str(self.log_dir / f"{id}.log")))
        return incarnation

    def forked(self, report):
        self.pids[report.incarnation] = report.pid

    def exited(self, report):
        self.ended[report.incarnation] = report

    def end(self, reason, exit_code=0):
        self.reasons.append(reason)

    def until(self, condition, timeout=20.0):
        deadline = time.monotonic() + timeout
        self.loop.call_at(self.loop.now() + timeout, lambda: None)  # so that turn() returns
        while not condition():
            assert time.monotonic() < deadline, "nothing came"
            self.loop.turn()


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.zygote.close()
    node.loop.close()
    assert not [pid for pid in node.pids.values() if alive(pid)]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pid):
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.005)


def test_exit_codes_signals_and_peak_memory_are_reported(node):
    exits, crashes = node.fork(0), node.fork(1)
    node.until(lambda: len(node.ended) == 2)
    assert (node.ended[exits].exit_code, node.ended[exits].signal) == (7, 0)
    assert (node.ended[crashes].exit_code, node.ended[crashes].signal) == (0, signal.SIGSEGV)
    assert node.ended[crashes].peak_memory > 64 << 20


def test_a_death_is_reported_within_milliseconds(node):
    incarnation = node.fork(3)
    node.until(lambda: node.pids)
    began = time.monotonic()
    os.kill(node.pids[incarnation], signal.SIGKILL)
    node.until(lambda: node.ended)
    assert node.ended[incarnation].signal == signal.SIGKILL
    assert time.monotonic() - began < 1.0  # generous: a machine under test is busy


def test_an_engine_that_fails_at_the_start_leaves_its_traceback_in_its_log(node, tmp_path):
    incarnation = node.fork(4)
    node.until(lambda: node.ended)
    assert node.ended[incarnation].exit_code == 70
    assert "ValueError: no such engine" in (tmp_path / "4.log").read_text()


def test_an_engine_blocks_no_signal_and_leads_its_process_group(node, tmp_path):
    node.fork(5)
    log = tmp_path / "5.log"
    node.until(lambda: node.pids)
    deadline = time.monotonic() + 10
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert log.read_text() == "set() True\n"


def test_a_signal_is_delivered_even_to_an_engine_that_has_only_just_been_forked(node):
    incarnation = node.fork(5)
    node.until(lambda: node.pids)
    node.zygote.signal(node.pids[incarnation], signal.SIGTERM)
    node.until(lambda: node.ended)
    assert node.ended[incarnation].signal == signal.SIGTERM


def child_of_engine(node, tmp_path):
    incarnation = node.fork(2)
    log = tmp_path / "2.log"
    node.until(lambda: node.pids)
    deadline = time.monotonic() + 10
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child = int(log.read_text())
    assert alive(child)
    return node.pids[incarnation], child


def test_what_an_engine_started_ends_with_it(node, tmp_path):
    engine, child = child_of_engine(node, tmp_path)
    os.kill(engine, signal.SIGKILL)
    node.until(lambda: node.ended)
    wait_until_gone(child)


def test_closing_ends_every_engine_and_what_it_started(tmp_path):
    node = Node(tmp_path)
    engine, child = child_of_engine(node, tmp_path)
    stubborn = node.fork(3)
    node.until(lambda: stubborn in node.pids)
    node.zygote.close()
    assert not alive(engine)
    assert not alive(node.pids[stubborn])
    wait_until_gone(child)
    node.loop.close()


def test_engines_die_with_a_killed_zygote_which_is_replaced(node, tmp_path):
    engine, child = child_of_engine(node, tmp_path)
    old = node.zygote.pid
    os.kill(old, signal.SIGKILL)
    node.until(lambda: node.ended)
    wait_until_gone(engine)
    wait_until_gone(child)
    (report,) = node.ended.values()
    assert report.signal == signal.SIGKILL
    again = node.fork(5)
    node.until(lambda: again in node.pids)
    assert node.launches == 2
    assert node.zygote.pid != old


def test_a_zygote_ends_with_its_node(tmp_path):
    process, control = launch()
    with control:
        assert isinstance(z.decode_from_zygote(control.recv(z.MAX_PACKET)), z.Ready)
        control.send(z.encode(z.Fork(b"x", 3, "", b"", str(tmp_path / "3.log"))))
        forked = z.decode_from_zygote(control.recv(z.MAX_PACKET))
    assert process.wait(5) == 0
    assert not alive(forked.pid)


def test_an_engine_dies_with_its_zygote_even_when_nobody_else_sees_to_it(tmp_path):
    process, control = launch()
    with control:
        control.recv(z.MAX_PACKET)
        control.send(z.encode(z.Fork(b"x", 3, "", b"", str(tmp_path / "3.log"))))
        forked = z.decode_from_zygote(control.recv(z.MAX_PACKET))
        assert isinstance(forked, z.Forked)
        process.kill()
        process.wait()
        wait_until_gone(forked.pid)


def test_zygotes_that_never_get_ready_are_given_up(tmp_path):
    node = Node(tmp_path, "raise SystemExit(1)")
    node.until(lambda: node.reasons)
    assert node.launches == MAX_FAILURES
    node.loop.close()


def test_a_number_that_belongs_to_nobody_here_gets_no_signal(node):
    bystander = subprocess.Popen(["sleep", "1000"])
    node.zygote.signal(bystander.pid, signal.SIGKILL)
    incarnation = node.fork(0)
    node.until(lambda: incarnation in node.ended)
    assert alive(bystander.pid)
    bystander.kill()
    bystander.wait()
