"""What ``@require`` accepts, and what a required function finds when it is called."""

import json
import math
import os.path

import pytest

from parallelkit.wire.payload import dump_function, load_function
from parallelkit.wire.requirements import require


def helper(x):
    return x + 1


def made(code):
    """A function whose globals are its own."""
    names = {"__name__": "somewhere"}
    exec(code, names)
    return names["f"]


def test_modules_are_imported_under_the_names_that_an_import_would_bind():
    function = require("json as j", "os.path", math)(made("def f(): return j, os, math"))
    assert function() == (json, os, math)
    assert require("os.path as p")(made("def f(): return p"))() is os.path


def test_objects_and_functions_are_set_under_their_names():
    function = require(helper, limit=3)(made("def f(x): 'Doc.'; return min(helper(x), limit)"))
    assert (function(1), function(7)) == (2, 3)
    assert (function.__name__, function.__doc__) == ("f", "Doc.")
    assert require(require(limit=5)(helper))(made("def f(): return helper(limit)"))  # one may require another


def test_it_is_the_same_after_a_journey():
    function = load_function(dump_function(require("json as j", limit=3)(made("def f(): return j.dumps(limit)"))).data)
    assert function() == "3"


def test_a_missing_module_says_who_requires_it():
    with pytest.raises(ModuleNotFoundError) as caught:
        require("no_such_module")(helper)(1)
    assert caught.value.__notes__ == ["helper requires the module 'no_such_module'"]


@pytest.mark.parametrize("wrong", ["a b", "a as", "from a import b", "", "a.b as c.d", "a; b"])
def test_a_text_must_be_what_stands_after_import(wrong):
    with pytest.raises(ValueError, match="cannot stand after"):
        require(wrong)


def test_an_object_needs_a_name():
    with pytest.raises(TypeError, match=r"require\(x=3\)"):
        require(3)


def test_a_builtin_has_no_globals_and_can_still_require():
    assert require("json")(abs)(-1) == 1
