"""Who has had how much: a virtual token counter per client.

The virtual token counter of "Fairness in Serving Large Language Models" (arXiv 2401.00588, alg. 2):
whoever has been served the least goes next, and whoever comes back is lifted to the smallest
counter among those who are there, so that absence earns no credit. Owns the counters; never looks
at a queue and never decides who runs.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

INPUT_WEIGHT = 1.0
"""Of a prompt's token: it is worked on in parallel with its neighbours (the paper's w_p)."""
OUTPUT_WEIGHT = 2.0
"""Of an answer's token: each needs a pass of its own (the paper's w_q)."""
REMEMBERED = 10_000
"""Absent clients that are ahead of the others and so must be remembered; beyond, those that are
the least ahead are forgotten."""
TYPICAL_JOB = 500.0
"""Virtual tokens of a job before any has ended: a prompt of 100 and an answer of 200."""
TYPICAL_WEIGHT = 0.1
"""Of the newest job in `typical`."""


class Shares:
    """Virtual tokens each client has used: 1 × input + 2 × output. Counters never fall.

    A client is active while it has a waiting or running job: `enter` for each, `leave` at its end.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._open: dict[str, int] = {}
        self._floor = 0.0
        # Entries lag behind: a client's may be lower than its counter, never higher, and at the
        # top it is put right. So nothing is looked for when a counter moves.
        self._active: list[tuple[float, str]] = []
        self._absent: list[tuple[float, str]] = []
        self._since_leave = 0.0
        self._typical = TYPICAL_JOB

    @property
    def counters(self) -> dict[str, float]:
        """A copy, client → virtual tokens."""
        return dict(self._counters)

    @property
    def active(self) -> frozenset[str]:
        """Clients with a waiting or running job."""
        return frozenset(self._open)

    @property
    def typical(self) -> float:
        """Virtual tokens that a job has cost lately, at least 1: to foresee who will be served."""
        return self._typical

    def of(self, client: str) -> float:
        """Its counter; of a client that is not known, the one it would be given."""
        return self._counters.get(client, self._floor)

    def enter(self, client: str) -> None:
        """One more of its jobs waits or runs; with the first it comes back, without credit."""
        self._open[client] = self._open.get(client, 0) + 1
        if self._open[client] == 1:
            lifted = max(self.of(client), self._floor)
            self._counters[client] = lifted
            heappush(self._active, (lifted, client))
            self._settle()

    def leave(self, client: str) -> None:
        """One of its jobs ended or left. Of a client with none, refused at the door: nothing."""
        if client not in self._open:
            return
        left = self._open[client] - 1
        if self._since_leave > 0:
            self._typical += TYPICAL_WEIGHT * (self._since_leave - self._typical)
            self._typical = max(1.0, self._typical)
            self._since_leave = 0.0
        if left:
            self._open[client] = left
            return
        del self._open[client]
        heappush(self._absent, (self._counters[client], client))
        self._settle()

    def charge(self, client: str, *, input_tokens: float = 0.0, output_tokens: float = 0.0) -> None:
        """Add what was done for it. A negative amount counts as none: nothing is given back."""
        cost = INPUT_WEIGHT * max(0.0, input_tokens) + OUTPUT_WEIGHT * max(0.0, output_tokens)
        if cost == 0:
            return
        self._since_leave += cost
        self._counters[client] = self.of(client) + cost
        if client not in self._open:
            heappush(self._absent, (self._counters[client], client))
        self._settle()

    def _settle(self) -> None:
        """Raise the floor to the smallest active counter and forget whom it has overtaken.

        With nobody active it stays where the last one left it, as in the paper.
        """
        if len(self._active) > 2 * len(self._open) + 64:
            self._active = [(self._counters[client], client) for client in self._open]
            heapify(self._active)
        while self._active:
            counter, client = self._active[0]
            if client not in self._open:
                heappop(self._active)
            elif counter < self._counters[client]:
                heapreplace(self._active, (self._counters[client], client))
            else:
                self._floor = max(self._floor, counter)
                break
        self._forget()

    def _forget(self) -> None:
        many = len(self._counters) - len(self._open) - REMEMBERED
        while self._absent:
            counter, client = self._absent[0]
            if client in self._open or client not in self._counters:
                heappop(self._absent)
            elif counter < self._counters[client]:
                heapreplace(self._absent, (self._counters[client], client))
            elif counter <= self._floor or many > 0:
                heappop(self._absent)
                del self._counters[client]
                many -= 1
            else:
                break
        if len(self._absent) > 2 * (len(self._counters) - len(self._open)) + 64:
            self._absent = [(n, c) for c, n in self._counters.items() if c not in self._open]
            heapify(self._absent)
