# %% [markdown]
# # 04 · The split, and what freezing promises
#
# A text model that has read the web is put under a pair of ears and a mouth. Two things must not happen: it must not
# forget, and speech must not be squeezed through layers that are busy choosing *written* words. The paper's answer is a
# split and a freeze. This lesson makes both on a real model, counts bits, and lets a Trainer do Stage 1.
#
# - **Reading** 40 minutes · **computing** about six minutes on two CPU cores, 3 GB of memory · no GPU, no network
# - **You need** PyTorch, lessons 02 and 03

# %%
import inspect
import json
import logging
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, Code, display
from lightning.pytorch import Trainer

from mossrepro.codec import SpeechCodec
from mossrepro.data.facts import all_facts
from mossrepro.data.oracle import oracle_codes
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.lm import init, plan
from mossrepro.lm.data import LMDataModule, collate
from mossrepro.lm.grid import Grid
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.task import LayerSplitTask
from mossrepro.speech import voices
from mossrepro.training.callbacks import ProgressFile
from mossrepro.training.config import configs_folder
from mossrepro.utils import audio
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.vocoder.speech_decoder import SpeechDecoder

CONFIGS = configs_folder()
SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. When does a text model know what it is going to write?
#
# SmolLM2-135M has 30 layers. After every one of them we can ask the head, early, what it would write next (the "logit
# lens"). Below: at which rank does the right word stand, layer by layer?

# %%
task = LayerSplitTask("smollm2", codes=1024, tail_layers=4, train="speech")
model, tokenizer = task.model, task.tokenizer
grid = Grid(tokenizer, codes=1024)
ids = grid.ids
asked = {
    "The capital of France is": " Paris",
    "The opposite of hot is": " cold",
    "Water freezes and becomes": " ice",
}
blocks = [*model.trunk, *model.text_tail]


@torch.inference_mode()
def naive_lens(model, text, word):
    """Rank of `word` after `text`, asked after each of the layers; 1 is the model's first choice."""
    written = torch.tensor([tokenizer.encode(text).ids])  # (1, L)
    x = model.text_embed(written)  # (1, L, D)
    table = model.rotary(torch.arange(written.shape[1])[None])
    ranks = []
    for block in blocks:
        x = block(x, table)
        scores = model.text_head(model.text_norm(x[0, -1]))
        ranks.append(int((scores > scores[tokenizer.encode(word).ids[0]]).sum()) + 1)
    return ranks


figure, axes = plt.subplots(figsize=(8, 3))
for text, word in asked.items():
    axes.plot(range(1, 31), naive_lens(model, text, word), "o-", markersize=3, label=f"{text} ...{word}")
axes.axvline(26.5, color="k", linestyle="--", linewidth=0.8)
axes.set(yscale="log", xlabel="layer", ylabel="rank of the right word")
axes.invert_yaxis()
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# For most of the way the right word is nowhere near the top; it gets there in the last layers. (The lens shows when a
# state can be *read as writing*, not what it means before.) If the last layers are busy with writing, speech needs
# others in their place.
#
# Rows of *sound* can be compared too. We put codes where a text model has never seen any, as random vectors with the
# mean and the covariance of text embeddings, and measure after every layer how alike the two kinds of rows are: the
# cosine between the mean state of the spoken and that of the written rows (1: the same direction, 0: nothing in
# common). These codes mean nothing yet, so keep the curve only for comparison.


# %%
@torch.inference_mode()
def naive_meeting(model, rows):
    """rows (1, L, 2) with both kinds -> cosine of the mean spoken and the mean written state after every layer."""
    spoken = rows[0, :, 0] == ids.pad
    x, table, met = model.embed(rows), model.rotary(torch.arange(rows.shape[1])[None]), []
    for block in blocks:
        x = block(x, table)
        said, written = x[0, spoken].mean(0), x[0, ~spoken].mean(0)
        met.append(float(torch.cosine_similarity(said, written, dim=0)))
    return met


question = "What is the capital of France?"
mixed = grid.join(grid.turn("user", text=question), grid.turn("user", codes=oracle_codes(question, "04", 1024)))
met = naive_meeting(model, torch.from_numpy(np.stack([mixed.text, mixed.speech], -1))[None])
figure, axes = plt.subplots(figsize=(8, 2.2))
axes.plot(range(1, 31), met, "o-", markersize=3, color="#e45756")
axes.axvline(26.5, color="k", linestyle="--", linewidth=0.8)
axes.set(xlabel="layer", ylabel="cosine")
plt.show()

# %% [markdown]
# That is the start, before anything was trained: where it is high, the states have a direction that all rows share,
# whatever they mean. Training must make the two *meet* in the middle, and let them part at
# the end. The paper found it so in a trained model: the states of spoken and written versions of a sentence grow alike
# over the first layers, stay alike, and part in the last ones (arXiv 2510.00499, on
# SpeechGPT-2.0-preview: 28 layers, apart in the last 3). So it cuts Qwen3-8B after 32 of 36 layers; we cut SmolLM2
# after 26 of 30, at the dashed line.
#
# ## 2. The cut
#
# What is before the cut is shared: the **trunk**. The last four layers become the **text tail**, a copy of them the
# **speech tail**. The whole model, naively:


# %%
def naive_split(model, rows):
    """rows (1, L, 2) of text and speech ids -> what the two tails say, (1, L, D) each."""
    text, speech = rows.unbind(-1)
    spoken = (text == model.config.modality_pad)[..., None]  # select, never sum
    x = torch.where(spoken, model.speech_embed(speech), model.text_embed(text))
    table = model.rotary(torch.arange(rows.shape[1])[None])
    for block in model.trunk:
        x = block(x, table)
    written, said = x, x
    for one, other in zip(model.text_tail, model.speech_tail, strict=True):
        written, said = one(written, table), other(said, table)
    return model.text_norm(written), model.speech_norm(said)


sentence = "The garden is full of green birds."
spoken = torch.from_numpy(audio.resample(*voices.say(sentence), 16_000))[None]
with torch.inference_mode():
    codes = SpeechCodec.from_pretrained("pack:teach").encode(spoken)[0].numpy()  # a small trained one (lesson 01)
dialogue = grid.join(
    grid.system(spoken=True),
    grid.turn("user", text=f"Repeat: {sentence}"),
    grid.turn("assistant", codes=codes, supervise=True),
)
rows = torch.from_numpy(np.stack([dialogue.text, dialogue.speech], -1))[None]
with torch.inference_mode():
    naive, ours = naive_split(model, rows), model(rows)
assert torch.allclose(naive[0], ours.text, atol=1e-3) and torch.allclose(naive[1], ours.speech, atol=1e-3)
print(f"{rows.shape[1]} rows, {int((rows[..., 0] == ids.pad).sum())} of them spoken; naive and package agree")
again, rate = SpeechDecoder.from_pretrained("pack:teach", "pack:teach").speak(codes)
display(Audio(again, rate=rate))  # what the codes of the assistant's turn stand for

# %% [markdown]
# A speech tail that is a copy says what the text tail says, for the time being:

# %%
print("largest difference between the two channels:", float((ours.text - ours.speech).abs().max()))
assert torch.equal(ours.text, ours.speech)

# %% [markdown]
# What speech adds is small, here and in the paper's model. `mossrepro plan` builds the large one on PyTorch's `meta`
# device, which has shapes and no memory:

# %%
large = plan.read([CONFIGS / "stage1.yaml", CONFIGS / "size" / "full.yaml"])
with torch.device("meta"):
    paper = LayerSplitLM(plan.shape(large))
paper.train_only("speech")
for name, one in (("SmolLM2, split", model), ("the paper's", paper)):
    parts = plan.parts(one)
    total, trained = (sum(pair[i] for pair in parts.values()) for i in (0, 1))
    print(f"{name:15} {total:>13,} parameters, {trained:>11,} learn in Stage 1 ({trained / total:.1%})")
    print("   ", {part: f"{count / 1e6:.1f} M" for part, (count, _) in parts.items()})
assert total == 9_095_694_336 and trained == 907_056_128

# %% [markdown]
# ## 3. Freezing is a promise about bits
#
# The **speech half** is speech's embedding, tail, norm and head; the rest is the **text half**. (`small` adds two parts
# of its own, which lesson 05 explains: a *mouth* between speech tail and speech head, and an *inner ear* before the
# trunk. Here and in the paper there are none.) Stage 1 trains the speech half alone: `train="speech"` in the first cell
# has set `requires_grad=False` on the other. "The text model does not change" is easily said; let us take it literally
# and compare every bit of every weight before and after. The documents ask for words to be said, and to be written.

# %%
words = ["The garden is full of green birds.", "Nobody had seen the captain.", "The old bridge was closed."]
documents = []
for i, text in enumerate(words[: 2 if SMOKE else 3]):
    codes = oracle_codes(text, str(i), 1024)
    say = [grid.turn("user", text=f"Repeat: {text}"), grid.turn("assistant", codes=codes, supervise=True)]
    hear = [grid.turn("user", codes=codes), grid.turn("assistant", text=text, supervise=True)]
    documents += [grid.join(grid.system(True), *say), grid.join(grid.system(False), *hear)]
batch = collate(documents, grid, 256)  # documents are cut off at 256 rows
before = {name: value.clone() for name, value in model.state_dict().items()}
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
for step in range(2 if SMOKE else 12):
    losses = task.losses(batch)  # sums over rows, and the numbers of rows
    text, speech = losses["text"] / losses["n_text"], losses["speech"] / losses["n_speech"]
    (text + speech).backward()
    optimiser.step()
    optimiser.zero_grad()
    print(f"step {step}: text {float(text):.2f}, speech {float(speech):.2f} nats a row")


# %%
def naive_changed_bits(old, new):
    """How many of a tensor's bits are others now, and how many there are."""
    flipped = old.contiguous().view(torch.int32) ^ new.contiguous().view(torch.int32)
    return int(np.unpackbits(flipped.numpy().view(np.uint8)).sum()), 32 * old.numel()


changed: dict[str, list[int]] = {}
for name, new in model.state_dict().items():
    flipped, bits = naive_changed_bits(before[name], new)
    part = changed.setdefault(name.split(".")[0], [0, 0])
    part[0], part[1] = part[0] + flipped, part[1] + bits
for part, (flipped, bits) in changed.items():
    print(f"{part:13} {flipped:>12,} of {bits:>14,} bits changed")
assert all((flipped == 0) == (not part.startswith("speech")) for part, (flipped, _) in changed.items())

figure, axes = plt.subplots(figsize=(7, 2.5))
axes.barh(list(changed), [flipped / bits for flipped, bits in changed.values()], color="#4c78a8")
axes.set(xlabel="share of bits that changed in Stage 1")
axes.invert_yaxis()
plt.show()

# %% [markdown]
# Not "hardly changed": not one bit of the text half. Whatever the model writes in answer to a written question after
# Stage 1 it wrote before. A finished run measures it too (`largest change of a text logit by Stage 1`), and a test
# watches over it.
#
# ### A freeze that leaks
#
# There is a way to do it wrong that looks right. Let the frozen weights have gradients of zero instead of none:

# %%
weight = torch.nn.Parameter(model.trunk[0].mlp.up_proj.weight[:4, :4].detach().clone())
other = weight.detach().clone()
leaky = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.1)
weight.grad = torch.zeros_like(weight)
leaky.step()
flipped, bits = naive_changed_bits(other, weight.detach())
print(f"{flipped} of {bits} bits changed by a step with a gradient of zero")
assert flipped > 0

# %% [markdown]
# AdamW takes a little of every weight that has a gradient, whatever the gradient is (weight decay), and where there
# ever was another gradient, momentum goes on moving the weight. A frozen weight must have *no* gradient
# (`requires_grad=False`): then the optimiser passes it by.
#
# ### Frozen does not mean closed
#
# The loss of *written* words teaches the *speech* embedding, through 30 frozen layers: they have no gradient of their
# own and still let one through. The loss moves the codes' vectors to where a text model expects words. (The size
# `small` does without. There a code's vector starts near those of the letters that spell the phones heard in it, and
# stays frozen: a step takes half the time, and the loss ends 0.1 nats higher at equal steps; `docs/LOG.md`.)

# %%
heard = collate([documents[1]], grid, 256)  # spoken in, written out
task.losses(heard)["text"].backward()
print("gradient of the speech embedding:", float(model.speech_embed.weight.grad.abs().sum()) > 0)
print("gradient of the trunk:", model.trunk[0].mlp.up_proj.weight.grad)
assert model.speech_embed.weight.grad.abs().sum() > 0 and model.trunk[0].mlp.up_proj.weight.grad is None
optimiser.zero_grad()

# %% [markdown]
# ### Stage 1 by a Trainer
#
# The loop above, for real: sentences to be said (80 %) and to be written down (20 %), in batches of four documents,
# each filled with sentences up to 100 rows, by the package's `LayerSplitTask`. It is a **LightningModule**: it says
# what is in the model, what is the loss of a batch and which optimiser, and the `Trainer` has the loop (lesson 03 takes
# that apart). Forty steps, about three minutes; afterwards the bits are counted again.

# %%
WORK = Path(tempfile.mkdtemp(prefix="lesson-04-"))
facts = all_facts(families=4, limit=12)
recipe = ScriptRecipe(user_speech=60, assistant_speech=60, question=1, kokoro=0, user_speech_kokoro=0, tests=1)
lines = write_script(facts, recipe)
(WORK / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
(WORK / "facts.json").write_text(json.dumps(facts))
tokenizer.save(str(WORK / "tokenizer.json"))
TOKENIZER, MIX = str(WORK / "tokenizer.json"), {"tts": 0.8, "asr": 0.2}
data = LMDataModule(str(WORK), "oracle", TOKENIZER, 1024, MIX, batch=4, max_conversation_len=100)
logging.getLogger("lightning.pytorch").setLevel("ERROR")
warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")  # neither is about us
before = {name: value.clone() for name, value in model.state_dict().items()}
trainer = Trainer(
    accelerator="auto",
    devices=1,
    max_steps=2 if SMOKE else 40,
    gradient_clip_val=1.0,
    limit_val_batches=0,
    callbacks=[ProgressFile(WORK / "curve.jsonl", 1)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(task, datamodule=data)
task.cpu()
rows_read = [json.loads(row) for row in (WORK / "curve.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(figsize=(6, 2.2))
for name in ("text", "speech"):
    points = [(row["step"], row[f"train/{name}"]) for row in rows_read if f"train/{name}" in row]
    axes.plot(*zip(*points, strict=True), label=name)
axes.set(xlabel="step", ylabel="nats a row")
axes.legend(frameon=False)
plt.show()
for name, new in model.state_dict().items():
    assert torch.equal(new, before[name]) or name.startswith("speech"), name
print("every bit of the text half is what it was")

# %% [markdown]
# On the command line this is `mossrepro fit -c configs/stage1.yaml` with a size and data, and two GPUs are two flags
# more (`--trainer.devices 2 --trainer.strategy ddp`): lesson 05 does both. (`small` itself trains `stage1_word.yaml`.)
#
# What a stage may train is one word in its configuration, `train`: the paper's stages use `speech` and `all`; the
# others below are for ablations and for parts that lesson 05 tells of. (Read it so: speech's own parameters learn,
# except with `trunk` and `ears`. `_PREFIXES`, not shown, adds nothing for `speech`, the trunk for `trunk` and `shared`,
# everything for `all`. LoRA, arXiv 2106.09685, is a small trained change of a frozen matrix; *ears* are in lesson 05.)

# %%
display(Code(inspect.getsource(LayerSplitLM.train_only), language="python"))

# %% [markdown]
# ## 4. Other places to cut
#
# The paper's reviewers asked what happens with another depth, or with speech's own layers first or in the middle. Then
# trunk layers remain *behind* the tails: the written and the spoken stream each run through them by themselves, with
# the same weights. While the speech tail is a copy, all these models say the same: they differ in what may *change*.

# %%
written = rows.clone()
written[..., 0] = torch.where(rows[..., 0] == ids.pad, ids.im_end, rows[..., 0])  # text only: no speech embedding
for depth, at, name in [(0, None, "no split"), (4, 0, "4 first"), (4, 13, "4 in the middle"), (8, None, "8 last")]:
    if SMOKE and depth == 8:
        continue
    cut = init.resplit(model, depth, at)
    init.start_speech_half(cut, seed=0)
    with torch.inference_mode():
        says = cut(written)
        assert torch.equal(says.text, says.speech) and torch.allclose(says.text, model(written).text, atol=1e-3)
    learns = sum(p.numel() for p in cut.speech_parameters().values())
    behind = len(cut.trunk) - cut.config.split_layer
    print(f"{name:16} trunk before and behind: {cut.config.split_layer:2} and {behind:2} layers,", end=" ")
    print(f"{learns / 1e6:5.1f} M parameters of speech's own")

# %% [markdown]
# Each is an overlay: `mossrepro fit -c configs/stage1.yaml -c configs/size/small.yaml -c
# configs/experiment/split_middle.yaml`, with the data as docs/data.md says. The paper's own table says that freezing
# first carries nearly all of the gain (66.5 against 62.1 without in MMLU, a test of knowledge by multiple choice), and
# that the split alone brings little. At `small` we found something else (`docs/LOG.md`, one seed, 40 % of the steps,
# answers in whole sentences, without a mouth): never frozen was as good; without a split it heard as well and spoke
# worse. *Frozen without a split* was never published: `configs/experiment/frozen_no_split.yaml`.
#
# ## 5. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. A layer of SmolLM2 has 3,540,096 parameters. How many does the speech tail of four layers have?
# 2. Qwen3-8B is cut after 32 of 36 layers. How many layer instances does the split model have?
# 3. With the *last* 8 of SmolLM2's 30 layers split, how many layers does a row pass if both tails run?
# 4. How many bits must be equal to say that the paper's 8,188,638,208 frozen parameters in bfloat16 are unchanged?
# 5. AdamW, weight decay 0.1, learning rate 1e-3, gradient zero: by how much does a weight of 1.0 shrink in one step?

# %%
ANSWERS = {
    1: "AAAAAEACa0E=",
    2: "AAAAAAAAREA=",
    3: "AAAAAAAAQ0A=",
    4: "AAAAQEuBPkI=",
    5: "LUMc6+I2Gj8=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** Every number of the *speech* embedding is replaced by chance. Does what the model says to a
#    purely written prompt change ("yes" or "no")? Does it in the text head, does it in the speech head?

# %%
expected = None  # "yes, yes", "yes, no", "no, yes" or "no, no": the text head first, then the speech head
with torch.inference_mode():
    kept = model.speech_embed.weight.clone()
    says = model(written)
    model.speech_embed.weight.normal_()
    now = model(written)
    model.speech_embed.weight.copy_(kept)
same = [torch.equal(says.text, now.text), torch.equal(says.speech, now.speech)]
predict(6, expected, ", ".join("no" if one else "yes" for one in same))

# %% [markdown]
# 7. **Write it.** `my_stage_1(names)` picks, from the names of all parameters, those that Stage 1 trains.


# %%
def my_stage_1(names):
    """Names of parameters -> the set of those that belong to speech."""
    raise NotImplementedError  # your code


implement(7, lambda: my_stage_1(name for name, _ in model.named_parameters()) == set(model.speech_parameters()))

# %% [markdown]
# Next: lesson 05 trains it, in three stages.
