"""The main thread's loop: take an attempt, run it, post how it ended. User code runs here and nowhere else.

Every attempt ends in exactly one :class:`ResultRecord`, whatever fails: loading the arguments, the function, dumping
the result, even describing the exception. ``SystemExit`` and ``KeyboardInterrupt`` are outcomes like any other.

Interrupts: the loop's thread sends SIGINT to this thread, whose handler raises KeyboardInterrupt only when the
attempt that is meant is the one that runs. ``attempt`` is set from before the arguments are loaded to after the
result is dumped, which is user code too, and 0 between two: a signal that comes late hits neither this loop nor the
next task. A SIGINT from outside (the node's, on behalf of Ctrl-C in a notebook) means whatever runs.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from parallelkit.core.runqueue import Entry, RunQueue
from parallelkit.engine.deadline import Deadline
from parallelkit.engine.mailbox import Letter, Mailbox
from parallelkit.engine.operations import Operations, Work
from parallelkit.engine.output import Output
from parallelkit.errors import RemoteError
from parallelkit.transport.base import DrivenLoop
from parallelkit.wire.frames import pack
from parallelkit.wire.messages import Outcome, ResultRecord
from parallelkit.wire.payload import Payload

log = logging.getLogger(__name__)


#: Seconds of short tasks after which results leave; a longer task's leave at once.
SERVE_EVERY = 0.0005
#: Seconds that this thread serves the loop before it looks around, when nothing comes.
IDLE = 60.0
#: Pause of this thread when the loop has ended and the process is about to.
LOOP_ENDED = 0.05


class Executor:
    """Runs attempts one after another on the thread that made it, or that calls :meth:`run`.

    :meth:`wake`, :meth:`interrupt` and :meth:`forget` belong to the loop's thread.
    """

    def __init__(
        self, loop: DrivenLoop, tasks: RunQueue, mailbox: Mailbox, output: Output, operations: Operations
    ) -> None:
        #: The attempt whose code runs now; 0 between two.
        self.attempt = 0
        self._tasks = tasks
        self._mailbox = mailbox
        self._output = output
        self._operations = operations
        self._deadline = Deadline(loop, lambda attempt: self.interrupt(attempt, Outcome.TIMEOUT))
        self._thread = threading.get_ident()
        self._loop = loop
        self._served = 0.0  # when this thread last served the loop
        self._left = False
        #: What an interrupt of ours makes of an attempt that is still running, or about to.
        self._verdicts: dict[int, Outcome] = {}
        self._signals_sent = 0
        self._signals_seen = 0

    @property
    def engine_id(self) -> int:
        """The id that the hub gave this engine; -1 before it did."""
        return self._operations.engine_id

    @engine_id.setter
    def engine_id(self, engine_id: int) -> None:
        self._operations.engine_id = self._output.engine_id = engine_id

    def run(self) -> NoReturn:
        """Serve for ever; this thread becomes the one that is interrupted."""
        self._thread = threading.get_ident()
        signal.signal(signal.SIGINT, self.on_sigint)
        while not self._left:
            try:
                self.run_one(self._next())
            except BaseException:
                log.exception("the executor was disturbed and goes on")
        os._exit(0)

    def leave(self) -> None:
        """For a forked process that comes back here out of user code: end it instead of being a second engine."""
        self._left = True

    def wake(self) -> None:
        """There may be something to run. This thread sees it for itself: it serves the loop when it has nothing."""

    def interrupt(self, attempt: int, verdict: Outcome) -> None:
        """End a running attempt with KeyboardInterrupt, now or as it starts; it then counts as ``verdict``."""
        # Said before it is looked whether it runs; the other side does these two in the opposite order.
        self._verdicts[attempt] = verdict
        if self.attempt == attempt:
            self._signals_sent += 1
            signal.pthread_kill(self._thread, signal.SIGINT)

    def forget(self, attempt: int) -> None:
        """The attempt's result has been collected."""
        self._verdicts.pop(attempt, None)

    def on_sigint(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT, on the main thread."""
        ours = self._signals_sent != self._signals_seen
        self._signals_seen = self._signals_sent
        if self.attempt and (not ours or self.attempt in self._verdicts):
            raise KeyboardInterrupt

    def run_one(self, entry: Entry) -> None:
        """Run one attempt and post its result."""
        work = entry.work
        assert isinstance(work, Work)  # for the type checker: to core it is any object
        record = work.record
        if record.timeout is not None:
            self._deadline.start(record.attempt, record.timeout)
        started, clock = time.time(), time.perf_counter()
        self._output.begin(entry)
        outcome, payload = self._settle(work)
        self._output.end()
        seconds = time.perf_counter() - clock
        if record.timeout is not None:
            self._deadline.stop()
        data, frames = pack(payload.data, payload.buffers)
        result = ResultRecord(
            record.seq, record.attempt, outcome, data, len(frames), self.engine_id, record.run, started, seconds
        )
        self._mailbox.post(Letter(entry.session, result, frames))

    def _next(self) -> Entry:
        """The next attempt. Between two this thread serves the loop itself: results leave, and work comes in."""
        while True:
            now = time.perf_counter()
            if now - self._served > SERVE_EVERY:
                self._served = now
                self._loop.serve()
            entry = self._tasks.next()
            if entry is not None:
                return entry
            if not self._loop.drive(lambda: self._tasks.has_ready, IDLE):
                time.sleep(LOOP_ENDED)
            self._served = time.perf_counter()

    def _settle(self, work: Work) -> tuple[Outcome, Payload]:
        """Run it; total. The inner ``finally`` may be struck by an interrupt itself, hence the outer clause."""
        attempt = work.record.attempt
        try:
            try:
                self.attempt = attempt
                if attempt in self._verdicts:
                    raise KeyboardInterrupt
                return Outcome.OK, self._operations.perform(work)
            finally:
                self.attempt = 0
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
            self.attempt = 0
            return self._failed(work, error)

    def _failed(self, work: Work, error: BaseException) -> tuple[Outcome, Payload]:
        attempt = work.record.attempt
        if attempt not in self._verdicts:
            try:
                try:
                    self.attempt = attempt  # describing an exception runs its __str__ and __reduce__
                    return Outcome.ERROR, self._operations.describe(work, error)
                finally:
                    self.attempt = 0
            except BaseException:  # noqa: BLE001 - interrupted, or an exception beyond description
                self.attempt = 0
        verdict = self._verdicts.get(attempt)
        if verdict is None:
            plain = RemoteError(type(error).__name__, "the engine could not describe this exception any further")
            return Outcome.ERROR, self._operations.describe(work, plain)
        return verdict, Payload(self._sentence(work, verdict, error).encode("utf-8", "backslashreplace"), [])

    def _sentence(self, work: Work, verdict: Outcome, error: BaseException) -> str:
        sentence = f"interrupted on engine {self.engine_id}"
        if verdict is Outcome.TIMEOUT:
            sentence = f"ran longer than its timeout of {work.record.timeout:g} s on engine {self.engine_id}"
        if not isinstance(error, KeyboardInterrupt):
            sentence += f"; it ended with {type(error).__name__}"  # its text is user code and not worth the risk
        return sentence
