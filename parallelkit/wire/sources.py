"""Source text that travels with functions, so that a traceback on another machine can show their lines.

The sender finds the text through ``linecache``, where notebooks keep their cells; the receiver puts it there again,
under the same file name.
"""

from __future__ import annotations

import linecache
from types import CodeType
from typing import TypeAlias

#: (file name, number of the text's first line, text); without text where there is none to be found.
Source: TypeAlias = tuple[str, int, str]

#: At most this much text travels for one function.
MAX_TEXT = 64 << 10
#: Files of others of which lines are kept here; the oldest go first.
MAX_FILES = 512

_kept: dict[str, None] = {}


class Sources:
    """The sources for one pickle: code objects whose lines have been taken along already share theirs."""

    def __init__(self) -> None:
        self._taken: dict[str, list[tuple[Source, int]]] = {}

    def of(self, code: CodeType) -> Source:
        """The source for ``code``: the whole cell it was defined in, or its own lines of a file."""
        taken = self._taken.setdefault(code.co_filename, [])
        for source, last in taken:
            if source[1] <= code.co_firstlineno <= last:
                return source
        source = _find(code)
        taken.append((source, source[1] + source[2].count("\n")))
        return source


def _find(code: CodeType) -> Source:
    filename = "".join(list(code.co_filename))  # a copy: pickles must not depend on which strings are shared
    lines = linecache.getlines(filename)
    if not lines:
        return filename, code.co_firstlineno, ""
    entry = linecache.cache[filename]
    is_cell = len(entry) == 4 and entry[1] is None  # kept by a notebook: there is no file of that age
    if is_cell and sum(map(len, lines)) <= MAX_TEXT:
        return filename, 1, "".join(lines)
    first = code.co_firstlineno
    return filename, first, "".join(lines[first - 1 : _last_line(code)])[:MAX_TEXT]


def _last_line(code: CodeType) -> int:
    last = max((line for *_, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    return max([last, *(_last_line(constant) for constant in code.co_consts if isinstance(constant, CodeType))])


def register(source: Source) -> None:
    """Make these lines known to this process, unless it knows them already."""
    filename, first, text = source
    lines = text.splitlines(keepends=True)
    if not lines:
        return
    known = linecache.getlines(filename)
    if known[first - 1 : first - 1 + len(lines)] == lines:
        return
    merged = known[: first - 1]
    merged += ["\n"] * (first - 1 - len(merged)) + lines + known[first - 1 + len(lines) :]
    # without a time, so that linecache does not look for a newer file
    linecache.cache[filename] = (sum(map(len, merged)), None, merged, filename)
    _kept.pop(filename, None)
    _kept[filename] = None
    while len(_kept) > MAX_FILES:
        oldest = next(iter(_kept))
        del _kept[oldest]
        linecache.cache.pop(oldest, None)
