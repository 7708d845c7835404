"""An IPython shell, and a client whose engines follow a script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from parallelkit.client import display
from parallelkit.client.client import Client
from parallelkit.wire.failures import dump_failure
from parallelkit.wire.frames import pack
from parallelkit.wire.messages import Operation, Outcome, OutputRecord, ResultRecord, Stream
from parallelkit.wire.payload import dump, load

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))  # the scripted link is the client's

from scripted_link import ScriptedLink


class CellLink(ScriptedLink):
    """Engines that answer a cell by ``play(engine, code)``: pieces of output, then a value or an exception."""

    def __init__(self, engines=2, held=False):
        super().__init__(engines, held)
        #: The payloads of all cells, in order.
        self.cells = []
        self.play = lambda engine, code: []
        #: Called on the I/O thread when a cell has printed what it prints.
        self.before_end = lambda engine: None

    def _execute(self, task, engine):
        if task.call.operation is not Operation.EXECUTE:
            super()._execute(task, engine)
            return
        id = engine.info.id if task.target is None else task.target
        cell = load(task.call.payload.data, task.call.payload.buffers)
        self.cells.append((id, cell))
        outcome, answer = Outcome.OK, {"execution_count": len(self.cells), "result": None}
        for item in self.play(id, cell["code"]):
            if isinstance(item, Exception):
                outcome, answer = Outcome.ERROR, item
            else:
                task.sink.output(OutputRecord(task.seq, 1, id, *item))
        self.before_end(id)
        payload = dump(answer) if outcome is Outcome.OK else dump_failure(answer, engine=id, run=1, task="t")
        data, frames = pack(payload.data, payload.buffers)
        task.sink.settle(ResultRecord(task.seq, 1, outcome, data, len(frames), id, 1), frames)


def out(text):
    return (Stream.STDOUT, text.encode())


def err(text):
    return (Stream.STDERR, text.encode())


@pytest.fixture(autouse=True)
def shown_as_before(monkeypatch):
    """Loading the extension changes how this process shows results; after the test it is as it was."""
    monkeypatch.setattr(display, "_show", display._show)
    monkeypatch.setattr(display, "_watch", display._watch)
    monkeypatch.setattr(display, "_screen", display._screen)


@pytest.fixture
def shell():
    """A shell like a terminal's, without a history database."""
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)
    yield shell
    shell.reset(new_session=False)


@pytest.fixture
def make_client():
    clients = []

    def make(engines=2, held=False):
        client = Client.over(CellLink(engines, held))
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()
