"""Numbered requests of clients: questions, and verbs that reach engines through their nodes. Each gets one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from parallelkit.core.roster import Engine
from parallelkit.wire import messages as m
from parallelkit.wire.frames import Buffer

if TYPE_CHECKING:
    from parallelkit.hub.service import HubService

#: Time for the last messages to leave before the hub ends.
FAREWELL = 0.1
#: Beats after which an engine is no longer taken for well.
BEATS_MISSED = 3


class Control:
    """Serves the requests on behalf of the hub's service."""

    def __init__(self, hub: HubService) -> None:
        self._hub = hub

    def receivers(self) -> dict[type, Callable[[bytes, Any, Sequence[Buffer]], None]]:
        return {
            m.QueryQueues: self._queues,
            m.QueryStory: self._story,
            m.SignalEngines: self._signal,
            m.StopEngines: self._stop_engines,
            m.StartEngines: self._start_engines,
            m.StopCluster: self._stop_cluster,
        }

    def _queues(self, peer: bytes, message: m.QueryQueues, frames: Sequence[Buffer]) -> None:
        scheduler = self._hub.scheduler
        statistics = scheduler.statistics()
        engines = [
            m.EngineLoad(
                engine.id,
                min(1, len(engine.assigned)),
                max(0, len(engine.assigned) - 1) + len(engine.lane),
                engine.completed,
                self._state(engine),
            )
            for engine in scheduler.roster
        ]
        value = {"engines": engines, "unassigned": statistics.unassigned, "sessions": statistics.sessions}
        self._answer(peer, message.number, value)

    def _state(self, engine: Engine) -> str:
        """Two layers: what the engine says of itself, and what its node sees of its process."""
        latest = self._hub.loop.now() - BEATS_MISSED * self._hub.heartbeat
        if engine.heard >= latest:
            return "ok"
        return "unresponsive" if engine.vouched >= latest else "silent"

    def _story(self, peer: bytes, message: m.QueryStory, frames: Sequence[Buffer]) -> None:
        lines = self._hub.scheduler.story(peer[1:], message.seq)
        self._answer(peer, message.number, [(line.when, str(line.to), line.why) for line in lines])

    def _signal(self, peer: bytes, message: m.SignalEngines, frames: Sequence[Buffer]) -> None:
        engines = self._named(peer, message.number, message.engines)
        if engines is not None:
            self._to_nodes(engines, lambda incarnations: m.NodeSignal(incarnations, message.signal))
            self._answer(peer, message.number, [engine.id for engine in engines])

    def _stop_engines(self, peer: bytes, message: m.StopEngines, frames: Sequence[Buffer]) -> None:
        engines = self._named(peer, message.number, message.engines)
        if engines is not None:
            self._to_nodes(engines, lambda incarnations: m.NodeStop(incarnations, message.restart))
            self._answer(peer, message.number, [engine.id for engine in engines])

    def _start_engines(self, peer: bytes, message: m.StartEngines, frames: Sequence[Buffer]) -> None:
        nodes = list(self._hub.peers.nodes)
        if not nodes:
            self._refuse(peer, message.number, "no node is connected that could start engines")
            return
        for position, node in enumerate(nodes):  # evenly, the first ones get the rest
            count = (message.count - position + len(nodes) - 1) // len(nodes)
            if count > 0:
                self._hub.port.send(node, m.NodeStart([-1] * count))
        self._answer(peer, message.number, message.count)

    def _stop_cluster(self, peer: bytes, message: m.StopCluster, frames: Sequence[Buffer]) -> None:
        self._answer(peer, message.number, True)
        self.farewell("the cluster was stopped")

    def farewell(self, reason: str) -> None:
        """Tell everyone, then end the loop."""
        hub = self._hub
        peers = [*hub.peers.nodes, *hub.peers.clients]
        peers += [m.ROLE_ENGINE + engine.incarnation for engine in hub.scheduler.roster if not engine.node]
        for other in peers:
            hub.port.send(other, m.Goodbye(reason))
        hub.loop.call_at(hub.loop.now() + FAREWELL, hub.loop.stop)

    def _named(self, peer: bytes, number: int, ids: Iterable[int]) -> list[Engine] | None:
        """The engines of these ids, all under a node; else the request is refused and nothing happens."""
        roster = self._hub.scheduler.roster.by_id
        unknown = [id for id in ids if id not in roster]
        if unknown:
            self._refuse(peer, number, f"there is no engine {unknown[0]}; there are {sorted(roster)}")
            return None
        engines = [roster[id] for id in ids]
        loose = [engine.id for engine in engines if engine.node not in self._hub.peers.nodes]
        if loose:
            self._refuse(peer, number, f"engine {loose[0]} has no node at the moment that could do this")
            return None
        return engines

    def _to_nodes(self, engines: Iterable[Engine], message: Callable[[list[bytes]], m.Message]) -> None:
        by_node: dict[bytes, list[bytes]] = {}
        for engine in engines:
            by_node.setdefault(engine.node, []).append(engine.incarnation)
        for node, incarnations in by_node.items():
            self._hub.port.send(node, message(incarnations))

    def _answer(self, peer: bytes, number: int, value: Any) -> None:
        self._hub.port.send(peer, m.Answer(number, value))

    def _refuse(self, peer: bytes, number: int, reason: str) -> None:
        self._hub.port.send(peer, m.Answer(number, None, reason))
