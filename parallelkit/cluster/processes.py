"""Processes that need not be ours: told apart by number and time of birth, waited for, ended."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

#: Time between two looks at a process where the kernel cannot tell of its end.
POLL = 0.02


def birth(pid: int) -> int | None:
    """When a process was born, in ticks since the machine started; None when there is none (a zombie is none).

    A number is given to another process later, a number with a time of birth never is.
    """
    if sys.platform != "linux":
        return 0 if _answers(pid) else None
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command stands in parentheses and may hold anything; after the last one fields are regular (proc(5): from 3).
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def reap(pid: int, *, block: bool = False) -> int | None:
    """Exit code of a child of ours that has ended (negative: signal), which is then no zombie any more; else None."""
    try:
        ended, status = os.waitpid(pid, 0 if block else os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def wait_for_end(pid: int, born: int, timeout: float) -> bool:
    """Wait until that process has ended; False if it has not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while birth(pid) == born:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        _wait_a_little(pid, left)
    return True


def send_signal(pid: int, born: int, number: int, *, group: bool = False) -> None:
    """Signal that process, or the process group that it leads; nothing happens if it has ended."""
    if birth(pid) == born:
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(pid, number)


def end(pid: int, born: int, grace: float) -> bool:
    """Have a keeper end: SIGTERM, and SIGKILL for its whole process group after the grace. True: it was in order."""
    send_signal(pid, born, signal.SIGTERM)
    if wait_for_end(pid, born, grace):
        return True
    send_signal(pid, born, signal.SIGKILL, group=True)
    wait_for_end(pid, born, grace)
    return False


def _wait_a_little(pid: int, seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):
        time.sleep(min(POLL, seconds))
        return
    try:
        # poll() and not select(): notebooks can have more than 1024 descriptors open
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        waiter.poll(min(seconds, 1.0) * 1000)
    finally:
        os.close(descriptor)


def _answers(pid: int) -> bool:
    reap(pid)  # a zombie would answer
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
