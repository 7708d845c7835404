"""One system, measured once in a process of its own: ``worker.py SYSTEM [--quick]`` prints one JSON object."""

from __future__ import annotations

import argparse
import json
import sys


# The work is defined in this program, as users define theirs in a script or a notebook.
def noop(value=None):
    return value


def sleep(seconds):
    import time  # here for ipyparallel, whose engines do not get a function's globals

    time.sleep(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    arguments = parser.parse_args()
    import measures
    import systems

    with systems.SYSTEMS[arguments.system](noop) as system:
        found = measures.measure(system, noop, sleep, scale=0.1 if arguments.quick else 1.0)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
