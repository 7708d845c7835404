"""Starting a keeper, and waiting until its hub can be reached."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parallelkit import config
from parallelkit.cluster.folder import CLIENT_FILE
from parallelkit.cluster.keeper import CLAIMED, NAME_TAKEN
from parallelkit.cluster.processes import birth, end, reap
from parallelkit.errors import ClusterError, LaunchError

#: Time between two looks for the hub's connection file.
_LOOK = 0.005
#: Time for a keeper to end its cluster in order: its own two graces and some more.
STOP_TIMEOUT = 6.0
#: Logs in which the reason of a failed start can stand, the likeliest first.
_LOGS = ("hub.log", "node.log", "keeper.log")


@dataclass(frozen=True, slots=True)
class Launched:
    """A keeper that we have started. It leads a session of its own: no Ctrl-C and no hangup reaches it."""

    name: str
    command: list[str]
    pid: int
    birth: int
    log_dir: Path

    def failure(self, what: str) -> LaunchError:
        """The error for a cluster that does not get up, with what its logs say."""
        exit_code = reap(self.pid)
        tails = ((log, config.log_tail(self.log_dir / log)) for log in _LOGS)
        log, tail = next(((log, tail) for log, tail in tails if _tells_of_failure(tail)), ("keeper.log", ""))
        tail = tail or config.log_tail(self.log_dir / "keeper.log")
        message = f"cluster {self.name!r} did not start: {what}. Logs are in {self.log_dir}; this is from {log}"
        return LaunchError(message, shlex.join(self.command), exit_code, tail)


def launch(settings: config.Settings, name: str, engines: int, owner: int | None) -> Launched:
    """Start a keeper, which starts hub and engines; returns as soon as the name is its.

    Raises:
        ClusterError: a cluster of that name is running already, or its folder cannot be used.
        LaunchError: the keeper did not start.
    """
    command = [sys.executable, "-m", "parallelkit.cluster.keeper", "--cluster", name, "--engines", str(engines)]
    if owner is not None:
        command += ["--owner", str(owner)]
    pid, output = _spawn(command, config.child_environment(settings))
    born = birth(pid)
    try:
        text = _read_to_end(output, settings.start_timeout)
    except BaseException:  # Ctrl-C
        end(pid, born or 0, STOP_TIMEOUT)
        reap(pid)
        raise
    if born is not None and text.endswith(CLAIMED):
        return Launched(name, command, pid, born, config.log_dir(settings, name))
    code = reap(pid, block=True)
    if code == NAME_TAKEN:
        raise ClusterError(text.strip())
    raise LaunchError(f"the keeper of cluster {name!r} did not start", shlex.join(command), code, text.strip())


def wait_for_hub(keeper: Launched, settings: config.Settings) -> None:
    """Wait until the hub listens.

    Raises:
        LaunchError: it does not within ``settings.start_timeout`` seconds, or has given up; nothing is left running.
    """
    path = config.cluster_dir(settings, keeper.name) / CLIENT_FILE
    deadline = time.monotonic() + settings.start_timeout
    while not path.exists():
        if birth(keeper.pid) != keeper.birth:
            raise keeper.failure("its keeper gave up")
        if time.monotonic() > deadline:
            error = keeper.failure(f"the hub was not there within {settings.start_timeout:g} s")
            end(keeper.pid, keeper.birth, STOP_TIMEOUT)
            raise error
        time.sleep(_LOOK)


def _spawn(command: list[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Start a process in a session of its own; returns its number and a descriptor that reads its output.

    Not ``subprocess``: the process may outlive us, and nobody here has to hold an object for it until then.
    """
    read, write = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, write, 1),
        (os.POSIX_SPAWN_DUP2, write, 2),
    ]
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=[],  # what this process blocks or ignores must not be so in the cluster
            setsigdef=[signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD],
        )
    except OSError as error:
        os.close(read)
        raise LaunchError(f"{command[0]} cannot be run: {error}", shlex.join(command)) from error
    finally:
        os.close(write)
    return pid, read


def _read_to_end(descriptor: int, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    data = b""
    waiter = select.poll()
    waiter.register(descriptor, select.POLLIN)
    try:
        while waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
            piece = os.read(descriptor, 4096)
            if not piece:
                break
            data += piece
    finally:
        os.close(descriptor)
    return data.decode(errors="replace")


def _tells_of_failure(tail: str) -> bool:
    return any(word in tail for word in ("Traceback", "ERROR", "CRITICAL", "Error:"))
