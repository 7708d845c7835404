"""``make bench``: parallelkit beside other systems, the same work, in turns; prints a table and keeps it as JSON.

Every system runs in a process of its own, one at a time, several times over in turns, so that a slow moment of the
machine hits all of them; what is shown is the median. Ratios between columns mean something, absolute times little.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
#: Seconds that one system may take for one turn.
PATIENCE = 600


class Peer(NamedTuple):
    """A system to compare with: the module it needs, what installs it, whether it takes ``--all``."""

    name: str
    module: str
    extra: str
    only_all: bool = False


PEERS = (
    Peer("parallelkit", "parallelkit", ""),
    Peer("relay", "zmq", ""),
    Peer("pool", "multiprocessing", ""),
    Peer("futures", "concurrent.futures", ""),
    Peer("ipyparallel", "ipyparallel", "bench"),
    Peer("loky", "loky", "bench-all", True),
    Peer("dask", "distributed", "bench-all", True),
    Peer("ray", "ray", "bench-all", True),
)


class Measure(NamedTuple):
    """A row: what it is called, and whether more of it is better."""

    key: str
    title: str
    more: bool = False


MEASURES = (
    Measure("apply_ms", "one call, there and back, median ms"),
    Measure("apply_p99_ms", "one call, there and back, 99th percentile ms"),
    Measure("submit_per_s", "5,000 separate calls, per second", True),
    Measure("map_one_per_s", "map, each item a task, items per second", True),
    Measure("map_per_s", "map of 200,000 tiny items, per second", True),
    Measure("uneven", "uneven items, time / ideal time"),
    Measure("array_1mb_ms", "1 MB array, there and back, median ms"),
    Measure("array_100mb_mb_per_s", "100 MB array, there and back, MB/s", True),
    Measure("push_mb_per_s", "100 MB to both engines, MB/s", True),
    Measure("scatter_mb_per_s", "100 MB scattered, MB/s", True),
    Measure("gather_mb_per_s", "100 MB gathered, MB/s", True),
    Measure("cell_ms", "a cell on both engines, median ms"),
    Measure("import_ms", "import, ms"),
    Measure("connect_s", "two engines ready after the import, s"),
    Measure("ready_s", "two workers ready, import included, s"),
    Measure("engine", "own memory of an idle engine, MB"),
    Measure("hub", "own memory of the hub, MB"),
    Measure("node", "own memory of the node, MB"),
)


class Mark(NamedTuple):
    """What is wanted: parallelkit's figure, or its ratio to that of ``against``, within ``limit``."""

    key: str
    limit: float
    against: str = ""


MARKS = (
    Mark("apply_ms", 2.5, "relay"),
    Mark("submit_per_s", 0.8, "pool"),
    Mark("map_per_s", 0.5, "pool"),
    Mark("uneven", 1.08),
    Mark("connect_s", 2.5),
    Mark("engine", 30),
)

Figures = dict[str, dict[str, float]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also dask, ray and loky")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one turn: a look, not a measurement")
    parser.add_argument("--turns", type=int, help="how often each system runs (default 3)")
    parser.add_argument("--only", nargs="+", metavar="SYSTEM", choices=[p.name for p in PEERS], help="only these")
    arguments = parser.parse_args()
    chosen = _chosen(arguments)
    turns = arguments.turns or (1 if arguments.quick else 3)
    runs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in chosen}
    failures = {}
    for turn in range(turns):
        for peer in chosen:
            if peer.name in failures:
                continue
            print(f"turn {turn + 1} of {turns}: {peer.name}", file=sys.stderr, flush=True)
            figures, failure = run_once(peer.name, arguments.quick)
            if failure:
                failures[peer.name] = failure
                print(f"{peer.name} failed:\n{failure}", file=sys.stderr)
            else:
                runs[peer.name].append(figures)
    medians = {name: _median(found) for name, found in runs.items() if found}
    print("\n".join(table(medians)))
    if "parallelkit" in medians:
        print("\n".join(["", *verdicts(medians)]))
    print(f"\nkept in {save(runs, medians, failures, arguments.quick)}")
    return 1 if "parallelkit" in failures else 0


def _chosen(arguments):
    chosen = []
    for peer in PEERS:
        if arguments.only:
            if peer.name not in arguments.only:
                continue
        elif peer.only_all and not arguments.all:
            continue
        if importlib.util.find_spec(peer.module.split(".")[0]) is None:
            print(f"{peer.name} is not installed: pip install 'parallelkit[{peer.extra}]'", file=sys.stderr)
            continue
        chosen.append(peer)
    return chosen


def run_once(name: str, quick: bool) -> tuple[dict[str, float], str]:
    """The figures of one turn of one system, or why there are none."""
    command = [sys.executable, str(HERE / "worker.py"), name, *["--quick"] * quick]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # a cluster of its own, whatever else of it runs on this machine
        own = {"PARALLELKIT_RUNTIME_DIR": f"{folder}/run", "PARALLELKIT_STATE_DIR": f"{folder}/state"}
        own |= {"IPYTHONDIR": f"{folder}/ipython"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | own, check=False
            )
        except subprocess.TimeoutExpired:
            return {}, f"not done after {PATIENCE} s"
    if done.returncode:
        return {}, done.stderr.strip()[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    keys = {key for figures in found for key in figures}
    return {key: statistics.median(figures[key] for figures in found if key in figures) for key in keys}


def table(medians: Figures) -> list[str]:
    """A row for each measure, a column for each system; the last column compares with the best of the others."""
    names = list(medians)
    rows = [["", *names, "parallelkit / best other"]]
    for measure in MEASURES:
        values = {name: medians[name].get(measure.key) for name in names}
        if any(value is not None for value in values.values()):
            shown = ["–" if value is None else number(value) for value in values.values()]
            rows.append([measure.title, *shown, _ratio(values, measure.more)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _ratio(values: dict[str, float | None], more: bool) -> str:
    others = [value for name, value in values.items() if name not in ("parallelkit", "relay") and value is not None]
    ours = values.get("parallelkit")
    if ours is None or not others:
        return ""
    best = max(others) if more else min(others)
    return f"{number(ours / best)} × ({'more' if more else 'less'} is better)"


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdicts(medians: Figures) -> list[str]:
    """Each mark, and whether it is reached."""
    more = {measure.key: measure.more for measure in MEASURES}
    titles = {measure.key: measure.title for measure in MEASURES}
    lines = []
    for mark in MARKS:
        value = medians["parallelkit"].get(mark.key)
        base = medians.get(mark.against, {}).get(mark.key) if mark.against else 1.0
        if value is None or base is None:
            continue
        ratio = value / base
        reached = ratio >= mark.limit if more[mark.key] else ratio <= mark.limit
        sign, of = ("≥" if more[mark.key] else "≤"), (f" × {mark.against}" if mark.against else "")
        lines.append(
            f"{'reached' if reached else 'MISSED '}  {titles[mark.key]}: {number(ratio)}{of} ({sign} {mark.limit:g})"
        )
    return lines


def save(runs, medians: Figures, failures: dict[str, str], quick: bool) -> Path:
    """Keep everything as JSON; returns the file."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}{'-quick' if quick else ''}.json"
    machine = {"python": platform.python_version(), "machine": platform.platform(), "processors": os.cpu_count()}
    record = {"machine": machine, "quick": quick, "medians": medians, "runs": runs, "failures": failures}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
