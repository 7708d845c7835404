"""Another process, and cells of a notebook: what travels between them."""

from __future__ import annotations

import base64
import json
import linecache
import subprocess
import sys

import pytest

#: Loads what it gets, evaluates an expression about it (named ``it``), answers with the pickled value or the error.
SERVER = """
import asyncio, base64, json, sys, traceback
from parallelkit.wire.payload import dump_whole, load

for line in sys.stdin:
    request = json.loads(line)
    try:
        it = load(base64.b64decode(request["data"]))
        answer = {"value": base64.b64encode(dump_whole(eval(request["expression"]))).decode()}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


class Elsewhere:
    """A fresh interpreter that knows nothing of this one's modules and ``__main__``."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )

    def evaluate(self, data, expression):
        """The pickled value of an expression about ``it``; raises AssertionError with the traceback there."""
        answer = self._ask(data, expression)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return base64.b64decode(answer["value"])

    def error(self, data, expression):
        """The traceback that the expression ends with there."""
        return self._ask(data, expression)["error"]

    def _ask(self, data, expression):
        request = {"data": base64.b64encode(data).decode(), "expression": expression}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture(scope="package")
def elsewhere():
    process = Elsewhere()
    yield process
    process.close()


class Notebook:
    """Runs cells as IPython does: in ``__main__``, under a file name that only ``linecache`` knows."""

    def __init__(self):
        self.names = {"__name__": "__main__"}
        self.files = []

    def run(self, source):
        """Run one cell; returns the names of the notebook."""
        filename = f"/tmp/ipykernel_{id(self)}/{len(self.files)}.py"
        self.files.append(filename)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), self.names)
        return self.names

    def close(self):
        for filename in self.files:
            linecache.cache.pop(filename, None)


@pytest.fixture
def notebook():
    notebook = Notebook()
    yield notebook
    notebook.close()
