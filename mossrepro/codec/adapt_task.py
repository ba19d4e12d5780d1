"""Adaptation of a trained tokenizer to somebody's recordings, with its codes kept as they are for everybody else.

A language model that was trained on a tokenizer's codes stays valid as long as a code means the same sounds. So the
codebook and the phones of its codes are frozen, and of the sounds that were understood before each keeps its code: only
what was misheard may change. Encoder and recogniser learn, from the recordings and from the tokenizer's own corpus.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from mossrepro.codec.batches import IGNORE, CodecBatch, padded_alike
from mossrepro.codec.encoder import MELS_PER_CODE
from mossrepro.codec.model import SAMPLES_PER_CODE, SpeechCodec
from mossrepro.codec.recogniser import STEPS
from mossrepro.codec.recogniser_task import mean_ctc
from mossrepro.training.step_data import Share
from mossrepro.training.task import Task
from mossrepro.utils.devices import select, send, without_autocast
from mossrepro.utils.distributed import mean_over_ranks


class AdaptTask(Task):
    """loss = phones (nats per 20 ms) + keep * old codes (nats a code) + ctc * recogniser (nats a phone) + commitment.

    A batch is that of `CodecTask`. The old codes are those of the tokenizer as it was, of the same clip before it was
    degraded, if the data module gives that (`clean`): a code z is told from the others by softmax(-|z - e|^2 / 2). They
    count where the old code's phones are right, or, in the clips of the corpus ("own" is 0), everywhere.

    Args:
        codec: folder of a trained tokenizer with its recogniser.
        lr: peak learning rate of the encoder.
        recogniser_lr: that of the recogniser.
        keep: weight of the old codes; 0: they may change.
        ctc: weight of the recogniser's loss.
        commitment_weight: beta of arXiv 1711.00937.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        codec: str,
        lr: float = 2e-4,
        recogniser_lr: float = 5e-4,
        keep: float = 1.0,
        ctc: float = 1.0,
        commitment_weight: float = 0.25,
        warmup_steps: int = 20,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.codec = SpeechCodec.from_pretrained(codec).train()
        self.codec.phones.requires_grad_(False)
        self._old = [SpeechCodec.from_pretrained(codec).requires_grad_(False)]  # in a list: no part of a checkpoint
        self.lr, self.recogniser_lr, self.keep, self.ctc = lr, recogniser_lr, keep, ctc
        self.commitment_weight, self.warmup_steps, self.weight_decay = commitment_weight, warmup_steps, weight_decay
        self.rates = nn.ModuleDict({name: MeanMetric() for name in ("phone_accuracy", "kept")})

    def training_step(self, batch: CodecBatch, batch_index: int) -> Tensor:
        """One step; the codebook does not move."""
        batch, clips = padded_alike(batch), len(batch["wave"])
        share = Share.of_batch(batch, clips)
        generator = torch.Generator().manual_seed(int(batch["seed"]))
        offsets = torch.randint(0, len(self.codec.encoder.positions), (share.total,), generator=generator)
        offsets = send(offsets[share.slice], self.device)
        latents, valid = self._latents(self.codec, batch, batch["wave"], offsets)
        frames, _, commitment = self.codec.quantiser(latents, valid)
        loss = F.cross_entropy(
            self.codec.phone_logits(frames).float().flatten(0, 1), batch["phones"].flatten(), ignore_index=IGNORE
        )
        parts = {"phones": mean_over_ranks(loss, (batch["phones"] != IGNORE).sum())}
        parts["commitment"] = mean_over_ranks(commitment, valid.sum())
        if self.keep:
            parts["keep"] = self._lost(latents.float(), send(valid, self.device), batch)
        torch.manual_seed(int(batch["seed"]) + share.first)  # of dropout: it must not differ after a resume
        lengths = valid.sum(1)
        log_probs = self.codec.recogniser(frames, send(lengths, self.device))
        parts["ctc"] = mean_ctc(log_probs, lengths, batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=clips)
        weights = {"phones": 1.0, "keep": self.keep, "ctc": self.ctc, "commitment": self.commitment_weight}
        return sum(weights[name] * value for name, value in parts.items())

    def _latents(
        self, codec: SpeechCodec, batch: CodecBatch, wave: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A codec's latents of a wave (B, T, C), and which codes are a clip's (B, T) bool, where the lengths are."""
        with torch.no_grad(), without_autocast(self.device):
            mel = codec.features(wave)
        steps = (batch["lengths"] + SAMPLES_PER_CODE - 1) // SAMPLES_PER_CODE
        valid = torch.arange(mel.shape[2] // MELS_PER_CODE, device=steps.device)[None] < steps[:, None]
        return codec.latents(mel, offsets), valid

    def _lost(self, latents: Tensor, valid: Tensor, batch: CodecBatch) -> Tensor:
        """Cross entropy of the old codes that are to be kept, given latents (B, T, C): nats a code of all ranks."""
        old, right = self._old_codes(batch)
        kept = valid & (right | (batch["own"] == 0)[:, None])
        book = self.codec.quantiser.codebook
        near = latents @ book.T - book.square().sum(-1) / 2  # (B, T, K): -|z - e|^2 / 2, but for what all codes share
        target = torch.where(kept, old, IGNORE).flatten()
        total = F.cross_entropy(near.flatten(0, 1), target, ignore_index=IGNORE, reduction="sum")
        return mean_over_ranks(total / kept.sum().clamp(min=1), kept.sum())

    @torch.no_grad()
    def _old_codes(self, batch: CodecBatch) -> tuple[Tensor, Tensor]:
        """What the tokenizer as it was makes of the clips: codes (B, T), and where three of their phones are right."""
        old = self._old[0].to(self.device, non_blocking=True)
        codes = old.quantiser(self._latents(old, batch, batch.get("clean", batch["wave"]))[0]).codes
        best = old.phone_logits(old.frames(codes)).argmax(-1)
        return codes, (best == batch["phones"]).unflatten(1, (-1, STEPS)).sum(-1) >= STEPS - 1

    def validation_step(self, batch: CodecBatch, batch_index: int) -> None:
        """Phone accuracy on spoken frames, and the share of codes that are as before."""
        latents, valid = self._latents(self.codec, batch, batch["wave"])
        frames, codes, _ = self.codec.quantiser(latents)
        spoken = batch["phones"] > 0
        best = self.codec.phone_logits(frames).argmax(-1)
        self.rates["phone_accuracy"].update((best == batch["phones"])[spoken].float())
        self.rates["kept"].update(select(codes == self._old_codes(batch)[0], valid).float())

    def on_validation_epoch_end(self) -> None:
        """Log both over all validation clips."""
        for name, rate in self.rates.items():
            self.log(f"val/{name}", rate.compute(), prog_bar=True)
            rate.reset()

    def configure_optimizers(self) -> dict:
        """AdamW in two groups; the rate is a function of the step alone."""
        read = list(self.codec.recogniser.parameters())
        hear = [*self.codec.encoder.parameters(), *self.codec.pre_quant_proj.parameters()]
        groups = [{"params": hear, "lr": self.lr}, {"params": read, "lr": self.recogniser_lr}]
        return self.scheduled(torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True), self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """The adapted tokenizer: `SpeechCodec.from_pretrained(folder)` loads it."""
        self.codec.save_pretrained(folder)
