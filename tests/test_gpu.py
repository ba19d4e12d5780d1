"""Every stage on an accelerator: trained, stopped, saved, continued, and then asked. `pytest -m gpu` on a GPU machine.

MOSSREPRO_TEST_ACCELERATOR=cpu runs the same on a CPU, which proves the tests and not the device.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_runs import write_lines

from mossrepro import cli
from mossrepro.codec.acoustic import AcousticCodec
from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenStore
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.evaluation.text_retention import perplexity
from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.lm.decode import GenerationConfig, SamplingParams, generate
from mossrepro.lm.grid import question_prompt
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.pipeline import Assistant
from mossrepro.speech import voices
from mossrepro.speech.mos import predicted_mos
from mossrepro.speech.normalise import normalise
from mossrepro.speech.speaker import SpeakerEncoder
from mossrepro.speech.whisper import WhisperJudge
from mossrepro.training.callbacks import AtomicCheckpoint
from mossrepro.training.task import Task
from mossrepro.utils import audio
from mossrepro.utils.devices import best_device, training_precision
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.sampling import Said
from mossrepro.vocoder.session import FlowSession
from mossrepro.vocoder.speech_decoder import SpeechDecoder

NAME = os.environ.get("MOSSREPRO_TEST_ACCELERATOR", "auto")  # of a device, as of `--device`
DEVICE = best_device(NAME)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NAME == "auto" and DEVICE.type == "cpu", reason="no accelerator; see this file's first lines"),
]
CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = (
    "codec",
    "acoustic",
    "recogniser",
    "word_reader",
    "adapt",
    "adapt_codec",
    "backbone",
    "style",
    "mouth",
    "stage1_word",
    "ears",
    "stage1",
    "stage2",
    "sft",
    "counterfactual",
    "flow",
    "vocoder",
    "adversarial",
)
SAYINGS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def write_corpus(folder: Path) -> Path:
    """Eight sentences of the assistant."""
    with CorpusWriter(folder) as clips:
        for i, word in enumerate(SAYINGS):
            text = f"there are {word} birds in the garden"
            clips.add(f"c{i}", *voices.say(text), text, "assistant", "train" if i < 6 else "valid")
    return folder


class Chain:
    """The stages at the smoke size, each made when it is first asked for, with what it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}
        self.stopped: dict[str, tuple[int, bool]] = {}  # stage: exit code when it was stopped, was a checkpoint there
        self.weights: dict[str, set] = {}  # stage: device types and precisions that were trained on

    def __call__(self, name: str) -> Path:
        if name not in self.made:
            make = {"corpus": write_corpus, "script": write_lines, "tokens": self.tokenise}.get(name)
            self.made[name] = make(self.folder / name) if make else self.train(name)
        return self.made[name]

    def flags(self, stage: str) -> dict[str, Path | str]:
        """What a stage's YAML asks to be given."""
        if stage in ("codec", "acoustic", "vocoder"):
            return {"data.corpus": self("corpus")}
        if stage == "flow":
            return {"data.corpus": self("corpus"), "data.tokens": self("tokens")}
        if stage == "adversarial":
            return {"data.corpus": self("corpus"), "model.vocoder": self("vocoder")}
        if stage == "adapt_codec":
            return {"model.codec": self("codec"), "data.own": self("corpus"), "data.corpus": self("corpus")}
        if stage == "adapt":
            data = {f"data.{name}": self(kind) for name, kind in {"own": "corpus", "corpus": "corpus"}.items()}
            data |= {"data.tokens": self("tokens"), "data.own_tokens": self("tokens")}
            return {"model.codec": self("codec"), **data}
        if stage == "recogniser":
            return {"model.codec": self("codec"), "data.corpus": self("corpus"), "data.tokens": self("tokens")}
        if stage == "word_reader":
            script = self("script")
            return {"model.codec": self("codec"), "data.script": script, "data.tokens": script / "said"}
        tokenizer = self("script") / "tokenizer.json"
        if stage == "backbone":
            return {"data.script": self("script"), "data.tokenizer": tokenizer, "model.tokenizer": tokenizer}
        before = {"stage2": "stage1", "sft": "stage2", "stage1_word": "mouth", "ears": "stage1_word"}
        given = {"data.script": self("script"), "data.tokenizer": tokenizer, "data.tokens": "oracle"}
        given |= {"model.init_from": self(before.get(stage, "backbone"))}
        more = dict.fromkeys(("style", "ears"), {"data.prose": self("script") / "prose.jsonl"})
        more |= dict.fromkeys(("mouth", "stage1_word"), {"model.head_from_words": "false"})  # oracle: no times of words
        if stage == "stage1":
            more["stage1"] = {"model.code_phone_probs": self("tokens")}
        return given | more.get(stage, {})

    def command(self, verb: str, stage: str, given: dict[str, Path | str]) -> list[str]:
        words = [verb, "-c", str(CONFIGS / f"{stage}.yaml"), "-c", str(CONFIGS / "smoke.yaml")]
        for key, value in given.items():
            words += ["--" + key.replace(".", ".init_args."), str(value)]
        kind = {"cpu": "cpu", "mps": "mps"}.get(DEVICE.type, "gpu")
        words += ["--trainer.accelerator", kind, "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
        return [*words, "--output", str(self.folder / stage)]

    def train(self, stage: str) -> Path:
        """Two steps with a stop after the first one, as Ctrl-C would."""
        words = [*self.command("fit", stage, self.flags(stage)), "--trainer.max_steps", "2"]
        words += ["--trainer.val_check_interval", "2", "--save_steps", "1"]
        out, decide = self.folder / stage, AtomicCheckpoint._decide
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AtomicCheckpoint, "_decide", lambda self, trainer: (True, True))
            code = cli.main(words)
            self.stopped[stage] = code, (out / "ckpt" / "last.ckpt").is_file()
            patch.setattr(AtomicCheckpoint, "_decide", decide)
            patch.setattr(Task, "on_train_end", lambda task: self.note(stage, task), raising=False)
            assert cli.main(words) == 0
        return out

    def note(self, stage: str, task: Task) -> None:
        self.weights[stage] = {parameter.device.type for parameter in task.parameters()} | {task.trainer.precision}

    def tokenise(self, folder: Path) -> Path:
        given = {"model.codec": self("codec"), "data.corpus": self("corpus")}
        words = self.command("predict", "tokenise", given)
        assert cli.main([*words[:-1], str(folder)]) == 0
        return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def question() -> np.ndarray:
    """A question at 16 kHz."""
    return audio.resample(*voices.say("what is the capital of france"), 16_000)


@pytest.fixture(scope="module")
def finished(chain) -> Path:
    """A run's folder."""
    parts = {name: str(chain(name)) for name in ("codec", "recogniser", "backbone", "stage1", "sft", "flow", "vocoder")}
    parts |= {"script": str(chain("script")), "tokens": str(chain("tokens"))}
    (chain.folder / "parts.json").write_text(json.dumps(parts))
    return chain.folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_stops_and_goes_on(stage, chain):
    out = chain(stage)
    assert chain.stopped[stage] == (130, True) and not (out / "ckpt" / "last.ckpt").exists()
    done = json.loads((out / "done.json").read_text())
    assert done["steps"] == 2 and done["metrics"] and all(np.isfinite(value) for value in done["metrics"].values())
    weights = load_file(out / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    mixed = stage not in ("acoustic", "backbone")  # as their YAML says
    assert chain.weights[stage] == {DEVICE.type, training_precision(DEVICE) if mixed else "32-true"}


def test_codes_are_those_of_the_cpu(chain, question):
    """Up to rounding (convolutions take TF32 on some GPUs): few frames lie that near to the border of two codes."""
    here, there = (SpeechCodec.from_pretrained(chain("recogniser")).prepare_for_inference(d) for d in ("cpu", DEVICE))
    wave = torch.from_numpy(question)[None]
    codes, again = here.encode(wave), there.encode(wave)
    assert again.device.type == DEVICE.type and (codes == again.cpu()).float().mean() > 0.8
    session = there.listen()
    streamed = torch.cat([*(session.push(part) for part in wave.split(1280, 1)), session.close()], 1)
    assert (streamed == again).float().mean() > 0.8
    assert len(here.transcribe(codes)) == len(there.transcribe(again)) == 1
    store = TokenStore(chain("tokens"))
    assert len(store) == len(SAYINGS)


def test_the_acoustic_codec_gives_sound_back(chain, question):
    codec = AcousticCodec.from_pretrained(chain("acoustic")).to(DEVICE)
    codes = codec.encode(torch.from_numpy(question)[None])
    wave = codec.decode(codes).cpu()
    assert wave.shape == (1, 1280 * codes.shape[1]) and wave.isfinite().all()


def test_sound_is_that_of_the_cpu(chain):
    folders = chain("flow"), chain("vocoder")
    codes = [[3, 1, 4, 1, 5], [9, 2]]
    here, there = (SpeechDecoder.from_pretrained(*folders, d).speak_all(codes) for d in (torch.device("cpu"), DEVICE))
    for one, other in zip(here, there, strict=True):
        assert one.shape == other.shape and np.isfinite(other).all()
        assert np.abs(one - other).mean() <= 0.1 * np.abs(one).mean()  # near its branch a phase may turn a sample


def test_a_prompt_is_gone_on_from_as_on_the_cpu():
    torch.manual_seed(0)
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2, prompts=True)
    torch.nn.init.normal_(flow.shown.weight, std=0.3), torch.nn.init.normal_(flow.estimator.out.weight, std=0.1)
    said, codes = Said(torch.tensor([3, 1, 4, 1, 5, 9]), torch.randn(80, 24) - 5), torch.tensor([[2, 6, 5, 3, 5]])
    here, there = flow(codes, said=said), flow.to(DEVICE)(codes, said=said).cpu()
    session = FlowSession(flow, said=said)
    streamed = torch.cat([*session.push(codes[0]), *session.push(codes[0, :0], last=True)], -1).cpu()
    whole = flow(codes, said=said, sampling=session.sampling).cpu()
    assert (here - there).abs().mean() < 0.01 and (streamed - whole).abs().mean() < 0.01


@pytest.mark.parametrize("spoken", [True, False])
def test_a_question_is_answered(finished, question, spoken, tmp_path):
    assistant = Assistant.from_run(finished, NAME)
    places = {assistant.codec.device, assistant.model.text_embed.weight.device, assistant.speaker.flow.mean.device}
    assert {place.type for place in places} == {DEVICE.type}
    speech = SamplingParams(min_length=4, temperature=0.8, top_k=20)
    config = GenerationConfig(text=SamplingParams(min_length=3), speech=speech, max_positions=12)
    answer = assistant.answer(question, spoken, config)
    if spoken:
        assert len(answer.codes) >= 4 and len(answer.wave) == 1920 * len(answer.codes)
        assert np.isfinite(answer.wave).all() and answer.save(tmp_path / "answer.wav").stat().st_size > 1000
    assert answer.codes == assistant.answer(question, spoken, config).codes


def test_the_command_answers(finished, question, tmp_path):
    audio.save(tmp_path / "question.wav", question, 16_000)
    words = ["talk", str(tmp_path / "question.wav"), "--run", str(finished), "--device", NAME, "--text"]
    assert cli.main(words) == 0


def test_answers_of_a_batch_are_those_alone(finished):
    model, tokenizer = from_pretrained(json.loads((finished / "parts.json").read_text())["sft"])
    grid, model = model.grid(tokenizer), prepare_for_inference(model.float(), DEVICE)
    asked = [question_prompt(grid, "T2S", text) for text in ("who are you", "what is the capital of france")]
    config = GenerationConfig(speech=SamplingParams(min_length=4), max_positions=8)
    together = generate(model, asked, grid.ids, config)
    assert len(together) == 2 and all(len(reply.codes) >= 4 for reply in together)


def test_a_run_is_measured_on_the_device(finished, question, tmp_path):
    artifacts = RunArtifacts(json.loads((finished / "parts.json").read_text()), tmp_path, NAME)
    assert artifacts.device.type == DEVICE.type == artifacts.codec.device.type
    assert "france" in normalise(artifacts.judge.transcribe([question])[0])
    codes = artifacts.codec.encode(torch.from_numpy(question)[None])[0]
    (wave,) = artifacts.speak([codes])
    assert np.isfinite(wave).all()
    artifacts.mos("mos", "a title", [question])
    model, tokenizer = from_pretrained(artifacts.parts["sft"])
    value, count = perplexity(model.float().to(artifacts.device), tokenizer)
    assert np.isfinite(value) and count > 0


def test_the_judges_say_what_they_say_on_the_cpu(question):
    cpu = torch.device("cpu")
    assert WhisperJudge(DEVICE).transcribe([question]) == WhisperJudge(cpu).transcribe([question])
    assert predicted_mos([question], DEVICE) == pytest.approx(predicted_mos([question], cpu), abs=0.05)
    one, other = (SpeakerEncoder.pretrained().to(d).embed(question) for d in (cpu, DEVICE))
    assert one @ other > 0.999


def test_a_copy_of_the_text_half_is_that_of_the_cpu(chain):
    """`start_speech_half` after a backbone that was trained on the device."""
    from mossrepro.lm.init import start_speech_half

    one, other = from_pretrained(chain("backbone"))[0], from_pretrained(chain("backbone"))[0].to(DEVICE)
    start_speech_half(one, 5), start_speech_half(other, 5)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b.cpu()), name
