"""``parallelkit demo``: run the quickstart notebook on this machine and tell what it did.

The notebook runs in a kernel of the Python that runs this, whatever kernels are installed. It needs the extra
``demo``.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallelkit.errors import ConfigError, ParallelKitError

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager
    from nbformat import NotebookNode

#: Seconds that one cell may take.
CELL_TIMEOUT = 600
NAME = "quickstart.ipynb"

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class DemoFailed(ParallelKitError):
    """Raised when a cell of the notebook failed; the text is the error as the notebook shows it."""


def notebook_path() -> Path:
    """The quickstart: in the checkout, else where installing the package has put it.

    Raises:
        ConfigError: it is in neither place.
    """
    checkout = Path(__file__).parents[2] / "notebooks" / NAME
    if checkout.exists():
        return checkout
    for file in metadata.files("parallelkit") or ():
        if file.name == NAME:
            return Path(str(file.locate()))
    raise ConfigError(f"{NAME} was not installed with the package; it is in the folder notebooks of a checkout")


def run(folder: Path, echo: Callable[[str], Any] = print) -> Path:
    """Run the notebook with ``folder`` as its working directory and tell each step; returns the executed notebook.

    Raises:
        ConfigError: the extra ``demo`` is not installed.
        DemoFailed: a cell raised what it should not.
    """
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise ConfigError(f"the demo needs {error.name}: pip install 'parallelkit[demo]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(notebook_path(), as_version=4)  # type: ignore[no-untyped-call]  # theirs
    client = execution(notebook, folder)
    client.on_cell_executed = lambda cell, cell_index, execute_reply: tell(notebook, cell_index, echo)
    try:
        client.execute()
    except CellExecutionError as error:
        raise DemoFailed(_ANSI.sub("", str(error))) from error
    executed = folder / NAME
    nbformat.write(notebook, executed)  # type: ignore[no-untyped-call]  # theirs
    return executed


def execution(notebook: NotebookNode, folder: Path) -> Any:
    """What executes a notebook: an ``nbclient.NotebookClient`` with a kernel of this Python."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class Manager(AsyncKernelManager):
        def _kernel_spec_manager_default(self) -> KernelSpecManager:
            return this_python()

    return NotebookClient(
        notebook,
        kernel_manager_class=Manager,
        timeout=CELL_TIMEOUT,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )


def this_python() -> KernelSpecManager:
    """A manager of kernels that knows one kernel, of the Python that runs this; jupyter's own may choose another."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
            return KernelSpec(argv=argv, display_name="this Python", language="python")

    return ThisPython()


def tell(notebook: NotebookNode, index: int, echo: Callable[[str], Any]) -> None:
    """Say what the cell has put out, if anything, under the heading that stands before it."""
    cell = notebook.cells[index]
    texts = [text for text in map(text_of, _joined(cell.get("outputs", []))) if text]
    if not texts:
        return
    before = notebook.cells[index - 1] if index else None
    if before is not None and before.cell_type == "markdown":
        for line in before.source.splitlines():
            if line.startswith("#"):
                echo(f"\n{line.lstrip('# ')}\n{'-' * len(line.lstrip('# '))}")
    for text in texts:
        echo(text)


def _joined(outputs: list[NotebookNode]) -> list[Mapping[str, Any]]:
    """The outputs, with what was printed piece by piece in one piece."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1] = {**joined[-1], "text": joined[-1]["text"] + output.text}
        else:
            joined.append(output)
    return joined


def text_of(output: Mapping[str, Any]) -> str:
    """An output as text; empty for what only a browser can show."""
    kind = output["output_type"]
    if kind == "stream":
        text = output["text"]
    elif kind == "error":
        text = "\n".join(output["traceback"])
    elif set(output["data"]) == {"text/plain"}:
        text = output["data"]["text/plain"]
    else:
        text = ""
    return _ANSI.sub("", text).rstrip("\n")


def main(arguments: list[str]) -> int:
    """Run it from the command line: ``python -m parallelkit.jupyter.demo [FOLDER]``; returns the exit status."""
    folder = Path(arguments[0] if arguments else "parallelkit-demo").resolve()
    began = time.monotonic()
    try:
        executed = run(folder)
    except (ConfigError, DemoFailed) as error:
        sys.stderr.write(f"\nthe demo failed:\n{error}\n")
        return 1
    sys.stdout.write(f"\nAll of it took {time.monotonic() - began:.0f} s. The executed notebook: {executed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
