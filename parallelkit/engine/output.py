"""What tasks print and show: it belongs to the attempt that runs, leaves in pieces, and is bounded.

``sys.stdout`` and ``sys.stderr`` of an engine are :class:`TextStream`. What is written gathers here and is handed to
the mailbox at most ten times a second by the loop's thread (so that output flows while user code computes), at every
64 KiB by the writer, and at the end of the attempt, before its result. Carriage returns are kept: progress bars work.

An attempt may send ``limit`` bytes; the rest is counted, not kept, and a closing line says how much it was. Threads
that a task started write to the attempt that runs when they write. While none runs, text goes to the engine's log;
so does what is written below Python (by subprocesses, by C code), because file descriptors belong to no attempt.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from parallelkit.core.runqueue import Entry
from parallelkit.engine.mailbox import Letter, Mailbox
from parallelkit.transport.base import Loop
from parallelkit.wire.messages import OutputRecord, Stream

#: Time between two hand-overs, and between the first write of a quiet task and its hand-over, in seconds.
PERIOD = 0.1
FIRST = 0.01
#: Characters that wait at most; a writer that reaches them hands over itself.
PIECE = 64 << 10

#: Lone surrogates (undecodable file names) must not make print() fail.
ERRORS = "backslashreplace"


class Output:
    """The output of the attempt that runs now.

    :meth:`begin` and :meth:`end` belong to the thread that runs user code, the rest to any thread. Writers only
    append to a deque; the lock is for those who hand over. It is reentrant because a finalizer or a signal handler
    may print while its thread is inside.
    """

    def __init__(self, loop: Loop, mailbox: Mailbox, limit: int) -> None:
        self.limit = limit
        self.engine_id = -1
        self._loop = loop
        self._mailbox = mailbox
        self._entry: Entry | None = None
        self._pending: deque[tuple[Stream, str | bytes]] = deque()
        self._size = 0
        self._left = 0
        self._dropped = 0
        self._used = False  # whether the attempt has written anything: most never do
        self._lock = threading.RLock()
        self._scheduled = False
        self._handed_over = float("-inf")

    def begin(self, entry: Entry) -> None:
        """From now on output belongs to this attempt."""
        self._left = self.limit
        self._dropped = 0
        self._used = False
        self._entry = entry

    def end(self) -> None:
        """Hand over what is left of this attempt's output; from now on text goes to the log."""
        if self._used:
            # The lock also waits for another thread that has taken pieces and not posted them yet.
            with self._lock:
                self.hand_over()
                if self._dropped:
                    notice = f"… {amount(self._dropped)} more were printed; not sent\n"
                    self._post(Stream.STDERR, notice.encode())
        self._entry = None

    def leave(self) -> None:
        """In a process forked by a task: nobody hands over there, so its text goes to the log."""
        self._entry = None

    def write(self, stream: Stream, text: str) -> None:
        """Text for STDOUT or STDERR. Never blocks on the network, never fails on odd characters."""
        if self._entry is None:
            self._log(stream, text)
        elif self._left <= 0:
            self._dropped += _encoded_length(text)
        elif text:
            self._add(stream, text)

    def publish(self, stream: Stream, data: bytes) -> None:
        """Rich output, whole: one that no longer fits is counted, not cut. The log has no use for it."""
        if self._entry is not None:
            self._add(stream, data)

    def _add(self, stream: Stream, piece: str | bytes) -> None:
        self._used = True
        self._pending.append((stream, piece))
        self._size += len(piece)
        if self._size >= PIECE:
            self.hand_over()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._arm)

    def _arm(self) -> None:
        now = self._loop.now()
        self._loop.call_at(max(now + FIRST, self._handed_over + PERIOD), self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        self._handed_over = self._loop.now()
        self.hand_over()

    def hand_over(self) -> None:
        """Give all that has been written so far to the mailbox."""
        with self._lock:
            pieces = []
            while self._pending:
                pieces.append(self._pending.popleft())
            self._size = 0
            for stream, piece in _joined(pieces):
                if isinstance(piece, bytes):
                    self._send_whole(stream, piece)
                else:
                    self._send_text(stream, piece)

    def _send_text(self, stream: Stream, text: str) -> None:
        # A character has at least one byte: what lies beyond the allowance is not even encoded.
        left = max(self._left, 0)
        self._dropped += _encoded_length(text, left)
        data = text[:left].encode("utf-8", ERRORS)
        if len(data) > left:
            whole = data[:left].decode("utf-8", "ignore").encode()
            self._dropped += len(data) - len(whole)
            data, self._left = whole, 0
        if len(text) > left:
            self._left = 0
        self._left -= len(data)
        if data:
            self._post(stream, data)

    def _send_whole(self, stream: Stream, data: bytes) -> None:
        if len(data) > self._left:
            self._dropped += len(data)
        else:
            self._left -= len(data)
            self._post(stream, data)

    def _post(self, stream: Stream, data: bytes) -> None:
        entry = self._entry
        if entry is not None:
            record = OutputRecord(entry.seq, entry.attempt, self.engine_id, stream, data)
            self._mailbox.post(Letter(entry.session, record))
        elif stream in (Stream.STDOUT, Stream.STDERR):
            _write_all(stream, data)

    @staticmethod
    def _log(stream: Stream, text: str) -> None:
        _write_all(stream, text.encode("utf-8", ERRORS))


class TextStream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of an engine."""

    def __init__(self, output: Output, stream: Stream) -> None:
        self._output = output
        self._stream = stream
        self.name = f"<{stream.name.lower()}>"
        self.mode = "w"
        self.buffer = _ByteStream(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here: bytes never leave in another one
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as above
        return ERRORS

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._output.write(self._stream, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]  # the stub wants a read buffer too
        self.write("".join(lines))

    def fileno(self) -> int:
        """The descriptor of the engine's log: what subprocesses inherit."""
        return int(self._stream)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing to do: the loop's thread sends what is here, ten times a second."""

    def close(self) -> None:
        """Stays open: the next task prints too."""

    def reconfigure(self, **options: Any) -> None:
        """Accepted for programs that set an encoding; text stays UTF-8."""


class _ByteStream(io.BufferedIOBase):
    """``sys.stdout.buffer``: bytes are taken for UTF-8 text, as the notebook would show them."""

    def __init__(self, text: TextStream) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._text.write(str(view, "utf-8", "replace"))
        return view.nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def flush(self) -> None:
        """As for the text stream."""

    def close(self) -> None:
        """As for the text stream."""


def amount(count: int) -> str:
    """A number of bytes for people: "996 MB"."""
    for size, unit in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")):
        if count >= size:
            number = count / size
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{count} bytes"


def _joined(pieces: Iterable[tuple[Stream, str | bytes]]) -> Iterable[tuple[Stream, str | bytes]]:
    """Neighbouring texts of one stream as one."""
    gathered: list[str] = []
    current = Stream.STDOUT
    for stream, piece in pieces:
        if gathered and (stream != current or isinstance(piece, bytes)):
            yield current, "".join(gathered)
            gathered = []
        if isinstance(piece, bytes):
            yield stream, piece
        else:
            current = stream
            gathered.append(piece)
    if gathered:
        yield current, "".join(gathered)


def _encoded_length(text: str, start: int = 0) -> int:
    """Bytes of ``text[start:]`` in UTF-8, found without encoding all of it at once."""
    if text.isascii():
        return max(len(text) - start, 0)
    return sum(len(text[i : i + PIECE].encode("utf-8", ERRORS)) for i in range(start, len(text), PIECE))


def _write_all(stream: Stream, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(int(stream), view) :]
    except OSError:  # the log's disk is full: user code must not fail for it
        return
