"""The acoustic rival: causal, the same rate, and it learns to give back what it hears."""

import lightning
import pytest
import torch
from codec_toys import TINY, train

from mossrepro.codec import SpeechCodec
from mossrepro.codec.acoustic import AcousticCodec, AcousticConfig, ResidualQuantiser
from mossrepro.codec.acoustic_task import AcousticTask
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.errors import CheckpointError, ConfigError

SMALL = AcousticConfig(codes=16, codebooks=2, dim=8, filters=4)


class Tones(StepDataModule):
    """Two seconds of tones; any codec learns which."""

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, torch.Tensor]:
        time = torch.arange(16_000) / 16_000 * 2 * torch.pi
        generator = torch.Generator().manual_seed(step)
        hertz = 200.0 * torch.randint(1, 5, (4, 1), generator=generator)
        silent = torch.zeros(4, 13 * 4, dtype=torch.int64)
        return {"wave": 0.3 * (hertz * time[None]).sin(), "lengths": torch.full((4,), 16_000), "phones": silent}

    def val_batches(self) -> list[dict[str, torch.Tensor]]:
        return [self.train_batch(1_000, 0, 1)]


def fit(steps: int, folder=None, ckpt=None) -> tuple[AcousticTask, lightning.Trainer]:
    torch.manual_seed(0)
    task = AcousticTask(SMALL, lr=3e-3, warmup_steps=2)
    trainer = train(task, Tones(), steps, folder, ckpt, at=3)
    return task, trainer


@pytest.fixture
def codec() -> AcousticCodec:
    torch.manual_seed(0)
    codec = AcousticCodec(SMALL)
    codec.quantiser.remember(codec.latents(0.1 * torch.randn(4, 1280 * 20)).detach().flatten(0, 1))
    codec.quantiser.start(torch.Generator().manual_seed(0))
    return codec.eval()


@pytest.mark.parametrize("samples, codes", [(1, 1), (1280, 1), (1281, 2), (16_000, 13)])
def test_the_rate_is_ours(codec, samples, codes) -> None:
    out = codec.encode(0.1 * torch.randn(2, samples))
    assert out.shape == (2, codes, 2) and ((out >= 0) & (out < 16)).all()
    assert codec.frames(out).shape == (2, codes, 8) and codec.decode(out).shape == (2, 1280 * codes)
    assert codec.bits_per_second == 12.5 * 2 * 4


def test_one_recogniser_reads_all_books_and_nothing_else(codec, tmp_path) -> None:
    codes = codec.encode(0.1 * torch.randn(2, 1280 * 9))
    shell, flat = codec.reader(TINY), codec.flat(codes)
    assert flat.shape == (2, 18) and flat[:, 1::2].min() >= 16 > flat[:, ::2].max()
    seen = []
    shell.recogniser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shell.save_pretrained(tmp_path)
    scores, lengths = shell.read(flat)
    torch.testing.assert_close(seen[0], codec.frames(codes))
    assert scores.shape == (2, 36, 40) and lengths.tolist() == [9, 9]
    again = SpeechCodec.from_pretrained(tmp_path)
    assert again.transcribe(flat) == shell.transcribe(flat)
    padded = torch.nn.functional.pad(flat[:1, :8], (0, 10), value=-1)
    assert again.transcribe(padded) == again.transcribe(flat[0, :8])
    for refused in (lambda: again.encode(torch.zeros(1, 1280)), again.listen):
        with pytest.raises(ConfigError, match="only decodes"):
            refused()


def latents(step: int) -> torch.Tensor:
    """Fewer latents a step than there are codes."""
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(step))


def test_books_stay_in_use_and_each_takes_what_is_left() -> None:
    stack, chance = ResidualQuantiser(3, 128, 8), torch.Generator().manual_seed(0)
    for step in range(10):
        stack.remember(latents(step))
    stack.start(chance)
    for step in range(10, 60):
        x = latents(step)
        stack.update(x, stack(x[None]).codes[0], chance)
    x = torch.cat([latents(1000 + i) for i in range(40)])
    found = stack(x[None])
    assert all(len(found.codes[0, :, i].unique()) > 0.8 * 128 for i in range(3))
    torch.testing.assert_close(found.vectors, stack.rows(found.codes))
    left = [float((x - stack.rows(found.codes)[0]).square().mean())]
    for codebooks in (1, 2):
        rows = torch.stack([b.codebook[found.codes[0, :, i]] for i, b in enumerate(stack.codebooks[:codebooks])]).sum(0)
        left.append(float((x - rows).square().mean()))
    assert left[0] < 0.8 * left[2] < 0.7 * left[1]


def test_every_book_has_a_say_in_the_encoder() -> None:
    stack = ResidualQuantiser(2, 16, 8)
    stack.remember(latents(0))
    stack.start(torch.Generator().manual_seed(0))
    x = latents(1).requires_grad_()
    found = stack(x[None])
    wish = (stack.codebooks[1](x - stack.codebooks[0](x[None]).vectors[0].detach())).commitment
    (both,) = torch.autograd.grad(found.commitment, x, retain_graph=True)
    (second,) = torch.autograd.grad(wish, x)
    (first,) = torch.autograd.grad(stack.codebooks[0](x[None]).commitment, x)
    assert second.abs().sum() > 0
    torch.testing.assert_close(both, (first + second) / 2)
    (passed,) = torch.autograd.grad(found.vectors.sum(), x)
    assert torch.equal(passed, torch.ones_like(x))


def test_what_it_hears_is_not_lost_at_the_start() -> None:
    """Of two different sounds at the level of speech an untrained encoder makes different latents."""
    torch.manual_seed(0)
    latents = AcousticCodec(AcousticConfig()).latents(0.05 * torch.randn(2, 1280 * 20))
    assert latents.flatten(0, 1).std(0).mean() > 0.5


def test_it_hears_no_future(codec) -> None:
    wave = 0.1 * torch.randn(1, 1280 * 12)
    louder = torch.cat([wave, torch.randn(1, 1280 * 3)], 1)
    codes = codec.encode(wave)
    assert len(codes.unique()) > 3 and torch.equal(codec.encode(louder)[:, :12], codes)


def test_it_learns_and_is_kept(tmp_path) -> None:
    first, before = fit(1)
    task, trainer = fit(40)
    assert trainer.callback_metrics["val/spectral"] < 0.8 * before.callback_metrics["val/spectral"]
    task.save_pretrained(tmp_path)
    wave, codec = Tones().val_batches()[0]["wave"], AcousticCodec.from_pretrained(tmp_path)
    codes = codec.encode(wave)
    assert torch.equal(codes, task.codec.eval().encode(wave)) and codec.config == SMALL
    padded = torch.nn.functional.pad(wave, (0, -wave.shape[1] % 1280))
    torch.testing.assert_close(codec.decode(codes), codec.sound(codec.quantiser(codec.latents(padded)).vectors))
    with pytest.raises(CheckpointError, match="nowhere"):
        AcousticCodec.from_pretrained(tmp_path / "nowhere")


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path) -> None:
    whole, _ = fit(6, folder=tmp_path)
    resumed, _ = fit(6, ckpt=str(tmp_path / "last.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
