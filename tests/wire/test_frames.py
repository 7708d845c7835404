"""Headers survive the way for every message there is; whatever a peer sends instead is refused, not misread."""

from __future__ import annotations

import itertools
import typing
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelkit.errors import LocalProtocolError, RemoteProtocolError
from parallelkit.wire import frames
from parallelkit.wire import messages as m
from parallelkit.wire.frames import INLINE, VERSION, Decoder, encode, pack, take, to_ranges, unpack

KINDS = tuple(kind for kind in vars(m).values() if isinstance(kind, type) and issubclass(kind, m.Message))
KINDS = tuple(kind for kind in KINDS if kind is not m.Message)
DIRECTIONS = {"client": m.FROM_CLIENT, "engine": m.FROM_ENGINE, "node": m.FROM_NODE, "hub": m.FROM_HUB}

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of one annotation of a message."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return plain
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is not None:  # X | None
        return st.one_of(*map(values, arguments))
    if issubclass(kind, IntEnum):
        return st.sampled_from(kind)
    if issubclass(kind, msgspec.Struct):
        return structs(kind)
    return {
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        str: st.text(max_size=10),
        bytes: st.binary(max_size=20),
        type(None): st.none(),
    }[kind]


def structs(kind: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


def everything(kinds: tuple[Any, ...] = KINDS) -> st.SearchStrategy[Any]:
    return st.sampled_from(kinds).flatmap(structs)


#: One decoder for all: the tags must tell the kinds apart.
decoder = Decoder(KINDS)


def test_every_message_has_a_direction_and_its_own_tag():
    assert set().union(*DIRECTIONS.values()) == set(KINDS)
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_arrives_as_it_was(kind):
    @settings(max_examples=20, deadline=None)
    @given(structs(kind))
    def check(message):
        got = decoder.decode(encode(message))
        assert got == message
        assert type(got) is kind

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_cut_is_refused(kind):
    @settings(max_examples=5, deadline=None)
    @given(structs(kind))
    def check(message):
        header = encode(message)
        for length in range(len(header)):
            with pytest.raises(RemoteProtocolError):
                decoder.decode(header[:length])
        with pytest.raises(RemoteProtocolError):
            decoder.decode(header + b"\x00")

    check()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_a_message(garbage):
    for data in (garbage, VERSION + garbage):
        try:
            message = decoder.decode(data)
        except RemoteProtocolError:
            continue
        assert isinstance(message, KINDS)


@settings(max_examples=300, deadline=None)
@given(everything(), st.data())
def test_damage_is_refused_or_is_a_message(message, data):
    header = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decoder.decode(header)
    except RemoteProtocolError:
        return
    assert isinstance(got, KINDS)
    encode(got)


@settings(max_examples=100, deadline=None)
@given(everything(), st.sampled_from(sorted(DIRECTIONS)))
def test_each_direction_takes_its_own_messages_only(message, direction):
    header = encode(message)
    if type(message) in DIRECTIONS[direction]:
        assert Decoder(DIRECTIONS[direction]).decode(header) == message
    else:
        with pytest.raises(RemoteProtocolError, match="malformed header"):
            Decoder(DIRECTIONS[direction]).decode(header)


def test_another_protocol_is_named():
    with pytest.raises(RemoteProtocolError, match=rf"protocol b'\\x00', this side speaks {m.PROTOCOL}"):
        decoder.decode(b"\x00" + encode(m.Goodbye())[1:])
    with pytest.raises(RemoteProtocolError):
        decoder.decode(b"")


def test_depth_is_bounded():
    with pytest.raises(RemoteProtocolError):
        decoder.decode(VERSION + b"\x91" * 100_000 + b"\x00")
    deep = b"\x91" * 100_000 + b"\xc0"
    answer = VERSION + b"\x94" + msgspec.msgpack.encode(m.Answer.__struct_config__.tag) + b"\x01" + deep + b"\xa0"
    with pytest.raises(RemoteProtocolError):
        decoder.decode(answer)


def test_length_is_bounded_on_both_sides(monkeypatch):
    header = encode(m.Goodbye("x" * 100))
    monkeypatch.setattr(frames, "MAX_HEADER", 100)
    with pytest.raises(RemoteProtocolError, match="at most 100"):
        decoder.decode(header)
    with pytest.raises(LocalProtocolError, match="at most 100"):
        encode(m.Goodbye("x" * 100))


def test_headers_may_be_any_buffer():
    header = encode(m.Goodbye("why"))
    for buffer in (bytearray(header), memoryview(header)):
        assert decoder.decode(buffer) == m.Goodbye("why")


@given(st.lists(st.integers(0, 4), max_size=6))
def test_take_gives_everybody_their_own(counts):
    every = [bytes([index]) for index in range(sum(counts))]
    runs = take(every, counts)
    assert [len(run) for run in runs] == counts
    assert [frame for run in runs for frame in run] == every


@pytest.mark.parametrize(("number", "counts"), [(2, [1]), (0, [1]), (1, [2, -1]), (1, [])])
def test_take_refuses_what_does_not_add_up(number, counts):
    with pytest.raises(RemoteProtocolError, match=f"{number} frames"):
        take([b""] * number, counts)


@given(st.sampled_from([1, INLINE, INLINE + 1]), st.lists(st.binary(max_size=3), max_size=3))
def test_pack_and_unpack(length, buffers):
    data = b"d" * length
    inline, packed = pack(data, buffers)
    assert (inline == b"") == (length > INLINE)
    got, rest = unpack(inline, packed)
    assert (bytes(got), list(rest)) == (data, buffers)


@given(st.sets(st.integers(0, 40)))
def test_ranges_cover_the_numbers_and_nothing_else(numbers):
    ranges = to_ranges(sorted(numbers))
    assert [number for start, stop in ranges for number in range(start, stop)] == sorted(numbers)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(ranges))
