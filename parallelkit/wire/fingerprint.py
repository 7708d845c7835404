"""Has anything changed that a function's pickle depends on?

A function that travels by value (from a notebook, a lambda, a closure) takes the globals and closure variables that
it uses along. As long as all of these are immutable, comparing identities tells whether a pickle made earlier is
still right, which costs a microsecond where pickling costs fifty. What refers to anything mutable has no
fingerprint: it is pickled anew each time.
"""

from __future__ import annotations

import dis
import sys
import weakref
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, NamedTuple

#: Values of exactly these types never change and refer to nothing else.
ATOMS: frozenset[type] = frozenset({int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented)})
#: The same for types that need not be loaded; by name.
_IMMUTABLE = frozenset({
    "builtins.range",
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "decimal.Decimal", "fractions.Fraction", "re.Pattern", "uuid.UUID",
    "pathlib.PosixPath", "pathlib.PurePosixPath",
    "numpy.ufunc", "numpy.float64", "numpy.float32", "numpy.int64", "numpy.int32", "numpy.bool",
})  # fmt: skip
#: Parts of a class that change only when somebody means to change the class; not looked into.
_UNWATCHED = frozenset({
    "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__weakref__",
})  # fmt: skip
#: A function that reaches more objects than this is pickled anew each time.
_LIMIT = 1000
_ABSENT: Any = object()
_LRU_CACHE = type(lru_cache(abs))


class Names(NamedTuple):
    """Global names in a code object and those nested in it."""

    loaded: frozenset[str]
    stored: frozenset[str]


@lru_cache(maxsize=2048)
def global_names(code: CodeType) -> Names:
    """The global names that ``code`` looks up, and those that it assigns or deletes (``global x``)."""
    loaded, stored = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            stored.add(instruction.argval)
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            loaded.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = global_names(constant)
            loaded |= inner.loaded
            stored |= inner.stored
    return Names(frozenset(loaded), frozenset(stored))


def importable(obj: Any, by_value: Collection[str] = ()) -> bool:
    """Whether another process finds this function or class by the name of its module.

    ``by_value`` names modules that are to be sent by value nevertheless, with all that is below them.
    """
    module, path = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or module == "__main__" or _within(module, by_value):
        return False
    found: Any = sys.modules.get(module)
    try:
        for name in path.split("."):
            found = getattr(found, name)
    except Exception:  # noqa: BLE001 - modules may run any code when they are asked for an attribute
        return False
    return found is obj


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


class _Function(NamedTuple):
    """One function that travels by value; what it refers to, by identity."""

    ref: Callable[[], FunctionType | None]
    code: CodeType
    defaults: tuple[Any, ...] | None
    kwdefaults: dict[str, Any] | None
    names: tuple[tuple[str, int], ...]
    cells: tuple[int, ...]
    attributes: dict[str, int]

    def holds(self) -> bool:
        function = self.ref()
        if (
            function is None
            or function.__code__ is not self.code
            or function.__defaults__ is not self.defaults
            or function.__kwdefaults__ is not self.kwdefaults
        ):
            return False
        scope = function.__globals__
        for name, identity in self.names:
            if id(scope.get(name, _ABSENT)) != identity:
                return False
        if self.cells and tuple([id(_content(cell)) for cell in function.__closure__ or ()]) != self.cells:
            return False
        return _identities(function.__dict__) == self.attributes if function.__dict__ else not self.attributes


class _Scope(NamedTuple):
    """Names of a module or a class, by identity. ``owner`` gives None once the class is gone."""

    owner: Callable[[], Any]
    names: dict[str, int]
    all: bool  # whether these are all its names

    def holds(self) -> bool:
        scope = getattr(self.owner(), "__dict__", {})
        if self.all:
            return _identities(scope) == self.names
        return [id(scope.get(name, _ABSENT)) for name in self.names] == list(self.names.values())


class Fingerprint:
    """What the pickle of one function depends on. Holds on to no function, no class and no namespace."""

    __slots__ = ("_by_value", "_functions", "_kept", "_modules", "_scopes")

    def __init__(self, survey: _Survey) -> None:
        self._functions = tuple(survey.functions)
        self._scopes = tuple(survey.scopes)
        self._by_value = survey.by_value
        #: Keeps the values alive, so that no other object gets their identities.
        self._kept = tuple(survey.kept)
        self._modules = len(sys.modules) if survey.has_packages else None

    def holds(self, by_value: Collection[str]) -> bool:
        """Whether a pickle made when this was taken still is what would be made now."""
        for function in self._functions:
            if not function.holds():
                return False
        for scope in self._scopes:
            if not scope.holds():
                return False
        # A package travels with those of its submodules that are loaded: any import may have changed that.
        return (self._modules is None or self._modules == len(sys.modules)) and self._by_value == by_value


def take(function: Any, by_value: Collection[str]) -> Fingerprint | None:
    """The fingerprint of a function or class, or None if it refers to anything that can change unseen."""
    survey = _Survey(by_value)
    return Fingerprint(survey) if survey.walk(function) else None


class _Mutable(Exception):
    """Something has been met that can change unseen."""


class _Survey:
    """Walks over all that a function refers to, until it meets something mutable."""

    def __init__(self, by_value: Collection[str]) -> None:
        self.by_value = by_value
        self.functions: list[_Function] = []
        self.scopes: list[_Scope] = []
        self.kept: list[Any] = []
        self.has_packages = False

    def walk(self, root: Any) -> bool:
        """Take note of ``root`` and of all it refers to; False if some of it can change unseen."""
        pending, seen = [root], {id(root)}
        try:
            while pending:
                for value in self._note(pending.pop()):
                    if type(value) in ATOMS:
                        self.kept.append(value)
                    elif value is not _ABSENT and id(value) not in seen:
                        seen.add(id(value))
                        pending.append(value)
                if len(seen) > _LIMIT:
                    return False
        except _Mutable:
            return False
        return True

    def _note(self, value: Any) -> Iterable[Any]:
        """Take note of one object; returns what it refers to."""
        if isinstance(value, FunctionType):
            return self._named(value) if importable(value, self.by_value) else self._function(value)
        if isinstance(value, type):
            return self._named(value) if importable(value, self.by_value) else self._class(value)
        self.kept.append(value)
        if isinstance(value, ModuleType):
            return self._module(value)
        return self._other(value)

    def _named(self, value: FunctionType | type | BuiltinFunctionType) -> Iterable[Any]:
        """Travels by name: what matters is that the name still leads to it."""
        owner, first = sys.modules[value.__module__], value.__qualname__.split(".")[0]
        names = getattr(owner, "__dict__", {})
        self.kept.append(value)
        self.scopes.append(_Scope(_always(owner), {first: id(names.get(first, _ABSENT))}, all=False))
        return ()

    def _module(self, module: ModuleType) -> Iterable[Any]:
        if sys.modules.get(module.__name__) is not module or _within(module.__name__, self.by_value):
            raise _Mutable
        self.has_packages |= bool(getattr(module, "__package__", None))
        return ()

    def _function(self, function: FunctionType) -> Iterable[Any]:
        scope, cells = function.__globals__, function.__closure__ or ()
        found = [(name, scope.get(name, _ABSENT)) for name in _names_used(function.__code__)]
        contents = [_content(cell) for cell in cells]
        attributes = dict(function.__dict__)
        self.functions.append(
            _Function(
                weakref.ref(function),
                function.__code__,
                function.__defaults__,
                function.__kwdefaults__,
                tuple((name, id(value)) for name, value in found),
                tuple(map(id, contents)),
                _identities(attributes),
            )
        )
        yield from (value for _, value in found)
        yield from (*contents, *attributes.values())
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())

    def _class(self, cls: type) -> Iterable[Any]:
        if type(cls) is not type:
            raise _Mutable  # a metaclass may keep anything anywhere
        contents = dict(cls.__dict__)
        self.scopes.append(_Scope(weakref.ref(cls), _identities(contents), all=True))
        return *cls.__bases__, *(value for name, value in contents.items() if name not in _UNWATCHED)

    def _other(self, value: Any) -> Iterable[Any]:
        kind: Any = type(value)
        if kind is tuple or kind is frozenset:
            return tuple(value)
        if kind is BuiltinFunctionType and importable(value, self.by_value):
            return self._named(value)
        if kind is staticmethod or kind is classmethod:
            return (value.__func__,)
        if kind is property:
            return value.fget, value.fset, value.fdel
        if kind is _LRU_CACHE:
            return (value.__wrapped__,)
        if kind in (GetSetDescriptorType, MemberDescriptorType) or kind in ATOMS or _full_name(kind) in _IMMUTABLE:
            return ()
        raise _Mutable


def _names_used(code: CodeType) -> frozenset[str]:
    names = global_names(code)
    return names.loaded | names.stored


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _identities(values: Any) -> dict[str, int]:
    return {name: id(value) for name, value in values.items()}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _ABSENT


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value
