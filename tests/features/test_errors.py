"""Scenarios: errors, installation, settings."""

from __future__ import annotations

import json
import os

from pytest_bdd import given, parsers, scenarios, then

from tests.features.story import Story

scenarios("errors.feature")


@given("I am a user without rights")
def without_rights(story: Story) -> None:
    assert os.geteuid() == 0 or not os.access("/etc", os.W_OK)


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
