"""What the operating system says of processes."""

import os
import subprocess
import sys

from parallelkit.node.processes import sample


def test_a_living_process_is_described():
    state = sample(os.getpid(), b"me")
    assert state is not None
    assert (state.incarnation, state.pid) == (b"me", os.getpid())
    assert state.state == "R"  # it is reading this
    assert state.cpu > 0
    assert 1 << 20 < state.memory < 1 << 40


def test_a_process_that_is_gone_has_no_state():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert sample(process.pid, b"gone") is None


def test_a_process_with_parentheses_in_its_name():
    script = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) R 1 (b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        state = sample(process.pid, b"odd")
        assert state is not None
        assert state.state in "SR"
        assert state.memory > 1 << 20
        process.communicate()
