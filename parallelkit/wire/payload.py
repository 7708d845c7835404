"""Functions, arguments and results ↔ bytes. The only file that pickles, and the only one that unpickles.

What has 32 KiB or more and can lend its memory (arrays, wherever they are in the object) is not copied into the
pickle: it leaves beside it, as buffers. Arrays arrive writable whatever they were and whatever their size.

Functions and classes that cannot be imported elsewhere travel by value, as cloudpickle does it, together with the
source text of their lines; their code objects keep the name of their file. What is importable travels by name.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import pickle
import re
import weakref
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import cloudpickle

from parallelkit.errors import ResultError
from parallelkit.wire import blame, exceptions
from parallelkit.wire.fingerprint import ATOMS, Fingerprint, importable, take
from parallelkit.wire.frames import Buffer, unpack
from parallelkit.wire.sources import Source, Sources, register

PROTOCOL = 5
#: Memory of at least this size leaves out of band. Below, a frame costs more than a copy.
OUT_OF_BAND = 32 << 10
#: Larger containers are not searched for atoms: from here on the full pickler's fixed cost does not count.
_SMALL = 32
#: Functions whose pickles are kept, and the bytes of these; the oldest go first.
MAX_FUNCTIONS = 512
MAX_FUNCTION_BYTES = 64 << 20
#: Smaller pickles of functions are bounded well enough by their number.
_LARGE = 64 << 10
#: Bytes that the search for what cannot be pickled may pickle.
_SEARCH_BYTES = 256 << 20

_LRU_CACHE = type(functools.lru_cache(abs))


class Payload(NamedTuple):
    """A pickled object: ``data`` travels inside a record, each of ``buffers`` as a frame.

    The buffers are the object's own memory, not copies of it: they must not change before they have been sent.
    """

    data: bytes
    buffers: list[Buffer]


class Function(NamedTuple):
    """A pickled function. ``digest`` is 16 bytes that stand for ``data``; ``name`` is for people."""

    digest: bytes
    data: bytes
    name: str


class Reference:
    """Stands for the value of an expression in an engine's namespace, among the arguments of a call.

    ``view.apply(f, Reference("model"))`` calls ``f`` with what ``model`` is on the engine. It may be an argument or
    be inside lists, tuples and dicts.

    Raises:
        TypeError: the expression is not a string.
        SyntaxError: it is not a Python expression.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a Reference needs the text of an expression, not {name!r}")
        compile(name.strip(), "<reference>", "eval")
        self.name = name.strip()

    def __repr__(self) -> str:
        return f"Reference({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash((Reference, self.name))


#: How the class's name is written in a pickle: its length, and the text.
_REFERENCE_MARK = re.compile(re.escape(pickle.SHORT_BINUNICODE + b"\x09Reference"))


def may_refer(data: Buffer) -> bool:
    """Whether there can be a :class:`Reference` in what has been pickled to ``data``. Much cheaper than to look."""
    return _REFERENCE_MARK.search(data) is not None


# ---------------------------------------------------------------------------------------------- dump and load


def dump(obj: object, *, call: str = "") -> Payload:
    """Pickle ``obj``.

    Args:
        obj: anything.
        call: name of the function whose arguments ``obj`` is, as ``(args, kwargs)`` or as a map's
            ``(star, items)``. Only words the error.

    Raises:
        SerializationError: something in it cannot be pickled; names it and the way to it.
    """
    try:
        if _is_plain(obj):
            return Payload(pickle.dumps(obj, PROTOCOL), [])
        buffers: list[Buffer] = []
        file = io.BytesIO()
        _Pickler(file, functools.partial(_keep_inside, buffers)).dump(obj)
        return Payload(file.getvalue(), buffers)
    except Exception as error:
        raise blame.explain(error, obj, _Search(), call, as_call=bool(call)) from error


def dump_whole(obj: object, name: str = "") -> bytes:
    """Pickle ``obj`` with all its buffers inside. ``name`` is what errors call it.

    Raises:
        SerializationError: as :func:`dump`.
    """
    try:
        return _dump_whole(obj)
    except Exception as error:
        raise blame.explain(error, obj, _Search(), name) from error


def load(data: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """What has been pickled; also takes what ``frames.pack`` made of it.

    Arrays use the memory of ``buffers`` from then on; read-only buffers are copied first.

    Raises:
        ResultError: it cannot be rebuilt here, whatever the reason.
    """
    try:
        if not buffers:
            return pickle.loads(data)
        stream, rest = unpack(data, buffers)
        return pickle.loads(stream, buffers=map(_writable, rest))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit out of somebody's __setstate__ shall not end this process
        hint = "; it must be importable on this side, too" if isinstance(error, ImportError) else ""
        raise ResultError(f"what arrived cannot be opened here ({blame.text_of(error)}){hint}", bytes(data)) from error


def _is_plain(obj: object) -> bool:
    """Whether it is two levels of small containers with atoms: nothing for cloudpickle to do, no buffers."""
    kind = type(obj)
    if kind is tuple or kind is list:
        if len(obj) > _SMALL:  # type: ignore[arg-type]  # a tuple or a list
            return False
        for part in obj:  # type: ignore[attr-defined]
            kind = type(part)
            if kind in ATOMS:
                continue
            if kind is dict:
                if part and not (len(part) <= _SMALL and _are_atoms(part) and _are_atoms(part.values())):
                    return False
            elif (kind is not tuple and kind is not list) or len(part) > _SMALL or not _are_atoms(part):
                return False
        return True
    return kind in ATOMS


def _are_atoms(values: Any) -> bool:
    return ATOMS.issuperset(map(type, values))


def _keep_inside(buffers: list[Buffer], buffer: pickle.PickleBuffer) -> bool:
    memory = buffer.raw()
    if memory.nbytes < OUT_OF_BAND:
        return True
    buffers.append(memory)
    return False


def _writable(buffer: Buffer) -> Buffer:
    memory = memoryview(buffer)
    return bytearray(memory) if memory.readonly else memory


def _dump_whole(obj: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, None).dump(obj)
    return file.getvalue()


class _Reducers(dict[type, Callable[[Any], Any]]):
    """cloudpickle's, then those that libraries have registered. Asked for every instance."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[kind]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # ships no types
    """cloudpickle's, and what it lacks; see the module's docstring."""

    dispatch_table = _Reducers(cloudpickle.Pickler.dispatch_table.maps[0])

    def __init__(self, file: Any, keep_inside: Callable[[pickle.PickleBuffer], bool] | None) -> None:
        super().__init__(file, PROTOCOL, keep_inside)
        self._by_value = cloudpickle.list_registry_pickle_by_value()
        self._sources: Sources | None = None

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything but containers and atoms."""
        kind = type(obj)
        if kind is FunctionType or isinstance(obj, type):
            if importable(obj, self._by_value):
                return NotImplemented  # by name
            return super().reducer_override(obj) if kind is FunctionType else self._reduce_class(obj)
        if kind is CodeType:
            return self._reduce_code(obj)
        if isinstance(obj, BaseException):
            parts = exceptions.take_apart(obj)
            return NotImplemented if parts is None else (exceptions.rebuild, parts)
        if kind.__name__ == "ndarray" and kind.__module__ == "numpy" and not obj.flags.writeable:
            return _reduce_readonly_array(obj)
        if kind is _LRU_CACHE and not importable(obj):
            return _rebuild_lru_cache, (obj.__wrapped__, obj.cache_parameters())
        return NotImplemented

    def _reduce_class(self, cls: type) -> Any:
        reduced = super().reducer_override(cls)
        if type(reduced) is tuple and len(reduced) == 6:  # by value; the last two are its state and who sets it
            if cls not in _foreign_classes:
                _own_classes.add(cls)
            return (*reduced[:2], (reduced[5], reduced[2]), None, None, _set_class_state)
        return reduced

    def _reduce_code(self, code: CodeType) -> Any:
        if self._sources is None:
            self._sources = Sources()
        return _rebuild_code, (self._sources.of(code), *self.dispatch_table[CodeType](code))


# ------------------------------------------------------------------------------------------ called by the unpickler


def _rebuild_code(source: Source, make: Callable[..., CodeType], args: tuple[Any, ...]) -> CodeType:
    register(source)
    return make(*args).replace(co_filename=source[0])


#: Classes that this process sent by value, and those that it got so.
_own_classes: weakref.WeakSet[type] = weakref.WeakSet()
_foreign_classes: weakref.WeakSet[type] = weakref.WeakSet()


def _set_class_state(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    """Fill a class that came by value. One of ours that comes back stays as it is: cloudpickle would replace its
    methods by copies that no longer see this process's globals."""
    if cls not in _own_classes:
        _foreign_classes.add(cls)
        set_state, contents = state
        set_state(cls, contents)


def _reduce_readonly_array(array: Any) -> Any:
    rebuild, args, *_ = array.__reduce_ex__(PROTOCOL)
    if type(args[0]) is not pickle.PickleBuffer:
        return NotImplemented  # copied into the pickle, and hence writable at the other end
    return _rebuild_writable_array, (rebuild, *args)


def _rebuild_writable_array(rebuild: Callable[..., Any], buffer: Buffer, *args: Any) -> Any:
    """The unpickler hands over a read-only view of what ``load`` made writable, or bytes."""
    owner = buffer.obj if isinstance(buffer, memoryview) else None
    if owner is None or memoryview(owner).nbytes != buffer.nbytes:
        owner = bytearray(buffer)
    return rebuild(owner, *args)


def _rebuild_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


# ------------------------------------------------------------------------------------------------------ functions


class _Kept(NamedTuple):
    ref: Callable[[], Any]
    fingerprint: Fingerprint
    function: Function


_kept: dict[int, _Kept] = {}


def dump_function(function: Callable[..., Any]) -> Function:
    """Pickle a function, or anything else that can be called; costs next to nothing while nothing has changed.

    A function that travels by value is pickled again when its code, a default, or a global or closure variable that
    it uses has changed, and each time if one of these is mutable; the digest tells whether that made a difference.

    Raises:
        SerializationError: it refers to something that cannot be pickled; names it and the way to it.
    """
    by_value = cloudpickle.list_registry_pickle_by_value()
    kept = _kept.get(id(function))
    if kept is not None and kept.ref() is function and kept.fingerprint.holds(by_value):
        return kept.function
    fingerprint = take(function, by_value)  # before the pickle: what changes in between is seen next time
    name = _name(function)
    data = dump_whole(function, name)
    made = Function(hashlib.blake2b(data, digest_size=16).digest(), data, name)
    if fingerprint is not None:
        _keep(function, fingerprint, made)
    return made


def load_function(data: Buffer) -> Callable[..., Any]:
    """The function of :func:`dump_function`.

    Raises:
        ResultError: it cannot be rebuilt here.
    """
    function = load(data)
    if not callable(function):
        raise ResultError(f"what arrived as a function is a {type(function).__name__}", bytes(data))
    return function  # type: ignore[no-any-return]  # callable, as was just seen


def _keep(function: Any, fingerprint: Fingerprint, made: Function) -> None:
    key = id(function)
    try:
        # called with the reference, which pop() takes for its default; needs no global, for the interpreter's end
        ref = weakref.ref(function, functools.partial(_kept.pop, key))
    except TypeError:  # of a type without weak references
        return
    _kept.pop(key, None)
    _kept[key] = _Kept(ref, fingerprint, made)
    while len(_kept) > MAX_FUNCTIONS or (len(made.data) > _LARGE and _kept_bytes() > MAX_FUNCTION_BYTES):
        _kept.pop(next(iter(_kept)), None)


def _kept_bytes() -> int:
    return sum([len(kept.function.data) for kept in list(_kept.values())])


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else type(function).__name__


# ------------------------------------------------------------------------------------- what cannot be pickled


class _Search:
    """Tries to pickle values, and gives up trying (as if they could be) when that has become too much."""

    def __init__(self) -> None:
        self._left = _SEARCH_BYTES

    def __call__(self, values: list[Any]) -> bool:
        try:
            _Pickler(self, lambda _: False).dump(values)
        except Exception:  # noqa: BLE001 - any failure is the answer
            return self._left >= 0
        return False

    def write(self, data: Buffer) -> None:
        """For the pickler: counts, and keeps nothing."""
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise OverflowError("the search has pickled enough")
