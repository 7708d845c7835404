"""How far a result is: live in a notebook, a bar in a terminal, a line in a log."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from parallelkit.client import display
from parallelkit.jupyter import progress
from tests.jupyter.test_display import NotedCell

PATIENCE = 10


class WatchedCell(NotedCell):
    """Says when a certain text is shown."""

    def __init__(self, **kind):
        super().__init__(**kind)
        self.changed = threading.Condition()

    def show(self, *args, **options):
        with self.changed:
            super().show(*args, **options)
            self.changed.notify_all()

    def wait_for(self, text):
        with self.changed:
            assert self.changed.wait_for(lambda: any(text in seen for seen in self.seen), PATIENCE), self.seen


@pytest.fixture
def held(make_client):
    return make_client(1, held=True)


def test_a_pending_result_is_a_bar_with_its_words_escaped(held):
    result = held.load_balanced_view().map(lambda x: x, range(4))
    shown = progress.bundle(result)
    assert shown["text/html"].startswith('<progress value="0" max="4">')
    assert "&lt;lambda&gt;" in shown["text/html"]
    assert shown["text/plain"] == repr(result)


def test_a_finished_result_is_plain_text(make_client):
    result = make_client().load_balanced_view().apply_async(abs, 1)
    result.wait()
    assert progress.bundle(result) == {"text/plain": repr(result)}


def test_the_line_follows_the_result_to_its_end(held):
    cell = WatchedCell()
    result = held.load_balanced_view().map(abs, range(3), chunksize=1)
    progress.show(result, cell)
    assert len(cell.items) == 1
    held.session.link.step(2)
    cell.wait_for('value="2" max="3"')
    held.session.link.release()
    cell.wait_for("done in")
    assert len(cell.items) == 1


def test_where_nothing_can_change_the_state_is_shown_once(held):
    cell = WatchedCell(rich=False)
    progress.show(held.load_balanced_view().apply_async(abs, 1), cell)
    held.session.link.release()
    assert len(cell.items) == 1


def test_a_result_as_the_last_value_of_a_cell_shows_itself(shell, make_client, capsys):
    shell.user_ns["view"] = make_client().load_balanced_view()
    progress.install(shell)
    shell.run_cell("result = view.apply_async(abs, 1)\nresult.wait()\nresult")
    assert "<AsyncResult abs: done in" in capsys.readouterr().out


def test_in_a_log_waiting_says_one_line(make_client, capsys):
    result = make_client().load_balanced_view().map(abs, range(3))
    assert display.watch(result, 0.1, None)
    assert capsys.readouterr().err == f"{result!r}\n"


def test_in_a_terminal_waiting_draws_a_bar(held, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    result = held.load_balanced_view().map(abs, range(3), chunksize=1, label="counting")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert not display.watch(result, 0.01, 0.05)
    held.session.link.release()
    assert result.wait_interactive(0.01)
    assert "counting" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
