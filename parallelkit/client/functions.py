"""Functions whose calls run on engines: ``@view.remote()`` and ``@view.parallel()``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from parallelkit.client.link import Call
from parallelkit.client.partition import join, split
from parallelkit.client.results import AsyncResult
from parallelkit.client.view import View, function_of, name_of, wait_for
from parallelkit.wire.messages import Operation
from parallelkit.wire.payload import dump

if TYPE_CHECKING:
    from parallelkit.client.mapping import AsyncMapResult


class RemoteFunction:
    """Calling it calls the function on the engines of ``view``, with these flags besides the view's own.

    The function itself is ``__wrapped__``. On an engine it is nothing else, so it may call itself.
    """

    def __init__(self, view: View, function: Callable[..., Any], block: bool | None = None, **flags: Any) -> None:
        if block is not None:
            flags["block"] = block
        with view.temp_flags(**flags):  # tells of a wrong one here, not at the first call
            functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self.view = view
        self.flags = flags

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value, or an :class:`AsyncResult`, as the flag ``block`` says."""
        __tracebackhide__ = True
        with self.view.temp_flags(**self.flags):
            return self.view.apply(self.__wrapped__, *args, **kwargs)

    def map(self, *sequences: Iterable[Any], **how: Any) -> list[Any] | AsyncMapResult:
        """``view.map`` of the function."""
        __tracebackhide__ = True
        with self.view.temp_flags(**self.flags):
            values: list[Any] | AsyncMapResult = self.view.map(self.__wrapped__, *sequences, **how)
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.__wrapped__,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {name_of(self)} on {self.view!r}>"


class ParallelFunction(RemoteFunction):
    """A function of sequences. Calling it gives each engine a part of each, and joins the parts that come back.

    ``dist`` is how sequences are cut: in blocks ('b'), or every n-th item ('r'). Lists, tuples and arrays that come
    back are joined; anything else comes as a list with one value for each part.
    """

    def __init__(
        self, view: View, function: Callable[..., Any], dist: str = "b", block: bool | None = None, **flags: Any
    ) -> None:
        super().__init__(view, function, block, **flags)
        split((), 1, dist)  # tells of a wrong one here, not at the first call
        self.dist = dist

    def __call__(self, *sequences: Any) -> Any:
        """
        Raises:
            ValueError: the sequences have different lengths.
        """
        __tracebackhide__ = True
        if not sequences:
            raise TypeError(f"{name_of(self)}() needs at least one sequence")
        with self.view.temp_flags(**self.flags):
            result = _spread(self.view, self.__wrapped__, sequences, self.dist)
            return wait_for(result) if self.view.flags.block else result


def remote(view: View, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """``@remote(view)`` makes a function run on the engines of ``view``."""
    _require_parentheses(block, "remote")
    return lambda function: RemoteFunction(view, function, block, **flags)


def parallel(
    view: View, dist: str = "b", block: bool | None = None, **flags: Any
) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """``@parallel(view)`` makes a function of sequences run on the engines of ``view``, a part on each."""
    _require_parentheses(dist, "parallel")
    return lambda function: ParallelFunction(view, function, dist, block, **flags)


def _require_parentheses(first: Any, name: str) -> None:
    if callable(first):
        raise TypeError(f"write @view.{name}(), with parentheses")


def _spread(view: View, f: Callable[..., Any], sequences: Sequence[Any], dist: str) -> AsyncResult:
    """``f`` of one part of each sequence, on each engine for which there is one."""
    places = view._places()
    columns = [split(sequence, len(places), dist) for sequence in sequences]
    lengths = [sum(map(len, parts)) for parts in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"{name_of(f)}(): sequences of different lengths, {', '.join(map(str, lengths))}")
    function = function_of(f)
    rows = [row for index, row in enumerate(zip(*columns, strict=True)) if len(row[0]) or not index]
    calls = [Call(Operation.CALL, dump((row, {}), call=function.name), function) for row in rows]
    result = AsyncResult(
        view._session,
        name_of(f),
        len(calls),
        single=False,
        label=view.flags.label,
        join=functools.partial(_joined, dist=dist),
    )
    for call, options in zip(calls, places, strict=False):
        result.send((call,), options)
    return result


def _joined(parts: list[Any], dist: str) -> Any:
    return join(parts, dist) if all(map(_is_sequence, parts)) else parts


def _is_sequence(part: Any) -> bool:
    return isinstance(part, list | tuple) or getattr(part, "ndim", 0) > 0


def _itself(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
