"""Which part of an object cannot be pickled? Asked only after pickling has failed.

At each level the parts of the object are tried, in halves, until one is found that fails by itself; then its parts,
and so on. What fails although none of its parts does is to blame.
"""

from __future__ import annotations

import copyreg
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from parallelkit.errors import SerializationError
from parallelkit.wire.fingerprint import global_names

#: Says whether a list of values cannot be pickled.
Fails = Callable[[list[Any]], bool]
#: How to get from an object to one of its parts ("['key']", ".attribute"), and that part.
Step = tuple[str, Any]

MAX_DEPTH = 24
#: Parts of one object that are looked at.
MAX_PARTS = 200_000
#: Characters of a key in a path.
MAX_KEY = 60


def explain(error: Exception, obj: Any, fails: Fails, name: str = "", *, as_call: bool = False) -> SerializationError:
    """The error to raise when ``obj`` could not be pickled: says what of it, and why.

    Args:
        error: what pickling raised.
        obj: the object.
        fails: tells which of its parts fail, too.
        name: what to call the object.
        as_call: it holds the arguments of the function ``name``: ``(args, kwargs)``, or a map's ``(star, items)``.
    """
    what = name or _a(obj)
    deep = next((e for e in (error, error.__cause__) if isinstance(e, RecursionError)), None)
    if deep is not None:
        return SerializationError(f"cannot send {what}: it is nested too deeply ({text_of(deep)})")
    found = find(obj, fails, _arguments(obj) if as_call else None)
    if not found.path:
        return SerializationError(f"cannot send {what}: {text_of(error)}")
    return SerializationError(f"cannot send {what}: {found.path} is {_a(found.culprit)} ({text_of(error)})", found.path)


def text_of(error: BaseException) -> str:
    """The exception's type and the first line or so of its text."""
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:  # noqa: BLE001 - user code
        return type(error).__name__


def _arguments(obj: Any) -> list[Step] | None:
    match obj:
        case (tuple() as args, dict() as kwargs):
            placed = [(f"argument {index}", value) for index, value in enumerate(args)]
            return placed + [(f"argument {key}", value) for key, value in kwargs.items()]
        case (bool(), list() | tuple() as items):
            return [(f"item {index}", value) for index, value in enumerate(items)]
    return None


def _a(obj: Any) -> str:
    """'a dict', 'an Engine', 'a _thread.lock', 'the class Model'."""
    kind = obj if isinstance(obj, type) else type(obj)
    name = kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(obj, type):
        return f"the class {name}"
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


class Blame(NamedTuple):
    """``path`` leads from the object to ``culprit``; empty when it is the object itself."""

    path: str
    culprit: Any


def find(obj: Any, fails: Fails, parts: Sequence[Step] | None = None) -> Blame:
    """The innermost part of ``obj`` that cannot be pickled. ``parts`` are those of ``obj`` itself, if it is known."""
    trail = _Finder(fails).search(obj, parts) or []
    path = "".join(name for name, _ in trail)
    return Blame(path.removeprefix(": "), trail[-1][1] if trail else obj)


class _Finder:
    """Descends into what fails. Objects may refer to each other: each is entered once."""

    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self._entered: dict[int, Any] = {}

    def search(self, obj: Any, parts: Iterable[Step] | None = None, depth: int = 0) -> list[Step] | None:
        """The steps from ``obj`` to what is to blame; None if it only fails for what is looked at elsewhere."""
        self._entered[id(obj)] = obj
        if depth == MAX_DEPTH:
            return []
        steps = list(islice(_parts(obj) if parts is None else parts, MAX_PARTS))
        fresh = [step for step in steps if id(step[1]) not in self._entered]
        innocent = len(fresh) < len(steps)
        while (position := self._first_bad(fresh)) is not None:
            innocent = True
            bad = fresh[position]
            trail = self.search(bad[1], depth=depth + 1)
            if trail is not None:
                return [bad, *trail]
            fresh = fresh[position + 1 :]
        return None if innocent else []

    def _first_bad(self, steps: Sequence[Step]) -> int | None:
        values = [value for _, value in steps]
        if not self._fails(values):
            return None
        low, high = 0, len(values)
        while high - low > 1:
            middle = (low + high) // 2
            if self._fails(values[low:middle]):
                high = middle
            else:
                low = middle
        return low


def _parts(obj: Any) -> Iterator[Step]:
    kind = type(obj)
    if kind is dict:
        return _items(obj.items())
    if kind in (list, tuple, deque):
        return ((f"[{index}]", value) for index, value in enumerate(obj))
    if kind in (set, frozenset):
        return ((f": element {_short(element)}", element) for element in obj)
    if isinstance(obj, FunctionType):
        return _function_parts(obj)
    if isinstance(obj, MethodType):
        return iter([(".__self__", obj.__self__), (f": function {obj.__func__.__name__}", obj.__func__)])
    if isinstance(obj, functools.partial):
        named = ((f": argument {name}", value) for name, value in obj.keywords.items())
        placed = ((f": argument {index}", value) for index, value in enumerate(obj.args))
        return chain([(": its function", obj.func)], placed, named)
    if isinstance(obj, type):
        bases = ((f": base {base.__name__}", base) for base in obj.__bases__)
        return chain(bases, ((f".{name}", _unwrapped(value)) for name, value in list(obj.__dict__.items())))
    return _reduced_parts(obj)


def _unwrapped(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _items(items: Iterable[tuple[Any, Any]]) -> Iterator[Step]:
    for key, value in items:
        if type(key) is not str:
            yield f": key {_short(key)}", key
        yield f"[{_short(key)}]", value


def _function_parts(function: FunctionType) -> Iterator[Step]:
    names = global_names(function.__code__)
    scope = function.__globals__
    for name in sorted(names.loaded | names.stored):
        if name in scope:
            yield f": global {name}", scope[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f": closure variable {name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    code = function.__code__
    defaults = function.__defaults__ or ()
    for name, value in zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False):
        yield f": default of {name}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f": default of {name}", value
    for name, value in function.__dict__.items():
        yield f".{name}", value


def _reduced_parts(obj: Any) -> Iterator[Step]:
    """The parts that pickling this instance would take: what its ``__reduce_ex__`` names, usually its attributes."""
    try:
        reducer = copyreg.dispatch_table.get(type(obj))
        reduced = obj.__reduce_ex__(5) if reducer is None else reducer(obj)
        if not isinstance(reduced, tuple):
            return
        parts: list[Any] = [*reduced, None, None, None, None]
        _, args, state, items, pairs, *_ = parts
        for index, part in enumerate(args or ()):
            yield (": its class" if isinstance(part, type) else f": part {index} of its __reduce__"), part
        yield from _state_parts(state)
        yield from ((f"[{index}]", value) for index, value in enumerate(items or ()))
        yield from _items(pairs or ())
    except Exception:  # noqa: BLE001 - user code that fails here is to blame itself
        return


def _state_parts(state: Any) -> Iterator[Step]:
    if type(state) is tuple and len(state) == 2 and all(part is None or type(part) is dict for part in state):
        yield from chain.from_iterable(_state_parts(part) for part in state)  # __dict__ and __slots__
    elif type(state) is dict:
        yield from ((f".{name}", value) for name, value in state.items())
    elif state is not None:
        yield ": its state", state


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - the key is user code, and this only words an error
        text = f"a {type(key).__name__}"
    return text if len(text) <= MAX_KEY else f"{text[: MAX_KEY - 1]}…"
