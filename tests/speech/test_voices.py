import numpy as np
import pytest

from mossrepro.speech import roster, voices
from mossrepro.utils.errors import ConfigError


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
    held_out = roster.names(role="held-out")
    assert len(held_out) >= 2
    forbidden = {style for name in held_out for style, _ in roster.VOICES[name].styles}
    for voice in roster.VOICES.values():
        if voice.role != "held-out":
            assert forbidden.isdisjoint(style for style, _ in voice.styles), voice.name
        assert voice.base == "" or roster.VOICES[voice.base].role != "held-out"
    assert [voice.name for voice in roster.VOICES.values() if voice.role == "assistant"] == ["assistant"]


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
