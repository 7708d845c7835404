"""Buffers of results: copied if, and only if, user code could still change what is on its way."""

import pytest

from parallelkit.engine.aliasing import settle
from parallelkit.wire.payload import dump, load

np = pytest.importorskip("numpy")


def is_copied(make):
    """Whether the buffer of what ``make`` returns is copied, as the executor would have it."""
    (buffer,) = dump(make()).buffers
    before = np.frombuffer(buffer, np.uint8).ctypes.data
    (settled,) = settle([buffer])
    return np.frombuffer(settled, np.uint8).ctypes.data != before


KEPT = np.zeros(100_000, np.uint8)
KEPT_BYTES = bytes(100_000)


def cached(value=KEPT):
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(100_000, np.uint8),
        lambda: {"deep": [np.zeros(100_000, np.uint8)]},
        lambda: np.zeros(200_000, np.uint8)[50_000:],
        lambda: np.zeros((400, 300), np.uint8).T,
        lambda: np.frombuffer(bytearray(100_000), np.uint8),
        lambda: np.frombuffer(KEPT_BYTES, np.uint8),
    ],
)
def test_what_nobody_holds_is_sent_as_it_is(make):
    assert not is_copied(make)


class Frame(bytearray):
    """Stands for a message's frame: writable memory of a type of its own."""


def test_arguments_that_come_back_are_not_copied():
    sent = dump(np.zeros(100_000, np.uint8))
    frames = [Frame(sent.buffers[0])]
    returned = dump(load(sent.data, frames)).buffers
    assert settle(returned, frames)[0] is returned[0]
    kept = load(sent.data, frames)
    returned = dump(kept).buffers
    assert settle(returned, frames)[0] is not returned[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: KEPT,
        lambda: [KEPT],
        lambda: KEPT[10:],
        lambda: KEPT.view(np.uint16),
        lambda: KEPT[:90_000].reshape(300, 300).T,
        cached,
    ],
)
def test_what_lives_on_is_copied(make):
    assert is_copied(make)
