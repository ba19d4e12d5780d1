"""Text tokenizers, and the special ids of the grid."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.gguf import GGUFFile

_CONTROL = 3  # GGUF's token type of special tokens
SPARE_SPEECH_ROWS = 128  # rows of the embedding after the codes: EOSP and 127 unused, as in the released checkpoint


@dataclass(frozen=True)
class SpecialIds:
    """Special ids of the grid; `eosp` and `speech_pad` are speech ids, the others text ids."""

    im_start: int
    im_end: int
    end: int
    sosp: int
    pad: int
    eosp: int
    speech_pad: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, codes: int) -> "SpecialIds":
        """Look them up in a tokenizer; `codes` is the codec's codebook size (EOSP follows the last code).

        ConfigError for a tokenizer without them.
        """
        names = (
            ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|object_ref_start|>", "<|reserved_pad|>")
            if tokenizer.token_to_id("<|object_ref_start|>") is not None
            else ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<empty_output>")
        )
        ids = [tokenizer.token_to_id(name) for name in names]
        if names[3] == "<|object_ref_start|>":
            ids[4] = 151667  # the released checkpoint's modality pad; Qwen3's own tokenizer calls this row <think>
        if None in ids:
            raise ConfigError(f"the tokenizer has no {names[ids.index(None)]}: only ChatML's special tokens are known")
        return cls(*ids, eosp=codes, speech_pad=codes // 32)


def open_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer.json, or that of a folder. CheckpointError when there is none or it is broken."""
    path = Path(path)
    path = path if path.suffix == ".json" else path / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; take the tokenizer.json of the text model")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path}: not a tokenizer ({error})") from error


def gguf_tokenizer(path: Path) -> Tokenizer:
    """Rebuild a byte-level BPE (SmolLM2's: digits split one by one) from the vocabulary inside a GGUF file."""
    data = GGUFFile(path).metadata
    tokens, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    merges = [tuple(line.split(" ", 1)) for line in data["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return tokenizer


def mini_tokenizer(sentences: list[str], size: int) -> Tokenizer:
    """Train a small BPE (size about 1,000) for the `tiny` backbone, with the same special tokens as SmolLM2.

    Words are split at spaces and digits stand alone. Merges are learnt on the sentences given, in any order.
    """
    from tokenizers import trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>", "<empty_output>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(sorted(set(sentences)), trainer)
    return tokenizer
