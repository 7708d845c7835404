"""Where output lands: in a kernel under the cell that started it, else in the streams of that moment."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher

from parallelkit.jupyter.cell import Cell


class KernelStream(io.StringIO):
    """Has what tells a kernel's stream from others."""

    pub_thread = None


class KernelPublisher:
    """Has what a kernel's publisher has; keeps what is sent."""

    topic = b"topic"
    pub_socket = object()

    def __init__(self):
        self.parent_header = {"msg_id": "first cell"}
        self.session = self
        self.sent = []

    def send(self, socket, kind, content, parent, ident):
        assert (socket, ident) == (self.pub_socket, self.topic)
        self.sent.append((kind, content, parent["msg_id"]))


@pytest.fixture
def start_kernel(monkeypatch):
    """Makes this process look like a kernel. Called by the test itself: pytest sets its own streams before it."""

    def start():
        monkeypatch.setattr(sys, "stdout", KernelStream())
        monkeypatch.setattr(sys, "stderr", KernelStream())
        return SimpleNamespace(display_pub=KernelPublisher())

    return start


def test_late_output_belongs_to_the_cell_that_started_it(start_kernel):
    kernel = start_kernel()
    cell = Cell(kernel)
    kernel.display_pub.parent_header = {"msg_id": "another cell"}
    cell.write("stderr", "late")
    cell.show({"text/plain": "1"}, display_id="d")
    cell.show({"text/plain": "2"}, {"width": 1}, display_id="d", update=True)
    assert kernel.display_pub.sent == [
        ("stream", {"name": "stderr", "text": "late"}, "first cell"),
        ("display_data", {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}, "first cell"),
        (
            "update_display_data",
            {"data": {"text/plain": "2"}, "metadata": {"width": 1}, "transient": {"display_id": "d"}},
            "first cell",
        ),
    ]
    assert cell.is_rich


def test_captured_output_stays_captured(start_kernel, monkeypatch):
    kernel = start_kernel()
    captured = CapturingDisplayPublisher()
    real, kernel.display_pub = kernel.display_pub, captured
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    cell = Cell(kernel)
    monkeypatch.undo()
    cell.write("stdout", "text")
    cell.show({"text/plain": "shown"})
    assert stream.getvalue() == "text"
    assert [output["data"] for output in captured.outputs] == [{"text/plain": "shown"}]
    assert real.sent == []
    assert not cell.is_rich


def test_without_a_shell_text_goes_to_the_streams(capsys):
    cell = Cell(None)
    cell.write("stderr", "err\n")
    cell.show({"text/plain": "shown", "text/html": "<b>shown</b>"})
    assert capsys.readouterr() == ("shown\n", "err\n")
    assert not cell.is_terminal


def test_a_terminal_is_one_where_lines_can_be_overwritten(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert Cell(None).is_terminal
