"""Batches of the speech tokenizer's trainings, and what these need from a data module."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor
from torch.nn import functional as F

from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.codec.recogniser import STEPS
from mossrepro.utils.distributed import most_of_all_ranks

IGNORE = -100


class CodecBatch(TypedDict):
    """Clips of `CodecDataModule`. B clips, N samples, T codes. A clip of length 0 counts for nothing."""

    wave: Tensor  # (B, N) float32 at 16 kHz, zeros past each clip's end
    lengths: Tensor  # (B,) int64, samples of each clip
    phones: Tensor  # (B, 4 T) int64, the phone spoken in every 20 ms; -100 is ignored
    labels: Tensor  # (B, S) int64, CTC labels of the phones in order, zeros past each clip's end
    label_lengths: Tensor  # (B,) int64, phones of each clip
    seed: Tensor  # () int64, of all randomness inside the step
    share: NotRequired[Tensor]  # (3,) int64, `step_data.Share`: which clips of the step's batch these are
    clean: NotRequired[Tensor]  # (B, N) float32, the clips before they were degraded
    own: NotRequired[Tensor]  # (B,) float32, 1 for clips that a codec is adapted to (`adapt_data.py`)


class RecogniserBatch(TypedDict):
    """Codes of `RecogniserDataModule` with the phones that were spoken. B clips, T codes, S phones.

    A clip without phones counts for nothing.
    """

    codes: Tensor  # (B, T) int64, -1 past each clip's end
    labels: Tensor  # (B, S) int64, CTC labels, zeros past each clip's end
    label_lengths: Tensor  # (B,) int64, phones of each clip
    seed: Tensor  # () int64
    share: NotRequired[Tensor]  # (3,) int64
    text: NotRequired[list[str]]  # B normalised transcripts, in validation


def padded_alike(batch: CodecBatch) -> CodecBatch:
    """The batch as long as the longest of all ranks.

    What a network hears or a loss compares after a clip's end is then the same on one rank as on many.
    """
    wave, phones = batch["wave"], batch["phones"]
    samples = most_of_all_ranks(wave.shape[1], wave.device)
    frames = STEPS * -(-samples // SAMPLES_PER_CODE)
    longer = {name: F.pad(batch[name], (0, samples - wave.shape[1])) for name in ("wave", "clean") if name in batch}
    return {**batch, **longer, "phones": F.pad(phones, (0, frames - phones.shape[1]), value=IGNORE)}


@runtime_checkable
class HasLexicon(Protocol):
    """A data module with the words of its corpus: word errors are measured as well as phone errors."""

    lexicon: Lexicon
