"""Decorated functions: what their calls send, and what comes back."""

import pytest

import parallelkit as pk
from parallelkit.client.results import AsyncResult

TIMEOUT = 10


def test_a_remote_function_runs_on_the_engines_of_its_view(client):
    @client[:].remote(block=True, label="mine")
    def double(x, times=2):
        """Twice as much."""
        return x * times

    assert double(4) == [8, 8]
    assert double(4, times=3) == [12, 12]
    assert double.map(range(4)) == [0, 2, 4, 6]
    assert (double.__name__, double.__doc__, double.__wrapped__(1)) == ("double", "Twice as much.", 2)
    assert {options.label for _, options in client.session.link.submitted} == {"mine"}
    assert client[:].block is False
    assert repr(double) == "<RemoteFunction double on <DirectView targets=[0, 1]>>"


def test_without_block_a_result_comes_back(client):
    view = client.load_balanced_view()
    double = pk.remote(view)(lambda x: 2 * x)
    assert isinstance(double(1), AsyncResult)
    assert double(1).get(TIMEOUT) == 2
    assert double.map([1, 2]).get(TIMEOUT) == [2, 4]
    view.block = True
    assert double(1) == 2


def test_a_wrong_flag_is_told_where_it_is_written(client):
    with pytest.raises(TypeError, match="no flag 'lable'"):
        client[:].remote(lable="x")(abs)
    with pytest.raises(ValueError, match="dist='x'"):
        client[:].parallel(dist="x")(abs)


def test_forgotten_parentheses_are_told(client):
    with pytest.raises(TypeError, match="with parentheses"):
        client[:].remote(abs)
    with pytest.raises(TypeError, match="with parentheses"):
        client[:].parallel(abs)


def test_a_remote_function_may_call_itself(client):
    @client.load_balanced_view().remote(block=True)
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert factorial(5) == 120


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("make", [lambda rc: rc[:], lambda rc: rc.load_balanced_view()])
def test_a_parallel_function_gets_a_part_on_each_engine(make_client, make, dist):
    client = make_client(3)

    @make(client).parallel(dist=dist, block=True)
    def add(xs, ys):
        return [x + y for x, y in zip(xs, ys, strict=True)]

    assert add(range(8), range(8)) == [2 * x for x in range(8)]
    assert client.session.link.count == 3
    assert add([1], [2]) == [3]
    assert client.session.link.count == 4, "no empty parts"
    assert add([], []) == []
    with pytest.raises(ValueError, match="different lengths, 2, 1"):
        add([1, 2], [1])
    with pytest.raises(TypeError, match="at least one sequence"):
        add()


def test_what_is_no_sequence_comes_back_as_a_list_of_parts(client):
    total = pk.parallel(client[:])(sum)
    assert total(range(5)).get(TIMEOUT) == [3, 7]
    assert pk.parallel(client[:], block=True)(abs).map([-1, 2]) == [1, 2]


def test_arrays_are_cut_and_joined(client):
    numpy = pytest.importorskip("numpy")
    values = client[:].parallel(dist="r", block=True)(numpy.sqrt)(numpy.arange(5.0))
    assert isinstance(values, numpy.ndarray)
    assert (values == numpy.sqrt(numpy.arange(5.0))).all()
    assert client[:].parallel(block=True)(numpy.sum)(numpy.arange(4.0)) == [1.0, 5.0]
