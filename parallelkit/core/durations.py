"""How long a function takes, learned from its last runs. Prefetch, fair share and recall are built on it."""

from __future__ import annotations

from collections import OrderedDict

#: Weight of the newest measurement: high enough to follow a change within some batches.
WEIGHT = 0.3
#: Functions remembered; the least recently used is forgotten.
CAPACITY = 4096


class Durations:
    """Moving averages of seconds per item, by function digest."""

    def __init__(self) -> None:
        self._mean: OrderedDict[bytes, float] = OrderedDict()

    def of(self, function: bytes, items: int) -> float | None:
        """Seconds that ``items`` calls will take, or None for a function not yet seen."""
        mean = self._mean.get(function)
        return None if mean is None else mean * items

    def learn(self, function: bytes, items: int, seconds: float) -> None:
        """Account for ``items`` calls that took ``seconds`` together."""
        each = seconds / max(items, 1)
        mean = self._mean.get(function)
        self._mean[function] = each if mean is None else mean + WEIGHT * (each - mean)
        self._mean.move_to_end(function)
        if len(self._mean) > CAPACITY:
            self._mean.popitem(last=False)

    def __len__(self) -> int:
        return len(self._mean)
