"""The function cache: bounded, least recently used first."""

from parallelkit.engine.functions import FunctionCache


def test_the_least_recently_used_goes_first():
    cache = FunctionCache(max_count=2)
    cache.add(b"a", b"1")
    cache.add(b"b", b"2")
    cache.get(b"a")
    cache.add(b"c", b"3")
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_bytes_are_bounded_but_the_newest_stays():
    cache = FunctionCache(max_bytes=10)
    cache.add(b"a", bytes(6))
    cache.add(b"b", bytes(6))
    assert (len(cache), cache.bytes) == (1, 6)
    cache.add(b"c", bytes(100))
    assert (len(cache), cache.bytes) == (1, 100)
    assert cache.get(b"c").data == bytes(100)


def test_one_that_is_known_keeps_what_it_has_become():
    cache = FunctionCache()
    first = cache.add(b"a", b"1")
    first.call = len
    assert cache.add(b"a", b"1") is first
    assert cache.bytes == 1
