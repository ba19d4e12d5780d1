"""`AdversarialTask`: a trained vocoder learns to sound like a recording to networks that learn to tell the two apart.

A fit of its own after that of `VocoderTask`, not a switch inside it: the discriminators meet a vocoder that already
speaks, each fit has a learning-rate schedule of its own, and the plain training stays as it is, bit for bit.

Generator and discriminators move in the same step, from the same sound:

    mel --> vocoder --> wave --+--> discriminators --> hinge loss ------------------> discriminators' gradients
                               `--> spectral + mel, adversarial, features --> Balancer --> vocoder's gradients

so that there is one backward pass over all parameters, as DDP wants it, and one forward pass of the discriminators over
the made sound instead of two.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mossrepro.training.task import clip_gradients
from mossrepro.utils.devices import without_autocast
from mossrepro.utils.errors import ConfigError
from mossrepro.vocoder.adversarial import (
    SHORTEST,
    Balancer,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from mossrepro.vocoder.batches import VocoderBatch
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.task import WaveTask


class AdversarialTask(WaveTask):
    """Adversarial training of a vocoder, by manual optimisation: two optimisers, each with its own clipping.

    `trainer.max_steps` and `global_step` count the steps of the vocoder. What is exported is the vocoder alone.

    Args:
        vocoder: folder of a trained vocoder, which is where training starts.
        adversarial: False: the same fit without discriminators, to see what they are worth.
        width: share of the discriminators' usual channels.
        adversarial_share: size of the adversarial loss's gradient at the wave, that of the spectral losses being 1.
        feature_share: the same of feature matching.
        clip: norm to which the gradients of the vocoder, and of the discriminators, are clipped.
        lr: peak learning rate of both.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        weight_decay: of AdamW.
        mel_weight: weight of the mel loss; that of the spectral loss is 1.
        phase_weight: weight of the phase loss of the voiced part.
        ema: decay of the average of the weights, which is what is exported; 0: the weights of the last step.
    """

    clipping_flag = "--model.init_args.clip"

    def __init__(
        self,
        vocoder: str | Path,
        adversarial: bool = True,
        width: float = 0.25,
        adversarial_share: float = 1.0,
        feature_share: float = 1.0,
        clip: float = 10.0,
        lr: float = 5e-4,
        warmup_steps: int = 20,
        weight_decay: float = 0.01,
        mel_weight: float = 1.0,
        phase_weight: float = 1.0,
        ema: float = 0.0,
    ):
        for name, value in {"width": width, "clip": clip}.items():
            if not value > 0:
                raise ConfigError(f"{name}={value}: give a number above 0")
        super().__init__(Vocoder.from_pretrained(vocoder).train(), lr, warmup_steps, weight_decay, ema)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.mel_weight, self.phase_weight, self.clip = mel_weight, phase_weight, clip
        self.discriminators = Discriminators(width) if adversarial else None
        self.balancer = Balancer({"adversarial": adversarial_share, "features": feature_share}) if adversarial else None

    @property
    def learners(self) -> list[nn.Module]:
        """What has an optimiser of its own, the vocoder first."""
        return [self.model] if self.discriminators is None else [self.model, self.discriminators]

    def configure_optimizers(self) -> list[dict[str, Any]]:
        return [self.optimiser_of(part) for part in self.learners]

    def training_step(self, batch: VocoderBatch, index: int) -> Tensor:
        """A step of all optimisers; the value is that of the losses together."""
        steps, optimisers = self.global_step, self.optimizers(use_pl_optimizer=False)
        optimisers = optimisers if isinstance(optimisers, list) else [optimisers]
        loss = self._plain_loss(batch) if self.discriminators is None else self._loss(batch)
        for optimiser in optimisers:
            optimiser.zero_grad()
        self.manual_backward(loss)
        norms = [clip_gradients(part.parameters(), self.clip) for part in self.learners]
        self.gradient_norm = torch.stack(norms)
        names = ("train/gradient_norm", "train/discriminator_gradient_norm")
        self.log_dict(dict(zip(names, norms, strict=False)))
        self._step(optimisers)
        self.update_average(steps)
        return loss.detach()

    def _step(self, optimisers: list[torch.optim.Optimizer]) -> None:
        """Step all optimisers and schedules.

        Lightning counts in `global_step` what goes through its wrappers: the vocoder's steps, and not the others.
        """
        wrapped, schedules = self.optimizers(), self.lr_schedulers()
        (wrapped[0] if isinstance(wrapped, list) else wrapped).step()
        for optimiser in optimisers[1:]:
            optimiser.step()
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            schedule.step()

    def _plain_loss(self, batch: VocoderBatch) -> Tensor:
        """That of `VocoderTask`."""
        parts = self.distances(self.generate(self.model, batch), batch)
        loss = self.weighted(parts)
        self.log_dict({"loss": loss, **parts}, prog_bar=True)
        return loss

    def _loss(self, batch: VocoderBatch) -> Tensor:
        """The sum of all losses, with the gradients that the vocoder and the discriminators are meant to have."""
        made = self.generate(self.model, batch)
        if made.wave.shape[-1] < SHORTEST:
            frames = -(-SHORTEST // self.model.hop)
            raise ConfigError(f"data.init_args.frames={batch['mel'].shape[-1]}: discriminators need {frames} or more")
        leaf = made.wave.detach().requires_grad_()  # gradients are balanced here, before they go on to the vocoder
        parts = self.distances(made._replace(wave=leaf), batch)
        recorded, judged = self.discriminators(batch["wave"]), self.discriminators(leaf)
        with without_autocast(leaf.device):
            others = {"adversarial": adversarial_loss(judged), "features": feature_loss(recorded, judged)}
            told = discriminator_loss(recorded, judged)
            wave = {name: parts.pop(name) for name in ("spectral", "mel")}
            gradient = self.balancer(self.weighted(wave), others, leaf)
            push = (made.wave * gradient).sum()  # its gradient is the balanced one; its value means nothing
            inside, value = self.weighted(parts), self.weighted(wave)
            loss = inside + told + push - push.detach() + value.detach() + sum(others.values()).detach()
        logged = {"loss": inside + value, **wave, **parts, **others, "discriminator": told}
        self.log_dict({name: number.detach() for name, number in logged.items()}, prog_bar=True)
        return loss
