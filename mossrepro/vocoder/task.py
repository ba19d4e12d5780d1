"""Training of the two sound models: `FlowTask` (codes to mel) and `VocoderTask` (mel to wave).

An adversarial stage of the vocoder may follow: `adversarial_task`.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mossrepro.data.token_store import code_table
from mossrepro.training.step_data import Share
from mossrepro.training.task import Task
from mossrepro.utils.devices import send, without_autocast
from mossrepro.utils.distributed import mean_over_ranks
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.spectral import spectral_loss
from mossrepro.vocoder.batches import FlowBatch, HasMelStatistics, VocoderBatch
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Pitch, Vocoder, per_sample
from mossrepro.vocoder.losses import mel_loss, phase_loss, pitch_loss
from mossrepro.vocoder.pitch import follow_pulses
from mossrepro.vocoder.sampling import Context


def seeded(batch: FlowBatch | VocoderBatch) -> torch.Generator:
    """The CPU generator of everything random inside one training step, the same on all ranks.

    Draw for all rows of the step and take the rank's own (`Share`): weights then do not depend on the number of ranks.
    """
    return torch.Generator().manual_seed(int(batch["seed"]))


class SoundTask(Task):
    """What both trainings share: AdamW over all parameters, warm-up and cosine over `trainer.max_steps`, an average.

    With `ema` above 0 the exponential moving average of the weights is kept beside them (and in checkpoints). It is
    what is validated and exported.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, lr: float, warmup_steps: int, weight_decay: float, ema: float):
        super().__init__()
        if not 0 <= ema < 1:
            raise ConfigError(f"ema={ema}: give 0 (no average) or a decay below 1, such as 0.999")
        self.lr, self.warmup_steps, self.weight_decay, self.ema = lr, warmup_steps, weight_decay, ema
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False) if ema else None

    @property
    def final(self) -> nn.Module:
        """What the training is for: the average of the weights where there is one, else the model."""
        return self.model if self.average is None else self.average

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, then the average's."""
        super().optimizer_step(*args, **kwargs)
        self.update_average(self.global_step)

    @torch.no_grad()
    def update_average(self, steps: int) -> None:
        """Move the average by (1 - decay) of its distance to the weights, after `steps` steps and one more.

        The decay rises from 0.1 to `ema` with the steps, so that the first weights are soon forgotten.
        """
        if self.average is None:
            return
        decay = min(self.ema, (1 + steps) / (10 + steps))
        for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def configure_optimizers(self) -> Any:
        return self.optimiser_of(self.model)

    def optimiser_of(self, model: nn.Module) -> dict[str, Any]:
        """AdamW over a model's parameters, with its schedule."""
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=self.lr, betas=(0.8, 0.99), weight_decay=self.weight_decay, fused=True
        )
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """`model.safetensors` + `config.json`, for the model's `from_pretrained`."""
        save_module(self.final, self.final.config, folder)


class FlowTask(SoundTask):
    """Codes to mel by conditional flow matching.

    A batch: codes (B, T), mel (B, 80, 4T), valid (B, T) bool, seed. A data module with `mel_statistics()` gives the
    mean and the standard deviation that the model normalises with. One with clips of others adds voice (B, voice_dim).

    Args:
        codes: size of the codebook.
        dim: width of all blocks, a multiple of 64.
        code_layers: transformer layers at 12.5 Hz, where a layer costs a quarter; one more follows at 50 Hz.
        layers: transformer layers of the velocity estimator, at 50 Hz.
        chunk: codes that are decoded together.
        look_ahead: codes that are seen beyond a chunk.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine follows.
        weight_decay: of AdamW.
        codebook: token store whose codebook, projected at random to dim, initialises the code embedding; None: random.
        chunks: chunk sizes of which every step draws one, 0 being whole rows; empty: always `chunk`.
        look_back: codes before its chunk that a code may look at; 0: all.
        ema: decay of the average of the weights, which is what is exported; 0: the weights of the last step.
        cond_dropout: share of rows trained without condition for classifier-free guidance (0.2 in the paper's decoder).
        coarse_mel_weight: weight of the encoder's regression loss.
        voice_dim: numbers of a speaker vector, 256 with `data.init_args.others`; 0: as `init_from`, or one voice.
        prompt_share: share of the rows whose mel is shown at the beginning, up to half of the row, as that of a voice
            prompt is. 0: none; a decoder that `init_from` taught prompts keeps what it knows of them, out of practice.
        init_from: folder of a trained flow decoder of the same sizes, which is where training starts.
    """

    def __init__(
        self,
        codes: int,
        dim: int = 256,
        code_layers: int = 6,
        layers: int = 4,
        chunk: int = 5,
        look_ahead: int = 3,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
        cond_dropout: float = 0.2,
        coarse_mel_weight: float = 1.0,
        codebook: str | None = None,
        chunks: tuple[int, ...] = (),
        look_back: int = 0,
        ema: float = 0.0,
        voice_dim: int = 0,
        prompt_share: float = 0.0,
        init_from: str | None = None,
    ):
        start = None if init_from is None else FlowDecoder.from_pretrained(init_from)
        model = FlowDecoder(
            codes,
            dim=dim,
            blocks=code_layers,
            fine_blocks=1,
            flow_blocks=layers,
            chunk=chunk,
            look_ahead=look_ahead,
            look_back=look_back,
            voice_dim=voice_dim or (0 if start is None else start.config["voice_dim"]),
            prompts=prompt_share > 0 or (start is not None and start.config["prompts"]),
        )
        if start is not None:
            model.start_from(start, init_from)
        elif codebook is not None:
            model.encoder.start_from(code_table(codebook, "codebook", codes))
        super().__init__(model, lr, warmup_steps, weight_decay, ema)
        self.save_hyperparameters()
        if min(chunks, default=0) < 0:
            raise ConfigError(f"chunks={list(chunks)}: give numbers of codes, 0 for whole rows")
        if not 0 <= prompt_share <= 1:
            raise ConfigError(f"prompt_share={prompt_share}: give a share of the rows, from 0 to 1")
        self.cond_dropout, self.coarse_mel_weight, self.prompt_share = cond_dropout, coarse_mel_weight, prompt_share
        self.contexts = [Context(size, look_back) for size in chunks or (chunk,)]
        self.started = start is not None

    def on_fit_start(self) -> None:
        """Take the statistics of the training mels (a resumed run gets the same ones again).

        A trained decoder keeps its own: with others, all that it has learnt would be off by their difference.
        """
        data = self.trainer.datamodule
        if isinstance(data, HasMelStatistics) and not self.started:
            for model in {self.model, self.final}:
                model.set_statistics(*data.mel_statistics())

    def _losses(
        self, model: FlowDecoder, batch: FlowBatch, cond_dropout: float, contexts: list[Context], prompt_share: float
    ) -> tuple[Tensor, Tensor]:
        """One of the contexts is drawn for all rows, and for each how much of it is shown."""
        generator, mel, valid = seeded(batch), batch["mel"], batch["valid"]
        share = Share.of_batch(batch, len(mel))
        # one time per row, together they cover [0, 1) evenly: less noise in the gradient
        time = torch.remainder(torch.rand(1, generator=generator) + torch.arange(share.total) / share.total, 1.0)
        noise = torch.randn(share.total, *mel.shape[1:], generator=generator)
        keep = torch.rand(share.total, generator=generator) >= cond_dropout
        context = contexts[int(torch.randint(len(contexts), (1,), generator=generator))]
        time, noise, keep = (send(drawn[share.slice], mel.device) for drawn in (time, noise, keep))
        prompt = None
        if prompt_share > 0:
            drawn = torch.rand(2, share.total, generator=generator)
            most = valid.shape[1] // 2
            prompt = (drawn[0] < prompt_share) * (1 + drawn[1] * most).long().clamp(max=most)
            prompt = send(prompt[share.slice], mel.device)
        parts = model.losses(batch["codes"], mel, valid, time, noise, keep, context, batch.get("voice"), prompt)
        flow, coarse_mel = (mean_over_ranks(part, valid.sum()) for part in parts)
        return flow, coarse_mel

    def training_step(self, batch: FlowBatch, index: int) -> Tensor:
        flow, coarse_mel = self._losses(self.model, batch, self.cond_dropout, self.contexts, self.prompt_share)
        loss = flow + self.coarse_mel_weight * coarse_mel
        self.log_dict({"loss": loss, "flow": flow, "coarse_mel": coarse_mel}, prog_bar=True)
        return loss

    def validation_step(self, batch: FlowBatch, index: int) -> None:
        flow, coarse_mel = self._losses(self.final, batch, 0.0, [self.final.sampling.context], 0.0)
        self.log_dict({"val/flow": flow, "val/coarse_mel": coarse_mel}, batch_size=len(batch["mel"]), sync_dist=True)


class Generated(NamedTuple):
    """A vocoder's answer to a batch: wave (B, N), the voiced part of its spectrum (B, bins, K), pitch (B, F)."""

    wave: Tensor
    voiced: Tensor
    pitch: Pitch


class WaveTask(SoundTask):
    """What trainings of a vocoder share: how a batch is spoken, and its distances from the recordings.

    A batch: mel (B, 80, F), wave (B, F * 480), pitch (B, F) in Hz, seed.
    """

    model: Vocoder
    mel_weight: float
    phase_weight: float

    def generate(self, model: Vocoder, batch: VocoderBatch) -> Generated:
        """The sound of a batch, from the measured pitch and with the recordings' phases."""
        mel, f0 = batch["mel"], batch["pitch"]
        frames, share = mel.shape[-1] * model.upsample, Share.of_batch(batch, len(mel))
        noise = torch.randn(share.total, model.bins, frames, dtype=torch.complex64, generator=seeded(batch))
        noise = noise[share.slice]
        with without_autocast(mel.device):
            turns = follow_pulses(batch["wave"], per_sample(f0, model.hop), model.rate)
        voiced, noisy = model.parts(mel, f0, send(noise, mel.device), turns)
        pitch = model.pitch(mel)
        with without_autocast(mel.device):
            return Generated(model.spectrum.synthesise(voiced + noisy), voiced, pitch)

    def distances(self, made: Generated, batch: VocoderBatch) -> dict[str, Tensor]:
        """The losses of what was made, () each: spectral, mel, phase, pitch."""
        wave = batch["wave"]
        with without_autocast(wave.device):  # the losses need float32
            return {
                "spectral": spectral_loss(made.wave, wave),
                "mel": mel_loss(made.wave, wave),
                "phase": phase_loss(made.voiced, self.model.spectrum.analyse(wave)),
                "pitch": pitch_loss(*made.pitch, batch["pitch"]),
            }

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """The sum of losses, each times its weight."""
        weights = {"mel": self.mel_weight, "phase": self.phase_weight}
        return sum(weights.get(name, 1.0) * part for name, part in parts.items())

    def validation_step(self, batch: VocoderBatch, index: int) -> None:
        parts = self.distances(self.generate(self.final, batch), batch)
        named = {f"val/{name}": value for name, value in {"loss": self.weighted(parts), **parts}.items()}
        self.log_dict(named, batch_size=len(batch["mel"]), sync_dist=True)


class VocoderTask(WaveTask):
    """Mel to wave: spectral losses on the wave, pitch against the measured one.

    Args:
        dim: channels of the network.
        layers: ConvNeXt blocks at the mel's frame rate.
        fine_layers: ConvNeXt blocks after upsampling.
        upsample: factor of the upsampling.
        pitch_dim: channels of the pitch head.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        weight_decay: of AdamW.
        mel_weight: weight of the mel loss; that of the spectral loss is 1.
        phase_weight: weight of the phase loss of the voiced part.
        look_ahead: mel frames that the sound of a frame depends on beyond it (`Vocoder`); None: as far ahead as back.
        ema: decay of the average of the weights, which is what is exported; 0: the weights of the last step.
    """

    def __init__(
        self,
        dim: int = 256,
        layers: int = 5,
        fine_layers: int = 2,
        upsample: int = 2,
        pitch_dim: int = 96,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
        mel_weight: float = 1.0,
        phase_weight: float = 1.0,
        look_ahead: int | None = None,
        ema: float = 0.0,
    ):
        model = Vocoder(
            dim=dim,
            blocks=layers,
            fine_dim=dim,
            fine_blocks=fine_layers,
            upsample=upsample,
            pitch_dim=pitch_dim,
            look_ahead=look_ahead,
        )
        super().__init__(model, lr, warmup_steps, weight_decay, ema)
        self.save_hyperparameters()
        self.mel_weight, self.phase_weight = mel_weight, phase_weight

    def training_step(self, batch: VocoderBatch, index: int) -> Tensor:
        parts = self.distances(self.generate(self.model, batch), batch)
        loss = self.weighted(parts)
        self.log_dict({"loss": loss, **parts}, prog_bar=True)
        return loss
