"""Taking exceptions apart and building them again without running their ``__init__``.

By default an exception is rebuilt by calling its class with ``args``. That fails for every class whose ``__init__``
takes something else than it hands on, and for some it repeats what ``__init__`` did to the text.
"""

from __future__ import annotations

import copyreg
from typing import Any

#: From CPython's object.h: the class was made by a ``class`` statement, not in C.
_HEAP_TYPE = 1 << 9

Parts = tuple[type[BaseException], tuple[Any, ...], dict[str, Any] | None]


def take_apart(exc: BaseException) -> Parts | None:
    """What :func:`rebuild` needs; None if its class says itself how to copy it, or needs no help."""
    kind = type(exc)
    base = _builtin_base(kind)
    if (
        kind is base
        or kind in copyreg.dispatch_table
        or kind.__reduce__ is not base.__reduce__
        or kind.__reduce_ex__ is not base.__reduce_ex__
    ):
        return None
    reduced: Any = exc.__reduce__()  # a builtin exception's: (class, args) or (class, args, state)
    return kind, reduced[1], reduced[2] if len(reduced) > 2 else None


def rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any] | None) -> BaseException:
    """The exception with these ``args`` and attributes; runs no constructor but that of its builtin base."""
    base = _builtin_base(kind)
    exc = base.__new__(kind, *args)
    base.__init__(exc, *args)
    if state:
        try:
            exc.__setstate__(state)
        except Exception:  # noqa: BLE001 - a frozen class, or a property that nobody can set
            exc.__dict__.update(state)
    return exc


def _builtin_base(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)
