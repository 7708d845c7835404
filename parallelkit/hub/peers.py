"""Who is connected, and what each is told at the door."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from typing import Any

from parallelkit import __version__
from parallelkit.core.roster import Engine
from parallelkit.wire import messages as m

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: Sizes below which a peak of memory says nothing about a death.
MEBIBYTE = 1 << 20


class Peers:
    """Clients and nodes by routing id. Engines are the scheduler's."""

    def __init__(self, cluster: str, epoch: int, heartbeat: float, limits: dict[str, Any], output_limit: int) -> None:
        self.cluster = cluster
        self._epoch = epoch
        self._heartbeat = heartbeat
        self._limits = limits
        self._output_limit = output_limit
        self.clients: dict[bytes, m.ClientHello] = {}
        self.nodes: dict[bytes, m.NodeHello] = {}

    def refusal(self, peer: bytes, hello: m.ClientHello | m.EngineHello | m.NodeHello) -> m.Refused | None:
        """Why this peer cannot take part, or None. Pickles do not cross a change of Python's minor version."""
        who = {m.ROLE_CLIENT: "notebook", m.ROLE_ENGINE: "engine", m.ROLE_NODE: "node"}[peer[:1]]
        if hello.protocol != m.PROTOCOL:
            return m.Refused(
                "version",
                f"this {who} has parallelkit {hello.package} (protocol {hello.protocol}), the cluster "
                f"{self.cluster!r} has {__version__} (protocol {m.PROTOCOL}); install the same version on both",
            )
        if hello.python != PYTHON:
            return m.Refused(
                "version",
                f"this {who} on {hello.host} runs Python {hello.python}, the cluster {self.cluster!r} runs Python "
                f"{PYTHON}; start one of them with the other's Python",
            )
        return None

    def client_welcome(self, engines: Iterable[Engine]) -> m.ClientWelcome:
        roster = [self.engine_info(engine) for engine in engines]
        return m.ClientWelcome(self._epoch, self.cluster, __version__, self._heartbeat, roster, self._limits)

    def engine_welcome(self, id: int) -> m.EngineWelcome:
        return m.EngineWelcome(self._epoch, id, self._heartbeat, self._output_limit)

    def node_welcome(self) -> m.NodeWelcome:
        return m.NodeWelcome(self._epoch, self._heartbeat)

    def engine_info(self, engine: Engine) -> m.EngineInfo:
        return m.EngineInfo(engine.id, engine.incarnation, engine.host, engine.pid)

    def death(self, certificate: m.EngineExited) -> str:
        """How an engine ended, in words that finish "engine 3 …"."""
        if certificate.wanted:
            return "was stopped"
        if certificate.signal:
            how = f"was killed by {_signal_name(certificate.signal)}"
        else:
            how = f"exited with code {certificate.exit_code}"
        if certificate.signal == signal.SIGKILL and certificate.peak_memory > MEBIBYTE:
            how += f" (its memory had reached {certificate.peak_memory / MEBIBYTE:,.0f} MiB)"
        return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
