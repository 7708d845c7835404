"""Connection files: how a client, an engine or a node finds its hub, and the keys that let it in.

The hub writes one file for clients and one for engines and nodes. They hold secrets, hence: created 0600 with
``O_EXCL`` in a folder of mode 0700 and renamed into place (there is no moment at which others could read them),
and refused on reading when anybody else could.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from parallelkit.errors import ConnectionFileError
from parallelkit.wire.messages import PROTOCOL

CLIENT_FILE = "client.json"
ENGINE_FILE = "engine.json"
#: The hub's own keys over TCP: a hub that follows a killed one takes them over.
HUB_FILE = "hub.json"
#: Scheme of endpoints that are unix sockets.
UNIX = "ipc://"
#: Seconds between two looks for a listener.
RETRY = 0.05


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Where the hub is. The keys are CURVE keys in Z85 text, empty for a unix socket, whose folder guards it."""

    cluster: str
    endpoint: str
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""
    protocol: int = PROTOCOL

    def __repr__(self) -> str:
        return f"<ConnectionInfo {self.cluster} at {self.endpoint}>"  # never the keys


def write_connection(path: Path, info: ConnectionInfo) -> None:
    """Write the file anew, atomically, readable by its owner alone."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(asdict(info), stream, indent=1)
    scratch.rename(path)


def require_listener(info: ConnectionInfo, patience: float) -> None:
    """Return when somebody listens at a unix socket's endpoint; over TCP at once, since there only the hub can tell.

    Raises:
        ConnectionFileError: nobody did within ``patience`` seconds: the file outlived its hub.
    """
    if not info.endpoint.startswith(UNIX):
        return
    deadline = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(info.endpoint.removeprefix(UNIX))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ConnectionFileError(
                        f"the connection file of cluster {info.cluster!r} is stale: nobody listens at {info.endpoint}"
                    ) from error
            else:
                return
        time.sleep(RETRY)


def read_connection(path: Path) -> ConnectionInfo:
    """Read a connection file.

    Raises:
        ConnectionFileError: it is not there, is damaged, belongs to someone else or could be read by others.
    """
    try:
        with path.open() as stream:
            found = os.fstat(stream.fileno())
            text = stream.read()
    except FileNotFoundError:
        raise ConnectionFileError(f"there is no connection file {path}: the cluster is not running") from None
    except OSError as error:
        raise ConnectionFileError(f"connection file {path} cannot be read: {error}") from error
    if found.st_uid != os.getuid():
        raise ConnectionFileError(f"connection file {path} belongs to another user; it is not used")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConnectionFileError(f"connection file {path} can be read by others; run: chmod 600 {path}")
    try:
        return ConnectionInfo(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConnectionFileError(f"connection file {path} is damaged: {error}") from error
