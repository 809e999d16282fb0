"""Vectors of texts by all-MiniLM-L6-v2's original weights, as JSON on stdout.

Tokens are those of Hugging Face's tokenizers; the network is BERT as its paper and its code have it
(post-norm, exact GELU), then the mean of all tokens, of length 1, as the model's card says.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support.minilm import safetensors

_erf = np.vectorize(math.erf)


def main(folder: str, *texts: str) -> None:
    """One vector per text."""
    config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    weights = safetensors(Path(folder) / "model.safetensors")
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), heads, -1).transpose(1, 0, 2)

    def vector(text: str) -> list[float]:
        ids = tokenizer.encode(text).ids
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                split(dense(x, f"{at}.attention.self.{n}")) for n in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = dense(mixed.transpose(1, 0, 2).reshape(x.shape), f"{at}.attention.output.dense")
            x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
            inner = dense(x, f"{at}.intermediate.dense")
            inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
            x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        mean = x.mean(0)
        return (mean / np.linalg.norm(mean)).tolist()

    json.dump([vector(text) for text in texts], sys.stdout)


main(*sys.argv[1:])
