"""What travels: values, arrays, functions; and what happens to what cannot."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict, namedtuple
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import zmq

from parallelkit.errors import ResultError, SerializationError
from parallelkit.wire.frames import pack
from parallelkit.wire.payload import (
    OUT_OF_BAND,
    Reference,
    dump,
    dump_function,
    load,
    load_function,
    may_refer,
)

LARGE = OUT_OF_BAND // 8  # doubles


def there_and_back(value):
    return load(*dump(value))


@dataclasses.dataclass
class Box:
    inner: object


Point = namedtuple("Point", "x y")


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            -5,
            1.5,
            2j,
            "text ✓",
            b"bytes",
            ...,
            (),
            ((1,), {}),
            ((1, "a"), {"k": None}),
            (False, [1, 2, 3]),
            ((1, [2, (3,)]), {"k": {"deep": [1]}}),
            list(range(1000)),
            {1: "one", (2, 3): {4}},
            frozenset({1}),
            Point(1, 2),
            Box(Box([1])),
            Fraction(1, 3),
            OrderedDict(a=1),
            range(5),
            int,
            slice(1, 2),
        ],
        ids=repr,
    )
    def test_arrive_equal_and_of_the_same_type(self, value):
        got = there_and_back(value)
        assert got == value
        assert type(got) is type(value)

    def test_subclasses_of_builtin_containers_stay_what_they_are(self):
        for value in ([Point(1, 2)], ({"a": OrderedDict(b=1)},)):
            assert type(next(iter(there_and_back(value)))) is type(next(iter(value)))

    def test_identity_inside_one_object_is_kept(self):
        shared = [1]
        first, second = there_and_back((shared, shared))
        assert first is second
        loop = []
        loop.append(loop)
        got = there_and_back(loop)
        assert got[0] is got

    def test_lambdas_travel_wherever_they_are(self):
        assert there_and_back({"f": [lambda x: x + 1]})["f"][0](1) == 2
        assert there_and_back((lambda: 5,))[0]() == 5

    def test_files_of_the_wire_are_understood_too(self):
        value = {"text": "x" * 100_000, "array": np.arange(100_000)}
        data, frames = pack(*dump(value))
        assert data == b""
        got = load(data, frames)
        assert got["text"] == value["text"]
        assert (got["array"] == value["array"]).all()


def arrays():
    small, large = np.arange(6.0).reshape(2, 3), np.arange(2.0 * LARGE).reshape(2, LARGE)
    for size, array in (("small", small), ("large", large)):
        frozen = array.copy()
        frozen.flags.writeable = False
        yield f"{size}", array
        yield f"{size} read-only", frozen
        yield f"{size} Fortran", np.asfortranarray(array)
        yield f"{size} read-only Fortran", np.asfortranarray(frozen).view()
        yield f"{size} transposed", array.T
        yield f"{size} slice", array[:, ::2]
        yield f"{size} reversed", array[::-1]
        yield f"{size} of bytes", np.frombuffer(array.tobytes())
    yield "empty", np.empty((0, 3))
    yield "zero-dimensional", np.array(5.0)
    yield "structured", np.zeros(LARGE, dtype=[("a", "i4"), ("b", "f8")])
    yield "objects", np.array([1, "two", None], dtype=object)
    yield "dates", np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")
    yield "big-endian", np.arange(5, dtype=">i4")


def as_frame(buffer):
    return zmq.Frame(bytes(buffer))


class TestArrays:
    @pytest.mark.parametrize("through", [memoryview, bytes, bytearray, as_frame, lambda b: memoryview(bytes(b))])
    @pytest.mark.parametrize(("name", "array"), list(arrays()), ids=lambda value: value if type(value) is str else "")
    def test_arrive_equal_and_writable(self, name, array, through):
        data, buffers = dump({"deep": [Box(array)]})
        got = load(data, [through(buffer) for buffer in buffers])["deep"][0].inner
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert (got == array).all()
        assert got.flags.writeable
        before = np.array(array)
        got[...] = got.dtype.type() if got.dtype.names is None else 7
        assert (array == before).all() or through is memoryview  # which is the array's own memory

    def test_large_ones_leave_beside_the_pickle_at_any_depth(self):
        array = np.arange(float(LARGE))
        data, buffers = dump(((array, {"x": [Box((array + 1,))]}), {"k": Box(array[:-1])}))
        assert [memoryview(buffer).nbytes for buffer in buffers] == [OUT_OF_BAND, OUT_OF_BAND]
        assert len(data) < 2 * OUT_OF_BAND
        assert np.shares_memory(np.frombuffer(buffers[0]), array)

    def test_memory_that_can_be_written_is_used_as_it_is(self):
        data, [buffer] = dump(np.zeros(LARGE))
        memory = bytearray(buffer)
        got = load(data, [memory])
        got[0] = 5
        assert np.frombuffer(memory)[0] == 5

    def test_memory_that_cannot_is_copied(self):
        array = np.zeros(LARGE)
        data, [buffer] = dump(array)
        memory = bytes(buffer)
        load(data, [memory])[0] = 5
        assert memory == bytes(array)

    def test_part_of_a_larger_read_only_memory(self):
        frozen = np.arange(float(LARGE))
        frozen.flags.writeable = False
        data, [buffer] = dump(frozen)
        memory = bytearray(8) + bytearray(buffer)
        got = load(data, [memoryview(memory)[8:]])
        assert (got == frozen).all()
        assert got.flags.writeable

    def test_bytes_and_bytearrays(self):
        for value in (b"x" * 100_000, bytearray(100_000), b"s", bytearray(b"s")):
            got = there_and_back([value])[0]
            assert got == value
            assert type(got) is type(value)

    @pytest.mark.parametrize("rows", [3, 20_000])
    def test_data_frames_can_be_changed(self, rows):
        frame = pd.DataFrame({"a": np.arange(rows), "b": np.arange(rows) / 2, "c": ["x"] * rows})
        got = there_and_back({"frame": frame})["frame"]
        pd.testing.assert_frame_equal(got, frame)
        got.loc[0, "a"] = 9
        got["b"] += 1
        got["b"].to_numpy(copy=True)[0] = 5
        assert got.loc[0, "a"] == 9


class Unloadable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return _raise, (self.error,)


def _raise(error):
    raise error


class TestWhatCannotBeOpened:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"garbage",
            b"\x80\x05.",
            dump(list(range(1000))).data[:-7],
            b"cnowhere.at.all\nf\n.",
            dump(Unloadable(ValueError("no"))).data,
            dump(Unloadable(SystemExit(3))).data,
            dump(Unloadable(RecursionError("deep"))).data,
            b"\x80\x05" + b"(" * 10 + b"\x97.",
        ],
    )
    def test_is_a_result_error_that_keeps_the_bytes(self, data):
        with pytest.raises(ResultError) as caught:
            load(data)
        assert caught.value.data == data
        assert caught.value.__cause__ is not None

    def test_a_missing_module_says_where_it_is_missing(self):
        with pytest.raises(ResultError, match=r"No module named 'nowhere'\); it must be importable on this side"):
            load(b"cnowhere.at.all\nf\n.")

    def test_missing_buffers(self):
        with pytest.raises(ResultError):
            load(dump(np.zeros(LARGE)).data)

    def test_an_interrupt_is_not_swallowed(self):
        with pytest.raises(KeyboardInterrupt):
            load(dump(Unloadable(KeyboardInterrupt())).data)

    def test_something_else_than_a_function(self):
        with pytest.raises(ResultError, match="is a int"):
            load_function(dump(5).data)


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("lock",)


class Stubborn:
    def __reduce__(self):
        raise ValueError("not me")


class Choosy:
    """Its state leaves the lock out, and has another bad part."""

    def __init__(self):
        self.lock, self.other = threading.Lock(), Stubborn()

    def __getstate__(self):
        return {"kept": self.other}


def slotted():
    value = Slotted()
    value.lock = threading.Lock()
    return value


def looped():
    value = Holder(lock=threading.Lock())
    value.me = [value]
    value.__dict__ = {"me": value.me, "lock": value.lock}
    return value


LOCK = threading.Lock()


class TestWhatCannotBeSent:
    @pytest.mark.parametrize(
        ("args", "kwargs", "text"),
        [
            ((LOCK,), {}, "argument 0 is a _thread.lock"),
            ((1, {"config": Holder(lock=LOCK)}), {}, "argument 1['config'].lock is a _thread.lock"),
            ((), {"model": [1, (2, LOCK)]}, "argument model[1][1] is a _thread.lock"),
            (([*range(5000), LOCK],), {}, "argument 0[5000] is a _thread.lock"),
            ((slotted(),), {}, "argument 0.lock is a _thread.lock"),
            ((looped(),), {}, "argument 0.lock is a _thread.lock"),
            ((OrderedDict(a=LOCK),), {}, "argument 0['a'] is a _thread.lock"),
            (([Stubborn()],), {}, "argument 0[0] is a tests.wire.test_payload.Stubborn (ValueError: not me)"),
            ((Choosy(),), {}, "argument 0.kept is a tests.wire.test_payload.Stubborn (ValueError: not me)"),
            (((x for x in ()),), {}, "argument 0 is a generator"),
            (({(1, LOCK): 2},), {}, "argument 0: key (1, <unlocked _thread.lock object"),
            ((functools.partial(max, LOCK),), {}, "argument 0: argument 0 is a _thread.lock"),
            ((Holder(lock=LOCK).__init__,), {}, "argument 0.__self__.lock is a _thread.lock"),
        ],
    )
    def test_the_error_leads_to_it(self, args, kwargs, text):
        with pytest.raises(SerializationError) as caught:
            dump((args, kwargs), call="score")
        assert str(caught.value).startswith(f"cannot send score: {text}")
        assert caught.value.path.startswith("argument ")
        assert caught.value.__cause__ is not None

    def test_items_of_a_map(self):
        with pytest.raises(SerializationError, match=r"cannot send score: item 2\['x'\] is a _thread.lock"):
            dump((False, [1, 2, {"x": LOCK}]), call="score")

    def test_a_result_is_named_by_its_type(self):
        with pytest.raises(SerializationError, match=r"^cannot send a list: \[1\]\['x'\] is a _thread\.lock") as caught:
            dump([1, {"x": LOCK}])
        assert caught.value.path == "[1]['x']"
        with pytest.raises(SerializationError, match=r"^cannot send a generator: TypeError: cannot pickle"):
            dump(x for x in ())

    def test_functions(self, notebook):
        names = notebook.run("def inner():\n    return lock\n\ndef outer(x=1):\n    return inner()\n")
        names["lock"] = LOCK
        with pytest.raises(SerializationError, match=r"send outer: global inner: global lock is a _thread\.lock"):
            dump_function(names["outer"])
        config = {"a": [LOCK]}
        with pytest.raises(SerializationError, match=r"<lambda>: closure variable config\['a'\]\[0\] is a _thread"):
            dump_function(lambda: config)
        with pytest.raises(SerializationError, match=r"<lambda>: default of y is a _thread"):
            dump_function(lambda x, y=LOCK: y)

    def test_a_class(self, notebook):
        names = notebook.run("class Model:\n    @classmethod\n    def run(cls):\n        return lock\n")
        names["lock"] = LOCK
        with pytest.raises(SerializationError, match=r"send Model: .run: global lock is a _thread\.lock"):
            dump_function(names["Model"])

    def test_too_deep(self):
        value = None
        for _ in range(100_000):
            value = [value]
        with pytest.raises(SerializationError, match="nested too deeply"):
            dump([value])
        while value:
            value = value.pop()

    def test_what_cannot_even_be_named(self):
        class Hopeless:
            def __reduce__(self):
                raise ValueError(self)

            def __repr__(self):
                raise RuntimeError

            __str__ = __hash__ = __repr__

        with pytest.raises(SerializationError, match=r"\[0\] is a .*Hopeless \(ValueError\)"):
            dump([Hopeless()])

    def test_an_interrupt_is_not_swallowed(self):
        class Interrupting:
            def __reduce__(self):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dump([Interrupting()])


class TestReference:
    def test_is_a_value(self):
        reference = Reference(" model['a'] ")
        assert repr(reference) == "Reference(\"model['a']\")"
        assert there_and_back([reference]) == [reference]
        assert len({reference, Reference("model['a']"), Reference("b")}) == 2
        assert reference != "model['a']"

    def test_must_be_an_expression(self):
        with pytest.raises(TypeError, match="not 5"):
            Reference(5)
        with pytest.raises(SyntaxError):
            Reference("a = 1")

    def test_pickles_with_one_can_be_told(self):
        assert may_refer(dump(((1, {"a": [Reference("x")]}), {})).data)
        assert may_refer(memoryview(dump([Reference("x")]).data))
        assert not may_refer(dump(((1, "a"), {})).data)


class Coded(Exception):
    def __init__(self, code, detail):
        super().__init__(f"error {code}")
        self.code, self.detail = code, detail


class Reduced(Exception):
    def __reduce__(self):
        return Reduced, ("as it says",)


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


class TestExceptions:
    def test_are_rebuilt_without_their_init(self):
        got = there_and_back([Coded(5, "x")])[0]
        assert (type(got), got.args, got.code, got.detail) == (Coded, ("error 5",), 5, "x")

    def test_keep_what_builtin_ones_keep_in_c(self):
        class Missing(FileNotFoundError):
            pass

        got = there_and_back(Missing(2, "gone", "/x"))
        assert (got.errno, got.strerror, got.filename) == (2, "gone", "/x")
        decode = there_and_back(UnicodeDecodeError("utf-8", b"abc", 1, 2, "bad"))
        assert (decode.start, decode.reason) == (1, "bad")
        assert there_and_back(ImportError("x", name="n", path="p")).path == "p"
        assert there_and_back(StopIteration(7)).value == 7

    def test_one_that_says_how(self):
        assert there_and_back(Reduced("anything")).args == ("as it says",)

    def test_notes_and_odd_classes(self):
        error = Frozen("x")
        error.__dict__["__notes__"] = ["a note"]
        got = there_and_back(error)
        assert type(got) is Frozen
        assert got.__notes__ == ["a note"]
