"""``ExecuteReply``: what a cell run on an engine came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallelkit.client.results import AsyncResult


class ExecuteReply:
    """The value of ``DirectView.execute`` for one engine.

    ``execution_count`` is the engine's input number; ``result`` the mimebundle of the last expression or None.
    Keys of the task's metadata are attributes and items: ``reply.stdout``, ``reply["engine_id"]``.
    """

    def __init__(self, execution_count: int | None, result: dict[str, Any] | None, metadata: dict[str, Any]) -> None:
        self.execution_count = execution_count
        self.result = result
        self.metadata = metadata

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["metadata"][name]
        except KeyError:
            raise AttributeError(f"an ExecuteReply has no {name!r}") from None

    @property
    def text(self) -> str:
        """The last expression as plain text; empty if it had no value."""
        return str((self.result or {}).get("text/plain", ""))

    def __repr__(self) -> str:
        number = "?" if self.execution_count is None else self.execution_count
        shown = self.text if len(self.text) <= 80 else self.text[:79] + "…"
        return f"<ExecuteReply[{number}] on engine {self.metadata['engine_id']}{shown and ': ' + shown}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """What a notebook shows: the value as the engine rendered it."""
        return self.result or {"text/plain": repr(self)}


def execute_reply(result: AsyncResult, index: int, value: dict[str, Any]) -> ExecuteReply:
    """The reply of task ``index`` from what the engine returned."""
    return ExecuteReply(value["execution_count"], value["result"], result.record(index))
