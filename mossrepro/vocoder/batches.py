"""Batches of the trainings of flow decoder and vocoder, and what these need from a data module."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor


class FlowBatch(TypedDict):
    """Codes of `FlowDataModule` with their mel. B rows, T codes."""

    codes: Tensor  # (B, T) int64
    mel: Tensor  # (B, 80, 4 T) float32, log-mel of 24 kHz sound
    valid: Tensor  # (B, T) bool
    seed: Tensor  # () int64, of all randomness inside the step
    voice: NotRequired[Tensor]  # (B, 256) float32, speaker vectors; zeros: the voice that is spoken without a prompt
    share: NotRequired[Tensor]  # (3,) int64, `step_data.Share`: which rows of the step's batch these are


class VocoderBatch(TypedDict):
    """Pieces of sound of `VocoderDataModule`. B pieces, F mel frames."""

    mel: Tensor  # (B, 80, F) float32
    wave: Tensor  # (B, 480 F) float32 at 24 kHz
    pitch: Tensor  # (B, F) float32, Hz, 0 where unvoiced
    seed: Tensor  # () int64
    share: NotRequired[Tensor]  # (3,) int64


@runtime_checkable
class HasMelStatistics(Protocol):
    """A data module that knows the mean and the standard deviation of its training mels."""

    def mel_statistics(self) -> tuple[float, float]:
        """(mean, standard deviation)."""
