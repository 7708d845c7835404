"""What is measured, the same for every system. Times are wall clock; two workers; payloads are checked on return."""

from __future__ import annotations

import statistics
import time

import numpy as np

WORKERS = 2
#: Seconds of sleep, item by item: long ones in the middle of many short ones.
UNEVEN = [0.005] * 150 + [0.1] * 6 + [0.005] * 150


def measure(system, noop, sleep, scale=1.0):
    """All figures of one system, by name. A system lacks those that it has no means for."""
    found = dict(system.figures)
    found.update(_latency(system, noop, int(300 * scale)))
    if system.submit is not None:
        found.update(_throughput(system, noop, scale))
        found.update(_arrays(system, noop, max(3, int(30 * scale))))
        found["uneven"] = seconds(lambda: list(system.map_uneven(sleep, UNEVEN))) / (sum(UNEVEN) / WORKERS)
    for name, call in system.extra.items():
        found[name] = call(scale)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median_ms(call, times):
    return 1e3 * statistics.median(seconds(call) for _ in range(times))


def _latency(system, noop, times):
    for _ in range(20):
        system.apply(noop, 1)
    spent = sorted(seconds(lambda: system.apply(noop, 1)) for _ in range(times))
    return {"apply_ms": 1e3 * statistics.median(spent), "apply_p99_ms": 1e3 * spent[int(len(spent) * 0.99)]}


def _throughput(system, noop, scale):
    found = {}
    for name, total, run in (
        ("submit_per_s", 5_000, lambda n: [system.result(h) for h in [system.submit(noop, i) for i in range(n)]]),
        ("map_one_per_s", 20_000, lambda n: list(system.map_one(noop, range(n)))),
        ("map_per_s", 200_000, lambda n: list(system.map(noop, range(n)))),
    ):
        n = int(total * scale)
        began = time.perf_counter()
        values = run(n)
        found[name] = n / (time.perf_counter() - began)
        assert values == list(range(n)), f"{name}: wrong results"
    return found


def _arrays(system, noop, times):
    small, large = np.random.rand(1_000_000 // 8), np.random.rand(100_000_000 // 8)
    for _ in range(2 * WORKERS):  # until every worker has imported numpy
        system.apply(noop, small)
    found = {"array_1mb_ms": median_ms(lambda: system.apply(noop, small), times)}
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        back = system.apply(noop, large)
        spent.append(time.perf_counter() - began)
        assert back.nbytes == large.nbytes
        assert back[-1] == large[-1]
        del back
    found["array_100mb_mb_per_s"] = 200 / statistics.median(spent)
    return found
