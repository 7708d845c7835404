"""What the operating system says of a process."""

from __future__ import annotations

import os
from pathlib import Path

from parallelkit.wire.messages import ProcessState

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def sample(pid: int, incarnation: bytes) -> ProcessState | None:
    """State, processor time and memory of a process now; None if it is gone, or where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command stands in parentheses and may hold anything; after the last one fields are regular (proc(5): from 3).
    fields = text[text.rindex(")") + 2 :].split()
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return ProcessState(incarnation, pid, fields[0], cpu, int(fields[21]) * _PAGE)
