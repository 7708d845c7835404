"""Screens on a cell that takes notes."""

from __future__ import annotations

import pytest

from parallelkit.client.output import Output
from parallelkit.jupyter.display import PERIOD, Screen, show_grouped
from parallelkit.jupyter.magics import load
from tests.jupyter.conftest import out


class NotedCell:
    """Keeps what a notebook would show: texts and displays in order, updates in their places."""

    def __init__(self, *, rich=True, terminal=False):
        self.is_rich = rich
        self.is_terminal = terminal
        self.items = []

    def write(self, kind, text):
        self.items.append((kind, text))

    def show(self, data, metadata=None, display_id=None, *, update=False):
        if update:
            [place] = [index for index, item in enumerate(self.items) if item[0] == display_id]
            self.items[place] = (display_id, data)
        else:
            self.items.append((display_id, data))

    @property
    def seen(self):
        """What is to be seen, without ids and without what is empty."""
        texts = [
            item if isinstance(item, str) else item.get("text/html") or item["text/plain"] for _, item in self.items
        ]
        return [text for text in texts if text]


@pytest.fixture
def cell():
    return NotedCell()


@pytest.fixture
def screen(cell):
    return Screen(cell)


def display(engine, text, **transient):
    return Output(
        engine, "display", {"data": {"text/html": text, "text/plain": "?"}, "metadata": {}, "transient": transient}
    )


def result(engine, text):
    return Output(engine, "result", {"data": {"text/plain": text}, "metadata": {}})


def due(screen):
    """The next refresh is due."""
    screen._refreshed -= PERIOD


def test_each_line_carries_its_engine_and_stream(cell, screen):
    screen.take(Output(0, "stdout", "a\nb\n"))
    screen.take(Output(3, "stderr", "c\n"))
    screen.close()
    assert cell.items == [("stdout", "[stdout:0] a\n[stdout:0] b\n"), ("stderr", "[stderr:3] c\n")]


def test_lines_of_two_engines_do_not_mix(cell, screen):
    for piece in ("he", "llo\n"):
        screen.take(Output(0, "stdout", piece))
        screen.take(Output(1, "stdout", piece))
    assert cell.seen == ["[stdout:0] hello\n", "[stdout:1] hello\n"]


def test_progress_bars_stand_in_rows_of_their_own_and_end_as_lines(cell, screen):
    screen.take(Output(0, "stderr", "\r10%"))
    screen.take(Output(1, "stderr", "\r15%"))
    due(screen)
    screen.refresh()
    assert cell.seen == ["[stderr:0] 10%\n[stderr:1] 15%"]
    screen.take(Output(0, "stderr", "\r20%"))
    due(screen)
    screen.refresh("1 of 2 engines done")
    assert cell.seen == ["[stderr:0] 20%\n[stderr:1] 15%\n1 of 2 engines done"]
    screen.take(Output(0, "stderr", "\r100%\n"))
    screen.close()
    assert cell.seen == ["[stderr:0] 100%\n", "[stderr:1] 15%\n"]


def test_rows_are_not_redrawn_more_often_than_needed(cell, screen):
    screen.take(Output(0, "stderr", "\r10%"))
    screen.refresh()
    assert cell.items == []


def test_a_terminal_draws_the_rows_below_what_is_printed():
    cell = NotedCell(rich=False, terminal=True)
    screen = Screen(cell)
    screen.take(Output(0, "stdout", "50%"))
    due(screen)
    screen.refresh()
    screen.take(Output(1, "stdout", "line\n"))
    wiped = "\r\x1b[A\x1b[K"
    assert "".join(text for _, text in cell.items) == f"[stdout:0] 50%\n{wiped}[stdout:1] line\n[stdout:0] 50%\n"


def test_a_log_shows_lines_alone():
    cell = NotedCell(rich=False)
    screen = Screen(cell)
    screen.take(Output(0, "stdout", "\r10%"))
    due(screen)
    screen.refresh("note")
    assert cell.items == []
    screen.close()
    assert cell.items == [("stdout", "[stdout:0] 10%\n")]


def test_rich_output_is_headed_by_its_engine(cell, screen):
    screen.take(display(2, "<b>plot</b>"))
    assert cell.seen == ["[output:2]", "<b>plot</b>"]


def test_displays_are_updated_in_their_places_engine_by_engine(cell, screen):
    for engine in (0, 1):
        screen.take(display(engine, f"first {engine}", display_id="same"))
    screen.take(display(1, "second 1", display_id="same", update=True))
    assert cell.seen == ["[output:0]", "first 0", "[output:1]", "second 1"]


def test_clear_output_clears_what_its_own_engine_has_shown(cell, screen):
    screen.take(display(0, "frame 1"))
    screen.take(display(1, "stays"))
    screen.take(Output(0, "clear", {"data": {"wait": True}}))
    screen.take(display(0, "frame 2"))
    assert cell.seen == ["[output:0]", "frame 2", "[output:1]", "stays"]
    screen.take(Output(0, "clear", {"data": {"wait": False}}))
    screen.close()
    assert cell.seen == ["[output:0]", "[output:1]", "stays"]


def test_results_are_headed_by_engine_and_number(cell, screen):
    screen.counts = {0: 3}
    screen.take(result(0, "42"))
    screen.take(result(1, "array([1,\n       2])"))
    assert cell.seen == ["Out[0:3]: 42", "Out[1]:\narray([1,\n       2])"]


MIXED = [
    Output(1, "stdout", "out 1\n"),
    Output(0, "stdout", "out 0, "),
    Output(0, "stderr", "err 0\n"),
    Output(0, "stdout", "more\n"),
    result(1, "r1"),
    result(0, "r0"),
]


@pytest.mark.parametrize(
    ("groupby", "seen"),
    [
        ("type", ["[stdout:0] out 0, more\n", "[stdout:1] out 1\n", "[stderr:0] err 0\n", "Out[0]: r0", "Out[1]: r1"]),
        ("order", ["[stdout:1] out 1\n", "[stderr:0] err 0\n", "[stdout:0] out 0, more\n", "Out[1]: r1", "Out[0]: r0"]),
        (
            "engine",
            ["[stderr:0] err 0\n", "[stdout:0] out 0, more\n", "Out[0]: r0", "[stdout:1] out 1\n", "Out[1]: r1"],
        ),
    ],
)
def test_grouping(cell, screen, groupby, seen):
    show_grouped(MIXED, screen, groupby)
    assert cell.seen == seen


def test_an_unknown_grouping_is_told(screen):
    with pytest.raises(ValueError, match="use one of type, engine, order"):
        show_grouped(MIXED, screen, "colour")


def test_stream_output_shows_lines_as_they_are_completed(shell, make_client, capsys):
    load(shell)
    client = make_client()
    client.session.link.play = lambda engine, code: [out("10 %\r20"), out(" %\nrest")]
    result = client[:].execute("work()")
    with result.stream_output():
        assert result.wait(10)
    shown = capsys.readouterr().out.splitlines()
    assert sorted(shown) == ["[stdout:0] 20 %", "[stdout:0] rest", "[stdout:1] 20 %", "[stdout:1] rest"]
