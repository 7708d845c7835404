"""What stands behind ``%px``, ``%%px``, ``%pxconfig`` and ``%pxresult``: flags, then code as it is.

Flags come first; from the first word on that is none of them the line is code, untouched: ``%px -t 0 print(-x)``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from IPython.core.error import UsageError

from parallelkit.jupyter.display import GROUPINGS


@dataclass(frozen=True, slots=True)
class Options:
    """How a cell runs on the engines. Times are seconds; None: as the view, or the command, has it."""

    targets: str | None = None
    block: bool | None = None
    stream: bool = True
    verbose: bool = False
    progress_after: float = 2.0  # 0: at once, negative: never
    signal_on_interrupt: int = signal.SIGINT  # 0: none
    timeout: float | None = None
    group_outputs: str = "type"
    out: str | None = None
    local: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def _signal(text: str) -> int:
    """A signal by name or number; 0 and "0" mean none."""
    if text.isdigit():
        return int(text)
    name = text.upper()
    try:
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a signal") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seconds above 0")
    return seconds


def _parser(name: str, groups: Sequence[str]) -> _Parser:
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    if "run" in groups:
        add("-t", "--targets", help="engines: an id, a list, a slice (::2) or 'all'")
        add("-b", "--block", dest="block", action="store_true", help="wait for the end (the default)")
        add("-a", "--noblock", dest="block", action="store_false", help="go on at once; output still comes")
        add("--stream", dest="stream", action="store_true", help="show output as it comes (the default)")
        add("--no-stream", dest="stream", action="store_false", help="show output when all is there, in groups")
        add("--verbose", dest="verbose", action="store_true", help="say which engines run it")
        add("--no-verbose", dest="verbose", action="store_false", help="do not (the default)")
        add("--progress-after", type=float, metavar="SECONDS", help="show progress after this; 0 at once, -1 never")
        add("--signal-on-interrupt", type=_signal, metavar="SIGNAL", help="what Ctrl-C sends to engines; 0: nothing")
        add("--timeout", type=_seconds, metavar="SECONDS", help="interrupt the cell on engines where it takes longer")
    if "show" in groups:
        add("--group-outputs", choices=tuple(GROUPINGS), help="how output is grouped that is not streamed")
        add("-e", dest="group_outputs", action="store_const", const="engine", help="short for --group-outputs engine")
        add("-r", dest="group_outputs", action="store_const", const="order", help="short for --group-outputs order")
        add("-o", "--out", metavar="NAME", help="keep the AsyncResult under this name")
    if "cell" in groups:
        add("--local", action="store_true", help="run it in the notebook too")
    return parser


PX = _parser("%%px", ("run", "show", "cell"))
PXCONFIG = _parser("%pxconfig", ("run", "show"))
PXRESULT = _parser("%pxresult", ("show",))

#: A value that may hold blanks: in quotes or brackets; else up to the next blank.
_VALUE = re.compile(r"""\s*(?:=\s*)?("[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\)|\S+)""")
_FLAG = re.compile(r"\s*(--?[A-Za-z][A-Za-z-]*)(?=[\s=]|$)")


def split(parser: argparse.ArgumentParser, line: str) -> tuple[list[str], str]:
    """The flags at the start of ``line`` as arguments for ``parser``, and what follows them."""
    arguments: list[str] = []
    while match := _FLAG.match(line):
        action = parser._option_string_actions.get(match[1])
        if action is None:
            break
        arguments.append(match[1])
        line = line[match.end() :]
        if action.nargs != 0 and (value := _VALUE.match(line)):
            arguments[-1] += "=" * match[1].startswith("--") + _unquoted(value[1])
            line = line[value.end() :]
    return arguments, line.strip()


def _unquoted(text: str) -> str:
    return shlex.split(text)[0] if text[0] in "\"'" and shlex.split(text) else text


def parse(parser: argparse.ArgumentParser, line: str, defaults: Options) -> tuple[Options, str]:
    """The options on ``line``, over ``defaults``, and what follows them.

    Raises:
        UsageError: a flag has a value that it cannot have.
    """
    arguments, rest = split(parser, line)
    found = vars(parser.parse_args(arguments))
    return replace(defaults, **found), rest


def parse_all(parser: argparse.ArgumentParser, line: str, defaults: Options) -> Options:
    """The options on a line that holds nothing else.

    Raises:
        UsageError: there is something else.
    """
    options, rest = parse(parser, line, defaults)
    if rest:
        raise UsageError(f"{parser.prog}: {rest.split()[0]!r} is no flag of it; {parser.prog}? lists them")
    return options


def describe(options: Options) -> str:
    """All options with their values, one a line."""
    return "\n".join(f"{field.name} = {getattr(options, field.name)!r}" for field in fields(Options))


def targets_of(text: str, ids: Sequence[int], names: dict[str, Any]) -> Any:
    """What ``-t`` says: ``all``, a slice of the engines there are, or an expression of the notebook's names.

    Raises:
        UsageError: it cannot be evaluated.
    """
    if text == "all":
        return "all"
    try:
        if re.fullmatch(r"[-\d\s]*:[-\d\s]*(:[-\d\s]*)?", text):
            return list(eval(f"ids[{text}]", {"ids": list(ids)}))
        value = eval(text, dict(names))
    except Exception as error:
        raise UsageError(f"-t {text}: {type(error).__name__}: {error}") from error
    return list(value) if isinstance(value, tuple | set | range) else value
