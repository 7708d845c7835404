"""What functions of clients see of an engine's namespace, and what they leave there."""

from __future__ import annotations

import asyncio
import functools

import pytest

from parallelkit.engine.namespace import Bound, Namespace, resolve
from parallelkit.errors import ResultError
from parallelkit.wire.payload import Reference, dump, dump_function, dump_whole
from parallelkit.wire.requirements import require


@pytest.fixture
def namespace():
    return Namespace({"__name__": "__main__"})


def client(source, **names):
    """The names of a notebook in which the cell has been run."""
    scope = {"__name__": "__main__", **names}
    exec(source, scope)
    return scope


def load(namespace, source, name="f", **names):
    """The function ``name`` of a client's cell, as the engine has it."""
    return namespace.load(dump_function(client(source, **names)[name]).data)


class TestNamesThatTheClientLacks:
    def test_are_looked_up_here_at_each_call(self, namespace):
        f = load(namespace, "def f(y): return x + y")
        namespace.user["x"] = 1
        assert f(1) == 2
        namespace.user["x"] = 10
        assert f(1) == 11
        del namespace.user["x"]
        with pytest.raises(NameError, match="'x'"):
            f(1)

    def test_what_came_along_wins(self, namespace):
        namespace.user["x"] = 10
        assert load(namespace, "def f(): return x", x=1)() == 1

    def test_builtins_win(self, namespace):
        namespace.user["len"] = lambda x: -1
        assert load(namespace, "def f(): return len('ab')")() == 2

    @pytest.mark.parametrize(
        "source",
        [
            "def g(): return x\ndef f(): return g()",
            "def f(): return (lambda: [x for _ in 'a'][0])()",
            "class C:\n    def m(self): return x\ndef f(): return C().m()",
            "class B:\n    def m(self): return x\nclass C(B): pass\ndef f(): return C().m()",
            "class C:\n    @property\n    def m(self): return x\nc = C()\ndef f(): return c.m",
            "class C:\n    @staticmethod\n    def m(): return x\n    n = classmethod(lambda cls: cls.m())\n"
            "def f(): return C.n()",
            "def make(g):\n    def f(): return g()\n    return f\nf = make(lambda: x)",
            "def f(g=lambda: x): return g()",
            "table = {'a': [lambda: x]}\ndef f(): return table['a'][0]()",
            "def g(): return x\ndef f(): return 0 and f() or h()\ndef h(): return g()",
            "import functools\nf = functools.partial(lambda y: x, 1)",
            "import functools\ng = functools.lru_cache(lambda: x)\ndef f(): return g()",
            "class C:\n    def __call__(self): return x\nf = C()",
            "class C:\n    def m(self): return x\nf = C().m",
            "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def w(): return g()\n    return w\n"
            "@deco\ndef f(): return x",
        ],
    )
    def test_also_by_what_the_function_calls(self, namespace, source):
        f = load(namespace, source)
        namespace.user["x"] = "here"
        assert f() == "here"

    def test_cost_nothing_when_there_are_none(self, namespace):
        f = load(namespace, "import math\nN = 1\ndef g(x): return x\ndef f(x): return g(math.floor(x)) + N + len('')")
        assert not isinstance(f, Bound)
        assert f(2.5) == 3

    @pytest.mark.parametrize("function", [len, int, functools.partial(pow, 2), functools.reduce, asyncio.sleep])
    def test_importable_functions_keep_to_their_modules(self, namespace, function):
        assert not isinstance(namespace.bind(function), Bound)

    def test_functions_defined_here_are_left_alone(self, namespace):
        exec("def g(): return x", namespace.user)
        assert namespace.bind(namespace.user["g"]) is namespace.user["g"]

    def test_a_function_can_call_one_that_is_defined_here(self, namespace):
        exec("x = 5\ndef g(y): return x + y", namespace.user)
        assert load(namespace, "def f(y): return g(y)")(1) == 6

    def test_two_functions_do_not_disturb_each_other(self, namespace):
        first = load(namespace, "def f(): return x, y", y=1)
        second = load(namespace, "def f(): return x, y", y=2)
        namespace.user["x"] = 0
        assert (first(), second(), first()) == ((0, 1), (0, 2), (0, 1))


COUNTER = "def f(step=1):\n    global count\n    count += step\n    return count"


class TestNamesThatItAssigns:
    def test_stay_here(self, namespace):
        f = load(namespace, COUNTER, count=10)
        assert [f(), f()] == [11, 12]
        assert namespace.user["count"] == 12

    def test_what_is_here_wins_over_what_came_along(self, namespace):
        namespace.user["count"] = 100
        assert load(namespace, COUNTER, count=10)() == 101

    def test_are_shared_by_functions(self, namespace):
        first = load(namespace, COUNTER, count=0)
        second = load(namespace, COUNTER.replace("step=1", "step=5"), count=0)
        assert [first(), second(), first()] == [1, 6, 7]

    def test_a_value_that_is_deleted_here_begins_anew(self, namespace):
        f = load(namespace, COUNTER, count=10)
        f()
        del namespace.user["count"]
        assert f() == 11

    def test_without_any_value(self, namespace):
        f = load(namespace, COUNTER)
        with pytest.raises(NameError, match="'count'"):
            f()
        assert "count" not in namespace.user
        namespace.user["count"] = 1
        assert f() == 2

    def test_also_when_it_fails(self, namespace):
        f = load(namespace, "def f():\n    global state\n    state = 'begun'\n    1 / 0")
        with pytest.raises(ZeroDivisionError):
            f()
        assert namespace.user["state"] == "begun"

    def test_can_be_deleted(self, namespace):
        namespace.user["state"] = 1
        load(namespace, "def f():\n    global state\n    del state")()
        assert "state" not in namespace.user

    def test_by_a_helper(self, namespace):
        source = "def put(v):\n    global state\n    state = v\ndef f(v):\n    put(v)\n    return state"
        assert load(namespace, source)(7) == 7
        assert namespace.user["state"] == 7


class TestCoroutines:
    def test_see_what_is_here_while_they_run(self, namespace):
        f = load(namespace, "async def f():\n    global seen\n    seen = x\n    return x")
        coroutine = f()
        namespace.user["x"] = 5
        assert "seen" not in namespace.user
        assert asyncio.run(coroutine) == 5
        assert namespace.user["seen"] == 5


class TestBound:
    def test_shows_whose_it_is(self, namespace):
        f = load(namespace, "def f(): return x")
        assert "function f at" in repr(f)
        assert f.__wrapped__.__name__ == "f"

    def test_cannot_be_loaded(self, namespace):
        with pytest.raises(ResultError):
            namespace.load(b"garbage")
        with pytest.raises(ResultError):
            namespace.load(dump_whole("no function"))

    def test_hands_over_arguments_and_errors(self, namespace):
        f = load(namespace, "def f(*args, **kwargs): return x[args, tuple(kwargs)]")
        namespace.user["x"] = {((1, 2), ("a",)): "found"}
        assert f(1, 2, a=3) == "found"
        with pytest.raises(KeyError):
            f()


class TestReferences:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (Reference("x"), 5),
            (Reference("x + d['k']"), 6),
            (((Reference("x"), 2), {"a": Reference("d")}), ((5, 2), {"a": {"k": 1}})),
            ([1, [Reference("x")], (1, {"deep": (Reference("x"),)})], [1, [5], (1, {"deep": (5,)})]),
            ((False, [Reference("x")] * 2), (False, [5, 5])),
        ],
    )
    def test_are_replaced(self, namespace, value, expected):
        namespace.push({"x": 5, "d": {"k": 1}})
        assert resolve(value, namespace) == expected
        assert namespace.open(*dump(value)) == expected

    @pytest.mark.parametrize("value", [((1, [2, (3,)]), {"a": {"b": [None]}}), [1] * 100, {"a": ()}, "Reference", {1}])
    def test_without_one_everything_stays_the_object_it_is(self, namespace, value):
        assert resolve(value, namespace) is value
        assert namespace.open(*dump(value)) == value

    def test_only_what_holds_one_is_copied(self, namespace):
        namespace.user["x"] = 1
        untouched = [1]
        value = [untouched, [Reference("x")]]
        got = resolve(value, namespace)
        assert got[0] is untouched
        assert isinstance(value[1][0], Reference)

    def test_other_types_of_containers_are_not_entered(self, namespace):
        class Items(list):
            pass

        value = [Items([Reference("x")])]
        assert resolve(value, namespace) is value

    def test_the_value_itself_arrives(self, namespace):
        namespace.user["x"] = [1]
        assert resolve((Reference("x"),), namespace)[0] is namespace.user["x"]

    def test_a_name_that_is_not_here(self, namespace):
        with pytest.raises(NameError, match="'nowhere'"):
            namespace.open(*dump(((Reference("nowhere"),), {})))

    def test_beside_large_data(self, namespace):
        namespace.user["x"] = 1
        text = "t" * 100_000
        assert namespace.open(b"", [dump([Reference("x"), text]).data]) == [1, text]


class TestPushAndPull:
    def test_names_and_expressions(self, namespace):
        namespace.push({"a": {"k": 1}, "b": 2})
        namespace.push({"a['k']": 5, "a['new']": b"x"})
        assert namespace.pull(["a", "b", "a['k'] + b"]) == [{"k": 5, "new": b"x"}, 2, 7]
        assert "_pushed" not in namespace.user

    def test_attributes(self, namespace):
        exec("class C: pass\nc = C()", namespace.user)
        namespace.push({"c.x": 3})
        assert namespace.pull(["c.x"]) == [3]

    def test_builtins_can_be_pulled(self, namespace):
        assert namespace.pull(["len('abc')"]) == [3]

    @pytest.mark.parametrize("name", ["nowhere", "a b", ""])
    def test_bad_names(self, namespace, name):
        with pytest.raises((NameError, SyntaxError)):
            namespace.pull([name])

    def test_bad_targets(self, namespace):
        with pytest.raises(SyntaxError):
            namespace.push({"1 + 1": 2})
        with pytest.raises(NameError):
            namespace.push({"nowhere.x": 2})


def test_a_function_with_requirements_finds_what_is_there_too(namespace):
    namespace.user["scale"] = 10
    plain = client("def f(x):\n    return scale * x + shift, j.__name__")["f"]
    function = namespace.load(dump_function(require("json as j", shift=1)(plain)).data)
    assert function(2) == (21, "json")
    assert "j" not in namespace.user
