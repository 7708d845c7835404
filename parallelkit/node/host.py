"""The node's surroundings: its loop, the connection to the hub, signals, and the keeper it must not outlive."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from parallelkit import config
from parallelkit.errors import ConnectionFileError
from parallelkit.node.app import launch_zygote
from parallelkit.node.service import NodeService
from parallelkit.node.zygote import Zygote
from parallelkit.transport.connection import ENGINE_FILE, read_connection
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import connect
from parallelkit.wire.messages import ROLE_NODE

log = logging.getLogger(__name__)

#: Time between two looks for the hub's connection file.
FILE_CHECK = 0.005
#: Time between two looks at the keeper, where the kernel cannot tell of its end.
KEEPER_CHECK = 0.5
#: Time for an orphaned hub to end, and between two looks whether it has.
HUB_TIMEOUT = 2.0
LOCK_CHECK = 0.02


class Host:
    """One node process. ``identity`` are 16 bytes, ``zygote`` is one that has just been launched."""

    def __init__(
        self,
        cluster: str,
        identity: bytes,
        zygote: tuple[subprocess.Popen[bytes], socket.socket],
        keeper: int,
        lock: int | None,
    ) -> None:
        self._settings = config.load()
        logging.basicConfig(
            stream=sys.stderr,
            level=self._settings.log_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        self._cluster = cluster
        self._keeper = keeper
        self._lock = lock
        self._orphaned = False
        self._folder = config.cluster_dir(self._settings, cluster)
        self._routing_id = ROLE_NODE + identity
        self._reactor = Reactor()
        self._zygote = Zygote(self._reactor, launch_zygote, zygote)
        log_dir = config.log_dir(self._settings, cluster)
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._service = NodeService(self._reactor, self._zygote, self._routing_id, self._folder / ENGINE_FILE, log_dir)
        self._zygote.reports = self._service

    def run(self, engines: int) -> int:
        """Serve until told to end; returns the exit code. All engines are gone by then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._watch_keeper()
        self._connect(engines, self._reactor.now() + self._settings.start_timeout)
        try:
            self._reactor.run()
        finally:
            self._zygote.close()
        if self._orphaned:
            self._clean_up()
        return self._service.exit_code

    def _connect(self, engines: int, deadline: float) -> None:
        """Connect as soon as the hub has written its file, which it does when it listens."""
        path = self._folder / ENGINE_FILE
        if not path.exists():
            if self._reactor.now() > deadline:
                self._service.end(f"no hub has written {path} within {self._settings.start_timeout:g} s", 1)
            else:
                self._reactor.call_at(self._reactor.now() + FILE_CHECK, lambda: self._connect(engines, deadline))
            return
        try:
            info = read_connection(path)
        except ConnectionFileError as error:
            self._service.end(str(error), 1)
            return
        self._service.port = connect(self._reactor, info, self._routing_id, self._service, self._refused)
        self._service.start(engines)

    def _refused(self) -> None:
        self._service.end("the hub refused this node's key", 1)

    def _signalled(self, number: int, frame: object) -> None:
        self._reactor.call_soon(lambda: self._service.end(f"got {signal.Signals(number).name}"))

    def _watch_keeper(self) -> None:
        try:
            # Opened before the look at our parent: if it has ended in between, the look sees it.
            descriptor = os.pidfd_open(self._keeper)
        except (OSError, AttributeError):  # gone, or no such call on this system
            self._poll_keeper()
            return

        def ended() -> None:
            self._reactor.remove_fd(descriptor)
            os.close(descriptor)
            self._orphan()

        self._reactor.add_fd(descriptor, ended)
        if os.getppid() != self._keeper:
            self._reactor.call_soon(self._orphan)

    def _poll_keeper(self) -> None:
        if os.getppid() != self._keeper:
            self._orphan()
        else:
            self._reactor.call_at(self._reactor.now() + KEEPER_CHECK, self._poll_keeper)

    def _orphan(self) -> None:
        self._orphaned = True
        self._service.end("the keeper is gone")

    def _clean_up(self) -> None:
        """Remove what the keeper would have removed, unless the hub is still there: then it does so when it ends.

        The lock on the folder tells: keeper, hub and node hold it together, and a successor needs it to start.
        """
        if self._lock is None:
            return  # the folder is not this node's to remove
        os.close(self._lock)
        deadline = time.monotonic() + HUB_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, BlockingIOError):
                descriptor = os.open(self._folder, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(descriptor), self._folder.stat()):
                        self._remove_files()
                finally:
                    os.close(descriptor)
            if not self._folder.exists():
                return
            time.sleep(LOCK_CHECK)

    def _remove_files(self) -> None:
        for path in Path("/dev/shm").glob(f"{config.shared_memory_prefix(self._cluster)}*"):
            with suppress(OSError):
                path.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
