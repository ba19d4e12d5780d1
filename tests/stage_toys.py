"""A corpus of a few noisy tones, and every stage of the chain on it at toy size: its task and its data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import lightning
import numpy as np
import torch
from codec_toys import TINY
from lm_toys import module, write_drawn_folder, write_script_folder

from mossrepro.codec import SpeechCodec, text_to_code_data
from mossrepro.codec import data as codec_data
from mossrepro.codec import recogniser_data as recogniser_data
from mossrepro.codec.acoustic import AcousticConfig
from mossrepro.codec.acoustic_task import AcousticTask
from mossrepro.codec.adapt_data import AdaptDataModule
from mossrepro.codec.adapt_task import AdaptTask
from mossrepro.codec.data import CodecDataModule
from mossrepro.codec.lines_data import LinesDataModule
from mossrepro.codec.recogniser_data import RecogniserDataModule
from mossrepro.codec.recogniser_task import RecogniserTask
from mossrepro.codec.task import CodecTask
from mossrepro.codec.text_to_code_data import TextToCodeDataModule
from mossrepro.codec.text_to_code_task import TextToCodeTask
from mossrepro.data.alignment import FILE
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.script import read_script
from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.inner_ear_data import InnerEarDataModule
from mossrepro.lm.inner_ear_task import InnerEarTask
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.mouth_task import MouthTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.random import rng
from mossrepro.vocoder.adversarial_task import AdversarialTask
from mossrepro.vocoder.data import FlowDataModule, VocoderDataModule
from mossrepro.vocoder.task import FlowTask, VocoderTask

CLIPS, CODES = 9, 16
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
NETWORK = replace(TINY, recogniser_dropout=0.0)
BACKBONE = {"codes": 64, "tail_layers": 1, "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2}
HALF = {"quantise_after": 0.5, "lr": 2e-4}
VOCODER = {"dim": 32, "layers": 1, "fine_layers": 1, "pitch_dim": 16, "lr": 2e-4}


class Teacher(torch.nn.Module):
    """Hears the loudness of low and high bands, and, as a whole Whisper does, all of a recording at once."""

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        bands = mel.unfold(2, 2, 2).mean(-1)  # (B, 80, 4 T)
        return torch.stack([bands[:, :40].mean(1), bands[:, 40:].mean((1, 2))[:, None].expand(-1, bands.shape[2])], -1)


def write_chain_folder(folder: Path) -> Path:
    """corpus/ with phones beside it and codes in corpus/tokens, codec/, vocoder/, script/ and backbone/."""
    corpus, random = folder / "corpus", rng(0, "clips")
    with CorpusWriter(corpus) as writer, TokenWriter(corpus / "tokens", CODES) as tokens:
        for i in range(CLIPS):
            n = int(24_000 * random.uniform(0.4, 1.1))
            wave = 0.2 * np.sin(np.arange(n) * (0.02 + 0.01 * i)) + 0.02 * random.standard_normal(n)
            writer.add(f"clip-{i}", wave.astype(np.float32), 24_000, "one two", "assistant", "train" if i else "valid")
            tokens.add([(f"clip-{i}", random.integers(CODES, size=-(-n // 1920)))])
            with (corpus / FILE).open("a") as stream:
                phones = [("AA", 0.0, 0.2), ("B", 0.2, 0.3), ("CH", 0.3, n / 24_000)]
                stream.write(json.dumps({"id": f"clip-{i}", "phones": phones}) + "\n")
    torch.manual_seed(0)
    codec = SpeechCodec(NETWORK)
    codec.quantiser.codebook.normal_()
    codec.quantiser.started.fill_(True)
    codec.save_pretrained(folder / "codec")
    VocoderTask(**VOCODER).save_pretrained(folder / "vocoder")
    (folder / "script").mkdir()
    write_script_folder(folder / "script")
    write_drawn_folder(folder / "script")
    with TokenWriter(folder / "said", CODES) as tokens:
        lines = read_script(folder / "script")
        tokens.add([(line.id, rng(0, line.id).integers(CODES, size=30)) for line in lines])
    MiniBackboneTask(str(folder / "script" / "tokenizer.json"), **BACKBONE).save_pretrained(folder / "backbone")
    return folder


def know_phones(patch: Callable = setattr) -> None:
    """The phones of `write_chain_folder` instead of an aligner's."""
    for room in (codec_data, recogniser_data, text_to_code_data):
        patch(room, "phone_times", lambda corpus: corpus)


def _codec(folder: Path, seconds: float = 3.0, **options) -> tuple[CodecTask, CodecDataModule]:
    network = replace(NETWORK, **options.pop("network", {}))
    return CodecTask(network, **HALF | options), CodecDataModule(corpus=str(folder / "corpus"), batch_seconds=seconds)


def _recogniser(folder: Path, own: str | None = None) -> tuple[RecogniserTask, RecogniserDataModule]:
    tokens = str(folder / "corpus" / "tokens")
    data = RecogniserDataModule(str(folder / "corpus"), tokens, own, tokens, batch=7)
    return RecogniserTask(str(folder / "codec"), frame_dropout=0.3), data  # 8 clips: every second batch is of one


def _lm(folder: Path, **options) -> tuple[LayerSplitTask, StepDataModule]:
    data = module(folder / "script", batch=5, monologue=True, mix={"S2S": 0.4, "tts": 0.2, "text": 0.4})
    return LayerSplitTask(str(folder / "backbone"), codes=64, **options), data


def _inner_ear(folder: Path) -> tuple[InnerEarTask, InnerEarDataModule]:
    tokenizer, drawn = str(folder / "script" / "tokenizer.json"), str(folder / "script" / "drawn")
    return InnerEarTask(64, tokenizer, drawn, width=64, layers=1), InnerEarDataModule(drawn, tokenizer, 64, batch=5)


def _word_reader(folder: Path) -> tuple[RecogniserTask, LinesDataModule]:
    script = folder / "script"
    data = LinesDataModule(str(script), str(folder / "said"), times=4, batch=5)
    return RecogniserTask(str(folder / "codec"), frame_dropout=0.3), data


def _mouth(folder: Path) -> tuple[MouthTask, StepDataModule]:
    data = module(folder / "script", batch=5, monologue=True, mix={"tts": 1.0})
    settings = {"train": r"mouth\.|speech_norm\.|speech_head\.", "mouth": 1, "head_lr": 2e-4}
    return MouthTask(str(folder / "backbone"), 64, **settings), data


def _backbone(folder: Path) -> tuple[MiniBackboneTask, StepDataModule]:
    data = module(folder / "script", batch=5, mix={"facts": 0.6, "repeat_text": 0.4})
    return MiniBackboneTask(str(folder / "script" / "tokenizer.json"), **BACKBONE), data


STAGES: dict[str, Callable[[Path], tuple[lightning.LightningModule, StepDataModule]]] = {
    "codec": _codec,
    "codec, a clip a step": lambda folder: _codec(folder, 0.3),
    "codec, finite scalar": lambda folder: _codec(folder, network={"levels": (4, 4)}),
    "codec, mel": lambda folder: _codec(folder, objective="mel"),
    "codec, not causal": lambda folder: _codec(folder, network={"causal": False}),
    "codec, distilled": lambda folder: _codec(folder, teacher=Teacher, distil=0.5),
    "acoustic": lambda folder: (
        AcousticTask(AcousticConfig(codes=16, codebooks=2, dim=8, filters=4), **HALF),
        CodecDataModule(corpus=str(folder / "corpus"), batch_seconds=3.0),
    ),
    "acoustic, a clip a step": lambda folder: (
        AcousticTask(AcousticConfig(codes=16, dim=8, filters=4), **HALF),
        CodecDataModule(corpus=str(folder / "corpus"), batch_seconds=0.3),
    ),
    "codec with its recogniser": lambda folder: _codec(folder, ctc=0.5),
    "recogniser": _recogniser,
    "recogniser, adapted": lambda folder: _recogniser(folder, own=str(folder / "corpus")),
    "adapt_codec": lambda folder: (
        AdaptTask(str(folder / "codec"), lr=2e-4, recogniser_lr=2e-4),
        AdaptDataModule(str(folder / "corpus"), str(folder / "corpus"), batch_seconds=3.0),
    ),
    "text_to_code": lambda folder: (
        TextToCodeTask(CODES, speakers=4, dim=16, layers=1, lr=2e-4),
        TextToCodeDataModule(str(folder / "corpus"), str(folder / "corpus" / "tokens"), batch=5),
    ),
    "inner_ear": _inner_ear,
    "word_reader": _word_reader,
    "flow": lambda folder: (
        FlowTask(CODES, dim=64, code_layers=1, layers=1, lr=2e-4),
        FlowDataModule(str(folder / "corpus"), str(folder / "corpus" / "tokens"), batch=5, length=8),
    ),
    "vocoder": lambda folder: (
        VocoderTask(**VOCODER),
        VocoderDataModule(str(folder / "corpus"), batch=5, frames=8),
    ),
    "adversarial": lambda folder: (
        AdversarialTask(str(folder / "vocoder"), width=0.06, lr=1e-4, ema=0.9),
        VocoderDataModule(str(folder / "corpus"), batch=5, frames=8),
    ),
    "backbone": _backbone,
    "mouth": _mouth,
    "stage1": lambda folder: _lm(folder, train="speech"),
    "stage2": lambda folder: _lm(folder, lr=2e-4),
    "ears": lambda folder: _lm(folder, train="ears", ears=2, speech_lr=2e-4, embed_lr=2e-4),
    "ears with twins": lambda folder: (
        LayerSplitTask(str(folder / "backbone"), 64, train="ears", ears=2, speech_lr=2e-4, distil=0.5, word_states=1.0),
        module(folder / "script", batch=5, mix={"asr": 0.6, "S2T": 0.4}, twins=True),
    ),
}


def unrounded(grad: torch.Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float):
    """Muon's iteration in float64. Its own rounds a gradient to bfloat16 first, where a last digit counts for 1/256."""
    (a, b, c), x = ns_coefficients, grad.double()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if grad.shape[0] > grad.shape[1] else x).to(grad)


def fit(name: str, folder: Path, steps: int = 4, **options) -> dict[str, torch.Tensor]:
    """The weights after a few steps of a stage, and the norm of its last gradient; `options` are the trainer's."""
    torch.manual_seed(0)
    task, data = STAGES[name](folder)
    clip = 1.0 if task.automatic_optimization else None  # under manual optimisation a task clips itself
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=steps, gradient_clip_val=clip, use_distributed_sampler=False,
        num_sanity_val_steps=0, limit_val_batches=0, **QUIET, **options,
    )  # fmt: skip
    with mock.patch("torch.optim._muon._zeropower_via_newtonschulz", unrounded):
        trainer.fit(task, data)
    return task.state_dict() | {"gradient_norm": trainer.callback_metrics["train/gradient_norm"]}
