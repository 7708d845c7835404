"""One line that says how far a start is."""

from __future__ import annotations

import sys
from typing import TextIO

_PREFIX = "parallelkit: "


class StepLine:
    """A line that changes in place in a terminal; elsewhere the first step and the outcome, on one line.

    A notebook's line goes to its standard output, all others to standard error, which nobody pipes data through.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        in_notebook = type(sys.stdout).__module__.partition(".")[0] == "ipykernel"
        self._stream = stream or (sys.stdout if in_notebook else sys.stderr)
        self._in_place = self._stream.isatty()
        self._steps = 0

    def step(self, text: str) -> None:
        """Show what is going on now."""
        if self._in_place:
            self._write(f"\r\x1b[K{_PREFIX}{text} …")
        elif self._steps == 0:
            self._write(f"{_PREFIX}{text} … ")
        self._steps += 1

    def done(self, text: str) -> None:
        """Show the outcome and end the line."""
        if self._in_place:
            self._write(f"\r\x1b[K{_PREFIX}{text}\n")
        else:
            self._write(f"{text}\n" if self._steps else f"{_PREFIX}{text}\n")
        self._steps = 0

    def fail(self) -> None:
        """End the line; an exception will say the rest."""
        if self._steps:
            self._write("\n" if self._in_place else "failed\n")
        self._steps = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
