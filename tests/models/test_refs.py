"""The grammar of model references."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import InvalidRequest, ModelNotFound, RbeeError
from rbee.models.aliases import TABLE
from rbee.models.refs import FileRef, HubRef, PackageRef, parse


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("smollm2-135m", PackageRef("smollm2-135m")),
        ("pkg:echo", PackageRef("echo")),
        ("file:/models/a b.gguf", FileRef(Path("/models/a b.gguf"))),
        ("hf:org/repo", HubRef("org/repo")),
        ("hf:org/repo:Q4_K_M", HubRef("org/repo", "Q4_K_M")),
        ("hf:org/repo:UD-Q4_K_XL", HubRef("org/repo", "UD-Q4_K_XL")),
        ("hf:org/repo@v1.0", HubRef("org/repo", None, "v1.0")),
        ("hf:org/repo@refs/pr/1", HubRef("org/repo", None, "refs/pr/1")),
        ("llama-3.2-3b", HubRef("bartowski/Llama-3.2-3B-Instruct-GGUF")),
        ("hf:org/re.po@main::sub/f.gguf", HubRef("org/re.po", None, "main", "sub/f.gguf")),
    ],
)
def test_good(text, ref):
    assert parse(text) == ref


@pytest.mark.parametrize(
    "text",
    ["pkg:echo", "file:/a/b.gguf", "hf:o/r", "hf:o/r:Q8_0", "hf:o/r@v1", "hf:o/r@v1::f.gguf"],
)
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
        "hf:org/re--po",
        "hf:org/repo.git",
        "hf:-org/repo",
        "hf:org/repo.",
        "hf:org/repo/more",
        "hf:org/" + "r" * 97,
        "hf:org/repo@",
        "hf:org/repo@a..b",
        "hf:org/repo@a//b",
        "hf:org/repo@main:Q8_0",
        "hf:org/repo@main::",
        "hf:org/repo@main::a//b.gguf",
        "hf:org/repo@main::./b.gguf",
        "hf:org/repo@main::a\\b.gguf",
        "hf:org/repo@main::\u202ea.gguf",
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


def test_every_alias_is_a_reference_and_says_what_it_is():
    assert len(TABLE) >= 14
    for name, alias in TABLE.items():
        assert str(parse(name)) == alias.ref
        assert alias.about
        assert {type(parse(name))} <= {HubRef, PackageRef}


_SEGMENTS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9_])?", fullmatch=True)
_FILES = st.from_regex(r"[^/\\:\s.][^/\\:]{0,10}(/[a-z]{1,5})?\.gguf", fullmatch=True)


@settings(deadline=None, max_examples=80)
@given(_SEGMENTS, _SEGMENTS, st.sampled_from(["", ":Q4_K_M", "@v1", "@main::"]), _FILES)
def test_a_hub_reference_is_what_the_hub_takes_and_comes_back_as_it_was(org, name, rest, file):
    text = f"hf:{org}/{name}{rest}{file if rest.endswith('::') else ''}"
    try:
        ref = parse(text)
    except InvalidRequest:
        wrong = "--" in text or ".." in text or name.endswith(".git") or not text.isprintable()
        assert wrong, text
        return
    assert str(ref) == text
    validate_repo_id(ref.repo)


@given(st.text(max_size=60))
def test_any_text_is_a_ref_or_a_named_error(text):
    for candidate in (text, f"hf:{text}", f"pkg:{text}", f"file:/{text}"):
        with contextlib.suppress(RbeeError):
            assert parse(str(parse(candidate))) == parse(candidate)
