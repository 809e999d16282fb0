"""Scenarios: errors, installation, settings."""

from __future__ import annotations

import json
import os

from pytest_bdd import given, parsers, scenarios, then, when

from tests.features.story import Story

scenarios("errors.feature")


@given("I am a user without rights")
def without_rights(story: Story) -> None:
    assert os.geteuid() == 0 or not os.access("/etc", os.W_OK)


@given(parsers.parse("a keeper with the key {key} for her"))
def keeper_with_key(story: Story, key: str) -> None:
    story.home.env |= {"RBEE_QUEEN_URL": story.home.url, "RBEE_API_KEY": key}


@when(parsers.parse("I make a key {name} and use it instead"))
def make_key(story: Story, name: str) -> None:
    own = {k: v for k, v in story.home.env.items() if k not in ("RBEE_QUEEN_URL", "RBEE_API_KEY")}
    kept, story.home.env = story.home.env, own
    made = story.home.rbee("key", "create", name)
    assert made.returncode == 0, made.stderr
    story.home.env = kept | {"RBEE_API_KEY": made.stdout.strip()}


@then(parsers.parse("stderr does not have {word}"))
def stderr_without(story: Story, word: str) -> None:
    assert word not in story.result.stderr


@then("the settings file is there with every default")
def settings_written(story: Story) -> None:
    text = (story.home.path / "config" / "config.toml").read_text("utf-8")
    for key in ("[queen]", "port = 8500", "linger = 300.0", "keep_alive = 300.0", "ctx = 4096"):
        assert key in text


@then("the paths are this user's")
def user_paths(story: Story) -> None:
    paths = json.loads(story.result.stdout)
    for name in ("config", "data", "state", "cache"):
        assert str(paths[name]).startswith(str(story.home.path))


@then(parsers.parse("{key} is {value} from {origin}"))
def setting(story: Story, key: str, value: str, origin: str) -> None:
    shown = json.loads(story.result.stdout)
    entry = shown["settings"][key] if "settings" in shown else shown[key]
    assert float(entry["value"]) == float(value) if value.isdigit() else entry["value"] == value
    where = str(entry["origin"])
    assert ("config.toml:" in where) if origin == "the file" else (where == origin)
