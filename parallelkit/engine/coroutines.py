"""Coroutines of tasks, run to completion on the thread that runs user code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Coroutines:
    """One event loop for all tasks of an engine, so that what is bound to it (sessions, locks) can be used again.

    It is made at its first use: an event loop owns sockets, which processes must not share across a fork.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's value, or what it raised. An interrupt cancels it and gives it time to clean up."""
        loop = self._ready()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # KeyboardInterrupt struck the loop itself
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    loop.run_until_complete(task)
            elif not task.cancelled():
                task.exception()  # seen: else asyncio complains when the task is collected
            raise

    def _ready(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop
