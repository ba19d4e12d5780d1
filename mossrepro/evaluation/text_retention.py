"""What every stage leaves of the text model: its logits, its answers in writing, its perplexity on a real text."""

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from mossrepro.evaluation import spoken_qa
from mossrepro.evaluation.artifacts import RunArtifacts, ask_questions
from mossrepro.lm import checkpoint
from mossrepro.lm.grid import PROSE as SENTENCES
from mossrepro.lm.grid import Grid
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.lm.init_from import open_start
from mossrepro.lm.model import LayerSplitLM
from mossrepro.training import metrics

# What the perplexity is measured on: 3,000 tokens of plain prose that was written for it, so that no model has seen it.
# None: the language reference that comes with the Python in use, which is another text in every version of it (until
# version 8 of the evaluation).
PROSE: Path | None = Path(__file__).with_name("prose.txt")
TOPICS = ("objects", "naming", "types", "import")  # of that reference
WINDOW, WINDOWS = 512, 6  # tokens of a window, and windows
STAGES = {
    "before": "before any speech",
    "style": "after style",
    "stage1": "after Stage 1",
    "stage2": "after Stage 2",
    "sft": "after SFT",
}


def measure_text_retention(artifacts: RunArtifacts) -> None:
    """Text logits (Stage 1 must not change one), text answers on C and perplexity, before speech and after stages.

    Answers before any speech are whole sentences, since no untouched model answers in one word. One that does is asked
    in sentences too: what it has forgotten is told apart from what an answer of one word costs.
    """
    parts = {"before": None} | {stage: artifacts.parts[stage] for stage in STAGES if stage in artifacts.parts}
    found: dict[str, float] = {}
    read: dict[Path | None, tuple[float, int]] = {}  # perplexity by folder: two stages may have the same
    for stage, folder in parts.items():
        if folder not in read:
            model, tokenizer = _open(artifacts, stage)
            model.eval().to(artifacts.device)
            read[folder] = perplexity(model, tokenizer)
        if stage in ("before", "style"):
            first = model  # what Stage 1 starts from
        elif stage == "stage1":
            _text_change(artifacts, first, model, model.grid(tokenizer))
        value, n = read[folder]
        python = f"Python {sys.version_info[0]}.{sys.version_info[1]}'s language reference"
        title = f"perplexity of {'unseen prose' if PROSE else python}, {STAGES[stage]}"
        artifacts.record(metrics.Metric(f"perplexity_{stage}", title, value, "", n=n))
        if stage in ("before", "stage2"):  # Stage 1 changes no logit, SFT's answers are asked with the other pairings
            score = _text_answers(artifacts, model, tokenizer)
            score.id, score.name = f"t2t_c_{stage}", f"text → text on C {STAGES[stage]}"
            artifacts.record(score)
            found[stage] = score.value
        if stage == "stage2" and "style" in artifacts.parts:
            _in_sentences(artifacts, model, tokenizer, found["before"])
    ratio = read[parts["sft"]][0] / read[None][0]
    text = "perplexity after all stages, of that before any speech"
    artifacts.record(metrics.Metric("perplexity_ratio", text, ratio, "x"))
    answers = metrics.read_metrics(artifacts.out)
    lost = found["before"] - answers["t2t_c"].value
    artifacts.record(metrics.Metric("t2t_c_lost", "text → text on C: points lost by the training", lost, "points"))
    if "style" not in artifacts.parts:  # of the form "word", shares are of what is written in the same form
        for pairing in ("s2t", "s2s"):
            artifacts.record(_by_voice(answers[f"{pairing}_c"], found["before"]))


def _in_sentences(artifacts: RunArtifacts, model: LayerSplitLM, tokenizer: Tokenizer, before: float) -> None:
    """The written answers on C of a model of the form "word" that is asked for sentences, as the untouched one is."""
    model.config = replace(model.config, system_turns=SENTENCES)
    score = _text_answers(artifacts, model, tokenizer)
    score.id, score.name = "t2t_c_sentences", "text → text on C at the end, asked for a sentence"
    artifacts.record(score)
    title = "text → text on C: points lost by the training, sentences before and after"
    artifacts.record(metrics.Metric("t2t_c_sentences_lost", title, before - score.value, "points"))


def _by_voice(answers: metrics.Metric, before: float) -> metrics.Metric:
    """The share of what the backbone answered in writing before any speech that comes out by voice.

    The interval is that of the answers by voice: the written ones are taken as they are.
    """
    share = [100 * value / max(before, 1e-9) for value in (answers.value, answers.low, answers.high)]
    title = f"{answers.name}, share of the backbone's own text → text"
    return metrics.Metric(f"{answers.id}_kept", title, share[0], "%", *share[1:], answers.interval, answers.n)


def _open(artifacts: RunArtifacts, stage: str) -> tuple[LayerSplitLM, Tokenizer]:
    """The model after a stage; "before": the untouched backbone, in the same shape."""
    if stage != "before":
        return checkpoint.from_pretrained(artifacts.parts[stage])
    staged, tokenizer = checkpoint.from_pretrained(artifacts.parts["stage1"])
    c = staged.config
    model = open_start(artifacts.start, c.codes, c.tail_layers, "copy", 0, c.split_at, c.extra_layers)[0]
    form = SENTENCES if "style" in artifacts.parts else c.system_turns  # asked as the stages are, if it can answer so
    model.config = replace(model.config, system_turns=form)
    return model, tokenizer


def _questions(artifacts: RunArtifacts) -> list:
    return [line for line in artifacts.lines if line.role == "test" and line.set == "C"]


@torch.inference_mode()
def _text_change(artifacts: RunArtifacts, first: LayerSplitLM, staged: LayerSplitLM, grid: Grid) -> None:
    """The largest change of any text logit by Stage 1 on questions of C (must be 0)."""
    lines, change = _questions(artifacts)[:16], 0.0
    for line in lines:
        rows = grid.join(grid.system(False), grid.turn("user", text=line.text), grid.reply_prefix(False))
        x = torch.from_numpy(np.stack([rows.text, rows.speech], -1))[None].to(artifacts.device)
        logits = [m.text_head(m(x, tails=("text",)).text) for m in (first, staged)]
        change = max(change, float((logits[0] - logits[1]).abs().max()))
    title = "largest change of a text logit by Stage 1"
    artifacts.record(metrics.Metric("stage1_text_change", title, change, "", n=len(lines)))


def _text_answers(artifacts: RunArtifacts, model: LayerSplitLM, tokenizer: Tokenizer) -> metrics.Metric:
    """Written answers to the written questions of C."""
    grid = model.grid(tokenizer)
    ready = prepare_for_inference(deepcopy(model), artifacts.device)
    return spoken_qa.score("C", "T2T", ask_questions(artifacts, ready, grid, _questions(artifacts), "T2T"))


def fixed_text() -> str:
    """The text that the perplexity is measured on."""
    if PROSE:
        return PROSE.read_text("utf-8")
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in TOPICS)


@torch.inference_mode()
def perplexity(model: LayerSplitLM, tokenizer: Tokenizer) -> tuple[float, int]:
    """exp(mean negative log-likelihood of a token) of the text tail on a fixed English text, and the number of tokens.

    Windows of WINDOW tokens without left context, as plain text without a turn.
    """
    ids = torch.tensor(
        tokenizer.encode(fixed_text(), add_special_tokens=False).ids, device=model.text_embed.weight.device
    )
    windows = [part for part in ids.split(WINDOW) if len(part) == WINDOW][:WINDOWS]
    total = count = 0
    for part in windows:
        grid = torch.stack([part, torch.zeros_like(part)], -1)[None]
        logits = model.text_head(model(grid, tails=("text",)).text[0, :-1]).float()
        total += float(F.cross_entropy(logits, part[1:], reduction="sum"))
        count += len(part) - 1
    return float(np.exp(total / count)), count
