"""What must be done. Frozen; returned by the scheduler, carried out by the hub's shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallelkit.core.events import Range
from parallelkit.core.roster import Engine
from parallelkit.core.tasks import Ended, Task


@dataclass(frozen=True, slots=True)
class Assign:
    """Send these to the engine, in this order."""

    engine: Engine
    tasks: Sequence[Task]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Forward these results with their cargo to their owner."""

    session: bytes
    results: Sequence[tuple[Ended, object]]


@dataclass(frozen=True, slots=True)
class Conclude:
    """Tell the owner how the hub itself ended this task; ``outcome`` is a number of ``wire.messages.Outcome``."""

    session: bytes
    seq: int
    outcome: int
    reason: str
    engine: int
    runs: int


@dataclass(frozen=True, slots=True)
class Release:
    """Tell the engine that it need not keep these results."""

    incarnation: bytes
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the engine to give back those of these that it has not started."""

    incarnation: bytes
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Tell the engine to drop or interrupt these."""

    incarnation: bytes
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Resend:
    """Ask the engine to send these results again."""

    incarnation: bytes
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Answer a client's beat: these tasks are unknown here and must be submitted again."""

    session: bytes
    number: int
    missing: Sequence[Range]


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """Engines came, or went with a reason."""

    joined: Sequence[Engine]
    left: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a Tick at this time."""

    deadline: float


Effect = (
    Assign | Deliver | Conclude | Release | Recall | Interrupt | Resend | AskAgain | RosterChanged | WakeAt
)  # fmt: skip
