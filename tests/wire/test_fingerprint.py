"""Every way in which a pickled function can become out of date, and what has no fingerprint at all."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref

import pytest

from parallelkit.wire.fingerprint import global_names, importable, take

SOURCE = """
import math
import xml
from functools import reduce, lru_cache

N = 3
PAIR = (1, ("a", frozenset({2})))

class Base:
    scale = 2

class Model(Base):
    label: str = "m"
    def __init__(self, x):
        self.x = x
    @property
    def twice(self):
        return helper(self.x) * self.scale
    @staticmethod
    def make():
        return Model(1)

def deepest(x):
    return x + N

def helper(x):
    return deepest(x) + math.pi

@lru_cache
def cached(x):
    return helper(x)

def outer(a):
    b = a + 1
    def f(x, y=5, *, z=6):
        return helper(x), a, b, PAIR, len("x"), reduce, Model(x).twice, cached(x), later(), xml.dom
    return f

f = outer(1)
"""


@pytest.fixture
def names(notebook):
    return notebook.run(SOURCE)


def set_cell(function, name, value):
    index = function.__code__.co_freevars.index(name)
    function.__closure__[index].cell_contents = value


def change_code(function):
    function.__code__ = function.__code__.replace(co_firstlineno=function.__code__.co_firstlineno + 1)


CHANGES = {
    "a global of a helper's helper": lambda names: names.update(N=4),
    "a global's type only": lambda names: names.update(N=3.0),
    "a helper": lambda names: names.update(helper=lambda x: x),
    "a helper's code": lambda names: change_code(names["deepest"]),
    "a helper is gone": lambda names: names.pop("helper"),
    "its code": lambda names: change_code(names["f"]),
    "a default": lambda names: setattr(names["f"], "__defaults__", (7,)),
    "a keyword default": lambda names: setattr(names["f"], "__kwdefaults__", {"z": 7}),
    "a closure variable": lambda names: set_cell(names["f"], "a", 9),
    "a name that was missing": lambda names: names.update(later=5),
    "a builtin is shadowed": lambda names: names.update(len=5),
    "a module under another name": lambda names: names.update(math=sys),
    "an attribute of the function": lambda names: setattr(names["f"], "tag", 1),
    "an imported function": lambda names: names.update(reduce=max),
    "a method": lambda names: setattr(names["Model"], "make", staticmethod(lambda: 1)),
    "a new method": lambda names: setattr(names["Model"], "extra", 1),
    "a method's code": lambda names: change_code(names["Model"].__init__),
    "an attribute of a base": lambda names: setattr(names["Base"], "scale", 3),
    "a class": lambda names: names.update(Model=int),
    "a cached function": lambda names: names.update(cached=int),
}


class TestWhatChanges:
    def test_nothing(self, names):
        fingerprint = take(names["f"], set())
        names["unrelated"] = 5
        names["cached"](1)
        assert fingerprint.holds(set())

    @pytest.mark.parametrize("change", CHANGES)
    def test_is_noticed(self, change, names):
        fingerprint = take(names["f"], set())
        CHANGES[change](names)
        assert not fingerprint.holds(set())
        again = take(names["f"], set())
        assert again.holds(set())

    def test_submodules_imported_later(self, names):
        for name in [name for name in sys.modules if name.startswith("xml.sax")]:
            del sys.modules[name]
        fingerprint = take(names["f"], set())
        importlib.import_module("xml.sax")
        assert not fingerprint.holds(set())

    def test_modules_that_are_to_go_by_value(self, names):
        fingerprint = take(names["f"], set())
        assert not fingerprint.holds({"functools"})

    def test_a_module_that_has_been_reloaded(self, tmp_path, monkeypatch):
        (tmp_path / "reloaded_module.py").write_text("def f():\n    return 1\n")
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module("reloaded_module")
        function = module.f
        fingerprint = take(function, set())
        assert fingerprint.holds(set())
        importlib.reload(module)
        assert not fingerprint.holds(set())
        del sys.modules["reloaded_module"]


class TestWhatHasNone:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("N", [1]),
            ("N", {"a": 1}),
            ("N", (1, [2])),
            ("N", object()),
            ("N", bytearray(1)),
            ("N", weakref.WeakSet()),
            ("N", [].append),
            ("helper", lambda x, acc=[]: acc),
            ("helper", type("Meta", (type,), {})("Made", (), {})),
            ("Model", type("WithList", (), {"items": []})),
        ],
    )
    def test_anything_mutable(self, name, value, names):
        names[name] = value
        if isinstance(value, type):
            value.__module__ = "__main__"
        assert take(names["f"], set()) is None

    def test_mutable_closure_default_and_attribute(self, names):
        f = names["f"]
        f.tags = []
        assert take(f, set()) is None
        del f.tags
        set_cell(f, "b", {})
        assert take(f, set()) is None
        set_cell(f, "b", 2)
        f.__kwdefaults__ = {"z": []}
        assert take(f, set()) is None

    def test_instances_and_bound_methods(self, names):
        model = names["Model"](1)
        assert take(model, set()) is None
        assert take(model.__init__, set()) is None

    def test_modules_made_by_hand(self, names):
        names["math"] = type(sys)("made_by_hand")
        assert take(names["f"], set()) is None

    def test_what_reaches_too_far(self):
        names = {"__name__": "__main__"}
        chain = "".join(f"def f{i}(): return f{i + 1}()\n" for i in range(1500))
        exec(chain, names)
        assert take(names["f0"], set()) is None
        assert take(names["f1400"], set()) is not None


class TestImmutable:
    @pytest.mark.parametrize(
        "code",
        [
            "1.5",
            "(1, None, ...)",
            "frozenset({1})",
            "range(3)",
            "__import__('re').compile('x')",
            "__import__('datetime').date(2020, 1, 1)",
            "__import__('fractions').Fraction(1, 2)",
            "__import__('pathlib').Path('/x')",
            "__import__('numpy').float64(1)",
            "__import__('numpy').sin",
            "len",
            "int",
        ],
    )
    def test_values(self, code, names):
        names["N"] = eval(code)
        fingerprint = take(names["f"], set())
        assert fingerprint.holds(set())
        names["N"] = 0
        assert not fingerprint.holds(set())

    def test_empty_closure_variables(self):
        def outer():
            def f():
                return late

            fingerprint = take(f, set())
            assert fingerprint.holds(set())
            late = 1
            assert not fingerprint.holds(set())

        outer()


def test_holds_on_to_no_function_and_no_namespace(names):
    f, model = names["f"], names["Model"]
    names["namespace"] = marker = type("Marker", (), {})()
    fingerprint = take(f, set())
    gone = [weakref.ref(f), weakref.ref(model), weakref.ref(marker)]
    names.clear()
    del f, model, marker
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]
    assert not fingerprint.holds(set())


class TestGlobalNames:
    def test_also_in_nested_code(self):
        names = {}
        source = "def f():\n    global made, gone\n    made = 1\n    del gone\n"
        source += "    x = [a for _ in b]\n    return lambda: c(x.d)"
        exec(source, names)
        used = global_names(names["f"].__code__)
        assert used.loaded == {"a", "b", "c"}
        assert used.stored == {"made", "gone"}

    def test_none(self):
        assert global_names((lambda x: x.y).__code__) == (frozenset(), frozenset())


class TestImportable:
    def test_by_name(self):
        assert importable(take)
        assert importable(TestImportable)
        assert importable(len)
        assert importable(TestImportable.test_by_name)
        assert not importable(lambda: 1)
        assert not importable(type("Hidden", (), {}))
        assert not importable(5)

    def test_not_main_and_not_what_is_excepted(self, notebook):
        assert not importable(notebook.run("def f(): pass")["f"])
        assert not importable(take, {"parallelkit.wire"})
        assert importable(take, {"parallelkit.wir"})

    def test_modules_that_fail_when_asked(self, monkeypatch):
        class Broken:
            def __getattr__(self, name):
                raise OSError

        monkeypatch.setitem(sys.modules, "broken_module", Broken())
        function = lambda: 1  # noqa: E731 - needs attributes
        function.__module__, function.__qualname__ = "broken_module", "f"
        assert not importable(function)
