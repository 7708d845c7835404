"""The hub's shell: message → event → scheduler → effect → message. No decision is taken here.

    clients ──Submit, Ack, Beat──►┌──────────┐──Assign, Recall, Interrupt──► engines
            ◄──Results, Output────│   hub    │◄──Replies, Output, Beat──────
    nodes ──EngineExited, Beat───►└──────────┘──Start, Signal, Stop────────► nodes

Payloads and functions are opaque bytes; nothing here can open them. One thread, the loop's. A batch of arrived
messages is handled whole before ``flush`` sends one message to each peer that gets something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from parallelkit.core import effects as f
from parallelkit.core import events as e
from parallelkit.core.scheduler import Scheduler
from parallelkit.hub.control import Control
from parallelkit.hub.functions import FunctionCache
from parallelkit.hub.outbox import Outbox, pair
from parallelkit.hub.peers import Peers
from parallelkit.transport.base import Loop, Port
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer

log = logging.getLogger(__name__)

#: Releases wait this long for work to ride along with; until then the engine keeps some results it need not.
RELEASE_DELAY = 0.05


class HubService:
    """``limits`` are what clients are told to keep; times are seconds."""

    port: Port

    def __init__(
        self,
        loop: Loop,
        *,
        cluster: str,
        epoch: int,
        heartbeat: float,
        scheduler: Scheduler,
        limits: dict[str, Any],
        output_limit: int,
    ) -> None:
        self._loop = loop
        self._scheduler = scheduler
        self._functions = FunctionCache()
        self._outbox = Outbox(epoch, self._functions)
        self._peers = Peers(cluster, epoch, heartbeat, limits, output_limit)
        self._control = Control(self)
        self.heartbeat = heartbeat
        self._epoch = epoch
        self._wake_at: float | None = None
        self._acknowledged: list[e.Acknowledged] = []
        self._releasing = False
        self._receivers = self._receiving()
        self._performers = self._performing()

    def _receiving(self) -> dict[type, Callable[[bytes, Any, Sequence[Buffer]], None]]:
        """Message → event."""
        return {
            m.ClientHello: self._client_hello,
            m.ClientBeat: self._client_beat,
            m.Submit: self._submit,
            m.Functions: self._functions_came,
            m.Acknowledge: self._acknowledge,
            m.Cancel: self._cancel,
            m.EngineHello: self._engine_hello,
            m.EngineBeat: self._engine_beat,
            m.Replies: self._replies,
            m.EngineOutput: self._output,
            m.Returned: self._returned,
            m.NeedFunctions: self._need_functions,
            m.NodeHello: self._node_hello,
            m.NodeBeat: self._node_beat,
            m.EngineExited: self._engine_exited,
            m.Goodbye: self._goodbye,
            **self._control.receivers(),
        }

    def _performing(self) -> dict[type, Callable[[Any], None]]:
        """Effect → message."""
        return {
            f.Assign: self._outbox.assign,
            f.Deliver: self._outbox.deliver,
            f.Conclude: self._conclude,
            f.Release: self._release,
            f.Recall: lambda x: self._to_engine(x.incarnation, m.Recall(list(x.attempts))),
            f.Interrupt: lambda x: self._to_engine(x.incarnation, m.Interrupt(list(x.attempts))),
            f.Resend: lambda x: self._to_engine(x.incarnation, m.Resend(list(x.attempts))),
            f.AskAgain: self._ask_again,
            f.RosterChanged: self._roster_changed,
            f.WakeAt: self._wake,
        }

    def start(self) -> None:
        """Begin to keep time. The port is in place."""
        self._tick()

    def stop(self, reason: str) -> None:
        """Say goodbye to everyone, then end the loop."""
        self._control.farewell(reason)

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    @property
    def peers(self) -> Peers:
        return self._peers

    @property
    def loop(self) -> Loop:
        return self._loop

    # ------------------------------------------------------------------------------------------------- shell

    def receive(self, peer: bytes, message: m.Message, frames: Sequence[Buffer]) -> None:
        self._receivers[type(message)](peer, message, frames)

    def flush(self) -> None:
        self._outbox.flush(self.port)
        if self._acknowledged:  # after the assignments that came with them: nobody waits for these
            acknowledged, self._acknowledged = self._acknowledged, []
            for event in acknowledged:
                self.handle(event)
        if self._outbox.has_released and not self._releasing:
            self._releasing = True
            self._loop.call_at(self._loop.now() + RELEASE_DELAY, self._flush_released)

    def handle(self, event: e.Event) -> None:
        """Let the scheduler take in one event and do what it says."""
        for effect in self._scheduler.handle(event, self._loop.now()):
            self._performers[type(effect)](effect)

    def _flush_released(self) -> None:
        self._releasing = False
        self._outbox.flush_released(self.port)

    def _tick(self) -> None:
        self.handle(e.Tick())
        self.flush()
        self._loop.call_at(self._loop.now() + self.heartbeat / 2, self._tick)

    # ----------------------------------------------------------------------------------------------- clients

    def _client_hello(self, peer: bytes, message: m.ClientHello, frames: Sequence[Buffer]) -> None:
        refusal = self._peers.refusal(peer, message)
        if refusal is not None:
            self.port.send(peer, refusal)
            return
        self._peers.clients[peer] = message
        self.handle(e.ClientJoined(peer[1:]))
        self.port.send(peer, self._peers.client_welcome(self._scheduler.roster))

    def _client_beat(self, peer: bytes, message: m.ClientBeat, frames: Sequence[Buffer]) -> None:
        if self._knows_client(peer):
            self.handle(e.ClientReported(peer[1:], message.number, message.next_seq, message.outstanding))

    def _submit(self, peer: bytes, message: m.Submit, frames: Sequence[Buffer]) -> None:
        if not self._knows_client(peer):
            return
        if message.functions:
            self._keep(message.functions)
        if message.acknowledged:
            self._acknowledged.append(e.Acknowledged(peer[1:], message.acknowledged))
        if message.epoch != self._epoch:
            return  # meant for the hub before this one; the next inventory brings what is still wanted
        position = 0
        tasks = []
        for record in message.tasks:
            tasks.append((record.seq, record, frames[position : position + record.frames] if record.frames else ()))
            position += record.frames
        self.handle(e.Submitted(peer[1:], tasks))

    def _functions_came(self, peer: bytes, message: m.Functions, frames: Sequence[Buffer]) -> None:
        self._keep(message.functions)

    def _acknowledge(self, peer: bytes, message: m.Acknowledge, frames: Sequence[Buffer]) -> None:
        self.handle(e.Acknowledged(peer[1:], message.seqs))

    def _cancel(self, peer: bytes, message: m.Cancel, frames: Sequence[Buffer]) -> None:
        self.handle(e.Cancelled(peer[1:], message.tasks))

    def _knows_client(self, peer: bytes) -> bool:
        if peer in self._peers.clients and peer[1:] in self._scheduler.sessions:
            return True
        self.port.send(peer, m.Introduce())
        return False

    def _keep(self, functions: dict[bytes, bytes]) -> None:
        for incarnation, answer in self._functions.add(functions).items():
            self._to_engine(incarnation, m.Functions(answer))

    # ----------------------------------------------------------------------------------------------- engines

    def _engine_hello(self, peer: bytes, message: m.EngineHello, frames: Sequence[Buffer]) -> None:
        refusal = self._peers.refusal(peer, message)
        if refusal is not None:
            self.port.send(peer, refusal)
            return
        self.handle(e.EngineJoined(peer[1:], message.host, message.pid, message.node, message.wanted_id))
        engine = self._scheduler.roster.by_incarnation[peer[1:]]
        self.port.send(peer, self._peers.engine_welcome(engine.id))

    def _engine_beat(self, peer: bytes, message: m.EngineBeat, frames: Sequence[Buffer]) -> None:
        if self._knows_engine(peer):
            inventory = [(held.session, held.attempts) for held in message.inventory]
            received = message.received if message.epoch == self._epoch else 0
            self.handle(e.EngineReported(peer[1:], received, inventory))
            # Every beat is answered, so that an idle engine knows that its hub lives.
            self.port.send(peer, m.Acknowledged(self._outbox.take_released(peer[1:])))

    def _replies(self, peer: bytes, message: m.Replies, frames: Sequence[Buffer]) -> None:
        if not self._knows_engine(peer):
            return
        for batch in message.batches:
            paired, taken = pair(batch.results, frames)
            frames = frames[taken:]
            self.handle(e.Replied(peer[1:], batch.session, paired))

    def _output(self, peer: bytes, message: m.EngineOutput, frames: Sequence[Buffer]) -> None:
        for batch in message.batches:
            self.port.send(m.ROLE_CLIENT + batch.session, m.Output(batch.output))

    def _returned(self, peer: bytes, message: m.Returned, frames: Sequence[Buffer]) -> None:
        self.handle(e.Returned(peer[1:], message.attempts))

    def _need_functions(self, peer: bytes, message: m.NeedFunctions, frames: Sequence[Buffer]) -> None:
        here, missing = self._functions.ask(peer[1:], message.digests)
        if here:
            self.port.send(peer, m.Functions(here))
        engine = self._scheduler.roster.by_incarnation.get(peer[1:])
        if missing and engine is not None:
            for session in {task.session.id for task in engine.assigned.values()}:
                self.port.send(m.ROLE_CLIENT + session, m.NeedFunctions(missing))

    def _knows_engine(self, peer: bytes) -> bool:
        if peer[1:] in self._scheduler.roster.by_incarnation:
            return True
        self.port.send(peer, m.Introduce())
        return False

    def _to_engine(self, incarnation: bytes, message: m.Message) -> None:
        self.port.send(m.ROLE_ENGINE + incarnation, message)

    # ------------------------------------------------------------------------------------------------- nodes

    def _node_hello(self, peer: bytes, message: m.NodeHello, frames: Sequence[Buffer]) -> None:
        refusal = self._peers.refusal(peer, message)
        if refusal is not None:
            self.port.send(peer, refusal)
            return
        self._peers.nodes[peer] = message
        self.port.send(peer, self._peers.node_welcome())

    def _node_beat(self, peer: bytes, message: m.NodeBeat, frames: Sequence[Buffer]) -> None:
        if peer not in self._peers.nodes:
            self.port.send(peer, m.Introduce())
            return
        # A stopped or dead process is not vouched for: its silence counts.
        self.handle(e.EnginesSeen([p.incarnation for p in message.processes if p.state in "RSD"]))

    def _engine_exited(self, peer: bytes, message: m.EngineExited, frames: Sequence[Buffer]) -> None:
        log.info("engine process ended: exit code %d, signal %d", message.exit_code, message.signal)
        self.handle(e.EngineGone(message.incarnation, self._peers.death(message)))

    def _goodbye(self, peer: bytes, message: m.Goodbye, frames: Sequence[Buffer]) -> None:
        role = peer[:1]
        if role == m.ROLE_CLIENT:
            self._peers.clients.pop(peer, None)
            self.handle(e.ClientGone(peer[1:]))
        elif role == m.ROLE_ENGINE:
            self.handle(e.EngineGone(peer[1:], message.reason or "left"))
        else:
            self._peers.nodes.pop(peer, None)

    # ----------------------------------------------------------------------------------------------- effects

    def _conclude(self, effect: f.Conclude) -> None:
        record = m.ResultRecord(
            effect.seq, 0, m.Outcome(effect.outcome), effect.reason.encode(), 0, effect.engine, effect.runs
        )
        self._outbox.conclude(effect.session, record)

    def _release(self, effect: f.Release) -> None:
        self._outbox.release(effect.incarnation, effect.attempts)

    def _ask_again(self, effect: f.AskAgain) -> None:
        self.port.send(m.ROLE_CLIENT + effect.session, m.HubBeat(effect.number, self._epoch, list(effect.missing)))

    def _roster_changed(self, effect: f.RosterChanged) -> None:
        for id, reason in effect.left:
            log.info("engine %d %s", id, reason)
        message = m.Roster([self._peers.engine_info(engine) for engine in effect.joined], list(effect.left))
        for client in list(self._peers.clients):
            self.port.send(client, message)

    def _wake(self, effect: f.WakeAt) -> None:
        if self._wake_at is None or effect.deadline < self._wake_at:
            self._wake_at = effect.deadline
            self._loop.call_at(effect.deadline, self._woken)

    def _woken(self) -> None:
        self._wake_at = None
        self.handle(e.Tick())
        self.flush()
