"""What the stages read at the smoke size, made once for all tests of this room."""

import json
from dataclasses import asdict, replace

import pytest
from codec_toys import TINY
from stage_runs import flags, train

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.facts import all_facts
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.speech import voices
from mossrepro.utils.random import rng


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Eight sentences of the assistant, random codes of them in a token store, and a codec that knows nothing."""
    folder = tmp_path_factory.mktemp("corpus")
    SpeechCodec(replace(TINY, codes=64)).save_pretrained(folder / "codec")
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
    folder = tmp_path_factory.mktemp("script")
    known = all_facts()[:24]
    lines = write_script(
        known, ScriptRecipe(user_speech=8, assistant_speech=8, question=1, kokoro=0, tests=1, test_facts=1, words=200)
    )
    (folder / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    (folder / "facts.json").write_text(json.dumps(known))
    said = [line for line in lines if line.role == "assistant_speech"]
    times = {line.id: [[w, 0.3 * i, 0.3 * i + 0.3] for i, w in enumerate(line.text.split())] for line in said}
    (folder / "words.json").write_text(json.dumps(times))
    texts = [*(line.text for line in lines), "system user assistant Repeat: You are a helpful assistant."] * 2
    mini_tokenizer(texts, 400).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def backbone(corpus, script, tmp_path_factory):
    """A mini text model of two steps, which the later stages start from."""
    out = tmp_path_factory.mktemp("backbone") / "out"
    assert train("backbone", out, *flags("backbone", corpus, script)) == 0
    return out
