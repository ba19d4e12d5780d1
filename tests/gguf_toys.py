"""A toy text model as a GGUF file, for the tests of the language model and of hostile files."""

from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

from mossrepro.lm.tokenizer import mini_tokenizer


def mergeable(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The vocabulary that `write_gguf` writes needs one merge of two of its tokens."""
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    tokenizer = mini_tokenizer(["ab ab ab", *words], size)
    assert "ab" in tokenizer.get_vocab()
    return tokenizer


def write_gguf(
    path: Path, tokenizer: Tokenizer, changes: dict | None = None, extra: tuple[str, ...] = (), layers: int = 2
) -> None:
    """A toy Llama; `changes`: key of the metadata -> value, None to leave it out; `extra`: more tensors."""
    writer = gguf.GGUFWriter(path, "llama" if "general.architecture" not in (changes or {}) else "other")
    sizes = {"block_count": layers, "embedding_length": 16, "feed_forward_length": 24, "attention.head_count": 2}
    values = {f"llama.{key}": value for key, value in (sizes | {"attention.head_count_kv": 1}).items()}
    values |= {"llama.rope.freq_base": 1e4, "llama.attention.layer_norm_rms_epsilon": 1e-5} | (changes or {})
    for key, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None and key != "general.architecture":
            add[type(value)](key, value)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_array("tokenizer.ggml.tokens", words)
    writer.add_array("tokenizer.ggml.token_type", [3 if word.startswith("<") else 1 for word in words])
    writer.add_array("tokenizer.ggml.merges", ["a b"] if "ab" in words else [" ".join(words[30:32])])
    shapes = {"token_embd": (len(words), 16), "output_norm": (16,)} | dict.fromkeys(extra, (4,))
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": (16, 16) for name in ("attn_q", "attn_output")}
        shapes |= {f"blk.{i}.{name}": (8, 16) for name in ("attn_k", "attn_v")}
        shapes |= {f"blk.{i}.{name}": (16,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.ffn_gate": (24, 16), f"blk.{i}.ffn_up": (24, 16), f"blk.{i}.ffn_down": (16, 24)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
