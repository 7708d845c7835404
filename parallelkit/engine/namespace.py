"""The engine's user namespace, and what binds the functions of clients to it.

A function that travels by value brings the globals it uses along, in a dict of its own. Two kinds of names are
this engine's instead:

* a name that it uses and that neither it brought nor builtins have is looked up in the user namespace, at each call;
* a name that it assigns (``global x``) is read from there before a call and written back after it. What the engine
  has wins over what came with the function.

The same holds for the functions that it calls, as far as they came with it. Functions of importable modules keep to
their modules.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import CoroutineType, FunctionType, MethodType
from typing import Any, NamedTuple

from parallelkit.wire.fingerprint import ATOMS, global_names, importable
from parallelkit.wire.frames import Buffer
from parallelkit.wire.payload import Reference, load, load_function, may_refer
from parallelkit.wire.requirements import Requiring

_ABSENT: Any = object()
_CONTAINERS = frozenset({list, tuple, dict})
#: Objects that are looked at to find the functions that came with one.
_LIMIT = 10_000
_LRU_CACHE = type(functools.lru_cache(abs))


class Namespace:
    """Belongs to the thread that runs user code. ``user`` is the dict in which cells are run."""

    def __init__(self, user: dict[str, Any]) -> None:
        self.user = user

    def load(self, data: Buffer) -> Callable[..., Any]:
        """A function as it travelled, bound to this namespace.

        Raises:
            ResultError: it cannot be rebuilt here.
        """
        return self.bind(load_function(data))

    def open(self, data: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
        """What a task was sent with, references replaced by what they refer to here.

        Raises:
            ResultError: it cannot be rebuilt here.
            Exception: whatever the expression of a reference raises.
        """
        value = load(data, buffers)
        return resolve(value, self) if buffers or may_refer(data) else value

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` itself if it needs nothing of this namespace, else one that gives it what it needs."""
        scopes = _scopes(function, self.user)
        return Bound(function, scopes, self.user) if scopes else function

    def push(self, values: Mapping[str, Any]) -> None:
        """Assign each value to its name; a name may also be a target like ``a.b`` or ``a['k']``."""
        for name, value in values.items():
            if name.isidentifier():
                self.user[name] = value
            else:
                exec(f"{name} = _pushed", self.user, {"_pushed": value})

    def pull(self, expressions: Iterable[str]) -> list[Any]:
        """The value of each name or expression."""
        return [self.evaluate(expression) for expression in expressions]

    def evaluate(self, expression: str) -> Any:
        """The value of one name or expression. Raises whatever it raises, NameError to begin with."""
        value = self.user.get(expression, _ABSENT)
        return eval(expression, self.user) if value is _ABSENT else value


def resolve(obj: Any, namespace: Namespace) -> Any:
    """``obj`` with each :class:`Reference`, also inside lists, tuples and dicts, replaced by what it refers to.

    Containers without one are returned as they are; those with one are copied.
    """
    kind = type(obj)
    if kind is Reference:
        return namespace.evaluate(obj.name)
    if kind not in _CONTAINERS or not _worth_a_look(obj.values() if kind is dict else obj):
        return obj
    if kind is dict:
        changed = {key: resolve(value, namespace) for key, value in obj.items()}
        return obj if all(changed[key] is obj[key] for key in obj) else changed
    items = [resolve(item, namespace) for item in obj]
    if all(new is old for new, old in zip(items, obj, strict=True)):
        return obj
    return items if kind is list else tuple(items)


def _worth_a_look(items: Iterable[Any]) -> bool:
    return not {Reference, *_CONTAINERS}.isdisjoint(map(type, items))


class _Scope(NamedTuple):
    """The globals that one or more functions brought along."""

    names: dict[str, Any]
    looked_up: tuple[str, ...]  # in the user namespace
    assigned: tuple[tuple[str, Any], ...]  # with what the function brought for it

    def enter(self, user: dict[str, Any]) -> None:
        """Give the functions what the user namespace has now."""
        names = self.names
        for name in self.looked_up:
            value = user.get(name, _ABSENT)
            if value is not _ABSENT:
                names[name] = value
            else:
                names.pop(name, None)
        for name, brought in self.assigned:
            value = user.get(name, brought)
            if value is not _ABSENT:
                names[name] = value
            else:
                names.pop(name, None)

    def leave(self, user: dict[str, Any]) -> None:
        """Write back what the functions have assigned."""
        for name, _ in self.assigned:
            value = self.names.get(name, _ABSENT)
            if value is not _ABSENT:
                user[name] = value
            else:
                user.pop(name, None)


class Bound:
    """A function of a client that uses names of this engine."""

    def __init__(self, function: Callable[..., Any], scopes: Sequence[_Scope], user: dict[str, Any]) -> None:
        self.__wrapped__ = function
        self._scopes = tuple(scopes)
        self._user = user

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._enter()
        try:
            value = self.__wrapped__(*args, **kwargs)
        finally:
            self._leave()
        return self._follow(value) if type(value) is CoroutineType else value

    def __repr__(self) -> str:
        return f"<{self.__wrapped__!r} with names of this engine>"

    async def _follow(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """An ``async def`` runs only now; what it assigned is written back when it ends."""
        self._enter()
        try:
            return await coroutine
        finally:
            self._leave()

    def _enter(self) -> None:
        for scope in self._scopes:
            scope.enter(self._user)

    def _leave(self) -> None:
        for scope in self._scopes:
            scope.leave(self._user)


# ------------------------------------------------------------------------------------ the functions that came along


def _scopes(function: Any, user: dict[str, Any]) -> list[_Scope]:
    """What the functions reachable from ``function`` need of the user namespace, for each dict of globals."""
    by_scope: dict[int, tuple[dict[str, Any], set[str], set[str]]] = {}
    for reached in _reachable(function):
        scope = reached.__globals__
        if scope is user or _is_module(scope):
            continue  # it was not brought along
        used = global_names(reached.__code__)
        _, loaded, stored = by_scope.setdefault(id(scope), (scope, set(), set()))
        loaded |= used.loaded
        stored |= used.stored
    found = []
    for scope, loaded, stored in by_scope.values():
        missing = {name for name in loaded - stored if name not in scope and not hasattr(builtins, name)}
        if missing or stored:
            assigned = tuple((name, scope.get(name, _ABSENT)) for name in sorted(stored))
            found.append(_Scope(scope, tuple(sorted(missing)), assigned))
    return found


def _is_module(scope: dict[str, Any]) -> bool:
    """Whether these are the globals of a module of this process, not some that came with a function."""
    return scope is getattr(sys.modules.get(scope.get("__name__", "")), "__dict__", None)


def _reachable(root: Any) -> Iterator[FunctionType]:
    """The Python functions that a call of ``root`` may run, as far as they hang on it."""
    pending, seen = [root], {id(root)}
    while pending and len(seen) < _LIMIT:
        obj = pending.pop()
        if isinstance(obj, FunctionType):
            yield obj
        for part in _parts(obj):
            if id(part) not in seen:
                seen.add(id(part))
                pending.append(part)


def _parts(obj: Any) -> Iterable[Any]:
    """What functions may hang on."""
    kind: Any = type(obj)
    if kind in ATOMS:
        return ()
    if kind is FunctionType:
        return () if _is_module(obj.__globals__) else _function_parts(obj)
    if kind is dict:
        return tuple(obj.values())
    if kind in (list, tuple, set, frozenset):
        return tuple(obj)
    if kind is MethodType:
        return obj.__func__, obj.__self__
    if kind is functools.partial:
        return obj.func, obj.args, obj.keywords
    if kind is property:
        return obj.fget, obj.fset, obj.fdel
    if kind is staticmethod or kind is classmethod:
        return (obj.__func__,)
    if kind is _LRU_CACHE:
        return (obj.__wrapped__,)
    if kind is Requiring:
        return obj.__wrapped__, obj.objects
    if isinstance(obj, type):
        return () if importable(obj) else (*obj.__bases__, *obj.__dict__.values())
    return () if importable(kind) else (kind,)


def _function_parts(function: FunctionType) -> Iterator[Any]:
    scope = function.__globals__
    names = global_names(function.__code__)
    yield from (scope[name] for name in names.loaded | names.stored if name in scope)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)
