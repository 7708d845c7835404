"""The systems, each behind the same few calls, and each used the way its documentation says.

A system is a context manager ``make(noop)`` that yields a :class:`System` when its two workers have answered.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from measures import WORKERS, median_ms, seconds


@dataclass
class System:
    """``apply`` waits for the value; ``submit`` and ``result`` are the two halves of it.

    ``map_one`` makes each item a task, ``map`` is what a user writes, ``map_uneven`` what suits long uneven items.
    """

    apply: Callable[..., Any]
    submit: Callable[..., Any] | None = None
    result: Callable[[Any], Any] | None = None
    map_one: Callable[..., Any] | None = None
    map: Callable[..., Any] | None = None
    map_uneven: Callable[..., Any] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Callable[[float], float]] = field(default_factory=dict)


@contextlib.contextmanager
def parallelkit(noop) -> Iterator[System]:
    began = time.perf_counter()
    import parallelkit as pk

    imported = time.perf_counter() - began
    import parallelkit.client.client
    import parallelkit.cluster.connect

    loaded = time.perf_counter() - began
    rc = pk.connect(n=WORKERS)
    figures = {
        "import_ms": 1e3 * imported,
        "connect_s": time.perf_counter() - began - loaded,
        "ready_s": time.perf_counter() - began,
    }
    view, everyone = rc.load_balanced_view(), rc[:]
    view.apply_sync(noop)
    try:
        yield System(
            view.apply_sync,
            view.apply_async,
            lambda result: result.get(),
            lambda f, items: view.map_sync(f, items, chunksize=1),
            view.map_sync,
            view.map_sync,
            figures,
            _views(everyone) | {name: _own_memory(rc, name) for name in ("engine", "hub", "node")},
        )
    finally:
        rc.shutdown(hub=True)
        rc.close()


def _views(everyone) -> dict[str, Callable[[float], float]]:
    """What only parallelkit and ipyparallel have: code and data on every engine."""
    import numpy as np

    array = np.random.rand(100_000_000 // 8)
    return {
        "cell_ms": lambda scale: median_ms(lambda: everyone.execute("x = 1", block=True), int(100 * scale)),
        "push_mb_per_s": lambda scale: 100 * WORKERS / seconds(lambda: everyone.push({"a": array}, block=True)),
        "scatter_mb_per_s": lambda scale: 100 / seconds(lambda: everyone.scatter("s", array, block=True)),
        "gather_mb_per_s": lambda scale: 100 / seconds(lambda: everyone.gather("s", block=True)),
    }


def _own_memory(rc, role) -> Callable[[float], float]:
    """Megabytes that would be freed if such a process ended (USS); of several the median."""

    def measure(scale):
        import psutil

        if role == "engine":
            rc.restart_engines()  # idle ones: these have worked
            pids = [status["pid"] for id, status in rc.queue_status(verbose=True).items() if id != "unassigned"]
        else:
            pids = [
                process.pid
                for process in psutil.process_iter(["cmdline", "environ"])
                if f"parallelkit.{role}" in " ".join(process.info["cmdline"] or ())
                and (process.info["environ"] or {}).get("PARALLELKIT_RUNTIME_DIR")
                == os.environ["PARALLELKIT_RUNTIME_DIR"]
            ]
        return statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids) / 1e6

    return measure


@contextlib.contextmanager
def relay(noop) -> Iterator[System]:
    """The floor for any client – hub – engine over ZeroMQ: no scheduler, no checks, one message at a time."""
    import multiprocessing
    import pickle

    import zmq

    folder = tempfile.mkdtemp(prefix="relay-")
    front, back = f"ipc://{folder}/front", f"ipc://{folder}/back"

    def pass_on():
        context = zmq.Context()
        clients, engines = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        clients.bind(front)
        engines.bind(back)
        poller = zmq.Poller()
        poller.register(clients, zmq.POLLIN)
        poller.register(engines, zmq.POLLIN)
        known, turn = [], 0
        while True:
            for socket, _ in poller.poll():
                frames = socket.recv_multipart()
                if socket is clients:
                    engines.send_multipart([known[turn % len(known)], *frames])
                    turn += 1
                elif len(frames) == 2:
                    known.append(frames[0])
                else:
                    clients.send_multipart(frames[1:])

    def serve():
        socket = zmq.Context().socket(zmq.DEALER)
        socket.connect(back)
        socket.send(b"hello")
        while True:
            client, request = socket.recv_multipart()
            function, arguments = pickle.loads(request)
            socket.send_multipart([client, pickle.dumps(function(*arguments), 5)])

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=target, daemon=True) for target in [pass_on] + [serve] * WORKERS]
    for process in processes:
        process.start()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(front)
    time.sleep(1)  # until the engines are known; it has no handshake

    def apply(function, *arguments):
        socket.send(pickle.dumps((function, arguments), 5))
        return pickle.loads(socket.recv())

    try:
        yield System(apply)
    finally:
        for process in processes:
            process.terminate()


@contextlib.contextmanager
def pool(noop) -> Iterator[System]:
    began = time.perf_counter()
    from multiprocessing import Pool

    with Pool(WORKERS) as workers:
        workers.apply(noop)
        yield System(
            lambda f, *args: workers.apply(f, args),
            lambda f, *args: workers.apply_async(f, args),
            lambda result: result.get(),
            lambda f, items: workers.map(f, items, chunksize=1),
            workers.map,
            lambda f, items: workers.map(f, items, chunksize=1),
            {"ready_s": time.perf_counter() - began},
        )


def _executor(executor, noop, began) -> System:
    executor.submit(noop).result()
    return System(
        lambda f, *args: executor.submit(f, *args).result(),
        executor.submit,
        lambda future: future.result(),
        executor.map,
        # its default makes each item a task; users of many items are told to choose a chunk size
        lambda f, items: executor.map(f, items, chunksize=max(1, len(items) // (4 * WORKERS))),
        executor.map,
        {"ready_s": time.perf_counter() - began},
    )


@contextlib.contextmanager
def futures(noop) -> Iterator[System]:
    began = time.perf_counter()
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield _executor(executor, noop, began)


@contextlib.contextmanager
def loky(noop) -> Iterator[System]:
    began = time.perf_counter()
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=WORKERS)
    yield _executor(executor, noop, began)
    executor.shutdown()


@contextlib.contextmanager
def ipyparallel(noop) -> Iterator[System]:
    began = time.perf_counter()
    import logging

    import ipyparallel as ipp

    imported = time.perf_counter() - began
    cluster = ipp.Cluster(n=WORKERS, log_level=logging.ERROR)
    rc = cluster.start_and_connect_sync(activate=False)
    view, everyone = rc.load_balanced_view(), rc[:]
    view.apply_sync(noop)
    ready = time.perf_counter() - began
    try:
        yield System(
            view.apply_sync,
            view.apply_async,
            lambda result: result.get(),
            view.map_sync,
            everyone.map_sync,
            view.map_sync,
            {"import_ms": 1e3 * imported, "connect_s": ready - imported, "ready_s": ready},
            _views(everyone),
        )
    finally:
        cluster.stop_cluster_sync()


@contextlib.contextmanager
def dask(noop) -> Iterator[System]:
    began = time.perf_counter()
    from distributed import Client, LocalCluster

    imported = time.perf_counter() - began
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.submit(noop, pure=False).result()
        ready = time.perf_counter() - began
        yield System(
            lambda f, *args: client.submit(f, *args, pure=False).result(),
            lambda f, *args: client.submit(f, *args, pure=False),
            lambda future: future.result(),
            lambda f, items: client.gather(client.map(f, items, pure=False)),
            lambda f, items: client.gather(client.map(f, items, pure=False, batch_size=10_000)),
            lambda f, items: client.gather(client.map(f, items, pure=False)),
            {"import_ms": 1e3 * imported, "connect_s": ready - imported, "ready_s": ready},
        )


@contextlib.contextmanager
def ray(noop) -> Iterator[System]:
    began = time.perf_counter()
    import ray
    from ray.util.multiprocessing import Pool

    imported = time.perf_counter() - began
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remotes: dict[Any, Any] = {}

    def submit(f, *args):
        if f not in remotes:
            remotes[f] = ray.remote(f)
        return remotes[f].remote(*args)

    ray.get(submit(noop))
    ready = time.perf_counter() - began
    workers = Pool(WORKERS)
    yield System(
        lambda f, *args: ray.get(submit(f, *args)),
        submit,
        ray.get,
        lambda f, items: ray.get([submit(f, item) for item in items]),
        workers.map,
        lambda f, items: ray.get([submit(f, item) for item in items]),
        {"import_ms": 1e3 * imported, "connect_s": ready - imported, "ready_s": ready},
    )
    ray.shutdown()


SYSTEMS = {
    "parallelkit": parallelkit,
    "relay": relay,
    "pool": pool,
    "futures": futures,
    "ipyparallel": ipyparallel,
    "loky": loky,
    "dask": dask,
    "ray": ray,
}
