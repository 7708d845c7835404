"""The keeper: parent of a cluster's hub and node. ``python -m parallelkit.cluster.keeper --cluster NAME --engines N``.

    owner (a notebook, or nobody) ─ ─ watched by ─ ─ keeper ──► hub
                                                        └─────► node ──► zygote ──► engines

It restarts what dies, and ends everything when it is told to, when its owner is gone, or when the hub ends on
purpose. Then nothing is left: no process, no file, no shared memory. It imports little, so that it is there at once,
and does little, so that it has no reason to die; if it is killed nevertheless, hub and node see it and end.

Order at the end: SIGTERM to node and hub; SIGKILL to those that are left after the grace, and to all that their
descendants have left behind; shared memory; the folder, last, because its lock is what keeps a successor away.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from parallelkit import config
from parallelkit.cluster.folder import ClusterRecord, claim, remove, remove_shared_memory, write_record
from parallelkit.cluster.processes import birth
from parallelkit.errors import ClusterError, ConfigError

log = logging.getLogger(__name__)

#: What is written to standard output when the name is ours; whoever started us reads it there.
CLAIMED = "claimed\n"
#: Exit code of a keeper whose name is taken.
NAME_TAKEN = 3
#: Time for hub and node to end in order. The node needs half of it for its engines.
GRACE = 2.0
#: Time between two looks at the owner, where the kernel cannot tell of its end.
OWNER_CHECK = 0.5
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(slots=True)
class Restarts:
    """When a process that died starts again. An exit with an error code soon after the start is a failed start."""

    delay: float = 0.1
    failures: int = 0

    LONGEST = 10.0
    HEALTHY_LIFE = 30.0
    SHORT_LIFE = 5.0
    MAX_FAILURES = 3

    def after(self, life: float, code: int) -> float | None:
        """Seconds to wait after a life of that length and that exit code; None: it cannot be started."""
        failed = code > 0 and life < self.SHORT_LIFE
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= self.MAX_FAILURES:
            return None
        if life >= self.HEALTHY_LIFE:
            self.delay = 0.1
        delay, self.delay = self.delay, min(2 * self.delay, self.LONGEST)
        return delay


class Child:
    """The hub or the node: one process after the other."""

    def __init__(self, name: str, command: Callable[[int], list[str]], log_path: Path) -> None:
        self.name = name
        self.lives = 0
        self.restarts = Restarts()
        self.start_at: float | None = 0.0
        self._command = command
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self, environment: dict[str, str], lock: int, now: float) -> None:
        self.lives += 1
        self.start_at = None
        self._started = now
        command = [sys.executable, "-m", *self._command(self.lives)]
        with self._log_path.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[lock],
            )
        log.info("%s started, pid %d, life %d", self.name, self._process.pid, self.lives)

    def poll(self, now: float) -> tuple[int, float] | None:
        """Exit code (negative: signal) and seconds of life, once, when it has ended."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._process = None
        return code, now - self._started

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class Keeper:
    """Runs one cluster, whose folder is claimed, to its end."""

    def __init__(self, name: str, engines: int, owner: int | None, settings: config.Settings, lock: int) -> None:
        self._name = name
        self._owner = owner
        self._lock = lock
        self._folder = config.cluster_dir(settings, name)
        self._environment = config.child_environment(settings)
        logs = config.log_dir(settings, name)
        keeper = ["--keeper", str(os.getpid())]
        node_id = secrets.token_hex(16)  # for all its lives: so the hub knows at once that the old node's engines died
        node = ["--engines", str(engines), "--id", node_id, "--lock", str(lock), *keeper]
        self._hub = Child(
            "hub",
            lambda life: ["parallelkit.hub", "--cluster", name, "--epoch", str(life), *keeper],
            logs / "hub.log",
        )
        self._node = Child("node", lambda life: ["parallelkit.node", "--cluster", name, *node], logs / "node.log")
        self._children = (self._hub, self._node)
        self._selector = selectors.DefaultSelector()
        self._end_reason: str | None = None
        self._exit_code = 0
        self._polls_owner = False
        write_record(
            self._folder,
            ClusterRecord(
                name, os.getpid(), birth(os.getpid()) or 0, owner, engines, time.time(), [sys.executable, *sys.argv]
            ),
        )

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        self._adopt_orphans()
        self._take_signals()
        self._watch_owner()
        while self._end_reason is None:
            self._start_due()
            self._wait(self._patience())
            self._check_children()
        log.info("the cluster ends: %s", self._end_reason)
        self._end()
        return self._exit_code

    # ---------------------------------------------------------------------------------------------- keeping

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.start_at is not None and child.start_at <= now:
                child.start(self._environment, self._lock, now)

    def _check_children(self) -> None:
        for child in self._children:
            ended = child.poll(time.monotonic())
            if ended is not None:
                self._on_end(child, *ended)
        self._reap_adopted()

    def _on_end(self, child: Child, code: int, life: float) -> None:
        if child is self._hub and code == 0:
            self._stop("the hub was told to stop")
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        delay = child.restarts.after(life, code)
        if delay is None:
            self._exit_code = 1
            self._stop(f"the {child.name} cannot be started: it {how} {child.restarts.failures} times in a row")
            return
        log.warning("the %s %s after %.1f s; it starts again in %.1f s", child.name, how, life, delay)
        child.start_at = time.monotonic() + delay

    def _stop(self, reason: str) -> None:
        self._end_reason = self._end_reason or reason

    def _patience(self) -> float | None:
        times = [child.start_at for child in self._children if child.start_at is not None]
        patience = max(0.0, min(times) - time.monotonic()) if times else None
        if self._polls_owner:
            return OWNER_CHECK if patience is None else min(patience, OWNER_CHECK)
        return patience

    def _wait(self, patience: float | None) -> None:
        for key, _ in self._selector.select(patience):
            key.data()
        if self._polls_owner and self._owner is not None and birth(self._owner) is None:
            self._stop(f"its owner, process {self._owner}, is gone")

    def _take_signals(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def arrived() -> None:
            for number in os.read(read, 4096):
                if number != signal.SIGCHLD:
                    self._stop(f"got {signal.Signals(number).name}")

        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._selector.register(read, selectors.EVENT_READ, arrived)

    def _watch_owner(self) -> None:
        if self._owner is None:
            return
        try:
            descriptor = os.pidfd_open(self._owner)
        except ProcessLookupError:
            self._stop(f"its owner, process {self._owner}, is gone")
        except (OSError, AttributeError):  # the system has no such call
            self._polls_owner = True
        else:
            gone = f"its owner, process {self._owner}, is gone"
            self._selector.register(descriptor, selectors.EVENT_READ, lambda: self._stop(gone))

    # ---------------------------------------------------------------------------------------------- ending

    def _end(self) -> None:
        for child in self._children:
            child.signal(signal.SIGTERM)
        self._await(lambda: not self._running(), GRACE)
        for child in self._children:
            child.signal(signal.SIGKILL)
        self._await(self._all_gone, GRACE)
        remove_shared_memory(self._name)
        remove(self._folder)

    def _running(self) -> list[Child]:
        return [child for child in self._children if child.pid is not None]

    def _all_gone(self) -> bool:
        """Whether nothing is left; what is gets killed, and its own children come to us next."""
        adopted = self._reap_adopted()
        for pid in adopted:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not adopted and not self._running()

    def _await(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            for child in self._children:
                child.poll(time.monotonic())
            left = deadline - time.monotonic()
            if condition() or left <= 0:
                return
            self._wait(min(left, 0.1))  # a child that ends wakes us

    # ----------------------------------------------------------------------------------------------- adopting

    def _adopt_orphans(self) -> None:
        """Become the parent of descendants whose parents die, so that they can be found at the end."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _reap_adopted(self) -> list[int]:
        """Adopted processes that are still there."""
        own = {child.pid for child in self._children}
        left = []
        for pid in _children_of(os.getpid()):
            if pid not in own:
                with suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG) == (0, 0):
                        left.append(pid)
        return left


def _children_of(pid: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # no Linux, or one without this list: then nothing was adopted either
        return []


def _begin_log(folder: Path) -> None:
    """A fresh folder of logs, and our own output into it. Whoever started us sees the end of theirs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("*.log"):
        old.unlink(missing_ok=True)
    descriptor = os.open(folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with suppress(BrokenPipeError):  # whoever started us is dead already; an owner's death is noticed in a moment
        os.write(1, CLAIMED.encode())
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main() -> None:
    """Run a keeper."""
    parser = argparse.ArgumentParser(prog="python -m parallelkit.cluster.keeper")
    parser.add_argument("--cluster", required=True, help="name of the cluster")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--owner", type=int, help="process whose end ends the cluster")
    parser.add_argument("--ip", help="address the hub listens on over TCP")
    arguments = parser.parse_args()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what a notebook's C libraries had open is nothing to keep alive
    try:
        settings = config.load(ip=arguments.ip, cluster=arguments.cluster)
        lock = claim(config.cluster_dir(settings, arguments.cluster))
    except (ClusterError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NAME_TAKEN if isinstance(error, ClusterError) else 1)
    _begin_log(config.log_dir(settings, arguments.cluster))
    logging.basicConfig(stream=sys.stderr, level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    keeper = Keeper(arguments.cluster, arguments.engines, arguments.owner, settings, lock)
    sys.exit(keeper.run())


if __name__ == "__main__":
    main()
