"""Fixtures of the tests that start real processes."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.system.home import Home


@pytest.fixture
def home(cluster_home):
    home = Home(cluster_home)
    yield home
    left = home.processes()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"processes left: {left}"
