"""The meter of the freeze promise shows 0 for kept bits and more for a single weight that moved."""

import hashlib

import pytest
import torch
from tokenizers import Tokenizer

from mossrepro.evaluation import text_retention
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.evaluation.text_retention import measure_text_retention, perplexity
from mossrepro.lm.checkpoint import save_pretrained
from mossrepro.lm.grid import Grid
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import gguf_tokenizer
from mossrepro.training import metrics
from mossrepro.utils import assets

TEXT_SHA256 = "df97af195712d27603c59969fa534b0267213346e35d29cf1f723be5fb478109"


def staged(folder, tmp_path, moved="", system_turns="short") -> dict[str, str]:
    """The parts of a run of toys, whose Stage 1 has moved what it may, and a weight that it may not."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    ids = Grid(tokenizer, 40).ids
    shape = {"dim": 32, "layers": 3, "tail_layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
    model = LayerSplitLM(
        LMConfig(
            **shape, text_vocab=tokenizer.get_vocab_size(), codes=40, modality_pad=ids.pad, system_turns=system_turns
        )
    )
    save_pretrained(model, tokenizer, tmp_path / "backbone")
    with torch.no_grad():
        model.speech_head.weight.add_(1.0)  # what Stage 1 may move
        if moved:
            model.get_parameter(moved).view(-1)[0] += 0.01
    save_pretrained(model, tokenizer, tmp_path / "stage1")
    later = {"stage2": str(tmp_path / "stage1"), "sft": str(tmp_path / "stage1")}
    return {name: str(tmp_path / name) for name in ("backbone", "stage1")} | {"script": str(folder)} | later


@pytest.mark.parametrize("moved", ["", "trunk.0.mlp.up_proj.weight", "text_tail.0.input_layernorm.weight"])
def test_the_meter_sees_a_weight_that_moved(folder, tmp_path, moved) -> None:
    parts = staged(folder, tmp_path, moved)
    bench = RunArtifacts(parts, tmp_path)
    bench.codes = {}  # text questions need none
    bench.record(metrics.Metric("t2t_c", "asked with the other pairings", 25.0, "%"))
    for pairing in ("s2t", "s2s"):
        bench.record(metrics.Metric(f"{pairing}_c", "asked by voice", 8.0, "%", 4.0, 12.0, "Wilson", 74))
    measure_text_retention(bench)
    found = metrics.read_metrics(tmp_path)
    assert (found["stage1_text_change"].value > 0) == bool(moved)
    assert found["t2t_c_before"].n == found["t2t_c_stage2"].n > 0
    assert found["t2t_c_lost"].value == found["t2t_c_before"].value - 25.0
    assert {"s2t_c_kept", "s2s_c_kept"} <= set(found) and "t2t_c_sentences" not in found
    before, after = found["perplexity_before"], found["perplexity_stage1"]
    assert (before.value != after.value) == bool(moved) and before.n == after.n > 1000


def test_answers_of_one_word_are_asked_for_in_sentences_too(folder, tmp_path, monkeypatch) -> None:
    """As the untouched model is: of the points lost, those of the form are told apart."""
    parts, forms = staged(folder, tmp_path, system_turns="word"), []
    bench = RunArtifacts(parts | {"style": parts["stage1"]}, tmp_path)
    right = {"short": [60.0, 58.5], "word": [31.0]}

    def score(artifacts, model, tokenizer):
        forms.append(model.grid(tokenizer).system_turns)
        return metrics.Metric("t2t_c", "asked", right[forms[-1]].pop(0), "%")

    monkeypatch.setattr(text_retention, "_text_answers", score)
    bench.record(metrics.Metric("t2t_c", "asked with the other pairings", 31.0, "%"))
    measure_text_retention(bench)
    found = metrics.read_metrics(tmp_path)
    assert forms == ["short", "word", "short"]
    assert (found["t2t_c_stage2"].value, found["t2t_c_lost"].value) == (31.0, 29.0)
    assert (found["t2t_c_sentences"].value, found["t2t_c_sentences_lost"].value) == (58.5, 1.5)


def test_what_comes_out_by_voice_is_a_share_of_what_was_known() -> None:
    kept = text_retention._by_voice(metrics.Metric("s2t_c", "by voice", 60.0, "%", 40.0, 72.0, "Wilson", 74), 80.0)
    assert (kept.id, kept.value, kept.low, kept.high, kept.n) == ("s2t_c_kept", 75.0, 50.0, 90.0, 74)


def test_perplexity_is_that_of_the_next_piece(folder, monkeypatch) -> None:
    """Asked for what comes next; a model that finds all pieces equally likely is as perplexed as there are pieces."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    shape = {"dim": 32, "layers": 2, "tail_layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
    model = LayerSplitLM(LMConfig(**shape, text_vocab=size, codes=40, modality_pad=Grid(tokenizer, 40).ids.pad))
    monkeypatch.setattr(text_retention, "WINDOWS", 1)
    ids = tokenizer.encode(text_retention.fixed_text(), add_special_tokens=False).ids[: text_retention.WINDOW]
    with torch.no_grad():
        logits = model.text_head(model(torch.tensor([[[id, 0] for id in ids]])).text[0])
        told = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        assert perplexity(model, tokenizer)[0] == pytest.approx(float((-told.mean()).exp()), rel=1e-4)
        model.text_norm.weight.zero_()
    monkeypatch.undo()
    value, count = perplexity(model, tokenizer)
    assert value == pytest.approx(size, rel=1e-4) and count == 6 * 511


def test_the_text_is_the_same_with_every_python(monkeypatch) -> None:
    """Its numbers can be compared between machines only while nobody changes it; it fills all windows of SmolLM2."""
    text = text_retention.fixed_text()
    assert hashlib.sha256(text.encode()).hexdigest() == TEXT_SHA256, "another text: raise VERSIONS['evaluation']"
    ids = gguf_tokenizer(assets.get("smollm2")).encode(text, add_special_tokens=False).ids
    assert len(ids) >= text_retention.WINDOW * text_retention.WINDOWS
    monkeypatch.setattr(text_retention, "PROSE", None)  # the numbers of earlier versions
    assert "Objects" in text_retention.fixed_text()
