"""What tasks printed and displayed, kept as it came and decoded for whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from parallelkit.wire.messages import OutputRecord, Stream

_KINDS = {
    Stream.STDOUT: "stdout",
    Stream.STDERR: "stderr",
    Stream.DISPLAY: "display",
    Stream.RESULT: "result",
    Stream.CLEAR: "clear",
}


class Output(NamedTuple):
    """One piece of output. ``kind`` is stdout, stderr, display, result or clear.

    ``content`` is text for the first two, else a dict with ``data`` (a mimebundle), ``metadata`` and ``transient``.
    """

    engine_id: int
    kind: str
    content: Any


def decode(record: OutputRecord) -> Output:
    """The piece of output as users see it. Total: what cannot be decoded is shown as text."""
    kind = _KINDS[record.stream]
    text = bytes(record.data).decode(errors="replace")
    if record.stream in (Stream.STDOUT, Stream.STDERR):
        return Output(record.engine, kind, text)
    try:
        content = json.loads(text)
    except ValueError:
        content = {"data": {"text/plain": text}, "metadata": {}}
    return Output(record.engine, kind, content)


def text_of(records: Iterable[OutputRecord], stream: Stream) -> str:
    """All text of one stream, in order."""
    return b"".join(record.data for record in records if record.stream is stream).decode(errors="replace")


def displays_of(records: Iterable[OutputRecord]) -> list[dict[str, Any]]:
    """What was displayed and has not been cleared since, in order."""
    shown: list[dict[str, Any]] = []
    for record in records:
        if record.stream is Stream.CLEAR:
            shown.clear()
        elif record.stream is Stream.DISPLAY:
            shown.append(decode(record).content)
    return shown
