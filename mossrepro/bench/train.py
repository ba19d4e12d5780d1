"""`mossrepro bench train`: a training step beside a bare loop over the layers of `transformers`, Stage 1 beside a step
that trains everything, the Stage 1 of single words beside that of sentences, and the memory of the first two beside
what `mossrepro plan` says.

All with SmolLM2, documents of different lengths, AdamW and clipping.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mossrepro.bench.decode import SPEECH_CODES, llama_config
from mossrepro.bench.timing import SpeedReport, race
from mossrepro.lm.cost import memory, step
from mossrepro.lm.data import IGNORE, collate, pack
from mossrepro.lm.grid import Grid, Positions
from mossrepro.lm.inference import frozen_trunk
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.task import LayerSplitTask
from mossrepro.training import metrics
from mossrepro.utils.devices import best_device, training_precision
from mossrepro.utils.errors import MossError
from mossrepro.utils.random import rng

DOCUMENTS, SHORTEST, LONGEST = 8, 80, 160
KINDS = ("text", "speech")


def bench_train(out: Path, rounds: int = 5) -> None:
    """Measure; facts go into `out`."""
    bench = SpeedReport(out, Table("a training step", "ours, rows/s", "beside it, rows/s", "faster by"), "rows/s")
    task = LayerSplitTask("smollm2", SPEECH_CODES, 4).to(best_device())
    docs = documents(Grid(task.tokenizer, SPEECH_CODES))
    _against_bare(bench, task, docs, rounds)
    _stage1(bench, task, docs, rounds)
    _words(bench, repeated(Grid(task.tokenizer, SPEECH_CODES)), rounds)
    Console().print(bench.table)
    _memory(out, docs)


def documents(grid: Grid, count: int = DOCUMENTS) -> list[Positions]:
    """Conversations of random words and codes, in which the assistant answers alternately by voice and in writing."""
    random, found = rng(0, "bench", "documents"), []
    for i in range(count):
        spoken, length, parts = i % 2 == 0, int(random.integers(SHORTEST, LONGEST + 1)), [grid.system(i % 2 == 0)]
        while sum(map(len, parts)) < length:
            heard = {"codes": random.integers(grid.codes, size=30)}
            said = {"codes": random.integers(grid.codes, size=25)} if spoken else {"text": " moss" * 12}
            parts += [grid.turn("user", **heard), grid.turn("assistant", supervise=True, **said)]
        found.append(grid.join(*parts)[:length])
    return found


def repeated(grid: Grid, count: int = DOCUMENTS) -> list[Positions]:
    """Conversations of words to be repeated aloud, each with an inner monologue."""
    random, found = rng(0, "bench", "repeated"), []
    for _ in range(count):
        length, parts = int(random.integers(SHORTEST, LONGEST + 1)), [grid.system(True)]
        while sum(map(len, parts)) < length:
            codes = random.integers(grid.codes, size=9)
            parts += [
                grid.turn("user", text="Repeat: moss"),
                grid.turn("assistant", None, codes, True, monologue=" moss"),
            ]
        found.append(grid.join(*parts)[:length])
    return found


class Bare(nn.Module):
    """The obvious implementation: layers of `transformers`, padded documents, every logit of both heads."""

    def __init__(self, model: LayerSplitLM) -> None:
        super().__init__()
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

        config, c = llama_config(model), model.config
        self.rotary, self.pad = LlamaRotaryEmbedding(config), c.modality_pad
        for part in ("trunk", "text_tail", "speech_tail"):
            blocks = nn.ModuleList([LlamaDecoderLayer(config, i) for i in range(len(getattr(model, part)))])
            blocks.load_state_dict(getattr(model, part).state_dict())
            setattr(self, part, blocks)
        self.text_embed, self.speech_embed = nn.Embedding(c.text_vocab, c.dim), nn.Embedding(c.speech_vocab, c.dim)
        self.text_norm, self.speech_norm = nn.RMSNorm(c.dim, c.eps), nn.RMSNorm(c.dim, c.eps)
        self.speech_head = nn.Linear(c.dim, c.speech_vocab, bias=False)
        for name in ("text_embed", "speech_embed", "text_norm", "speech_norm", "speech_head"):
            getattr(self, name).load_state_dict(getattr(model, name).state_dict())

    def forward(self, grid: Tensor) -> dict[str, Tensor]:
        """Logits (B, L, vocabulary) of both channels."""
        text, speech = grid.unbind(-1)
        spoken = text == self.pad
        x = torch.where(spoken[..., None], self.speech_embed(speech * spoken), self.text_embed(text))
        place = self.rotary(x, torch.arange(x.shape[1], device=x.device)[None])
        for block in self.trunk:
            x = block(x, position_embeddings=place)
        heard = said = x
        for block in self.text_tail:
            heard = block(heard, position_embeddings=place)
        for block in self.speech_tail:
            said = block(said, position_embeddings=place)
        text_logits = F.linear(self.text_norm(heard), self.text_embed.weight)
        return {"text": text_logits, "speech": self.speech_head(self.speech_norm(said))}


def mixed() -> torch.autocast:
    """bfloat16 products where the device has them, as `mossrepro fit` trains."""
    device = best_device()
    return torch.autocast(device.type, torch.bfloat16, enabled=training_precision(device) == "bf16-mixed")


def stepper(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A whole step: loss, gradients, clipping, AdamW."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def run() -> None:
        with mixed():
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return run


def ours(task: LayerSplitTask, docs: list[Positions], padded: bool = False) -> Callable[[], Tensor]:
    """Mean loss of a row of each kind, by their weights, over documents that are packed or padded."""
    batch = (collate if padded else pack)(docs, _grid(task), LONGEST)
    batch["grid"] = batch["grid"].to(task.device)

    def loss() -> Tensor:
        out = task.losses(batch)
        return sum(weight * out[kind] / out[f"n_{kind}"].clamp(min=1) for kind, weight in task.weights.items())

    return loss


def theirs(bare: Bare, task: LayerSplitTask, docs: list[Positions]) -> Callable[[], Tensor]:
    """The same, over padded documents."""
    batch = {name: value.to(task.device) for name, value in collate(docs, _grid(task), LONGEST).items()}

    def loss() -> Tensor:
        logits = bare(batch["grid"])
        return sum(
            F.cross_entropy(logits[kind].flatten(0, 1).float(), batch[f"{kind}_target"].flatten(), ignore_index=IGNORE)
            for kind in KINDS
        )

    return loss


def _grid(task: LayerSplitTask) -> Grid:
    return Grid(task.tokenizer, SPEECH_CODES)


def _against_bare(bench: SpeedReport, task: LayerSplitTask, docs: list[Positions], rounds: int) -> None:
    bare = Bare(task.model).to(task.device)
    mine, others = ours(task, docs), theirs(bare, task, docs)
    with torch.no_grad(), mixed():
        one, other = float(mine()), float(others())
    if abs(one - other) > 0.02 * other:  # bfloat16's rounding; float32 agrees to 1e-5
        raise MossError(f"the two losses are {one:.4f} and {other:.4f}, so the steps cannot be compared")
    times = race({"mine": stepper(task.model, mine), "theirs": stepper(bare, others)}, rounds)
    bench.note("bench_train_small", "small, beside a bare loop of transformers' layers", times, sum(map(len, docs)))


def _stage1(bench: SpeedReport, task: LayerSplitTask, docs: list[Positions], rounds: int) -> None:
    first = LayerSplitTask("smollm2", SPEECH_CODES, 4, train="speech").to(task.device)
    runs = {"mine": stepper(first.model, ours(first, docs)), "theirs": stepper(task.model, ours(task, docs))}
    bench.note("bench_stage1_small", "small, Stage 1 beside all trained", race(runs, rounds), sum(map(len, docs)))


def _words(bench: SpeedReport, docs: list[Positions], rounds: int) -> None:
    """Stage 1 of the form "word" (a mouth, a frozen embedding: no gradient through the trunk) and of "sentence".

    Both on padded documents, as a mouth wants them, and with the trunk as the fit runs it.
    """
    settings = {"mine": {"mouth": 3, "embed_steps": 0, "monologue_at": "speech"}, "theirs": {}}
    runs = {}
    for who, more in settings.items():
        task = LayerSplitTask("smollm2", SPEECH_CODES, 4, train="speech", monologue_weight=0.5, **more).to(
            best_device()
        )
        if who == "mine":
            task.model.frozen_trunk = frozen_trunk(task.model)
        runs[who] = stepper(task.model, ours(task, docs, padded=True))
    what = "small, Stage 1 of single words beside that of sentences"
    bench.note("bench_stage1_words_small", what, race(runs, rounds), sum(map(len, docs)))


def _memory(out: Path, docs: list[Positions]) -> None:
    """Peak memory of two steps, each kind in a process of its own, and the plan's."""
    context, found = multiprocessing.get_context("spawn"), {}
    table = Table("peak memory of a step, GiB", "measured", "planned", "planned / measured")
    for part, name in (("speech", "Stage 1"), ("all", "all trained")):
        with context.Pool(1) as pool:
            found[part], planned = pool.apply(peak, (part, docs))
        share = 100 * planned / found[part]
        table.add_row(name, f"{found[part] / 2**30:.2f}", f"{planned / 2**30:.2f}", f"{share:.0f} %")
        title = f"memory of a step, {name}"
        metrics.record(out, metrics.Metric(f"bench_memory_{part}", f"{title}, measured", found[part] / 2**30, "GiB"))
        metrics.record(out, metrics.Metric(f"bench_plan_{part}", f"{title}: planned of measured", share, "%"))
    ratio = found["speech"] / found["all"]
    metrics.record(out, metrics.Metric("bench_stage1_memory", "memory of Stage 1 to that of all trained", ratio, "x"))
    Console().print(table)


def peak(part: str, docs: list[Positions]) -> tuple[float, float]:
    """Bytes that three training steps take beyond the libraries, at their highest, and what the plan says.

    On a CUDA device those that its allocator has handed out; elsewhere those of the process.
    """
    device = best_device()
    with torch.no_grad(), mixed():  # the libraries' own buffers
        nn.Linear(64, 64, device=device)(torch.zeros(64, 64, device=device))
    before = _resident("VmRSS")
    task = LayerSplitTask("smollm2", SPEECH_CODES, 4, train=part).to(device)
    run = stepper(task.model, ours(task, docs))
    for _ in range(3):
        run()
    taken = _resident("VmHWM") - before  # not ru_maxrss, which a process inherits from the one that started it
    if device.type == "cuda":
        taken = torch.cuda.max_memory_allocated()
    precision = training_precision(device)
    rows = round(np.mean([len(doc) for doc in docs]))
    kept = step(task.model.config, part, len(docs), rows, precision, False).kept
    return taken, memory(task.model, kept, precision, "single", 1).total


def _resident(kind: str) -> float:
    """Bytes of this process in memory, now ("VmRSS") or at most so far ("VmHWM"); Linux."""
    return 1024.0 * int(Path("/proc/self/status").read_text().split(f"{kind}:")[1].split()[0])
