"""Showing what tasks printed. Plain text here; a notebook layer puts a richer function in place with ``use``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallelkit.client.results import AsyncResult

#: (result, groupby, result_only)
Show = Callable[["AsyncResult", str, bool], None]

GROUPINGS = ("type", "engine", "order")


def _plain(result: AsyncResult, groupby: str, result_only: bool) -> None:
    """Print streams and the ``text/plain`` of displays, each block headed by its kind and engine."""
    rows = result.metadata if isinstance(result.metadata, list) else [result.metadata]
    blocks = [block for row in rows for block in _blocks(row, result_only)]
    if groupby == "type":
        blocks.sort(key=lambda block: ("stdout", "stderr", "output").index(block[0]))
    for kind, engine, text in blocks:
        stream = sys.stderr if kind == "stderr" else sys.stdout
        stream.write(f"[{kind}:{engine}]\n{text}" + ("" if text.endswith("\n") else "\n"))


def _blocks(row: dict[str, Any], result_only: bool) -> list[tuple[str, Any, str]]:
    """(kind, engine, text) of all that one task printed and displayed."""
    shown = [row["execute_result"]] if row["execute_result"] else []
    if result_only:
        texts = []
    else:
        texts = [(kind, row[kind]) for kind in ("stdout", "stderr") if row[kind]]
        shown = row["outputs"] + shown
    texts += [("output", str(one["data"].get("text/plain", ""))) for one in shown]
    return [(kind, row["engine_id"], text) for kind, text in texts]


_show: Show = _plain


def use(function: Show) -> None:
    """Let ``function`` show outputs from now on."""
    global _show
    _show = function


def show(result: AsyncResult, groupby: str, result_only: bool) -> None:
    if groupby not in GROUPINGS:
        raise ValueError(f"groupby={groupby!r}: use one of {', '.join(GROUPINGS)}")
    _show(result, groupby, result_only)
