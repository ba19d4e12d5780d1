"""Names in files of version 0.1 that have changed since, so that such files can still be read."""

from typing import Any

LM_CONFIG = {"hidden": "ffn_dim", "extra": "extra_layers", "max_rows": "max_positions"}
CODEC_CONFIG = {
    "width": "dim",
    "feedforward": "ffn_dim",
    "books": "codebooks",
    "reader_width": "recogniser_dim",
    "reader_layers": "recogniser_layers",
    "reader_kernel": "recogniser_kernel",
    "reader_dropout": "recogniser_dropout",
}
VOCODER_CONFIG = {"width": "dim", "fine_width": "fine_dim", "pitch_width": "pitch_dim"}
CODEC_TENSORS = {"narrow.": "pre_quant_proj.", "quantiser.books.": "quantiser.codebooks."}
VOCODER_TENSORS = {"sketch.": "coarse_mel."}
PARTS = {"reader": "recogniser"}


def renamed(plain: dict[str, Any], table: dict[str, str]) -> dict[str, Any]:
    """A mapping with the old keys of `table` renamed; a key of `table` that ends in a dot is a prefix."""
    out = {}
    for key, value in plain.items():
        prefix = next((old for old in table if old.endswith(".") and key.startswith(old)), None)
        new = table.get(key, key) if prefix is None else table[prefix] + key.removeprefix(prefix)
        out[new] = value
    return out
