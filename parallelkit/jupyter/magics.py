"""``%px``, ``%%px``, ``%pxresult``, ``%pxconfig`` and ``%autopx``: cells on the engines."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

from parallelkit.client import display as client_display
from parallelkit.client.client import Client, current
from parallelkit.client.direct import DirectView
from parallelkit.client.output import Output
from parallelkit.client.results import AsyncResult
from parallelkit.client.targets import resolve
from parallelkit.cluster.connect import connect
from parallelkit.errors import ParallelKitError
from parallelkit.jupyter import failures, progress
from parallelkit.jupyter import options as o
from parallelkit.jupyter.cell import Cell
from parallelkit.jupyter.display import LiveScreen, Screen, show_grouped
from parallelkit.jupyter.follow import Follower


class ParallelMagics:
    """One set of magics: for ``view``, or else for all engines of the latest client.

    ``suffix`` is part of their names: with "_even" there is ``%%px_even``.
    """

    def __init__(self, shell: InteractiveShell, view: DirectView | None = None, suffix: str = "") -> None:
        self.shell: Any = shell  # IPython's types for what is used here are wrong or missing
        self.defaults = o.Options()
        self._view = view
        self._suffix = suffix
        #: The client that a magic made because there was none.
        self._client: Client | None = None
        self._last: Follower | None = None
        self._automatic = False

    def register(self) -> None:
        """Make them known to the shell."""
        lines = {"px": self.px, "pxconfig": self.pxconfig, "pxresult": self.pxresult, "autopx": self.autopx}
        for name, method in {**lines, "result": self.pxresult}.items():
            self.shell.register_magic_function(method, "line", name + self._suffix)
        self.shell.register_magic_function(self.cell_px, "cell", "px" + self._suffix)

    # --------------------------------------------------------------------------------------------- the magics

    def px(self, line: str) -> AsyncResult | None:
        """Run a line on the engines: ``%px [flags] code``."""
        options, code = o.parse(o.PX, line, self.defaults)
        return self._run(code, options)

    def cell_px(self, line: str, cell: str) -> AsyncResult | None:
        """Run the cell on the engines: ``%%px [flags]``, the code from the next line on."""
        return self._run(cell, o.parse_all(o.PX, line, self.defaults))

    def pxconfig(self, line: str) -> None:
        """Set flags for all further ``%px`` and ``%%px``; without any, show those in force."""
        self.defaults = o.parse_all(o.PXCONFIG, line, self.defaults)
        if not line.strip():
            Cell(self.shell).write("stdout", o.describe(self.defaults) + "\n")

    def pxresult(self, line: str) -> None:
        """Show the output of the latest ``%px`` or ``%%px`` once more, in groups; waits for it."""
        options = o.parse_all(o.PXRESULT, line, self.defaults)
        if self._last is None:
            raise UsageError("%pxresult: no cell has run on the engines yet")
        follower = self._last
        follower.finished.wait()
        if options.out:
            self.shell.user_ns[options.out] = follower.result
        follower.show_again(Cell(self.shell), options.group_outputs)
        failures.raise_errors(follower.result, follower.source)

    def autopx(self, line: str) -> None:
        """Switch on or off that every cell runs on the engines, as if it began with ``%%px``."""
        self._automatic = not self._automatic
        transformers = self.shell.input_transformers_cleanup
        if self._automatic and self._to_engines not in transformers:
            transformers.append(self._to_engines)
        state = "every cell runs on the engines; %autopx ends it" if self._automatic else "cells run here again"
        Cell(self.shell).write("stdout", f"%autopx{self._suffix}: {state}\n")

    def _to_engines(self, lines: list[str]) -> list[str]:
        first = next((line.strip() for line in lines if line.strip()), "")
        ours = ("%px", "%%px", "%pxconfig", "%pxresult", "%result", "%autopx")
        if not self._automatic or not first or first.split()[0].removesuffix(self._suffix) in ours:
            return lines
        return [f"%%px{self._suffix}\n", *lines]

    # -------------------------------------------------------------------------------------------------- how

    def view(self) -> DirectView:
        """The view that they run on; starts a cluster if there is none to be found.

        Raises:
            LaunchError: it could not be started.
        """
        if self._view is not None:
            return self._view
        client = current()
        if client is None:
            client = self._client = connect()
        return client.direct_view("all")

    def _run(self, code: str, options: o.Options) -> AsyncResult | None:
        cell = Cell(self.shell)
        try:
            follower = self._start(code, options, cell)
        except ParallelKitError as error:  # of ours, so its text says it all
            raise failures.shown(error, [f"{type(error).__name__}: {error}"]) from None
        self._last = follower
        local = self._run_here(code) if options.local else None
        if options.block is False:
            follower.run_in_background()
            return follower.result
        with follower.catching_interrupts():
            follower.run()
        failures.raise_errors(follower.result, follower.source, interrupted=follower.interrupted)
        if local is not None:
            raise failures.shown(local)
        return None

    def _start(self, code: str, options: o.Options, cell: Cell) -> Follower:
        view = self.view()
        client = view.client
        if not client.ids:
            client.wait_for_engines()  # they are on their way, or being replaced
        targets = view.targets
        if options.targets is not None:
            targets = o.targets_of(options.targets, client.ids, self.shell.user_ns)
        ids = resolve(targets, client.ids)
        source = failures.Source(self._file_name(code), code)
        with view.temp_flags(timeout=view.timeout if options.timeout is None else options.timeout):
            result = view.execute(code, silent=False, targets=targets, block=False, filename=source.name)
        if options.out:
            self.shell.user_ns[options.out] = result
        if options.verbose:
            cell.write("stdout", f"%px on engines {failures.listed(ids)}\n")
        number = options.signal_on_interrupt
        return Follower(
            result,
            cell,
            options,
            source,
            interrupt=lambda: _interrupt(client, result, ids, number),
            silence=client.session.silence,
        )

    def _file_name(self, code: str) -> str:
        """What tracebacks call the cell. Its text is part of it: another kernel has cells of the same number."""
        number = len(self.shell.history_manager.input_hist_raw) - 1  # execution_count may be ahead by one already
        return f"<In[{number}] {zlib.crc32(code.encode()):08x}>"

    def _run_here(self, code: str) -> BaseException | None:
        """Run it in the notebook; what it raises is shown at once, and returned."""
        automatic, self._automatic = self._automatic, False
        try:
            outcome = self.shell.run_cell(code)
        finally:
            self._automatic = automatic
        error: BaseException | None = outcome.error_before_exec or outcome.error_in_exec
        return error


def _interrupt(client: Client, result: AsyncResult, ids: Sequence[int], number: int) -> None:
    """Ctrl-C, passed on. SIGINT goes to this cell alone: what runs there for others goes on."""
    if number == signal.SIGINT:
        result.cancel()
        return
    pending = [id for index, id in enumerate(ids) if result.record(index)["status"] == "pending"]
    client.send_signal(number, pending)


def activate(shell: InteractiveShell, view: DirectView, suffix: str = "") -> None:
    """Let ``%px<suffix>`` and its like work on ``view``."""
    ParallelMagics(shell, view, suffix).register()


def load(shell: InteractiveShell) -> None:
    """What ``%load_ext parallelkit`` does."""
    ParallelMagics(shell).register()
    failures.install(shell)
    progress.install(shell)
    client_display.use(_show_outputs, progress.watch, _live_screen)


def _live_screen() -> LiveScreen:
    """What ``AsyncResult.stream_output`` shows output on, under the cell that runs."""
    return LiveScreen(Cell(get_ipython()))


def _show_outputs(result: AsyncResult, groupby: str, result_only: bool) -> None:
    """``AsyncResult.display_outputs``, under the cell that runs."""
    rows = result.metadata if isinstance(result.metadata, list) else [result.metadata]
    pieces = []
    for row in rows:
        engine, shown = row["engine_id"], row["execute_result"]
        if not result_only:
            pieces += [Output(engine, kind, row[kind]) for kind in ("stdout", "stderr") if row[kind]]
            pieces += [Output(engine, "display", content) for content in row["outputs"]]
        if shown:
            pieces.append(Output(engine, "result", shown))
    show_grouped(pieces, Screen(Cell(get_ipython())), groupby)


for _method, _options in (("px", o.PX), ("cell_px", o.PX), ("pxconfig", o.PXCONFIG), ("pxresult", o.PXRESULT)):
    getattr(ParallelMagics, _method).__doc__ += "\n\n" + _options.format_help()
