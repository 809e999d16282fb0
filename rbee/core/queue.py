"""The queue jobs wait in: interactive before batch, and inside a class fair between clients.

Jobs with equal demands (model and pins) and priority wait in one group; only heads of groups are
ever looked at, so that a plan costs the number of groups and clients, not of jobs. Owns who waits
and in which order; never decides whether one may run, and never counts what a client has used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil
from typing import NamedTuple

from rbee.core.fairness import Shares
from rbee.core.jobs import Demand, Job
from rbee.core.line import Arrival, Line
from rbee.protocol.operations import Priority

PROMOTE_AFTER = 300.0
"""Seconds after which waiting batch work counts as interactive."""

PRIORITIES = tuple(Priority)

URGENT, PATIENT = 0, 1
"""The two classes: interactive and promoted batch work, and the other batch work."""


@dataclass(eq=False, slots=True)
class _Entry:
    """A waiting job and where it stands, as of when it was pushed."""

    job: Job
    arrival: Arrival
    client: str
    demand: Demand
    priority: Priority
    front: bool
    rank: int
    """URGENT or PATIENT."""

    @property
    def promoted(self) -> bool:
        return self.rank == URGENT and self.priority is Priority.BATCH


def _line() -> Line[_Entry]:
    return Line[_Entry]()


@dataclass(slots=True)
class _Group:
    """Jobs of one demand and priority: those that ran already, promoted ones, a line per client."""

    fronts: Line[_Entry] = field(default_factory=_line)
    promoted: Line[_Entry] = field(default_factory=_line)
    lines: dict[str, Line[_Entry]] = field(default_factory=dict[str, Line[_Entry]])

    def __iter__(self) -> Iterator[_Entry]:
        yield from self.fronts
        yield from self.promoted
        for line in self.lines.values():
            yield from line

    def __len__(self) -> int:
        count = len(self.fronts) + len(self.promoted)
        for line in self.lines.values():
            count += len(line)
        return count


@dataclass(slots=True)
class _Standing:
    """A client's waiting jobs of all groups, by class; those in front only counted."""

    lines: tuple[Line[_Entry], Line[_Entry]] = field(default_factory=lambda: (_line(), _line()))
    fronts: list[int] = field(default_factory=lambda: [0, 0])

    def served(self, rank: int) -> int:
        """How many of its jobs go before its line of this class."""
        if rank == URGENT:
            return self.fronts[URGENT]
        return self.fronts[URGENT] + len(self.lines[URGENT]) + self.fronts[PATIENT]

    def __bool__(self) -> bool:
        urgent, patient = self.lines
        return bool(urgent or patient or self.fronts[URGENT] or self.fronts[PATIENT])


class _Urgency(NamedTuple):
    """Less is more urgent: class, those that ran already, the client's counter, arrival."""

    rank: int
    ordinary: bool
    counter: float
    arrival: Arrival


class JobQueue:
    """Work that waits. `now` is monotonic seconds and does not go back from call to call."""

    def __init__(self, shares: Shares | None = None) -> None:
        self.shares = shares if shares is not None else Shares()
        """The virtual token counters; read here, kept by whoever knows when jobs come and end."""
        self._entries: dict[str, _Entry] = {}
        self._groups: dict[tuple[Demand, Priority], _Group] = {}
        self._clients: dict[str, _Standing] = {}
        # One of each that became empty: a job that comes alone and goes at once needs no new ones.
        self._spare_group: _Group | None = None
        self._spare_standing: _Standing | None = None
        self._fronts = (_line(), _line())
        self._ages = _line()
        self._patient = _line()
        self._depth = dict.fromkeys(Priority, 0)
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job: Job) -> bool:
        return job.job_id in self._entries

    def __iter__(self) -> Iterator[Job]:
        for entry in self._entries.values():
            yield entry.job

    def push(self, job: Job) -> None:
        """Wait at the end of its client's line. Raises ValueError when it waits already."""
        self._push(job, front=False)

    def push_front(self, job: Job) -> None:
        """Wait before all others of its class: it ran already (turned away, resumed, tried again).

        Several such wait in the order in which they came to the queen.
        """
        self._push(job, front=True)

    def remove(self, job: Job) -> None:
        """Take it out, wherever it stands. Raises ValueError when it does not wait."""
        entry = self._entries.pop(job.job_id, None)
        if entry is None:
            raise ValueError(f"{job.job_id} is not queued")
        self._ages.remove(entry.arrival)
        if entry.rank == PATIENT:
            self._patient.remove(entry.arrival)
        self._leave(entry)
        self._depth[entry.priority] -= 1

    def heads(self, now: float) -> list[Job]:
        """The job of every group that goes first there, the most urgent first."""
        self._promote(now)
        if len(self._groups) < 2:
            return [self._first(group).job for group in self._groups.values()]
        found = [self._head(group) for group in self._groups.values()]
        return [entry.job for _, entry in sorted(found, key=lambda pair: pair[0])]

    def members(self, demand: Demand) -> Iterator[Job]:
        """All waiting jobs with this demand, interactive first; not to be changed meanwhile."""
        groups = (self._groups.get((demand, p)) for p in PRIORITIES)
        return (entry.job for group in groups if group is not None for entry in group)

    def waiting(self, demand: Demand) -> int:
        """How many wait with this demand; costs the number of their clients."""
        count = 0
        for priority in PRIORITIES:
            group = self._groups.get((demand, priority))
            if group is not None:
                count += len(group)
        return count

    def depth_of(self, job: Job) -> int:
        """How many wait with its demand and priority."""
        group = self._groups.get((job.demand(), job.priority))
        return len(group) if group is not None else 0

    def wants(self, model_id: str) -> bool:
        """Whether any job waits for a model of that name."""
        return any(demand.model_id == model_id for demand, _ in self._groups)

    def position(self, job: Job, now: float) -> int:
        """How many are expected to be served before it, plus one, if nothing else came.

        Foreseen with every job costing what one cost lately. Of a job that does not wait: the
        place it would be given.
        """
        self._promote(now)
        entry = self._entries.get(job.job_id) or self._entry(job, front=False, now=now)
        rank, arrival = entry.rank, entry.arrival
        ahead = len(self._entries) - len(self._patient) if rank == PATIENT else 0
        fronts = self._fronts[rank]
        if entry.front:
            return ahead + fronts.before(arrival) + 1
        mine = self._clients.get(entry.client) or _Standing()
        own = mine.lines[rank].before(arrival)
        ahead += len(fronts) + own
        typical, counter = self.shares.typical, self.shares.of(entry.client)
        own += mine.served(rank)
        for client, other in self._clients.items():
            line = other.lines[rank]
            if not line or client == entry.client:
                continue
            turns = own - other.served(rank) + (counter - self.shares.of(client)) / typical
            if turns < 0:
                continue
            sooner = min(len(line), ceil(turns))
            if sooner < len(line) and sooner == turns and line.at(sooner) < arrival:
                sooner += 1
            ahead += sooner
        return ahead + 1

    def ordered(self, now: float) -> list[Job]:
        """All, in the order in which they would be served if nothing else came.

        Foreseen as in `position`, and as if every group were served as fast as it asks.
        """
        self._promote(now)
        spent = {client: self.shares.of(client) for client in self._clients}
        order: list[Job] = []
        for rank in (URGENT, PATIENT):
            for entry in self._fronts[rank]:
                spent[entry.client] += self.shares.typical
                order.append(entry.job)
            lines: list[Iterator[_Entry]] = [
                (entry for entry in standing.lines[rank] if not entry.promoted)
                for standing in self._clients.values()
            ]
            if rank == URGENT:
                lines += [iter(group.promoted) for group in self._groups.values()]
            order += _taking_turns(lines, spent, self.shares.typical)
        return order

    def depth(self) -> dict[Priority, int]:
        """How many wait, by the priority they were given."""
        return dict(self._depth)

    def oldest(self) -> float | None:
        """`queued_mono` of the one that waits longest."""
        return self._ages.first().job.queued_mono if self._ages else None

    # ---- moving --------------------------------------------------------------------------------

    def _entry(self, job: Job, *, front: bool, now: float | None) -> _Entry:
        late = now is not None and now - job.queued_mono >= PROMOTE_AFTER
        return _Entry(
            job=job,
            arrival=(job.queued_mono, self._pushed),
            client=job.client,
            demand=job.demand(),
            priority=job.priority,
            front=front,
            rank=PATIENT if job.priority is Priority.BATCH and not late else URGENT,
        )

    def _push(self, job: Job, *, front: bool) -> None:
        if job.job_id in self._entries:
            raise ValueError(f"{job.job_id} is queued already")
        entry = self._entry(job, front=front, now=None)
        self._pushed += 1
        self._entries[job.job_id] = entry
        self._ages.add(entry.arrival, entry)
        if entry.rank == PATIENT:
            self._patient.add(entry.arrival, entry)
        self._join(entry)
        self._depth[entry.priority] += 1

    def _join(self, entry: _Entry) -> None:
        group, standing = self._group_of(entry), self._standing_of(entry)
        if entry.front:
            group.fronts.add(entry.arrival, entry)
            standing.fronts[entry.rank] += 1
            self._fronts[entry.rank].add(entry.arrival, entry)
            return
        own = group.promoted if entry.promoted else group.lines.get(entry.client)
        if own is None:
            own = group.lines[entry.client] = _line()
        own.add(entry.arrival, entry)
        standing.lines[entry.rank].add(entry.arrival, entry)

    def _group_of(self, entry: _Entry) -> _Group:
        key = (entry.demand, entry.priority)
        group = self._groups.get(key)
        if group is None:
            group, self._spare_group = self._spare_group, None
            group = self._groups[key] = _Group() if group is None else group
        return group

    def _standing_of(self, entry: _Entry) -> _Standing:
        standing = self._clients.get(entry.client)
        if standing is None:
            standing, self._spare_standing = self._spare_standing, None
            standing = self._clients[entry.client] = _Standing() if standing is None else standing
        return standing

    def _leave(self, entry: _Entry) -> None:
        group = self._groups[entry.demand, entry.priority]
        standing = self._clients[entry.client]
        if entry.front:
            group.fronts.remove(entry.arrival)
            standing.fronts[entry.rank] -= 1
            self._fronts[entry.rank].remove(entry.arrival)
        elif entry.promoted:
            group.promoted.remove(entry.arrival)
            standing.lines[URGENT].remove(entry.arrival)
        else:
            line = group.lines[entry.client]
            line.remove(entry.arrival)
            if not line:
                del group.lines[entry.client]
            standing.lines[entry.rank].remove(entry.arrival)
        if not (group.fronts or group.promoted or group.lines):
            del self._groups[entry.demand, entry.priority]
            self._spare_group = group
        if not standing:
            del self._clients[entry.client]
            self._spare_standing = standing

    def _promote(self, now: float) -> None:
        while self._patient:
            entry = self._patient.first()
            if now - entry.arrival[0] < PROMOTE_AFTER:
                return
            self._patient.remove(entry.arrival)
            self._leave(entry)
            entry.rank = URGENT
            self._join(entry)

    # ---- choosing ------------------------------------------------------------------------------

    def _head(self, group: _Group) -> tuple[_Urgency, _Entry]:
        first = self._first(group)
        return self._urgency(first), first

    def _first(self, group: _Group) -> _Entry:
        """Of a group that is not empty: who ran already, was promoted, or was served least."""
        if len(group.lines) == 1 and not group.fronts and not group.promoted:
            return next(iter(group.lines.values())).first()
        found: list[_Entry] = []
        if group.fronts:
            found.append(group.fronts.first())
        if group.promoted:
            found.append(group.promoted.first())
        if group.lines:
            of = self.shares.of
            tops = ((of(client), line.first()) for client, line in group.lines.items())
            found.append(min(tops, key=lambda top: (top[0], top[1].arrival))[1])
        return min(found, key=self._urgency)

    def _urgency(self, entry: _Entry) -> _Urgency:
        counter = 0.0 if entry.front else self.shares.of(entry.client)
        return _Urgency(entry.rank, not entry.front, counter, entry.arrival)


def _taking_turns(
    lines: Iterable[Iterator[_Entry]], spent: dict[str, float], cost: float
) -> Iterator[Job]:
    """Merge lines: each turn the client that spent least, its earliest job, for `cost` tokens.

    A line may hold jobs of several clients; it is offered by its first job alone. `spent` is
    counted on.
    """
    offers: dict[str, list[tuple[Arrival, _Entry, Iterator[_Entry]]]] = {c: [] for c in spent}
    clients: list[tuple[float, Arrival, str]] = []

    def show(client: str) -> None:
        if offers[client]:
            heappush(clients, (spent[client], offers[client][0][0], client))

    def offer(line: Iterator[_Entry]) -> None:
        entry = next(line, None)
        if entry is not None:
            heappush(offers[entry.client], (entry.arrival, entry, line))
            show(entry.client)

    for line in lines:
        offer(line)
    while clients:
        counter, arrival, client = heappop(clients)
        mine = offers[client]
        if not mine or (counter, arrival) != (spent[client], mine[0][0]):
            continue  # it was shown again since, as it is now
        _, entry, line = heappop(mine)
        spent[client] += cost
        yield entry.job
        offer(line)
        show(client)
