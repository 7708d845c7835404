"""What all views have in common: flags, and calling functions in three ways.

``f_async`` returns an :class:`AsyncResult`, ``f_sync`` waits for the value, and ``f`` does what the flag ``block``
says. Ctrl-C in a call that waits cancels what that call has sent; in ``AsyncResult.get`` it only ends the waiting.

IPython and pytest leave functions with ``__tracebackhide__`` out of tracebacks: users see their line and the engine's.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from parallelkit.client.dependencies import (
    DeferredResult,
    Dependency,
    as_dependency,
    filled,
    needs_of,
    results_in,
    unnumbered,
)
from parallelkit.client.link import Call
from parallelkit.client.mapping import AsyncMapResult
from parallelkit.client.needs import Needs
from parallelkit.client.results import AsyncResult
from parallelkit.client.session import Session
from parallelkit.client.targets import Targets
from parallelkit.errors import SerializationError
from parallelkit.wire.messages import Operation, TaskOptions
from parallelkit.wire.payload import Function, Reference, dump, dump_function

if TYPE_CHECKING:
    from parallelkit.client.client import Client
    from parallelkit.client.executor import ViewExecutor
    from parallelkit.client.functions import ParallelFunction, RemoteFunction


@dataclass(frozen=True, slots=True)
class Flags:
    """How a view sends its tasks. Times are seconds."""

    targets: Targets = "all"
    block: bool = False  # whether calls without _async or _sync wait
    track: bool = False  # taken for the peer's sake: arrays are always kept unchanged until they have been sent
    label: str = ""  # shown with the tasks
    timeout: float | None = None  # that one run may take
    retries: int = 0  # further runs after the function raised
    priority: int = 0  # among this client's tasks; higher first
    after: Dependency | None = None  # what has to end before; given as results, their msg_ids, or a Dependency
    follow: Dependency | None = None  # as after, and then on the engine where that ran
    max_attempts: int | None = None  # runs that lost engines may cost; None: as the cluster is set


FLAGS = frozenset(field.name for field in fields(Flags))

#: Flags in force inside ``temp_flags``, of this thread or asyncio task alone.
_overlays: ContextVar[Mapping[View, Flags]] = ContextVar("parallelkit_flags", default=MappingProxyType({}))


def _flag(name: str) -> property:
    def get(view: View) -> Any:
        return getattr(view.flags, name)

    def change(view: View, value: Any) -> None:
        view.set_flags(**{name: value})

    return property(get, change, doc=f"The flag ``{name}`` of this view.")


class View:
    """A way to send work to engines. Made by a client; see :class:`DirectView` and :class:`LoadBalancedView`."""

    __slots__ = ("__weakref__", "_flags", "_options", "client")

    targets = _flag("targets")
    block = _flag("block")
    track = _flag("track")
    label = _flag("label")
    timeout = _flag("timeout")
    retries = _flag("retries")
    priority = _flag("priority")
    after = _flag("after")
    follow = _flag("follow")
    max_attempts = _flag("max_attempts")

    def __init__(self, client: Client, targets: Targets = "all", **flags: Any) -> None:
        self.client = client
        self._flags = _changed(Flags(targets=targets), flags)
        self._options: tuple[Flags | None, TaskOptions] = (None, TaskOptions())

    @property
    def _session(self) -> Session:
        return self.client.session

    # ---------------------------------------------------------------------------------------------------- flags

    @property
    def flags(self) -> Flags:
        """The flags in force for this thread or asyncio task."""
        overlays = _overlays.get()
        return overlays.get(self, self._flags) if overlays else self._flags

    def set_flags(self, **flags: Any) -> Self:
        """Change flags for good; returns the view.

        Raises:
            TypeError: there is no such flag.
        """
        overlays = _overlays.get()
        if self in overlays:
            _overlays.set({**overlays, self: _changed(overlays[self], flags)})
        else:
            self._flags = _changed(self._flags, flags)
        return self

    @contextlib.contextmanager
    def temp_flags(self, **flags: Any) -> Iterator[Self]:
        """``with view.temp_flags(block=True):`` changes flags inside the block, for this thread alone."""
        token = _overlays.set({**_overlays.get(), self: _changed(self.flags, flags)})
        try:
            yield self
        finally:
            _overlays.reset(token)

    def _task_options(self, flags: Flags, targets: tuple[int, ...], direct: bool, label: str | None) -> TaskOptions:
        attempts = flags.max_attempts
        return TaskOptions(
            targets=targets,
            direct=direct,
            priority=flags.priority,
            retries=flags.retries,
            max_attempts=self._session.link.limits.get("max_attempts", 4) if attempts is None else attempts,
            timeout=flags.timeout,
            label=flags.label if label is None else label,
        )

    # ---------------------------------------------------------------------------------------------------- calls

    def apply_async(self, f: Any, /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``f(*args, **kwargs)`` on the engines.

        Results among the arguments, also directly in a list, tuple or dict among them, arrive as their values: the
        call is sent when these are here, and fails as they did. All of the arguments are read only then.

        Raises:
            SerializationError: the function or an argument cannot be sent; says which, and what in it.
        """
        try:
            made = call(f, args, kwargs)
        except SerializationError:  # only then are the arguments searched: results cannot be pickled
            waits = results_in(args, kwargs)
            if not waits:
                raise
        else:
            return self._send(made, name_of(f))
        function_of(f)  # if it cannot be sent, at once
        return self._apply_later(f, args, kwargs, waits)

    def _apply_later(
        self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any], waits: Sequence[AsyncResult]
    ) -> AsyncResult:
        def make() -> Call:
            return call(f, tuple(map(filled, args)), {key: filled(value) for key, value in kwargs.items()})

        options, shape = self._shape(self.flags)
        return self._send_needing(make, name_of(f), self.flags, options, waits, **shape)

    def _send_needing(
        self,
        make: Callable[[], Call],
        name: str,
        flags: Flags,
        options: TaskOptions,
        waits: Sequence[AsyncResult] = (),
        **shape: Any,
    ) -> AsyncResult:
        """Send a call with dependencies: now if the hub can wait for them, else when ``waits`` and others are here."""
        session = self._session

        def needing() -> Call:
            made = make()
            made.needs = needs_of(session, flags.after, flags.follow)
            return made

        waits = [*waits, *unnumbered(session, flags.after, flags.follow)]
        if waits:
            deferred = DeferredResult(session, name, **shape)
            deferred.begin(waits, needing, options)
            return deferred
        result = AsyncResult(session, name, **shape)
        result.send((needing(),), options)
        return result

    def _map_needs(self, flags: Flags) -> Needs | None:
        """What each piece of a map waits for."""
        if flags.after is None and flags.follow is None:
            return None
        waits = unnumbered(self._session, flags.after, flags.follow)
        if waits:
            raise ValueError(f"a map cannot wait for {waits[0]!r}, only for single calls that have been sent")
        return needs_of(self._session, flags.after, flags.follow)

    def _shape(self, flags: Flags) -> tuple[TaskOptions, dict[str, Any]]:
        """Options of one call, and the arguments that its result is made with."""
        raise NotImplementedError

    def apply_sync(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` and wait for the value."""
        __tracebackhide__ = True
        return wait_for(self.apply_async(f, *args, **kwargs))

    def apply(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """:meth:`apply_sync` or :meth:`apply_async`, as the flag ``block`` says."""
        __tracebackhide__ = True
        result = self.apply_async(f, *args, **kwargs)
        return wait_for(result) if self.flags.block else result

    def submit(self, f: Any, /, *args: Any, **kwargs: Any) -> AsyncResult:
        """:meth:`apply_async`, under the name it has in ``concurrent.futures``."""
        return self.apply_async(f, *args, **kwargs)

    def map(self, f: Any, /, *sequences: Iterable[Any], block: bool | None = None, **how: Any) -> Any:
        """:meth:`map_sync` or :meth:`map_async`, as ``block`` or the flag says."""
        __tracebackhide__ = True
        result = self.map_async(f, *sequences, **how)
        return wait_for(result) if (self.flags.block if block is None else block) else result

    def map_sync(self, f: Any, /, *sequences: Iterable[Any], **how: Any) -> list[Any]:
        """The list of ``f`` of each item; arguments as for :meth:`map_async`."""
        __tracebackhide__ = True
        values: list[Any] = wait_for(self.map_async(f, *sequences, **how))
        return values

    def map_async(self, *args: Any, **kwargs: Any) -> AsyncMapResult:
        """``f`` of each item, on the engines; each kind of view has its own ways."""
        raise NotImplementedError

    def remote(self, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
        """``@view.remote()`` makes calls of a function run here, with these flags besides the view's."""
        from parallelkit.client.functions import remote  # late: it builds upon this module

        return remote(self, block, **flags)

    def parallel(
        self, dist: str = "b", block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], ParallelFunction]:
        """``@view.parallel()`` makes calls of a function of sequences run here, with a part of each on each engine.

        Its ``map`` is the view's.
        """
        from parallelkit.client.functions import parallel  # late: it builds upon this module

        return parallel(self, dist, block, **flags)

    @property
    def executor(self) -> ViewExecutor:
        """A new ``concurrent.futures.Executor``, which runs each task on whichever of the view's engines is free."""
        from parallelkit.client.executor import ViewExecutor  # late: it sends through views

        flags = {name: getattr(self.flags, name) for name in FLAGS - {"targets", "block"}}
        return ViewExecutor(self.client.load_balanced_view(self.flags.targets, **flags))

    def _send(self, call: Call, name: str) -> AsyncResult:
        raise NotImplementedError

    def _places(self) -> Sequence[TaskOptions]:
        """Options for one task on each engine, at least one."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------- as the client does

    def __len__(self) -> int:
        """How many engines it means now."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        return True

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """As :meth:`Client.wait`."""
        return self.client.wait(jobs, timeout)

    def abort(self, jobs: Any = None) -> int:
        """As :meth:`Client.abort`."""
        return self.client.abort(jobs)

    def get_result(self, jobs: Any = None, block: bool | None = None) -> AsyncResult:
        """As :meth:`Client.get_result`."""
        return self.client.get_result(jobs, self.flags.block if block is None else block)

    def __repr__(self) -> str:
        flags, plain = self.flags, Flags()
        shown = [f"{f.name}={getattr(flags, f.name)!r}" for f in fields(Flags) if self._shows(f.name, flags, plain)]
        return f"<{type(self).__name__} {self._where()}{''.join(', ' + text for text in shown)}>"

    @staticmethod
    def _shows(name: str, flags: Flags, plain: Flags) -> bool:
        return name != "targets" and getattr(flags, name) != getattr(plain, name)

    def _where(self) -> str:
        return f"targets={self.flags.targets!r}"


def _changed(flags: Flags, changes: Mapping[str, Any]) -> Flags:
    unknown = sorted(set(changes) - FLAGS)
    if unknown:
        raise TypeError(f"a view has no flag {unknown[0]!r}; there are {', '.join(sorted(FLAGS))}")
    changes = {**changes, **{key: as_dependency(changes[key]) for key in ("after", "follow") if key in changes}}
    changed = replace(flags, **changes)
    if changed.timeout is not None and changed.timeout <= 0:
        raise ValueError(f"timeout={changed.timeout!r}: seconds above 0, or None for no limit")
    if changed.retries < 0 or (changed.max_attempts is not None and changed.max_attempts < 1):
        raise ValueError(f"retries={changed.retries!r}, max_attempts={changed.max_attempts!r}: at least 0 and 1")
    return changed


def wait_for(result: AsyncResult) -> Any:
    """The value of a result that only this call knows of; cancelled with the call."""
    __tracebackhide__ = True
    try:
        return result.get()
    except KeyboardInterrupt:
        result.cancel()
        raise
    finally:
        del result


def _call_first(f: Any, /, *args: Any, **kwargs: Any) -> Any:
    return f(*args, **kwargs)


def function_of(f: Any) -> Function:
    """The function to send for ``f``; for a reference one that calls its first argument.

    Raises:
        TypeError: it cannot be called.
        SerializationError: it cannot be sent.
    """
    if isinstance(f, Reference):
        return dump_function(_call_first)
    if not callable(f):
        raise TypeError(f"{f!r} cannot be called")
    return dump_function(f)


def call(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """One call, ready to be sent."""
    function = function_of(f)
    payload = dump(((f, *args) if isinstance(f, Reference) else args, kwargs), call=function.name)
    return Call(Operation.CALL, payload, function)


def mapped(f: Any, sequences: tuple[Iterable[Any], ...]) -> tuple[Iterable[Any], ...]:
    """What to map over to call ``f`` with the items of ``sequences``."""
    if not sequences:
        raise TypeError("a map needs a function and at least one iterable")
    return (itertools.repeat(f), *sequences) if isinstance(f, Reference) else sequences


def name_of(f: Any) -> str:
    """What a function is called in texts."""
    if isinstance(f, Reference):
        return f.name
    return getattr(f, "__name__", None) or type(f).__name__
