"""Keys on disk, the buckets of their limits, and the brakes on wrong ones."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.access.brakes import ADDRESSES, FORGET, FREE, MOST, Brakes
from rbee.access.keys import KEYS_MAX, Keys, check_name, owner_token
from rbee.access.rates import Bucket
from rbee.errors import Conflict, InternalError, NotFound, ValidationFailed
from rbee.protocol.access import NewKey, Scope

NOW = 1_800_000_000.0


def test_a_key_is_found_by_itself_only_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "data" / "keys.json"
    keys = Keys(file)
    made = keys.create(NewKey(name="anna"), NOW)
    assert re.fullmatch(r"rbee_[A-Za-z0-9_-]{43}", made.key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made.key not in file.read_text()
    assert made.key[5:] not in file.read_text()
    again = Keys(file)
    found = again.find(made.key)
    assert found is not None
    assert (found.name, found.scopes, found.fingerprint) == (
        "anna", [Scope.INFER], made.info.fingerprint,
    )  # fmt: skip
    for wrong in ("", "rbee_", made.key[:-1], made.key + "x", made.key.upper(), found.digest):
        assert again.find(wrong) is None


def test_keys_are_renewed_and_withdrawn(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    first = keys.create(NewKey(name="anna", expires_in=100, tokens_per_minute=7), NOW)
    second = keys.rotate("anna", NOW + 50)
    assert keys.find(first.key) is None
    found = keys.find(second.key)
    assert found is not None
    assert (found.tokens_per_minute, found.expires_at) == (7, NOW + 150)
    with pytest.raises(Conflict, match="anna"):
        keys.create(NewKey(name="anna"), NOW)
    assert keys.revoke("anna").name == "anna"
    assert keys.find(second.key) is None
    assert Keys(tmp_path / "keys.json").infos(NOW) == []
    for call in (lambda: keys.revoke("anna"), lambda: keys.rotate("anna", NOW)):
        with pytest.raises(NotFound, match="anna"):
            call()


def test_an_expired_key_is_counted_out(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.create(NewKey(name="short", expires_in=10), NOW)
    keys.create(NewKey(name="long"), NOW)
    assert (keys.usable(NOW + 9.9), keys.usable(NOW + 10)) == (2, 1)
    assert [(k.name, k.expired) for k in keys.infos(NOW + 10)] == [("long", False), ("short", True)]


def test_there_is_an_end_to_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbee.access.keys.KEYS_MAX", 2)
    assert KEYS_MAX == 1000
    keys = Keys(tmp_path / "keys.json")
    for name in ("a", "b"):
        keys.create(NewKey(name=name), NOW)
    with pytest.raises(Conflict, match="2 may be"):
        keys.create(NewKey(name="c"), NOW)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": [{"name": "x"}]}', "\x00" * 50, '{"keys": 3}']
)
def test_a_file_that_cannot_be_read_is_never_taken_for_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(InternalError, match=str(file)):
        Keys(file)
    assert file.read_text() == text


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "a\n", "ä", "a" * 49, "a\x1b[2J"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValidationFailed):
        check_name(name)


def test_the_owners_token_is_one_until_others_could_read_it(tmp_path: Path) -> None:
    file = tmp_path / "state" / "owner.token"
    assert owner_token(file) is None
    first = owner_token(file, make=True)
    assert first is not None
    assert owner_token(file) == first == owner_token(file, make=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    assert owner_token(file) is None
    fresh = owner_token(file, make=True)
    assert fresh not in (None, first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("rbee-owner-short")
    assert owner_token(file) is None


@settings(deadline=None, max_examples=100)
@given(
    limit=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50)), max_size=60),
)
def test_a_bucket_never_gives_more_than_its_minute(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    now, taken = 1000.0, 0
    bucket = Bucket.full(limit, now)
    for later, tries in steps:
        now += later
        for _ in range(tries):
            if bucket.wait(now) > 0:
                break
            bucket.take(1, now)
            taken += 1
    assert taken <= limit + (now - 1000.0) * limit / 60 + 1e-6
    assert 0 <= bucket.left <= limit


@settings(deadline=None, max_examples=50)
@given(limit=st.integers(1, 10_000), amount=st.floats(0, 1e6))
def test_the_wait_is_as_long_as_is_said(limit: int, amount: float) -> None:
    bucket = Bucket.full(limit, 0.0)
    bucket.take(amount, 0.0)
    wait = bucket.wait(0.0)
    assert bucket.wait(wait + 1e-3) == pytest.approx(0, abs=1e-6)
    if wait > 1e-3:
        late = Bucket.full(limit, 0.0)
        late.take(amount, 0.0)
        assert late.wait(wait * 0.9) > 0


def test_wrong_keys_wait_longer_each_time_and_are_forgotten() -> None:
    brakes, now = Brakes(), 100.0
    for _ in range(FREE - 1):
        brakes.wrong("10.0.0.1", now)
    assert brakes.wait("10.0.0.1", now) == 0
    waits: list[float] = []
    for _ in range(20):
        brakes.wrong("10.0.0.1", now)
        waits.append(brakes.wait("10.0.0.1", now))
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == MOST
    assert brakes.wait("10.0.0.2", now) == 0
    assert brakes.wait("10.0.0.1", now + MOST) == 0
    assert brakes.wrong("10.0.0.1", now + FORGET + 1) == 1


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    brakes = Brakes()
    for number in range(ADDRESSES + 500):
        brakes.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", float(number))
    assert len(brakes) == ADDRESSES


def test_the_file_says_nothing_of_the_key(tmp_path: Path) -> None:
    made = Keys(tmp_path / "keys.json").create(NewKey(name="x"), NOW)
    (kept,) = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert set(kept) == {
        "name", "digest", "scopes", "created_at", "expires_at", "requests_per_minute",
        "tokens_per_minute",
    }  # fmt: skip
    assert kept["digest"][:6] == made.info.fingerprint
