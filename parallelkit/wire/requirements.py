"""``@require``: what a function needs where it runs, besides what it refers to itself.

What it refers to travels with it anyhow; this is for modules that it names only in its text, and for objects that are
to stand under a name of its own.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any


class Requiring:
    """A function that first imports modules and sets objects, as globals of its own, wherever it is called.

    The function itself is ``__wrapped__``; ``modules`` are pairs of a module's name and the name to bind it to.
    """

    def __init__(self, function: Callable[..., Any], modules: tuple[tuple[str, str], ...], objects: Any) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self.modules = modules
        self.objects = objects

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = getattr(self.__wrapped__, "__globals__", {})
        for module, bound in self.modules:
            names[bound] = self._import(module, bound)
        names.update(self.objects)
        return self.__wrapped__(*args, **kwargs)

    def _import(self, module: str, bound: str) -> ModuleType:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            error.add_note(f"{self.__name__} requires the module {module!r}")  # type: ignore[attr-defined]  # see update_wrapper
            raise
        return sys.modules[bound] if module.startswith(f"{bound}.") else found


def require(*needs: Any, **objects: Any) -> Callable[[Callable[..., Any]], Requiring]:
    """``@require("numpy as np", helper, limit=3)``: import these modules and set these names before each call.

    A module is given by itself or by what stands after ``import``; a function is set under its own name.

    Raises:
        TypeError: something is neither a module, nor a text, nor a function.
        ValueError: a text is not what can stand after ``import``.
    """
    modules = []
    for need in needs:
        if isinstance(need, FunctionType | Requiring):
            objects.setdefault(need.__name__, need)  # type: ignore[union-attr]  # see update_wrapper
        else:
            modules.append(_module(need))
    return lambda function: Requiring(function, tuple(modules), objects)


def _module(need: Any) -> tuple[str, str]:
    """A module's name, and the name that an import of it binds."""
    if isinstance(need, ModuleType):
        need = need.__name__
    if not isinstance(need, str):
        raise TypeError(
            f"require({need!r}): a module, its name, or a function; objects need a name: require(x={need!r})"
        )
    module, _, alias = (part.strip() for part in need.partition(" as "))
    bound = alias or module.partition(".")[0]
    if not all(part.isidentifier() for part in (*module.split("."), bound)):
        raise ValueError(f"require({need!r}): this cannot stand after 'import'")
    return module, bound
