"""From the start of a cell on the engines to its end: output, progress, Ctrl-C.

Threads: output and the end of a result are put into an inbox by the client's threads; one thread takes them out and
shows them, the cell's own while it blocks, else one for each result that is followed in the background.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from parallelkit.client import threads
from parallelkit.client.output import Output
from parallelkit.client.results import AsyncResult
from parallelkit.jupyter.cell import Cell
from parallelkit.jupyter.display import PERIOD, Screen, show_grouped
from parallelkit.jupyter.failures import Source, outcomes, shown
from parallelkit.jupyter.options import Options

#: What the inbox holds besides output.
_DONE = Output(-1, "done", None)
_INTERRUPT = Output(-1, "interrupt", None)
#: What a cell says that did not wait for its engines.
_LEFT = "the engines go on with the cell; %pxresult waits for them"


class Follower:
    """Shows one result under one cell.

    ``interrupt`` is called on Ctrl-C, once; ``silence`` says what there is to say of a hub that is not heard.
    """

    def __init__(
        self,
        result: AsyncResult,
        cell: Cell,
        options: Options,
        source: Source,
        interrupt: Callable[[], Any],
        silence: Callable[[], str],
    ) -> None:
        self.result = result
        self.source = source
        #: Set when all of it has been shown.
        self.finished = threading.Event()
        #: All that has been printed and shown, in the order in which it came.
        self.pieces: list[Output] = []
        self.interrupted = False
        self._interrupt = interrupt
        self._silence = silence
        self._options = options
        self._screen = Screen(cell)
        self._inbox: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self._began = time.monotonic()
        result.add_output_callback(self._inbox.put)
        # Through the same thread as the output, so that it is behind all of that.
        result.add_done_callback(lambda _: threads.callbacks.run(lambda: self._inbox.put(_DONE)))

    def run(self) -> None:
        """Show what comes until the result is complete. Left by Ctrl-C it goes on in the background."""
        try:
            while self._step():
                self._screen.refresh(self._note())
            self._finish()
        except KeyboardInterrupt:
            self.run_in_background()
            raise

    def _step(self) -> bool:
        """Take one piece from the inbox; False when it was the last."""
        try:
            piece = self._inbox.get(timeout=PERIOD)
        except queue.Empty:
            return True
        if piece is _INTERRUPT:
            self.interrupted = True
            self._interrupt()
        elif piece is not _DONE:
            self._take(piece)
        return piece is not _DONE

    def run_in_background(self) -> None:
        """:meth:`run` on a thread of its own."""
        threading.Thread(target=self.run, name="parallelkit-px", daemon=True).start()

    @contextlib.contextmanager
    def catching_interrupts(self) -> Iterator[None]:
        """Inside, the first Ctrl-C goes to the engines; the second, or one that engines shall not see, leaves.

        Only for the main thread, which is the one that signals reach; on another it does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_sigint(number: int, frame: FrameType | None) -> None:
            if self.interrupted or not self._options.signal_on_interrupt:
                raise shown(KeyboardInterrupt(_LEFT), [f"KeyboardInterrupt: {_LEFT}"])
            self._inbox.put(_INTERRUPT)  # it may come at any place: only a SimpleQueue can be used in here

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, piece: Output) -> None:
        self.pieces.append(piece)
        if self._options.stream and piece.kind != "result":
            self._screen.take(piece)

    def _finish(self) -> None:
        """Results come last and in the order of the engines; so does everything that was not streamed."""
        self._screen.counts = {
            engine: reply.execution_count
            for engine, reply in outcomes(self.result)
            if engine is not None and not isinstance(reply, BaseException)
        }
        if self._options.stream:
            self._screen.close()
            show_grouped([piece for piece in self.pieces if piece.kind == "result"], self._screen, "engine")
        else:
            show_grouped(self.pieces, self._screen, self._options.group_outputs)
        self.finished.set()

    def show_again(self, cell: Cell, groupby: str) -> None:
        """Show all of it under another cell, in groups."""
        screen = Screen(cell)
        screen.counts = self._screen.counts
        show_grouped(self.pieces, screen, groupby)

    def _note(self) -> str:
        """The row that says how far it is; empty as long as nobody needs to know."""
        seconds = time.monotonic() - self._began
        after = self._options.progress_after
        result = self.result
        note = f"{result.progress} of {len(result)} engines done, {seconds:.0f} s"
        if self.interrupted:
            note += "; interrupting, once more leaves them alone"
        elif after < 0 or seconds < after:
            return ""
        silence = self._silence()
        return f"{note}; {silence}" if silence else note
