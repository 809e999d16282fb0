"""Short names for models that are known to be good at their size.

Owns the table only. Every entry names a package or a public repository of the Hugging Face hub that
keeps the model in a single file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Alias(NamedTuple):
    """What a short name stands for, and one line for listings."""

    ref: str
    about: str


TABLE: Mapping[str, Alias] = {
    "smollm2-135m": Alias("pkg:smollm2-135m", "chat, 135 M: the smallest, for trying things out"),
    "smollm2-360m": Alias(
        "hf:HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "chat, 360 M: for a Raspberry Pi"
    ),
    "smollm2-1.7b": Alias(
        "hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "chat, 1.7 B: English, quick on any CPU"
    ),
    "qwen2.5-0.5b": Alias("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", "chat, 0.5 B: many languages"),
    "qwen2.5-1.5b": Alias("hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF", "chat, 1.5 B: many languages"),
    "qwen2.5-7b": Alias("hf:bartowski/Qwen2.5-7B-Instruct-GGUF", "chat, 7 B: for 8 GB cards"),
    "qwen3-0.6b": Alias("hf:Qwen/Qwen3-0.6B-GGUF", "chat and reasoning, 0.6 B"),
    "qwen3-4b": Alias("hf:Qwen/Qwen3-4B-GGUF", "chat and reasoning, 4 B: much for its size"),
    "qwen3-8b": Alias("hf:Qwen/Qwen3-8B-GGUF", "chat and reasoning, 8 B: for 8 GB cards"),
    "llama-3.2-1b": Alias("hf:bartowski/Llama-3.2-1B-Instruct-GGUF", "chat, 1 B: from Meta"),
    "llama-3.2-3b": Alias("hf:bartowski/Llama-3.2-3B-Instruct-GGUF", "chat, 3 B: from Meta"),
    "llama-3.1-8b": Alias(
        "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "chat, 8 B: from Meta, long context"
    ),
    "gemma-2-2b": Alias("hf:bartowski/gemma-2-2b-it-GGUF", "chat, 2 B: from Google"),
    "mistral-7b": Alias("hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF", "chat, 7 B: from Mistral"),
    "qwen2.5-coder-1.5b": Alias(
        "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        "code, 1.5 B: quick enough to complete as you type",
    ),
    "qwen2.5-coder-7b": Alias(
        "hf:bartowski/Qwen2.5-Coder-7B-Instruct-GGUF", "code, 7 B: for 8 GB cards"
    ),
    "nomic-embed-text": Alias(
        "hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0", "embeddings, 768 numbers, long texts"
    ),
    "bge-small-en": Alias(
        "hf:CompendiumLabs/bge-small-en-v1.5-gguf:Q8_0", "embeddings, 384 numbers, English"
    ),
}
"""`models.aliases` in the settings adds to them and comes before them."""
