"""The folders and processes of one test's clusters."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

#: What the product promises for a cluster whose owner was killed, in seconds.
PROMISE = 5.0


def wait_until(condition, timeout=20.0, what="it"):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.01)
    return value


class Home:
    """The folders of one test's clusters, and every process that belongs to them: all inherit the variables."""

    def __init__(self, path):
        self.path = path

    def processes(self):
        """Command lines by pid, zombies not counted."""
        found = {}
        mark = f"PARALLELKIT_RUNTIME_DIR={self.path}/run".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
        return found

    def pid_of(self, module):
        pids = [pid for pid, command in self.processes().items() if f"-m {module} " in command]
        return min(pids)  # an engine shows the command line of its zygote, which is older

    def stop_zygote(self):
        """No engine can be forked from now on."""
        os.kill(self.pid_of("parallelkit.engine.zygote"), signal.SIGSTOP)

    def left(self):
        runtime = Path(self.path, "run")
        folders = sorted(folder.name for folder in runtime.iterdir()) if runtime.exists() else []
        return {"processes": self.processes(), "folders": folders}

    def wait_until_nothing_is_left(self, timeout=PROMISE):
        deadline = time.monotonic() + timeout
        while (left := self.left()) != {"processes": {}, "folders": []}:
            assert time.monotonic() < deadline, f"left after {timeout:g} s: {left}"
            time.sleep(0.02)
