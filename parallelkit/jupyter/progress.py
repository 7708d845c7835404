"""How far a result is, as a live line under a cell."""

from __future__ import annotations

import html
import threading
from typing import Any

from IPython.core.getipython import get_ipython

from parallelkit.client import display
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
    done = threading.Event()  # not result.wait: that speaks up each time when the hub is silent
    result.add_done_callback(lambda _: done.set())

    def keep_up() -> None:
        over = False
        while not over:
            over = done.wait(INTERVAL)
            cell.show(bundle(result), display_id=display_id, update=True)

    threading.Thread(target=keep_up, name="parallelkit-progress", daemon=True).start()


def watch(result: AsyncResult, done: threading.Event, interval: float, timeout: float | None) -> bool:
    """``AsyncResult.wait_interactive``: a live line where there can be one, else what it is without a notebook."""
    cell = Cell(get_ipython())
    if not cell.is_rich:
        return display.bar(result, done, interval, timeout)
    show(result, cell)
    return done.wait(timeout)


def install(shell: Any) -> None:
    """Let a result that is the last value of a cell show its progress."""
    shell.display_formatter.ipython_display_formatter.for_type(AsyncResult, lambda result: show(result, Cell(shell)))
