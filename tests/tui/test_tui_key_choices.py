"""Keys that a user chooses: what cannot be is named, what can be is understood."""

from __future__ import annotations

import pytest

from rbee.errors import SettingsError
from rbee.tui.app import RbeeApp
from rbee.tui.key_choices import effective
from rbee.tui.keymap import BY_ID
from rbee.tui.keys.vim import VIM


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"worker.stpo": "x"}, "did you mean 'worker.stop'"),
        ({"worker.stop": "ctlr+x"}, "there is no key 'ctlr+x'; did you mean 'ctrl+x'"),
        ({"worker.stop": "x,"}, "there is no key ''"),
        ({"worker.stop": "n"}, "'worker.new'"),
        ({"worker.stop": "1"}, "'screen.dashboard'"),
        ({"job.cancel": "R"}, "'job.retry'"),
        ({"list.up": "ctrl+p"}, "'app.palette'"),
    ],
)
def test_keys_that_cannot_be_are_named(keys: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RbeeApp.check_keys(keys)
    assert told in caught.value.message


def test_keys_that_can_be() -> None:
    chosen = {
        "worker.stop": "X, delete",
        "list.filter": "/,f9",
        "worker.new": "none",
        "job.cancel": "n",
        "view.jump": "alt+o",
    }
    assert RbeeApp.check_keys(chosen) == {
        "worker.stop": "X,delete",
        "list.filter": "slash,f9",
        "worker.new": "none",
        "job.cancel": "n",
        "view.jump": "alt+o",
    }
    vim = effective({"narration.last": "none"}, vim=True)
    assert vim["list.half_down"] == "shift+pagedown,ctrl+d"
    assert vim["narration.last"] == "none"
    assert set(VIM) <= set(BY_ID)
