"""The place under a cell: what is written there lands there, from any thread, also after the cell has ended.

In a kernel each message names the request that it belongs to; the kernel's own streams take the request that runs
when they are written to. Here the request is remembered when the cell starts and named in every message since.
Outside a kernel, and while output is captured (``%%capture``), it goes to the streams there were at the start.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any, TextIO

Mimebundle = dict[str, Any]


class Cell:
    """Where the cell that runs now shows its output; without a shell the streams of this process."""

    def __init__(self, shell: Any) -> None:
        self._publisher: Any = getattr(shell, "display_pub", None)
        self._streams: dict[str, TextIO] = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._parent = getattr(self._publisher, "parent_header", None)
        for stream in self._streams.values():
            stream.flush()  # what the cell itself has printed so far comes first

    @property
    def is_rich(self) -> bool:
        """Whether a display can be changed after it has been shown."""
        return _sends_messages(self._publisher)

    @property
    def is_terminal(self) -> bool:
        """Whether it is a terminal, where a line can be overwritten."""
        return not self.is_rich and self._streams["stderr"].isatty()

    def write(self, kind: str, text: str) -> None:
        """Text for ``stdout`` or ``stderr``."""
        stream = self._streams[kind]
        if _is_kernel_stream(stream) and self.is_rich:
            self._send("stream", {"name": kind, "text": text})
        else:
            stream.write(text)
            stream.flush()

    def show(
        self,
        data: Mimebundle,
        metadata: Mimebundle | None = None,
        display_id: str | None = None,
        *,
        update: bool = False,
    ) -> None:
        """Rich output; with ``update`` in the place of what was shown under the same id."""
        transient = {"display_id": display_id} if display_id else {}
        if self.is_rich:
            kind = "update_display_data" if update else "display_data"
            self._send(kind, {"data": data, "metadata": metadata or {}, "transient": transient})
        elif self._publisher is None:
            self.write("stdout", f"{data.get('text/plain', '')}\n")
        else:
            self._publisher.publish(data, metadata or {}, transient=transient, update=update)

    def _send(self, kind: str, content: Mimebundle) -> None:
        publisher = self._publisher
        publisher.session.send(publisher.pub_socket, kind, content, parent=self._parent, ident=publisher.topic)


def new_display_id() -> str:
    return uuid.uuid4().hex


def _sends_messages(publisher: Any) -> bool:
    return getattr(publisher, "pub_socket", None) is not None


def _is_kernel_stream(stream: Any) -> bool:
    return hasattr(stream, "pub_thread")
