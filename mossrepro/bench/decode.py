"""`mossrepro bench decode`: answering beside `generate` of `transformers`, and with an idle tail beside both tails.

Batch 1, greedy, float32, the same tokens on both sides (it is checked), prompt included. Ours is
prepared as in `talk` and in the evaluation (`lm/inference.py`).
"""

import statistics
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mossrepro.bench.timing import SpeedReport, race
from mossrepro.lm import hub
from mossrepro.lm.decode import GenerationConfig, SamplingParams, generate
from mossrepro.lm.grid import Positions
from mossrepro.lm.inference import fuse_projections
from mossrepro.lm.init import start_speech_half
from mossrepro.lm.init_from import open_start
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.training import metrics
from mossrepro.utils.devices import best_device, synchronise
from mossrepro.utils.errors import ConfigError, MossError

TINY = LMConfig(
    dim=128, layers=6, tail_layers=2, heads=4, kv_heads=4, head_dim=32, ffn_dim=384, text_vocab=1000, codes=256
)  # fmt: skip
SPEECH_CODES = 1024
IDS = {"im_start": 1, "im_end": 2, "end": 0, "sosp": 5}  # the ids of both tokenizers, but for "sosp", which is any


def bench_decode(out: Path, rounds: int = 5, rows: int = 48) -> None:
    """Measure a random model of the size `tiny` and SmolLM2; facts go into `out`."""
    torch.manual_seed(0)
    tiny = LayerSplitLM(TINY)
    start_speech_half(tiny, 0)
    models = {"tiny": tiny, "small": open_start("smollm2", SPEECH_CODES, 4, "copy", 0)[0]}
    bench = SpeedReport(out, Table("answering", "ours, rows/s", "beside it, rows/s", "faster by"), "rows/s")
    for name, model in models.items():
        theirs, size = as_llama(model.eval().to(best_device())), _text_half(model)
        model = fuse_projections(deepcopy(model))
        _against_generate(bench, name, model, theirs, rounds, rows)
        _against_two_tails(bench, name, model, rounds, rows)
        if name == "small":
            _against_memory(out, model, size, rounds, rows)
    Console().print(bench.table)


def _text_half(model: LayerSplitLM) -> int:
    """Bytes of its weights."""
    half = [p for n, p in model.named_parameters() if not n.startswith("speech")]
    return sum(p.numel() * p.element_size() for p in half)


def _against_generate(
    bench: SpeedReport, name: str, model: LayerSplitLM, theirs: nn.Module, rounds: int, rows: int
) -> None:
    """Text, beside the same weights in a Llama of `transformers`."""
    prompt, ids = _prompt(model, spoken=False), _ids(model)
    config = GenerationConfig(text=SamplingParams(min_length=rows), max_positions=rows)
    said: dict[str, list[int]] = {}

    def mine() -> None:
        said["mine"] = generate(model, [prompt], ids, config)[0].text

    def others() -> None:
        grid = torch.from_numpy(prompt.text)[None].to(theirs.device)
        more = theirs.generate(
            grid, attention_mask=torch.ones_like(grid), max_new_tokens=rows, min_new_tokens=rows, do_sample=False,
            eos_token_id=[ids.im_end, ids.end], pad_token_id=ids.end, suppress_tokens=[ids.pad, ids.sosp],
        )  # fmt: skip
        said["theirs"] = more[0, grid.shape[1] :].tolist()

    times = race({"mine": mine, "theirs": others}, rounds)
    if said["mine"] != said["theirs"]:
        raise MossError(f"{name}: the two do not write the same tokens, so their times cannot be compared")
    bench.note(f"bench_decode_{name}", f"{name}, text, beside transformers' generate", times, rows)


def _against_two_tails(bench: SpeedReport, name: str, model: LayerSplitLM, rounds: int, rows: int) -> None:
    """Speech with the text tail deferred, beside both tails at every position."""
    ids, prompt = _ids(model), _prompt(model, spoken=True)
    config, said = GenerationConfig(speech=SamplingParams(min_length=rows), max_positions=rows), {}

    def run(defer: bool) -> None:
        said[defer] = generate(model, [prompt], ids, config, defer=defer)[0].codes

    times = race({"mine": lambda: run(True), "theirs": lambda: run(False)}, rounds)
    if said[True] != said[False]:
        raise MossError(f"{name}: an idle tail changed what is said")
    bench.note(f"bench_tails_{name}", f"{name}, speech, beside running both tails", times, rows)


def _against_memory(out: Path, model: LayerSplitLM, size: int, rounds: int, rows: int) -> None:
    """The text half's weights, `size` bytes, are read once a position: the share of this bound that is reached."""
    prompt, ids = _prompt(model, spoken=False), _ids(model)

    def answer(length: int) -> None:
        generate(model, [prompt], ids, GenerationConfig(text=SamplingParams(min_length=length), max_positions=length))

    times = race({"first": lambda: answer(1), "all": lambda: answer(rows)}, rounds)
    speed = (rows - 1) / (statistics.median(times["all"]) - statistics.median(times["first"]))
    block, times = torch.ones(1 << 28, device=model.text_embed.weight.device), []  # 1 GiB
    for _ in range(7):
        started = time.perf_counter()
        block.sum()
        synchronise(block.device)
        times.append(time.perf_counter() - started)
    bandwidth = block.numel() * 4 / min(times[1:])
    title = "text answers of small, rows after the first: share of the memory bound (weights read once a row)"
    metrics.record(out, metrics.Metric("bench_decode_bound", title, 100 * speed * size / bandwidth, "%"))
    metrics.record(out, metrics.Metric("bench_bandwidth", "memory read", bandwidth / 1e9, "GB/s"))


def llama_config(model: LayerSplitLM):
    """The backbone's shape for `transformers`. ConfigError where it is not installed."""
    try:
        from transformers import LlamaConfig
    except ImportError as error:
        raise ConfigError("this bench runs transformers beside ours: pip install transformers") from error
    c = model.config
    return LlamaConfig(
        hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, vocab_size=c.text_vocab, rms_norm_eps=c.eps,
        tie_word_embeddings=c.tied, rope_parameters={"rope_type": "default", "rope_theta": c.theta},
        max_position_embeddings=1024, attn_implementation="sdpa",
    )  # fmt: skip


def as_llama(model: LayerSplitLM) -> nn.Module:
    """The text half as a LlamaForCausalLM of `transformers`, sharing its weights."""
    config = llama_config(model)
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    state = model.state_dict()
    theirs.load_state_dict({name: state[ours] for ours, name in hub.names(model).items()}, strict=False, assign=True)
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)  # its table was on the meta device too
    return theirs.eval()


def _ids(model: LayerSplitLM) -> SpecialIds:
    codes = model.config.codes
    return SpecialIds(**IDS, pad=model.config.modality_pad, eosp=codes, speech_pad=codes // 32)


def _prompt(model: LayerSplitLM, spoken: bool) -> Positions:
    """32 rows of text, the last of which opens a spoken reply or not."""
    ids, generator = _ids(model), torch.Generator().manual_seed(1)
    text = torch.randint(20, model.config.text_vocab, (32,), generator=generator).numpy()
    text[-1] = ids.sosp if spoken else ids.im_start
    return Positions(text, np.full(32, ids.speech_pad), np.zeros(32, bool))
