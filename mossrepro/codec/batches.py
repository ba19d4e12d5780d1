"""Batches of the speech tokenizer's trainings, and what these need from a data module."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from mossrepro.codec.lexicon import Lexicon


class CodecBatch(TypedDict):
    """Clips of `CodecDataModule`. B clips, N samples, T codes."""

    wave: Tensor  # (B, N) float32 at 16 kHz, zeros past each clip's end
    lengths: Tensor  # (B,) int64, samples of each clip
    phones: Tensor  # (B, 4 T) int64, the phone spoken in every 20 ms; -100 is ignored
    seed: Tensor  # () int64, of all randomness inside the step


class RecogniserBatch(TypedDict):
    """Codes of `RecogniserDataModule` with the phones that were spoken. B clips, T codes, S phones."""

    codes: Tensor  # (B, T) int64, -1 past each clip's end
    labels: Tensor  # (B, S) int64, CTC labels, zeros past each clip's end
    label_lengths: Tensor  # (B,) int64, phones of each clip
    seed: Tensor  # () int64
    text: NotRequired[list[str]]  # B normalised transcripts, in validation


@runtime_checkable
class HasLexicon(Protocol):
    """A data module with the words of its corpus: word errors are measured as well as phone errors."""

    lexicon: Lexicon
