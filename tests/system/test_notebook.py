"""The quickstart, cell by cell, in a real kernel on a real cluster."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import psutil
import pytest

from parallelkit.jupyter import demo

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def cluster_processes(home):
    """Processes of clusters that live in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PARALLELKIT_RUNTIME_DIR", "").startswith(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [process for process in found if process.pid != psutil.Process().pid]


def test_the_quickstart_does_its_job_and_leaves_nothing_behind(cluster_home, tmp_path):
    told = []
    executed = nbformat.read(demo.run(tmp_path, told.append), as_version=4)
    text = "\n".join(told)

    assert re.search(r"one core: [\d.]+ s", text)
    assert re.search(r"\d engines?: [\d.]+ s, [\d.]+ times as fast", text)
    files = int(re.search(r"([\d,]+) files", text)[1].replace(",", ""))
    assert files > 500
    top = text.partition("complexity  worst")[2].splitlines()[1:11]
    assert len(top) == 10
    assert all(line.endswith(".py") for line in top)
    report = Path(re.search(r"report: (.+)", text)[1])
    assert report.parent == tmp_path
    page = report.read_text()
    assert page.count("<circle") > 500
    assert not re.search(r"\b(src|href)\s*=|@import|url\(", page), "the report needs nothing from elsewhere"

    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    live = "".join(output.text for output in outputs["live"])
    assert re.search(r"\[stdout:0\] process \d+, step 0", live)
    rich = [output for output in outputs["rich"] if "text/html" in output.data]
    assert len(rich) >= 1
    [error] = [output for output in outputs["error"] if output.output_type == "error"]
    shown = [line for entry in error.traceback for line in entry.splitlines()]
    assert len(shown) <= 15
    assert any("return a / b" in line for line in shown)

    left = cluster_processes(cluster_home)
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []
