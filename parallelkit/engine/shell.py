"""The IPython shell of an engine: where source text runs, and how what it shows becomes output records.

A real ``InteractiveShell`` (magics, top-level await, execution counts, display hooks), without what belongs to a
terminal or to a person: no history database, no thread, nobody to ask. It can be built before a fork.

Exceptions of a cell are not printed here; they travel in the result. Other tracebacks (a failing ``%run``, an
event callback) are printed as usual.
"""

# IPython is typed in part:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import base64
import builtins
import getpass
import json
import linecache
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from parallelkit.wire.messages import Stream

#: Cells whose source text is kept for tracebacks and for ``In``; a long session must not fill the memory.
KEPT_CELLS = 500

#: Takes rich output as it travels: a stream and a JSON object.
Publish = Callable[[Stream, bytes], None]


class EngineDisplayHook(DisplayHook):
    """Publishes the value of a cell's last expression and keeps it for the reply."""

    shell: EngineShell

    def start_displayhook(self) -> None:
        self._is_active = True

    def write_output_prompt(self) -> None:
        """The front end draws prompts."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.result = format_dict
        self.shell.show(Stream.RESULT, format_dict, md_dict)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """No log: it would keep every result for ever."""

    def finish_displayhook(self) -> None:
        self._is_active = False


class EngineDisplayPublisher(DisplayPublisher):
    """Turns ``display(…)`` and ``clear_output()`` into output records."""

    shell: EngineShell

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: object = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **ignored: object,
    ) -> None:
        self._validate_data(data, metadata)
        transient = dict(transient or {})
        if update:
            transient["update"] = True  # replaces the output with the same display_id
        self.shell.show(Stream.DISPLAY, data, metadata, transient)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.show(Stream.CLEAR, {"wait": wait})


class EngineCompiler(CachingCompiler):
    """Gives cells the name that their sender knows them by, and keeps the lines of the latest for tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.filename = ""
        self._names: OrderedDict[str, None] = OrderedDict()

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return self.filename or str(super().get_code_name(raw_code, transformed_code, number))

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        name = str(super().cache(transformed_code, number, raw_code))
        self._names[name] = None
        self._names.move_to_end(name)
        if len(self._names) > KEPT_CELLS:
            oldest, _ = self._names.popitem(last=False)
            linecache.cache.pop(oldest, None)
            self._filename_map.pop(oldest, None)
        return name


class EngineShell(InteractiveShell):
    """Implements :class:`parallelkit.engine.operations.Interpreter`. Make it with :func:`build`."""

    compile: EngineCompiler
    history_manager: HistoryManager

    def __init__(self, **options: Any) -> None:
        self.engine_id = -1
        self.result: dict[str, Any] | None = None
        self.publish: Publish = _nowhere
        self._depth = 0
        self._tracebacks: list[tuple[BaseException, str]] = []
        super().__init__(**options)

    # ------------------------------------------------------------------------------------------- what engines use

    def execute(self, code: str, filename: str = "", silent: bool = False, cell: str = "") -> dict[str, Any]:
        """Run source text as a cell; ``filename`` names it in tracebacks, ``cell`` is its id in the notebook.

        Returns {"execution_count": number of the cell, "result": MIME bundle of its last expression or None}.
        Raises what the code raised.
        """
        self.result = None
        self._tracebacks.clear()
        self.compile.filename = filename
        count = self.execution_count
        try:
            outcome = self.run_cell(code, store_history=not silent, silent=silent, cell_id=cell or None)
        finally:
            self._forget(count - KEPT_CELLS)
        error = outcome.error_before_exec or outcome.error_in_exec
        for shown, text in self._tracebacks:
            if shown is not error:
                print(text, file=sys.stderr)  # noqa: T201 - printing is what a traceback is for
        if error is not None:
            raise error.with_traceback(_user_part(error.__traceback__))
        return {"execution_count": count, "result": _plain(self.result)}

    def after_call(self) -> None:
        """Show the figures that a function left open, as happens at the end of a cell."""
        inline = sys.modules.get("matplotlib_inline.backend_inline")
        if inline is not None:
            inline.flush_figures()

    def show(
        self,
        stream: Stream,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        transient: dict[str, Any] | None = None,
    ) -> None:
        """Publish rich output; bytes become base64, what JSON lacks becomes its ``repr``."""
        bundle = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        self.publish(stream, json.dumps(bundle, default=_jsonable).encode())

    def assume(self, engine_id: int) -> None:
        """Let code on this engine know who it is."""
        self.engine_id = engine_id
        self.user_ns["engine_id"] = self.user_ns_hidden["engine_id"] = engine_id

    # ------------------------------------------------------------------------------------- what IPython calls

    def init_user_ns(self) -> None:
        super().init_user_ns()
        self.assume(self.engine_id)

    def run_cell(self, *args: Any, **options: Any) -> Any:
        self._depth += 1
        try:
            return super().run_cell(*args, **options)
        finally:
            self._depth -= 1

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield  # IPython would keep a copy of all that cells print

    def showtraceback(
        self,
        exc_tuple: tuple[type[BaseException], BaseException, Any] | None = None,
        filename: str | None = None,
        tb_offset: int | None = None,
        exception_only: bool = False,
        running_compiled_code: bool = False,
    ) -> None:
        # The cell's own exception is raised by execute(): formatting it here would only cost milliseconds.
        if not (running_compiled_code and self._depth == 1):
            super().showtraceback(exc_tuple, filename, tb_offset, exception_only, running_compiled_code)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        text = self.InteractiveTB.stb2text(stb)
        if self._depth == 1:
            self._tracebacks.append((evalue, text))  # perhaps the cell's own (a syntax error): execute() knows
        else:
            print(text, file=sys.stderr)  # noqa: T201 - printing is what a traceback is for

    def _format_exception_for_storage(
        self, exception: BaseException, filename: str | None = None, running_compiled_code: bool = False
    ) -> dict[str, Any]:
        return {}  # IPython would format every exception a second time, and keep it

    def ask_exit(self) -> NoReturn:
        raise RuntimeError("exit does not end an engine: use shutdown() of the client, or stop the cluster")

    def enable_gui(self, gui: str | None = None) -> None:
        if gui is not None:
            raise RuntimeError(f"an engine has no screen for the {gui} event loop: use %matplotlib inline")

    def _forget(self, count: int) -> None:
        """Let go of the input of a cell of long ago (its result goes with IPython's own limit on ``Out``)."""
        history = self.history_manager
        history.db_input_cache.clear()
        if count > 0:
            for inputs in (history.input_hist_parsed, history.input_hist_raw):
                if count < len(inputs):
                    inputs[count] = ""
            self.user_ns.pop(f"_i{count}", None)


def build() -> EngineShell:
    """The one shell of this process. Starts no thread and opens no file, so it can be made before a fork."""
    config = Config()
    config.HistoryManager.enabled = False
    # IPython advises to leave by "exit" when a cell raises SystemExit, which is an outcome like any other here.
    warnings.filterwarnings("ignore", message="To exit: use 'exit'")
    # As in a notebook's kernel: takes effect when matplotlib.pyplot is imported, if it ever is.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return EngineShell.instance(
        config=config,
        compiler_class=EngineCompiler,
        displayhook_class=EngineDisplayHook,
        display_pub_class=EngineDisplayPublisher,
    )


def forbid_input() -> None:
    """Make ``input()`` and ``getpass()`` say why they cannot work instead of waiting for nobody."""
    builtins.input = getpass.getpass = _refuse_input


def _refuse_input(*args: object, **options: object) -> NoReturn:
    raise RuntimeError("an engine has nobody to ask: ask in the notebook and send the answer as an argument")


def _nowhere(stream: Stream, data: bytes) -> None:
    """Where rich output goes before an engine has connected its shell."""


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return repr(value)


def _plain(bundle: dict[str, Any] | None) -> dict[str, Any] | None:
    """The bundle with nothing in it that JSON lacks, so that its receiver needs no library of the sender's."""
    return None if bundle is None else json.loads(json.dumps(bundle, default=_jsonable))


def _user_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of IPython that led to the cell."""
    inner = traceback
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").split(".")[0] == "IPython":
        inner = inner.tb_next
    return inner
