"""Cutting a sequence into one part for each engine, and joining the parts again. Knows numpy and pandas by sight."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise, zip_longest
from typing import Any

#: How a sequence is spread: in blocks, or in turn.
DISTRIBUTIONS = ("b", "r")


def split(sequence: Any, count: int, dist: str = "b") -> list[Any]:
    """``count`` parts: contiguous blocks whose lengths differ by one at most ('b'), or every count-th item ('r').

    Parts are slices, so those of an array are views of it. What cannot be sliced is made a list first.
    """
    _check(dist)
    if not isinstance(sequence, Sequence) and not hasattr(sequence, "shape"):
        sequence = list(sequence)
    rows = getattr(sequence, "iloc", sequence)  # pandas slices by position there alone
    if dist == "r":
        return [rows[start::count] for start in range(count)]
    each, longer = divmod(len(sequence), count)
    ends = [index * each + min(index, longer) for index in range(count + 1)]
    return [rows[start:stop] for start, stop in pairwise(ends)]


def join(parts: Sequence[Any], dist: str = "b") -> Any:
    """One sequence of the parts: arrays and frames are concatenated, anything else becomes a list.

    A part that is not iterable counts as one item, as ``flatten`` leaves it.
    """
    _check(dist)
    concatenate = _concatenate(parts)
    if concatenate is None:
        columns = [_items(part) for part in parts]
        return list(chain.from_iterable(columns)) if dist == "b" else _in_turn(columns)
    whole = concatenate(parts)
    if dist == "b":
        return whole
    starts = accumulate((len(part) for part in parts), initial=0)
    order = _in_turn([range(start, start + len(part)) for start, part in zip(starts, parts, strict=False)])
    return getattr(whole, "iloc", whole)[order]


def _in_turn(columns: Iterable[Iterable[Any]]) -> list[Any]:
    """The first of each, the second of each, and so on."""
    missing = object()
    return [item for row in zip_longest(*columns, fillvalue=missing) for item in row if item is not missing]


def _items(part: Any) -> Iterable[Any]:
    return part if isinstance(part, Iterable) and not isinstance(part, str | bytes) else (part,)


def _concatenate(parts: Sequence[Any]) -> Any:
    """What concatenates these parts, if all are arrays or all are pandas objects."""
    if parts and all(_is_array(part) and part.ndim for part in parts):
        return sys.modules["numpy"].concatenate
    if parts and all(hasattr(part, "iloc") and type(part).__module__.startswith("pandas") for part in parts):
        return sys.modules["pandas"].concat
    return None


def _is_array(part: Any) -> bool:
    numpy = sys.modules.get("numpy")  # never imported here: where there is an array there is numpy
    return numpy is not None and isinstance(part, numpy.ndarray)


def _check(dist: str) -> None:
    if dist not in DISTRIBUTIONS:
        raise ValueError(f"dist={dist!r}: use 'b' for blocks or 'r' for one item each in turn")
