"""The magics in a real shell, with a real client on a scripted link."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from parallelkit import load_ipython_extension
from parallelkit.client.client import current
from parallelkit.client.results import AsyncResult
from parallelkit.errors import NoSuchEngine, RemoteErrors
from parallelkit.jupyter import magics
from parallelkit.wire.messages import SignalEngines, Stream
from tests.jupyter.conftest import err, out

PATIENCE = 10


@pytest.fixture
def client(make_client):
    return make_client(2)


@pytest.fixture
def link(client):
    return client.session.link


@pytest.fixture
def run(shell, client):
    """Runs a cell; returns its outcome. The client is the latest, so the magics work on it."""
    load_ipython_extension(shell)
    return shell.run_cell


def shown_result(text):
    return (Stream.RESULT, json.dumps({"data": {"text/plain": text}, "metadata": {}}).encode())


def test_a_cell_runs_on_every_engine_and_its_output_comes_back(run, link, capsys):
    link.play = lambda engine, code: [out(f"{code.strip()} on {engine}\n"), err("warning\n")]
    assert run("%%px\nthe code\n").success
    printed, warned = capsys.readouterr()
    assert sorted(printed.splitlines()) == ["[stdout:0] the code on 0", "[stdout:1] the code on 1"]
    assert sorted(warned.splitlines()) == ["[stderr:0] warning", "[stderr:1] warning"]


def test_a_line_runs_on_the_engines_it_names(run, link, capsys):
    run("%px -t 1 print(-x)")
    assert [(engine, cell["code"]) for engine, cell in link.cells] == [(1, "print(-x)")]


def test_results_come_last_and_in_the_order_of_the_engines(run, link, capsys):
    link.play = lambda engine, code: [shown_result(f"r{engine}"), out("text\n")]
    run("%%px -t [1,0]\n1\n")
    assert capsys.readouterr().out.splitlines()[-2:] == ["Out[0:2]: r0", "Out[1:1]: r1"]


def test_code_travels_with_a_name_that_tells_cells_apart(run, link):
    run("%%px\na\n", store_history=True)
    run("%%px\nb\n", store_history=True)
    names = [cell["filename"] for engine, cell in link.cells if engine == 0]
    assert names[0].startswith("<In[1] ")
    assert names[1].startswith("<In[2] ")
    assert all(cell["silent"] is False for _, cell in link.cells)


def test_targets_may_be_names_of_the_notebook(run, link, shell):
    shell.user_ns["mine"] = [1]
    run("%px -t mine x")
    assert [engine for engine, _ in link.cells] == [1]


def test_an_engine_that_is_not_there(run, link, capsys):
    outcome = run("%px -t 7 x")
    assert isinstance(outcome.error_in_exec, NoSuchEngine)
    printed = capsys.readouterr().out
    assert "NoSuchEngine: no engine 7" in printed
    assert "Traceback" not in printed
    assert link.cells == []


def test_the_error_of_one_engine_is_raised_as_itself(run, link, capsys):
    link.play = lambda engine, code: [KeyError("k")] if engine else []
    outcome = run("%%px\nx\n")
    assert isinstance(outcome.error_in_exec, KeyError)
    assert "on engine 1:" in capsys.readouterr().out


def test_errors_of_several_engines_are_raised_as_a_group_and_told_once(run, link, capsys):
    link.play = lambda engine, code: [out("before\n"), ValueError("same")]
    outcome = run("%%px\nx\n")
    assert isinstance(outcome.error_in_exec, RemoteErrors)
    assert len(outcome.error_in_exec.exceptions) == 2
    printed = capsys.readouterr().out
    assert printed.count("same") == 1
    assert "on engines 0–1:" in printed
    assert "[stdout:0] before" in printed
    assert len(printed.splitlines()) <= 15


def test_groups_of_plain_calls_are_told_in_the_same_way(run, client, shell, capsys):
    shell.user_ns["view"] = client.load_balanced_view()
    run("view.map_sync(lambda x: 1 / x, [1, 0, 0])")
    printed = capsys.readouterr().out
    assert printed.count("division by zero") == 1
    assert printed.startswith("line 1 of this cell: view.map_sync(")
    assert "Traceback" not in printed


def test_noblock_returns_at_once_and_shows_the_output_all_the_same(shell, make_client, capsys):
    client = make_client(1, held=True)
    link = client.session.link
    link.play = lambda engine, code: [out("late\n")]
    load_ipython_extension(shell)
    result = shell.run_cell("%%px -a -o kept\nx\n").result
    assert isinstance(result, AsyncResult)
    assert not result.done()
    assert shell.user_ns["kept"] is result
    link.release()
    shell.run_cell("%pxresult")  # waits for it and for its output
    printed = capsys.readouterr().out
    assert printed.count("[stdout:0] late") == 2  # when it came, and once more


def test_without_streaming_output_comes_in_groups(run, link, capsys):
    link.play = lambda engine, code: [out(f"a{engine}\n"), out(f"b{engine}\n")]
    run("%%px --no-stream\nx\n")
    assert capsys.readouterr().out.splitlines() == [f"[stdout:{n}] {c}{n}" for n in (0, 1) for c in "ab"]


def test_pxresult_groups_as_told_and_raises_again(run, link, capsys):
    link.play = lambda engine, code: [out("o\n"), shown_result("r"), *([ValueError("v")] if engine else [])]
    run("%%px\nx\n")
    capsys.readouterr()
    outcome = run("%pxresult -e")
    assert isinstance(outcome.error_in_exec, ValueError)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["[stdout:0] o", "Out[0:1]: r"]


def test_pxresult_before_anything_ran(run, capsys):
    assert not run("%pxresult").success
    assert "no cell has run on the engines yet" in capsys.readouterr().err


def test_pxconfig_sets_what_holds_until_the_line_says_otherwise(run, link, capsys):
    run("%pxconfig -t 1 --verbose")
    run("%px x")
    run("%px -t 0 --no-verbose x")
    assert [engine for engine, _ in link.cells] == [1, 0]
    assert capsys.readouterr().out == "%px on engines 1\n"
    run("%pxconfig")
    assert "targets = '1'" in capsys.readouterr().out


def test_timeout_travels_with_the_task(run, link):
    run("%px --timeout 2.5 x")
    run("%px x")
    assert [options.timeout for _, options in link.submitted] == [2.5, None]


def test_local_runs_it_here_too(run, link, shell):
    run("%%px --local\nhere = 6 * 7\n")
    assert shell.user_ns["here"] == 42
    assert len(link.cells) == 2


def test_what_fails_here_fails_the_cell_and_is_told_once(run, link, capsys):
    outcome = run("%%px --local\n1 / 0\n")
    assert isinstance(outcome.error_in_exec, ZeroDivisionError)
    assert capsys.readouterr().out.count("division by zero") == 1


def test_autopx_sends_every_cell_until_it_is_switched_off(run, link, shell):
    run("%autopx")
    run("first\n")
    run("%px -t 0 second")
    run("%%time\nthird")
    run("%autopx")
    run("here = 1")
    assert [cell["code"].strip() for engine, cell in link.cells if engine == 0] == ["first", "second", "%%time\nthird"]
    assert shell.user_ns["here"] == 1


def test_a_suffixed_set_works_on_its_own_view(run, client, link, shell):
    magics.activate(shell, client[1], "_last")
    run("%px_last x")
    run("%%px_last\ny")
    assert [engine for engine, _ in link.cells] == [1, 1]


def test_the_magics_follow_the_latest_client_that_is_open(run, client, make_client):
    newer = make_client(1)
    assert current() is newer
    run("%px x")
    assert newer.session.link.cells
    newer.close()
    run("%px y")
    assert [cell["code"] for _, cell in client.session.link.cells] == ["y", "y"]


def test_help_lists_the_flags(run, capsys):
    run("%%px?")
    printed = capsys.readouterr().out
    for flag in ("--targets", "--noblock", "--progress-after", "--timeout"):
        assert flag in printed


def test_outputs_of_any_result_are_shown_in_the_same_way(run, client, link, capsys):
    link.play = lambda engine, code: [out("text\n"), shown_result("value")]
    result = client[:].execute("x", silent=False)
    result.display_outputs("engine")
    result.display_outputs(result_only=True)
    whole = [line for n in range(2) for line in (f"[stdout:{n}] text", f"Out[{n}]: value")]
    assert capsys.readouterr().out.splitlines() == [*whole, "Out[0]: value", "Out[1]: value"]


def test_progress_is_shown_when_it_takes_longer(run, shell, make_client, monkeypatch):
    """In a kernel; here the place for it is looked at through the cell's display."""
    client = make_client(2, held=True)
    shown = []
    enough = threading.Event()

    def note(cell, data, metadata=None, display_id=None, *, update=False):
        shown.append(data["text/plain"])
        if "0 of 2 engines done" in shown[-1] and not enough.is_set():
            enough.set()
            client.session.link.release()

    monkeypatch.setattr(magics.Cell, "show", note)
    monkeypatch.setattr(magics.Cell, "is_rich", True)
    assert run("%%px --progress-after 0\nx\n").success
    assert enough.is_set()
    assert shown[-1] == ""


# ---------------------------------------------------------------------------------------------------- interrupts


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_cancels_the_cell_and_ends_it_when_its_output_is_shown(shell, make_client, capsys):
    client = make_client(2, held=True)
    link = client.session.link
    load_ipython_extension(shell)
    link.play = lambda engine, code: [out("started\n")]
    link.before_end = lambda engine: (press_ctrl_c(), link.cancelled_once.wait(PATIENCE))
    link.cancelled_once = threading.Event()
    cancel = link.cancel
    link.cancel = lambda first, count: (cancel(first, count), link.cancelled_once.set())
    link._allowed = 1  # the first engine's part runs, the second's waits
    outcome = shell.run_cell("%%px\nx\n")
    assert isinstance(outcome.error_in_exec, KeyboardInterrupt)
    printed = capsys.readouterr().out
    assert "[stdout:0] started" in printed
    assert "KeyboardInterrupt" in printed
    assert "Traceback" not in printed
    assert link.cancelled == [(0, 2)]


def test_ctrl_c_sends_the_signal_that_was_asked_for(shell, make_client):
    client = make_client(2, held=True)
    link = client.session.link
    load_ipython_extension(shell)
    reached = threading.Event()

    def request(make, timeout=None):
        link.requests.append(make(1))
        reached.set()
        return [0, 1]

    link.request = request
    link.before_end = lambda engine: (press_ctrl_c() if not reached.is_set() else None, reached.wait(PATIENCE))
    link._allowed = None
    outcome = shell.run_cell("%%px --signal-on-interrupt TERM\nx\n")
    assert isinstance(outcome.error_in_exec, KeyboardInterrupt)
    assert link.requests == [SignalEngines(1, [0, 1], signal.SIGTERM)]
    assert link.cancelled == []


def test_ctrl_c_that_engines_shall_not_see_leaves_them_alone(shell, make_client, capsys):
    client = make_client(1, held=True)
    link = client.session.link
    load_ipython_extension(shell)
    timer = threading.Thread(target=lambda: (link.wait_submitted(1), press_ctrl_c()))
    timer.start()
    outcome = shell.run_cell("%%px --signal-on-interrupt 0\nx\n")
    timer.join()
    assert isinstance(outcome.error_in_exec, KeyboardInterrupt)
    assert link.cancelled == []
    link.play = lambda engine, code: [out("went on\n")]
    link.release()
    assert shell.run_cell("%pxresult").success
    assert "[stdout:0] went on" in capsys.readouterr().out


def test_the_handler_that_was_there_is_there_again(run):
    before = signal.getsignal(signal.SIGINT)
    run("%px x")
    assert signal.getsignal(signal.SIGINT) is before


def test_imports_of_a_cell_run_on_the_engines_too(run, link, shell, client):
    shell.user_ns["view"] = client[:]
    assert run("%time 1\nwith view.sync_imports(quiet=True):\n    import json as j").success
    assert [cell["code"] for _, cell in link.cells] == ["import json as j"] * 2
    assert shell.user_ns["j"] is json
