"""What engines print and show, under the cell that asked for it.

Text carries its engine and stream in front, line by line (``[stdout:0] ``). Lines that are not finished, such as
progress bars, stand together below, one row for each engine, and change in place until they are.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parallelkit.client.output import Output
from parallelkit.jupyter.cell import Cell, new_display_id
from parallelkit.jupyter.lines import Lines

#: Seconds between two updates of what changes in place.
PERIOD = 0.1
#: Rows of unfinished lines that are shown at most.
ROWS = 20

#: Order of the kinds of output; what clears displays has its place among them.
RANK = {"stdout": 0, "stderr": 1, "clear": 2, "display": 2, "result": 3}
#: How pieces of output are put in order; within a group they stay in the order in which they came.
GROUPINGS: Mapping[str, Callable[[Output], Any]] = {
    "type": lambda piece: (RANK[piece.kind], piece.engine_id),
    "engine": lambda piece: piece.engine_id,
    "order": lambda piece: 0,
}


class Live:
    """Rows that change in place: a display in a notebook, the last lines of a terminal, nothing in a log."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._display_id = ""
        self._rows: list[str] = []

    def set(self, rows: list[str]) -> None:
        """Show these rows in the place of the former ones."""
        if rows == self._rows:
            return
        if self._cell.is_rich:
            self._replace("\n".join(rows))
        elif self._cell.is_terminal:
            self._erase()
            self._draw(rows)
        self._rows = rows

    def above(self, kind: str, text: str) -> None:
        """Write text above the rows."""
        in_the_way = self._cell.is_terminal and self._rows
        if in_the_way:
            self._erase()
        self._cell.write(kind, text)
        if in_the_way:
            self._draw(self._rows)

    def _replace(self, text: str) -> None:
        known, self._display_id = bool(self._display_id), self._display_id or new_display_id()
        self._cell.show({"text/plain": text}, display_id=self._display_id, update=known)

    def _erase(self) -> None:
        if self._rows:
            self._cell.write("stderr", "\r" + "\x1b[A\x1b[K" * len(self._rows))

    def _draw(self, rows: list[str]) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._cell.write("stderr", "".join(f"{row[:width]}\n" for row in rows))


class Screen:
    """Shows pieces of output of several engines under one cell. Used by one thread at a time."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._live = Live(cell)
        self._lines: dict[tuple[int, str], Lines] = {}
        self._displays: defaultdict[int, list[str]] = defaultdict(list)
        self._cleared: defaultdict[int, deque[str]] = defaultdict(deque)
        self._refreshed = time.monotonic()
        #: Number of each engine's cell, for headings.
        self.counts: dict[int, int | None] = {}

    def take(self, piece: Output) -> None:
        """Show one piece."""
        if piece.kind in ("stdout", "stderr"):
            lines = self._lines.setdefault((piece.engine_id, piece.kind), Lines())
            self._write(piece.engine_id, piece.kind, lines.feed(piece.content))
        elif piece.kind == "display":
            self._display(piece.engine_id, piece.content)
        elif piece.kind == "clear":
            self._cleared[piece.engine_id].extend(self._displays.pop(piece.engine_id, []))
        else:
            self._result(piece.engine_id, piece.content)

    def end_lines(self) -> None:
        """Nothing more comes for the unfinished lines: they are lines now."""
        for (engine, kind), lines in sorted(self._lines.items()):
            if last := lines.end():
                self._write(engine, kind, [last])

    def refresh(self, note: str = "") -> None:
        """Bring the rows below up to date, at most each :data:`PERIOD`."""
        now = time.monotonic()
        if now - self._refreshed >= PERIOD:
            self._refreshed = now
            unfinished = [
                _prefix(engine, kind) + lines.unfinished.rstrip()
                for (engine, kind), lines in sorted(self._lines.items())
                if lines.unfinished.strip()
            ]
            more = [f"… and {len(unfinished) - ROWS} more"] if len(unfinished) > ROWS else []
            self._live.set(unfinished[:ROWS] + more + [note] * bool(note))

    def close(self) -> None:
        """All has come: nothing changes in place any more."""
        self._live.set([])
        self.end_lines()
        for left in self._cleared.values():
            for display_id in left:
                self._cell.show({"text/plain": ""}, display_id=display_id, update=True)
        self._cleared.clear()

    def _write(self, engine: int, kind: str, lines: list[str]) -> None:
        if lines:
            prefix = _prefix(engine, kind)
            self._live.above(kind, "".join(f"{prefix}{line}\n" for line in lines))

    def _display(self, engine: int, content: Mapping[str, Any]) -> None:
        """After a clear_output() the engine's next displays take the places of those that it cleared."""
        data, metadata, transient = content["data"], content.get("metadata"), content.get("transient") or {}
        own_id = transient.get("display_id")
        if own_id and transient.get("update"):
            self._cell.show(data, metadata, f"{own_id}-{engine}", update=True)
        elif self._cleared[engine]:
            display_id = self._cleared[engine].popleft()
            self._displays[engine].append(display_id)
            self._cell.show(data, metadata, display_id, update=True)
        else:
            display_id = f"{own_id}-{engine}" if own_id else new_display_id()
            self._displays[engine].append(display_id)
            self._headed(f"[output:{engine}]", data, metadata, display_id)

    def _result(self, engine: int, content: Mapping[str, Any]) -> None:
        number = self.counts.get(engine)
        heading = f"Out[{engine}:{number}]:" if number is not None else f"Out[{engine}]:"
        self._headed(heading, content["data"], content.get("metadata"), None)

    def _headed(self, heading: str, data: Mapping[str, Any], metadata: Any, display_id: str | None) -> None:
        text = data.get("text/plain", "")
        if set(data) <= {"text/plain"} and display_id is None:
            self._cell.show({"text/plain": f"{heading}{_gap(text)}{text}"})
        else:
            self._cell.show({"text/plain": heading})
            self._cell.show(dict(data), metadata, display_id)


class LiveScreen(Screen):
    """One that nobody refreshes: each piece does."""

    def take(self, piece: Output) -> None:
        super().take(piece)
        self.refresh()


def show_grouped(pieces: Iterable[Output], screen: Screen, groupby: str) -> None:
    """Show what has come, in groups: by ``type``, by ``engine``, or in the ``order`` in which it came.

    Raises:
        ValueError: there is no such grouping.
    """
    if groupby not in GROUPINGS:
        raise ValueError(f"groupby={groupby!r}: use one of {', '.join(GROUPINGS)}")
    key, last = GROUPINGS[groupby], None
    for piece in sorted(pieces, key=key):
        if last is not None and key(piece) != last:
            screen.end_lines()
        screen.take(piece)
        last = key(piece)
    screen.close()


def _prefix(engine: int, kind: str) -> str:
    return f"[{kind}:{engine}] "


def _gap(text: str) -> str:
    return "\n" if "\n" in text else " "
