"""Adversarial training: its parts, what a step moves and counts, resume, and that it can be turned off."""

import json
from pathlib import Path

import pytest
import torch
from codec_toys import Continues, Stop
from encodec.msstftd import MultiScaleSTFTDiscriminator
from lightning.pytorch import Trainer
from sound_toys import Hum, vocoder

from mossrepro.training.callbacks import AtomicCheckpointIO
from mossrepro.utils.errors import ConfigError
from mossrepro.vocoder import adversarial
from mossrepro.vocoder.adversarial import Balancer, Discriminators, PeriodDiscriminator, Verdict
from mossrepro.vocoder.adversarial_task import AdversarialTask
from mossrepro.vocoder.generator import Vocoder

CLIP = 0.5


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A vocoder that is not trained."""
    folder = tmp_path_factory.mktemp("vocoder")
    vocoder().save_pretrained(folder)
    return folder


def beside(start: Path, **changes) -> AdversarialTask:
    torch.manual_seed(0)
    return AdversarialTask(str(start), **{"width": 0.06, "lr": 2e-3, "warmup_steps": 2, "clip": CLIP, **changes})


def fit(task, steps: int, folder=None, at: int = 0, resume=None, **options) -> Trainer:
    """`at`: the step after which last.ckpt is saved in `folder`."""
    callbacks = [Stop(folder, at)] * bool(folder) + [Continues()] * bool(resume)
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        plugins=[AtomicCheckpointIO()], callbacks=callbacks, **options,
    )  # fmt: skip
    trainer.fit(task, datamodule=Hum(seed=3), ckpt_path=resume)
    return trainer


def test_a_period_is_a_column() -> None:
    """A change of one sample reaches one column of the features, and no other."""
    part, wave = PeriodDiscriminator(3, 0.06), torch.randn(1, 100)
    changed = wave.clone()
    changed[0, 31] += 1.0  # column 31 % 3
    (logits, features), (_, other) = part(wave), part(changed)
    assert logits.shape[:2] == (1, 1) and logits.shape[-1] == 3 and len(features) == 5
    for one, two in zip(features, other, strict=True):
        moved = (one != two).any(dim=(0, 1, 2))
        assert moved.tolist() == [False, True, False]


def test_width_is_a_share_of_the_usual_channels() -> None:
    counts = {w: sum(p.numel() for p in Discriminators(w).parameters()) for w in (0.25, 0.5)}
    assert 3.5 < counts[0.5] / counts[0.25] < 4.5
    whole = Discriminators(1.0)
    assert isinstance(whole.scales, MultiScaleSTFTDiscriminator) and whole.scales.discriminators[0].filters == 32
    assert [part.layers[-1].out_channels for part in whole.periods] == [1024] * 5


def test_losses_are_least_where_they_should_be() -> None:
    sure, fooled = torch.full((2, 1, 3), 2.0), torch.full((2, 1, 5), -2.0)
    right, wrong = Verdict([sure], [sure]), Verdict([-sure], [3 * sure])
    assert adversarial.discriminator_loss(right, wrong) == 0 and adversarial.discriminator_loss(wrong, right) == 6
    assert adversarial.adversarial_loss(wrong) == 2 and adversarial.adversarial_loss(right) == -2
    assert adversarial.feature_loss(right, right) == 0 and adversarial.feature_loss(right, wrong) == 2
    two = adversarial.discriminator_loss(Verdict([sure, sure], []), Verdict([-sure, fooled], []))
    assert two == 0  # discriminators of other shapes


def test_the_balance_is_that_of_the_shares_whatever_the_scale() -> None:
    torch.manual_seed(0)
    first, *others = torch.randn(3, 2, 8)
    balancer = Balancer({"a": 0.5, "b": 2.0}, decay=0.5)
    for scale in (1.0, 1e-4, 1e3):  # of b alone
        output = torch.zeros(2, 8, requires_grad=True)
        losses = {"a": (output * others[0]).sum(), "b": (output * others[1]).sum() * scale}
        fresh = Balancer({"a": 0.5, "b": 2.0})
        gradient = fresh((output * first).sum(), losses, output)
        unit = [g / g.norm() for g in others]
        torch.testing.assert_close(gradient, first + first.norm() * (0.5 * unit[0] + 2.0 * unit[1]))
        balancer((output * first).sum(), losses, output)
    norm = others[1].norm()  # means with weights 1/2, 1/4, 1/8 of the last, the last but one, ...
    expected = (norm * 1e3 / 2 + norm * 1e-4 / 4 + norm / 8) / (1 - 0.5**3)
    torch.testing.assert_close(balancer.norms[2] / (1 - 0.5**3), expected)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}])
def test_a_step_moves_and_counts_what_it_should(start, options) -> None:
    """Six steps are six of each optimiser and of each schedule; both gradients are clipped."""
    task = beside(start, ema=0.9)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = fit(task, 6, **options)
    assert trainer.global_step == task.global_step == 6 and task.balancer.steps == 6
    taken = [optimiser.state[optimiser.param_groups[0]["params"][0]]["step"] for optimiser in trainer.optimizers]
    assert taken == [6, 6]
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [6, 6]
    assert task.gradient_norm.shape == (2,) and task.gradient_norm.isfinite().all()
    left = [sum(p.grad.square().sum() for p in part.parameters()).sqrt() for part in task.learners]
    assert all(now <= min(CLIP, norm) + 1e-4 for now, norm in zip(left, task.gradient_norm, strict=True))
    still = [name for name, value in task.state_dict().items() if torch.equal(value, before[name])]
    assert all("window" in name for name in still), still
    found = trainer.callback_metrics
    assert {"adversarial", "features", "discriminator", "train/discriminator_gradient_norm"} <= found.keys()


def test_discriminators_learn_from_their_loss_alone(start) -> None:
    """And the vocoder from the balanced gradient and what acts inside it: each is what autograd says of it."""
    task, batch = beside(start, adversarial_share=0.7, feature_share=0.3), Hum(seed=3).seeded_batch(0, 0, 1)
    task.log_dict = lambda *_, **__: None
    task._loss(batch).backward()
    theirs = [p.grad.clone() for p in task.discriminators.parameters()]
    ours = [p.grad.clone() for p in task.model.parameters()]
    task.zero_grad()
    made = task.generate(task.model, batch)
    fixed = made.wave.detach()
    adversarial.discriminator_loss(task.discriminators(batch["wave"]), task.discriminators(fixed)).backward()
    torch.testing.assert_close(theirs, [p.grad for p in task.discriminators.parameters()])
    parts = task.distances(made, batch)
    recorded, judged = task.discriminators(batch["wave"]), task.discriminators(made.wave)
    told = adversarial.adversarial_loss(judged), adversarial.feature_loss(recorded, judged)
    size = lambda loss: torch.autograd.grad(loss, made.wave, retain_graph=True)[0].norm()  # noqa: E731
    near = size(parts["spectral"] + parts["mel"])
    total = task.weighted(parts) + near * (0.7 / size(told[0]) * told[0] + 0.3 / size(told[1]) * told[1])
    expected = torch.autograd.grad(total, list(task.model.parameters()))
    torch.testing.assert_close(ours, list(expected), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"adversarial": False}], ids=str)
def test_resumed_equals_uninterrupted(start, tmp_path, changes) -> None:
    whole = beside(start, **changes)
    fit(whole, 6, tmp_path, at=3)
    resumed = beside(start, **changes)
    trainer = fit(resumed, 6, resume=tmp_path / "last.ckpt")
    assert trainer.global_step == 6
    for (name, left), right in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 3 and len(kept["optimizer_states"]) == (1 if "adversarial" in changes else 2)


def test_turned_off_it_is_the_plain_training_bit_for_bit(start) -> None:
    """With clipping, schedule and average, which a trainer does for `VocoderTask` and this task by hand."""
    plain, off = vocoder(ema=0.9), beside(start, adversarial=False, ema=0.9)
    plain.model.load_state_dict(off.model.state_dict())
    plain.average.load_state_dict(off.model.state_dict())
    fit(plain, 6, gradient_clip_val=CLIP)
    fit(off, 6)
    assert not any(name.startswith(("discriminators", "balancer")) for name in off.state_dict())
    for (name, left), right in zip(plain.state_dict().items(), off.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_the_vocoder_alone_is_exported(start, tmp_path) -> None:
    task, mel = beside(start), torch.randn(1, 80, 6)
    fit(task, 2)
    task.save_pretrained(tmp_path)
    exported = Vocoder.from_pretrained(tmp_path)
    assert torch.equal(exported(mel), task.model.eval()(mel)) and {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors",
    }  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text()) == Vocoder.from_pretrained(start).config


def test_what_cannot_be_is_named(start) -> None:
    for wrong in ({"width": 0.0}, {"clip": 0.0}, {"clip": float("nan")}):
        with pytest.raises(ConfigError, match="give a number above 0"):
            beside(start, **wrong)
    task, batch = beside(start), Hum(seed=3).seeded_batch(0, 0, 1)
    short = {**batch, "mel": batch["mel"][..., :4], "wave": batch["wave"][:, :1920], "pitch": batch["pitch"][:, :4]}
    with pytest.raises(ConfigError, match="frames=4: discriminators need 5 or more"):
        task._loss(short)


def test_discriminators_can_tell(start) -> None:
    """Discriminators that learn alone tell the sounds apart, at once: their features are awake."""
    task, data = beside(start, lr=3e-3), Hum(seed=3)
    task.log_dict = lambda *_, **__: None
    with torch.no_grad():
        batch = data.seeded_batch(0, 0, 1)
        made = task.generate(task.model, batch).wave
    optimiser = torch.optim.AdamW(task.discriminators.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = adversarial.discriminator_loss(task.discriminators(batch["wave"]), task.discriminators(made))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8 and losses[-1] < 1.0, losses
