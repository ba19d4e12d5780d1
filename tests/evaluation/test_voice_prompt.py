"""Likeness of voices by pitch and timbre: it tells synthetic voices apart, whatever they say, and its facts."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mossrepro.data.corpus import Clip
from mossrepro.evaluation import voice_prompt
from mossrepro.speech import voices
from mossrepro.speech.speaker import VOICE_DIM
from mossrepro.training import metrics
from mossrepro.utils.random import rng
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SPEAKERS = ("assistant", "hibari+p2", "hibari+p7", "hibari+p13")
TEXTS = ("The garden is full of green birds and old trees.", "Nobody had seen the captain since the second winter.")


@pytest.fixture(scope="module")
def said() -> list[list[torch.Tensor]]:
    """Both texts by all speakers."""
    return [[torch.from_numpy(voices.say(text, who)[0]) for who in SPEAKERS] for text in TEXTS]


def test_the_same_voices_are_alike_whatever_they_say(said) -> None:
    prompts, others = said
    same = voice_prompt.likeness(others, prompts)
    moved = voice_prompt.likeness([*others[1:], others[0]], prompts)
    assert all(same.found) and not any(moved.found)
    assert same.timbre > 0.5 > 0.1 > moved.timbre and same.semitones < 2 < moved.semitones


def test_a_colour_that_all_sounds_have_is_no_voice(said) -> None:
    """A filter on all of them, as a vocoder may be, and another loudness."""
    prompts, others = said
    dull = [0.3 * torch.nn.functional.avg_pool1d(wave[None], 3, 1, 1)[0] for wave in others]
    plain, filtered = voice_prompt.likeness(others, prompts), voice_prompt.likeness(dull, prompts)
    assert all(filtered.found) and filtered.timbre == pytest.approx(plain.timbre, abs=0.15)


def test_one_voice_for_all_prompts_is_like_none(said) -> None:
    prompts, others = said
    alone = voice_prompt.likeness([others[0]] * len(prompts), prompts)
    assert sum(alone.found) <= 1 and alone.timbre == 0
    hiss = [0.1 * torch.from_numpy(rng(0, i).standard_normal(24_000).astype(np.float32)) for i in range(2)]
    assert math.isnan(voice_prompt.likeness(hiss, prompts[:2]).semitones)


def test_prompts_of_a_run_are_measured(said, tmp_path, monkeypatch) -> None:
    """Four held-out users; an untrained decoder, whose facts need only be there."""
    who, waves = ("af_bella", "am_michael", "kokoro-nezumi", "kokoro-tebukuro"), {}
    for i, name in enumerate(who):
        for j in range(8):
            waves[f"{name}-{j}"] = said[j % 2][i].numpy()
    clips = {id: Clip(id, "", 24_000, len(wave) / 24_000, "", id[:-2], "test") for id, wave in waves.items()}
    monkeypatch.setattr(voice_prompt, "load_clip", lambda folder, clip, rate: waves[clip.id])
    torch.manual_seed(0)
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=1, voice_dim=VOICE_DIM, prompts=True)
    torch.nn.init.normal_(flow.estimator.out.weight, std=0.1), torch.nn.init.normal_(flow.voice.weight)
    decoder, told = SpeechDecoder(flow, Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)), []
    plain = SpeechDecoder.in_voice
    monkeypatch.setattr(SpeechDecoder, "in_voice", lambda self, *voice: (told.append(voice), plain(self, *voice))[1])
    run = SimpleNamespace(
        clips=clips,
        parts={"script": Path("script")},
        speaker=decoder,
        codec=SimpleNamespace(codes_of=lambda wave: np.arange(-(-len(wave) // 1280)) % 16),
        record=lambda fact: metrics.record(tmp_path, fact),
    )
    voice_prompt.measure_prompts(run, [torch.arange(12)])
    found = metrics.read_metrics(tmp_path)
    keys = {f"voice_prompt_{name}_{key}" for name in ("spoken", "vector", "recorded", "unprompted")
            for key in ("semitones", "timbre", "found")}  # fmt: skip
    assert keys == set(found) and len(told) == 8 and not np.allclose(told[0][0], told[1][0])
    assert all(len(said.codes) == 20 for _, said in told[:4]) and [said for _, said in told[4:]] == [None] * 4
    assert found["voice_prompt_recorded_found"].value == 100 and found["voice_prompt_recorded_found"].n == 4
    assert found["voice_prompt_unprompted_timbre"].value == 0 and found["voice_prompt_recorded_semitones"].value < 2
    run.clips = {id: clip for id, clip in clips.items() if clip.speaker == who[0]}
    run.record = None  # nothing is recorded of one user
    voice_prompt.measure_prompts(run, [torch.arange(12)])
    assert len(told) == 8
