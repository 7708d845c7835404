"""The one exception tree. Errors name the guilty side and say what happens next.

ParallelKitError
├── ConfigError                    a setting that cannot be used
├── ConnectError                   no working connection to a hub
│   ├── HubUnreachable             nobody answers there (also a TimeoutError)
│   ├── AuthError                  the hub refused the key
│   ├── VersionMismatch            protocol or Python versions that cannot work together
│   └── ConnectionFileError        the file is missing, stale, damaged or readable by others
├── LaunchError                    a process of the cluster did not start
├── ClusterError                   a cluster that is not there, or is there already
├── EnginesMissing                 fewer engines than asked for (also a TimeoutError)
├── NoSuchEngine                   an engine id that does not exist (also an IndexError)
├── ProtocolError                  a message that breaks the rules
│   ├── LocalProtocolError         we were about to break them
│   └── RemoteProtocolError        the peer did
├── SerializationError             an object that cannot be sent; names the path to the bad part
├── ResultError                    a result that arrived and cannot be opened here
├── TaskError                      a task ended without its function's own result or exception
│   ├── RemoteError                an exception that cannot be rebuilt here; carries its text
│   ├── EngineLost                 the engine died or vanished under the task
│   ├── TaskCancelled              cancelled before it finished (also a CancelledError)
│   ├── TaskTimeout                ran longer than its timeout= (also a TimeoutError)
│   └── ImpossibleDependency       never ran, because of how a task that it depends on has ended
├── RemoteErrors                   several of the above at once (an ExceptionGroup)
└── InternalError                  a bug in parallelkit
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError


class ParallelKitError(Exception):
    """Base of every error that parallelkit raises on its own account."""


class ConfigError(ParallelKitError):
    """Raised when a setting has a value that cannot be used; names the setting and where it came from."""


class ConnectError(ParallelKitError):
    """Raised when there is no working connection to a hub."""


class HubUnreachable(ConnectError, TimeoutError):
    """Raised when the hub did not answer in time. Submitted tasks stay safe at the client."""


class AuthError(ConnectError):
    """Raised when the hub refused the key of this connection file."""


class VersionMismatch(ConnectError):
    """Raised when two sides have versions that cannot work together; the text names both."""


class ConnectionFileError(ConnectError):
    """Raised when a connection file is missing, stale, damaged, or readable by others."""


class LaunchError(ParallelKitError):
    """Raised when a process of the cluster did not start.

    ``command`` is what was run, ``exit_code`` how it ended (None: still running), ``log_tail`` its last lines.
    """

    def __init__(self, message: str, command: str = "", exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(message)
        self.command = command
        self.exit_code = exit_code
        self.log_tail = log_tail

    def __str__(self) -> str:
        tail = f"\nLast lines of its log:\n{self.log_tail}" if self.log_tail else ""
        return f"{self.args[0]}{tail}"


class ClusterError(ParallelKitError):
    """Raised when the named cluster is not running, or is running already."""


class EnginesMissing(ParallelKitError, TimeoutError):
    """Raised when fewer engines registered in time than were asked for."""

    def __init__(self, available: int, expected: int, timeout: float) -> None:
        super().__init__(f"{available} of {expected} engines registered within {timeout:g} s; those stay usable")
        self.available = available
        self.expected = expected
        self.timeout = timeout

    def __reduce__(self) -> tuple[type[EnginesMissing], tuple[int, int, float]]:
        return type(self), (self.available, self.expected, self.timeout)


class NoSuchEngine(ParallelKitError, IndexError):
    """Raised for an engine id that is not there; the text lists those that are."""


class ProtocolError(ParallelKitError):
    """A message that breaks the rules of the wire. Only its two subclasses are raised."""


class LocalProtocolError(ProtocolError):
    """Raised when this side was about to send something that breaks the rules; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """Raised when the peer sent something that breaks the rules; the message is dropped."""


class SerializationError(ParallelKitError, TypeError):
    """Raised when an object cannot be sent. ``path`` leads from the object to the part that failed."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[SerializationError], tuple[str, str]]:
        return type(self), (self.args[0], self.path)


class ResultError(ParallelKitError):
    """Raised when a result arrived but cannot be opened here. ``data`` keeps its bytes for inspection."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.data = data


class TaskError(ParallelKitError):
    """A task that ended without its function's own result or exception."""


class RemoteError(TaskError):
    """Raised in place of an exception that cannot be rebuilt here; carries its type's name and its text."""

    def __init__(self, ename: str, evalue: str, traceback_text: str = "", engine: int | None = None) -> None:
        super().__init__(f"{ename}: {evalue}" if evalue else ename)
        self.ename = ename
        self.evalue = evalue
        self.traceback_text = traceback_text
        self.engine = engine

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str, int | None]]:
        return type(self), (self.ename, self.evalue, self.traceback_text, self.engine)


class EngineLost(TaskError):
    """Raised when the engine died or vanished under a task that may not, or may no longer, run again."""


class TaskCancelled(TaskError, CancelledError):
    """Raised when a task was cancelled before it finished."""


class TaskTimeout(TaskError, TimeoutError):
    """Raised when a task ran longer than its ``timeout=``; it was interrupted."""


class ImpossibleDependency(TaskError):
    """Raised when a task never ran because a dependency did not end as asked for; the text names that and how."""


class RemoteErrors(ParallelKitError, ExceptionGroup[Exception]):
    """Several tasks failed: ``except*`` and ``.exceptions`` give each error as itself."""

    def derive(self, excs: Sequence[Exception]) -> RemoteErrors:  # type: ignore[override]  # its errors are never bare
        return RemoteErrors(self.message, excs)


class InternalError(ParallelKitError):
    """Raised when parallelkit finds itself in a state that must not be. Please report it, with this text."""
