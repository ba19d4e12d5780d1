import io
import tarfile

import numpy as np
import pytest

from mossrepro.speech import roster, voices
from mossrepro.utils import assets
from mossrepro.utils.errors import AssetError, ConfigError


def _pitch(wave):
    """Median fundamental frequency from the autocorrelation of loud frames."""
    found = []
    for at in range(0, len(wave) - 1920, 480):
        frame = wave[at : at + 1920] * np.hanning(1920)
        if np.square(frame).mean() > 0.2 * np.square(wave).mean():
            r = np.correlate(frame, frame, "full")[1919:]
            lag = 48 + r[48:400].argmax()  # 60 to 500 Hz
            if r[lag] > 0.4 * r[0]:
                found.append(24_000 / lag)
    return float(np.median(found))


def test_at_least_two_voices_are_held_out_by_identity():
    held_out = roster.names(role="held-out", roster="all")
    assert len(held_out) == 9 and len(roster.names(role="held-out")) == 2
    forbidden = {style for name in held_out for style, _ in roster.VOICES[name].styles}
    for voice in roster.VOICES.values():
        if voice.role != "held-out":
            assert forbidden.isdisjoint(style for style, _ in voice.styles), voice.name
        assert voice.base == "" or roster.VOICES[voice.base].role != "held-out"
    assert [voice.name for voice in roster.VOICES.values() if voice.role == "assistant"] == ["assistant"]


def test_groups_of_held_out_voices():
    groups = {name: roster.names(group=name, roster="all") for name in roster.HELD_OUT}
    assert {name: len(voices) for name, voices in groups.items()} == {"english": 4, "accents": 3, "strangers": 2}
    assert {name[:2] for name in groups["english"]} == {"af", "am", "bf", "bm"}
    assert set(roster.asking_voices("all")) == {*groups["english"], *groups["accents"]}
    assert roster.asking_voices("five") == groups["strangers"] == roster.names(role="held-out")
    assert roster.group_of("bf_emma") == "english" and roster.group_of("mix-1") == "" == roster.group_of("somebody")


def test_rosters():
    assert set(roster.names()) < set(roster.names(roster="all"))
    mixtures = [voice for voice in roster.VOICES.values() if voice.name.startswith("mix-") and not voice.base]
    assert len(mixtures) == 48
    for voice in mixtures:
        weights = [weight for _, weight in voice.styles]
        assert sum(weights) == pytest.approx(1) and min(weights) > 0 and len({style for style, _ in voice.styles}) == 3
    assert roster.variants("mix-1", "all") == ["mix-1+p1", "mix-1+p2"] and roster.variants("mix-1") == []
    with pytest.raises(ConfigError, match="no roster 'most' of voices; known: five, all"):
        roster.names(roster="most")


@pytest.fixture
def styles(tmp_path, monkeypatch):
    """An npm package with one right and one short style table."""
    path = tmp_path / "kokoro.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name, count in (("af_heart", 510 * 256), ("af_sky", 7)):
            raw = np.arange(count, dtype="<f4").tobytes()
            info = tarfile.TarInfo(f"package/voices/{name}.bin")
            info.size = len(raw)
            package.addfile(info, io.BytesIO(raw))
    get = assets.get
    monkeypatch.setattr(assets, "get", lambda name: path if name == "kokoro-styles" else get(name))
    voices.style_table.cache_clear()
    yield path
    voices.style_table.cache_clear()


def test_style_tables(styles):
    assert voices.style_table("af_heart").shape == (510, 1, 256) == voices.style_table("jf_alpha").shape
    with pytest.raises(AssetError, match="'af_sky' has shape"):
        voices.style_table("af_sky")
    with pytest.raises(AssetError, match="holds no style 'am_onyx'"):
        voices.style_table("am_onyx")


def test_the_same_text_and_voice_give_the_same_samples():
    first, rate = voices.say("a quiet river", "hibari+p1")
    assert rate == 24_000 and first.dtype == np.float32 and 0.05 < np.abs(first).max() <= 0.95
    voices.say("something else", "hibari+p2")
    assert np.array_equal(voices.say("a quiet river", "hibari+p1")[0], first)
    assert not np.array_equal(voices.say("a quiet river", "assistant")[0], first)


def test_pseudo_speakers_have_the_pitch_and_speed_they_claim():
    text = "the old man was walking along the river every morning"
    plain = voices.say(text, "assistant")[0]
    low = min(roster.names("hibari", "train"), key=lambda name: roster.VOICES[name].pitch)
    voice, wave = roster.VOICES[low], voices.say(text, low)[0]
    assert _pitch(wave) / _pitch(plain) == pytest.approx(voice.pitch, rel=0.1)
    slow = min(roster.names("hibari", "train"), key=lambda name: roster.VOICES[name].speed)
    assert len(plain) / len(voices.say(text, slow)[0]) == pytest.approx(roster.VOICES[slow].speed, rel=0.1)


def test_kokoro_speaks_and_its_pseudo_speakers_share_its_wave(monkeypatch):
    plain = voices.say("blue sky", "kokoro-alpha")[0]
    monkeypatch.setattr(voices, "_kokoro_session", lambda: pytest.fail("the engine spoke again"))
    other = voices.say("blue sky", "kokoro-alpha+p1")[0]
    voice = roster.VOICES["kokoro-alpha+p1"]
    assert len(plain) / len(other) == pytest.approx(voice.speed, rel=0.12)
    assert np.abs(plain).max() > 0.1 and np.abs(other).max() > 0.1


@pytest.mark.parametrize("speed", [0.8, 1.3])
def test_stretching_changes_the_length_and_keeps_the_pitch(speed):
    tone = (0.3 * np.sin(2 * np.pi * 200 * np.arange(48_000) / 24_000)).astype(np.float32)
    out = voices.stretch(tone, speed)
    assert len(tone) / len(out) == pytest.approx(speed, rel=0.03)
    middle = out[4_000:-4_000]
    assert _pitch(middle) == pytest.approx(200, rel=0.02)
    assert np.abs(middle).max() == pytest.approx(0.3, rel=0.05)


def test_unknown_voices_and_wordless_texts_are_refused():
    with pytest.raises(ConfigError, match="unknown voice 'nobody'.*assistant"):
        voices.say("hello", "nobody")
    with pytest.raises(ConfigError, match="nothing to say"):
        voices.say(" ... ", "assistant")
