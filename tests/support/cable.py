"""A cable between two hosts that can be made slow where the kernel has no netem: a program.

`python cable.py OURS THEIRS` makes two Ethernet interfaces (TAP, Documentation/networking/tuntap)
and carries what goes into one to the other. A line on its stdin, milliseconds, is how long that
takes from OURS to THEIRS from now on, and is answered by the same line. At the end of its stdin it
is gone, and both interfaces with it, wherever they were moved to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x1002
_FRAME = 1 << 16
_AT_ONCE = 64


def interface(name: str) -> int:
    """A new one; what is sent on it is read from the descriptor, and what is written arrives."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return descriptor


class Way:
    """One direction."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self.delay = 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """What was sent since. Raises OSError when the interface is gone."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                frame = os.read(self.source, _FRAME)
                last = self._waiting[-1][0] if self._waiting else 0.0
                self._waiting.append((max(last, time.monotonic() + self.delay), frame))

    def give(self) -> float | None:
        """Deliver what is due; seconds until the next is."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # the other end is switched off
                os.write(self.target, self._waiting[0][1])
            self._waiting.popleft()
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None


def main(ours: str, theirs: str) -> None:
    """Until the end of stdin."""
    here, there = interface(ours), interface(theirs)
    ways = {here: Way(here, there), there: Way(there, here)}
    os.write(1, b"up\n")
    while True:
        pauses = [pause for way in ways.values() if (pause := way.give()) is not None]
        readable, _, _ = select.select([0, here, there], [], [], min(pauses, default=None))
        for descriptor in readable:
            if descriptor in ways:
                ways[descriptor].take()
                continue
            line = os.read(0, 64)
            if not line:
                return
            ways[here].delay = float(line) / 1000
            os.write(1, line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
