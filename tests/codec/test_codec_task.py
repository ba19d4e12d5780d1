"""Training: the loss falls, the quantiser starts on time, and a resumed run equals an uninterrupted one."""

import copy
import dataclasses

import lightning
import numpy as np
import pytest
import torch
from codec_toys import TINY, train

from mossrepro.codec import SpeechCodec
from mossrepro.codec.data import Example, collate
from mossrepro.codec.encoder import CausalEncoder
from mossrepro.codec.quantiser import Quantiser
from mossrepro.codec.task import CodecTask
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

ENDS = ("weight", "bias")
NOTES = {"a": 300.0, "e": 700.0, "o": 1500.0, "u": 3000.0}


class Notes(StepDataModule):
    """Letters as tones of 0.16 s, so that anything that trains at all learns to read them."""

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, torch.Tensor]:
        random = rng(self.seed, step)
        examples = []
        for _ in range(4):
            word = "".join(random.choice(list(NOTES), size=4, replace=False))
            phase = torch.arange(2560) / 16_000 * 2 * torch.pi
            wave = torch.cat([0.3 * (phase * NOTES[letter]).sin() for letter in word]).numpy()
            labels = [1 + list(NOTES).index(letter) for letter in word]
            examples.append(Example(wave, wave, np.repeat(labels, 8), labels))  # 0.16 s = 8 frames of 20 ms
        return collate(examples)

    def val_batches(self) -> list[dict[str, torch.Tensor]]:
        return [self.train_batch(10_000, 0, 1)]


def fit(steps: int, folder=None, ckpt=None, network=TINY, **arguments) -> tuple[CodecTask, lightning.Trainer]:
    torch.manual_seed(0)
    task = CodecTask(network, **({"lr": 3e-3, "warmup_steps": 2} | arguments))
    trainer = train(task, Notes(), steps, folder, ckpt, at=5)
    return task, trainer


@pytest.mark.parametrize("levels, ctc", [((), 0.0), ((4, 4), 0.0), ((), 0.5)])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, levels, ctc):
    network = dataclasses.replace(TINY, levels=levels, recogniser_dropout=0.2)
    whole, _ = fit(8, folder=tmp_path, network=network, ctc=ctc)
    torch.rand(7)  # as another process would have it
    resumed, _ = fit(8, ckpt=str(tmp_path / "last.ckpt"), network=network, ctc=ctc)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_recogniser_learns_beside_the_codec_only_where_it_is_asked_to():
    untrained = CodecTask(TINY)
    torch.manual_seed(0)
    start = {k: v.clone() for k, v in CodecTask(TINY).codec.recogniser.state_dict().items()}
    alone, trainer = fit(3)
    assert all(torch.equal(value, alone.codec.recogniser.state_dict()[name]) for name, value in start.items())
    assert "train/ctc" not in trainer.callback_metrics and not any(
        p.requires_grad for p in untrained.codec.recogniser.parameters()
    )
    both, trainer = fit(3, ctc=1.0)
    assert not torch.equal(start["head.weight"], both.codec.recogniser.head.weight)
    assert trainer.callback_metrics["train/ctc"] > 0
    assert not torch.equal(both.codec.phones.weight, alone.codec.phones.weight)  # its gradient reaches the encoder


def test_the_quantiser_starts_when_its_share_of_steps_is_over(tmp_path):
    early, _ = fit(3, quantise_after=1.0)
    assert not early.codec.quantiser.started
    late, trainer = fit(3, quantise_after=0.5)
    assert late.codec.quantiser.started
    metrics = trainer.callback_metrics
    assert 0 <= metrics["val/phone_accuracy"] <= 1 and 1 <= metrics["val/perplexity"] <= 16
    late.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()


def test_a_codebook_waits_for_as_many_latents_as_it_has_codes():
    """A batch has 32 latents and one ring is enough for all: it starts in the second step, without equal rows."""
    many = dataclasses.replace(TINY, codes=50)
    seen = []

    def note(task: CodecTask, *_: object) -> None:
        seen.append(bool(task.codec.quantiser.started))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CodecTask, "on_train_batch_end", note)
        task, _ = fit(2, quantise_after=0.0, network=many)
    assert seen == [False, True] and len(task.codec.quantiser.codebook.unique(dim=0)) == 50


def test_a_codebook_that_never_gets_its_latents_is_refused_before_it_is_exported():
    with pytest.raises(ConfigError, match="lacks 36 of the latents .*, in step 2 of 2: train longer"):
        fit(2, quantise_after=0.0, network=dataclasses.replace(TINY, codes=100))


def test_dead_codes_are_replaced_every_step_or_every_n_th(monkeypatch):
    asked = []
    update = Quantiser.update

    def noting(self, frames, codes, generator, replace=True):
        asked.append(replace)
        return update(self, frames, codes, generator, replace)

    monkeypatch.setattr(Quantiser, "update", noting)
    fit(6, quantise_after=0.0)
    assert asked == [True] * 6
    asked.clear()
    fit(6, quantise_after=0.0, replace_dead_every=3)
    assert asked == [False, False, True] * 2
    with pytest.raises(ConfigError, match="replace_dead_every=0"):
        CodecTask(TINY, replace_dead_every=0)


FINITE = dataclasses.replace(TINY, levels=(4, 2, 2))


@pytest.mark.parametrize("network", [TINY, FINITE])
def test_phones_can_be_told_from_codes(network):
    task, trainer = fit(120, lr=6e-3, network=network)
    assert trainer.callback_metrics["val/phone_accuracy"] > 0.6
    assert len(task.codec.encode(Notes().val_batches()[0]["wave"]).unique()) >= 4


@pytest.mark.parametrize("network", [TINY, FINITE])
def test_every_part_gets_a_gradient_through_the_codes(network):
    task, _ = fit(2, quantise_after=0.0, network=network)
    before = copy.deepcopy(task.codec.state_dict())
    task, _ = fit(3, quantise_after=0.0, network=network)
    same = [name for name, value in task.codec.named_parameters() if torch.equal(value, before[name])]
    assert same and all(name.startswith("recogniser.") for name in same)


def test_reconstruction_instead_of_recognition(tmp_path):
    task, trainer = fit(60, lr=6e-3, objective="mel", quantise_after=0.3)
    first, _ = fit(1, objective="mel", quantise_after=1.0)
    before = first.trainer.callback_metrics["val/mel"]
    assert trainer.callback_metrics["val/mel"] < 0.5 * before
    assert "val/phone_accuracy" not in trainer.callback_metrics and 1 <= trainer.callback_metrics["val/perplexity"]
    task.save_pretrained(tmp_path)
    wave = Notes().val_batches()[0]["wave"]
    assert torch.equal(SpeechCodec.from_pretrained(tmp_path).encode(wave), task.codec.eval().encode(wave))
    with pytest.raises(ConfigError, match="phones or mel"):
        CodecTask(TINY, objective="waves")


class Teacher(torch.nn.Module):
    """Hears three numbers in every 20 ms: the loudness of low, middle and high bands."""

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        bands = mel.unfold(2, 2, 2).mean(-1)  # (B, 80, 4 T)
        return torch.stack([bands[:, a : a + 20].mean(1) for a in (0, 20, 40)], -1)


def test_a_teacher_who_hears_the_future_can_be_distilled(tmp_path):
    apart = []
    for distil in (0.0, 1.0):
        task, _ = fit(60, lr=6e-3, teacher=Teacher, distil=1e-9 if distil == 0 else distil)
        batch = Notes().val_batches()[0]
        valid = torch.ones(4, 8, dtype=torch.bool)
        hidden = task._hidden(batch)[1]
        apart.append(float(task._apart(hidden, batch["wave"], valid)))
    assert apart[1] < 0.5 * apart[0]
    assert not any("teacher" in name.lower() for name in task.state_dict())
    assert not hasattr(fit(1, teacher=Teacher, distil=0.0)[0], "distil_proj")
    with pytest.raises(ConfigError, match="needs a teacher"):
        CodecTask(TINY, distil=0.5)


def test_distillation_resumes_bit_for_bit(tmp_path):
    whole, _ = fit(8, folder=tmp_path, teacher=Teacher, distil=0.5)
    resumed, _ = fit(8, ckpt=str(tmp_path / "last.ckpt"), teacher=Teacher, distil=0.5)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_has_no_layers_cannot_be_pretrained():
    with pytest.raises(ConfigError, match="front='mel'"):
        CodecTask(dataclasses.replace(TINY, front="mel"), pretrained=dict)


def test_pretrained_weights_are_fetched_once_and_learn_slower():
    calls = []

    def source() -> dict[str, torch.Tensor]:
        calls.append(1)
        shapes = {name: tuple(value.shape) for name, value in CausalEncoder(32, 2, 1, 0, 8, 4, 48).named_parameters()}
        layer = {f"layers.0.{name}.{end}": torch.zeros(32) for name in ("attention_norm", "mlp_norm") for end in ENDS}
        layer |= {f"layers.0.attention.{part}.bias": torch.zeros(32) for part in ("q", "k", "v", "out")}
        layer |= {f"layers.0.attention.{part}.weight": torch.eye(32) for part in ("q", "k", "v", "out")}
        layer |= {"layers.0.mlp_in.weight": torch.ones(48, 32), "layers.0.mlp_in.bias": torch.ones(48)}
        layer |= {"layers.0.mlp_out.weight": torch.ones(32, 48), "layers.0.mlp_out.bias": torch.ones(32)}
        convs = {f"{conv}.{end}": torch.ones(shapes[f"{conv}.{end}"]) for conv in ("conv1", "conv2") for end in ENDS}
        return layer | convs

    task = CodecTask(TINY, source, lr=1e-3, pretrained_lr_scale=0.5)
    task.trainer = lightning.Trainer(max_steps=10, logger=False, enable_checkpointing=False, accelerator="cpu")
    groups = task.configure_optimizers()["optimizer"].param_groups
    assert calls == [1]
    assert [group["initial_lr"] for group in groups] == pytest.approx([5e-4, 1e-3])
    assert sum(len(group["params"]) for group in groups) == len(list(task.parameters()))
