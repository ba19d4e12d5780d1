"""What the stages read at the smoke size, made once for all tests of this room."""

from dataclasses import replace

import pytest
from codec_toys import TINY
from stage_runs import flags, train, write_lines

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenWriter
from mossrepro.speech import voices
from mossrepro.utils.random import rng
from mossrepro.vocoder.task import VocoderTask


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Eight sentences of the assistant, random codes of them in a token store, an untrained codec and vocoder."""
    folder = tmp_path_factory.mktemp("corpus")
    SpeechCodec(replace(TINY, codes=64)).save_pretrained(folder / "codec")
    VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16).save_pretrained(folder / "vocoder")
    codes = []
    with CorpusWriter(folder / "clips") as clips:
        for i, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"]):
            text = f"there are {word} birds in the garden"
            wave, rate = voices.say(text)
            clips.add(f"c{i}", wave, rate, text, "assistant", "train" if i < 6 else "valid")
            codes.append((f"c{i}", rng(1, i).integers(0, 64, -(-len(wave) // 1920))))
    with TokenWriter(folder / "tokens", 64) as tokens:
        tokens.add(codes)
    return folder


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    """A script of a few facts that nobody has spoken: with oracle codes the language model needs no sound."""
    return write_lines(tmp_path_factory.mktemp("script") / "lines")


@pytest.fixture(scope="session")
def backbone(corpus, script, tmp_path_factory):
    """A mini text model of two steps, which the later stages start from."""
    out = tmp_path_factory.mktemp("backbone") / "out"
    assert train("backbone", out, *flags("backbone", corpus, script)) == 0
    return out
