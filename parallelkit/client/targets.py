"""From what users write for engines to engine ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from parallelkit.errors import NoSuchEngine

#: 'all', an id (negative ones count from the end), a list of ids, or a slice of the ids there are.
Targets: TypeAlias = Any


def resolve(targets: Targets, ids: Sequence[int]) -> tuple[int, ...]:
    """The engine ids meant by ``targets`` among those there are.

    Raises:
        NoSuchEngine: one of them is not there, or there are none at all.
        TypeError: it is nothing that could mean engines.
    """
    if not ids:
        raise NoSuchEngine("no engines are registered yet; wait_for_engines() waits for them")
    if isinstance(targets, str):
        if targets != "all":
            raise TypeError(f"targets={targets!r}: use 'all', an engine id, a list of ids or a slice")
        return tuple(ids)
    if isinstance(targets, slice):
        return tuple(ids[targets])
    if _is_id(targets):
        return (_one(targets, ids),)
    if isinstance(targets, Iterable):
        return tuple(_one(target, ids) for target in targets)
    raise TypeError(f"targets={targets!r}: use 'all', an engine id, a list of ids or a slice")


def is_single(targets: Targets) -> bool:
    """Whether results for it come singly, not as a list."""
    return _is_id(targets)


def _is_id(target: Any) -> bool:
    return hasattr(target, "__index__") and not isinstance(target, bool)


def _one(target: Any, ids: Sequence[int]) -> int:
    if not _is_id(target):
        raise TypeError(f"{target!r} is not an engine id")
    wanted = int(target)
    if wanted < 0 and -wanted <= len(ids):
        return ids[wanted]
    if wanted not in ids:
        raise NoSuchEngine(f"no engine {wanted}; there are {', '.join(map(str, ids))}")
    return wanted
