"""A tiny model that is made where it is needed: a Llama of random weights, in safetensors.

Owns the making of the folder. What it says means nothing; every token is as likely to it as chance
made it, and the same on every machine: the numbers come from a fixed seed. Needs the packages
numpy, safetensors and tokenizers, which come with every extra that runs such folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, INNER = 64, 2, 4, 128
CONTEXT = 1024
_SEED = 20
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path) -> Path:
    """The model in that folder, about 300 KB; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2, "head_dim": WIDTH // HEADS, "vocab_size": size,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 2,
        "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _weights(folder, size)
    return folder


def _weights(folder: Path, size: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    dice = np.random.default_rng(_SEED)

    def chance(*shape: int) -> Any:
        return (dice.standard_normal(shape) * (2.0 / shape[-1]) ** 0.5).astype(np.float32)

    def ones() -> Any:
        return np.ones(WIDTH, np.float32)

    few = WIDTH // HEADS * (HEADS // 2)
    tensors: dict[str, Any] = {
        "model.embed_tokens.weight": chance(size, WIDTH),
        "model.norm.weight": ones(),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.input_layernorm.weight": ones(),
            f"{at}.post_attention_layernorm.weight": ones(),
            f"{at}.self_attn.q_proj.weight": chance(WIDTH, WIDTH),
            f"{at}.self_attn.k_proj.weight": chance(few, WIDTH),
            f"{at}.self_attn.v_proj.weight": chance(few, WIDTH),
            f"{at}.self_attn.o_proj.weight": chance(WIDTH, WIDTH),
            f"{at}.mlp.gate_proj.weight": chance(INNER, WIDTH),
            f"{at}.mlp.up_proj.weight": chance(INNER, WIDTH),
            f"{at}.mlp.down_proj.weight": chance(WIDTH, INNER),
        }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _tokenizer(folder: Path) -> int:
    """Bytes, and the three names of a chat; how many tokens that makes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate((*_SPECIAL, *alphabet))}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT,
        "bos_token": _SPECIAL[0], "eos_token": _SPECIAL[2], "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=1))
    return len(vocabulary)
