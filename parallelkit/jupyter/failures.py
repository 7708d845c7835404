"""Errors of engines, told briefly: each kind once, with the engines that raised it and the cell's own lines."""

from __future__ import annotations

import contextlib
import itertools
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from IPython.core.getipython import get_ipython

from parallelkit.client.results import AsyncResult
from parallelkit.errors import RemoteError, RemoteErrors, TaskCancelled, TaskError

#: Lines that one report may have, however many errors it tells of.
LINES = 15
#: Kinds of errors that one report tells of.
KINDS = 3
#: Characters of an error's own text.
TEXT = 400

_FRAME = re.compile(
    r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)\n(?:\s+(?P<source>.+))?', re.MULTILINE
)
_CELL = re.compile(r"<(In\[\d+\]) [0-9a-f]{8}>")
#: "execute (a1b2c3d4-7): " and " on engine 3".
_NAMED_TASK = re.compile(r"^.{1,200}? \([0-9a-f]{8}-\d+\): ")
_NAMED_ENGINE = re.compile(r" on engine \d+\b|\bengine \d+ ")
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Source:
    """A cell that engines ran: what its frames are called in tracebacks, and its text."""

    name: str
    text: str


class Frame(NamedTuple):
    file: str
    line: int
    function: str
    source: str


class Kind(NamedTuple):
    """The same error on several engines."""

    error: BaseException
    engines: list[int | None]


def listed(engines: Iterable[int | None]) -> str:
    """Engine ids for people: "0–3, 7"."""
    runs: list[list[int]] = []
    for engine in sorted({engine for engine in engines if engine is not None}):
        if runs and engine == runs[-1][-1] + 1:
            runs[-1].append(engine)
        else:
            runs.append([engine])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs) or "?"


def outcomes(result: AsyncResult) -> list[tuple[int | None, Any]]:
    """Each engine with what its task came to, an exception where it failed; the result must be complete."""
    values, engines = result.get(return_exceptions=True), result.engine_id
    return list(zip(engines, values, strict=True)) if isinstance(engines, list) else [(engines, values)]


def raise_errors(result: AsyncResult, source: Source, interrupted: bool = False) -> None:
    """Raise what the cell raised on the engines, if it did: one error as itself, several as one group.

    A cell that was interrupted ends with KeyboardInterrupt, as it would have here.
    """
    failed = [(engine, outcome) for engine, outcome in outcomes(result) if isinstance(outcome, Exception)]
    if interrupted:
        stopped = [engine for engine, error in failed if isinstance(error, TaskCancelled)]
        failed = [(engine, error) for engine, error in failed if not isinstance(error, TaskCancelled)]
        text = f"KeyboardInterrupt: interrupted on {_engines(stopped)}" if stopped else "KeyboardInterrupt"
        raise shown(KeyboardInterrupt(text), [*(report(kinds(failed), source) if failed else []), _coloured(text)])
    if failed:
        lines = report(kinds(failed), source)
        error = failed[0][1]
        if len(failed) > 1:
            error = RemoteErrors(
                f"the cell failed on {_engines([engine for engine, _ in failed])}", [e for _, e in failed]
            )
        raise shown(error, lines)


def shown(error: BaseException, lines: Sequence[str] = ()) -> BaseException:
    """The error, to be shown as these lines instead of a traceback; without any it has been shown already."""
    with contextlib.suppress(AttributeError, TypeError):  # a class with slots: then IPython shows it in its own way
        error._render_traceback_ = lambda: list(lines)  # type: ignore[attr-defined]  # what IPython looks for
    return error


def kinds(failed: Iterable[tuple[int | None, BaseException]]) -> list[Kind]:
    """The errors, those alike together: same type, same text, raised at the same place."""
    found: dict[Any, Kind] = {}
    for engine, error in failed:
        key = (type(error).__name__, _text(error), tuple(frames_of(error)))
        found.setdefault(key, Kind(error, [])).engines.append(engine)
    return list(found.values())


def report(found: Sequence[Kind], source: Source | None) -> list[str]:
    """At most :data:`LINES` lines that tell of these errors."""
    told = found[:KINDS]
    budget = (LINES - (len(found) > KINDS)) // len(told)
    lines: list[str] = []
    for kind in told:
        lines += _told(kind, source, budget)
    if len(found) > KINDS:
        lines.append(f"… and {len(found) - KINDS} other errors")
    return lines


def _told(kind: Kind, source: Source | None, budget: int) -> list[str]:
    """One kind of error: on which engines, where, what. With as much of the code as the budget allows."""
    text = f"{type(kind.error).__name__}: {_text(kind.error)}".removesuffix(": ").splitlines()
    head, tail = [f"on {_engines(kind.engines)}:"], [_coloured(text[0]), *text[1:3]]
    room = budget - len(head) - len(tail)
    frames = _telling(frames_of(kind.error))
    for context in (2, 1, 0):
        body = [line for frame in frames for line in _excerpt(frame, source, context)]
        if len(body) <= room:
            break
    while len(body) > room:
        frames = frames[1:]  # the innermost tell more
        body = [line for frame in frames for line in _excerpt(frame, source, 0)]
    return head + body + tail


def _telling(frames: Sequence[Frame]) -> list[Frame]:
    """The frames worth showing: those of cells, and the innermost one wherever it is; none twice in a row."""
    worth = [frame for frame in frames if _is_cell(frame.file)]
    if frames and not _is_cell(frames[-1].file):
        worth.append(frames[-1])
    return [frame for frame, _ in itertools.groupby(worth)]


def _is_cell(file: str) -> bool:
    return bool(_cell_name(file)) or file.startswith("<ipython-input")


def _cell_name(file: str) -> str:
    """ "In[3]" for a cell that engines ran or that ran here; empty for any other file."""
    if sent := _CELL.fullmatch(file):
        return sent[1]
    shell: Any = get_ipython()
    known = shell.compile.format_code_name(file) if shell is not None else None
    return known[1] if known else ""


def _excerpt(frame: Frame, source: Source | None, context: int) -> list[str]:
    place = _cell_name(frame.file) or frame.file
    if source is not None and frame.file == source.name:
        text = source.text.splitlines()
        numbered = [
            f"{'---->' if number == frame.line else '     '} {number:>3} {text[number - 1]}"
            for number in range(max(1, frame.line - context), frame.line + 1)
            if number <= len(text)
        ]
    else:
        numbered = [f"----> {frame.line:>3} {frame.source}"] if frame.source else []
    return [f"{place}, line {frame.line}{frame.function and f', in {frame.function}'}", *numbered]


def frames_of(error: BaseException) -> list[Frame]:
    """The frames of the engine's traceback, outermost first; it is one of the error's notes."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return [Frame(error.filename, error.lineno, "", (error.text or "").rstrip())]  # that place is no frame
    for note in getattr(error, "__notes__", ()):
        if note.startswith("Traceback on engine"):
            return [
                Frame(match["file"], int(match["line"]), match["function"], match["source"] or "")
                for match in _FRAME.finditer(note)
            ]
    return []


def _text(error: BaseException) -> str:
    """What the error says, without what differs from engine to engine."""
    text = (error.msg if isinstance(error, SyntaxError) else "") or str(error)
    if isinstance(error, TaskError) and not isinstance(error, RemoteError):
        text = _NAMED_TASK.sub("", text)
        text = _NAMED_ENGINE.sub("", text)
    return text if len(text) <= TEXT else f"{text[:TEXT]} … ({len(text):,} characters)"


def _engines(engines: Sequence[int | None]) -> str:
    return f"engine{'s' if len(set(engines)) > 1 else ''} {listed(engines)}"


def _coloured(line: str) -> str:
    name, colon, rest = line.partition(":")
    return f"{_RED}{name}{_PLAIN}{colon}{rest}"


def install(shell: Any) -> None:
    """Let the shell show groups of errors in this way too; it has one place for this, which may be taken."""
    if shell.custom_exceptions in ((), (RemoteErrors,)):
        shell.set_custom_exc((RemoteErrors,), _show_group)


def _show_group(
    shell: Any,
    kind: type[RemoteErrors],
    errors: RemoteErrors,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> list[str]:
    render = getattr(errors, "_render_traceback_", None)
    lines: list[str] = render() if render else _call_site(trace) + report(kinds_of(errors), None)
    shell._showtraceback(kind, errors, lines)
    return lines


def kinds_of(errors: RemoteErrors) -> list[Kind]:
    """Those of a group that says nothing of engines but in the notes of its errors."""
    return kinds((_noted_engine(error), error) for error in errors.exceptions)


def _noted_engine(error: BaseException) -> int | None:
    notes = " ".join(getattr(error, "__notes__", ()))
    found = re.search(r"\bengine (\d+)\b", notes)
    return int(found[1]) if found else None


def _call_site(trace: TracebackType | None) -> list[str]:
    """Which line of the notebook waited for it."""
    for entry in traceback.extract_tb(trace):
        if _is_cell(entry.filename):
            return [f"line {entry.lineno} of this cell: {entry.line}"]
    return []
