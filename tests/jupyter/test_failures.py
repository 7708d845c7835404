"""How errors of engines are told."""

from __future__ import annotations

import pytest

from parallelkit.errors import EngineLost, RemoteErrors, TaskTimeout
from parallelkit.jupyter import failures
from parallelkit.jupyter.failures import LINES, Kind, Source, frames_of, kinds, listed, report

SOURCE = Source("<In[3] 0a1b2c3d>", "first = 1\nsecond = 2\n\n\ndef f(x):\n    return 1 / x\n\n\nf(0)\n")


def plain(lines):
    return [line.replace("\x1b[31m", "").replace("\x1b[0m", "") for line in lines]


def raised(error, *frames, engine=0):
    """The error as it arrives: with the engine's traceback and a line on where among its notes."""
    lines = [f'  File "{file}", line {line}, in {name}\n    {text}' for file, line, name, text in frames]
    if lines:
        error.add_note(f"Traceback on engine {engine} (most recent call last):\n" + "\n".join(lines))
    error.add_note(f"engine {engine} on host h, task a1b2c3d4-7, run 1")
    return error


def division(engine=0):
    inner = (SOURCE.name, 6, "f", "return 1 / x")
    return raised(ZeroDivisionError("division by zero"), (SOURCE.name, 9, "<module>", "f(0)"), inner, engine=engine)


@pytest.mark.parametrize(
    ("engines", "text"),
    [([3], "3"), ([2, 0, 1], "0–2"), ([0, 1, 5, 7, 6], "0–1, 5–7"), ([None], "?"), ([4, None], "4")],
)
def test_engines_are_listed_for_people(engines, text):
    assert listed(engines) == text


def test_one_error_of_many_engines_is_told_once_with_the_lines_of_the_cell():
    found = kinds([(engine, division(engine)) for engine in range(4)])
    assert plain(report(found, SOURCE)) == [
        "on engines 0–3:",
        "In[3], line 9, in <module>",
        "        7 ",
        "        8 ",
        "---->   9 f(0)",
        "In[3], line 6, in f",
        "        4 ",
        "        5 def f(x):",
        "---->   6     return 1 / x",
        "ZeroDivisionError: division by zero",
    ]


def test_different_errors_are_told_apart():
    found = kinds([(0, division()), (1, raised(KeyError("k"))), (2, division())])
    assert [(type(kind.error), kind.engines) for kind in found] == [(ZeroDivisionError, [0, 2]), (KeyError, [1])]
    assert plain(report(found, SOURCE))[-2:] == ["on engine 1:", "KeyError: 'k'"]


def test_what_names_its_engine_or_task_is_the_same_error_all_the_same():
    texts = [f"execute (a1b2c3d4-{n}): ran longer than its timeout of 2 s on engine {n}" for n in range(2)]
    assert plain(report(kinds(enumerate(map(TaskTimeout, texts))), None)) == [
        "on engines 0–1:",
        "TaskTimeout: ran longer than its timeout of 2 s",
    ]
    lost = EngineLost("execute (a1b2c3d4-1): engine 1 exited with code 3; its namespace went with it")
    assert plain(report(kinds([(1, lost)]), None))[-1] == "EngineLost: exited with code 3; its namespace went with it"


def test_a_syntax_error_is_told_with_its_line():
    error = SyntaxError("invalid syntax", (SOURCE.name, 2, 8, "second = = 2\n"))
    report_ = plain(report([Kind(error, [0])], Source(SOURCE.name, "first = 1\nsecond = = 2\n")))
    assert report_ == [
        "on engine 0:",
        "In[3], line 2",
        "        1 first = 1",
        "---->   2 second = = 2",
        "SyntaxError: invalid syntax",
    ]


def test_code_that_is_not_the_cells_is_shown_by_its_innermost_line():
    frames = [
        (SOURCE.name, 1, "<module>", "x"),
        ("/lib/a.py", 5, "outer", "inner()"),
        ("/lib/b.py", 7, "inner", "raise E"),
    ]
    lines = plain(report(kinds([(0, raised(ValueError("v"), *frames))]), SOURCE))
    assert lines[1:] == [
        "In[3], line 1, in <module>",
        "---->   1 first = 1",
        "/lib/b.py, line 7, in inner",
        "---->   7 raise E",
        "ValueError: v",
    ]


def test_recursion_does_not_fill_the_report():
    frames = [(SOURCE.name, 9, "<module>", "f(0)"), *[(SOURCE.name, 6, "f", "f(x)")] * 50, (SOURCE.name, 5, "f", "x")]
    lines = plain(report(kinds([(0, raised(RecursionError("too deep"), *frames))]), SOURCE))
    assert len(lines) <= LINES
    assert [line for line in lines if line.startswith("In[3]")] == [
        "In[3], line 9, in <module>",
        "In[3], line 6, in f",
        "In[3], line 5, in f",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 40])
def test_a_report_is_never_long(count):
    frames = [(SOURCE.name, line, "f", "x") for line in range(1, 10)]
    errors = [raised(ValueError(f"error {n}\n" + "more\n" * 50), *frames) for n in range(count)]
    lines = report(kinds(enumerate(errors)), SOURCE)
    assert len(lines) <= LINES
    assert (f"… and {count - 3} other errors" in lines) == (count > 3)


def test_a_long_text_is_cut():
    lines = report([Kind(ValueError("x" * 5000), [0])], None)
    assert len(lines[-1]) < 500
    assert lines[-1].endswith("(5,000 characters)")


def test_an_error_without_a_traceback_has_no_frames():
    error = ValueError("v")
    error.add_note('  File "mine.py", line 1, in f')
    assert frames_of(error) == []


def test_errors_that_forbid_attributes_are_raised_all_the_same():
    class Strict(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    error = Strict()
    assert failures.shown(error, ["line"]) is error


def test_a_group_is_told_by_the_notes_of_its_errors():
    group = RemoteErrors("2 of 3 items failed", [division(1), division(4)])
    assert plain(report(failures.kinds_of(group), SOURCE))[0] == "on engines 1, 4:"
