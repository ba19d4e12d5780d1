"""A finished run of toy parts, which answers with noise."""

import json
from pathlib import Path

import torch

from mossrepro.codec import CodecConfig, SpeechCodec
from mossrepro.lm import checkpoint
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, mini_tokenizer
from mossrepro.training import metrics, runs
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder

CODES = 16


def write_toy_run(run: Path, cache: Path) -> Path:
    """Write a run whose parts lie in the folders cache/fit-NAME/NAME; returns it."""
    torch.manual_seed(0)
    place = {name: cache / f"fit-{name}" / name for name in ("codec", "recogniser", "sft", "flow", "vocoder")}
    small = {"code_dim": 8, "dim": 32, "heads": 2, "ffn_dim": 48, "layers": 1, "slow_layers": 1}
    small |= {"recogniser_dim": 16, "recogniser_layers": 1, "recogniser_kernel": 3}
    for name in ("codec", "recogniser"):
        SpeechCodec(CodecConfig(codes=CODES, **small)).save_pretrained(place[name])
    tokenizer = mini_tokenizer(["tell me the capital of italy", "system user assistant"], 300)
    shape = {"dim": 32, "layers": 3, "tail_layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
    pad = SpecialIds.of(tokenizer, CODES).pad
    config = LMConfig(**shape, text_vocab=tokenizer.get_vocab_size(), codes=CODES, modality_pad=pad)
    checkpoint.save_pretrained(LayerSplitLM(config), tokenizer, place["sft"])
    flow = FlowDecoder(CODES, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2)
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)
    for name, module in (("flow", flow), ("vocoder", vocoder)):
        save_module(module, module.config, place[name])
    settings = {"data": {"init_args": {"script": f"{cache}/script/abc"}}, "trainer": {"precision": "bf16-mixed"}}
    (place["sft"] / "fit.json").write_text(json.dumps({**settings, "machine": "1 x cpu", "seed_everything": 0}))
    (place["sft"] / "done.json").write_text(json.dumps({"steps": 3, "seconds": 1.0, "metrics": {"val/loss": 2.0}}))
    (run / "wav").mkdir(parents=True)
    (run / "wav" / "index.json").write_text("[]")
    metrics.record(run, metrics.Metric("s2t_c", "speech | text on C", 60.8, "%", n=74))
    runs.write_record(run, "toy")
    (run / "parts.json").write_text(json.dumps({name: str(folder) for name, folder in place.items()}))
    return run
