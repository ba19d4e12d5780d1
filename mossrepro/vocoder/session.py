"""Sound while codes still arrive: sessions that carry what flow decoder and vocoder remember from chunk to chunk.

    codes --> FlowSession: chunk of codes + look-ahead --> mel of the chunk --> VocoderSession --> samples

A chunk costs what the first one costs, however long the stream. Mel and samples are those of the whole utterance,
decoded at once with the same `FlowSampling`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.utils.devices import send
from mossrepro.utils.errors import DataError
from mossrepro.vocoder.flow import FlowDecoder, fixed_noise, flow_noise
from mossrepro.vocoder.generator import Vocoder, between_frames, count_turns, pulse_train, vocoder_noise
from mossrepro.vocoder.generator import fixed_noise as spectral_noise
from mossrepro.vocoder.sampling import FRAMES, FlowSampling, Said
from mossrepro.vocoder.streaming import StreamMemory


def as_codes(codes: Sequence[int] | np.ndarray | Tensor, book: int) -> Tensor:
    """Codes of one utterance as a tensor (T,) int64 in main memory.

    Raises DataError where they are not one row of whole numbers from 0 to book - 1.
    """
    try:
        row = torch.as_tensor(codes).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"codes must be one row of whole numbers ({str(error).splitlines()[0]})") from error
    row = row.to(torch.int64) if row.numel() == 0 else row
    if row.dim() != 1 or row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
        raise DataError(f"codes must be one row of whole numbers, not {row.dtype} of shape {tuple(row.shape)}")
    row = row.to(torch.int64)
    if len(row) and not 0 <= int(row.min()) <= int(row.max()) < book:
        raise DataError(f"codes {int(row.min())}...{int(row.max())} do not fit a codebook of {book}")
    return row


class FlowSession:
    """Codes to mel, a chunk at a time, each as soon as its codes and the look-ahead behind it are there."""

    def __init__(
        self,
        flow: FlowDecoder,
        sampling: FlowSampling | None = None,
        voice: Tensor | None = None,
        said: Said | None = None,
    ) -> None:
        """voice, said: see `FlowDecoder.forward`."""
        self.flow, self.voice = flow, voice
        self.sampling = (flow.sampling if sampling is None else sampling).streaming()
        self._said, self.before = said, 0 if said is None else len(said.codes)  # codes of a prompt
        self._waiting = torch.zeros(0, dtype=torch.int64) if said is None else said.codes.cpu()
        self._decoded = 0  # codes, those of the prompt too
        self._noise = flow_noise(self.sampling.seed)
        self._encoder = StreamMemory()
        self._estimator = [StreamMemory() for _ in range(self.sampling.evaluations)]

    @torch.inference_mode()
    def push(self, codes: Tensor, last: bool = False) -> list[Tensor]:
        """codes (n,) int64 -> mel (1, bands, 4 m) of every chunk that they complete, m its codes.

        last: nothing follows, so that the rest is decoded without its look-ahead.
        """
        self._waiting = torch.cat([self._waiting, codes])
        if last and self._decoded + len(self._waiting) <= self.before:
            self._waiting = self._waiting[:0]  # nothing follows the prompt
        chunk, ahead, mels = self.sampling.chunk, self.flow.look_ahead, []
        while len(self._waiting) >= chunk + ahead or last and len(self._waiting):
            row, self._waiting = self._waiting[:chunk], self._waiting[chunk:]
            mel = self._decode(row, self._waiting[:ahead])[..., FRAMES * max(0, self.before - self._decoded) :]
            self._decoded += len(row)
            if mel.shape[-1]:
                mels.append(mel)
        return mels

    def _shown(self, codes: int) -> Tensor | None:
        """What is shown in the next chunk, of so many codes, if any of it is the prompt's."""
        count = min(codes, self.before - self._decoded)
        if self._said is None or count <= 0:
            return None
        mel = self._said.mel[None, :, FRAMES * self._decoded : FRAMES * (self._decoded + count)]
        mel = send(F.pad(mel, (0, FRAMES * (codes - count))), self.flow.mean.device)
        return self.flow.show(mel, torch.full((1,), count, device=mel.device))

    def _decode(self, codes: Tensor, following: Tensor) -> Tensor:
        flow, device = self.flow, self.flow.mean.device
        codes, following = send(codes[None], device), send(following[None], device)
        noise = send(fixed_noise(flow.bands, FRAMES * codes.shape[1], self._noise), device)
        valid = torch.ones(1, FRAMES * codes.shape[1], dtype=torch.bool, device=device)
        context = self.sampling.context
        shown = self._shown(codes.shape[1])
        condition = flow.condition(codes, valid[:, ::FRAMES], context, self.voice, self._encoder, following, shown)
        return flow.denoise(condition, noise, valid, self.sampling, self._estimator)


class VocoderSession:
    """Mel to samples: a frame's, once the frames that they depend on are there."""

    def __init__(self, vocoder: Vocoder) -> None:
        self.vocoder = vocoder
        self._memory, self._noise = StreamMemory(), vocoder_noise()
        self._turns: Tensor | float = 0.0  # phase of the pulses so far
        self._carrier: Tensor | None = None  # frames of the source (1, bins, n) that wait for their filters
        self._filters: Tensor | None = None  # and filters (3, 1, bins, n) that wait for their source

    @torch.inference_mode()
    def push(self, mel: Tensor, last: bool = False) -> Tensor:
        """mel (1, bands, n) -> the next samples (1, m). last: nothing follows, so all that remain are given."""
        vocoder, memory = self.vocoder, self._memory
        memory.last = last
        carrier = self._source(vocoder.pitch(mel, memory).hertz())
        filters = torch.stack(vocoder.filter(mel, memory))
        if self._carrier is not None:
            carrier, filters = torch.cat([self._carrier, carrier], -1), torch.cat([self._filters, filters], -1)
        n = min(carrier.shape[-1], filters.shape[-1])
        self._carrier, self._filters = carrier[..., n:], filters[..., n:]
        noise = send(spectral_noise(vocoder.bins, n, self._noise), mel.device)
        voiced, noisy = vocoder.shaped(carrier[..., :n], noise, *filters[..., :n])
        return vocoder.spectrum.synthesise(voiced + noisy, memory)

    def _source(self, f0: Tensor) -> Tensor:
        """f0 (1, n) in Hz of the next frames -> the frames of the pulses' spectrum that they complete (1, bins, m)."""
        vocoder = self.vocoder
        line = between_frames(self._memory.join("f0", f0, 1, 1, 3), vocoder.hop)
        turns = self._turns + count_turns(line, vocoder.rate)
        if turns.shape[-1]:
            self._turns = torch.remainder(turns[:, -1:], 1.0)
        return vocoder.spectrum.analyse(pulse_train(line, vocoder.rate, turns), self._memory)


class DecoderSession:
    """Codes to sound of one utterance in parts, as `SpeechDecoder.session` opens it.

    session = decoder.session()
    for code in codes:
        samples = session.push([code])  # none, until a chunk is complete
    samples = session.close()  # the rest
    """

    def __init__(
        self,
        flow: FlowDecoder,
        vocoder: Vocoder,
        sampling: FlowSampling | None = None,
        voice: Tensor | None = None,
        said: Said | None = None,
    ) -> None:
        self._flow, self._vocoder = FlowSession(flow, sampling, voice, said), VocoderSession(vocoder)
        self.closed = False

    @property
    def first_packet(self) -> int:
        """Codes that are pushed before the first chunk is decoded."""
        chunk = self._flow.sampling.chunk
        return chunk - self._flow.before % chunk + self._flow.flow.look_ahead

    def push(self, codes: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
        """Codes, any number -> the samples that they complete, float32 (m,) in [-1, 1]; m may be 0.

        Raises DataError for a code that is not in the codebook (nothing is pushed then), and after `close`.
        """
        if self.closed:
            raise DataError("this session is closed; open another with `SpeechDecoder.session()`")
        return self._sound(as_codes(codes, self._flow.flow.codes), last=False)

    def close(self) -> np.ndarray:
        """The samples of all that was pushed and not given yet. Nothing can be pushed after that."""
        samples = self.push([]) if self.closed else self._sound(torch.zeros(0, dtype=torch.int64), last=True)
        self.closed = True
        return samples

    def _sound(self, codes: Tensor, last: bool) -> np.ndarray:
        waves = [self._vocoder.push(mel) for mel in self._flow.push(codes, last)]
        if last:
            nothing = self._flow.flow.mean.new_zeros(1, self._flow.flow.bands, 0)
            waves.append(self._vocoder.push(nothing, last=True))
        parts = [wave[0].float().cpu().numpy() for wave in waves]
        return np.clip(np.concatenate([np.zeros(0, "float32"), *parts]), -1.0, 1.0)
