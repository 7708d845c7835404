"""Exceptions on their way from an engine to a client.

An exception arrives as itself, with its arguments, attributes, notes, causes, and what its traceback looked like
where it was raised. What cannot be rebuilt arrives as :class:`~parallelkit.errors.RemoteError` with its text.

Both directions are total: whatever the exception's own code does, one bounded result comes out.
"""

from __future__ import annotations

import functools
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, TracebackType
from typing import Any

import msgspec

from parallelkit.errors import ParallelKitError, RemoteError, ResultError
from parallelkit.wire import exceptions
from parallelkit.wire.frames import Buffer, unpack
from parallelkit.wire.payload import Payload, dump_whole, load

#: Bytes of the exception's text, and of the text of each of its causes.
MAX_TEXT = 64 << 10
MAX_CAUSE_TEXT = 8 << 10
#: Bytes of the traceback of the exception, and of each of its causes.
MAX_TRACEBACK = 128 << 10
MAX_CAUSE_TRACEBACK = 16 << 10
#: Exceptions that are taken along: itself and those that it was raised from.
MAX_LINKS = 12
#: Bytes of one pickled exception; beyond, its long texts are cut, and what is still too large travels as text.
MAX_PICKLE = 256 << 10
#: Frames of one traceback that are shown: so many of the first, so many of the last.
FIRST_FRAMES, LAST_FRAMES = 20, 40

#: Machinery between parallelkit's own frames and the user's; not shown where a traceback begins with it.
_MACHINERY = frozenset({"parallelkit", "IPython", "asyncio", "concurrent", "runpy"})

#: Frames as they were last printed, by code and instruction: items of a map tend to fail in the same place.
_formatted: dict[tuple[bool, tuple[tuple[CodeType, int], ...]], str] = {}
_MAX_FORMATTED = 256
_LONG_TRACEBACK = 16 << 10


class Link(msgspec.Struct, array_like=True, frozen=True):
    """One exception of a chain. ``cause``, ``context`` and ``parts`` are indices in the chain; -1: none."""

    ename: str
    evalue: str
    traceback: str  # its own frames, as Python prints them
    pickle: bytes = b""  # empty: it travels as text, or inside the group that it is a part of
    cause: int = -1
    context: int = -1
    suppress: bool = False
    parts: tuple[int, ...] = ()  # of an exception group

    @property
    def text(self) -> str:
        """The traceback as Python prints it, with its heading and its last line."""
        summary = f"{self.ename}: {self.evalue}" if self.evalue else self.ename
        return f"Traceback (most recent call last):\n{self.traceback}{summary}" if self.traceback else summary


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An exception as it travels, and where it was raised. The first of ``chain`` is the exception itself."""

    engine: int
    host: str
    task: str
    run: int
    chain: list[Link]

    @property
    def where(self) -> str:
        """The line that says which engine, task and run."""
        return f"engine {self.engine} on host {self.host}, task {self.task}, run {self.run}"

    @property
    def traceback_text(self) -> str:
        """The traceback of the exception itself, as Python prints it."""
        return self.chain[0].text


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Failure)


def dump_failure(exc: BaseException, *, engine: int, run: int, task: str, host: str | None = None) -> Payload:
    """Describe ``exc``; never raises, has no buffers, and is at most about 1 MiB.

    Args:
        exc: any exception, whatever its methods do.
        engine: id of the engine.
        run: 1 for the task's first run.
        task: what people call the task.
        host: name of the machine; None: this one's.
    """
    try:
        chain = _describe_all(exc)
    except BaseException as error:  # noqa: BLE001 - an exception may even lie about its causes
        reason = f"it could not be described any further: {type(error).__name__}"
        chain = [Link(_guarded(lambda: type(exc).__name__, 1000), reason, "")]
    place = _host() if host is None else host
    return Payload(_encoder.encode(Failure(engine, _clean(place, 255), _clean(task, 1000), run, chain)), [])


def read_failure(data: Buffer, buffers: Sequence[Buffer] = ()) -> Failure:
    """The description alone; opens no pickle.

    Raises:
        ResultError: it is damaged.
    """
    stream, _ = unpack(data, buffers)
    try:
        failure = _decoder.decode(stream)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"an exception arrived that cannot be read here ({error})", bytes(stream)) from error
    if not failure.chain:
        raise ResultError("an exception arrived that is empty", bytes(stream))
    return failure


def load_failure(data: Buffer, buffers: Sequence[Buffer] = ()) -> Exception:
    """The exception, ready to be raised; never raises itself.

    When printed it shows its remote traceback, and a line that names engine, host, task and run. It is a
    :class:`RemoteError` if it cannot be rebuilt here, or is one like ``SystemExit`` that would end this process.
    """
    try:
        failure = read_failure(data, buffers)
    except ResultError as error:
        return error
    return _Builder(failure).build()


# -------------------------------------------------------------------------------------------------- describing


def _describe_all(exc: BaseException) -> list[Link]:
    """``exc``, what it was raised from, and the parts of groups; each names the others by their index."""
    members = [exc]
    inside: set[int] = set()  # those that travel in the pickle of their group
    chain: list[Link] = []

    def index(other: BaseException | None) -> int:
        if other is None:
            return -1
        for number, member in enumerate(members):
            if member is other:
                return number
        if len(members) == MAX_LINKS:
            return -1
        members.append(other)
        return len(members) - 1

    for number, member in enumerate(members):  # grows on the way
        suppress = bool(_slot(member, "__suppress_context__"))
        link = _describe(member, whole=number == 0, pickled=number not in inside)
        parts: tuple[int, ...] = ()
        if (link.pickle or number in inside) and isinstance(member, BaseExceptionGroup):
            parts = tuple(map(index, member.exceptions))
            inside.update(parts)
        cause = index(_slot(member, "__cause__"))
        context = -1 if suppress else index(_slot(member, "__context__"))
        chain.append(msgspec.structs.replace(link, cause=cause, context=context, suppress=suppress, parts=parts))
    return chain


def _slot(exc: BaseException, name: str) -> Any:
    """What the interpreter sees, whatever the class defines under that name."""
    return BaseException.__dict__[name].__get__(exc)


def _describe(exc: BaseException, *, whole: bool, pickled: bool) -> Link:
    data = _pickle(exc) if pickled else b""
    return Link(
        ename=_guarded(lambda: type(exc).__name__, 1000),
        evalue=_guarded(lambda: str(exc), MAX_TEXT if whole else MAX_CAUSE_TEXT),
        traceback=_guarded(
            lambda: _group_text(exc) if pickled and not data and isinstance(exc, BaseExceptionGroup) else _frames(exc),
            MAX_TRACEBACK if whole else MAX_CAUSE_TRACEBACK,
        ),
        pickle=data,
    )


def _guarded(make: Callable[[], str], limit: int) -> str:
    """The text, whatever it takes; also an interrupt ends no more than the making of this one text."""
    try:
        return _clean(make(), limit)
    except BaseException as error:  # noqa: BLE001 - __str__ is user code and may raise anything
        return f"<no text: {type(error).__name__}>"


def _clean(text: str, limit: int) -> str:
    """At most ``limit`` bytes of text that can be encoded."""
    data = str.encode(str.__getitem__(text, slice(limit)), "utf-8", "backslashreplace")
    length = str.__len__(text)
    if len(data) <= limit and length <= limit:
        return data.decode()
    return f"{data[: limit - 60].decode('utf-8', 'ignore')}… ({length} characters, cut)"


def _pickle(exc: BaseException) -> bytes:
    try:
        data = dump_whole(exc)
        if len(data) > MAX_PICKLE:
            data = dump_whole(_shortened(exc))
        return data if len(data) <= MAX_PICKLE else b""
    except BaseException:  # noqa: BLE001 - __reduce__ is user code; the text is enough
        return b""


def _shortened(exc: BaseException) -> BaseException:
    """A copy whose long texts are cut."""
    parts = exceptions.take_apart(exc) or (type(exc), exc.args, exc.__dict__)
    state = {name: _short(value) for name, value in (parts[2] or {}).items()}
    return exceptions.rebuild(parts[0], tuple(map(_short, parts[1])), state)


def _short(value: Any) -> Any:
    limit = MAX_PICKLE // 8
    if type(value) is str:
        return _clean(value, limit)
    return value[:limit] if type(value) in (bytes, bytearray) else value


def _group_text(exc: BaseExceptionGroup[BaseException]) -> str:
    """All of a group that travels as text only."""
    return "".join(list(traceback.TracebackException.from_exception(exc).format(chain=False))[1:])


def _frames(exc: BaseException) -> str:
    """The frames that are the user's, with their source lines, as Python prints them."""
    tb: TracebackType | None = _slot(exc, "__traceback__")
    steps, ours = list(_steps(tb)), isinstance(exc, ParallelKitError)
    key = ours, tuple([(step.tb_frame.f_code, step.tb_lasti) for step in steps])
    known = _formatted.get(key)
    if known is not None:
        return known
    frames = traceback.extract_tb(tb)
    shown = [frame for frame, mine in zip(frames, _are_shown(steps), strict=False) if mine]
    if not shown and not ours:
        shown = list(frames)
    lines = traceback.StackSummary.from_list(shown).format()
    if len(lines) > FIRST_FRAMES + LAST_FRAMES:
        left_out = len(lines) - FIRST_FRAMES - LAST_FRAMES
        lines[FIRST_FRAMES:-LAST_FRAMES] = [f"  … {left_out} frames are not shown …\n"]
    text = "".join(lines)
    if len(text) <= _LONG_TRACEBACK:
        while len(_formatted) >= _MAX_FORMATTED:
            _formatted.pop(next(iter(_formatted)), None)
        _formatted[key] = text
    return text


def _steps(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _are_shown(steps: Sequence[TracebackType]) -> Iterator[bool]:
    """For each frame whether users want to see it: not parallelkit's, nor what leads to the first of theirs."""
    begun = False
    for step in steps:
        package = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        begun = begun or package not in _MACHINERY
        yield begun and package != "parallelkit"


@functools.cache
def _host() -> str:
    return platform.node()


# -------------------------------------------------------------------------------------------------- rebuilding


class _Builder:
    """Makes the exceptions of one failure; for each that cannot be made, a :class:`RemoteError`."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure
        self._members: list[BaseException] = []
        self._parts: dict[int, BaseException] = {}

    def build(self) -> Exception:
        chain = self._failure.chain
        for number, link in enumerate(chain):
            self._members.append(self._make(number, link))
        for exc, link in zip(self._members, chain, strict=True):
            self._connect(exc, link)
        first = self._members[0]
        assert isinstance(first, Exception)  # for the type checker: _make saw to it
        return first

    def _make(self, number: int, link: Link) -> BaseException:
        exc, problem = (self._parts[number], "") if number in self._parts else _open(link)
        if exc is not None and (number > 0 or isinstance(exc, Exception)):
            try:
                self._annotate(exc, number, link, "")
                if isinstance(exc, BaseExceptionGroup):
                    self._parts.update(zip(link.parts, exc.exceptions, strict=False))
                return exc
            except Exception as error:  # noqa: BLE001 - its class is user code
                problem = f"it cannot be handled here: {type(error).__name__}"
        stand_in = RemoteError(link.ename, link.evalue, link.text, self._failure.engine)
        self._annotate(stand_in, number, link, problem)
        return stand_in

    def _annotate(self, exc: BaseException, number: int, link: Link, problem: str) -> None:
        """Put what is to be shown into the notes. They go straight into ``__dict__``: the class may forbid the rest."""
        known = exc.__dict__.get("__notes__")
        notes = list(known) if isinstance(known, list | tuple) else []
        if link.traceback:
            heading = f"Traceback on engine {self._failure.engine} (most recent call last):"
            notes.append(f"{heading}\n{link.traceback.rstrip()}")
        if problem:
            notes.append(f"The exception itself is not available here: {problem}")
        if number == 0:
            notes.append(self._failure.where)
        exc.__dict__["__notes__"] = notes

    def _connect(self, exc: BaseException, link: Link) -> None:
        """Set what it was raised from, past any ``__setattr__`` of its class."""
        for name, number in (("__cause__", link.cause), ("__context__", link.context)):
            if 0 <= number < len(self._members) and self._members[number] is not exc:
                BaseException.__dict__[name].__set__(exc, self._members[number])
        BaseException.__dict__["__suppress_context__"].__set__(exc, link.suppress)


def _open(link: Link) -> tuple[BaseException | None, str]:
    """The exception, or None and why not."""
    if not link.pickle:
        return None, "it could not be pickled there"
    try:
        exc = load(link.pickle)
    except ResultError as error:
        return None, str(error)
    return (exc, "") if isinstance(exc, BaseException) else (None, f"it was rebuilt as a {type(exc).__name__}")
