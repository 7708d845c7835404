"""A cluster's folder: who owns it, what it says, how it goes.

The folder is its own lock: the keeper holds ``flock`` on it and its hub and node inherit that, so it is free exactly
when all three are gone, however they went. Whoever gets the lock checks that the folder is still the one at that
path, because the last owner may have removed it meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from parallelkit import config
from parallelkit.cluster.processes import birth
from parallelkit.errors import ClusterError

RECORD_FILE = "cluster.json"
CLIENT_FILE = "client.json"
#: Time that the rest of a cluster whose keeper was killed may take to end.
REMAINS_TIMEOUT = 5.0
_RETRY = 0.02


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """What ``cluster.json`` says. Times are Unix time in seconds."""

    name: str
    pid: int  # of the keeper
    birth: int  # of the keeper, see processes.birth
    owner: int | None  # process whose end ends the cluster
    n: int  # engines that it was started with
    started: float
    command: list[str]

    @property
    def is_running(self) -> bool:
        """Whether its keeper is alive. Without one, hub and engines end by themselves."""
        return birth(self.pid) == self.birth


def read_record(folder: Path) -> ClusterRecord | None:
    """The record in a cluster's folder; None if there is none that can be read."""
    try:
        return ClusterRecord(**json.loads((folder / RECORD_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: ClusterRecord) -> None:
    """Write it atomically, readable by its owner alone."""
    scratch = folder / f".{RECORD_FILE}.{os.getpid()}"
    with open(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
        json.dump(asdict(record), stream, indent=1)
    scratch.rename(folder / RECORD_FILE)


def claim(folder: Path, patience: float = REMAINS_TIMEOUT) -> int:
    """Make the folder, private and empty, and lock it. Returns the descriptor that holds the lock.

    Raises:
        ClusterError: a cluster of that name is running, what is left of one does not end within ``patience``
            seconds, or the folder belongs to another user or is open to others.
    """
    deadline = time.monotonic() + patience
    while True:
        descriptor = try_claim(folder)
        if descriptor is not None:
            for entry in folder.iterdir():
                remove(entry)
            return descriptor
        record = read_record(folder)
        if record is not None and record.is_running:
            raise ClusterError(f"cluster {record.name!r} is running already; its keeper is process {record.pid}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{folder} is still in use by the processes of an earlier cluster of that name")
        time.sleep(_RETRY)


def try_claim(folder: Path) -> int | None:
    """Lock the folder, made if need be, as it is; None if it is in use.

    Raises:
        ClusterError: it cannot be made, belongs to another user or is open to others.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_private(folder.parent, 0o022)
        _require_private(folder, 0o077)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None  # removed by its last owner just now
    except OSError as error:
        raise ClusterError(f"the cluster's folder {folder} cannot be used: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it; what is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_shared_memory(name: str) -> None:
    """Remove what a cluster of that name has left in shared memory."""
    for path in Path("/dev/shm").glob(f"{config.shared_memory_prefix(name)}*"):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _require_private(path: Path, forbidden: int) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ClusterError(f"{path} is in the way: it is not a folder")
    if found.st_uid != os.getuid():
        raise ClusterError(f"{path} belongs to another user; set PARALLELKIT_RUNTIME_DIR to a folder of your own")
    if found.st_mode & forbidden:
        raise ClusterError(f"{path} is open to other users; run: chmod 700 {path}")
