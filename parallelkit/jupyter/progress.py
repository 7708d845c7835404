"""How far a result is: a live line under the cell, a bar in a terminal, one line in a log."""

from __future__ import annotations

import html
import threading
import time
from typing import Any

from IPython.core.getipython import get_ipython
from tqdm import tqdm

from parallelkit.client.results import AsyncResult
from parallelkit.jupyter.cell import Cell, new_display_id

#: Seconds between two updates of a live line.
INTERVAL = 0.25


def bundle(result: AsyncResult) -> dict[str, str]:
    """The result's state now, as text and, while it is pending, as HTML. A saved notebook needs no more to show it."""
    text = repr(result)
    if result.done():
        return {"text/plain": text}
    bar = f'<progress value="{result.progress}" max="{len(result)}"></progress>'
    return {"text/plain": text, "text/html": f"{bar} <code>{html.escape(text)}</code> {result.elapsed:.0f} s"}


def show(result: AsyncResult, cell: Cell) -> None:
    """Show the state of a result under a cell, live until it is done, and then how it ended."""
    display_id = new_display_id()
    cell.show(bundle(result), display_id=display_id)
    if not cell.is_rich or result.done():
        return
    done = _done_event(result)

    def keep_up() -> None:
        over = False
        while not over:
            over = done.wait(INTERVAL)
            cell.show(bundle(result), display_id=display_id, update=True)

    threading.Thread(target=keep_up, name="parallelkit-progress", daemon=True).start()


def wait_interactive(result: AsyncResult, interval: float = 0.1, timeout: float | None = -1) -> bool:
    """Wait up to ``timeout`` seconds (None or negative: without limit) and show how far it is; whether it is ready.

    In a notebook a live line, in a terminal a bar that is redrawn each ``interval`` seconds, else one line at the end.
    """
    cell = Cell(get_ipython())
    done = _done_event(result)
    limit = None if timeout is None or timeout < 0 else timeout
    if cell.is_rich:
        show(result, cell)
        return done.wait(limit)
    if cell.is_terminal:
        return _with_bar(result, done, interval, limit)
    ready = done.wait(limit)
    cell.write("stderr", f"{result!r}\n")
    return ready


def _with_bar(result: AsyncResult, done: threading.Event, interval: float, limit: float | None) -> bool:
    deadline = None if limit is None else time.monotonic() + limit
    with tqdm(total=len(result), desc=result.label or None) as bar:
        while True:
            left = interval if deadline is None else max(0.0, min(interval, deadline - time.monotonic()))
            ready = done.wait(left)
            bar.update(result.progress - bar.n)
            if ready or (deadline is not None and time.monotonic() >= deadline):
                return ready


def _done_event(result: AsyncResult) -> threading.Event:
    """Set when it is complete. Not ``result.wait``: that speaks up each time when the hub is silent."""
    event = threading.Event()
    result.add_done_callback(lambda _: event.set())
    return event


def install(shell: Any) -> None:
    """Let a result that is the last value of a cell show its progress."""
    shell.display_formatter.ipython_display_formatter.for_type(AsyncResult, lambda result: show(result, Cell(shell)))
