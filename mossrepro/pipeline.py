"""Question to answer: sound -> codes -> layer-split LM -> codes -> sound, with no text on the way.

assistant = Assistant.from_run("runs/small")
answer = assistant.answer("question.wav")
answer.save("answer.wav")

With `on_sound` the answer is spoken while its codes are still being made:

    question --> codes --> LM --> code, code, ... --> DecoderSession --> samples, samples, ...
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from mossrepro.codec.model import SpeechCodec
from mossrepro.lm import checkpoint
from mossrepro.lm.decode import GenerationConfig, Reply, generate
from mossrepro.lm.grid import PROSE, Positions
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.training.runs import finished, read_parts
from mossrepro.utils import audio, sound_file
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import AudioError, CheckpointError, ConfigError
from mossrepro.vocoder.prompt import Prompt, end_of, read_prompt
from mossrepro.vocoder.speech_decoder import SpeechDecoder

LONGEST = 30.0  # seconds of question; the models here were trained on sentences of a few seconds
SHORTEST = 0.08  # seconds: a code
FORMS = {"word": "word", "sentence": PROSE}  # form of an answer -> the system turns that ask for it
PARTS = ("codec", "sft", "flow", "vocoder")  # what answering takes


@dataclass
class Answer:
    """A reply: samples at `rate` Hz (empty for a written one), its codes, and its text (empty for a spoken one).

    `ended` is False where the limit of `GenerationConfig.max_positions` cut it off.
    """

    wave: np.ndarray
    rate: int
    codes: list[int]
    text: str
    ended: bool

    def save(self, path: str | Path) -> Path:
        """Write the sound. AudioError if there is none."""
        if not len(self.wave):
            raise AudioError(f"{path}: the model said nothing, so there is no sound to save")
        audio.save(path, self.wave, self.rate)
        return Path(path)


class Assistant:
    """The four parts of a finished run, on one device."""

    def __init__(
        self, codec: SpeechCodec, model, tokenizer, speaker: SpeechDecoder, device: torch.device | None = None
    ) -> None:
        device = device or best_device()
        self.codec, self.model = codec.prepare_for_inference(device), prepare_for_inference(model, device)
        self.speaker = speaker
        self.tokenizer, self.grid = tokenizer, model.grid(tokenizer)
        if codec.config.codes != model.config.codes:
            raise CheckpointError(f"the codec has {codec.config.codes} codes, the language model {model.config.codes}")

    @classmethod
    def from_run(cls, run: str | Path, device: str = "auto", **others: str | Path) -> "Assistant":
        """Load the parts that `runs/NAME/parts.json` names onto a device ("auto": `best_device`).

        others: folders of parts that take the place of the run's: flow=FOLDER, vocoder=FOLDER.
        CheckpointError if the run is not finished or its parts do not fit, ConfigError if there is no such device.
        """
        place = best_device(device)
        folders = read_parts(run, PARTS) | others
        for name in PARTS:  # not the backbone: that of `small` is no folder, and nobody needs it any more
            if name not in others and not os.path.isdir(folders[name]):
                gone = f"{name} is gone ({folders[name]}); run `mossrepro reproduce` again, or take a packed run"
                raise CheckpointError(f"{run}/parts.json: {gone}")
        model, tokenizer = checkpoint.from_pretrained(Path(folders["sft"]))
        speaker = SpeechDecoder.from_pretrained(folders["flow"], folders["vocoder"], place)
        codec = SpeechCodec.from_pretrained(folders["codec"])
        if codec.config.codes != speaker.flow.codes:
            ours = f"the codec has {codec.config.codes} codes, this flow decoder {speaker.flow.codes}"
            raise CheckpointError(f"{folders['flow']}: {ours}; give one that was trained on the codec's")
        return cls(codec, model, tokenizer, speaker, place)

    def listen(self, wave: np.ndarray) -> np.ndarray:
        """Samples (n,) at 16 kHz -> codes (ceil(n / 1280),)."""
        return self.codec.codes_of(wave)

    def take_voice(self, prompt: Prompt) -> None:
        """Speak in the voice of a prompt from now on. ConfigError where the flow decoder has one voice."""
        self.speaker = self.speaker.in_voice(prompt.voice)
        if self.speaker.flow.shown is not None:
            self.speaker = self.speaker.in_voice(prompt.voice, end_of(prompt.wave, self.listen))

    def reply(
        self,
        prompts: list[Positions],
        config: GenerationConfig | None = None,
        on_code: Callable[[int, int], None] | None = None,
    ) -> list[Reply]:
        """The language model's replies to prepared prompts. `on_code`: see `generate`."""
        return generate(self.model, prompts, self.grid.ids, config, on_code)

    def answer(
        self,
        question: str | Path | np.ndarray,
        spoken: bool = True,
        config: GenerationConfig | None = None,
        form: str = "",
        on_sound: Callable[[np.ndarray], None] | None = None,
    ) -> Answer:
        """Answer a recording.

        Args:
            question: a path, or samples (n,) at 16 kHz.
            spoken: by voice, else in writing.
            config: how the answer is sampled.
            form: one of FORMS; by default what the model was trained for.
            on_sound: is given the samples (n,) of a spoken answer in parts, each as soon as its codes are there. The
                answer's wave is these parts; it is decoded in chunks, also where a whole one would be decoded at once.

        Raises:
            AudioError: it is no speech that one can answer.
            ConfigError: there is no such form.
        """
        if form and form not in FORMS:
            raise ConfigError(f"form={form!r}: choose {' or '.join(FORMS)}")
        given = isinstance(question, np.ndarray)
        if not given:
            check_length(sound_file.header(question).seconds, question)  # before it is decoded
        wave = audio.centred(_mono(question), "the question") if given else audio.load(question, SAMPLE_RATE)
        check_length(len(wave) / SAMPLE_RATE, "the question" if given else question)
        grid = self.grid
        user = grid.turn("user", codes=self.listen(audio.trim(wave, SAMPLE_RATE)))
        prompt = grid.join(grid.system(spoken, FORMS.get(form, "")), user, grid.reply_prefix(spoken))
        if on_sound is None:
            reply = self.reply([prompt], config)[0]
            wave = self.speaker.speak(reply.codes)[0] if reply.codes else np.zeros(0, np.float32)
        else:
            reply, wave = self._reply_aloud(prompt, config, on_sound)
        text = self.tokenizer.decode(reply.text).strip()
        return Answer(wave, self.speaker.vocoder.rate, reply.codes, text, reply.ended)

    def _reply_aloud(
        self, prompt: Positions, config: GenerationConfig | None, on_sound: Callable[[np.ndarray], None]
    ) -> tuple[Reply, np.ndarray]:
        """A reply and its samples, which `on_sound` is given as they are made."""
        session, parts = self.speaker.session(), [np.zeros(0, np.float32)]

        def give(samples: np.ndarray) -> None:
            if len(samples):
                parts.append(samples)
                on_sound(samples)

        reply = self.reply([prompt], config, lambda _, code: give(session.push([code])))[0]
        give(session.close())
        return reply, np.concatenate(parts)


def _mono(samples: np.ndarray) -> np.ndarray:
    """Samples that a caller gives, as float32 (n,). AudioError for none, or more than one axis."""
    if samples.ndim != 1 or not len(samples) or samples.dtype.kind != "f":
        what = f"{samples.dtype} of shape {samples.shape}"
        raise AudioError(f"the question: {what} is no mono recording; give floats (n,) in [-1, 1] at 16 kHz")
    return samples.astype(np.float32, copy=False)


def newest_run(root: Path = Path("runs")) -> Path:
    """The run under `root` that finished last. CheckpointError if there is none."""
    runs = sorted((path.parent for path in root.glob("*/parts.json")), key=finished)
    if not runs:
        raise CheckpointError(
            f"no finished run in {root}/; make one with `mossrepro reproduce`, or talk to the small model that comes "
            "with the repository: --run pack:answers"
        )
    return runs[-1]


class Packets:
    """What `talk --stream` does with the parts of an answer: it times them, and sends them on as 16-bit PCM.

    out: where to; None: nowhere. `first`: seconds from the question to the first sound; None where there was none.
    """

    def __init__(self, out: BinaryIO | None = None) -> None:
        self.out, self.first = out, None
        self._started = time.monotonic()

    def __call__(self, samples: np.ndarray) -> None:
        if self.first is None:
            self.first = time.monotonic() - self._started
        if self.out is not None:
            self.out.write(np.round(samples * 32_767).astype("<i2").tobytes())
            self.out.flush()

    def report(self) -> str:
        """One line about the times."""
        total = time.monotonic() - self._started
        return f"first sound {self.first:.2f} s after the question, the last {total:.2f} s after it"


def talk(args: argparse.Namespace) -> int:
    """`mossrepro talk`: answer a recording, or a sentence spoken by a user voice."""
    run = args.run or newest_run()
    best_device(args.device)  # one that is not there is refused before the work
    if args.say is not None:
        from mossrepro.speech import roster, voices

        wave, rate = voices.say(args.say, args.voice or roster.names(role="held-out")[0])
        question = audio.resample(wave, rate, SAMPLE_RATE)
    else:
        check_length(sound_file.header(args.question).seconds, args.question)  # before it is decoded
        question = audio.load(args.question, SAMPLE_RATE)
    check_length(len(question) / SAMPLE_RATE, args.question or "the sentence to say")
    sent = str(args.output) == "-"
    if not args.text and not sent:
        check_writable(args.output)
    prompt = read_prompt(args.voice_prompt) if args.voice_prompt else None
    others = {name: folder for name in ("flow", "vocoder") if (folder := getattr(args, name)) is not None}
    assistant = Assistant.from_run(run, args.device, **others)
    if prompt is not None:
        assistant.take_voice(prompt)
    packets = Packets(sys.stdout.buffer if sent else None) if args.stream else None
    answer = assistant.answer(question, spoken=not args.text, form=args.form, on_sound=packets)
    if args.text:
        print(answer.text)
    else:
        _deliver(answer, args.output, packets)
    if not answer.ended:
        seconds = len(answer.wave) / answer.rate
        where = f"{len(answer.text.split())} words" if args.text else f"{seconds:.1f} s"
        limit = f"the model did not end it within {GenerationConfig.max_positions} positions"
        print(f"the answer was cut at {where}; {limit}, ask for a shorter one", file=sys.stderr)
    return 0


def _deliver(answer: Answer, output: Path, packets: Packets | None) -> None:
    """Save a spoken answer that has not been sent already, and tell how long it is, and when it came."""
    if str(output) != "-" or not len(answer.wave):
        answer.save(output)
    print(f"{output}: {len(answer.wave) / answer.rate:.2f} s, {len(answer.codes)} codes", file=sys.stderr)
    if packets is not None:
        print(packets.report(), file=sys.stderr)


def check_length(seconds: float, name: str | Path) -> None:
    """Refuse a question that lasts longer than any should, or less than a code. AudioError names the recording."""
    if seconds > LONGEST:
        raise AudioError(f"{name}: {seconds:.0f} s long; questions may last {LONGEST:.0f} s, cut the recording")
    if seconds < SHORTEST:
        raise AudioError(f"{name}: {1000 * seconds:.2g} ms long, too short for a word")


def check_writable(path: Path) -> None:
    """Fail before the work, not after it. AudioError names the file."""
    audio.check_format(path)
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a folder; give a file as -o")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        name = str(path) if len(str(path)) < 300 else str(path)[:100] + "..."
        raise AudioError(f"{name}: cannot write there ({error.strerror}); give another -o") from error
