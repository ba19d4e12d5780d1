"""Small language models and a small script, shared by the tests of the language model."""

import json
from dataclasses import asdict

import numpy as np
import torch

from mossrepro.data.facts import all_facts
from mossrepro.data.script import ScriptRecipe, read_script, write_script
from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.data import LMDataModule
from mossrepro.lm.grid import Grid, Positions
from mossrepro.lm.init import start_ears
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, mini_tokenizer
from mossrepro.lm.twins import WORD
from mossrepro.utils.random import rng

SMALL = {"dim": 32, "layers": 4, "tail_layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
SMALL |= {"text_vocab": 60, "codes": 40, "modality_pad": 7, "eps": 1e-6}
TEXTS = ["user", "assistant", "system", "Repeat: the cat", "What is the capital of France?", "Say one word."]
IDS = SpecialIds(im_start=1, im_end=2, end=0, sosp=5, pad=7, eosp=40, speech_pad=1)


def small_model(**changes) -> LayerSplitLM:
    torch.manual_seed(0)
    return LayerSplitLM(LMConfig(**{**SMALL, **changes}))


def write_script_folder(folder):
    facts = all_facts(families=4)
    lines = write_script(
        facts,
        ScriptRecipe(
            user_speech=20, assistant_speech=20, question=1, kokoro=0, user_speech_kokoro=0, tests=1, test_facts=2
        ),
    )
    (folder / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    (folder / "facts.json").write_text(json.dumps(facts))
    mini_tokenizer([line.text for line in lines], 500).save(str(folder / "tokenizer.json"))
    return folder


def module(folder, **changes) -> LMDataModule:
    settings = {"mix": {"asr": 1.0, "S2S": 1.0, "text": 1.0}, "batch": 4, "tokens": "oracle", "codes": 64}
    settings |= {"script": str(folder), "tokenizer": str(folder / "tokenizer.json"), **changes}
    return LMDataModule(**settings)


def prompt(text: list[int], speech: list[int] | None = None) -> Positions:
    speech = speech or [IDS.speech_pad] * len(text)
    return Positions(np.array(text), np.array(speech), np.zeros(len(text), bool))


def prompts() -> list[Positions]:
    return [prompt([1, 9, 11, IDS.sosp]), prompt([1, 20]), prompt([1, 7, 7, 20], [1, 3, 4, 1]), prompt([1, IDS.sosp])]


def hearing_model(**changes):
    """A small model with ears that do something, its tokenizer and its grid."""
    tokenizer = mini_tokenizer([f"{text}\n" for text in TEXTS] * 3, 400)
    ids = Grid(tokenizer, 40).ids
    model = small_model(text_vocab=tokenizer.get_vocab_size(), modality_pad=ids.pad, **changes)
    start_ears(model, tokenizer, 3, seed=1)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith(".ear.up") or name.startswith("heard_"):
            parameter.data = torch.randn_like(parameter)
    return model.eval(), tokenizer, model.grid(tokenizer)


def spoken(grid, codes=(3, 4, 5)):
    user = grid.turn("user", codes=torch.tensor(codes).numpy())
    return grid.join(grid.system(True), user, grid.reply_prefix(True))


def tensor(positions):
    return torch.stack([torch.from_numpy(positions.text), torch.from_numpy(positions.speech)], -1)[None]


def write_drawn_folder(folder, codes=64, count=24):
    """Lines of a script, of which every word has a code of its own, and the times of the words."""
    lines, random = read_script(folder)[:count], rng(0, "toy codes")
    out, known, times = folder / "drawn", {}, {}
    with TokenWriter(out, codes) as writer:
        for line in lines:
            row, times[line.id] = [0, 0], []
            for word in WORD.findall(line.text):
                known.setdefault(word.lower(), int(random.integers(1, codes)))
                times[line.id].append((word.lower(), 0.08 * (len(row) - 1), 0.08 * (len(row) + 3)))
                row += [known[word.lower()]] * 4
            writer.add([(line.id, np.array([*row, 0, 0, 0, 0]))])
    np.save(out / "code_phone_probs.npy", random.random((codes, 40)))
    (out / "words.json").write_text(json.dumps(times))
    (out / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    return out
