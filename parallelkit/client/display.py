"""Showing what tasks printed, and how far they are. Plain text here; a notebook layer puts its own in place."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallelkit.client.results import AsyncResult

#: (result, groupby, result_only)
Show = Callable[["AsyncResult", str, bool], None]
#: (result, done, interval, timeout) → whether it is done: waits for the event, and shows how far the result is.
Watch = Callable[["AsyncResult", threading.Event, float, float | None], bool]

GROUPINGS = ("type", "engine", "order")


def _plain(result: AsyncResult, groupby: str, result_only: bool) -> None:
    """Print streams and the ``text/plain`` of displays, each block headed by its kind and engine."""
    rows = result.metadata if isinstance(result.metadata, list) else [result.metadata]
    blocks = [block for row in rows for block in _blocks(row, result_only)]
    if groupby == "type":
        blocks.sort(key=lambda block: ("stdout", "stderr", "output").index(block[0]))
    for kind, engine, text in blocks:
        stream = sys.stderr if kind == "stderr" else sys.stdout
        stream.write(f"[{kind}:{engine}]\n{text}" + ("" if text.endswith("\n") else "\n"))


def _blocks(row: dict[str, Any], result_only: bool) -> list[tuple[str, Any, str]]:
    """(kind, engine, text) of all that one task printed and displayed."""
    shown = [row["execute_result"]] if row["execute_result"] else []
    if result_only:
        texts = []
    else:
        texts = [(kind, row[kind]) for kind in ("stdout", "stderr") if row[kind]]
        shown = row["outputs"] + shown
    texts += [("output", str(one["data"].get("text/plain", ""))) for one in shown]
    return [(kind, row["engine_id"], text) for kind, text in texts]


def bar(result: AsyncResult, done: threading.Event, interval: float, timeout: float | None) -> bool:
    """A bar in a terminal, elsewhere one line at the end."""
    if not sys.stderr.isatty():
        ready = done.wait(timeout)
        sys.stderr.write(f"{result!r}\n")
        return ready
    from tqdm import tqdm  # late: it is slow to import, and most programs never draw a bar

    deadline = None if timeout is None else time.monotonic() + timeout
    with tqdm(total=len(result), desc=result.label or None) as drawn:
        while True:
            left = interval if deadline is None else max(0.0, min(interval, deadline - time.monotonic()))
            ready = done.wait(left)
            drawn.update(result.progress - drawn.n)
            if ready or (deadline is not None and time.monotonic() >= deadline):
                return ready


_show: Show = _plain
_watch: Watch = bar


def use(show: Show, watch: Watch) -> None:
    """Let these functions show outputs and progress from now on."""
    global _show, _watch
    _show, _watch = show, watch


def show(result: AsyncResult, groupby: str, result_only: bool) -> None:
    if groupby not in GROUPINGS:
        raise ValueError(f"groupby={groupby!r}: use one of {', '.join(GROUPINGS)}")
    _show(result, groupby, result_only)


def watch(result: AsyncResult, interval: float, timeout: float | None) -> bool:
    done = threading.Event()
    result.add_done_callback(lambda _: done.set())
    return _watch(result, done, interval, timeout)
