"""The magics in a real kernel on a real cluster: where output lands, and Ctrl-C."""

from __future__ import annotations

import shutil
import tempfile
import time
from types import SimpleNamespace

import pytest
from jupyter_client.manager import KernelManager

from parallelkit.jupyter import demo

pytestmark = pytest.mark.system

PATIENCE = 60


class Kernel:
    """Runs cells and keeps what was published, by the cell it belongs to."""

    def __init__(self):
        self.manager = KernelManager(kernel_spec_manager=demo.this_python())
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        self.published = []

    def send(self, code):
        """Start a cell; returns its id."""
        return self.client.execute(code)

    def until(self, condition):
        """Read what is published until ``condition(message)``."""
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            self.published.append(message)
            if condition(message):
                return message

    def finish(self, cell):
        """Read until the cell has ended; returns its reply."""
        self.until(lambda m: is_of(m, cell) and m["msg_type"] == "status" and m["content"]["execution_state"] == "idle")
        while True:
            reply = self.client.get_shell_msg(timeout=PATIENCE)
            if is_of(reply, cell):
                return SimpleNamespace(**reply["content"])

    def run(self, code):
        cell = self.send(code)
        return cell, self.finish(cell)

    def text(self, cell):
        """All text of a cell, in the order in which it came."""
        return "".join(m["content"]["text"] for m in self.published if is_of(m, cell) and m["msg_type"] == "stream")

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def is_of(message, cell):
    return message["parent_header"].get("msg_id") == cell


def prints(cell, text):
    return lambda m: is_of(m, cell) and m["msg_type"] == "stream" and text in m["content"]["text"]


@pytest.fixture(scope="module")
def home():
    folder = tempfile.mkdtemp(prefix="pk-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARALLELKIT_RUNTIME_DIR", f"{folder}/run")
        patch.setenv("PARALLELKIT_STATE_DIR", f"{folder}/state")
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def kernel(home):
    kernel = Kernel()
    _, reply = kernel.run("import parallelkit as pk\nrc = pk.connect(n=2)\n%load_ext parallelkit\n%px import time")
    assert reply.status == "ok", reply
    yield kernel
    kernel.run("rc.shutdown(hub=True)")
    kernel.close()


def test_output_streams_while_the_cell_runs(kernel):
    cell = kernel.send('%%px -t 0\nprint("first")\ntime.sleep(0.5)\nprint("second")')
    first = kernel.until(prints(cell, "first"))
    second = kernel.until(prints(cell, "second"))
    assert (second["header"]["date"] - first["header"]["date"]).total_seconds() > 0.2
    assert kernel.finish(cell).status == "ok"


def test_late_output_lands_under_its_own_cell(kernel):
    cell = kernel.send('%%px -a -t 0\ntime.sleep(0.5)\nprint("late")')
    assert kernel.finish(cell).status == "ok"
    other = kernel.send("print('another cell'); rc.wait()")
    kernel.until(prints(cell, "[stdout:0] late"))
    kernel.finish(other)
    assert "late" not in kernel.text(other)


def test_a_pending_result_shows_its_progress_and_ends_as_plain_text(kernel):
    cell = kernel.send("rc.load_balanced_view().map(lambda x: time.sleep(x) or x, [0.3] * 4)\n")
    shown = kernel.until(lambda m: is_of(m, cell) and m["msg_type"] == "display_data")
    assert "<progress" in shown["content"]["data"]["text/html"]
    display_id = shown["content"]["transient"]["display_id"]
    last = kernel.until(
        lambda m: m["msg_type"] == "update_display_data" and "done in" in m["content"]["data"]["text/plain"]
    )
    assert is_of(last, cell)
    assert last["content"]["transient"]["display_id"] == display_id
    assert "text/html" not in last["content"]["data"]


def test_ctrl_c_interrupts_the_engines_and_the_next_cell_runs(kernel):
    cell = kernel.send('%%px\nprint("running")\ntry:\n    time.sleep(60)\nfinally:\n    print("cleaned up")')
    kernel.until(prints(cell, "running"))
    kernel.manager.interrupt_kernel()
    reply = kernel.finish(cell)
    assert (reply.status, reply.ename) == ("error", "KeyboardInterrupt")
    assert kernel.text(cell).count("cleaned up") == 2
    next_cell, reply = kernel.run('%%px\nprint("alive")')
    assert reply.status == "ok"
    assert kernel.text(next_cell).count("alive") == 2


def test_a_second_ctrl_c_leaves_engines_that_cannot_be_interrupted(kernel):
    code = 'print("stubborn")\nend = time.time() + 3\nwhile time.time() < end:\n    try:\n        time.sleep(3)\n'
    cell = kernel.send(f"%%px -t 1\n{code}    except KeyboardInterrupt:\n        print('not me')\nprint('finished')")
    kernel.until(prints(cell, "stubborn"))
    kernel.manager.interrupt_kernel()
    kernel.until(prints(cell, "not me"))
    kernel.manager.interrupt_kernel()
    reply = kernel.finish(cell)
    assert reply.ename == "KeyboardInterrupt"
    assert "the engines go on" in reply.evalue
    kernel.until(prints(cell, "finished"))  # still under its own cell


def test_rich_output_arrives_engine_by_engine(kernel):
    code = "%%px\nfrom IPython.display import HTML, display\ndisplay(HTML(f'<b>{engine_id}</b>'))\nHTML('<i>value</i>')"
    cell, reply = kernel.run(code)
    assert reply.status == "ok"
    shown = [m["content"]["data"] for m in kernel.published if is_of(m, cell) and m["msg_type"] == "display_data"]
    assert {data.get("text/html") for data in shown} >= {"<b>0</b>", "<b>1</b>", "<i>value</i>"}
    headings = [data["text/plain"] for data in shown if "text/html" not in data]
    assert sorted(headings)[-2:] == ["[output:0]", "[output:1]"]
    assert [text for text in headings if text.startswith("Out[")] == sorted(t for t in headings if t.startswith("Out["))


def test_a_progress_bar_ends_as_one_line(kernel):
    code = "%%px -t 0\nfor n in range(5):\n    print(f'\\r{n * 25}%', end='', flush=True)\n    time.sleep(0.1)\nprint()"
    cell, reply = kernel.run(code)
    assert reply.status == "ok"
    assert kernel.text(cell) == "[stdout:0] 100%\n"
