"""Which of the models that are held an alias leads to."""

from __future__ import annotations

import pytest

from rbee.daemons.queen.openai_models import meant
from rbee.protocol.hives import ModelInfo


def model(name: str, ref: str) -> ModelInfo:
    return ModelInfo(id=name, ref=ref, path="/x", format="gguf", size=1)


HELD = [
    model("smollm2-135m", "pkg:smollm2-135m"),
    model("Org/Repo-GGUF:Q4_K_M@abc", "hf:Org/Repo-GGUF@abc::repo-q4.gguf"),
    model("mine", "file:/models/mine.gguf"),
]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("pkg:smollm2-135m", "smollm2-135m"),
        ("hf:Org/Repo-GGUF", "Org/Repo-GGUF:Q4_K_M@abc"),
        ("hf:org/repo-gguf:Q4_K_M", "Org/Repo-GGUF:Q4_K_M@abc"),
        ("hf:Org/Repo-GGUF@abc::repo-q4.gguf", "Org/Repo-GGUF:Q4_K_M@abc"),
        ("hf:Org/Repo-GGUF@def", None),
        ("hf:Org/Repo-GGUF:Q8_0", None),
        ("hf:Org/Other", None),
        ("file:/models/mine.gguf", "mine"),
        ("file:/models/other.gguf", None),
        ("no reference", None),
    ],
)
def test_an_alias_leads_to_what_it_means(target: str, name: str | None) -> None:
    found = meant(target, HELD)
    assert (found.id if found is not None else None) == name
