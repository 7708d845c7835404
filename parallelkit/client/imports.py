"""``with view.sync_imports():`` runs the import statements of the block on the engines too.

The statements are read from the source text of the block, so ``as`` names are known; nothing is patched.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parallelkit.client.direct import DirectView


class SyncImports:
    """The block of a ``with`` statement; its imports run on the engines when it has ended here.

    Raises:
        RuntimeError: its source text cannot be found.
        ValueError: a relative import, which means nothing on an engine.
    """

    def __init__(self, view: DirectView, frame: FrameType, quiet: bool) -> None:
        self._view = view
        self._statements = [ast.unparse(statement) for statement in _imports(_block(frame))]
        self._quiet = quiet

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if kind is not None or not self._statements:
            return
        if not self._quiet:
            sys.stdout.write("".join(f"{statement} on the engines\n" for statement in self._statements))
        self._view.execute("\n".join(self._statements), block=True)


def _block(frame: FrameType) -> ast.With | ast.AsyncWith:
    """The ``with`` statement whose head this frame is in."""
    name, line = frame.f_code.co_filename, frame.f_lineno
    text = "".join(linecache.getlines(name, frame.f_globals))
    found: ast.With | ast.AsyncWith | None = None
    with contextlib.suppress(SyntaxError):  # a text that is no longer what runs
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.With | ast.AsyncWith) and _begins_on(node, line):
                found = node
    if found is None:
        raise RuntimeError(
            f"sync_imports() is for a with statement, and {name} has none in line {line} whose text can be read; "
            "view.execute('import …') needs none"
        )
    return found


def _begins_on(block: ast.With | ast.AsyncWith, line: int) -> bool:
    heads = [item.context_expr for item in block.items]
    return any(head.lineno <= line <= (head.end_lineno or head.lineno) for head in heads)


def _imports(block: ast.With | ast.AsyncWith) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of the block, in order; not those inside other statements' conditions or functions."""
    for statement in block.body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            raise ValueError(f"{ast.unparse(statement)!r}: a relative import means nothing on an engine")
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
