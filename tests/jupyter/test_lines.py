from __future__ import annotations

import pytest

from parallelkit.jupyter.lines import Lines


@pytest.mark.parametrize(
    ("pieces", "complete", "unfinished"),
    [
        (["one\ntwo\nthr"], ["one", "two"], "thr"),
        (["on", "e\n"], ["one"], ""),
        (["\n\n"], ["", ""], ""),
        (["10%\r20%\r30%"], [], "30%"),
        (["100%\rdone\n"], ["done"], ""),
        (["long line\rshort\n"], ["shortline"], ""),
        (["windows\r\nlines\r\n"], ["windows", "lines"], ""),
        (["bar 10%\r", "bar 20%\r", "bar 30%\n"], ["bar 30%"], ""),
    ],
)
def test_lines_are_what_a_terminal_would_show(pieces, complete, unfinished):
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    assert found == complete
    assert lines.unfinished == unfinished


def test_the_end_takes_what_is_there_and_starts_anew():
    lines = Lines()
    lines.feed("half\rHA")
    assert lines.end() == "HAlf"
    assert lines.end() == ""
    assert lines.feed("next\n") == ["next"]


def test_a_bar_that_wipes_itself_out_leaves_nothing():
    lines = Lines()
    lines.feed("100%\r    \r")
    assert lines.end() == ""
