"""Those who follow the output of tasks while it comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

from parallelkit.client import display, threads
from parallelkit.client.output import Output, decode
from parallelkit.wire.messages import OutputRecord

#: A callback, with the numbers of the tasks whose output it wants; None: all.
Listener = tuple[Callable[[Output], Any], Container[int] | None]
#: Seconds that the end of a streaming block waits for the thread that shows output; users' callbacks may hold that up.
_PATIENCE = 5.0


class TaskOutput:
    """What an :class:`AsyncResult` does with the output of its tasks. Callbacks run on the thread for callbacks, in
    order."""

    _condition: threading.Condition  # guards the other two
    _output: dict[int, list[OutputRecord]]
    _listeners: list[Listener]

    def output(self, record: OutputRecord) -> None:
        with self._condition:
            self._output.setdefault(record.seq, []).append(record)
            listeners = tuple(self._listeners)
        for callback, seqs in listeners:
            if seqs is None or record.seq in seqs:
                threads.callbacks.run(partial(_deliver, callback, record))

    def add_output_callback(self, callback: Callable[[Output], Any]) -> None:
        """Call back with each piece of output, those that are here already first; on a thread for callbacks."""
        self._listen(callback, None)

    def _listen(self, callback: Callable[[Output], Any], seqs: Container[int] | None) -> None:
        with self._condition:
            for seq, records in self._output.items():
                if seqs is None or seq in seqs:
                    for record in records:
                        threads.callbacks.run(partial(_deliver, callback, record))
            self._listeners.append((callback, seqs))

    def remove_output_callback(self, callback: Callable[[Output], Any]) -> None:
        """Call it no more; what is under way to it still arrives."""
        self._unlisten(callback, None)

    def _unlisten(self, callback: Callable[[Output], Any], seqs: Container[int] | None) -> None:
        with self._condition:
            self._listeners = [listener for listener in self._listeners if listener != (callback, seqs)]

    @contextlib.contextmanager
    def stream_output(self) -> Iterator[None]:
        """``with ar.stream_output():`` shows what the tasks print and display as it comes, each line with its engine
        in front; first what is here already."""
        screen = display.screen()
        self.add_output_callback(screen.take)
        try:
            yield
        finally:
            self.remove_output_callback(screen.take)
            # on the thread that shows it, so that all of it is there before this goes on
            closed = threading.Event()
            threads.callbacks.run(partial(_close, screen, closed))
            closed.wait(_PATIENCE)


def _deliver(callback: Callable[[Output], Any], record: OutputRecord) -> None:
    callback(decode(record))


def _close(screen: display.Screen, closed: threading.Event) -> None:
    try:
        screen.close()
    finally:
        closed.set()
