"""Callers that present wrong keys, by address: after a few they wait, longer each time.

Pure: the time is handed in. Nobody guesses 256 bits; this keeps whoever tries from filling the log
and the machine's time, and makes it visible. Memory is bounded: the addresses that were wrong
longest ago are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

FREE = 5
"""Wrong keys from an address before it has to wait."""
FIRST, MOST = 1.0, 300.0
"""Seconds of the first wait, doubling with each wrong key up to the last."""
FORGET = 900.0
"""Seconds without a wrong key after which an address begins anew."""
ADDRESSES = 4096


@dataclass(slots=True)
class _Wrong:
    count: int
    last: float
    until: float


class Brakes:
    """What is remembered of each address."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def wait(self, address: str, now: float) -> float:
        """Seconds until keys of that address are looked at again; 0: they are."""
        seen = self._wrong.get(address)
        return max(0.0, seen.until - now) if seen is not None else 0.0

    def wrong(self, address: str, now: float) -> int:
        """One more wrong key came from there: how many by now."""
        seen = self._wrong.pop(address, None)
        if seen is None or now - seen.last > FORGET:
            seen = _Wrong(0, now, now)
        seen.count += 1
        seen.last = now
        if seen.count >= FREE:
            seen.until = now + min(MOST, FIRST * 2.0 ** min(seen.count - FREE, 30))
        self._wrong[address] = seen
        while len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)
        return seen.count
