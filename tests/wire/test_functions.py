"""Functions and classes: by name or by value, cached while nothing changes, and with their source lines."""

from __future__ import annotations

import functools
import gc
import operator
import sys
import types
import weakref

import cloudpickle
import numpy as np
import pytest

from parallelkit.wire import payload
from parallelkit.wire.payload import dump_function, dump_whole, load, load_function


def here():
    """A function that can be imported."""


class Callable:
    def __call__(self, x):
        return x + 1

    def method(self, x):
        return x + 2


FUNCTIONS = {
    "alias": ("import math as m\ndef f(x):\n    return m.floor(x) + len([x])\n", "f", "it(2.5)", 3),
    "submodule": ("import xml\nimport xml.dom\ndef f():\n    return xml.dom.__name__\n", "f", "it()", "xml.dom"),
    "constant": ("N = 3\ndef f(x):\n    return x * N\n", "f", "it(2)", 6),
    "recursive": ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\n", "f", "it(5)", 120),
    "mutual": (
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n > 0 and even(n - 1)\n",
        "even",
        "it(10)",
        True,
    ),
    "lambda": ("f = lambda x, *, y=2: (x, y)\n", "f", "it(1)", (1, 2)),
    "closure": ("def make(a):\n    def f(b):\n        return a + b\n    return f\nf = make(1)\n", "f", "it(2)", 3),
    "self closure": (
        "def make():\n    def f(n):\n        return n and n + f(n - 1)\n    return f\nf = make()\n",
        "f",
        "it(3)",
        6,
    ),
    "async": ("async def f(x):\n    return x + 1\n", "f", "asyncio.run(it(1))", 2),
    "generator": ("def f(n):\n    yield from range(n)\n", "f", "list(it(3))", [0, 1, 2]),
    "local class": (
        "def f(x):\n    class Local:\n        def get(self):\n            return x\n    return Local().get()\n",
        "f",
        "it(4)",
        4,
    ),
    "class": (
        "class A:\n    def __init__(self, x):\n        self.x = x\nclass B(A):\n    @property\n"
        "    def twice(self):\n        return 2 * self.x\ndef f(x):\n    return B(x).twice\n",
        "f",
        "it(4)",
        8,
    ),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
        "def f(x):\n    return dataclasses.asdict(A(x))\n",
        "f",
        "it(4)",
        {"x": 4},
    ),
    "decorated": (
        "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def w(x):\n        return g(g(x))\n"
        "    return w\n@twice\ndef f(x):\n    return x + 1\n",
        "f",
        "(it(1), it.__name__)",
        (3, "f"),
    ),
    "cached": (
        "import functools\n@functools.lru_cache(maxsize=7)\n"
        "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n",
        "f",
        "(it(50), it.cache_parameters())",
        (12586269025, {"maxsize": 7, "typed": False}),
    ),
    "partial": ("import functools\ndef g(a, b):\n    return a - b\nf = functools.partial(g, 5)\n", "f", "it(3)", 2),
    "instance": ("class C:\n    def __call__(self, x):\n        return x + 1\nf = C()\n", "f", "it(1)", 2),
    "method": ("class C:\n    def m(self, x):\n        return x + 1\nf = C().m\n", "f", "it(1)", 2),
    "import inside": ("def f():\n    import json\n    return json.dumps([1])\n", "f", "it()", "[1]"),
}


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_of_a_notebook_work_elsewhere(self, name, notebook, elsewhere):
        source, function, expression, expected = FUNCTIONS[name]
        made = dump_function(notebook.run(source)[function])
        assert load(elsewhere.evaluate(made.data, expression)) == expected

    @pytest.mark.parametrize(
        ("function", "name", "expression"),
        [
            (len, "len", "it('ab')"),
            (str.upper, "str.upper", "it('a')"),
            ("abc".upper, "str.upper", "it()"),
            (operator.itemgetter(1), "itemgetter", "it([1, 2])"),
            (np.sin, "sin", "float(it(0))"),
            (int, "int", "it('5')"),
            (functools.reduce, "reduce", "it(max, [1, 2])"),
            (functools.partial(pow, 2), "pow", "it(3)"),
        ],
    )
    def test_importable_ones_travel_by_name(self, function, name, expression, elsewhere):
        made = dump_function(function)
        assert made.name == name
        assert len(made.digest) == 16
        assert len(made.data) < 200
        assert load(elsewhere.evaluate(made.data, expression)) == eval(expression, {"it": function, "float": float})

    def test_of_this_module(self):
        assert load_function(dump_function(here).data) is here
        assert load_function(dump_function(Callable().method).data)(1) == 3
        assert load_function(dump_function(Callable()).data)(1) == 2
        assert dump_function(Callable.method).name == "Callable.method"
        assert dump_function(Callable()).name == "Callable"

    def test_names_are_for_people(self):
        def inner(x):
            return x

        assert dump_function(inner).name == "inner"
        assert dump_function(functools.partial(functools.partial(inner, 1))).name == "inner"
        assert dump_function(lambda: 1).name == "<lambda>"

    def test_the_same_again_costs_nothing_and_says_so(self, notebook):
        f = notebook.run("def f(x):\n    return x\n")["f"]
        assert dump_function(f) is dump_function(f)

    def test_equal_functions_have_equal_digests(self, notebook):
        source = "import math\nN = 5\ndef g(x):\n    return math.sin(x) * N\ndef f(x):\n    return g(x)\n"
        first = notebook.run(source)["f"]
        before = dump_function(first)
        payload._kept.clear()
        assert dump_function(first) == before
        assert dump_function(lambda: 1).digest != dump_function(lambda: 2).digest

    def test_a_changed_list_is_noticed(self, notebook):
        names = notebook.run("items = [1]\ndef f():\n    return items\n")
        first = dump_function(names["f"])
        assert dump_function(names["f"]).digest == first.digest
        names["items"].append(2)
        again = dump_function(names["f"])
        assert again.digest != first.digest
        assert load_function(again.data)() == [1, 2]

    def test_a_changed_helper_is_noticed(self, notebook):
        names = notebook.run("def helper():\n    return 1\ndef f():\n    return helper()\n")
        first = dump_function(names["f"])
        notebook.run("def helper():\n    return 2\n")
        assert load_function(dump_function(names["f"]).data)() == 2
        assert load_function(first.data)() == 1

    def test_the_cache_is_bounded_and_weak(self):
        for number in range(payload.MAX_FUNCTIONS + 50):
            namespace = {"__name__": "__main__"}
            exec(f"def f(): return {number}", namespace)
            kept = namespace["f"]
            dump_function(kept)
        assert len(payload._kept) <= payload.MAX_FUNCTIONS
        gone, key = weakref.ref(kept), id(kept)
        assert key in payload._kept
        del kept, namespace
        gc.collect()
        assert gone() is None
        assert key not in payload._kept

    def test_large_functions_do_not_pile_up(self, monkeypatch):
        payload._kept.clear()
        monkeypatch.setattr(payload, "MAX_FUNCTION_BYTES", 1 << 20)
        functions = [lambda text=str(number) * 400_000: text for number in range(6)]
        for function in functions:
            dump_function(function)
        assert 0 < payload._kept_bytes() <= 1 << 20

    def test_modules_registered_by_value(self):
        module = types.ModuleType("by_value_module")
        exec("def f():\n    return 1\n", module.__dict__)
        sys.modules["by_value_module"] = module
        try:
            by_name = dump_function(module.f)
            cloudpickle.register_pickle_by_value(module)
            by_value = dump_function(module.f)
            cloudpickle.unregister_pickle_by_value(module)
            assert len(by_value.data) > len(by_name.data)
            assert dump_function(module.f) == by_name
        finally:
            del sys.modules["by_value_module"]


class TestClasses:
    def test_one_of_ours_that_comes_back_is_itself(self, notebook, elsewhere):
        names = notebook.run("N = 1\nclass C:\n    def get(self):\n        return N\n")
        kind, method = names["C"], names["C"].get
        back = load(elsewhere.evaluate(dump_whole(kind), "[it(), it]"))
        assert back[1] is kind
        assert type(back[0]) is kind
        assert kind.get is method
        names["N"] = 2
        assert back[0].get() == 2

    def test_changes_reach_the_other_side(self, notebook, elsewhere):
        kind = notebook.run("class C:\n    def get(self):\n        return 1\n")["C"]
        assert load(elsewhere.evaluate(dump_whole(kind), "it().get()")) == 1
        kind.get = notebook.run("def get(self):\n    return 2\n")["get"]
        assert load(elsewhere.evaluate(dump_whole(kind), "it().get()")) == 2

    def test_an_exception_class_of_the_notebook_can_be_caught(self, notebook, elsewhere):
        names = notebook.run("class Mine(Exception):\n    pass\ndef f():\n    return Mine('x')\n")
        error = load(elsewhere.evaluate(dump_function(names["f"]).data, "it()"))
        with pytest.raises(names["Mine"], match="x"):
            raise error


class TestSources:
    def test_a_traceback_elsewhere_shows_the_cell(self, notebook, elsewhere):
        names = notebook.run("import math\n\ndef f(x):\n    y = x\n    return 1 / (y - y)  # the bad line\n")
        text = elsewhere.error(dump_function(names["f"]).data, "it(3)")
        assert f'File "{notebook.files[0]}", line 5, in f' in text
        assert "return 1 / (y - y)  # the bad line" in text

    def test_helpers_of_other_cells_too(self, notebook, elsewhere):
        notebook.run("def helper(x):\n    return [][x]  # in the first cell\n")
        names = notebook.run("def f(x):\n    return helper(x)  # in the second cell\n")
        text = elsewhere.error(dump_function(names["f"]).data, "it(3)")
        assert "in the first cell" in text
        assert "in the second cell" in text

    def test_lambdas_among_arguments_and_methods_of_classes(self, notebook, elsewhere):
        names = notebook.run("class C:\n    def m(self):\n        return 1 / 0  # here\n")
        assert "1 / 0  # here" in elsewhere.error(dump_whole([names["C"]()]), "it[0].m()")

    def test_files_that_exist_send_their_own_lines_only(self, elsewhere):
        function = lambda: 1 / 0  # noqa: E731 - a line of this file
        made = dump_function(function)
        assert b"a line of this file" in made.data
        assert b"test_files_that_exist" not in made.data.replace(b"TestSources.test_files_that_exist", b"")
        assert len(made.data) < 2000

    def test_a_huge_cell_sends_the_lines_of_the_function(self, notebook, elsewhere):
        names = notebook.run("x = 1\n" * 30_000 + "def f():\n    return 1 / 0  # far down\n")
        made = dump_function(names["f"])
        assert len(made.data) < 2000
        text = elsewhere.error(made.data, "it()")
        assert "line 30002, in f" in text
        assert "far down" in text

    def test_what_has_no_source_travels_without(self, elsewhere):
        namespace = {"__name__": "__main__"}
        exec("def f():\n    return 7\n", namespace)
        assert load(elsewhere.evaluate(dump_function(namespace["f"]).data, "it()")) == 7
