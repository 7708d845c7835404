"""Exceptions arrive as themselves, or as text; and something arrives whatever an exception's own code does."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import traceback
import weakref

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelkit.errors import InternalError, RemoteError, ResultError, SerializationError, TaskTimeout
from parallelkit.wire import failures
from parallelkit.wire.failures import Failure, Link, dump_failure, load_failure, read_failure
from parallelkit.wire.frames import pack
from parallelkit.wire.payload import dump_function, load

WHERE = "engine 3 on host box, task score (a1b2c3d4-17), run 2"
#: What one failure may weigh, at most.
BOUND = failures.MAX_PICKLE * failures.MAX_LINKS


def dumped(error):
    return dump_failure(error, engine=3, run=2, task="score (a1b2c3d4-17)", host="box")


def caught(function, *args):
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001 - also SystemExit and its like
        return error
    raise AssertionError("nothing was raised")


def arrived(function, *args):
    """What a client gets of the exception that the call raises."""
    payload = dumped(caught(function, *args))
    assert payload.buffers == []
    assert len(payload.data) <= BOUND
    return load_failure(payload.data, payload.buffers)


def shown(error):
    return "".join(traceback.format_exception(error))


def raise_(error):
    raise error


class Coded(ValueError):
    def __init__(self, code, detail):
        super().__init__(f"error {code}")
        self.code, self.detail = code, detail


class TestAsItself:
    def test_type_arguments_attributes_and_notes(self):
        error = Coded(5, {"why": [1]})
        error.add_note("a note")
        got = arrived(raise_, error)
        with pytest.raises(ValueError, match="error 5"):
            raise got
        assert (type(got), got.args, got.code, got.detail) == (Coded, ("error 5",), 5, {"why": [1]})
        assert got.__notes__[0] == "a note"

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("missing"),
            FileNotFoundError(2, "gone", "/x"),
            UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"),
            StopIteration(5),
            json.JSONDecodeError("bad", "{", 1),
            TaskTimeout("too long"),
            SerializationError("cannot", "path"),
            RemoteError("Name", "text", "traceback", 4),
            AssertionError(),
            TimeoutError(),
        ],
        ids=repr,
    )
    def test_exceptions_of_libraries(self, error):
        got = arrived(raise_, error)
        assert type(got) is type(error)
        assert (got.args, str(got)) == (error.args, str(error))

    def test_the_last_note_says_where(self):
        got = arrived(raise_, ValueError("x"))
        assert got.__notes__[-1] == WHERE
        assert shown(got).rstrip().endswith(WHERE)

    def test_this_host_is_the_default(self):
        data = dump_failure(ValueError(), engine=0, run=1, task="t").data
        assert read_failure(data).host not in ("", "box")

    def test_cause_and_context(self):
        def cause():
            try:
                {}["first"]
            except KeyError as error:
                raise Coded(1, 2) from error

        def context():
            try:
                cause()
            except Coded:
                [][5]

        got = arrived(context)
        assert type(got) is IndexError
        assert type(got.__context__) is Coded
        assert got.__context__.code == 1
        assert type(got.__context__.__cause__) is KeyError
        assert got.__cause__ is None
        assert got.__context__.__suppress_context__
        text = shown(got)
        assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("During handling")
        assert '{}["first"]' in text
        assert text.count(WHERE) == 1

    def test_a_suppressed_context_stays_away(self):
        def function():
            try:
                {}["first"]
            except KeyError:
                raise ValueError("second") from None

        got = arrived(function)
        assert "first" not in shown(got)

    def test_a_cause_that_cannot_be_rebuilt_spares_the_rest(self):
        def function():
            try:
                raise Locked()
            except Locked as error:
                raise KeyError("outer") from error

        got = arrived(function)
        assert type(got) is KeyError
        assert isinstance(got.__cause__, RemoteError)
        assert got.__cause__.ename == "Locked"

    def test_chains_may_be_loops(self):
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        first.__context__ = first
        got = load_failure(dumped(first).data)
        assert got.__cause__.__cause__ is got
        assert "second" in shown(got)

    def test_long_chains_are_cut(self):
        error = root = ValueError("0")
        for number in range(1, 100):
            error.__cause__ = ValueError(str(number))
            error = error.__cause__
        assert len(read_failure(dumped(root).data).chain) == failures.MAX_LINKS

    def test_groups_show_the_lines_of_their_parts(self):
        def part():
            raise Coded(7, None)  # the line of the part

        def function():
            raise ExceptionGroup("several", [caught(part), ExceptionGroup("inner", [caught(part)])])

        got = arrived(function)
        assert type(got) is ExceptionGroup
        assert got.exceptions[0].code == 7
        text = shown(got)
        assert text.count("raise Coded(7, None)  # the line of the part") == 2
        assert text.count(WHERE) == 1
        with pytest.raises(ExceptionGroup) as info:
            raise got
        assert info.value.split(Coded)[1] is None

    def test_a_group_with_a_part_that_cannot_travel_shows_it_as_text(self):
        got = arrived(raise_, ExceptionGroup("several", [Locked("inside")]))
        assert isinstance(got, RemoteError)
        assert "Locked: inside" in shown(got)

    def test_large_attributes_are_kept_inside(self):
        error = Coded(1, np.arange(10_000))
        assert len(arrived(raise_, error).detail) == 10_000

    def test_it_travels_on(self):
        first = arrived(raise_, Coded(1, 2))
        second = arrived(raise_, first)
        assert type(second) is Coded
        assert second.__notes__.count(WHERE) == 2

    def test_as_frames_too(self):
        data, frames = pack(*dumped(Coded(1, "x" * 50_000)))
        assert data == b""
        assert len(load_failure(data, frames).detail) == 50_000

    def test_the_exceptions_of_two_loads_are_two(self):
        data = dumped(ValueError()).data
        assert load_failure(data) is not load_failure(data)


class TestTraceback:
    def test_shows_the_users_lines_only(self, notebook):
        names = notebook.run("def inner(x):\n    return 1 / x  # in the cell\ndef f(x):\n    return inner(x)\n")

        got = arrived(load_function_and_call, dump_function(names["f"]).data, 0)
        [text] = [note for note in got.__notes__ if note.startswith("Traceback on engine 3 (most recent call last):")]
        assert "return 1 / x  # in the cell" in text
        assert f'"{notebook.files[0]}", line 2, in inner' in text

    def test_hides_parallelkit_and_what_leads_to_the_first_line(self):
        machinery = {"__name__": "asyncio.events"}
        exec("def run(f):\n    f()\n", machinery)
        ours = {"__name__": "parallelkit.engine.executor"}
        exec("def call(f):\n    f()\n", ours)

        def user():
            ours["call"](lambda: machinery["run"](lambda: 1 / 0))

        frames = read_failure(dumped(caught(lambda: ours["call"](user))).data).chain[0].traceback
        assert "in call" not in frames
        assert frames.count("in run") == 1  # inside the user's code it is shown
        frames = read_failure(dumped(caught_in(machinery["run"], user)).data).chain[0].traceback
        assert frames.count("in run") == 1

    def test_errors_of_our_own_show_no_inside(self):
        ours = {"__name__": "parallelkit.engine.executor", "InternalError": InternalError}
        exec("def ours():\n    raise InternalError('x')\ndef bug():\n    1 / 0\n", ours)
        assert read_failure(dumped(caught_in(ours["ours"])).data).chain[0].traceback == ""
        assert "in bug" in read_failure(dumped(caught_in(ours["bug"])).data).chain[0].traceback

    def test_recursion_is_short(self):
        def deep(n):
            return deep(n + 1)

        got = arrived(deep, 0)
        assert type(got) is RecursionError
        assert len(shown(got)) < 3000
        assert "more times" in shown(got)

    def test_long_ones_lose_their_middle(self):
        names = {"__name__": "made"}
        exec("".join(f"def f{i}(): f{i + 1}()\n" for i in range(200)) + "def f200(): 1 / 0", names)
        text = shown(arrived(names["f0"]))
        assert "in f5\n" in text
        assert "in f200\n" in text
        assert "frames are not shown" in text
        assert "in f100\n" not in text

    def test_the_same_place_is_printed_once(self):
        def function(x):
            return 1 / x

        def text():
            return read_failure(dumped(caught(function, 0)).data).chain[0].traceback

        first = text()
        known = len(failures._formatted)
        assert text() == first
        assert len(failures._formatted) <= known + 1

    def test_what_is_remembered_is_bounded(self):
        for number in range(failures._MAX_FORMATTED + 20):
            names = {"__name__": "made"}
            exec(f"def f(): {number} / 0", names)
            arrived(names["f"])
        assert len(failures._formatted) <= failures._MAX_FORMATTED

    def test_holds_on_to_no_frame(self):
        class Big:
            pass

        def function():
            big = Big()
            gone.append(weakref.ref(big))
            raise ValueError

        gone = []
        arrived(function)
        gc.collect()
        assert gone[0]() is None


def load_function_and_call(data, *args):
    load(data)(*args)


def caught_in(function, *args):
    """What the call raises, without the frame of this module."""
    error = caught(function, *args)
    return error.with_traceback(error.__traceback__.tb_next)


class Locked(Exception):
    def __init__(self, *args):
        super().__init__(*args)
        self.lock = threading.Lock()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Exiting(Exception):
    def __str__(self):
        raise SystemExit(1)

    def __reduce__(self):
        raise KeyboardInterrupt


class Recursive(Exception):
    def __str__(self):
        return str(self)

    def __reduce__(self):
        return self.__reduce__()


class Liar(Exception):
    __class__ = int
    __cause__ = 5
    __context__ = property(lambda self: 1 / 0)
    __suppress_context__ = __traceback__ = __notes__ = args = __context__
    __dict__ = {}


class Strange(Exception):
    """Arrives, and then refuses everything."""

    def __setattr__(self, name, value):
        raise AttributeError("frozen")

    def __getattribute__(self, name):
        if name in ("__dict__", "__notes__"):
            raise AttributeError("hidden")
        return super().__getattribute__(name)


class BadMeta(type):
    __name__ = property(lambda cls: 1 / 0)


class Nameless(Exception, metaclass=BadMeta):
    pass


class TextSubclass(str):
    def __getitem__(self, key):
        raise RuntimeError

    def encode(self, *args):
        raise RuntimeError

    def __len__(self):
        return -5


class Texter(Exception):
    def __str__(self):
        return TextSubclass("from a subclass")


def unloadable(kind=ValueError):
    raise kind("not here")


class Unloadable(Exception):
    def __reduce__(self):
        return unloadable, ()


class UnloadableExit(Exception):
    def __reduce__(self):
        return unloadable, (SystemExit,)


class Shifty(Exception):
    """Rebuilt as something else."""

    def __reduce__(self):
        return str, ("no exception",)


HOSTILE = {
    "locked": Locked,
    "speechless": Speechless,
    "exiting": Exiting,
    "recursive": Recursive,
    "lying": Liar,
    "strange": Strange,
    "nameless": Nameless,
    "subclass of str": Texter,
    "unloadable": Unloadable,
    "exits when loaded": UnloadableExit,
    "shifty": Shifty,
}


class TestTotal:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_whatever_its_code_does(self, name):
        kind = HOSTILE[name]
        error = caught(raise_, kind())
        payload = dumped(error)
        assert len(payload.data) < 100_000
        got = load_failure(*payload)
        assert isinstance(got, Exception)
        if type(got) is not kind:
            assert isinstance(got, RemoteError)
            assert got.__notes__[-1] == WHERE
            assert got.engine == 3

    @pytest.mark.parametrize("name", HOSTILE)
    def test_also_as_a_cause_or_in_a_group(self, name):
        kind = HOSTILE[name]
        outer = KeyError("outer")
        outer.__cause__ = kind()
        got = load_failure(*dumped(outer))
        assert type(got) is KeyError
        assert isinstance(got.__cause__, BaseException)
        assert isinstance(load_failure(*dumped(ExceptionGroup("g", [kind()]))), Exception)

    def test_what_text_can_do(self):
        got = load_failure(*dumped(Locked("some text")))
        assert (got.ename, got.evalue, str(got)) == ("Locked", "some text", "Locked: some text")
        assert "could not be pickled there" in "\n".join(got.__notes__)
        assert load_failure(*dumped(Exiting())).evalue == "<no text: SystemExit>"
        assert str(load_failure(*dumped(Texter()))) == "from a subclass"
        got = load_failure(*dumped(caught(raise_, Unloadable("x"))))
        assert "ValueError: not here" in "\n".join(got.__notes__)
        assert "raise error" in got.traceback_text
        assert got.traceback_text.endswith("Unloadable: x")

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_those_that_would_end_this_process_arrive_as_text(self, kind):
        got = arrived(raise_, kind(3))
        assert isinstance(got, RemoteError)
        assert (got.ename, got.evalue) == (kind.__name__, "3")

    def test_one_of_those_may_be_a_cause(self):
        error = ValueError()
        error.__cause__ = KeyboardInterrupt()
        assert type(load_failure(*dumped(error)).__cause__) is KeyboardInterrupt

    @pytest.mark.parametrize("text", ["x" * 50_000_000, "✓" * 1_000_000, "\ud800 lone", "nul \0"])
    def test_texts_of_any_size_and_kind(self, text):
        got = arrived(raise_, KeyError(text))
        assert type(got) is KeyError
        assert got.args[0][:1] == text[:1]
        assert len(got.args[0]) <= failures.MAX_PICKLE
        failure = read_failure(*dumped(KeyError(text)))
        assert len(failure.chain[0].evalue.encode()) <= failures.MAX_TEXT

    def test_what_is_too_large_to_travel_comes_as_text(self):
        got = arrived(raise_, Coded(1, list(range(1_000_000))))
        assert isinstance(got, RemoteError)
        assert (got.ename, got.evalue) == ("Coded", "error 1")

    def test_everything_large_at_once(self):
        error = ExceptionGroup("x" * 10**6, [ValueError("y" * 10**6) for _ in range(20)])
        for _ in range(20):
            other = Coded("z" * 10**6, b"b" * 10**6)
            other.__cause__ = error
            error = other
        assert len(dumped(error).data) <= BOUND
        assert isinstance(load_failure(*dumped(error)), Coded)


class TestDamage:
    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=100))
    def test_garbage_is_an_exception_too(self, data):
        assert isinstance(load_failure(data), Exception)

    def test_every_cut(self):
        data = dumped(caught(raise_, ValueError("x"))).data
        for length in range(len(data)):
            got = load_failure(data[:length])
            assert isinstance(got, ResultError)
            assert got.data == data[:length]

    @pytest.mark.parametrize("number", [-2, 0, 1, 7, 10**9])
    def test_links_that_lead_nowhere(self, number):
        link = Link("E", "text", "", b"garbage", number, number, False, (number,))
        data = msgspec.msgpack.encode(Failure(1, "h", "t", 1, [link]))
        assert isinstance(load_failure(data), RemoteError)

    def test_an_empty_one(self):
        assert isinstance(load_failure(msgspec.msgpack.encode(Failure(1, "h", "t", 1, []))), ResultError)
        assert isinstance(load_failure(b""), ResultError)


def test_a_description_without_opening_it():
    failure = read_failure(dumped(caught(raise_, Unloadable("x"))).data)
    assert (failure.engine, failure.host, failure.task, failure.run) == (3, "box", "score (a1b2c3d4-17)", 2)
    assert failure.where == WHERE
    assert (failure.chain[0].ename, failure.chain[0].evalue) == ("Unloadable", "x")
    assert failure.traceback_text.startswith("Traceback (most recent call last):\n  File ")
    assert failure.traceback_text.endswith("Unloadable: x")
