"""Training of the speech tokenizer: recognise characters from codes, keep frames near their codes."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jiwer
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from mossrepro.audio import whisper_mel
from mossrepro.codec.model import SAMPLES_PER_CODE, CodecConfig, SpeechCodec
from mossrepro.codec.recogniser import ALPHABET, BLANK, STEPS, ctc_text

Batch = dict[str, Tensor]
DELAY = 1.5  # CTC steps (20 ms) by which a causal encoder may answer late


def flat_start_loss(log_probs: Tensor, steps: Tensor, batch: Batch) -> Tensor:
    """Mean cross entropy of frames against letters spread evenly over the spoken part, blanks around it.

    Shapes: log_probs (B, S, 29), steps (B,) codes per clip; S = 4 per code, 320 samples each.
    """
    at = (torch.arange(log_probs.shape[1], device=log_probs.device) + 0.5)[None]  # (1, S)
    start, end = (batch["spans"].to(log_probs) * STEPS / SAMPLES_PER_CODE + DELAY).unsqueeze(-1).unbind(1)
    place = (at - start) / (end - start).clamp(min=1.0)  # 0 ... 1 inside the speech
    index = (place * batch["label_lengths"][:, None]).long().clamp(min=0)
    target = batch["labels"].gather(1, index.clamp(max=batch["labels"].shape[1] - 1))
    target = target.masked_fill((place < 0) | (place >= 1), BLANK)
    loss = -log_probs.gather(2, target[..., None]).squeeze(-1)
    inside = at < steps[:, None] * STEPS
    return loss[inside].mean()


class CodecTask(LightningModule):
    """loss = CTC (nats per character) + commitment_weight * |z - e|^2 (arXiv 2510.00499, tokenizer; 1711.00937, eq. 3).

    Three phases. *Flat start*: CTC alone first learns for hundreds of steps that every frame is blank; spreading the
    letters evenly over the spoken part and predicting them frame by frame gets the run past that in a few dozen.
    *Continuous*: CTC on the latents. *Quantised*: k-means places the codebook and every frame goes through it.
    A batch holds wave (B, N), lengths (B,) and spans (B, 2) in samples, labels (B, S), label_lengths (B,), seed ().

    Args:
        network: the sizes.
        pretrained: gives the encoder's start, for instance `mossrepro.asr.whisper_encoder_state`; None is random.
        lr: peak rate of the new parts; the pretrained parts get `pretrained_lr_scale` of it.
        warmup_steps: steps of linear warm-up; a cosine to 2 % follows, which ends at the trainer's max_steps.
        flat_steps: steps of the flat start; its weight falls from 1 to 0 while CTC's rises from 0 to 1.
        quantise_after: share of max_steps after which the quantiser is switched on.
        commitment_weight: beta of 1711.00937.
        weight_decay: AdamW's.
    """

    def __init__(
        self,
        network: CodecConfig,
        pretrained: Callable[[], dict[str, Tensor]] | None = None,
        lr: float = 6e-4,
        pretrained_lr_scale: float = 0.33,
        warmup_steps: int = 50,
        flat_steps: int = 80,
        quantise_after: float = 0.4,
        commitment_weight: float = 0.25,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {
                "network": asdict(network),
                "lr": lr,
                "pretrained_lr_scale": pretrained_lr_scale,
                "warmup_steps": warmup_steps,
                "flat_steps": flat_steps,
                "quantise_after": quantise_after,
                "commitment_weight": commitment_weight,
                "weight_decay": weight_decay,
            }
        )
        self.codec = SpeechCodec(network)
        self.is_pretrained = pretrained is not None
        if pretrained is not None:
            self.codec.encoder.load_whisper(pretrained())
        self._errors = {"wer": [0, 0], "cer": [0, 0]}  # (mistakes, reference words or characters)
        self._used = torch.zeros(network.codes)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; the codebook moves here too, since it learns by averages and not by gradient."""
        generator = torch.Generator().manual_seed(int(batch["seed"]))
        quantiser = self.codec.quantiser
        clips = len(batch["wave"])
        offsets = torch.randint(0, len(self.codec.encoder.positions), (clips,), generator=generator)
        latents, steps = self._latents(batch, offsets.to(self.device))
        valid = torch.arange(latents.shape[1], device=self.device)[None] < steps[:, None]
        frames, commitment = latents, latents.new_zeros(())
        quantiser.remember(latents.detach()[valid])
        if not quantiser.started and self.global_step >= self.hparams.quantise_after * self.trainer.max_steps:
            quantiser.start(generator)
        if quantiser.started:
            frames, codes, commitment = quantiser(latents, valid)
            replaced = quantiser.update(latents.detach()[valid], codes[valid], generator)
            self.log_dict({"train/commitment": commitment, "train/replaced": float(replaced)}, batch_size=clips)
        log_probs = self.codec.recogniser(frames, steps)
        ctc = self._ctc(log_probs, steps, batch)
        self.log("train/ctc", ctc, prog_bar=True, batch_size=clips)
        flat = max(0.0, 1.0 - self.global_step / max(self.hparams.flat_steps, 1))
        if flat > 0:
            ctc = (1 - flat) * ctc + flat * flat_start_loss(log_probs, steps, batch)
        return ctc + self.hparams.commitment_weight * commitment

    def _latents(self, batch: Batch, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents (B, T, C) and how many of them each clip has (B,)."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            mel = whisper_mel(F.pad(batch["wave"], (0, -batch["wave"].shape[1] % SAMPLES_PER_CODE)))
        steps = (batch["lengths"] + SAMPLES_PER_CODE - 1) // SAMPLES_PER_CODE
        return self.codec.latents(mel, offsets), steps

    @staticmethod
    def _ctc(log_probs: Tensor, steps: Tensor, batch: Batch) -> Tensor:
        """CTC loss per character of the reference, log_probs (B, 4 T, 29)."""
        total = F.ctc_loss(
            log_probs.transpose(0, 1),
            batch["labels"],
            steps * STEPS,
            batch["label_lengths"],
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
        return total / batch["label_lengths"].sum()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Greedy transcripts from the codes (from the latents as long as there is no codebook)."""
        latents, steps = self._latents(batch)
        frames = latents
        if self.codec.quantiser.started:
            frames, codes, _ = self.codec.quantiser(latents)
            valid = torch.arange(codes.shape[1], device=self.device)[None] < steps[:, None]
            self._used += torch.bincount(codes[valid], minlength=len(self._used)).cpu()
        best = self.codec.recogniser(frames, steps).argmax(-1)
        heard = [ctc_text(row[: int(n) * STEPS]) for row, n in zip(best, steps, strict=True)]
        said = [
            "".join(ALPHABET[label] for label in row[:n].tolist())
            for row, n in zip(batch["labels"], batch["label_lengths"], strict=True)
        ]
        for name, compare in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
            result = compare(said, heard)
            self._errors[name][0] += result.substitutions + result.deletions + result.insertions
            self._errors[name][1] += result.substitutions + result.deletions + result.hits

    def on_validation_epoch_end(self) -> None:
        """Log error rates over all validation clips and how the codebook is used."""
        for name, (wrong, total) in self._errors.items():
            self.log(f"valid/{name}", wrong / max(total, 1), prog_bar=name == "wer")
            self._errors[name] = [0, 0]
        if self._used.any():
            share = self._used / self._used.sum()
            perplexity = torch.special.entr(share).sum().exp()
            self.log_dict({"valid/perplexity": perplexity, "valid/codes_used": (self._used > 0).float().mean()})
            self._used.zero_()

    def configure_optimizers(self) -> dict:
        """AdamW in two groups; the rate is a function of the step alone."""
        encoder = self.codec.encoder
        old = [*encoder.conv1.parameters(), *encoder.conv2.parameters(), *encoder.layers.parameters()]
        chosen = {id(parameter) for parameter in old}
        new = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        scale = self.hparams.pretrained_lr_scale if self.is_pretrained else 1.0
        groups = [{"params": old, "lr": self.hparams.lr * scale}, {"params": new, "lr": self.hparams.lr}]
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=self.hparams.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Share of the peak rate at a step: linear warm-up, cosine to 2 %."""
        warm = min(1.0, (step + 1) / self.hparams.warmup_steps)
        return warm * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / self.trainer.max_steps))))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm ourselves: Lightning refuses to under mixed precision when the optimiser is a fused one.

        The reason, scaled float16 gradients, does not exist in bfloat16; the fused step is seven times as fast.
        """
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the codec's weights and config into `folder`; see `SpeechCodec.save_pretrained`."""
        self.codec.save_pretrained(folder)
