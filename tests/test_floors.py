"""The floors of ARCHITECTURE.md, enforced: who may import whom, and how long a file or a function may be.

Sees imports inside functions, under ``TYPE_CHECKING`` and through ``importlib.import_module("…")``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "parallelkit"

#: Each floor may import itself and the floors named on its right; nothing else of ours.
SERVICES = {"errors", "config", "core", "wire", "transport", "store"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "core": {"errors"},
    "wire": {"errors"},
    "transport": {"errors", "config", "wire"},
    "store": {"errors", "config"},
    "hub": SERVICES,
    "engine": SERVICES,
    "node": SERVICES,
    "client": SERVICES,
    "cluster": {"errors", "config", "client"},
    "interop": {"errors", "client", "cluster"},
    "jupyter": {"errors", "config", "client", "cluster"},
    "cli": SERVICES | {"client", "cluster", "interop", "jupyter"},
    "testing": SERVICES | {"hub", "engine", "node", "client", "cluster"},
    "__init__": {"errors", "config", "wire", "client", "cluster", "interop", "jupyter"},
    "__main__": {"cli"},
}

#: What lives outside may be imported only below the paths on its right.
ONLY_IN = {
    "zmq": ("transport/",),
    "pickle": ("wire/payload.py",),
    "cloudpickle": ("wire/payload.py",),
    "IPython": ("jupyter/", "engine/shell.py"),
    "ipykernel": ("jupyter/", "engine/shell.py"),
    "ipywidgets": ("jupyter/",),
    "anywidget": ("jupyter/",),
    "jupyter_client": ("jupyter/",),
    "jupyter_server": ("jupyter/",),
    "nbclient": ("jupyter/",),
    "nbformat": ("jupyter/",),
    "joblib": ("interop/joblib.py",),
    "dask": ("interop/dask.py",),
}

#: The deciding floors do no I/O, start no thread and read no clock.
PURE = ("core/", "wire/")
IMPURE = {"asyncio", "threading", "socket", "selectors", "time", "random", "os", "subprocess", "logging"}

#: These never open a payload, so that they cannot unpickle even by mistake.
NEVER_OPEN_PAYLOADS = ("hub/", "core/", "transport/", "node/")

LONGEST_FILE = 600
LONGEST_FUNCTION = 50


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield from (f"{dots}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "importlib.import_module",
            "import_module",
            "__import__",
        }:
            yield from (
                arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            )


def violations(package: Path = PACKAGE) -> Iterator[str]:
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text())
        for name in imports_of(tree):
            yield from _wrong_import(where, name)
        yield from _too_long(where, path.read_text(), tree)


def _floor(where: str) -> str:
    return where.split("/")[0].removesuffix(".py")


def _wrong_import(where: str, name: str) -> Iterator[str]:
    top, *rest = name.split(".")
    floor = _floor(where)
    if not top:
        yield f"{where}: relative import of {name}"
    elif top == "parallelkit":
        if rest and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT.get(floor, set()) | {floor}:
            yield f"{where} may not import {name}"
        if name.startswith("parallelkit.wire.payload") and where.startswith(NEVER_OPEN_PAYLOADS):
            yield f"{where} must not open payloads"
    elif top in ONLY_IN and not where.startswith(ONLY_IN[top]):
        yield f"{where}: {top} may be imported only in {', '.join(ONLY_IN[top])}"
    elif top in IMPURE and where.startswith(PURE):
        yield f"{where}: a floor without I/O imports {top}"


def _too_long(where: str, text: str, tree: ast.Module) -> Iterator[str]:
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{where}: {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{where}: {node.name} has {length} lines"


def test_floors() -> None:
    assert list(violations()) == []


def test_every_file_stands_on_a_floor() -> None:
    found = {_floor(path.relative_to(PACKAGE).as_posix()) for path in PACKAGE.rglob("*.py")}
    assert found <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("where", "text", "complaint"),
    [
        ("core/a.py", "import time\n", "a floor without I/O imports time"),
        ("core/a.py", "def f():\n    from parallelkit.wire import messages\n", "may not import"),
        ("hub/a.py", "from parallelkit.wire.payload import load\n", "must not open payloads"),
        ("hub/a.py", "from parallelkit.wire import payload\n", "must not open payloads"),
        ("engine/a.py", "if TYPE_CHECKING:\n    from parallelkit.client import views\n", "may not import"),
        ("client/a.py", "import zmq.asyncio\n", "zmq may be imported only"),
        ("cluster/a.py", "import importlib\nimportlib.import_module('parallelkit.hub')\n", "may not import"),
        ("jupyter/a.py", "from parallelkit import wire\n", "may not import"),
        ("cluster/a.py", "from parallelkit import cli\n", "may not import"),
        ("node/a.py", "from . import b\n", "relative import"),
        ("wire/a.py", "x = 0\n" * 601, "601 lines"),
        ("wire/a.py", "def f():\n" + "    x = 0\n" * 50, "f has 51 lines"),
    ],
)
def test_planted_faults_are_seen(tmp_path: Path, where: str, text: str, complaint: str) -> None:
    path = tmp_path / where
    path.parent.mkdir()
    path.write_text(text)
    [found] = violations(tmp_path)
    assert complaint in found


def test_import_stays_light() -> None:
    heavy = "{'zmq', 'IPython', 'numpy', 'msgspec', 'asyncio', 'cloudpickle', 'tqdm', 'rich'}"
    code = f"import sys, parallelkit; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
