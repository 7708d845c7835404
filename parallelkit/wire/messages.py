"""Every message that crosses the wire: one frozen class each, and the protocol's version.

A multipart message is ``[header, frame, frame, …]``: the header is one of these classes in msgpack, the frames
are opaque bytes that only the two edges (client and engine) open. A message carries a *batch*: each hop sends
one message per peer for all that has gathered. Records inside a batch say how many of the frames are theirs,
in order.

Identities: a *session* is one client's life (16 random bytes), a task is ``(session, seq)`` with ``seq`` counting
up from 0; an engine has a small ``id`` and an *incarnation* (16 random bytes, one per process); the *epoch* counts
the lives of the hub; an *attempt* is ``epoch << 40 | n``, totally ordered, and names one run of one task.
Routing ids are one role letter and the 16 bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

#: Raised by one whenever two sides of different versions could misunderstand each other.
PROTOCOL = 1
#: Half-open range of task numbers, [start, stop).
Range = tuple[int, int]


class Operation(IntEnum):
    """What an engine does with a task's payload."""

    CALL = 0  # payload (args, kwargs) → function(*args, **kwargs)
    MAP = 1  # payload (star, items) → one outcome for each item
    EXECUTE = 2  # payload of source text → run in the engine's namespace
    PUSH = 3  # payload {name: value} → into the engine's namespace
    PULL = 4  # payload [name, …] → their values


class Outcome(IntEnum):
    """How an attempt, or the whole task, ended. From CANCELLED on, a payload is UTF-8 text that says why."""

    OK = 0
    ERROR = 1  # the function raised; the payload is the exception
    CANCELLED = 2
    TIMEOUT = 3
    LOST = 4  # its engine died, and it may not run again
    ABANDONED = 5  # the client was closed or its cluster ended; made at the client, never sent
    UNMET = 6  # it never ran, because of how a task that it depends on has ended


class Stream(IntEnum):
    """Kinds of output. Text is UTF-8; the others are a JSON object {"data", "metadata", "transient"}."""

    STDOUT = 1
    STDERR = 2
    DISPLAY = 3
    RESULT = 4
    CLEAR = 5


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    pass


class Dependency(_Record, frozen=True):
    """Tasks of the same session, submitted before, whose ends a task waits for.

    An end counts if it is a success and ``success`` is set, or anything else and ``failure`` is. With ``all`` each must
    count, else one is enough. The client sends only numbers that are outstanding: what is settled it leaves out, and
    puts the engines where those ran that count into ``engines``.
    """

    numbers: tuple[int, ...]
    all: bool = True
    success: bool = True
    failure: bool = False
    engines: tuple[int, ...] = ()


class TaskOptions(_Record, frozen=True):
    """What a task asks of the scheduler. One object is shared by all tasks of a call."""

    targets: tuple[int, ...] = ()  # engine ids it may run on; empty: any
    direct: bool = False  # needs its one target's namespace: first in, first out there, and never elsewhere
    priority: int = 0  # among one client's tasks; higher first
    retries: int = 0  # further runs after the function raised
    max_attempts: int = 4  # runs that lost engines may cost
    timeout: float | None = None  # seconds that one run may take
    label: str = ""
    after: Dependency | None = None  # runs only when this is met
    follow: Dependency | None = None  # as after, and on the engine where those ran


class TaskRecord(_Record, frozen=True):
    """One task on its way from a client to the hub."""

    seq: int
    operation: Operation
    function: bytes  # digest; empty unless CALL or MAP
    payload: bytes
    frames: int = 0
    items: int = 1  # calls inside: 1, or the length of a map's chunk
    options: TaskOptions | None = None


class AssignRecord(_Record, frozen=True):
    """One attempt on its way from the hub to an engine."""

    seq: int
    attempt: int
    run: int  # 1 for the task's first run
    operation: Operation
    function: bytes
    payload: bytes
    frames: int = 0
    timeout: float | None = None


class ResultRecord(_Record, frozen=True):
    """The end of one attempt (from an engine), or of the whole task (from the hub)."""

    seq: int
    attempt: int
    outcome: Outcome
    payload: bytes
    frames: int = 0
    engine: int = -1  # id; -1 when none had it
    run: int = 0
    started: float = 0.0  # Unix time on the engine's clock
    seconds: float = 0.0  # how long the function ran, on a monotonic clock


class OutputRecord(_Record, frozen=True):
    """A piece of output of a running task."""

    seq: int
    attempt: int
    engine: int
    stream: Stream
    data: bytes


class EngineInfo(_Record, frozen=True):
    id: int
    incarnation: bytes
    host: str
    pid: int


class EngineLoad(_Record, frozen=True):
    """How busy an engine is, for ``queue_status``."""

    id: int
    running: int
    queued: int
    completed: int
    state: str  # "ok"; "unresponsive": its process runs, but nothing in it answers (the GIL is held); "silent"


class ProcessState(_Record, frozen=True):
    """What a node sees of one engine process, whatever the engine says of itself."""

    incarnation: bytes
    pid: int
    state: str  # the letter of /proc/PID/stat: R S D T Z
    cpu: float  # seconds of processor time used so far
    memory: int  # resident bytes


class Batch(_Record, frozen=True):
    """Attempts of one session for one engine."""

    session: bytes
    tasks: list[AssignRecord]


class SessionResults(_Record, frozen=True):
    """Ended attempts of one session."""

    session: bytes
    results: list[ResultRecord]


class SessionOutput(_Record, frozen=True):
    session: bytes
    output: list[OutputRecord]


class Stage(IntEnum):
    """Where an engine has an attempt."""

    QUEUED = 0
    RUNNING = 1
    FINISHED = 2  # in the outbox: its result is not yet acknowledged


class SessionInventory(_Record, frozen=True):
    """Attempts of one session at an engine, each as (seq, attempt, stage)."""

    session: bytes
    attempts: list[tuple[int, int, Stage]]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of everything that can be a header."""


# ---------------------------------------------------------------------------------------------- both directions


class Refused(Message, frozen=True, tag=1):
    """The hub will not work with this peer; ``kind`` is "version" or "role"."""

    kind: str
    reason: str


class Goodbye(Message, frozen=True, tag=2):
    """The sender leaves on purpose; the peer need not wait for it."""

    reason: str = ""


class Introduce(Message, frozen=True, tag=3):
    """The hub does not know this peer (it has been restarted): say hello again, then the inventory."""


# ------------------------------------------------------------------------------------------------- client ↔ hub


class ClientHello(Message, frozen=True, tag=10):
    protocol: int
    python: str  # "3.11"
    package: str
    host: str
    pid: int
    session: bytes


class ClientWelcome(Message, frozen=True, tag=11):
    epoch: int
    cluster: str
    package: str
    heartbeat: float
    engines: list[EngineInfo]
    settings: dict[str, Any]  # limits the client must keep: window_tasks, window_bytes, chunk, max_attempts


class ClientBeat(Message, frozen=True, tag=12):
    """Inventory of a client: all below ``next_seq`` that is not outstanding has been acknowledged."""

    number: int
    epoch: int
    next_seq: int
    outstanding: list[Range]


class HubBeat(Message, frozen=True, tag=13):
    """Answer to a :class:`ClientBeat`: what the hub lacks must be submitted again."""

    number: int
    epoch: int
    missing: list[Range]


class Submit(Message, frozen=True, tag=14):
    """New tasks. A direct task with several targets stands for one task each, with consecutive numbers."""

    epoch: int
    tasks: list[TaskRecord]
    functions: dict[bytes, bytes]  # those of the tasks that this hub has not seen from us yet
    acknowledged: list[int]


class NeedFunctions(Message, frozen=True, tag=15):
    """From hub to client or engine to hub: send these once more, tasks are waiting for them."""

    digests: list[bytes]


class Functions(Message, frozen=True, tag=16):
    functions: dict[bytes, bytes]


class Results(Message, frozen=True, tag=17):
    epoch: int
    results: list[ResultRecord]


class Output(Message, frozen=True, tag=18):
    output: list[OutputRecord]


class Acknowledge(Message, frozen=True, tag=19):
    """The client holds these results: nobody else needs to keep them."""

    seqs: list[int]


class Cancel(Message, frozen=True, tag=20):
    """Drop these tasks, or interrupt them where they run. Each still gets one result."""

    tasks: list[Range]


class Roster(Message, frozen=True, tag=21):
    """Engines that came and went. ``left`` pairs an id with the reason."""

    joined: list[EngineInfo]
    left: list[tuple[int, str]]


class QueryQueues(Message, frozen=True, tag=22):
    """Answered with {"engines": [EngineLoad, …], "unassigned": n, "sessions": n} as plain msgpack."""

    number: int


class SignalEngines(Message, frozen=True, tag=23):
    """Deliver a signal to engine processes, through their nodes. Answered with the ids reached."""

    number: int
    engines: list[int]
    signal: int


class StopEngines(Message, frozen=True, tag=24):
    """End engines, or replace each by a new one under the same id. Answered with the ids reached."""

    number: int
    engines: list[int]
    restart: bool = False


class StartEngines(Message, frozen=True, tag=25):
    """Start more engines on the nodes there are. Answered with how many were asked for."""

    number: int
    count: int


class StopCluster(Message, frozen=True, tag=26):
    """End the hub, its nodes and its engines. Answered before the hub goes."""

    number: int


class QueryStory(Message, frozen=True, tag=27):
    """Answered with the lines of one task's state story."""

    number: int
    seq: int


class Answer(Message, frozen=True, tag=28):
    """To one of the numbered requests above: ``error`` is empty when it was done."""

    number: int
    value: Any = None
    error: str = ""


# ------------------------------------------------------------------------------------------------- engine ↔ hub


class EngineHello(Message, frozen=True, tag=40):
    protocol: int
    python: str
    package: str
    host: str
    pid: int
    incarnation: bytes
    wanted_id: int  # -1: any
    node: bytes  # routing id of the node that watches it; empty: none


class EngineWelcome(Message, frozen=True, tag=41):
    epoch: int
    id: int
    heartbeat: float
    output_limit: int


class EngineBeat(Message, frozen=True, tag=42):
    """Inventory of an engine. ``received`` is the number of the last :class:`Assign` seen in this epoch."""

    number: int
    epoch: int
    received: int
    inventory: list[SessionInventory]


class Assign(Message, frozen=True, tag=43):
    """Work. ``acknowledged`` are attempts whose results have reached their owner."""

    epoch: int
    number: int
    batches: list[Batch]
    functions: dict[bytes, bytes]
    acknowledged: list[int]


class Replies(Message, frozen=True, tag=44):
    epoch: int
    batches: list[SessionResults]


class EngineOutput(Message, frozen=True, tag=45):
    batches: list[SessionOutput]


class Recall(Message, frozen=True, tag=46):
    """Give back these attempts if they have not started."""

    attempts: list[int]


class Returned(Message, frozen=True, tag=47):
    """These were not started and will not be."""

    attempts: list[int]


class Interrupt(Message, frozen=True, tag=48):
    """Drop these attempts if queued, interrupt them if running; each is answered with a result."""

    attempts: list[int]


class Acknowledged(Message, frozen=True, tag=49):
    """These results have reached their owner: leave the outbox."""

    attempts: list[int]


class Resend(Message, frozen=True, tag=50):
    """Send these results once more from the outbox."""

    attempts: list[int]


# --------------------------------------------------------------------------------------------------- node ↔ hub


class NodeHello(Message, frozen=True, tag=60):
    protocol: int
    python: str
    package: str
    host: str
    pid: int


class NodeWelcome(Message, frozen=True, tag=61):
    epoch: int
    heartbeat: float


class NodeBeat(Message, frozen=True, tag=62):
    number: int
    processes: list[ProcessState]


class EngineExited(Message, frozen=True, tag=63):
    """A death certificate. ``signal`` is 0 for an exit; ``wanted`` when the node was told to end it."""

    incarnation: bytes
    exit_code: int
    signal: int
    wanted: bool
    peak_memory: int  # bytes
    log_tail: str


class NodeStart(Message, frozen=True, tag=64):
    """Start engines; each entry is the id it shall have, -1 for any."""

    ids: list[int]


class NodeSignal(Message, frozen=True, tag=65):
    incarnations: list[bytes]
    signal: int


class NodeStop(Message, frozen=True, tag=66):
    """End these engines; with ``restart`` each is followed by a new one under the same id."""

    incarnations: list[bytes]
    restart: bool


ROLE_CLIENT, ROLE_ENGINE, ROLE_NODE = b"C", b"E", b"N"

#: Who may send what to the hub; anything else from that role is refused and counted.
FROM_CLIENT = (
    ClientHello, ClientBeat, Submit, Functions, Acknowledge, Cancel, QueryQueues, SignalEngines, StopEngines,
    StartEngines, StopCluster, QueryStory, Goodbye,
)  # fmt: skip
FROM_ENGINE = (EngineHello, EngineBeat, Replies, EngineOutput, Returned, NeedFunctions, Goodbye)
FROM_NODE = (NodeHello, NodeBeat, EngineExited, Goodbye)
FROM_HUB = (
    Refused, Goodbye, Introduce, ClientWelcome, HubBeat, NeedFunctions, Functions, Results, Output, Roster, Answer,
    EngineWelcome, Assign, Recall, Interrupt, Acknowledged, Resend, NodeWelcome, NodeStart, NodeSignal, NodeStop,
)  # fmt: skip
