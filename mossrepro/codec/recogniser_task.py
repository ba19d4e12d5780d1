"""Training of the recogniser: phones from codes alone, which measures what the codes still hold.

At 12.5 codes a second, hours of speech take seconds, and the recogniser can see every sentence many times. It learns
phones, not letters: English spelling would need far more sentences than there are, and is not a property of the sound.
The codec is frozen here.
"""

from pathlib import Path

import jiwer
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from mossrepro.codec.batches import CodecBatch, HasLexicon, RecogniserBatch
from mossrepro.codec.model import SpeechCodec
from mossrepro.codec.recogniser import LABELS, STEPS, ctc_labels, ctc_loss
from mossrepro.training.step_data import Share
from mossrepro.training.task import Task
from mossrepro.utils.devices import send
from mossrepro.utils.distributed import mean_over_ranks


def mean_ctc(log_probs: Tensor, lengths: Tensor, batch: RecogniserBatch | CodecBatch) -> Tensor:
    """CTC loss in nats a phone of all ranks, (): log_probs (B, 4 T, 40), lengths (B,) in codes, in main memory.

    The batch holds labels (B, S) and label_lengths (B,).
    """
    total = ctc_loss(log_probs, batch["labels"], lengths * STEPS, batch["label_lengths"])
    count = batch["label_lengths"].sum()
    return mean_over_ranks(total / count.clamp(min=1), count)


class RecogniserTask(Task):
    """CTC on phones (Graves et al. 2006), in nats per phone, through `SpeechCodec.recogniser`.

    A batch holds codes (B, T) with -1 past the end, labels (B, S), label_lengths (B,), seed (); for validation also
    text, a list of B strings. Phone errors need nothing else; words are looked up in the data module's `lexicon`, if it
    has one.

    Several ranks train what one trains, except for dropout inside the recogniser: every rank draws masks of its own.

    Args:
        codec: folder of a trained codec; this task saves a copy of it with a trained recogniser.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine to 2 % follows, which ends at the trainer's max_steps.
        frame_dropout: share of frames zeroed at random, so that a sound is also recognised from its neighbours.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        codec: str,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        frame_dropout: float = 0.08,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.codec = SpeechCodec.from_pretrained(codec)
        self.codec.requires_grad_(False)
        self.codec.recogniser.requires_grad_(True).train()  # `from_pretrained` gives evaluation mode, without dropout
        self.lr, self.warmup_steps, self.frame_dropout, self.weight_decay = (
            lr,
            warmup_steps,
            frame_dropout,
            weight_decay,
        )
        self.error_rates = nn.ModuleDict({name: MeanMetric() for name in ("per", "wer")})  # over clips and ranks

    def training_step(self, batch: RecogniserBatch, batch_index: int) -> Tensor:
        """One step of CTC on codes, some of their frames zeroed."""
        seed, codes, codebooks = int(batch["seed"]), batch["codes"], self.codec.config.codebooks
        share = Share.of_batch(batch, len(codes))
        generator = torch.manual_seed(seed)  # the global one: dropout must not differ after a resume
        hidden = torch.rand(share.total, codes.shape[1] // codebooks, generator=generator) < self.frame_dropout
        if share.first:  # all ranks drew the same so far
            torch.manual_seed(seed + share.first)
        lengths = (codes >= 0).sum(1) // codebooks  # in main memory, as `codes`
        log_probs, _ = self.codec.read(send(codes, self.device), send(hidden[share.slice], self.device))
        loss = mean_ctc(log_probs, lengths, batch)
        self.log("train/ctc", loss.detach(), prog_bar=True, batch_size=len(codes))
        return loss

    def validation_step(self, batch: RecogniserBatch, batch_index: int) -> None:
        """Count phone errors, and word errors where there is a lexicon."""
        log_probs, lengths = self.codec.read(send(batch["codes"], self.device))
        rows = [row[: int(n) * STEPS].cpu() for row, n in zip(log_probs, lengths, strict=True)]
        said = [row[:n].tolist() for row, n in zip(batch["labels"], batch["label_lengths"], strict=True)]
        self._count("per", [_spell(row) for row in said], [_spell(ctc_labels(row.argmax(-1))) for row in rows])
        data = self.trainer.datamodule
        lexicon = data.lexicon if isinstance(data, HasLexicon) else None
        if lexicon is not None:
            self._count("wer", batch["text"], [" ".join(lexicon.read(row.numpy())) for row in rows])

    def _count(self, name: str, said: list[str], heard: list[str]) -> None:
        """Add the error rate of one batch, weighted by its phones or words."""
        self.error_rates[name].update(jiwer.wer(said, heard), weight=sum(len(text.split()) for text in said))

    def on_validation_epoch_end(self) -> None:
        """Log the error rates over all validation clips."""
        for name, rate in self.error_rates.items():
            if rate.update_called:
                self.log(f"val/{name}", rate.compute(), prog_bar=True)
            rate.reset()

    def configure_optimizers(self) -> dict:
        """AdamW over the recogniser; the rate is a function of the step alone."""
        optimiser = torch.optim.AdamW(self.codec.recogniser.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """The whole codec with its trained recogniser."""
        self.codec.save_pretrained(folder)


def _spell(row: list[int]) -> str:
    return " ".join(LABELS[label] for label in row)
