"""Fixtures for everyone."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading

import pytest
import zmq.utils.garbage


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
    """The one thread that pyzmq keeps for all buffers that are sent without a copy, there before anyone counts."""
    zmq.utils.garbage.gc.start()


@pytest.fixture
def no_leaks(pyzmq_thread):
    """The test leaves no thread and no file descriptor behind."""
    threads = set(threading.enumerate())
    files = len(os.listdir("/proc/self/fd"))
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
    assert not left, f"threads left: {left}"
    assert len(os.listdir("/proc/self/fd")) <= files, "file descriptors left"
