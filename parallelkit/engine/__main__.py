"""``python -m parallelkit.engine``: one engine without a node, for batch systems and for debugging."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parallelkit import config
from parallelkit.engine.app import run, warm_up
from parallelkit.errors import ParallelKitError
from parallelkit.transport.connection import ENGINE_FILE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m parallelkit.engine", description=__doc__)
    parser.add_argument("--cluster", default="default", help="name of the cluster to join")
    parser.add_argument("--connection", type=Path, help="the hub's file for engines, instead of --cluster")
    parser.add_argument("--id", type=int, default=-1, help="id to ask for; -1: any")
    parser.add_argument("--log", type=Path, help="file for the log; default: where standard error goes")
    options = parser.parse_args()
    try:
        connection = options.connection or config.cluster_dir(config.load(), options.cluster) / ENGINE_FILE
        warm_up()
        run(connection, options.id, b"", options.log)
    except ParallelKitError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
