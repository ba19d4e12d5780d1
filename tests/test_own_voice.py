"""docs/own-voice.md keeps its promises: every command of it is run, in its order, at the smoke size."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from toy_run import CODES, write_toy_run

from mossrepro import cli
from mossrepro.utils import audio
from mossrepro.utils.random import rng
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import pulse_train

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "own-voice.md").read_text(), re.M | re.S)
QUICK = {
    "fit": "--trainer.max_steps 2 --trainer.accelerator cpu --trainer.enable_progress_bar false",
    "predict": "--trainer.accelerator cpu",
}


def hum(seconds: float, hertz: float) -> np.ndarray:
    """A voice of a sort: pulses that move, and a little noise."""
    import torch

    n = int(24_000 * seconds)
    f0 = torch.from_numpy(hertz * (1 + 0.1 * np.sin(np.arange(n) / 5000)).astype(np.float32))
    noise = rng(0, "hum", int(hertz)).standard_normal(n).astype(np.float32)
    return 0.02 * pulse_train(f0[None], 24_000)[0].numpy() + 0.002 * noise


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a finished run, a question, recordings in the layout of LJSpeech, other people's, and a prompt."""
    monkeypatch.chdir(tmp_path)
    write_toy_run(tmp_path / "runs" / "small", tmp_path / "parts")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    lines = []
    for i in range(20):
        audio.save(f"recordings/wavs/clip-{i}.wav", hum(0.6 + 0.02 * i, 120 + i), 24_000)
        lines.append(f"clip-{i}|number {i} of the birds|number {i} of the birds\n")
    Path("recordings/metadata.csv").write_text("".join(lines))
    for who, hertz in (("anna", 220), ("ben", 100), ("cleo", 260), ("dan", 90)):
        for i in range(3):
            audio.save(f"people/{who}/{i}.wav", hum(0.7, hertz + i), 24_000)
            Path(f"people/{who}/{i}.txt").write_text(f"{who} counts birds {i}")
    audio.save("question.wav", hum(1.0, 180), 24_000), audio.save("me.wav", hum(2.5, 200), 24_000)
    return tmp_path


def test_every_command_runs(desk):
    commands = [shlex.split(line) for block in BLOCKS for line in block.strip().splitlines()]
    assert len(commands) == 11 and {words[0] for words in commands} == {"mossrepro"}
    for _, *words in commands:
        asked = [re.sub(r"size/\w+", "smoke", word) for word in words]
        if words[0] in QUICK:
            asked += [f"--size.codec.codes={CODES}", *QUICK[words[0]].split()]
        Path("answer.wav").unlink(missing_ok=True)
        assert cli.main(asked) == 0, shlex.join(words)
        if words[0] == "talk":
            assert np.abs(audio.load("answer.wav")).max() > 0
        if words[0] == "fit":
            assert json.loads((Path(words[-1]) / "done.json").read_text())["steps"] == 2
    assert FlowDecoder.from_pretrained("runs/my-flow").voice is None
    voices = FlowDecoder.from_pretrained("runs/voices-flow")
    assert voices.voice.weight.any() and voices.shown.weight.any()
