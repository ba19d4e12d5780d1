"""Codes to sound in one call."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mossrepro.utils.devices import CPU
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.packed_linear import pack_linear_layers
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.sampling import FRAMES, FlowSampling, Said
from mossrepro.vocoder.session import DecoderSession, as_codes

WHOLE = 500  # codes (40 s) up to which an utterance is decoded at once


class SpeechDecoder:
    """The assistant's voice: flow decoder, then vocoder. The same codes always give the same samples.

    voice: speaker vector (voice_dim,) of another voice, in which it speaks instead; None: its own.
    said: what that voice has just said, which is gone on from; left out where the flow decoder has not learnt that.

    Raises ConfigError when the two differ in mel bands, or for a vector that the flow decoder was not trained with;
    DataError for codes of `said` that are not in the codebook, or a mel that does not fit them.
    """

    def __init__(self, flow: FlowDecoder, vocoder: Vocoder, voice: np.ndarray | None = None, said: Said | None = None):
        if flow.bands != vocoder.config["bands"]:
            raise ConfigError(f"bands: the flow makes {flow.bands}, the vocoder reads {vocoder.config['bands']}")
        self.flow, self.vocoder = flow.eval(), vocoder.eval()
        if voice is not None and flow.voice is None:
            raise ConfigError(
                "this flow decoder speaks in one voice; docs/own-voice.md says how to train one for prompts"
            )
        if voice is not None and flow.config["voice_dim"] != len(voice):
            raise ConfigError(f"a voice of {len(voice)} numbers: the flow decoder's have {flow.config['voice_dim']}")
        self.voice = None if voice is None else torch.from_numpy(voice)[None].to(flow.mean)
        self.said = None
        if said is not None and flow.shown is not None:
            self.said = Said(as_codes(said.codes, flow.codes), said.mel.to(flow.mean.dtype))
            if said.mel.shape != (flow.bands, FRAMES * len(said.codes)):
                raise DataError(f"a prompt of {len(said.codes)} codes with a mel of {tuple(said.mel.shape)}")

    @classmethod
    def from_pretrained(cls, flow: str | Path, vocoder: str | Path, device: torch.device = CPU) -> "SpeechDecoder":
        """Load both from their folders onto a device, for inference only; CheckpointError when one does not fit."""
        parts = FlowDecoder.from_pretrained(flow), Vocoder.from_pretrained(vocoder)
        return cls(*(pack_linear_layers(part.to(device)) for part in parts))

    def in_voice(self, voice: np.ndarray | None, said: Said | None = None) -> "SpeechDecoder":
        """The same parts in another voice: a speaker vector, and what it said (`prompt.end_of`). Errors as above."""
        return SpeechDecoder(self.flow, self.vocoder, voice, said)

    @property
    def samples_per_code(self) -> int:
        """Samples that one code becomes: 1,920 at 24 kHz."""
        return FRAMES * self.vocoder.hop

    def speak(self, codes: Sequence[int]) -> tuple[np.ndarray, int]:
        """T codes -> (float32 samples (T * samples_per_code,) in [-1, 1], rate). DataError when there is no code."""
        return self.speak_all([codes])[0], self.vocoder.rate

    @torch.inference_mode()
    def speak_all(self, many: Sequence[Sequence[int]], batch: int = 16) -> list[np.ndarray]:
        """Several sequences of codes, decoded in batches -> the samples of each, as `speak` makes them.

        Those longer than 40 s are decoded in a session, chunk by chunk, so that memory is bounded.
        Raises DataError when one of them holds no code, or one that is not in the codebook.
        """
        book = [as_codes(codes, self.flow.codes) for codes in many]
        if not all(len(codes) for codes in book):
            raise DataError("no codes to speak")
        device, waves = self.flow.mean.device, {}
        order = sorted((i for i in range(len(book)) if len(book[i]) <= WHOLE), key=lambda i: len(book[i]))
        for at in range(0, len(order), batch):
            rows = [book[i] for i in order[at : at + batch]]
            lengths = torch.tensor([len(row) for row in rows], device=device)
            mels = self.flow(pad_sequence(rows, batch_first=True), lengths, voice=self.voice, said=self.said)
            for i, row, mel in zip(order[at:], rows, mels, strict=False):
                wave = self.vocoder(mel[None, :, : FRAMES * len(row)])[0]
                waves[i] = np.clip(wave.float().cpu().numpy(), -1.0, 1.0)
        for i in set(range(len(book))) - set(order):
            session = self.session()
            waves[i] = np.concatenate([session.push(book[i]), session.close()])
        return [waves[i] for i in range(len(many))]

    def session(self, sampling: FlowSampling | None = None) -> DecoderSession:
        """A session to which codes are pushed as they arrive. sampling: chunk size and the like; None: the model's.

        ConfigError for settings that cannot be.
        """
        return DecoderSession(self.flow, self.vocoder, sampling, self.voice, self.said)

    def stream(self, codes: Iterable[int], sampling: FlowSampling | None = None) -> Iterator[np.ndarray]:
        """Codes, as they arrive -> samples in parts, float32 in [-1, 1], each as soon as it can be made.

        Raises what `session` and `DecoderSession.push` raise.
        """
        session = self.session(sampling)
        for code in codes:
            if len(samples := session.push([code])):
                yield samples
        if len(samples := session.close()):
            yield samples
