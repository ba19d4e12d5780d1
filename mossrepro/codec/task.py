"""Training of the speech tokenizer: predict phones from each code alone, keep frames near their codes.

The paper trains by speech recognition only (arXiv 2510.00499, section on the speech tokenizer): text, token by token,
from quantised frames. On two cores that is too slow: with a character CTC head the same encoder still made 20 %
character errors after ten hours of sound, for it must find the alignment and English spelling at once. So recognition
is split in two: here phones, frame by frame, at times from a forced alignment; then (`recogniser_task.py`) phone
sequences and words, from the codes alone.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from mossrepro.codec.batches import IGNORE, CodecBatch, padded_alike
from mossrepro.codec.encoder import MELS_PER_CODE
from mossrepro.codec.model import SAMPLES_PER_CODE, CodecConfig, SpeechCodec
from mossrepro.codec.quantiser import Starts
from mossrepro.codec.recogniser import STEPS
from mossrepro.codec.recogniser_task import mean_ctc
from mossrepro.training.step_data import Share
from mossrepro.training.task import Task
from mossrepro.utils.audio import whisper_mel
from mossrepro.utils.devices import select, send, without_autocast
from mossrepro.utils.distributed import mean_over_ranks, rows_of_all_ranks
from mossrepro.utils.errors import ConfigError


def start_in_time(quantiser: Starts, task: Task, share: float, random: torch.Generator) -> bool:
    """Start a quantiser once `share` of a task's steps is over, or as soon after that as it remembers enough latents.

    Returns whether it has started. ConfigError at the last step if it never does.
    """
    steps = task.trainer.max_steps
    if task.global_step < share * steps:
        return False
    if not quantiser.lacking:
        quantiser.start(random)
        return True
    if task.global_step + 1 >= steps:
        what = f"the codebook lacks {quantiser.lacking} of the latents that it starts from"
        raise ConfigError(f"{what}, in step {steps} of {steps}: train longer, or with larger batches or fewer codes")
    return False


class CodecTask(Task):
    """loss = cross entropy of phones (nats per 20 ms) + commitment_weight * mean over C of |z - e|^2.

    The commitment is that of arXiv 1711.00937, eq. 3, which has the sum over C.

    With objective="mel" the frames reconstruct their log-mel instead (squared error): the objective of an acoustic
    codec, at the same bit rate and with the same encoder.

    With distil > 0 the encoder also learns from a whole Whisper, which sees the future: + distil * (1 - cosine)
    between the teacher's `encode`, mel (B, 80, 8 T) -> (B, 4 T, W), a code late, and a linear map of the encoder's
    output. This is a deviation from the paper, which trains by recognition only; off by default. The teacher hears the
    clips before they were degraded, if the data module gives them (`clean`).

    With ctc > 0 the recogniser is trained at the same time, on the same frames: + ctc * its CTC loss in nats a phone.
    A code then also learns what helps its neighbours to be read.

    Two phases. *Continuous*: phones from the latents. *Quantised*: k-means places the codebook and every frame goes
    through it.
    A batch holds wave (B, N), lengths (B,) in samples, phones (B, 4 T) with -100 where ignored, seed (). Means are over
    the frames of all ranks, and the codebook learns from all of them.

    Args:
        network: shape of the codec.
        pretrained: import path of a function that gives the encoder's initial weights; None: random.
        lr: peak learning rate of the new parts.
        pretrained_lr_scale: learning rate of the pretrained parts, as a share of lr.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        quantise_after: share of max_steps after which the quantiser is switched on.
        commitment_weight: beta of arXiv 1711.00937.
        replace_dead_every: steps from one replacement of dead codes to the next; 100 in the paper's tokenizer.
        weight_decay: of AdamW.
        objective: "phones" (recognition, the paper's) or "mel" (reconstruction, to compare with).
        teacher: import path of a function that gives the teacher, e.g. `mossrepro.speech.whisper.whisper_teacher`.
        distil: weight of the distillation loss; 0: none.
        ctc: weight of the recogniser's loss; 0: none.
    """

    def __init__(
        self,
        network: CodecConfig,
        pretrained: Callable[[], dict[str, Tensor]] | None = None,
        lr: float = 1e-3,
        pretrained_lr_scale: float = 0.2,
        warmup_steps: int = 30,
        quantise_after: float = 0.4,
        commitment_weight: float = 0.25,
        replace_dead_every: int = 1,
        weight_decay: float = 0.01,
        objective: str = "phones",
        teacher: Callable[[], nn.Module] | None = None,
        distil: float = 0.0,
        ctc: float = 0.0,
    ) -> None:
        super().__init__()
        if objective not in ("phones", "mel"):
            raise ConfigError(f"objective={objective!r}: choose phones or mel")
        if replace_dead_every < 1:
            raise ConfigError(f"replace_dead_every={replace_dead_every}: a number of steps, 1 or more")
        if distil and teacher is None:
            raise ConfigError(f"distil={distil} needs a teacher, for instance mossrepro.speech.whisper.whisper_teacher")
        self.lr, self.pretrained_lr_scale, self.weight_decay = lr, pretrained_lr_scale, weight_decay
        self.warmup_steps, self.quantise_after = warmup_steps, quantise_after
        self.commitment_weight, self.replace_dead_every = commitment_weight, replace_dead_every
        self.codec = SpeechCodec(network)
        self.codec.recogniser.requires_grad_(ctc > 0)  # else trained later, by `recogniser_task.py`
        self.ctc = ctc
        self.mel_head = None
        if objective == "mel":
            self.codec.phones.requires_grad_(False)
            self.mel_head = nn.Sequential(
                nn.Linear(network.code_dim, network.dim),
                nn.GELU(),
                nn.Linear(network.dim, MELS_PER_CODE * network.mels),
            )
        self.is_pretrained = pretrained is not None
        if pretrained is not None:
            if network.front != "whisper":
                raise ConfigError(f"network.front={network.front!r} has nothing to be pretrained; leave pretrained out")
            self.codec.encoder.load_whisper(pretrained())
        self.distil = distil
        # In a list, so that its weights are neither trained nor part of a checkpoint.
        self._teacher = [teacher().requires_grad_(False).eval()] if distil else []
        if distil:
            wide = self._teach(torch.zeros(1, SAMPLES_PER_CODE)).shape[-1]
            self.distil_proj = nn.Linear(network.dim, wide)
        self.phone_accuracy = MeanMetric()  # over spoken frames, clips and ranks
        self._used = torch.zeros(network.codes)
        self._quantised = False  # as `quantiser.started`, which is on the device

    def on_train_start(self) -> None:
        """Note whether the codebook has been placed, in a training that is continued."""
        self._quantised = bool(self.codec.quantiser.started)

    def training_step(self, batch: CodecBatch, batch_index: int) -> Tensor:
        """One step; it also updates the codebook, which learns by moving averages and not by gradient."""
        generator = torch.Generator().manual_seed(int(batch["seed"]))
        quantiser, batch = self.codec.quantiser, padded_alike(batch)
        clips = len(batch["wave"])
        share = Share.of_batch(batch, clips)
        offsets = torch.randint(0, len(self.codec.encoder.positions), (share.total,), generator=generator)
        mel, hidden, valid = self._hidden(batch, send(offsets[share.slice], self.device))
        latents = self.codec.quantiser_input(hidden)
        # DDP wants a gradient, if only of zeros, for the parameters of a quantiser that does not take part yet.
        frames, commitment = latents, sum((p.sum() * 0 for p in quantiser.parameters()), latents.new_zeros(()))
        heard = rows_of_all_ranks(select(latents.detach(), valid).float())  # (N, C), the same on every rank
        quantiser.remember(heard)
        if not self._quantised:
            self._quantised = start_in_time(quantiser, self, self.quantise_after, generator)
        if self._quantised:
            frames, codes, commitment = quantiser(latents, valid)
            commitment = mean_over_ranks(commitment, valid.sum())
            replace = (batch_index + 1) % self.replace_dead_every == 0
            replaced = quantiser.update(heard, rows_of_all_ranks(select(codes, valid)), generator, replace)
            self.log_dict({"train/commitment": commitment, "train/replaced": replaced.float()}, batch_size=clips)
        name, loss = self._loss(frames, batch["phones"], mel, valid)
        self.log(f"train/{name}", loss.detach(), prog_bar=True, batch_size=clips)
        if self.distil:
            apart = self._apart(hidden, batch.get("clean", batch["wave"]), valid)
            self.log("train/distil", apart.detach(), batch_size=clips)
            loss = loss + self.distil * apart
        if self.ctc:
            torch.manual_seed(int(batch["seed"]) + share.first)  # dropout must not differ after a resume
            read = self._read(frames, valid, batch)
            self.log("train/ctc", read.detach(), batch_size=clips)
            loss = loss + self.ctc * read
        return loss + self.commitment_weight * commitment

    def _loss(self, frames: Tensor, phones: Tensor, mel: Tensor, valid: Tensor) -> tuple[str, Tensor]:
        """The objective's name and loss on frames (B, T, C), the mean over the valid frames of all ranks."""
        if self.mel_head is None:
            logits = self.codec.phone_logits(frames).float()
            loss = F.cross_entropy(logits.flatten(0, 1), phones.flatten(), ignore_index=IGNORE)
            return "phones", mean_over_ranks(loss, (phones != IGNORE).sum())
        wanted = rearrange(mel, "b mels (t frames) -> b t (frames mels)", frames=MELS_PER_CODE)
        loss = F.mse_loss(select(self.mel_head(frames).float(), valid), select(wanted, valid))
        return "mel", mean_over_ranks(loss, valid.sum())

    def _read(self, frames: Tensor, valid: Tensor, batch: CodecBatch) -> Tensor:
        """The recogniser's CTC loss on frames (B, T, C), nats a phone of all ranks."""
        lengths = valid.sum(1)
        return mean_ctc(self.codec.recogniser(frames, send(lengths, self.device)), lengths, batch)

    def _hidden(self, batch: CodecBatch, offsets: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mel (B, mels, 8 T), the encoder's output (B, T, D) and which codes are a clip's (B, T) bool.

        The last is where the batch's lengths are: in main memory, so that frames are selected without waiting.
        """
        with torch.no_grad(), without_autocast(self.device):
            mel = self.codec.features(batch["wave"])
        steps = (batch["lengths"] + SAMPLES_PER_CODE - 1) // SAMPLES_PER_CODE
        valid = torch.arange(mel.shape[2] // MELS_PER_CODE, device=steps.device)[None] < steps[:, None]
        return mel, self.codec.encoder(mel, offsets=offsets)[0], valid

    @torch.no_grad()
    def _teach(self, wave: Tensor) -> Tensor:
        """The teacher's features, the four 20 ms of a code side by side: (B, N) -> (B, T, 4 W)."""
        teacher = self._teacher[0].to(wave.device)
        mel = whisper_mel(F.pad(wave, (0, -wave.shape[1] % SAMPLES_PER_CODE)), causal=False)
        return rearrange(teacher.encode(mel), "b (t steps) w -> b t (steps w)", steps=STEPS)

    def _apart(self, hidden: Tensor, wave: Tensor, valid: Tensor) -> Tensor:
        """Mean of 1 - cosine between the mapped encoder output at code t and the teacher's features of code t - 1."""
        wanted = self._teach(wave)[:, :-1].unflatten(-1, (STEPS, -1))
        guessed = self.distil_proj(hidden[:, 1:]).float().unflatten(-1, (STEPS, -1))
        apart = select(1 - F.cosine_similarity(guessed, wanted, dim=-1), valid[:, 1:])
        return mean_over_ranks(apart.mean(), len(apart))

    def validation_step(self, batch: CodecBatch, batch_index: int) -> None:
        """Phone accuracy on spoken frames, from the code alone (from the latent while there is no codebook).

        With objective="mel" the loss itself.
        """
        mel, hidden, valid = self._hidden(batch)
        frames = latents = self.codec.quantiser_input(hidden)
        if self.codec.quantiser.started:
            frames, codes, _ = self.codec.quantiser(latents)
            self._used += torch.bincount(select(codes, valid), minlength=len(self._used)).cpu()
        if self.mel_head is not None:
            self.log("val/mel", self._loss(frames, batch["phones"], mel, valid)[1], batch_size=len(mel))
            return
        spoken = batch["phones"] > 0
        best = self.codec.phone_logits(frames).argmax(-1)
        self.phone_accuracy.update((best == batch["phones"])[spoken].float())

    def on_validation_epoch_end(self) -> None:
        """Log the phone accuracy over all validation clips and how the codebook is used."""
        if self.mel_head is None:
            self.log("val/phone_accuracy", self.phone_accuracy.compute(), prog_bar=True)
            self.phone_accuracy.reset()
        if self._used.any():
            share = self._used / self._used.sum()
            perplexity = torch.special.entr(share).sum().exp()
            self.log_dict({"val/perplexity": perplexity, "val/codes_used": (self._used > 0).float().mean()})
            self._used.zero_()

    def configure_optimizers(self) -> dict:
        """AdamW in two groups; the rate is a function of the step alone."""
        encoder = self.codec.encoder
        old = [*encoder.conv1.parameters(), *encoder.conv2.parameters(), *encoder.layers.parameters()]
        chosen = {id(parameter) for parameter in old}
        new = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        scale = self.pretrained_lr_scale if self.is_pretrained else 1.0
        groups = [{"params": old, "lr": self.lr * scale}, {"params": new, "lr": self.lr}]
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True)
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """Export the tokenizer: `SpeechCodec.from_pretrained(folder)` loads it."""
        self.codec.save_pretrained(folder)
