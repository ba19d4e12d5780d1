"""Any device but the CPU, without one: on the meta device tensors have shapes and no numbers.

What runs there makes no tensor on the wrong device, and reads no number back, which would let a GPU run dry.
"""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from codec_toys import TINY
from lm_toys import module, small_model, write_drawn_folder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mossrepro.codec.acoustic import AcousticCodec, AcousticConfig
from mossrepro.codec.acoustic_task import AcousticTask
from mossrepro.codec.adapt_data import AdaptDataModule
from mossrepro.codec.adapt_task import AdaptTask
from mossrepro.codec.data import CodecDataModule, Example, collate
from mossrepro.codec.model import SpeechCodec
from mossrepro.codec.quantiser import RECENT
from mossrepro.codec.recogniser_data import RecogniserDataModule
from mossrepro.codec.recogniser_task import RecogniserTask
from mossrepro.codec.task import CodecTask
from mossrepro.lm.inner_ear_data import InnerEarDataModule
from mossrepro.lm.inner_ear_task import InnerEarTask
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.mouth_task import MouthTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.speech import speaker
from mossrepro.speech.whisper import Whisper
from mossrepro.training.step_data import StepDataModule
from mossrepro.training.task import Task
from mossrepro.utils import audio, devices, layers, spectral
from mossrepro.utils.random import rng
from mossrepro.vocoder import generator, losses, pitch
from mossrepro.vocoder.adversarial_task import AdversarialTask
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.sampling import Said
from mossrepro.vocoder.task import FlowTask, VocoderTask

META = torch.device("meta")


class Guard(TorchDispatchMode):
    """Refuses a copy to the device that waits for it or, if `double` is False (as on MPS), float64 there."""

    def __init__(self, double: bool = True) -> None:
        super().__init__()
        self.double = double

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        there = isinstance(out, Tensor) and out.device.type == "meta"
        moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if moves and there and any(isinstance(x, Tensor) and x.device.type == "cpu" for x in args):
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            assert not waits or not self.double, "a copy without non_blocking=True waits for the device"
        assert self.double or not (there and out.dtype in (torch.float64, torch.complex128)), f"float64 in {function}"
        return out


def noise(*shape: int, device: torch.device = META) -> Tensor:
    return 0.1 * torch.randn(*shape, device=device)


def speech_codec(**changes) -> SpeechCodec:
    return SpeechCodec(replace(TINY, **changes)).eval().to(META)


def read_cached() -> Tensor:
    model = small_model().to(META)
    cache = model.new_cache(2, 12)
    for part in (GRID[:, :4], GRID[:, 4:8], GRID[:, 8:]):
        hidden = model(part, cache=cache)
    return model.speech_head(hidden.speech)


def train_short(mask: bool) -> Tensor:
    """The attention that short sequences of a training step take on a CPU."""
    q, k = noise(2, 4, 5, 8).requires_grad_(), noise(2, 2, 5, 8)
    return layers.attend(q, k, k, torch.ones(5, 5, dtype=torch.bool, device=META)[None, None] if mask else None)


def read_packed() -> Tensor:
    return small_model(qk_norm=True).to(META)(GRID[:1], mask=layers.Packing((4, 5))).text


def finite() -> Tensor:
    codec = speech_codec(levels=(4, 4))
    return codec.quantiser(codec.latents(codec.features(noise(2, 3000)))).codes


def acoustic() -> Tensor:
    codec = AcousticCodec(AcousticConfig(codes=16, codebooks=2, dim=8, filters=4)).to(META)
    return codec.decode(codec.encode(noise(2, 3000)))


def flow(**more) -> FlowDecoder:
    return FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2, **more).to(META)


def prompted_flow() -> torch.Tensor:
    said = Said(torch.tensor([3, 1, 4]), torch.zeros(80, 12))
    return flow(prompts=True)(CODES, torch.tensor([5, 2], device=META), said=said)


def vocoder() -> Vocoder:
    return Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16).to(META)


def whisper() -> Whisper:
    with META:
        return Whisper().eval()


def whisper_decoder() -> Tensor:
    model = whisper()
    cross = [layer.cross.keys(model.encode(noise(2, 80, 40))) for layer in model.decoder]
    past = [{} for _ in model.decoder]
    model.scores(torch.zeros(2, 4, dtype=torch.int64, device=META), 0, past, cross)
    return model.scores(torch.zeros(2, 1, dtype=torch.int64, device=META), 4, past, cross)


def mos() -> Tensor:
    from distillmos import ConvTransformerSQAModel

    return ConvTransformerSQAModel(load_weights=False).eval().to(META)(noise(1, 16_000))


CODES = torch.zeros(2, 5, dtype=torch.int64, device=META)
GRID = torch.zeros(2, 9, 2, dtype=torch.int64, device=META)
FORWARD = {  # what is run: the shape that comes out
    "language model": (lambda: small_model().to(META)(GRID).speech, (2, 9, 32)),
    "language model with a cache": (read_cached, (2, 1, 168)),
    "language model, packed": (read_packed, (1, 9, 32)),
    "attention in training": (lambda: train_short(False), (2, 4, 5, 8)),
    "attention in training, masked": (lambda: train_short(True), (2, 4, 5, 8)),
    "codec": (lambda: speech_codec().encode(noise(2, 3000)), (2, 3)),
    "codec, lengths": (lambda: speech_codec().encode(noise(2, 3000), torch.tensor([3000, 100])), (2, 3)),
    "codec, finite levels": (finite, (2, 3)),
    "stream": (lambda: speech_codec().listen().push(np.zeros(3000, np.float32)), (1, 2)),
    "codec's phones": (lambda: speech_codec().phone_logits(noise(2, 5, 8)), (2, 20, 40)),
    "recogniser": (lambda: speech_codec().read(CODES)[0], (2, 20, 40)),
    "recogniser, all frames": (lambda: speech_codec().recogniser(noise(2, 5, 8)), (2, 20, 40)),
    "acoustic codec": (acoustic, (2, 3840)),
    "flow decoder": (lambda: flow()(CODES, torch.tensor([5, 2], device=META)), (2, 80, 20)),
    "flow decoder, prompted": (prompted_flow, (2, 80, 20)),
    "vocoder": (lambda: vocoder()(noise(2, 80, 8)), (2, 3840)),
    "Whisper's encoder": (lambda: whisper().encode(noise(2, 80, 40)), (2, 20, 512)),
    "Whisper's decoder": (whisper_decoder, (2, 51865)),
    "speaker encoder": (lambda: speaker.SpeakerEncoder().to(META)(speaker.mel(noise(30_000))[None]), (1, 256)),
    "opinion score": (mos, (1, 1)),
    "Whisper's mel": (lambda: audio.whisper_mel(noise(2, 3200), causal=False), (2, 80, 20)),
    "vocoder's mel": (lambda: audio.mel24(noise(2, 4800)), (2, 80, 10)),
    "pitch": (lambda: pitch.measure_pitch(noise(2, 4800)), (2, 10)),
    "pulses": (lambda: pitch.follow_pulses(noise(2, 4800), noise(2, 4800)), (2, 4800)),
    "spectral loss": (lambda: spectral.spectral_loss(noise(2, 4800), noise(2, 4800)), ()),
    "mel loss": (lambda: losses.mel_loss(noise(2, 4800), noise(2, 4800)), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_a_network_runs_where_its_weights_and_input_are(name):
    run, shape = FORWARD[name]
    with torch.no_grad() if "training" not in name else torch.enable_grad():
        out = run()
    assert out.device == META and tuple(out.shape) == shape


def codec_batch() -> dict[str, Tensor]:
    waves = [rng(0, i).standard_normal(1280 * n, dtype="float32") for i, n in enumerate((6, 4, 5))]
    return collate(
        [Example(w, w, rng(1, i).integers(1, 40, len(w) // 320), [1, 2, 1 + i]) for i, w in enumerate(waves)],
        clean=True,
    )


class Teacher(torch.nn.Module):
    """In the place of Whisper."""

    def encode(self, mel: Tensor) -> Tensor:
        return mel[:, :6, ::2].transpose(1, 2)


def quantised(task: CodecTask | AcousticTask) -> CodecTask | AcousticTask:
    """As in the later part of a training: the codebooks are placed, the ring of latents is full."""
    rings = [part for part in task.codec.modules() if hasattr(part, "recent")]
    for ring in rings:
        ring.remember(torch.randn(RECENT + 5, ring.recent.shape[1]))
    task.codec.quantiser.start(torch.Generator().manual_seed(0))
    assert [ring.held() for ring in rings] == [RECENT] * len(rings)
    task._trainer = None
    task.on_train_start()
    return task


def codec_step(**changes):
    levels = changes.pop("levels", ())
    return quantised(CodecTask(replace(TINY, levels=levels), **changes)), CodecDataModule, codec_batch()


def unquantised_step():
    task = CodecTask(TINY, quantise_after=1.0)
    task.on_train_start()
    return task, CodecDataModule, codec_batch()


def acoustic_step():
    config = AcousticConfig(codes=16, codebooks=2, dim=8, filters=4)
    return quantised(AcousticTask(config)), CodecDataModule, codec_batch()


def recogniser_step(tmp_path):
    SpeechCodec(TINY).save_pretrained(tmp_path / "codec")
    batch = {"codes": torch.tensor([[3, 4, 5], [6, 7, -1]]), "labels": torch.tensor([[1, 2], [3, 0]])}
    batch |= {"label_lengths": torch.tensor([2, 1])}
    return RecogniserTask(str(tmp_path / "codec")), RecogniserDataModule, batch


def adapt_step(tmp_path):
    SpeechCodec(TINY).save_pretrained(tmp_path / "codec")
    batch = codec_batch() | {"own": torch.tensor([1.0, 0.0, 0.0])}
    return AdaptTask(str(tmp_path / "codec")), AdaptDataModule, batch


def sound_batch() -> dict[str, Tensor]:
    sound = {"mel": noise(2, 80, 8, device="cpu"), "wave": noise(2, 3840, device="cpu")}
    return {**sound, "pitch": torch.full((2, 8), 120.0)}


def flow_step(**more):
    batch = {"codes": torch.zeros(2, 2, dtype=torch.int64), "valid": torch.ones(2, 2, dtype=torch.bool)}
    return FlowTask(codes=16, dim=64, code_layers=1, layers=1, **more), StepDataModule, batch | sound_batch()


def vocoder_step():
    return VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16), StepDataModule, sound_batch()


def adversarial_step(tmp_path):
    """By manual optimisation: its training step takes the gradients itself; the optimisers here do nothing."""
    VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16).save_pretrained(tmp_path / "vocoder")
    task = AdversarialTask(tmp_path / "vocoder", width=0.06)
    idle = SimpleNamespace(zero_grad=lambda: None, step=lambda: None)
    task.optimizers, task.lr_schedulers = lambda use_pl_optimizer=True: [idle, idle], lambda: [idle, idle]
    task.manual_backward = lambda loss: loss.backward()
    return task, StepDataModule, sound_batch()


def backbone(folder) -> MiniBackboneTask:
    return MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, layers=3, dim=32, ffn_dim=64)


def backbone_step(folder):
    data = module(folder, mix={"facts": 1.0})
    return backbone(folder), data, data.train_batch(0, 0, 1)


def language_step(folder, tmp_path, train: str, pack: bool = False, **mix: float):
    backbone(folder).save_pretrained(tmp_path / "start")
    data = module(folder, mix=mix or {"asr": 1.0, "S2S": 1.0, "text": 1.0}, pack=pack, monologue=True)
    return LayerSplitTask(str(tmp_path / "start"), codes=64, train=train), data, data.train_batch(0, 0, 1)


def mouth_step(folder, tmp_path):
    backbone(folder).save_pretrained(tmp_path / "start")
    data = module(folder, mix={"tts": 1.0}, monologue=True)
    part = r"mouth\.|speech_norm\.|speech_head\."
    return MouthTask(str(tmp_path / "start"), codes=64, train=part, mouth=1), data, data.train_batch(0, 0, 1)


def inner_ear_step(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "script")
    drawn, tokenizer = str(write_drawn_folder(tmp_path / "script")), str(folder / "tokenizer.json")
    data = InnerEarDataModule(drawn, tokenizer, 64, batch=5)
    return InnerEarTask(64, tokenizer, drawn, width=64, layers=1), data, data.train_batch(0, 0, 1)


STEPS = {
    "codec": lambda folder, tmp_path: codec_step(),
    "codec before its codebook": lambda folder, tmp_path: unquantised_step(),
    "codec, finite levels": lambda folder, tmp_path: codec_step(levels=(4, 4)),
    "codec, reconstruction": lambda folder, tmp_path: codec_step(objective="mel"),
    "codec, distilled": lambda folder, tmp_path: codec_step(teacher=Teacher, distil=1.0),
    "codec with its recogniser": lambda folder, tmp_path: codec_step(ctc=1.0),
    "adapt_codec": lambda folder, tmp_path: adapt_step(tmp_path),
    "acoustic": lambda folder, tmp_path: acoustic_step(),
    "recogniser": lambda folder, tmp_path: recogniser_step(tmp_path),
    "backbone": lambda folder, tmp_path: backbone_step(folder),
    "stage1": lambda folder, tmp_path: language_step(folder, tmp_path, "speech"),
    "mouth": lambda folder, tmp_path: mouth_step(folder, tmp_path),
    "stage2": lambda folder, tmp_path: language_step(folder, tmp_path, "all"),
    "stage2, packed": lambda folder, tmp_path: language_step(folder, tmp_path, "all", pack=True),
    "sft": lambda folder, tmp_path: language_step(folder, tmp_path, "all", S2S=1.0),
    "inner_ear": lambda folder, tmp_path: inner_ear_step(folder, tmp_path),
    "flow": lambda folder, tmp_path: flow_step(),
    "flow, prompts": lambda folder, tmp_path: flow_step(prompt_share=1.0),
    "vocoder": lambda folder, tmp_path: vocoder_step(),
    "adversarial": lambda folder, tmp_path: adversarial_step(tmp_path),
}


def ctc_without_numbers(log_probs, labels, lengths, label_lengths, **_):
    """Its kernel has no meta version; PyTorch reads the lengths, and not the rest, with the CPU."""
    assert {lengths.device.type, label_lengths.device.type} == {"cpu"} and labels.device == log_probs.device
    return log_probs.sum()


def step(task: Task, data: type | StepDataModule, batch: dict[str, Tensor], monkeypatch, guard: Guard) -> None:
    """A training step and its gradients on the meta device, with what the data module leaves in main memory."""
    logged = {}
    trainer = SimpleNamespace(world_size=1, max_steps=100, global_step=55, global_rank=0)
    monkeypatch.setattr(task, "_trainer", trainer)
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(task, "log_dict", lambda numbers, **_: logged.update(numbers))
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", ctc_without_numbers)
    task.to(META).train()
    batch = {**batch, "seed": torch.tensor(3)}
    here = data if isinstance(data, StepDataModule) else data.__new__(data)
    moved = here.transfer_batch_to_device(batch, META, 0)
    with guard:
        loss = task.training_step(moved, 0)
        assert loss.device == META
        own = not task.automatic_optimization  # it has gone the way back itself
        if (
            guard.double and not own
        ):  # else a part of the way back leads through main memory, which meta tensors cannot reach
            loss.backward()
    assert logged and all(isinstance(value, Tensor) for value in logged.values())  # a number is copied to the device


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_reads_nothing_back(name, folder, tmp_path, monkeypatch):
    step(*STEPS[name](folder, tmp_path), monkeypatch, Guard())


@pytest.mark.parametrize("name", ["recogniser", "vocoder"])
def test_a_device_without_float64_and_ctc_trains_too(name, folder, tmp_path, monkeypatch):
    """MPS: there these computations are the CPU's."""
    seen = []

    def capable(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(x.shape, dtype=x.dtype).requires_grad_(x.requires_grad)

    def ctc_on_the_cpu(log_probs, labels, lengths, label_lengths, **_):
        assert {x.device.type for x in (log_probs, labels, lengths, label_lengths)} == {"cpu"}
        return log_probs.sum()

    for place in (devices, generator, pitch):
        if hasattr(place, "capable"):
            monkeypatch.setattr(place, "capable", capable)
    task, data, batch = STEPS[name](folder, tmp_path)
    if name == "recogniser":
        from mossrepro.codec import recogniser

        monkeypatch.setattr(recogniser, "capable", capable)
    monkeypatch.setattr(f"{__name__}.ctc_without_numbers", ctc_on_the_cpu)
    step(task, data, batch, monkeypatch, Guard(double=False))
    assert seen


def test_a_new_speech_half_is_the_same_on_any_device(folder):
    """What `tiny` and the controls do at the end of a backbone that was trained on a GPU."""
    model = backbone(folder).model
    seen = []

    class Where(TorchDispatchMode):
        """Notes what is drawn and computed elsewhere than on the CPU."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.device.type == "meta":
                seen.append(function)
            return out

    from mossrepro.lm import init

    cpu, there = model.text_embed.weight.detach().clone(), model.to(META)
    with pytest.MonkeyPatch.context() as patch, Where():
        patch.setattr(Tensor, "cpu", lambda self: cpu.clone())
        for tail in ("copy", "random"):
            init.start_speech_half(there, 0, tail)
    names = {str(function).split(".")[1] for function in seen}
    assert names <= {"copy_", "detach", "_to_copy", "view", "alias", "t"}, names
