"""Which file of a repository is meant, told by names alone."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import (
    BadGateway,
    InvalidRequest,
    ModelAmbiguous,
    ModelIncompatible,
    ModelNotFound,
    RbeeError,
)
from rbee.models import hub_files
from rbee.models.hub_files import HubFile, Listing, groups, id_of, pick, pinned, quant_of, ref_of
from rbee.models.refs import HubRef, parse

COMMIT = "c" * 40


def listing(*names: str, size: int = 1000) -> Listing:
    files = tuple(HubFile(name, size + index) for index, name in enumerate(names))
    return Listing("org/repo", COMMIT, files)


def picked(found: Listing, ref: str = "hf:org/repo") -> list[str]:
    return [file.name for file in pick(found, parse(ref)).files]


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3.2-3B-Instruct-f16.gguf", "F16"),
        ("nomic-embed-text-v1.5.Q8_0.gguf", "Q8_0"),
        ("model-FP16.GGUF", "F16"),
        ("gemma-2-2b-it-IQ4_XS.gguf", "IQ4_XS"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("BF16/big-BF16-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("Qwen2.5.gguf", None),
        ("model.gguf", None),
        ("q4_k_m-notes.gguf", None),
        ("Q8_0.gguf", "Q8_0"),
    ],
)
def test_the_quantisation_is_what_the_name_ends_in(name, quant):
    assert quant_of(name) == quant


def test_the_preferred_ones_come_in_order():
    names = ["m-f16.gguf", "m-q8_0.gguf", "m-Q5_0.gguf", "m-q4_0.gguf", "m-Q5_K_M.gguf"]
    names.append("m-q4_k_m.gguf")
    while names:
        assert picked(listing("m-Q2_K.gguf", "m-Q6_K.gguf", *names)) == [names.pop()]


def test_a_lonely_file_is_meant_whatever_it_is_called():
    assert picked(listing("README.md", "weights.gguf", "mmproj-f16.gguf", "m.imatrix.gguf")) == [
        "weights.gguf"
    ]


def test_what_only_a_name_can_choose_is_listed_with_sizes():
    found = listing("m-Q2_K.gguf", "m-Q4_1.gguf", size=3 << 30)
    with pytest.raises(ModelAmbiguous) as caught:
        pick(found, HubRef("org/repo"))
    assert "m-Q2_K.gguf (3.0 GiB), m-Q4_1.gguf (3.0 GiB)" in caught.value.message
    files = caught.value.details["files"]
    assert [file["ref"] for file in files] == ["hf:org/repo:Q2_K", "hf:org/repo:Q4_1"]
    assert picked(found, files[1]["ref"]) == ["m-Q4_1.gguf"]
    assert picked(found, "hf:org/repo:q4_1") == ["m-Q4_1.gguf"]


def test_two_models_of_one_quantisation_are_told_apart_by_their_files():
    found = listing("a-Q4_K_M.gguf", "b-Q4_K_M.gguf")
    with pytest.raises(ModelAmbiguous) as caught:
        pick(found, HubRef("org/repo", "Q4_K_M"))
    ref = caught.value.details["files"][1]["ref"]
    assert ref == f"hf:org/repo@{COMMIT}::b-Q4_K_M.gguf"
    assert picked(found, ref) == ["b-Q4_K_M.gguf"]


def test_what_is_not_there_is_answered_with_what_is():
    found = listing("m-Q2_K.gguf", "m-Q8_0.gguf", "model.safetensors")
    with pytest.raises(ModelNotFound, match="no Q5_K_M") as caught:
        pick(found, HubRef("org/repo", "Q5_K_M"))
    assert "Q2_K, Q8_0, safetensors" in caught.value.action
    with pytest.raises(ModelNotFound) as caught:
        pick(found, HubRef("org/repo", None, "main", "m-Q3_K.gguf"))
    assert "m-Q2_K.gguf" in caught.value.action
    with pytest.raises(InvalidRequest, match="no GGUF"):
        pick(found, HubRef("org/repo", None, "main", "model.safetensors"))


def test_a_split_model_is_one_choice_that_is_refused_by_name():
    parts = [f"q4/m-Q4_K_M-{number:05}-of-00003.gguf" for number in (2, 1, 3)]
    found = listing(*parts, "m-Q8_0.gguf")
    split = next(group for group in groups(found) if group.split)
    assert [file.name for file in split.files] == sorted(parts)
    assert picked(found) == ["m-Q8_0.gguf"]
    with pytest.raises(ModelIncompatible, match=r"Q4_K_M in 3 parts.*single GGUF"):
        pick(found, HubRef("org/repo", "Q4_K_M"))
    with pytest.raises(ModelIncompatible, match="3 parts"):
        pick(listing(*parts), HubRef("org/repo"))
    with pytest.raises(ModelIncompatible, match="3 parts"):
        pick(found, HubRef("org/repo", None, COMMIT, parts[2]))
    both = listing(*parts, "m-Q4_K_M.gguf")
    assert picked(both, "hf:org/repo:Q4_K_M") == ["m-Q4_K_M.gguf"]


def test_safetensors_come_with_what_they_need_and_never_with_pickles():
    needed = ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    other = ["pytorch_model.bin", "model.pt", "optimizer.bin", "README.md", "onnx/model.onnx"]
    found = listing(hub_files.INDEX, "consolidated.safetensors", *needed, *shards, *other)
    group = pick(found, HubRef("org/repo"))
    assert group.format == "safetensors"
    assert {file.name for file in group.files} == {hub_files.INDEX, *needed, *shards}
    assert (id_of(found, group), pinned(found, group)) == ("org/repo", f"hf:org/repo@{COMMIT}")
    with_gguf = listing("model.safetensors", "config.json", "m-Q4_0.gguf", "m-Q8_0.gguf")
    assert picked(with_gguf) == ["m-Q4_0.gguf"]
    assert picked(with_gguf, "hf:org/repo:safetensors") == ["model.safetensors", "config.json"]
    with pytest.raises(ModelIncompatible, match="neither GGUF nor safetensors"):
        pick(listing("pytorch_model.bin"), HubRef("org/repo"))


@pytest.mark.parametrize(
    "name",
    [
        "../m.gguf", "/etc/m.gguf", "a/../../m.gguf", "a\\m.gguf", "a//m.gguf", "./m.gguf",
        "a\nb.gguf", "\x1b[2Jm.gguf", "a\x00.gguf", "\u202em.gguf", ".hidden/m.gguf", ".m.gguf",
        "c:m.gguf", "a/b:c.gguf", "m" * 600 + ".gguf", "\ud800.gguf",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_spoils_the_repository(name):
    with pytest.raises(BadGateway):
        groups(listing("good-Q4_K_M.gguf", name))


_NAMES = st.lists(
    st.one_of(
        st.text(max_size=20).map(lambda text: text + ".gguf"),
        st.from_regex(
            r"[a-z]{1,3}[-.](q4_k_m|Q8_0|f16|q4_1)(-0000[12]-of-00002)?\.gguf", fullmatch=True
        ),
        st.sampled_from([hub_files.INDEX, hub_files.SINGLE, "config.json", "a/b.safetensors"]),
    ),
    max_size=8,
    unique=True,
)


@settings(deadline=None, max_examples=150)
@given(_NAMES, st.sampled_from([None, "Q4_K_M", "q8_0", "safetensors"]))
def test_every_choice_can_be_asked_for_and_nothing_crashes(names, quant):
    found = listing(*names)
    try:
        all_of_it = groups(found)
    except BadGateway:
        return
    for group in all_of_it:
        ref = parse(ref_of(found, group, all_of_it))
        assert isinstance(ref, HubRef)
        if group.split:
            with pytest.raises(ModelIncompatible):
                pick(found, ref)
        else:
            assert pick(found, ref) == group
            assert str(parse(pinned(found, group))) == pinned(found, group)
    with contextlib.suppress(RbeeError):
        assert not pick(found, HubRef("org/repo", quant)).split
