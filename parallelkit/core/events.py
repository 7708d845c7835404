"""What happened. Frozen; built by the hub's shell, consumed by the scheduler. Each carries a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallelkit.core.tasks import Ended, Work

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class EngineJoined:
    """An engine said hello; again, if it is known: it was cut off and is back."""

    incarnation: bytes
    host: str
    pid: int
    node: bytes
    wanted_id: int


@dataclass(frozen=True, slots=True)
class EngineReported:
    """An engine's inventory: (session, [(seq, attempt, stage)]) with stage 0 queued, 1 running, 2 finished.

    ``received`` is the number of the last assignment it had seen.
    """

    incarnation: bytes
    received: int
    inventory: Sequence[tuple[bytes, Sequence[tuple[int, int, int]]]]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The process ended, or left on purpose. ``reason`` is for people."""

    incarnation: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class EnginesSeen:
    """A node saw these processes running, even if they do not answer."""

    incarnations: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ClientJoined:
    session: bytes


@dataclass(frozen=True, slots=True)
class ClientReported:
    """A client's inventory: all below ``next_seq`` that is not outstanding it has acknowledged."""

    session: bytes
    number: int
    next_seq: int
    outstanding: Sequence[Range]


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A client left on purpose: nobody will ask for its results."""

    session: bytes


@dataclass(frozen=True, slots=True)
class Submitted:
    """New tasks as (number of the first, record, cargo); the cargo is what the shell wants back at assignment."""

    session: bytes
    tasks: Sequence[tuple[int, Work, object]]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    session: bytes
    seqs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cancelled:
    session: bytes
    tasks: Sequence[Range]


@dataclass(frozen=True, slots=True)
class Replied:
    """Ended attempts of one session at one engine, each with the cargo that goes to the owner."""

    incarnation: bytes
    session: bytes
    results: Sequence[tuple[Ended, object]]


@dataclass(frozen=True, slots=True)
class Returned:
    """Attempts that an engine gave back unstarted."""

    incarnation: bytes
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; nothing else."""


Event = (
    EngineJoined | EngineReported | EngineGone | EnginesSeen | ClientJoined | ClientReported | ClientGone
    | Submitted | Acknowledged | Cancelled | Replied | Returned | Tick
)  # fmt: skip
