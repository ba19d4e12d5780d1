"""Codes to mel spectrogram by conditional flow matching (the decoder's front half in arXiv 2510.00499).

    codes (B, T), 12.5 a second -> embedding -> look-ahead -> blocks -> x4 -> blocks -> condition (B, 4T, D) -.
                                                                                                              v
    noise (B, 80, 4T) = x at time 0  ---  steps along the learnt velocity    v(x, time, condition)  ---> mel, time 1

A code says what is said, not how: the velocity field (arXiv 2210.02747, with the optimal-transport path) chooses one
pronunciation out of many, where a regression would return their blurred mean.

Every layer looks ahead only to the end of its own chunk plus the look-ahead, so that mel frames can be emitted while
codes still arrive (`session.py`); how far it looks back is a setting. Training with several chunk sizes gives one model
that decodes whole utterances and chunks (CosyVoice 2, arXiv 2412.10117).

A voice is a speaker vector, whose projection is added to the condition, as the x-vector in the paper's decoder is. The
projection has no bias, so that the zero vector adds nothing: it is the voice that is spoken without a prompt.

A vector is the mean of a voice. More of it is in what was just said: as in the paper's decoder, codes and mel of a
prompt may stand before the codes that are to be spoken (`Said`). Its mel is shown to the velocity through a projection
of its own; training shows the first part of some rows, and asks for the whole of them.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from mossrepro.utils.devices import send
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import load_module
from mossrepro.vocoder.flow_layers import HEAD, CodeEncoder, Estimator
from mossrepro.vocoder.sampling import FRAMES, Context, FlowSampling, Said, integrate
from mossrepro.vocoder.streaming import StreamMemory

LACKS_VOICES = "has one voice, so it takes no speaker vector (voice_dim is 0)"
LACKS_PROMPTS = "has not learnt to go on from a prompt's sound (prompts is false)"
SIGMA = 1e-6  # width of the path's end around the data, sigma_min


def cosine_time(t: Tensor) -> Tensor:
    """Time schedule 1 - cos(t pi / 2): small steps near the noise, where the direction is decided; 0 -> 0, 1 -> 1."""
    return 1 - torch.cos(t * math.pi / 2)


class FlowDecoder(nn.Module):
    """codes (B, T) int64 -> log-mel (B, bands, 4T) of `mossrepro.utils.audio.mel24`.

    Args:
        codes: size of the codebook.
        bands: mel bands.
        dim: width of all blocks, a multiple of 64.
        blocks: transformer layers at 12.5 Hz.
        fine_blocks: transformer layers at 50 Hz.
        flow_blocks: transformer layers of the velocity estimator, at 50 Hz.
        chunk: codes that are decoded together; 0: the whole utterance.
        look_ahead: codes that are seen beyond a chunk.
        mel_mean: mean of the training mels; the flow runs on (mel - mean) / std.
        mel_std: their standard deviation.
        steps: steps of the solver.
        guidance: strength of classifier-free guidance.
        temperature: scale of the starting noise.
        look_back: codes before its chunk that a code may look at; 0: all.
        solver: "euler" or "midpoint".
        voice_dim: numbers of a speaker vector; 0: there is one voice.
        prompts: whether it can go on from codes and mel of a voice prompt.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        codes: int,
        bands: int = 80,
        dim: int = 256,
        blocks: int = 6,
        fine_blocks: int = 1,
        flow_blocks: int = 4,
        chunk: int = 5,
        look_ahead: int = 3,
        mel_mean: float = -5.7,
        mel_std: float = 3.2,
        steps: int = 10,
        guidance: float = 0.7,
        temperature: float = 1.0,
        look_back: int = 0,
        solver: str = "euler",
        voice_dim: int = 0,
        prompts: bool = False,
    ):
        super().__init__()
        if dim % HEAD:
            raise ConfigError(f"dim: {dim} is not a multiple of {HEAD}")
        self._config = dict(
            codes=codes,
            bands=bands,
            dim=dim,
            blocks=blocks,
            fine_blocks=fine_blocks,
            flow_blocks=flow_blocks,
            chunk=chunk,
            look_ahead=look_ahead,
            steps=steps,
            guidance=guidance,
            temperature=temperature,
            look_back=look_back,
            solver=solver,
            voice_dim=voice_dim,
            prompts=prompts,
        )
        self.codes, self.bands, self.look_ahead = codes, bands, look_ahead
        self.sampling = FlowSampling(chunk, look_back, steps, solver, guidance, temperature).checked()
        self.encoder = CodeEncoder(codes, dim, blocks, fine_blocks, look_ahead)
        self.estimator = Estimator(bands, dim, flow_blocks)
        self.coarse_mel = nn.Linear(dim, bands)
        self.register_buffer("mean", torch.tensor(mel_mean))
        self.register_buffer("std", torch.tensor(mel_std))
        self.voice = nn.Linear(voice_dim, dim, bias=False) if voice_dim else None
        if self.voice is not None:
            nn.init.zeros_(self.voice.weight)
        self.shown = nn.Linear(bands + 1, dim, bias=False) if prompts else None
        if self.shown is not None:
            nn.init.zeros_(self.shown.weight)

    @property
    def config(self) -> dict[str, int | float]:
        """Arguments that rebuild this model, the statistics of its mels included."""
        return {**self._config, "mel_mean": self.mean.item(), "mel_std": self.std.item()}

    def set_statistics(self, mean: float, std: float) -> None:
        """Set the mean and standard deviation of the training mels."""
        self.mean.fill_(mean), self.std.fill_(std)

    def start_from(self, other: "FlowDecoder", name: str | Path) -> None:
        """Take the weights and mel statistics of a trained decoder of the same sizes.

        One of one voice has no `voice`, and one that heard no prompts no `shown`: these stay as they are.
        ConfigError names it (`name`) and the first size that differs.
        """
        added = ("voice_dim", "prompts")
        for key in ("codes", "bands", "dim", "blocks", "fine_blocks", "flow_blocks", "look_ahead", *added):
            theirs, ours = other.config[key], self.config[key]
            if theirs != ours and not (key in added and not theirs):
                raise ConfigError(f"{name}: its {key} is {theirs}, not {ours}; give the size that it was trained at")
        self.load_state_dict(self.state_dict() | other.state_dict())

    def condition(
        self,
        codes: Tensor,
        valid: Tensor,
        context: Context,
        voice: Tensor | None = None,
        memory: StreamMemory | None = None,
        following: Tensor | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """What the velocity is conditioned on, (B, 4T, dim): the codes (see `CodeEncoder`), a voice, a prompt's mel.

        voice (B or 1, voice_dim): speaker vectors of length 1, or zeros; None: zeros. shown (B or 1, bands + 1, 4T):
        of `show`; None: nothing is shown. ConfigError for a vector, or mel, where the decoder has not learnt to use it.
        """
        hidden = self.encoder(codes, valid, context, memory, following)
        for layer, given, lacks in ((self.voice, voice, LACKS_VOICES), (self.shown, shown, LACKS_PROMPTS)):
            if layer is None and given is not None:
                raise ConfigError(f"this flow decoder {lacks}")
        # zeros rather than nothing: processes that share gradients have one of every weight
        if self.voice is not None:
            size = self._config["voice_dim"]
            voice = hidden.new_zeros(len(codes), size) if voice is None else voice.to(hidden.dtype)
            hidden = hidden + self.voice(size**0.5 * voice)[:, None]  # numbers of about 1 each
        if self.shown is not None:
            shown = hidden.new_zeros(1, self.bands + 1, hidden.shape[1]) if shown is None else shown.to(hidden.dtype)
            hidden = hidden + self.shown(shown.transpose(1, 2))
        return hidden

    def show(self, mel: Tensor, codes: Tensor) -> Tensor:
        """mel (B, bands, L), the first `codes` (B,) codes of it shown -> what `condition` takes, (B, bands + 1, L).

        The normalised mel with a row of ones below, both 0 where it is not shown.
        """
        frames = FRAMES * send(codes, mel.device)[:, None]
        known = (torch.arange(mel.shape[-1], device=mel.device) < frames)[:, None]
        return F.pad((mel - self.mean) / self.std, (0, 0, 0, 1), value=1.0) * known

    def losses(
        self,
        codes: Tensor,
        mel: Tensor,
        valid: Tensor,
        time: Tensor,
        noise: Tensor,
        keep: Tensor,
        context: Context | None = None,
        voice: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Flow-matching loss and the regression loss that gives the encoder a head start (Grad-TTS, arXiv 2105.06337).

        Shapes: codes (B, T), mel (B, bands, 4T), valid (B, T) bool, time (B,) uniform in [0, 1), noise as mel,
        keep (B,) bool: False hides the condition (classifier-free guidance) -> two scalars.
        context: what codes may look at; None for the model's. voice: see `condition`. prompt (B,): at the beginning of
        each row the mel of so many codes is shown.
        On the path x_t = (1 - (1 - sigma) t) noise + t mel the velocity is mel - (1 - sigma) noise.
        """
        target = (mel - self.mean) / self.std
        context = self.sampling.context if context is None else context
        shown = None if prompt is None else self.show(mel, prompt)
        condition = self.condition(codes, valid, context, voice, shown=shown)
        frames = repeat(valid, "b t -> b (t frames)", frames=FRAMES)
        weight = frames[:, None].float() / (frames.sum() * self.bands).clamp_min(1)
        coarse_mel = self.coarse_mel(condition).float().transpose(1, 2)
        t = cosine_time(time)[:, None, None]
        x = (1 - (1 - SIGMA) * t) * noise + t * target
        velocity = self.estimator(x, t[:, 0, 0], condition * keep[:, None, None], frames, context).float()
        wanted = target - (1 - SIGMA) * noise
        flow = ((velocity - wanted).square() * weight).sum()
        return flow, ((coarse_mel - target).abs() * weight).sum()

    @torch.no_grad()
    def forward(
        self,
        codes: Tensor,
        lengths: Tensor | None = None,
        noise: Tensor | None = None,
        sampling: FlowSampling | None = None,
        voice: Tensor | None = None,
        said: Said | None = None,
    ) -> Tensor:
        """Decode: codes (B, T), lengths (B,) in codes -> mel (B, bands, 4T). sampling: None for the model's.

        voice (B or 1, voice_dim): see `condition`. said: what the voice has said before, P codes.

        The starting noise (B, bands, 4 (P + T)) is the same every time unless given, so decoding is deterministic.
        Codes may be in main memory, and are then checked: DataError for one outside the codebook. On another device
        that would wait for it.
        """
        sampling = self.sampling if sampling is None else sampling.checked()
        for row in [codes] if said is None else [codes, said.codes]:
            if row.device.type == "cpu" and row.numel() and not 0 <= int(row.min()) <= int(row.max()) < self.codes:
                raise DataError(f"codes {int(row.min())}...{int(row.max())} do not fit a codebook of {self.codes}")
        codes, before, shown = send(codes, self.mean.device), 0, None
        if said is not None and len(said.codes):
            said, before = said.on(codes.device), len(said.codes)
            mel = F.pad(said.mel, (0, FRAMES * codes.shape[1]))[None]
            shown = self.show(mel, torch.full((1,), before, device=codes.device))
            codes = torch.cat([said.codes.expand(len(codes), -1), codes], 1)
        batch, length = codes.shape
        places = torch.arange(length, device=codes.device)
        valid = places[None] < (lengths[:, None] + before if lengths is not None else length)
        valid = valid.expand(batch, length)
        condition = self.condition(codes, valid, sampling.context, voice, shown=shown)
        if noise is None:
            noise = send(fixed_noise(self.bands, FRAMES * length, flow_noise(sampling.seed)), codes.device)
        mel = self.denoise(condition, noise, repeat(valid, "b t -> b (t frames)", frames=FRAMES), sampling)
        return mel[..., FRAMES * before :]

    def denoise(
        self,
        condition: Tensor,
        noise: Tensor,
        valid: Tensor,
        sampling: FlowSampling,
        memories: list[StreamMemory] | None = None,
    ) -> Tensor:
        """Follow the velocity, guided, from noise to mel.

        Shapes: condition (B, L, dim), noise (bands, L) or (B, bands, L), valid (B, L) bool -> mel (B, bands, L).
        memories: of a stream, one for every evaluation of the velocity.
        """
        batch, guidance = len(condition), sampling.guidance
        both, frames = torch.cat([condition, torch.zeros_like(condition)]), valid.repeat(2, 1)

        def velocity(x: Tensor, now: Tensor, i: int) -> Tensor:
            memory = None if memories is None else memories[i]
            time = now.expand(2 * batch)
            v = self.estimator(x.repeat(2, 1, 1), time, both, frames, sampling.context, memory)
            guided, free = v.to(torch.promote_types(v.dtype, torch.float32)).chunk(2)
            return (1 + guidance) * guided - guidance * free

        clock = cosine_time(torch.linspace(0, 1, sampling.steps + 1, device=condition.device))
        noise = sampling.temperature * noise.to(self.mean.dtype).expand(batch, -1, -1)
        x = integrate(velocity, noise, clock, sampling.solver)
        return x * self.std + self.mean

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "FlowDecoder":
        """Load `config.json` and `model.safetensors` from a folder; CheckpointError when they do not fit."""
        return load_module(cls, folder, "flow")


def flow_noise(seed: int = 0) -> np.random.Generator:
    """The numbers that every decoding with a seed starts from, from frame 0 on."""
    return rng(seed, "flow noise")


def fixed_noise(bands: int, frames: int, random: np.random.Generator) -> Tensor:
    """The next frames of `random`, standard normal (bands, frames): a frame's numbers depend on its place alone."""
    return torch.from_numpy(random.standard_normal((frames, bands), dtype="float32")).T
