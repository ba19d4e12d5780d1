"""What the trainings of the speech tokenizer read, and what they want of a data module."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from mossrepro.codec.lexicon import Lexicon


class CodecBatch(TypedDict):
    """Clips of `CodecDataModule`. B clips, N samples, T codes."""

    wave: Tensor  # (B, N) float32 at 16 kHz, zeros behind each clip's end
    lengths: Tensor  # (B,) int64, samples of each clip
    phones: Tensor  # (B, 4 T) int64, what is spoken in every 20 ms; -100 where nothing counts
    seed: Tensor  # () int64, of all randomness inside the step


class RecogniserBatch(TypedDict):
    """Codes of `RecogniserDataModule` with the phones that were spoken. B clips, T codes, S phones."""

    codes: Tensor  # (B, T) int64, -1 behind each clip's end
    labels: Tensor  # (B, S) int64, CTC labels, zeros behind each clip's end
    label_lengths: Tensor  # (B,) int64, phones of each clip
    seed: Tensor  # () int64
    text: NotRequired[list[str]]  # B normalised transcripts, in validation


@runtime_checkable
class HasLexicon(Protocol):
    """A data module that knows the words of its corpus: word errors are measured beside phone errors."""

    lexicon: Lexicon
