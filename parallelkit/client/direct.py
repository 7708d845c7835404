"""``DirectView``: these engines, each of them, in their own namespaces, first in, first out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from parallelkit.client.imports import SyncImports
from parallelkit.client.link import Call
from parallelkit.client.mapping import AsyncMapResult, freeze
from parallelkit.client.partition import join, split
from parallelkit.client.pieces import Work, piece
from parallelkit.client.reply import execute_reply
from parallelkit.client.results import AsyncResult
from parallelkit.client.targets import Targets, is_single, resolve
from parallelkit.client.view import Flags, View, function_of, mapped, name_of, wait_for
from parallelkit.errors import NoSuchEngine
from parallelkit.wire.messages import Operation, TaskOptions
from parallelkit.wire.payload import dump


class DirectView(View):
    """Sends each task to every one of its engines. Results come as a list in the order of the targets, or singly
    where the view is of one engine (``rc[0]``).

    ``targets='all'`` means those that are there at each call; ``rc[:]`` those that were there when it was made.
    Other names of an engine's namespace can be arguments: ``Reference("name")``.
    """

    __slots__ = ()

    def _send(self, call: Call, name: str) -> AsyncResult:
        return self._start(call, name)

    def _start(
        self, call: Call, name: str, targets: Targets = None, label: str | None = None, **how: Any
    ) -> AsyncResult:
        """One call for all targets: its payload leaves this process once."""
        ids, single = self._resolved(targets)
        flags = self.flags
        options = self._direct(ids, label)
        if flags.after is not None or flags.follow is not None:
            how = {"count": len(ids), "single": single, "label": options.label, **how}
            return self._send_needing(lambda: call, name, flags, options, **how)
        result = AsyncResult(self._session, name, len(ids), single=single, label=options.label, **how)
        result.send((call,), options)
        return result

    def _shape(self, flags: Flags) -> tuple[TaskOptions, dict[str, Any]]:
        ids, single = self._resolved(None)
        options = self._direct(ids)
        return options, {"count": len(ids), "single": single, "label": options.label}

    def _resolved(self, targets: Targets) -> tuple[tuple[int, ...], bool]:
        wanted = self.flags.targets if targets is None else targets
        ids = resolve(wanted, self.client.ids)
        if not ids:
            raise NoSuchEngine(f"{self!r} means no engine")
        return ids, is_single(wanted)

    def _direct(self, ids: tuple[int, ...], label: str | None = None) -> TaskOptions:
        flags = self.flags
        if flags.follow is not None:
            raise ValueError("follow= is for load-balanced views; this one names its engines itself: use after=")
        return self._task_options(flags, ids, True, label)

    def _places(self) -> list[TaskOptions]:
        return [self._direct((id,)) for id in self._resolved(None)[0]]

    def _blocking(self, block: bool | None) -> bool:
        return self.flags.block if block is None else block

    def _answer(self, result: AsyncResult, block: bool | None) -> Any:
        __tracebackhide__ = True
        return wait_for(result) if self._blocking(block) else result

    def __len__(self) -> int:
        ids = self.client.ids
        return len(resolve(self.flags.targets, ids)) if ids else 0

    # ----------------------------------------------------------------------------------------------------- code

    def execute(
        self,
        code: str,
        silent: bool = True,
        targets: Targets = None,
        block: bool | None = None,
        label: str | None = None,
        *,
        filename: str = "",
        cell: str = "",
    ) -> AsyncResult:
        """Run source text as a cell; the value for each engine is an :class:`ExecuteReply`.

        ``silent=False`` counts it as an input and shows the last expression. With ``block`` it waits, and raises
        what the code raised. ``filename`` is what tracebacks name, ``cell`` an id that output is shown under.
        """
        __tracebackhide__ = True
        payload = dump({"code": code, "filename": filename, "silent": silent, "cell": cell})
        result = self._start(Call(Operation.EXECUTE, payload), "execute", targets, label, convert=execute_reply)
        self._answer(result, block)
        return result

    def run(self, filename: str | Path, targets: Targets = None, block: bool | None = None) -> AsyncResult:
        """Run a file of this machine on the engines, as :meth:`execute` does."""
        path = Path(filename)
        return self.execute(path.read_text(), targets=targets, block=block, filename=str(path.resolve()))

    def use_cloudpickle(self) -> None:
        """Nothing to do: functions and values always travel by cloudpickle, which takes all that pickle takes."""

    def sync_imports(self, quiet: bool = False) -> SyncImports:
        """``with view.sync_imports():`` the import statements of the block run here and on the engines, with their
        ``as`` names; unless ``quiet`` it says which. Imports inside other statements of the block run here alone.

        Raises:
            RuntimeError: the source text of the block cannot be read, as in an interpreter without IPython.
        """
        return SyncImports(self, sys._getframe(1), quiet)

    @property
    def importer(self) -> SyncImports:
        """``with view.importer:`` is as :meth:`sync_imports`."""
        return SyncImports(self, sys._getframe(1), quiet=False)

    # ----------------------------------------------------------------------------------------------- namespaces

    def push(
        self,
        ns: Mapping[str, Any],
        targets: Targets = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """Put values into the engines' namespaces, under these names; ``a.b`` and ``a["k"]`` are set inside ``a``.

        Raises:
            TypeError: a name is not a text.
            ValueError: a name is nothing that could be assigned to.
        """
        __tracebackhide__ = True
        names = [_checked_name(name) for name in ns]
        payload = dump(dict(ns))
        return self._answer(self._start(Call(Operation.PUSH, payload), _titled("push", names), targets, label), block)

    def pull(
        self, names: str | Sequence[str], targets: Targets = None, block: bool | None = None, label: str | None = None
    ) -> Any:
        """The value of a name or expression in each engine's namespace; for a list of them lists of values."""
        __tracebackhide__ = True
        wanted = [names] if isinstance(names, str) else list(names)
        if not all(isinstance(name, str) for name in wanted):
            raise TypeError(f"pull({names!r}): a name, or a list of names")
        convert = _first if isinstance(names, str) else None
        call = Call(Operation.PULL, dump(wanted))
        return self._answer(self._start(call, _titled("pull", wanted), targets, label, convert=convert), block)

    def update(self, ns: Mapping[str, Any]) -> Any:
        """As :meth:`push`."""
        return self.push(ns)

    def get(self, key: str) -> Any:
        """The value of a name or expression; waits."""
        __tracebackhide__ = True
        return self.pull(key, block=True)

    def __getitem__(self, key: str) -> Any:
        __tracebackhide__ = True
        if not isinstance(key, str):
            raise TypeError(f"view[{key!r}]: a view is indexed by names in its engines' namespaces")
        return self.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        """``view["x"] = value`` puts it on all engines, and waits so that nothing fails unseen."""
        self.push({key: value}, block=True)

    #: Else Python would iterate by indexing with 0, 1, 2, …
    __iter__ = None

    def clear(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Empty the engines' namespaces."""
        result = self.execute("get_ipython().run_line_magic('reset', '-f -s')", targets=targets, block=False)
        return self._answer(result, block)

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: str = "b",
        flatten: bool = False,
        targets: Targets = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """Put a part of ``seq`` under ``key`` on each engine: a block ('b'), or every n-th item ('r').

        With ``flatten`` a part of one item is that item. Arrays are cut without being copied.
        """
        name = _checked_name(key)
        ids, single = self._resolved(targets)
        parts = split(seq, len(ids), dist)
        result = AsyncResult(self._session, _titled("scatter", [name]), len(ids), single=single, label=label or "")
        calls = [Call(Operation.PUSH, dump({name: _flat(part) if flatten else part})) for part in parts]
        needs = self._map_needs(self.flags)
        for id, call in zip(ids, calls, strict=True):
            call.needs = needs
            result.send((call,), self._direct((id,), label))
        return self._answer(result, block)

    def gather(
        self,
        key: str,
        dist: str = "b",
        targets: Targets = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """The parts that :meth:`scatter` made, as one sequence again; arrays become one array."""
        call = Call(Operation.PULL, dump([key]))
        how = {"convert": _first, "join": partial(join, dist=dist)}
        return self._answer(self._start(call, _titled("gather", [key]), targets, label, **how), block)

    # ----------------------------------------------------------------------------------------------------- maps

    def map_async(
        self,
        f: Any,
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        track: bool = False,
    ) -> AsyncMapResult:
        """``f`` of each item: the items are cut into one block for each engine, in order."""
        ids, _ = self._resolved(None)
        items, star = freeze(mapped(f, sequences))
        work = Work(function_of(f), star, self._map_needs(self.flags))
        parts = [part for part in split(items, len(ids)) if len(part)]
        calls = [piece(work, part) for part in parts]
        result = AsyncMapResult(
            self._session,
            name_of(f),
            len(items),
            ordered=ordered,
            return_exceptions=return_exceptions,
            label=self.flags.label if label is None else label,
        )
        try:
            for id, part, call in zip(ids, parts, calls, strict=False):
                result.send_pieces((call,), self._direct((id,), label), len(part))
            result.close()
        except BaseException:
            result.cancel()
            raise
        return result

    def imap(self, f: Any, /, *sequences: Iterable[Any], **how: Any) -> Iterator[Any]:
        """An iterator over the results of :meth:`map_async` as they arrive. The sequences must end."""
        return iter(self.map_async(f, *sequences, **how))

    def imap_unordered(self, f: Any, /, *sequences: Iterable[Any], **how: Any) -> Iterator[Any]:
        """:meth:`imap` in the order of arrival."""
        return self.imap(f, *sequences, ordered=False, **how)

    # --------------------------------------------------------------------------------------------------- engines

    def queue_status(self, verbose: bool = False) -> dict[Any, Any]:
        """As :meth:`Client.queue_status`, of these engines."""
        return self.client.queue_status(self.flags.targets, verbose)

    def interrupt(self) -> list[int]:
        """As :meth:`Client.interrupt`, of these engines."""
        return self.client.interrupt(self.flags.targets)

    def shutdown(self, restart: bool = False) -> list[int]:
        """As :meth:`Client.shutdown`, of these engines."""
        return self.client.shutdown(self.flags.targets, restart)


def _first(result: AsyncResult, index: int, values: list[Any]) -> Any:
    return values[0]


def _flat(part: Any) -> Any:
    return part[0] if len(part) == 1 else part


def _titled(what: str, names: Sequence[str]) -> str:
    return f"{what} {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} cannot be a name in a namespace: it is not a text")
    if not name.isidentifier() and not _is_target(name):
        raise ValueError(f"{name!r} cannot be assigned to: use a name, or what may stand left of '=', such as a.b")
    return name


def _is_target(text: str) -> bool:
    try:
        body = ast.parse(f"{text} = 0").body
    except (SyntaxError, ValueError):
        return False
    statement = body[0]
    return (
        len(body) == 1
        and isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Attribute | ast.Subscript)
    )
