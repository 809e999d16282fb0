"""Who may come in, what is served to them, and what of the screens' words reaches a browser."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import BackendUnavailable
from rbee.web import pages
from rbee.web.gate import MOST_BROWSERS, Gate, is_own_name, is_own_page
from rbee.web.server import link_of
from rbee.web.tab import WIDEST, cells, tab_environment


def test_a_token_opens_once_and_only_the_newest_opens():
    gate = Gate()
    assert gate.redeem("") is None
    old, new = gate.new_token(), gate.new_token()
    assert gate.redeem(old) is None
    cookie = gate.redeem(new)
    assert cookie is not None
    assert gate.redeem(new) is None
    assert gate.knows(cookie)
    assert not gate.knows(new)
    assert not gate.knows(None)
    assert not Gate().knows(cookie)


def test_only_so_many_browsers_are_in_at_a_time():
    gate = Gate()
    cookies = [gate.redeem(gate.new_token()) for _ in range(MOST_BROWSERS + 1)]
    assert [gate.knows(cookie) for cookie in cookies] == [False] + [True] * MOST_BROWSERS


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_no_other_text_is_a_token_or_a_cookie(text: str):
    gate = Gate()
    gate.new_token()
    assert gate.redeem(text) is None
    assert not gate.knows(text)


@pytest.mark.parametrize(
    "host, own",
    [
        ("127.0.0.1:8600", True),
        ("localhost", True),
        ("[::1]:1", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8600", False),
        ("localhost.evil.example", False),
        ("127.0.0.1:8600@evil.example", False),
        ("127.0.0.1:", False),
        ("127.0.0.1:8600\n", False),
        ("0.0.0.0:8600", False),
        ("", False),
    ],
)
def test_only_names_of_this_machine_are_answered_to(host: str, own: bool):
    assert is_own_name(host) is own


def test_a_page_of_another_port_is_another_page():
    assert is_own_page("http://127.0.0.1:8600", "127.0.0.1:8600")
    for origin in (
        "http://127.0.0.1:3000",
        "http://localhost:8600",
        "https://127.0.0.1:8600",
        "null",
    ):
        assert not is_own_page(origin, "127.0.0.1:8600")
    assert not is_own_page(None, "127.0.0.1:8600")


@pytest.mark.parametrize(
    "words, link",
    [
        ({"type": "open_url", "url": "https://example.org/a", "new_tab": False}, True),
        ({"type": "open_url", "url": "javascript:alert(1)"}, False),
        ({"type": "open_url", "url": "file:///etc/passwd"}, False),
        ({"type": "open_url", "url": "https://"}, False),
        ({"type": "open_url", "url": "http://[::"}, False),
        ({"type": "exit"}, False),
        ({"type": "deliver_file_start", "key": "1"}, False),
        ([], False),
    ],
)
def test_browsers_are_sent_to_web_pages_only(words: object, link: bool):
    assert (link_of(json.dumps(words).encode()) is not None) is link
    assert link_of(b"\xff not json") is None


def test_sizes_are_kept_within_what_a_screen_can_be():
    assert cells("120", WIDEST, 80) == 120
    assert cells(10**9, WIDEST, 80) == WIDEST
    assert cells("-5", WIDEST, 80) == 2
    for wrong in (None, "wide", float("inf"), [3]):
        assert cells(wrong, WIDEST, 80) == 80


def test_a_tab_gets_the_settings_and_nothing_else_of_the_shell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("RBEE_TUI_ASCII", "true")
    monkeypatch.setenv("NO_COLOR", "1")
    env = tab_environment(100, 30)
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert (env["RBEE_TUI_ASCII"], env["NO_COLOR"]) == ("true", "1")
    assert (env["COLUMNS"], env["ROWS"]) == ("100", "30")


def test_pages_name_no_other_host_and_escape_what_they_are_told():
    shown = [pages.terminal("127.0.0.1:1", "/p/"), pages.opening("/p/"), pages.refusal("<b>")]
    assert "&lt;b&gt;" in shown[2]
    for page in (*shown, pages.assets()["page.css"].read_text("utf-8")):
        assert "//" not in page.replace("ws://127.0.0.1:1/p/ws", "")


@pytest.mark.parametrize("package", ["textual_serve", "aiohttp"])
def test_without_the_extra_the_command_names_it(package: str, monkeypatch: pytest.MonkeyPatch):
    known = pages.find_spec
    monkeypatch.setattr(pages, "find_spec", lambda name: None if name == package else known(name))
    with pytest.raises(BackendUnavailable) as caught:
        pages.assets()
    assert "pip install 'rbee[web]'" in caught.value.action
