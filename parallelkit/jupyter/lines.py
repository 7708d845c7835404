"""Text as a terminal would show it: lines that are complete, and the one that is still being written."""

from __future__ import annotations

import re

_BREAKS = re.compile(r"([\r\n])")


class Lines:
    """One engine's stdout or stderr. A carriage return goes back to the start of the line and overwrites it, as
    progress bars do; only what the line holds when it ends is a line."""

    def __init__(self) -> None:
        #: The unfinished line as it looks now.
        self.unfinished = ""
        self._column = 0

    def feed(self, text: str) -> list[str]:
        """The lines that this text completes, without their ends."""
        complete = []
        for part in _BREAKS.split(text):
            if part == "\n":
                complete.append(self.end())
            elif part == "\r":
                self._column = 0
            else:
                stop = self._column + len(part)
                self.unfinished = self.unfinished[: self._column] + part + self.unfinished[stop:]
                self._column = stop
        return complete

    def end(self) -> str:
        """Take the unfinished line as it is; the next one begins."""
        line, self.unfinished, self._column = self.unfinished, "", 0
        return line.rstrip() if line.isspace() else line
