"""The hub process: listens, writes the connection files, serves until told to stop or until its keeper is gone.

Order at the start: socket, then files, so that whoever finds a file finds a listener. At the end: farewells, then
the socket, then the files. When the keeper was killed nobody else can clean up, so the folder goes too.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from parallelkit import config
from parallelkit.core.scheduler import Scheduler
from parallelkit.errors import ConnectionFileError, LaunchError
from parallelkit.hub.service import HubService
from parallelkit.transport.connection import (
    CLIENT_FILE,
    ENGINE_FILE,
    HUB_FILE,
    ConnectionInfo,
    read_connection,
    write_connection,
)
from parallelkit.transport.reactor import Reactor
from parallelkit.transport.sockets import listen
from parallelkit.transport.zap import ZapHandler, key_pair

log = logging.getLogger(__name__)

SOCKET = "hub.sock"
#: Time between two looks at whether the keeper is still there.
KEEPER_CHECK = 0.5


def main() -> None:
    """Run a hub; the arguments are what the keeper passes."""
    parser = argparse.ArgumentParser(prog="python -m parallelkit.hub")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--epoch", type=int, default=1)
    # Told, not asked for: a keeper that is killed while this process starts is not its parent any more.
    parser.add_argument("--keeper", type=int, default=os.getppid(), help="process whose end ends the hub")
    arguments = parser.parse_args()
    settings = config.load()
    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    folder = config.cluster_dir(settings, arguments.cluster)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        run(arguments.cluster, arguments.epoch, settings, folder, arguments.keeper)
    except LaunchError as error:
        log.critical("%s", error)
        sys.exit(1)


def run(cluster: str, epoch: int, settings: config.Settings, folder: Path, keeper: int) -> None:
    """Serve until told to stop."""
    reactor = Reactor()
    service = make_service(reactor, cluster, epoch, settings)
    endpoint = _listen(reactor, service, settings, folder)
    service.start()
    orphaned = False

    def watch_keeper() -> None:
        nonlocal orphaned
        if os.getppid() != keeper:
            orphaned = True
            log.warning("the keeper is gone; so the cluster ends")
            service.stop("the cluster's keeper was killed")
        else:
            reactor.call_at(reactor.now() + KEEPER_CHECK, watch_keeper)

    def stop(number: int, frame: object) -> None:
        reactor.call_soon(lambda: service.stop("the hub was told to stop"))

    watch_keeper()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("hub of %r listens at %s, epoch %d", cluster, endpoint, epoch)
    gc.freeze()
    reactor.run()
    if orphaned:
        shutil.rmtree(folder, ignore_errors=True)


def make_service(reactor: Reactor, cluster: str, epoch: int, settings: config.Settings) -> HubService:
    scheduler = Scheduler(
        epoch=epoch,
        now=reactor.now(),
        heartbeat=settings.heartbeat,
        silence=settings.silence,
        prefetch=settings.prefetch,
    )
    limits = {
        "window_tasks": settings.window_tasks,
        "window_bytes": settings.window_bytes,
        "chunk": settings.chunk,
        "max_attempts": settings.max_attempts,
    }
    return HubService(
        reactor,
        cluster=cluster,
        epoch=epoch,
        heartbeat=settings.heartbeat,
        scheduler=scheduler,
        limits=limits,
        output_limit=settings.output_limit,
    )


def _listen(reactor: Reactor, service: HubService, settings: config.Settings, folder: Path) -> str:
    """Bind, then say where in the two connection files."""
    cluster = service.peers.cluster
    if not settings.ip:
        path = folder / SOCKET
        path.unlink(missing_ok=True)
        service.port, endpoint = listen(reactor, f"ipc://{path}", service)
        client = engine = ConnectionInfo(cluster, endpoint)
    else:
        host = f"[{settings.ip}]" if ":" in settings.ip else settings.ip
        hub, client, engine = _identities(cluster, f"tcp://{host}:{settings.port or '*'}", folder)
        # The handler comes before the bind: without it no key is admitted. Nodes hold the key of their engines.
        ZapHandler(reactor, {client.public_key: "C", engine.public_key: "EN"})
        service.port, endpoint = listen(reactor, hub.endpoint, service, hub.secret_key)
        hub, client, engine = (replace(info, endpoint=endpoint) for info in (hub, client, engine))
        write_connection(folder / HUB_FILE, hub)
    write_connection(folder / CLIENT_FILE, client)
    write_connection(folder / ENGINE_FILE, engine)
    return endpoint


def _identities(cluster: str, endpoint: str, folder: Path) -> tuple[ConnectionInfo, ConnectionInfo, ConnectionInfo]:
    """Keys of hub, clients and engines: those of the hub before this one, so that its peers come back, or new ones."""
    try:
        return (
            read_connection(folder / HUB_FILE),
            read_connection(folder / CLIENT_FILE),
            read_connection(folder / ENGINE_FILE),
        )
    except ConnectionFileError:
        public, secret = key_pair()
        hub = ConnectionInfo(cluster, endpoint, public, public, secret)
        return hub, replace(hub, **_own_keys()), replace(hub, **_own_keys())


def _own_keys() -> dict[str, Any]:
    public, secret = key_pair()
    return {"public_key": public, "secret_key": secret}
