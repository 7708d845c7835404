from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from parallelkit.jupyter import options as o


@pytest.mark.parametrize(
    ("line", "changed", "rest"),
    [
        ("print(1)", {}, "print(1)"),
        ("-x", {}, "-x"),
        ("-t 0 print(-x)", {"targets": "0"}, "print(-x)"),
        ("-t [0, 2] --noblock y", {"targets": "[0, 2]", "block": False}, "y"),
        ("--targets=::2 z", {"targets": "::2"}, "z"),
        ("-t -1 z", {"targets": "-1"}, "z"),
        ("-t '0, 1' z", {"targets": "0, 1"}, "z"),
        ("-b a = -b", {"block": True}, "a = -b"),
        ("-a --no-stream", {"block": False, "stream": False}, ""),
        ("-e -o ar", {"group_outputs": "engine", "out": "ar"}, ""),
        ("-r", {"group_outputs": "order"}, ""),
        ("--group-outputs type", {}, ""),
        ("--progress-after -1 --timeout 2.5", {"progress_after": -1.0, "timeout": 2.5}, ""),
        ("--signal-on-interrupt TERM", {"signal_on_interrupt": 15}, ""),
        ("--signal-on-interrupt SIGKILL", {"signal_on_interrupt": 9}, ""),
        ("--signal-on-interrupt 0", {"signal_on_interrupt": 0}, ""),
        ("--local --verbose", {"local": True, "verbose": True}, ""),
        ("--no-verbose --stream", {}, ""),
    ],
)
def test_flags_come_first_and_the_rest_is_code(line, changed, rest):
    options, code = o.parse(o.PX, line, o.Options())
    expected = o.Options(**changed)
    assert options == expected
    assert code == rest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-t", "expected one argument"),
        ("--timeout soon", "'soon': seconds above 0"),
        ("--timeout 0", "seconds above 0"),
        ("--signal-on-interrupt NOSUCH", "is not a signal"),
        ("--group-outputs colour", "invalid choice"),
    ],
)
def test_a_bad_value_is_told(line, said):
    with pytest.raises(UsageError, match=said):
        o.parse(o.PX, line, o.Options())


def test_where_no_code_belongs_the_rest_is_refused():
    with pytest.raises(UsageError, match="'print' is no flag"):
        o.parse_all(o.PX, "-t 0 print (1)", o.Options())


def test_defaults_hold_where_the_line_says_nothing():
    defaults = o.Options(targets="0", progress_after=5.0)
    options, _ = o.parse(o.PX, "-t 1", defaults)
    assert (options.targets, options.progress_after) == ("1", 5.0)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("all", "all"),
        ("0", 0),
        ("-1", -1),
        ("[0, 2]", [0, 2]),
        ("0,2", [0, 2]),
        ("::2", [0, 5]),
        ("1:", [2, 5]),
        ("even", [0, 2]),
        ("range(2)", [0, 1]),
    ],
)
def test_targets(text, targets):
    assert o.targets_of(text, [0, 2, 5], {"even": (0, 2)}) == targets


def test_targets_that_mean_nothing():
    with pytest.raises(UsageError, match="-t nobody: NameError"):
        o.targets_of("nobody", [0], {})
