"""The node process: supervisor of one machine's engines, started by the keeper.

The zygote is launched before anything else is imported here: its own imports are what a cluster's start waits for.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys

ZYGOTE = "parallelkit.engine.zygote"


def launch_zygote() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new zygote, and our end of the socket pair to it (see wire/zygote.py)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", ZYGOTE, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    return process, ours


def main() -> None:
    """Run a node; the arguments are what the keeper passes."""
    parser = argparse.ArgumentParser(prog="python -m parallelkit.node")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--engines", type=int, required=True, help="how many to start")
    parser.add_argument("--id", type=bytes.fromhex, default=os.urandom(16), help="a replacement takes the old node's")
    # Told, not asked for: a keeper that is killed while this process starts is not its parent any more.
    parser.add_argument("--keeper", type=int, default=os.getppid(), help="process whose end ends the node")
    parser.add_argument("--lock", type=int, help="inherited descriptor of the lock on the cluster's folder")
    arguments = parser.parse_args()
    zygote = launch_zygote()
    from parallelkit.node.host import Host  # late: these imports and those of the zygote go on at the same time

    host = Host(arguments.cluster, arguments.id, zygote, arguments.keeper, arguments.lock)
    sys.exit(host.run(arguments.engines))
