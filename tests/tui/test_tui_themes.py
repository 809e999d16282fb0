"""Themes: contrast of every bundled file, and errors that name what was meant."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from textual.color import Color
from textual.theme import Theme

from rbee.errors import SettingsError
from rbee.tui.themes import bundled_themes, parse_theme, user_themes

THEMES = {theme.name: theme for theme in bundled_themes()}
TEXT = ("foreground", "primary", "secondary", "accent", "success", "warning", "error")


def luminance(color: Color) -> float:
    def linear(value: int) -> float:
        part = value / 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(value) for value in color.rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2: 1…21."""
    high, low = sorted((luminance(Color.parse(c)) for c in (one, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def color(theme: Theme, role: str) -> str:
    value = theme.variables.get(role) or getattr(theme, role.replace("-", "_"))
    assert isinstance(value, str)
    return value


def test_the_five_are_there() -> None:
    assert {"honey-dark", "honey-light", "honey-contrast", "night-hive", "clover"} == set(THEMES)


GROUNDS = ("background", "surface", "panel")
"""Panels; the bars and inputs; the row under the cursor of a panel without the focus, toasts."""


@pytest.mark.parametrize("name", THEMES)
def test_text_is_readable_wherever_it_stands(name: str) -> None:
    """WCAG 2 level AA for text; AAA where the theme promises contrast."""
    theme = THEMES[name]
    needed = 7.0 if "contrast" in name else 4.5
    pairs = [*product((*TEXT, "muted", "footer-key-foreground"), GROUNDS), ("background", "accent")]
    pairs.append(("block-cursor-foreground", "block-cursor-background"))
    found = {pair: contrast(color(theme, pair[0]), color(theme, pair[1])) for pair in pairs}
    assert not {pair: ratio for pair, ratio in found.items() if ratio < needed}


GOOD = """
name = "mine"
dark = true
[colors]
primary = "#FFFFFF"
secondary = "#FFFFFF"
accent = "#FFFFFF"
success = "#FFFFFF"
warning = "#FFFFFF"
error = "#FFFFFF"
foreground = "#FFFFFF"
background = "#000000"
surface = "#000000"
panel = "#000000"
[variables]
muted = "#AAAAAA"
"""


def test_a_good_file() -> None:
    theme = parse_theme(GOOD, "mine.toml")
    assert theme.name == "mine"
    assert theme.variables == {"muted": "#AAAAAA"}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("primary =", "primry =", "colors.primry; did you mean colors.primary?"),
        ("muted =", "mutet =", "variables.mutet; did you mean variables.muted?"),
        ("dark =", "drak =", "unknown key drak; did you mean dark?"),
        ('primary = "#FFFFFF"', 'primary = "honey"', "colors.primary: 'honey' is not a colour"),
        ('primary = "#FFFFFF"', "primary = 7", "colors.primary: 7 is not a colour"),
        ('primary = "#FFFFFF"', "", "colors.primary is missing"),
        ('name = "mine"', "", "name is missing"),
        ("dark = true", 'dark = "yes"', "dark must be true or false"),
        ("[colors]", "[colors", "not valid TOML"),
    ],
)
def test_a_bad_file_says_what_is_wrong(before: str, after: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_theme(GOOD.replace(before, after, 1), "mine.toml")
    assert says in caught.value.message
    assert "mine.toml" in caught.value.message


def test_a_bad_file_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("nonsense")
    (tmp_path / "b.toml").write_text(GOOD)
    themes, errors = user_themes(tmp_path)
    assert [theme.name for theme in themes] == ["mine"]
    assert len(errors) == 1
    assert "a.toml" in errors[0].message
