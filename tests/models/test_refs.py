"""The grammar of model references."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.errors import InvalidRequest, ModelNotFound, RbeeError
from rbee.models.refs import FileRef, HubRef, PackageRef, parse


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("smollm2-135m", PackageRef("smollm2-135m")),
        ("pkg:echo", PackageRef("echo")),
        ("file:/models/a b.gguf", FileRef(Path("/models/a b.gguf"))),
        ("hf:org/repo", HubRef("org/repo")),
        ("hf:org/repo:Q4_K_M", HubRef("org/repo", "Q4_K_M")),
        ("hf:org/re.po@main::sub/f.gguf", HubRef("org/re.po", None, "main", "sub/f.gguf")),
    ],
)
def test_good(text, ref):
    assert parse(text) == ref


@pytest.mark.parametrize("text", ["pkg:echo", "file:/a/b.gguf", "hf:o/r:Q8_0", "hf:o/r@v1::f.gguf"])
def test_a_ref_prints_as_it_was_written(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkg:",
        "pkg:../etc",
        "pkg:Upper",
        "file:",
        "file:relative.gguf",
        "file:/a/../b",
        "file:/a\x00b",
        "hf:",
        "hf:repo",
        "hf:org/../repo",
        "hf:org/repo:",
        "hf:org/repo:Q4/K",
        "hf:org/repo@main",
        "hf:org/repo@main::",
        "hf:org/repo@main::/etc/passwd",
        "hf:org/repo@main::a/../../b",
        "http://example.org/x.gguf",
        "a b",
        "x;rm",
    ],
)
def test_bad(text):
    with pytest.raises(InvalidRequest):
        parse(text)


@pytest.mark.parametrize("text", ["/models/a.gguf", "./a.gguf", "../a.gguf", "~/a.gguf"])
def test_a_bare_path_is_told_to_say_file(text):
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert "file:/" in caught.value.action


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ModelNotFound) as caught:
        parse("smolm2-135m")
    assert "smollm2-135m" in caught.value.action


def test_aliases_of_the_settings_come_first_and_are_not_chains():
    aliases = {"mine": "file:/m.gguf", "smollm2-135m": "pkg:other", "loop": "mine"}
    assert parse("mine", aliases) == FileRef(Path("/m.gguf"))
    assert parse("smollm2-135m", aliases) == PackageRef("other")
    with pytest.raises(InvalidRequest, match="loop"):
        parse("loop", aliases)


@given(st.text(max_size=60))
def test_any_text_is_a_ref_or_a_named_error(text):
    for candidate in (text, f"hf:{text}", f"pkg:{text}", f"file:/{text}"):
        with contextlib.suppress(RbeeError):
            assert parse(str(parse(candidate))) == parse(candidate)
