"""Sounds and sound models of a few hundred numbers, shared by the tests of flow decoder and vocoder."""

import torch
from codec_toys import TINY

from mossrepro.codec import SpeechCodec
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.generator import pulse_train
from mossrepro.vocoder.task import FlowTask, VocoderTask


class Hum(StepDataModule):
    """Pulse trains whose mel is a constant picture of their pitch, and codes that name it."""

    def train_batch(self, step, rank, world):
        which = torch.from_numpy(rng(self.seed, step).integers(2, size=4))
        f0 = (150.0 + 100.0 * which)[:, None].expand(4, 8)
        mel = torch.full((4, 80, 8), -8.0)
        mel[torch.arange(4), 4 + 3 * which] = 0.0
        wave = 0.02 * pulse_train(f0.repeat_interleave(480, -1), 24000)
        codes = which[:, None].expand(4, 2)
        return {"codes": codes, "mel": mel, "wave": wave, "pitch": f0, "valid": torch.ones(4, 2, dtype=torch.bool)}

    def val_batches(self):
        return [self.train_batch(0, 0, 1)]

    def mel_statistics(self):
        return -7.9, 0.9


def flow(**changes):
    torch.manual_seed(0)
    return FlowTask(codes=2, dim=64, code_layers=1, layers=1, lr=2e-3, warmup_steps=2, **changes)


def vocoder(**changes):
    torch.manual_seed(0)
    return VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16, lr=2e-3, warmup_steps=2, **changes)


def sound_parts(folder):
    """A codec, a flow decoder and a vocoder of random weights, each in its folder."""
    torch.manual_seed(0)
    codec = SpeechCodec(TINY)
    codec.quantiser.codebook.normal_()
    codec.quantiser.recent.normal_()
    codec.save_pretrained(folder / "codec")
    decoder = FlowTask(TINY.codes, dim=64, code_layers=1, layers=1).model
    for name, made in (("flow", decoder), ("vocoder", vocoder().model)):
        save_module(made, made.config, folder / name)
    return {name: folder / name for name in ("codec", "flow", "vocoder")}
