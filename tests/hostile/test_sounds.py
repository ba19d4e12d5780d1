"""Recordings of all sorts: `talk` and every reader of sound is right about them, or says one line before the work."""

import os
import stat
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from codec_toys import TINY
from hostile_sounds import RATE, WAVE, lying_flac, pcm, sparse, wav

from mossrepro import cli
from mossrepro.codec import SpeechCodec
from mossrepro.pipeline import Answer, Assistant
from mossrepro.utils import audio, sound_file
from mossrepro.utils.errors import AudioError


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """Runs `mossrepro talk` in an empty folder, with a stub of a run: (exit code, error output, questions)."""
    questions = []

    def answer(question, **_):
        questions.append(question)
        return Answer(np.full(36_000, 0.1, np.float32), 24_000, [1] * 19, "one two three", True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Assistant, "from_run", classmethod(lambda cls, run, device: SimpleNamespace(answer=answer)))

    def run(question, *flags):
        questions.clear()
        code = cli.main(["talk", str(question), "--run", "x", *flags])
        return code, capsys.readouterr().err, list(questions)

    return run


def wide(path, channels, rate=RATE):
    soundfile.write(path, np.stack(channels, 1), rate, subtype="FLOAT")
    return path


REFUSED = {  # a file: what the line says
    "x.raw": (lambda path: path.write_bytes(pcm(WAVE)), "not a sound file"),
    "one-hertz.wav": (lambda path: wav(path, pcm(WAVE[:20_000]), 1), "1 Hz"),
    "fast.wav": (lambda path: wav(path, pcm(WAVE), 2_000_000_000), "2000000000 Hz"),
    "long.flac": (lambda path: lying_flac(path, 1 << 35), "s long; questions may last 30 s"),
    "hour.wav": (lambda path: sparse(path, 3_600), "3600 s long; questions may last 30 s"),
    "short.wav": (lambda path: wav(path, pcm(WAVE[:5]), 192_000), "too short"),
    "cancel.wav": (lambda path: wide(path, [np.zeros(RATE)] * 2), "silent"),
    "offset.wav": (lambda path: wav(path, pcm(np.full(RATE, 0.5))), "silent"),
    "none.wav": (lambda path: wav(path, b""), "too short"),
    "line.wav": (lambda path: path.write_text("\n"), "not a sound file"),
    "pipe.wav": (lambda path: os.mkfifo(path), "not a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_talk_refuses_in_one_line_that_names_the_file(name, talk, tmp_path):
    make, said = REFUSED[name]
    make(tmp_path / name)
    tracemalloc.start()
    started = time.monotonic()
    code, err, questions = talk(tmp_path / name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == 2 and err.count("\n") == 1 and name in err and said in err, err
    assert not questions and most < 100 << 20 and time.monotonic() - started < 5


def test_a_name_that_no_file_system_has_is_one_line(talk):
    code, err, _ = talk("x" * 5_000 + ".wav")
    assert code == 2 and err.count("\n") == 1 and len(err) < 400, err
    soundfile.write("q.wav", WAVE, RATE)
    code, err, questions = talk("q.wav", "-o", "x" * 5_000 + ".wav")
    assert code == 2 and err.count("\n") == 1 and len(err) < 400 and not questions, err


def heard(path) -> np.ndarray:
    """A file at 16 kHz, which holds the tone of WAVE."""
    wave = audio.load(path)
    assert abs(np.abs(np.fft.rfft(wave)).argmax() / len(wave) * RATE - RATE / 9 / 2 / np.pi) < 2
    return wave


def test_a_header_without_a_length_is_read_to_the_end(tmp_path):
    """As a recorder writes that was ended, or one that writes into a pipe."""
    for length in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFF0):
        for whole in (0, 0xFFFFFFFF, 36):
            wave = heard(wav(tmp_path / "x.wav", pcm(WAVE), length=length, whole=whole))
            assert len(wave) == RATE and np.abs(wave - WAVE).max() < 1e-3, (length, whole)


def test_a_flac_that_lies_about_its_length_is_refused(tmp_path):
    lies = {
        RATE * 20: "cut short",
        0: "how long it is",
        1 << 35: "cut the recording",
        (1 << 36) - 1: "cut the recording",
    }
    for frames, said in lies.items():
        with pytest.raises(AudioError, match=f"x.flac: .*{said}"):
            audio.load(lying_flac(tmp_path / "x.flac", frames))


def test_channels_that_cancel_are_not_mixed(tmp_path):
    for channels in ([WAVE, -WAVE], [WAVE, -0.999 * WAVE], [0 * WAVE, WAVE, -WAVE]):
        wave = heard(wide(tmp_path / "x.wav", channels))
        assert np.abs(np.abs(wave).max() - 0.3) < 0.01
    for channels in ([WAVE, WAVE], [WAVE, 0 * WAVE], [WAVE] + [0 * WAVE] * 7):  # these are averaged, as ever
        expected = np.stack(channels).mean(0)
        assert np.abs(heard(wide(tmp_path / "x.wav", channels)) - expected).max() < 1e-6


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000, 192_000])
def test_any_rate_and_number_of_channels(rate, tmp_path):
    tone = 0.3 * np.sin(np.arange(rate) * RATE / 9 / rate)
    wave = heard(wide(tmp_path / "x.wav", [tone, tone], rate))
    assert len(wave) == RATE and np.abs(wave - WAVE)[500:-500].max() < 0.01


def test_an_offset_is_taken_away_and_small_ones_stay(tmp_path):
    wave = heard(wide(tmp_path / "x.wav", [WAVE * 0.5 + 0.4]))
    assert abs(wave.mean()) < 1e-3 and np.abs(wave - 0.5 * WAVE).max() < 1e-3
    small = WAVE + np.float32(0.001)
    assert np.array_equal(audio.load(wide(tmp_path / "x.wav", [small])), small)


@pytest.mark.parametrize("kind", ["short", "gap", "stereo", "8 kHz"])
def test_the_codec_hears_them(kind, tmp_path):
    """A tenth of a second; two seconds of digital silence between words; a telephone."""
    gap = np.concatenate([WAVE, np.zeros(2 * RATE, np.float32), WAVE])
    waves = {"short": [WAVE[:1_600]], "gap": [gap], "stereo": [WAVE, WAVE], "8 kHz": [WAVE[::2]]}[kind]
    path = wide(tmp_path / "x.wav", waves, 8_000 if kind == "8 kHz" else RATE)
    wave = torch.from_numpy(audio.load(path))[None]
    mel = audio.whisper_mel(wave)
    assert mel.isfinite().all() and audio.mel24(wave).isfinite().all()
    codes = SpeechCodec(TINY).prepare_for_inference(torch.device("cpu")).encode(wave)
    assert codes.shape == (1, -(-wave.shape[1] // 1_280)) and ((codes >= 0) & (codes < 16)).all()


def test_more_than_can_be_held_is_refused_before_and_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_file, "MOST_SAMPLES", 30_000)
    with pytest.raises(AudioError, match="x.wav: .*cut the recording"):
        audio.load(wide(tmp_path / "x.wav", [WAVE, WAVE]), 48_000)  # as many samples as they would become
    assert len(audio.load(tmp_path / "x.wav", 24_000)) == 24_000
    with pytest.raises(AudioError, match="x.wav: .*cut the recording"):
        audio.load(wide(tmp_path / "x.wav", [np.tile(WAVE, 2)]))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_an_answer_is_written_in_the_format_that_was_asked_for(suffix, talk, tmp_path):
    soundfile.write("q.wav", WAVE, RATE)
    code, err, _ = talk("q.wav", "-o", f"answer{suffix}")
    assert code == 0, err
    info = soundfile.info(tmp_path / f"answer{suffix}")
    assert abs(info.duration - 1.5) < 0.1 and (tmp_path / f"answer{suffix}").read_bytes()[:3] in (
        {".wav": [b"RIF"], ".flac": [b"fLa"], ".ogg": [b"Ogg"], ".opus": [b"Ogg"]}.get(suffix)
        or [b"ID3", b"\xff\xf3\x84", b"\xff\xf3\x64"]
    )


@pytest.mark.parametrize("name", ["answer.xyz", "answer", "answer.raw", "folder.wav", "nowhere/answer.wav"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(name, talk, tmp_path):
    soundfile.write("q.wav", WAVE, RATE)
    (tmp_path / "folder.wav").mkdir()
    code, err, questions = talk("q.wav", "-o", name)
    assert code == 2 and name in err and err.count("\n") == 1 and not questions, err


@pytest.mark.parametrize("length", [230, 245, 251])
def test_long_names_are_read_and_written(length, talk, tmp_path):
    question, answer = ("ü" * (length // 2) + ".wav")[-length:], "a" * length + ".wav"
    soundfile.write(question, WAVE, RATE)
    code, err, _ = talk(question, "-o", answer)
    assert code == 0, err
    assert (tmp_path / answer).is_file() and len(list(tmp_path.iterdir())) == 2


def test_names_that_are_not_utf8_are_read(talk, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    wav(tmp_path / name, pcm(WAVE))
    code, err, questions = talk(tmp_path / name)
    assert code == 0 and len(questions[0]) == RATE, err


@pytest.mark.parametrize("name", ["x.m4a", "x.webm"])
def test_other_formats_name_what_reads_them(name, talk, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    code, err, _ = talk(name)
    assert code == 2 and name in err and "ffmpeg" in err and "pip install av" in err, err
    tool = tmp_path / "ffmpeg"  # a stand-in: writes what it was asked for, and its arguments
    soundfile.write(tmp_path / "decoded.wav", np.stack([WAVE, WAVE], 1), RATE)
    tool.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\n/bin/cat "{tmp_path}/decoded.wav"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    code, err, questions = talk(name)
    assert code == 0 and np.abs(questions[0] - WAVE).max() < 1e-3, err
    asked = (tmp_path / "asked").read_text()  # a playlist in the place of a sound must not open other files
    assert f"file:{name}" in asked and ("-f mov" in asked or "-f matroska" in asked)
    tool.write_text("#!/bin/sh\nexit 1\n")
    code, err, _ = talk(name)
    assert code == 2 and name in err and err.count("\n") == 1, err


def test_m4a_is_decoded_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "x.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(WAVE[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    wave = audio.load(tmp_path / "x.m4a")
    assert abs(len(wave) - RATE) < 3_000
