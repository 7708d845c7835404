"""The runner of the demo, on small notebooks."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from parallelkit.jupyter import demo


def test_the_quickstart_is_found():
    notebook = nbformat.read(demo.notebook_path(), as_version=4)
    nbformat.validate(notebook)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells), "no outputs are committed"


def test_it_tells_headings_and_texts_and_leaves_out_what_needs_a_browser():
    outputs = [
        new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m … "),
        new_output("stream", name="stdout", text="done\n"),
        new_output("display_data", {"text/plain": "<HTML object>", "text/html": "<b>x</b>"}),
        new_output("execute_result", {"text/plain": "42"}),
        new_output("error", ename="E", evalue="v", traceback=["line one", "line two"]),
    ]
    cells = [new_markdown_cell("Words\n\n## A heading\n\nmore words"), new_code_cell("code", outputs=outputs)]
    told = []
    demo.tell(new_notebook(cells=cells), 1, told.append)
    assert told == ["\nA heading\n---------", "red … done", "42", "line one\nline two"]


def test_a_cell_without_output_is_passed_over():
    told = []
    demo.tell(new_notebook(cells=[new_markdown_cell("# Heading"), new_code_cell("code")]), 1, told.append)
    assert told == []


def test_outputs_without_a_heading_before_them():
    cells = [new_code_cell("code", outputs=[new_output("stream", name="stdout", text="a\n")])]
    told = []
    demo.tell(new_notebook(cells=cells), 0, told.append)
    assert told == ["a"]


@pytest.mark.system
def test_it_runs_a_notebook_with_this_python(tmp_path, monkeypatch, capsys):
    code = "import os, sys\nprint(sys.executable)\nprint(os.getcwd())"
    (tmp_path / "n.ipynb").write_text(nbformat.writes(new_notebook(cells=[new_code_cell(code)])))
    monkeypatch.setattr(demo, "notebook_path", lambda: tmp_path / "n.ipynb")
    assert demo.main([str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [demo.sys.executable, str(tmp_path / "out")]
    assert (tmp_path / "out" / "quickstart.ipynb").exists()


@pytest.mark.system
def test_a_cell_that_fails_fails_the_demo(tmp_path, monkeypatch, capsys):
    (tmp_path / "n.ipynb").write_text(nbformat.writes(new_notebook(cells=[new_code_cell("1 / 0")])))
    monkeypatch.setattr(demo, "notebook_path", lambda: tmp_path / "n.ipynb")
    assert demo.main([str(tmp_path / "out")]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
