"""Who is let in: every kind of caller at every kind of route, from this machine and from others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rbee.access.brakes import FREE
from rbee.access.keys import Keys
from rbee.clock import SystemClock
from rbee.daemons.base import TOLD
from rbee.daemons.queen.callers import Caller, Kind, present
from rbee.daemons.queen.gate import Gate
from rbee.daemons.queen.scopes import NEEDS, OPERATIONS, Need, check_operation, need_of
from rbee.errors import (
    Forbidden,
    InvalidApiKey,
    MissingApiKey,
    NotFound,
    RateLimited,
    RbeeError,
)
from rbee.protocol.access import NewKey, Scope
from rbee.protocol.operations import OPERATIONS as ALL_OPERATIONS
from rbee.protocol.operations import parse_operation
from rbee.settings import QueenSettings

pytestmark = pytest.mark.anyio
OWNER = "rbee-owner-" + "o" * 43
HERE, THERE = "127.0.0.1", "192.0.2.7"
QUEEN = Path(__file__).parents[2] / "rbee" / "daemons" / "queen"


class Clock(SystemClock):
    """One that is put forward by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.ahead

    def utc(self) -> float:
        return 1_800_000_000.0 + self.ahead


class House:
    """A gate, its keys, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.settings = QueenSettings()
        self.keys = Keys(folder / "keys.json")
        self.gate = Gate(
            keys=self.keys, owner=OWNER, settings=lambda: self.settings, clock=self.clock,
            owns=self._owns,
        )  # fmt: skip
        self.jobs = {"j-1": "key:anna"}

    async def _owns(self, request: Request, caller: Caller) -> None:
        if self.jobs.get(request.path_params["job_id"]) != caller.client:
            raise NotFound("no such job")

    def key(self, name: str, *scopes: Scope, **more: float) -> str:
        asked = NewKey(name=name, scopes=list(scopes) or [Scope.INFER], **more)
        return self.keys.create(asked, self.clock.utc()).key

    async def call(
        self, route: str, key: str | None = None, *, at: str = HERE, header: str = "authorization"
    ) -> Response:
        """One request, answered by who called."""
        present.set(None)
        method, path = route.split(" ")
        headers = [(b"host", b"localhost"), (b"user-agent", b"app/1")]
        if key is not None:
            value = f"Bearer {key}" if header == "authorization" else key
            headers.append((header.encode(), value.encode()))

        async def handler(_request: Request) -> Response:
            caller = present.get()
            return PlainTextResponse(str(caller.kind) if caller else "nobody")

        scope = {
            "type": "http", "method": method, "path": path, "headers": headers, "client": (at, 5),
            "query_string": b"", "path_params": {"job_id": path.rpartition("/")[2]},
        }  # fmt: skip
        written = "/v1/jobs/{job_id}" if "/j-" in path else path
        self.told = scope["state"] = dict[str, Any]()
        return await self.gate.guarded(method, written, handler)(Request(scope))

    def header(self, name: str) -> str:
        """That the last reply was to have."""
        return dict(self.told[TOLD])[name.encode()].decode()

    async def outcome(self, route: str, key: str | None = None, *, at: str = HERE) -> object:
        """Who was let in, or the error's type."""
        try:
            return (await self.call(route, key, at=at)).body.decode()
        except RbeeError as exc:
            return type(exc)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


INFER, LOOK, ADMIN = "POST /v1/chat/completions", "GET /v1/workers", "POST /v1/hives"


async def test_the_table_of_who_may_what(house: House) -> None:
    infer, admin = house.key("anna"), house.key("boss", Scope.ADMIN)
    rows = {
        (None, HERE): ("local", "local", MissingApiKey),
        ("anything", HERE): ("local", "local", MissingApiKey),
        (OWNER, HERE): ("owner", "owner", "owner"),
        (infer, HERE): ("key", Forbidden, Forbidden),
        (admin, HERE): ("key", "key", "key"),
        (None, THERE): (MissingApiKey, MissingApiKey, MissingApiKey),
        (infer, THERE): ("key", Forbidden, Forbidden),
        (admin, THERE): ("key", "key", "key"),
        (None, ""): (MissingApiKey, MissingApiKey, MissingApiKey),
    }
    for (key, at), expected in rows.items():
        seen = [await house.outcome(route, key, at=at) for route in (INFER, LOOK, ADMIN)]
        assert tuple(seen) == expected, (key, at)
        assert await house.outcome("GET /health", key, at=at) == "nobody"
    for number, key in enumerate(("rbee_wrong", OWNER, "x" * 600, "ä")):
        seen = await house.outcome(INFER, key, at=f"198.51.100.{number}")
        assert seen is InvalidApiKey, key


async def test_a_key_may_be_sent_as_other_clients_do(house: House) -> None:
    key = house.key("anna")
    reply = await house.call(INFER, key, at=THERE, header="x-api-key")
    assert reply.body == b"key"


async def test_a_key_can_be_required_on_this_machine_too(house: House) -> None:
    house.settings = QueenSettings(require_key=True)
    assert await house.outcome(INFER) is MissingApiKey
    assert await house.outcome(LOOK) is MissingApiKey
    assert await house.outcome(INFER, "none") is InvalidApiKey
    assert await house.outcome(INFER, house.key("anna")) == "key"
    assert await house.outcome(ADMIN, OWNER) == "owner"


async def test_withdrawn_and_expired_keys_open_nothing(house: House) -> None:
    gone, short = house.key("gone"), house.key("short", expires_in=60)
    assert await house.outcome(INFER, gone, at=THERE) == "key"
    house.keys.revoke("gone")
    assert await house.outcome(INFER, gone, at=THERE) is InvalidApiKey
    assert await house.outcome(INFER, short, at=THERE) == "key"
    house.clock.ahead = 60
    with pytest.raises(InvalidApiKey, match=r"short .* has expired") as refused:
        await house.call(INFER, short, at=THERE)
    assert "rbee key rotate short" in refused.value.action
    assert short not in str(refused.value.body())


async def test_twenty_wrong_keys_are_slowed_and_harm_nobody_else(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = house.key("anna"), house.key("carl")
    assert await house.outcome(INFER, good, at=THERE) == "key"
    seen = [await house.outcome(INFER, f"rbee_guess{n}", at=THERE) for n in range(20)]
    assert seen[:FREE] == [InvalidApiKey] * FREE
    assert set(seen[FREE:]) == {RateLimited}
    with pytest.raises(RateLimited) as refused:
        await house.call(INFER, "rbee_guess", at=THERE)
    assert refused.value.details["retry_after"] >= 1
    # A right key that was not seen from there could be the next guess; one that was, goes on.
    assert await house.outcome(INFER, other, at=THERE) is RateLimited
    assert await house.outcome(INFER, good, at=THERE) == "key"
    assert await house.outcome(INFER, other, at="192.0.2.8") == "key"
    assert await house.outcome(ADMIN, OWNER) == "owner"
    house.clock.ahead = refused.value.details["retry_after"]
    assert await house.outcome(INFER, other, at=THERE) == "key"
    assert await house.outcome(INFER, "rbee_more", at=THERE) is InvalidApiKey
    assert await house.outcome(INFER, "rbee_more", at=THERE) is RateLimited
    lines = [record for record in caplog.records if "refused a key" in record.message]
    assert len(lines) == FREE + 1
    assert not [line for line in lines if "rbee_" in str(vars(line))]


async def test_addresses_of_one_network_wait_together(house: House) -> None:
    for number in range(FREE):
        await house.outcome(INFER, "rbee_x", at=f"2001:db8::{number}")
    assert await house.outcome(INFER, "rbee_x", at="2001:db8::ffff") is RateLimited
    assert await house.outcome(INFER, "rbee_x", at="2001:db8:0:1::1") is InvalidApiKey


async def test_limits_are_told_and_kept(house: House) -> None:
    key = house.key("anna", requests_per_minute=2, tokens_per_minute=100)
    await house.call(INFER, key, at=THERE)
    assert house.header("x-ratelimit-limit-requests") == "2"
    assert house.header("x-ratelimit-remaining-requests") == "1"
    assert house.header("x-ratelimit-reset-requests") == "30.000s"
    assert house.header("x-ratelimit-remaining-tokens") == "100"
    await house.call(INFER, key, at=THERE)
    with pytest.raises(RateLimited, match="2 requests") as refused:
        await house.call(INFER, key, at=THERE)
    assert refused.value.details["retry_after"] == 30
    assert house.header("x-ratelimit-remaining-requests") == "0"
    assert (await house.call("GET /v1/models", key, at=THERE)).status_code == 200
    house.clock.ahead = 30
    await house.call(INFER, key, at=THERE)
    house.clock.ahead = 90
    house.gate.spend("anna", 150)
    with pytest.raises(RateLimited, match="100 tokens"):
        await house.call(INFER, key, at=THERE)
    house.clock.ahead += 31
    await house.call(INFER, key, at=THERE)


async def test_a_key_sees_its_own_jobs_only(house: House) -> None:
    anna, carl = house.key("anna"), house.key("carl")
    boss = house.key("boss", Scope.ADMIN)
    route = "GET /v1/jobs/j-1"
    assert await house.outcome(route, anna, at=THERE) == "key"
    assert await house.outcome(route, carl, at=THERE) is NotFound
    assert await house.outcome(route, boss, at=THERE) == "key"
    assert await house.outcome("GET /v1/jobs/j-2", anna, at=THERE) is NotFound


def test_operations_that_reach_machines_need_an_admin() -> None:
    assert set(OPERATIONS) < set(ALL_OPERATIONS)
    spawn = parse_operation(b'{"operation": "hive_install", "hive": "attic"}')
    ask = parse_operation(b'{"operation": "infer", "model": "m", "prompt": "x"}')
    local = Caller(Kind.LOCAL, "app")
    for caller, operation, error in (
        (local, ask, None),
        (local, spawn, MissingApiKey),
        (Caller(Kind.OWNER, "app", admin=True), spawn, None),
        (None, spawn, None),
    ):
        token = present.set(caller)
        try:
            if error is None:
                check_operation(operation)
            else:
                with pytest.raises(error, match="hive_install"):
                    check_operation(operation)
        finally:
            present.reset(token)


def test_what_is_not_named_is_closed() -> None:
    assert need_of("GET", "/v1/something-new") is Need.ADMIN
    assert need_of("POST", "/openai/v1/chat/completions") is Need.INFER
    source = "".join(file.read_text("utf-8") for file in QUEEN.glob("api_*.py"))
    source += (QUEEN / "app.py").read_text("utf-8")
    served = set(re.findall(r'\("(GET|POST|PATCH|DELETE)", f?"([^"]+)"', source))
    routes = {
        f"{m} {p.replace('{prefix}', '/v1').replace('{{', '{').replace('}}', '}')}"
        for m, p in served
    }
    assert len(routes) > 40
    closed = {route for route in routes if need_of(*route.split(" ")) is Need.ADMIN}
    for route in ("POST /v1/hives", "POST /v1/shutdown", "GET /v1/jobs", "GET /v1/events/stream",
                  "POST /v1/keys", "GET /v1/usage", "POST /v1/catalog/import"):  # fmt: skip
        assert route in closed
    open_routes = {route for route in NEEDS if NEEDS[route] is Need.OPEN}
    assert open_routes == {"GET /health"}
