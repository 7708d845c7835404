"""Showing what tasks print, what they have printed, and how far they are. Plain text here; a notebook layer puts its
own in place."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from parallelkit.client.output import Output

if TYPE_CHECKING:
    from parallelkit.client.results import AsyncResult

#: (result, groupby, result_only)
Show = Callable[["AsyncResult", str, bool], None]
#: (result, done, interval, timeout) → whether it is done: waits for the event, and shows how far the result is.
Watch = Callable[["AsyncResult", threading.Event, float, float | None], bool]


class Screen(Protocol):
    """Where output is shown as it comes."""

    def take(self, piece: Output) -> None: ...

    def close(self) -> None:
        """There is no more."""


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


class Lines:
    """Writes whole lines to this process's streams, each with its stream and engine in front."""

    def __init__(self) -> None:
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._unfinished: dict[tuple[str, int], str] = {}

    def take(self, piece: Output) -> None:
        source = (piece.kind, piece.engine_id)
        if piece.kind in self._streams:
            *lines, rest = (self._unfinished.pop(source, "") + piece.content).split("\n")
            if rest:
                self._unfinished[source] = rest
            self._write(source, lines)
        elif piece.kind in ("display", "result"):
            self._write(("output", piece.engine_id), [str(piece.content["data"].get("text/plain", ""))])

    def close(self) -> None:
        for source, rest in self._unfinished.items():
            self._write(source, [rest])
        self._unfinished.clear()

    def _write(self, source: tuple[str, int], lines: list[str]) -> None:
        kind, engine = source
        self._streams[kind if kind == "stderr" else "stdout"].write(
            "".join(f"[{kind}:{engine}] {line}\n" for line in lines)
        )


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
_screen: Callable[[], Screen] = Lines


def use(show: Show, watch: Watch, screen: Callable[[], Screen]) -> None:
    """Let these functions show outputs and progress, and make what shows output as it comes, from now on."""
    global _show, _watch, _screen
    _show, _watch, _screen = show, watch, screen


def screen() -> Screen:
    """Something that shows output as it comes, here and now."""
    return _screen()


def show(result: AsyncResult, groupby: str, result_only: bool) -> None:
    if groupby not in GROUPINGS:
        raise ValueError(f"groupby={groupby!r}: use one of {', '.join(GROUPINGS)}")
    _show(result, groupby, result_only)


def watch(
    result: AsyncResult,
    interval: float,
    timeout: float | None,
    rich: bool = True,
    return_when: str | None = None,
) -> bool:
    done = threading.Event()

    def wait() -> None:
        if result.wait(timeout, return_when):
            done.set()

    result.add_done_callback(lambda _: done.set())
    if return_when is not None and not result.wait(0, return_when):  # which also tells of a wrong one
        threading.Thread(target=wait, name="parallelkit-watch", daemon=True).start()
    elif return_when is not None:
        done.set()
    return (_watch if rich else bar)(result, done, interval, timeout)
