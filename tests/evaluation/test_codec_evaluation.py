"""What the comparison of tokenizers counts, on contests whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mossrepro.codec.lexicon import Lexicon
from mossrepro.data.corpus import Clip, CorpusWriter
from mossrepro.evaluation import codec, measure
from mossrepro.evaluation.codec import Clips, CodecBenchmark, error_rate
from mossrepro.experiments import codec_baselines
from mossrepro.training import metrics

WORDS = {"be": [["B", "IY"]], "bee": [["B", "IY"]], "tea": [["T", "IY"]]}


def clips(*texts: str, known: bool = True) -> Clips:
    rows = [Clip(f"c{i}", "x.wav", 16_000, 0.1, text, "a", "test") for i, text in enumerate(texts)]
    phones = {row.id: [("B", 0.0, 0.1), ("IY", 0.1, 0.2)] for row in rows} if known else {}
    return Clips("nowhere", rows, phones, [np.zeros(1600, np.float32) for _ in rows])


class Deaf:
    """A reader that hears "be" in every code but 7, in which it hears nothing."""

    def transcribe(self, row, lexicon=None):
        return ["" if row[0] == 7 else "be" if lexicon else "B IY"]


def benchmark(tmp_path, **more) -> SimpleNamespace:
    spec = {"lexicon": Lexicon(WORDS), "human_lexicon": Lexicon({"tea": [["T", "IY"]]}), "human": None, "out": tmp_path}
    made = SimpleNamespace(**spec | more)
    made.record = lambda *a, **k: CodecBenchmark.record(made, *a, **k)
    return made


def tokenizer(**more) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "toy", "title": "a toy", "recogniser": Deaf(), "books": 1} | more)


def test_words_that_sound_alike_are_no_errors_and_unknown_phones_do_not_count(tmp_path) -> None:
    board, spoken = benchmark(tmp_path), clips("bee", "tea", "be")
    spoken.phones.pop("c1")
    codes = [np.array([1]), np.array([1]), np.array([7])]
    wrong = codec.words(board, tokenizer(), "toys", spoken, codes)
    found = metrics.read_metrics(tmp_path)
    assert wrong == found["rival_toy_wer_toys"].value == pytest.approx(100 * 2 / 3)
    assert (found["rival_toy_per_toys"].value, found["rival_toy_per_toys"].n) == (50, 4)
    assert found["rival_toy_wer_toys"].low < wrong < found["rival_toy_wer_toys"].high


def test_recorded_speech_is_read_with_its_own_words(tmp_path) -> None:
    recorded = clips("tea")
    board = benchmark(tmp_path, human=recorded)
    assert codec.words(board, tokenizer(), "x", recorded, [np.array([1])]) == 100
    board = benchmark(tmp_path, human=recorded, human_lexicon=Lexicon(WORDS))
    assert codec.words(board, tokenizer(), "x", clips("bee"), [np.array([1])]) == 0


def test_an_error_rate_has_the_interval_of_its_clips() -> None:
    assert error_rate(["a b", "c"], ["a b", "c"]) == (0, 0, 0)
    wrong, low, high = error_rate(["a b"] * 50 + [""], ["a b"] * 25 + ["a x"] * 25 + ["?"])
    assert wrong == pytest.approx(25) and 15 < low < 22 and 28 < high < 35
    assert (low, high) == error_rate(["a b"] * 50, ["a b"] * 25 + ["a x"] * 25)[1:]


def corpora(folder) -> None:
    with CorpusWriter(folder) as writer:
        for split, speaker, text in (
            ("train", "assistant", "one"), ("test", "assistant", "two"), ("test", "stranger", "two"),
            ("test", "stranger", "one"), ("train", "stranger", "three"), ("valid", "stranger", "four"),
        ):  # fmt: skip
            writer.add(
                f"{split}-{speaker}-{text}",
                0.1 * np.sin(np.arange(1600, dtype=np.float32)),
                16_000,
                text,
                speaker,
                split,
            )


@pytest.fixture
def known(monkeypatch) -> None:
    """Every clip has phones, but for the strangers' of validation."""
    monkeypatch.setattr(codec, "phone_times", lambda folder: folder)
    table = {f"{s}-{w}-{t}": [("T", 0.0, 0.1)] for s in ("train", "test") for w in ("assistant", "stranger")
             for t in ("one", "two", "three")}  # fmt: skip
    monkeypatch.setattr(codec, "read_phones", lambda folder: table)


def test_who_is_measured_on_what(tmp_path, known) -> None:
    corpora(tmp_path / "corpus")
    board = CodecBenchmark(tmp_path / "corpus", tmp_path, tmp_path / "corpus")
    assert [clip.id for clip in board.assistant.clips] == ["test-assistant-two"]
    assert [clip.id for clip in board.unseen_speakers.clips] == ["test-stranger-two", "test-stranger-one"]
    assert [clip.id for clip in board.human.clips] == ["test-assistant-two", "test-stranger-two"]  # "one" is trained on
    train, prosody = board.probed
    assert {clip.split for clip in train} == {"train"} and len(prosody) == len(train) + 3
    assert CodecBenchmark(tmp_path / "corpus", tmp_path).human is None


def test_the_probe_is_measured_on_test_clips_only(tmp_path, monkeypatch) -> None:
    train = [Clip("t", "x", 1, 1.0, "one", "a", "train")]
    nothing = SimpleNamespace(pitch=np.zeros(1), energy=np.zeros(1))
    board = benchmark(tmp_path, probed=(train, [nothing, nothing]), test=clips("two"))
    seen = []
    monkeypatch.setattr(codec.prosody, "explained", lambda frames, targets, held_out: seen.append(held_out) or 0.5)
    reader = SimpleNamespace(frames=lambda row: row[..., None])
    codec.prosody_left(board, tokenizer(recogniser=reader, store={"t": np.array([1])}), [np.array([2])])
    assert seen == [[False, True]] * 3 and metrics.read_metrics(tmp_path)["rival_toy_melody"].value == 50


def test_the_worst_condition_is_named_and_kept(tmp_path, monkeypatch) -> None:
    groups = {"strangers": clips("be"), "english": clips("be")}
    board = benchmark(tmp_path, groups=groups, human=clips("be"), human_lexicon=Lexicon(WORDS))
    board.judge = SimpleNamespace(transcribe=lambda waves: ["be" if wave[0] else "no" for wave in waves])
    quiet = {"fine": lambda wave, random: wave, "odd": lambda wave, random: wave + 1}
    monkeypatch.setattr(codec, "CONDITIONS", quiet)
    toy = tokenizer(encode=lambda wave: np.array([7 if wave[0] else 1]))
    assert codec.robustness(board, toy) == "odd"
    found = metrics.read_metrics(tmp_path)
    assert found["rival_toy_wer_worst"].value == 100 and found["rival_toy_wer_recorded_speech"].value == 0
    assert {"rival_toy_wer_odd", "rival_toy_wer_english_odd", "rival_toy_whisper_wer_english_fine"} <= set(found)


def test_what_comes_back_is_compared_with_what_went_in(tmp_path, monkeypatch) -> None:
    time = np.arange(32_000) / 16_000
    wave = (np.sin(2 * np.pi * 300 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)
    recorded = clips("one two")
    recorded.waves = [wave]
    board = benchmark(
        tmp_path,
        device=torch.device("cpu"),
        judge=SimpleNamespace(transcribe=lambda waves: ["one"] * len(waves)),
        speaker=SimpleNamespace(embed=lambda one: np.eye(2)[int(one[100] != wave[100])]),
    )
    monkeypatch.setattr(codec, "predicted_mos", lambda waves, device: [3.0] * len(waves))
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    for name, back in (("same", wave), ("noise", noise)):
        codec.sound(board, tokenizer(), name, recorded, [np.pad(back, (0, 500))])
    found = {key: fact.value for key, fact in metrics.read_metrics(tmp_path).items()}
    assert found["rival_toy_back_wer_same"] == 50 and found["rival_toy_mos_same"] == 3
    assert found["rival_toy_similarity_same"] == 1 and found["rival_toy_similarity_noise"] == 0
    assert found["rival_toy_stoi_same"] > 0.99 > 0.5 > found["rival_toy_stoi_noise"]


def test_ratios_and_adaptation_point_the_right_way(tmp_path) -> None:
    board = benchmark(tmp_path, human=clips("be", "be"), human_lexicon=Lexicon(WORDS))
    rows = {"ours_wer_strangers": 10, "kmeans_wer_strangers": 30, "reconstruction_wer_strangers": 20,
            "acoustic_wer_strangers": 40, "ours_wer_recorded_speech": 80}  # fmt: skip
    for name, value in rows.items():
        metrics.record(tmp_path, metrics.Metric(f"rival_{name}", name, value))
    codec_baselines._ratios(tmp_path)
    board.human.waves = [np.zeros(5), np.ones(5)]
    late = tokenizer(name="late", encode=lambda wave: np.array([7 if wave[0] else 1]))
    codec_baselines._adaptation(board, codec, late)
    found = {key: fact.value for key, fact in metrics.read_metrics(tmp_path).items()}
    assert [found[f"rival_{name}_ratio"] for name in ("kmeans", "reconstruction", "acoustic")] == [3, 2, 4]
    assert found["adaptation"] == pytest.approx(100 * (1 - 50 / 80))


def test_natural_sentences_are_a_group_of_their_own(tmp_path, monkeypatch) -> None:
    spoken = {}
    with CorpusWriter(tmp_path) as corpus:
        for name in ("test-af_bella-0", "test-natural-af_bella-0", "test-kokoro-nezumi-0", "test-assistant-0"):
            voice = name.removeprefix("test-").removeprefix("natural-").removesuffix("-0")
            corpus.add(name, 0.1 * np.sin(np.arange(1600, dtype=np.float32)), 16_000, "be", voice, "test")
            spoken[name] = [("B", 0.0, 0.1)]
    monkeypatch.setattr(codec, "phone_times", lambda folder: folder)
    monkeypatch.setattr(codec, "read_phones", lambda folder: spoken)
    board = CodecBenchmark(tmp_path, tmp_path)
    groups = {name: [clip.id for clip in some.clips] for name, some in board.groups.items()}
    assert groups == {
        "english": ["test-af_bella-0"],
        "strangers": ["test-kokoro-nezumi-0"],
        "assistant": ["test-assistant-0"],
        "natural": ["test-natural-af_bella-0"],
    }
    assert [measure._group(clip) for clip in board.manifest] == ["english", "natural", "strangers", "assistant"]
    assert "test-natural-af_bella-0" not in {clip.id for clip in board.test.clips}
