"""Small language models and a small script, shared by the tests of the language model."""

import json
from dataclasses import asdict

import numpy as np
import torch

from mossrepro.data.facts import all_facts
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.lm.data import LMDataModule
from mossrepro.lm.grid import Positions
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, mini_tokenizer

SMALL = {"dim": 32, "layers": 4, "tail_layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
SMALL |= {"text_vocab": 60, "codes": 40, "modality_pad": 7, "eps": 1e-6}
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
