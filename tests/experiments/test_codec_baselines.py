"""The comparison of tokenizers through its real door, at smoke size: everybody is trained, read and measured."""

import json

import numpy as np
import pytest
import soundfile
import torch

from mossrepro import cli
from mossrepro.evaluation import tokenizers
from mossrepro.experiments import codec_baselines
from mossrepro.experiments import stages as chain_module
from mossrepro.training import metrics
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError

NO_CONDITION = ("strangers", "assistant", "worst")


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Stages run in this process: a new one imports for ten seconds."""

    def stage(name: str, command: list[str]) -> None:
        assert cli.main(command) == 0, name

    monkeypatch.setattr(chain_module, "run_stage", stage)


def record(folder, count: int = 12) -> None:
    """A few prompts in the layout of the recorded speech."""
    from mossrepro.speech import voices

    folder.mkdir()
    rows = ["file\tseconds\ttext"]
    for i in range(count):
        wave, rate = voices.say(f"please press button number {i}", "hibari+p2")
        soundfile.write(folder / f"prompt-{i}.flac", wave, rate)
        rows.append(f"prompt-{i}.flac\t{len(wave) / rate:.2f}\tplease press button number {i}")
    (folder / "transcripts.tsv").write_text("\n".join(rows) + "\n")


def test_everybody_is_compared_and_a_second_time_takes_seconds(tmp_path, monkeypatch, in_process, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "prompts")
    monkeypatch.setenv("MOSSREPRO_HUMAN", str(tmp_path / "prompts"))
    from encodec import EncodecModel

    torch.save(EncodecModel.encodec_model_24khz(pretrained=False).state_dict(), "encodec.th")
    command = ["eval", "codec", "--size", "smoke", "--encodec", "encodec.th", "--ablations"]
    assert cli.main(command) == 0
    run = tmp_path / "runs" / "smoke"
    found = {path.stem: json.loads(path.read_text())["value"] for path in (run / "facts").glob("*.json")}
    assert all(np.isfinite(value) for value in found.values())
    read, back = ("wer_strangers", "per_assistant", "used", "pnmi", "melody"), ("back_wer", "similarity", "stoi", "mos")
    for name in ("ours", "finite", "distilled", "reconstruction", "kmeans", "acoustic", "acoustic_stack"):
        assert {f"rival_{name}_{what}" for what in read} <= set(found)
    for name in ("ours", "acoustic", "acoustic_stack", "encodec", "original"):
        assert {f"rival_{name}_{what}_{who}" for what in back for who in ("strangers", "assistant")} <= set(found)
    assert found["rival_original_similarity_assistant"] == pytest.approx(1) != found["rival_ours_similarity_assistant"]
    conditions = {k.split("wer_")[1]: v for k, v in found.items() if k.startswith("rival_ours_wer_")}
    assert found["rival_ours_wer_worst"] == max(v for k, v in conditions.items() if k not in NO_CONDITION)
    assert found["rival_ours_bits"] == found["rival_kmeans_bits"] == found["rival_acoustic_bits"] == 75
    assert found["rival_acoustic_stack_bits"] == 600 and found["rival_encodec_bits"] == 1500
    assert {
        "rival_ours_wer_noise_at_5_dB",
        "rival_ours_wer_recorded_speech",
        "adaptation",
        "adaptation_changed",
    } <= set(found)
    assert found["rival_ours_stream_differs"] == found["rival_ours_stream_differs_clear"] == 0
    assert "rival_kmeans_ratio" in found and found["rival_acoustic_minutes"] > 0
    assert (run / "codes.png").stat().st_size > 10_000
    assert "k means" not in capsys.readouterr().err
    monkeypatch.setattr(chain_module, "run_stage", lambda *_: pytest.fail("everything is cached"))
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "kmeans" in printed and "noise at 5 dB" in printed
    asked = measured_as(monkeypatch, 50.0)
    monkeypatch.setattr(codec_baselines, "VERSION", str(tmp_path))  # nobody else finds these numbers in the cache
    assert cli.main(command[:4]) == 0  # fewer tokenizers: another comparison, and what was measured before stays
    assert asked == ["ours", "reconstruction", "kmeans", "acoustic", "acoustic_stack"]
    assert "finite" in capsys.readouterr().out
    again = {path.stem: json.loads(path.read_text())["value"] for path in (run / "facts").glob("*.json")}
    assert (
        again["rival_kmeans_ratio"] == 1 and again["rival_finite_wer_strangers"] == found["rival_finite_wer_strangers"]
    )


def measured_as(monkeypatch, errors: float) -> list[str]:
    """Every tokenizer makes so many word errors, from here on, and no more is measured: a list of who was asked."""
    asked: list[str] = []

    def measure(benchmark, tokenizer) -> None:
        asked.append(tokenizer.name)
        for what in (f"{tokenizer.name}_wer_strangers", "ours_wer_recorded_speech"):
            metrics.record(benchmark.out, metrics.Metric(f"rival_{what}", "word errors", errors, "%"))

    monkeypatch.setattr("mossrepro.evaluation.codec.measure", measure)
    for name in ("sound", "streamed", "robustness"):
        monkeypatch.setattr(f"mossrepro.evaluation.codec.{name}", lambda *_: "")
    return asked


@pytest.mark.parametrize(("codes", "levels"), [(1024, (8, 8, 4, 4)), (64, (8, 8)), (256, (8, 8, 4)), (2, (2,))])
def test_levels_make_as_many_codes(codes, levels) -> None:
    assert codec_baselines.finite_levels(codes) == levels
    with pytest.raises(ConfigError, match="powers of two"):
        codec_baselines.finite_levels(1000)


def test_weights_that_are_not_encodecs_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        tokenizers.encodec(tmp_path / "none.th")

    class Malicious:
        def __reduce__(self):
            return (pytest.fail, ("code in a pickle was run",))

    for content in ({"a": torch.zeros(1)}, Malicious()):
        torch.save(content, tmp_path / "bad.th")
        with pytest.raises(CheckpointError, match="bad.th"):
            tokenizers.encodec(tmp_path / "bad.th")
