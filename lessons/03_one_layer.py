# %% [markdown]
# # 03 · One layer
#
# The paper's model has 36 layers, ours 30, and each does the same: every row first **asks the rows before it**, then
# **thinks by itself**. If you can write one layer, you can write them all. This lesson takes the first layer of a real
# text model apart into four ideas of a few lines each (RMSNorm, RoPE, grouped-query attention, SwiGLU), puts them
# together again, and checks that nothing is missing. Then one layer is trained: by hand, by Lightning, by the command
# line, and by two processes at once.
#
# - **Reading** 40 minutes · **computing** about three minutes on two CPU cores, 2 GB of memory · no GPU, no network
# - **You need** PyTorch, lesson 02, and to know what a matrix product is

# %%
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display
from lightning.pytorch import LightningModule, Trainer

from mossrepro.codec import SpeechCodec
from mossrepro.data.facts import all_facts
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.lm import checkpoint
from mossrepro.lm.data import IGNORE, LMDataModule
from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.grid import question_prompt
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.speech import voices
from mossrepro.training.callbacks import ProgressFile
from mossrepro.utils import assets, audio
from mossrepro.utils.devices import best_device
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. What goes in
#
# SmolLM2-135M travels with the project. Its embedding turns every token into a row of 576 numbers. A sentence of L
# tokens is a table (L, 576), and a layer turns this table into another one of the same shape.

# %%
model, tokenizer = checkpoint.load_gguf(assets.get("smollm2"), codes=1024, tail_layers=4)
model.eval().requires_grad_(False)
layer, config = model.trunk[0], model.config
tokens = tokenizer.encode("The cat saw the dog because it was hungry").tokens
x = model.text_embed(torch.tensor(tokenizer.encode("The cat saw the dog because it was hungry").ids))  # (L, 576)
positions = torch.arange(len(x))
print(tokens)
print(f"{config.heads} query heads, {config.kv_heads} heads of keys and values, {config.head_dim} numbers a head")

# %% [markdown]
# ## 2. RMSNorm: the same loudness for everybody
#
# A layer does not replace its input, it **adds** to it: x + something. After 60 such sums (two in each of 30 layers)
# the rows of a deep model are hundreds of times longer than at its start, and no weight matrix could be right for both.
# So each half of a layer looks at its input through a norm that makes all rows equally long: divide by the *root of the
# mean of the squares*, then scale every column by a learnt weight. (LayerNorm also subtracts the mean. Nobody missed
# it.)


# %%
def naive_rms_norm(x, weight, eps):
    """Rows x (L, D) -> (L, D), each of root mean square 1 before the weight (D,)."""
    mean_square = (x * x).mean(-1, keepdim=True)  # (L, 1)
    return x / (mean_square + eps).sqrt() * weight


normed = naive_rms_norm(x, layer.input_layernorm.weight, config.eps)
assert torch.allclose(normed, layer.input_layernorm(x), atol=1e-5)
print("root mean square of the rows as they come:", [f"{float(row.square().mean().sqrt()):.3f}" for row in x[:5]])

# %% [markdown]
# ## 3. RoPE: where a row stands
#
# Attention compares rows by dot products, and a dot product does not know where its two vectors stand. "The dog saw the
# cat" would be the same as "The cat saw the dog". **Rotary position embedding** (RoPE, arXiv 2104.09864) writes the
# place into the *direction* of a vector. Its numbers are taken in pairs, each pair is a point in the plane, and the
# point is turned by an angle that grows with the position. Pair i of E/2 turns by theta^(-2 i / E) radians a row, with
# E = 64 numbers a head and theta = 100,000 here: pair 0 by one radian, the last one by about 1/70,000. Hands of a
# clock, for near and for far.
#
# The dot product of two turned vectors depends only on the *difference* of their angles. So what the model sees is not
# "I am row 7", but "you are 3 rows before me".


# %%
def naive_rope(x, positions, theta):
    """Heads x (H heads, L rows, E numbers): the pair (x_i, x_{i + E/2}) is turned by position * theta^(-2 i / E)."""
    half, turned = x.shape[-1] // 2, torch.empty_like(x)
    for i in range(half):
        angle = positions * theta ** (-i / half)  # (L,)
        a, b = x[..., i], x[..., i + half]
        turned[..., i] = a * angle.cos() - b * angle.sin()
        turned[..., i + half] = a * angle.sin() + b * angle.cos()
    return turned


two = torch.randn(2, 1, 1, 64, generator=torch.Generator().manual_seed(0))  # a query and a key
for first, second in [(0, 3), (7, 10), (1000, 1003), (0, 4)]:
    q, k = (naive_rope(v, torch.tensor([p]), config.theta) for v, p in zip(two, (second, first), strict=True))
    print(f"key at {first:4}, query at {second:4}: dot product {float((q * k).sum()):.4f}")

# %% [markdown]
# The first three are equal: three rows apart is three rows apart, wherever that is.
#
# ## 4. Grouped-query attention: whom to ask
#
# Every row makes a **query** (what do I look for?), a **key** (what can I be found by?) and a **value** (what do I tell
# those who find me?). A row listens to the others with weights: a softmax over query · key / sqrt(64). The root keeps
# the scores from growing with the width of a head. A row may listen only to itself and to earlier rows, since a model
# that guesses the next word must not see that word. That is *causal* attention. A last matrix, `o_proj`, mixes what
# the heads have heard.
#
# This is done in several **heads** at once, so that a row can look for several things. Keys and values of all earlier
# rows have to be kept while a model talks (lesson 08), and they fill the memory. So three query heads share one head of
# keys and values here: *grouped-query attention* (arXiv 2305.13245). Nine queries, three sets of keys and values.


# %%
def naive_attention(x, attention, positions, theta):
    """Rows (L, D) -> (L, D), and who listens to whom, (H, L, L)."""
    parts = (part(x) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k, v = (part.unflatten(-1, (-1, attention.head_dim)).transpose(0, 1) for part in parts)  # (heads, L, E)
    q, k = naive_rope(q, positions, theta), naive_rope(k, positions, theta)
    future, said, maps = torch.ones(len(x), len(x)).triu(1).bool(), [], []
    for head in range(len(q)):
        group = head * len(k) // len(q)  # query heads 0, 1, 2 read group 0; 3, 4, 5 group 1; ...
        scores = q[head] @ k[group].T / attention.head_dim**0.5  # (L, L)
        maps.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        said.append(maps[-1] @ v[group])  # (L, E)
    return attention.o_proj(torch.cat(said, -1)), torch.stack(maps)


table = model.rotary(positions[None])  # the cosines and sines of all angles, which the package computes once
heard, maps = naive_attention(normed, layer.self_attn, positions, config.theta)
assert torch.allclose(heard, layer.self_attn(normed[None], table)[0], atol=1e-4)
assert torch.allclose(maps.sum(-1), torch.ones(config.heads, len(x)), atol=1e-5) and maps[:, 0, 1:].sum() == 0

figure, panels = plt.subplots(1, 3, figsize=(13, 4.2))
for axes, head in zip(panels, (0, 3, 8), strict=True):
    axes.imshow(maps[head], cmap="Blues", vmin=0, vmax=1)
    axes.set(title=f"head {head}", yticks=range(len(x)), yticklabels=[t.replace("Ġ", "") for t in tokens])
    axes.set_xticks(range(len(x)), [t.replace("Ġ", "") for t in tokens], rotation=90)
figure.tight_layout()
plt.show()

# %% [markdown]
# Each horizontal line shows one token that asks, each column one that is asked; the upper right half is the future, and
# empty. Some heads
# look at one neighbour, some spread over everybody: nobody told them to, training did.
#
# ## 5. SwiGLU: thinking alone
#
# What a row has heard it now digests, without looking at any other row. The old recipe was a matrix, a bend (ReLU), and
# a matrix back. Llama, Qwen and SmolLM2 take one matrix more: one product says *what*, the other, bent, says *how much
# of it* (a gate), and the two are multiplied (arXiv 2002.05202). Three quarters of a layer's weights are here.


# %%
def naive_swiglu(x, mlp):
    """Rows (L, D) -> (L, D), each by itself."""
    gate, up = x @ mlp.gate_proj.weight.T, x @ mlp.up_proj.weight.T  # (L, 1536) each
    opened = gate * (1 / (1 + (-gate).exp()))  # SiLU: nearly 0 below -4, nearly the gate itself above 4
    return (opened * up) @ mlp.down_proj.weight.T


def naive_layer(x, layer, positions, config):
    """All of it: listen, then think, and add both to what was there."""
    normed = naive_rms_norm(x, layer.input_layernorm.weight, config.eps)
    x = x + naive_attention(normed, layer.self_attn, positions, config.theta)[0]
    normed = naive_rms_norm(x, layer.post_attention_layernorm.weight, config.eps)
    return x + naive_swiglu(normed, layer.mlp)


ours, packaged = naive_layer(x, layer, positions, config), layer(x[None], table)[0]
assert torch.allclose(ours, packaged, atol=1e-4)
print(f"our layer and the package's TransformerBlock differ by {float((ours - packaged).abs().max()):.1e} at most")

# %% [markdown]
# ## 6. All rows moved by 7
#
# RoPE promised that only differences count. So if every row is told that it stands 7 further on, the layer must say the
# same. If the *gaps* change, it must not.

# %%
moved, stretched = (layer(x[None], model.rotary(p[None]))[0] for p in (positions + 7, 2 * positions))
print(f"all positions + 7: {float((moved - packaged).abs().max()):.1e}", end="; ")
print(f"all positions x 2: {float((stretched - packaged).abs().max()):.1e}")
assert torch.allclose(moved, packaged, atol=1e-3) and not torch.allclose(stretched, packaged, atol=1e-2)

# %% [markdown]
# ## 7. Train it, then scale it
#
# Now a layer that knows nothing, between an embedding and a head of 300 to 1,000 small tokens: the smallest language
# model there is. It reads made-up conversations about facts ("What is the capital of France?" ...). Five times the same
# training, each time less of it is ours to write.
#
# ### (a) A bare loop
#
# `LMDataModule` gives the batch of a step as a pure function of the step: same number, same rows, on any machine.

# %%
WORK = Path(tempfile.mkdtemp(prefix="lesson-03-"))
facts = all_facts(families=4, limit=12)
recipe = ScriptRecipe(user_speech=60, assistant_speech=60, question=1, kokoro=0, user_speech_kokoro=0, tests=1)
lines = write_script(facts, recipe)
(WORK / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
(WORK / "facts.json").write_text(json.dumps(facts))
small = mini_tokenizer([line.text for line in lines], 400 if SMOKE else 1000)
small.save(str(WORK / "tokenizer.json"))
SHAPE = {"tokenizer": str(WORK / "tokenizer.json"), "codes": 64, "tail_layers": 0, "layers": 1}


def naive_data(batch=8):
    """Written questions about all facts, and written sentences to repeat; "oracle": codes that nobody reads here."""
    mix = {"facts": 0.6, "repeat_text": 0.4}
    return LMDataModule(str(WORK), "oracle", SHAPE["tokenizer"], SHAPE["codes"], mix, batch)


def naive_loss(model, batch):
    """Cross entropy of the next token, mean over the rows that have a target."""
    hidden = model(batch["grid"], tails=("text",)).text  # (B, L, D)
    scores = model.text_head(hidden)  # (B, L, tokens)
    target = batch["text_target"].to(scores.device)
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=IGNORE)


device, data = best_device(), naive_data()
bare = MiniBackboneTask(**SHAPE).model.to(device)
optimiser = torch.optim.AdamW(bare.parameters(), lr=1e-3)
for step in range(10):
    batch = data.train_batch(step, rank=0, world=1)
    loss = naive_loss(bare, batch | {"grid": batch["grid"].to(device)})
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    print(f"step {step}: {float(loss.detach()):.3f} nats a token")

# %% [markdown]
# ### (b) The same as a LightningModule
#
# The loop above knows one device. Lightning wants the loop for itself, and three answers from us: what is in the model,
# what is the loss of a batch, which optimiser. That is a **LightningModule**. In return `Trainer` moves batches to a
# GPU if there is one, resumes, logs, and later splits the work. Nothing about the *training* changes, which can be
# checked: after ten steps its weights are those of the loop.


# %%
class NaiveLayer(LightningModule):
    """The inside of the loop above, where Lightning looks for it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        loss = naive_loss(self.model, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3)


logging.getLogger("lightning.pytorch").setLevel("ERROR")
warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")  # neither is about us
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
naive = NaiveLayer(MiniBackboneTask(**SHAPE).model)
Trainer(accelerator="auto", devices=1, max_steps=10, **QUIET).fit(naive, datamodule=naive_data())
pairs = zip(naive.model.parameters(), bare.parameters(), strict=True)
apart = max(float((p.detach().cpu() - q.detach().cpu()).abs().max()) for p, q in pairs)
print(f"after ten steps the loop's and the Trainer's weights differ by {apart:.1e}")
assert apart < 1e-5

# %% [markdown]
# ### (c) The package's module
#
# `MiniBackboneTask` adds what one would add by and by: a learning rate that warms up and comes down, clipping, weight
# decay, resuming, export. Training takes a minute now.

# %%
task = MiniBackboneTask(**SHAPE)
steps = 10 if SMOKE else 400
trainer = Trainer(max_steps=steps, gradient_clip_val=1.0, callbacks=[ProgressFile(WORK / "curve.jsonl", 5)], **QUIET)
trainer.fit(task, datamodule=naive_data(16))
curve = [json.loads(row) for row in (WORK / "curve.jsonl").read_text().splitlines()]
points = [(row["step"], row["train/text"]) for row in curve if "train/text" in row]
figure, axes = plt.subplots(figsize=(6, 2.5))
axes.plot(*zip(*points, strict=True))
axes.set(xlabel="step", ylabel="nats a token", title="one layer learns to write")
plt.show()

# %% [markdown]
# What does a single layer answer? It has met these questions, so a right answer is memory, a wrong one no surprise. And
# what does the first answer sound like, read aloud? (The synthesiser of lesson 00 reads it; the codec of the teaching
# pack hears that, and its flow decoder and vocoder say it again. That second voice, of our own networks, is the one
# below.)

# %%
grid = task.model.eval().cpu().grid(small)
told = facts[:3]  # it was trained on all of them
prompts = [question_prompt(grid, "T2T", fact.question(0)) for fact in told]
replies = generate(task.model, prompts, grid.ids, GenerationConfig(max_positions=24))
for fact, reply in zip(told, replies, strict=True):
    print(f"{fact.question(0)} -> {small.decode(reply.text)!r} (right: {fact.answer})")
readable = re.sub(r"[^a-z ]", "", small.decode(replies[0].text).lower()).strip()[:60] or "nothing"
wave = torch.from_numpy(audio.resample(*voices.say(readable), 16_000))[None]
with torch.inference_mode():
    codes = SpeechCodec.from_pretrained("pack:teach").encode(wave)[0].numpy()
again, rate = SpeechDecoder.from_pretrained("pack:teach", "pack:teach").speak(codes)
display(Audio(again, rate=rate))

# %% [markdown]
# ### (d) From the command line
#
# The same training needs no Python at all. A stage is a file (`configs/backbone.yaml`), a size is a file
# (`configs/size/tiny.yaml`), and any value in them can be changed by a flag. Ten steps, in float32:

# %%
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where pip has put mossrepro
os.environ |= {"WORK": str(WORK), "SIZE": "configs/smoke.yaml" if SMOKE else "configs/size/tiny.yaml"}

# %% language="bash" tags=["processes"]
# mossrepro fit -c configs/backbone.yaml -c $SIZE --output $WORK/one \
#     --size.backbone.layers 1 --size.lm.tail_layers 0 --model.init_args.tokenizer $WORK/tokenizer.json \
#     --data.init_args.script $WORK --data.init_args.tokenizer $WORK/tokenizer.json \
#     --trainer.max_steps 10 --trainer.enable_progress_bar false

# %% [markdown]
# ### (e) Two processes
#
# Three flags more, and two processes share every batch: each computes the gradient of its half, the halves are averaged
# over a wire, and both take the same step. That is *distributed data parallel* (DDP). On a machine with two GPUs leave
# `--trainer.accelerator cpu` out. Not "about the same" training: the same weights, to the last digits that rounding
# leaves.

# %% language="bash" tags=["processes"]
# mossrepro fit -c configs/backbone.yaml -c $SIZE --output $WORK/two \
#     --size.backbone.layers 1 --size.lm.tail_layers 0 --model.init_args.tokenizer $WORK/tokenizer.json \
#     --data.init_args.script $WORK --data.init_args.tokenizer $WORK/tokenizer.json \
#     --trainer.max_steps 10 --trainer.enable_progress_bar false \
#     --trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp

# %% tags=["processes"]
one, two = (checkpoint.from_pretrained(WORK / name)[0].state_dict() for name in ("one", "two"))
apart = max(float((one[name] - two[name]).abs().max()) for name in one)
print(f"one process and two: {apart:.1e} apart after ten steps")
assert apart < 1e-6

# %% [markdown]
# ### (f) What would the full size cost?
#
# `mossrepro plan` builds the paper's model on PyTorch's `meta` device, where tensors have shapes and no memory, and
# counts: parameters, memory on each device, floating point operations. The layer above, 36 times, wide and deep:

# %% language="bash" tags=["processes"]
# mossrepro plan -c configs/stage1.yaml -c configs/size/full.yaml --devices 8 --tflops 300

# %% [markdown]
# | this lesson's trainings | two CPU cores, estimated | T4 | A100 |
# |---|---|---|---|
# | (c) 400 steps of 16 documents | a minute | not measured | not measured |
# | (d), (e) ten steps, starting up included | 10 s, 15 s | not measured | not measured |
#
# ## 8. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. SmolLM2: dim 576, 9 query heads and 3 key-value heads of 64 numbers. How many weights do the four matrices of
#    attention have?
# 2. How many numbers must be kept for a row in one layer, keys and values together?
# 3. By which angle (in radians) is pair 16 of 32 turned at position 7, if theta is 100,000?
# 4. The feed-forward part is 1,536 wide. How many weights has SwiGLU?
# 5. A document has 100 rows. How many query · key products does one head need that are not in the future (a row with
#    itself counts)?

# %%
ANSWERS = {
    1: "AAAAAAAAK0E=",
    2: "AAAAAAAAeEA=",
    3: "oB6tB86qlj8=",
    4: "AAAAAABAREE=",
    5: "AAAAAAC6s0A=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** Two *earlier* words change places ("dog" and "cat"). Does what the *last* row hears change,
#    if RoPE is switched off (all positions 0)? And with RoPE?

# %%
expected = None  # "no, no", "no, yes", "yes, no" or "yes, yes": without RoPE first
swapped = normed[torch.tensor([0, 4, 2, 3, 1, *range(5, len(x))])]
outcome = []
for places in (0 * positions, positions):
    before, after = (naive_attention(rows, layer.self_attn, places, config.theta)[0] for rows in (normed, swapped))
    outcome.append("no" if torch.allclose(before[-1], after[-1], atol=1e-4) else "yes")
predict(6, expected, ", ".join(outcome))

# %% [markdown]
# 7. **Write it.** `my_shared(k, times)` lays keys of G groups out for G x `times` query heads, as if there were no
#    groups: heads 0, 1, 2 get group 0, heads 3, 4, 5 group 1, and so on.


# %%
def my_shared(k, times):
    """k (G, L, E) -> (G * times, L, E)."""
    raise NotImplementedError  # your code


keys = torch.arange(12.0).view(3, 2, 2)
implement(7, lambda: torch.equal(my_shared(keys, 3), keys[torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])]))

# %% [markdown]
# Next: lesson 04 stacks thirty of these, cuts the stack, and holds it to its promise not to forget.
