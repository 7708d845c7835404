"""The IPython shell of an engine: cells, magics, rich output, tracebacks; no terminal, no database, nobody to ask."""

import base64
import getpass
import json
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings

import pytest

from parallelkit.engine.coroutines import Coroutines
from parallelkit.engine.shell import KEPT_CELLS, EngineShell, build, forbid_input
from parallelkit.wire.messages import Stream


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One shell for the module; all that building it changes in this process is put back."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv("MPLBACKEND", "agg")
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        for name in ("ps1", "ps2", "ps3"):
            patch.setattr(sys, name, None, raising=False)
        shell = build()
        yield shell
        EngineShell.clear_instance()


@pytest.fixture
def shell(built):
    built.shown = []
    built.publish = lambda stream, data: built.shown.append((stream, json.loads(data)))
    return built


def test_building_it_starts_no_thread_and_a_second_time_gives_the_same(shell):
    assert build() is shell
    assert not [thread for thread in threading.enumerate() if "IPython" in thread.name]
    assert shell.history_manager.enabled is False


class TestCells:
    def test_the_value_of_the_last_expression_is_shown_and_returned(self, shell):
        reply = shell.execute("x = 20\nx + 1")
        assert reply["result"] == {"text/plain": "21"}
        assert shell.shown == [(Stream.RESULT, {"data": {"text/plain": "21"}, "metadata": {}, "transient": {}})]

    def test_cells_are_counted(self, shell):
        first = shell.execute("1")["execution_count"]
        assert shell.execute("2")["execution_count"] == first + 1
        assert shell.execute(f"In[{first}], Out[{first}]")["result"] == {"text/plain": "('1', 1)"}

    def test_silent_ones_are_not_and_show_nothing(self, shell):
        before = shell.execution_count
        assert shell.execute("y = 3\ny", silent=True)["result"] is None
        assert (shell.execution_count, shell.shown, shell.user_ns["y"]) == (before, [], 3)

    def test_a_semicolon_hides_the_value(self, shell):
        assert shell.execute("3;")["result"] is None

    def test_magics(self, shell, capsys):
        shell.execute("%who_ls str")
        shell.execute("text = 'abc'\n%who str\n!echo from $text")
        assert capsys.readouterr().out.split() == ["text", "from", "abc"]

    def test_top_level_await(self, shell):
        coroutines = Coroutines()
        shell.loop_runner = coroutines.run
        code = "import asyncio\nawait asyncio.sleep(0)\nid(asyncio.get_running_loop())"
        first, second = shell.execute(code), shell.execute(code)
        coroutines._loop.close()
        assert first["result"] == second["result"]

    def test_it_knows_itself(self, shell):
        shell.assume(4)
        assert shell.execute("engine_id, get_ipython().engine_id")["result"] == {"text/plain": "(4, 4)"}
        assert shell.execute("%reset -f\nengine_id")["result"] == {"text/plain": "4"}
        assert "engine_id" not in shell.run_line_magic("who_ls", "")

    def test_a_long_session_does_not_grow(self, shell):
        before = set(linecache.cache)  # also of other shells, that tests before this one have made
        for _ in range(KEPT_CELLS + 20):
            shell.execute("0;")
        names = [name for name in set(linecache.cache) - before if name.startswith("<ipython-input")]
        assert 0 < len(names) <= KEPT_CELLS
        assert sum(bool(text) for text in shell.history_manager.input_hist_raw) <= KEPT_CELLS + 1
        assert len([name for name in shell.user_ns if name.startswith("_i") and name[2:].isdigit()]) <= KEPT_CELLS + 1
        assert shell.history_manager.db_input_cache == []

    def test_what_cells_show_is_not_kept(self, shell):
        shell.execute("print('text'); display({'text/plain': 'rich'}, raw=True)")
        assert not getattr(shell.history_manager, "outputs", {})


class TestErrors:
    def text_of(self, shell, code, **options):
        try:
            shell.execute(code, **options)
        except BaseException as error:  # noqa: BLE001 - any of them is a result
            return "".join(traceback.format_exception(error))
        raise AssertionError("nothing was raised")

    def test_the_traceback_shows_the_lines_of_the_cell(self, shell, capsys):
        text = self.text_of(shell, "def f(x):\n    return 1 / x\n\nf(0)", filename="<px cell 7>")
        assert 'File "<px cell 7>", line 2, in f\n    return 1 / x' in text
        assert "ZeroDivisionError" in text
        assert "IPython" not in text
        assert capsys.readouterr() == ("", "")

    def test_it_still_does_when_the_function_is_called_later(self, shell):
        shell.execute("def later():\n    return {}['gone']", filename="<px cell 8>")
        assert "return {}['gone']" in self.text_of(shell, "later()")

    def test_syntax_errors(self, shell, capsys):
        text = self.text_of(shell, "x = = 1", filename="<px cell 9>")
        assert 'File "<px cell 9>", line 1' in text
        assert "SyntaxError: invalid syntax" in text
        assert "IPython" not in text
        assert capsys.readouterr() == ("", "")

    @pytest.mark.filterwarnings("ignore:To exit")
    def test_system_exit_and_interrupts_are_raised_too(self, shell):
        assert "SystemExit: 3" in self.text_of(shell, "raise SystemExit(3)")
        assert "KeyboardInterrupt" in self.text_of(shell, "raise KeyboardInterrupt")

    def test_exit_says_what_to_do_instead(self, shell):
        assert "does not end an engine: use shutdown()" in self.text_of(shell, "exit()")

    def test_a_failing_script_prints_its_traceback_and_the_cell_goes_on(self, shell, tmp_path, capsys):
        script = tmp_path / "script.py"
        script.write_text("1 / 0\n")
        shell.execute(f"%run {script}\nafter = True")
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert shell.user_ns["after"] is True

    def test_a_nested_cell_prints_its_own(self, shell, capsys):
        shell.execute("get_ipython().run_cell('[][1]');")
        assert "IndexError" in capsys.readouterr().err

    def test_nobody_can_be_asked(self, shell, monkeypatch):
        monkeypatch.setattr("builtins.input", input)
        monkeypatch.setattr(getpass, "getpass", getpass.getpass)
        forbid_input()
        for code in ("input('name? ')", "import getpass; getpass.getpass()"):
            assert "an engine has nobody to ask" in self.text_of(shell, code)


class TestRichOutput:
    def test_display(self, shell):
        shell.execute("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'), metadata={'a': 1})")
        ((stream, bundle),) = shell.shown
        assert stream is Stream.DISPLAY
        assert bundle["data"]["text/html"] == "<b>x</b>"
        assert bundle["metadata"] == {"a": 1}

    def test_bytes_travel_as_base64(self, shell):
        shell.execute("display({'image/png': b'pixels', 'text/plain': {1}}, raw=True)")
        data = shell.shown[0][1]["data"]
        assert base64.b64decode(data["image/png"]) == b"pixels"
        assert data["text/plain"] == "{1}"

    def test_results_with_bytes_too(self, shell):
        shell.execute("class Picture:\n    def _repr_png_(self):\n        return b'pixels'")
        assert base64.b64decode(shell.execute("Picture()")["result"]["image/png"]) == b"pixels"

    def test_updates_and_clearing(self, shell):
        shell.execute(
            "from IPython.display import clear_output\n"
            "handle = display(1, display_id='d')\nhandle.update(2)\nclear_output(wait=True)"
        )
        transients = [bundle["transient"] for _, bundle in shell.shown]
        assert transients == [{"display_id": "d"}, {"display_id": "d", "update": True}, {}]
        assert shell.shown[2] == (Stream.CLEAR, {"data": {"wait": True}, "metadata": {}, "transient": {}})


def run_alone(program, tmp_path):
    """Output and errors of a program in a process of its own, whose shell nobody else has touched."""
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    environment.pop("MPLBACKEND", None)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return answer.stdout, answer.stderr


def test_figures_are_shown_by_cells_and_functions(tmp_path):
    pytest.importorskip("matplotlib")
    program = """
        import json, sys
        from parallelkit.engine.shell import build
        shell = build()
        assert "matplotlib" not in sys.modules
        shown = []
        shell.publish = lambda stream, data: shown.append((stream.name, sorted(json.loads(data)["data"])))
        shell.execute("import matplotlib.pyplot as plt\\nplt.plot([1, 2]);")
        print(shown.pop())
        shell.user_ns["plt"].plot([2, 1])
        shell.after_call()
        print(shown.pop(), shown)
        shell.after_call()
        print(shown, shell.user_ns["plt"].get_fignums())
    """
    figure = "('DISPLAY', ['image/png', 'text/plain'])"
    assert run_alone(program, tmp_path)[0] == f"{figure}\n{figure} []\n[] []\n"


def test_building_it_opens_nothing_and_leaving_a_cell_warns_of_nothing(tmp_path):
    program = """
        import os, sys, threading
        before = sorted(os.listdir("/proc/self/fd"))
        from parallelkit.engine.shell import build
        shell = build()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert threading.active_count() == 1
        assert not {"zmq", "sqlite3", "matplotlib", "jedi"} & set(sys.modules)
        try:
            shell.execute("raise SystemExit(3)")
        except SystemExit as error:
            print(error.code)
    """
    assert run_alone(program, tmp_path) == ("3\n", "")
