"""``BroadcastView``: the same for all engines."""

from __future__ import annotations

from parallelkit.client.direct import DirectView


class BroadcastView(DirectView):
    """Sends each task to all of its engines, for a great number of these.

    Each call leaves this process once, whatever the number of engines, and so does a push; so it is with every
    :class:`DirectView`, and this is one under the name that it has elsewhere. ``map`` gives each engine one block of
    the items and joins what comes back.
    """

    __slots__ = ()
