"""Fixtures for everyone."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading

import pytest
import zmq


@pytest.fixture
def cluster_home(monkeypatch):
    """Runtime and state folders of the test's own; short, because socket paths must be."""
    folder = tempfile.mkdtemp(prefix="pk-")
    monkeypatch.setenv("PARALLELKIT_RUNTIME_DIR", f"{folder}/run")
    monkeypatch.setenv("PARALLELKIT_STATE_DIR", f"{folder}/state")
    monkeypatch.setenv("PARALLELKIT_CONFIG", f"{folder}/config.toml")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pyzmq_thread():
    """The one thread that pyzmq keeps for buffers sent without a copy: there, with its files, before anyone counts."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://warm")
        other.connect("inproc://warm")
        one.send(bytes(1 << 20), copy=False)
        assert len(other.recv()) == 1 << 20


@pytest.fixture
def no_leaks(pyzmq_thread):
    """The test leaves no thread and no file descriptor behind."""
    threads = set(threading.enumerate())
    files = len(os.listdir("/proc/self/fd"))
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
    assert not left, f"threads left: {left}"
    assert len(os.listdir("/proc/self/fd")) <= files, "file descriptors left"
