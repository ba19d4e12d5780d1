# %% [markdown]
# # 08 · Talking
#
# The language model has two heads at every row, one for text and one for speech, and only one mouth. This lesson writes
# the loop that decides which head is heard, first naively, then with a cache, and shows that both say the same.
#
# - **Reading** 40 minutes · **computing** two minutes on two CPU cores, 2 GB of memory · no GPU, no network
# - **You need** PyTorch, lessons 00 (the map) and 03 (attention)
# - **A finished run is welcome, not needed** (`make reproduce`): with one, the last section asks it a question out loud

# %%
import inspect
import os
import time
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, Code, display
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from mossrepro.codec import SpeechCodec
from mossrepro.data.oracle import oracle_codes
from mossrepro.lm import checkpoint, decode, init
from mossrepro.lm.decode import CHANNELS, GenerationConfig, SamplingParams, generate, sample_token
from mossrepro.lm.grid import Grid, Positions, question_prompt
from mossrepro.lm.inference import fuse_projections
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.pipeline import Assistant, newest_run
from mossrepro.speech import voices
from mossrepro.utils import assets, audio
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.utils.packed_linear import PackedLinear
from mossrepro.utils.random import seed_for
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. A real text model with a mouth it has not learnt to use
#
# SmolLM2-135M travels with the project. We cut its 30 layers after 26; the last four become the text tail, a copy of
# them the speech tail. No training happens here, so the speech half talks noise. What is tested is the *machinery*.

# %%
model, tokenizer = checkpoint.load_gguf(assets.get("smollm2"), codes=1024, tail_layers=4)
init.start_speech_half(model, seed=0)
model.eval().requires_grad_(False)
grid = Grid(tokenizer, codes=1024)
ids = grid.ids
print(ids)

# %% [markdown]
# ## 2. The grid: two channels, one row at a time
#
# A conversation is a grid of two columns, one for text ids and one for speech ids. A row whose text id is the *modality
# pad* is read by its speech id, any other row by its text id. Nothing is added up. Here is a spoken question with a
# spoken answer. The codes are *oracle* codes, made from the letters, because this lesson needs no codec.

# %%
question, answer = "What is the capital of France?", "It is Paris."
question_codes = oracle_codes(question, "question", 1024)
answer_codes = oracle_codes(answer, "answer", 1024)
dialogue = grid.join(
    grid.system(spoken=True),
    grid.turn("user", codes=question_codes),
    grid.turn("assistant", codes=answer_codes, supervise=True),
)
kinds = ["text token", "SOSP", "modality pad", "code", "EOSP", "speech pad"]
spoken = dialogue.text == ids.pad
channels = np.stack(
    [
        np.select([dialogue.text == ids.sosp, spoken], [1, 2], 0),
        np.select([spoken & (dialogue.speech == ids.eosp), spoken], [4, 3], 5),
    ]
)
colours = ["#4c78a8", "#1b2f45", "#dddddd", "#f58518", "#9c2a00", "#f5f5f5"]
figure, axes = plt.subplots(figsize=(14, 1.5))
axes.imshow(channels, aspect="auto", cmap=ListedColormap(colours), vmin=-0.5, vmax=5.5, interpolation="nearest")
axes.set(yticks=[0, 1], yticklabels=["text", "speech"], xlabel="row")
axes.set_xticks(np.arange(-0.5, len(dialogue)), minor=True)
axes.grid(which="minor", axis="x", color="white", linewidth=0.6)
axes.tick_params(which="minor", length=0)
handles = [Patch(facecolor=c, edgecolor="#999999", label=k) for c, k in zip(colours, kinds, strict=True)]
axes.legend(handles=handles, ncol=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
plt.show()

starts = np.flatnonzero(dialogue.text == ids.sosp)
assert len(starts) == 2 and len(question_codes) + 2 == np.sum(dialogue.text[starts[0] : starts[1]] == ids.pad) + 1
print(f"{len(dialogue)} rows; the question's {len(question_codes)} codes take {len(question_codes) + 2} rows")

# %% [markdown]
# The speech pad is the id codes / 32, here 32 (the released model: 512 of 16,384). That is a code too, and no harm:
# beside a text id nobody looks at it.
#
# SOSP (*start of speech*) is a text token: the text head can decide to start speaking. EOSP (*end of speech*) is a
# speech token: the speech head decides when it is done. After EOSP the text head is heard again and closes the turn.
#
# ## 3. The automaton
#
# One tick of the loop. Both heads have an opinion, `t` and `s`; the mode says which one is drawn by chance and counts.
# (The other is only shown below: the most likely of what the idle head would have said.)
#
# | mode | what is written (text, speech) | then |
# |---|---|---|
# | text | (`t`, speech pad) | SOSP: speak on · `<|im_end|>` or `<|endoftext|>`: stop |
# | speech | (modality pad, `s`) | EOSP: back to text |


# %%
def naive_step(speaking, t, s, ids):
    """-> (the row to write), still speaking?, finished?"""
    if speaking:
        return (ids.pad, s), s != ids.eosp, False
    return (t, ids.speech_pad), t == ids.sosp, t in (ids.im_end, ids.end)


@torch.inference_mode()
def naive_heads(model, rows, ids, how, dice, speaking, early):
    """What both heads say after all rows (L, 2); the one that is heard draws by chance, the other its most likely."""
    hidden = model(rows[None])  # (1, L, D) from each tail
    text, speech = model.text_head(hidden.text[:, -1]), model.speech_head(hidden.speech[:, -1])
    speech[:, ids.eosp + (not early) :] = -torch.inf  # unused ids; EOSP too while it is too early
    text[:, ids.pad] = -torch.inf  # it would be read as a code
    if speaking:
        return int(text.argmax()), sample_token(speech, how.speech, [dice["speech"]], [[]])[0]
    return sample_token(text, how.text, [dice["text"]], [[]])[0], int(speech.argmax())


def naive_reply(model, prompt, ids, how):
    """The whole loop. Every new row runs *all* rows again. -> one (speaking, t, s) for every row."""
    rows = torch.from_numpy(np.stack([prompt.text, prompt.speech], -1))  # (L, 2)
    dice = {channel: torch.Generator().manual_seed(seed_for(how.seed, channel)) for channel in CHANNELS}
    speaking, finished, codes, log = bool(rows[-1, 0] == ids.sosp), False, 0, []
    while len(log) < how.max_positions and not finished:
        t, s = naive_heads(model, rows, ids, how, dice, speaking, codes < how.speech.min_length)
        log.append((speaking, t, s))
        codes += speaking and s != ids.eosp
        row, speaking, finished = naive_step(speaking, t, s, ids)
        rows = torch.cat([rows, torch.tensor([row])])
    return log


# %% [markdown]
# To see every switch we need a model that makes up its mind often. A toy with random weights, 12 text ids and 8 codes
# does: drawn at temperature 1, it starts to speak, stops, and starts again within a few rows.

# %%
torch.manual_seed(0)
toy_ids = SpecialIds(im_start=0, im_end=1, end=2, sosp=3, pad=4, eosp=8, speech_pad=0)
toy = LayerSplitLM(
    LMConfig(dim=32, layers=4, tail_layers=2, heads=4, kv_heads=2, head_dim=8, ffn_dim=48, text_vocab=12, codes=8,
             tied=False, modality_pad=toy_ids.pad)
).eval()  # fmt: skip
toy_prompt = Positions(text=np.array([5, 6, 7]), speech=np.zeros(3, np.int64), supervise=np.zeros(3, bool))

replies = {}
for seed in range(10 if SMOKE else 60):
    how = GenerationConfig(
        SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, min_length=1), max_positions=24, seed=seed
    )
    replies[seed] = log = naive_reply(toy, toy_prompt, toy_ids, how)
    reply = generate(toy, [toy_prompt], toy_ids, how)[0]
    marks = (toy_ids.sosp, toy_ids.im_end, toy_ids.end)
    assert reply.text == [t for speaking, t, s in log if not speaking and t not in marks]
    assert reply.codes == [s for speaking, t, s in log if speaking and s != toy_ids.eosp]
    said_all = log[-1][0] and log[-1][2] == toy_ids.eosp  # and only <|im_end|> has found no place below the limit
    assert reply.ended == (naive_step(*log[-1], toy_ids)[2] or said_all)
print(f"{len(replies)} replies, {sum(map(len, replies.values()))} rows: the naive loop and the package agree on each")

# %% [markdown]
# One of them, row by row. In each row one of the two opinions is thrown away.

# %%
names = {0: "im_start", 1: "im_end", 2: "endoftext", 3: "SOSP", 4: "pad"}
switches = {seed: sum(a[0] != b[0] for a, b in zip(log, log[1:], strict=False)) for seed, log in replies.items()}
log = replies[max(replies, key=lambda seed: (min(switches[seed], 2), -len(replies[seed])))]  # short, but both ways
print("row  mode    text head   speech head  ->  written (text, speech)")
for i, (speaking, t, s) in enumerate(log):
    (text, speech), *_ = naive_step(speaking, t, s, toy_ids)
    head = (names.get(t, f"word {t}"), "EOSP" if s == toy_ids.eosp else f"code {s}")
    drawn = (f"({head[0]})", head[1]) if speaking else (head[0], f"({head[1]})")
    written = names.get(text, f"word {text}"), head[1] if speaking else "speech pad"
    assert speech == (s if speaking else toy_ids.speech_pad)
    print(f"{i:3}  {'speech' if speaking else 'text':6}  {drawn[0]:11} {drawn[1]:12} ->  {written[0]}, {written[1]}")

# %% [markdown]
# Nothing in the machinery forbids words *and* speech in one reply. A model that first writes its answer and then reads
# it out ("text guidance") would need other training data, not another architecture. MOSS-Speech's point is that it does
# not need it.
#
# ## 4. The same loop on SmolLM2
#
# A written answer comes from the untouched text half, so it makes sense. A spoken one comes from a speech tail that has
# never been trained: it stutters, but both loops must stutter alike.

# %%
how = GenerationConfig(max_positions=12)  # temperature 0: always the most likely token
for pairing in ("T2T",) if SMOKE else ("T2T", "S2S"):
    prompt = question_prompt(grid, pairing, question, question_codes)
    log, reply = naive_reply(model, prompt, ids, how), generate(model, [prompt], ids, how)[0]
    assert reply.text == [t for speaking, t, s in log if not speaking and t not in (ids.im_end, ids.end)]
    assert reply.codes == [s for speaking, t, s in log if speaking and s != ids.eosp]
    print(pairing, "->", tokenizer.decode(reply.text) or reply.codes)

# %% [markdown]
# ## 5. The cache
#
# Attention is causal: a new row never changes the rows before it. So the naive loop computes the same keys and values
# again and again. Keep them, and a new row costs one row. A **cache** is no more than two lists, of the keys and of the
# values of all rows so far; the new row's query looks at the lists. In one layer (lesson 03):


# %%
def naive_cached(attention, row, table, keys, values):
    """One new row (1, 1, D) and its rotary table; the lists grow by one. -> what it hears, (1, 1, D)."""
    q, k, v = attention.heads(row, table)  # (1, heads, 1, E), rotated
    keys.append(k)
    values.append(v)
    shared = q.shape[1] // k.shape[1]  # query heads to a head of keys
    k, v = (torch.cat(kept, 2).repeat_interleave(shared, 1) for kept in (keys, values))  # (1, H, rows, E)
    weights = (q @ k.transpose(2, 3) / attention.head_dim**0.5).softmax(-1)
    return attention.o_proj((weights @ v).transpose(1, 2).flatten(2))


attention, keys, values = model.trunk[0].self_attn, [], []
normed = model.trunk[0].input_layernorm(model.text_embed(torch.tensor([tokenizer.encode(question).ids])))
with torch.inference_mode():
    at_once = attention(normed, model.rotary(torch.arange(normed.shape[1])[None]))
    for i in range(normed.shape[1]):
        now = naive_cached(attention, normed[:, i : i + 1], model.rotary(torch.tensor([[i]])), keys, values)
        assert torch.allclose(now, at_once[:, i : i + 1], atol=1e-4)
print(f"{len(keys)} rows, one by one, hear what they hear together")

# %% [markdown]
# And the whole model, with the package's cache:

# %%
prompt = question_prompt(grid, "S2S", question, question_codes)
rows = torch.from_numpy(np.stack([prompt.text, prompt.speech], -1))[None]  # (1, L, 2)
n = rows.shape[1]
with torch.inference_mode():
    everything = model(rows)
    shorter = model(rows[:, :-1])
    assert torch.allclose(everything.speech[:, :-1], shorter.speech, atol=1e-3)  # the past stays as it was

    cache = model.new_cache(batch=1, capacity=n)
    model(rows[:, :-1], cache=cache)  # the prompt but for its last row
    last = model(rows[:, -1:], positions=torch.tensor([[n - 1]]), cache=cache)  # one row
assert cache.used == n and torch.allclose(last.speech[:, 0], everything.speech[:, -1], atol=1e-3)
print(f"one row with the cache = row {n - 1} of the whole, in both tails")

# %% [markdown]
# **Both tails need every row**, also the one that is not heard: its keys will be looked at as soon as the mode changes.
# But not at once. The package lets an idle tail wait, keeps what the trunk said, and gives it all the rows that it has
# missed in one pass when its turn comes; a spoken answer never runs the text tail before its end. (A model with a
# mouth, lesson 05, asks the text *head* at every code what it reads in the speech tail: one more matrix, no layer, and
# what it reads is not written down.) What a row costs in memory: 2 (keys, values) x layer instances x key-value heads x
# width of a head.

# %%
parts = [cache.trunk, cache.text_tail, cache.speech_tail]
instances = sum(len(part) for part in parts)
numbers = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for part in parts for layer in part)
assert numbers == 2 * instances * model.config.kv_heads * model.config.head_dim
paper = 2 * (32 + 4 + 4) * 8 * 128
print(f"small: {instances} instances, {numbers * 4 / 1024:.0f} KiB a row in float32")
print(f"paper: 40 instances, {paper * 2 / 1024:.0f} KiB a row in bfloat16")

# %% [markdown]
# With the cache, what is left of a row is little arithmetic and much reading: every weight is fetched from memory for
# two operations. So the order in which weights lie there counts. On a CPU with AVX512 the package lays large ones out
# once in the order that the processor's library reads fastest (`utils/packed_linear.py`); other CPUs keep theirs. On
# all it makes one product of those that read the same input (`lm/inference.py`: queries, keys and values). The answer
# stays what it was, but for rounding.

# %%
display(Code(inspect.getsource(PackedLinear), language="python"))

# %% [markdown]
# Now the clock. The reply is forced to a given length (`min_length`), the prompt stays the same.

# %%
fast = fuse_projections(deepcopy(model))
with torch.inference_mode():
    apart = (fast(rows).speech - model(rows).speech).abs().max() / model(rows).speech.abs().max()
assert apart < 1e-3
print(f"ordered weights: the speech tail's states are {float(apart):.0e} of their size apart")
lengths = (2, 4) if SMOKE else (8, 16, 32, 48)
loops = {
    "naive": lambda h: [s for _, _, s in naive_reply(model, prompt, ids, h)],
    "cached": lambda h: generate(model, [prompt], ids, h)[0].codes,
    "cached, ordered weights": lambda h: generate(fast, [prompt], ids, h)[0].codes,
}
seconds = {name: [] for name in loops}
for rows_wanted in lengths:
    how, replies = GenerationConfig(speech=SamplingParams(min_length=rows_wanted), max_positions=rows_wanted), []
    for name, loop in loops.items():
        started = time.perf_counter()
        replies.append(loop(how))
        seconds[name].append(time.perf_counter() - started)
    assert len(replies[0]) == rows_wanted
    assert replies[0] == replies[1]
    print(f"{rows_wanted} codes, the same from all three: {replies[0] == replies[1] == replies[2]}")

figure, axes = plt.subplots(figsize=(6, 3))
for name, taken in seconds.items():
    axes.plot(lengths, taken, "o-", label=name)
axes.plot(lengths, np.array(lengths) / 12.5, "k--", linewidth=0.8, label="real time (12.5 codes/s)")
axes.set(xlabel="rows of the reply", ylabel="seconds", title=f"SmolLM2, prompt of {n} rows")
axes.legend()
plt.show()
speed = {name: lengths[-1] / taken[-1] for name, taken in seconds.items()}
print(", ".join(f"{name}: {rate:.1f} rows/s = {rate / 12.5:.1f} x real time" for name, rate in speed.items()))

# %% [markdown]
# ### The timeline of an answer
#
# What a listener waits for: all of the question (the codec keeps up with it), then the prompt in one pass, then the
# first codes (eight: the flow paints five at a time, 0.4 s, and looks three ahead), then a chunk of mel and wave.
# Everything after that is hidden behind what is already heard. With the speed of the curve "cached" (flow and vocoder
# are guessed at 0.15 s a chunk here; `mossrepro bench voice` measures them):

# %%
with torch.inference_mode():
    started = time.perf_counter()
    model(rows)
    prefill = time.perf_counter() - started
a_code, chunk = seconds["cached"][-1] / lengths[-1], 0.15
parts = {"read the prompt": prefill, "first 8 codes": 8 * a_code, "flow and vocoder": chunk}
figure, axes = plt.subplots(figsize=(9, 1.4))
axes.barh(0, 1, left=-1, color="#dddddd", label="end of the question")
left = 0.0
for name, took in parts.items():
    axes.barh(0, took, left=left, label=name)
    left += took
axes.barh(0, 0.4, left=left, color="#54a24b", label="first sound, 0.4 s of it")
axes.set(yticks=[], xlabel="seconds after the last word of the question")
axes.legend(ncol=5, fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()
print(f"first sound {left:.2f} s after the question")

# %% [markdown]
# Back to the curves above the timeline: where one lies below the dashed line, the model speaks faster than it is
# listened to. On a quiet machine the naive curve bends upwards, for each row is dearer than the one before.
#
# This is the package's loop; `IncrementalDecoder` holds the cache and the idle tail's rows, `DecodingState` the modes.
# Beside that it answers several questions at once: prompts of different lengths are padded on the left, and padding is
# hidden from attention.

# %%
display(Code(inspect.getsource(decode.generate), language="python"))

# %%
questions = [question, "What is the opposite of hot?"][: 1 if SMOKE else 2] + ["Hello!"]
prompts = [question_prompt(grid, "T2T", text) for text in questions]
how = GenerationConfig(max_positions=6 if SMOKE else 16)
together = generate(model, prompts, ids, how)
for text, prompt, reply in zip(questions, prompts, together, strict=True):
    assert reply == generate(model, [prompt], ids, how)[0]
    print(f"{text:32} {len(prompt)} rows -> {tokenizer.decode(reply.text)}")

# %% [markdown]
# ## 6. Heard while it is made
#
# The second half of the timeline, for real: the teaching pack's flow decoder and vocoder take codes one by one, as a
# language model gives them, and hand out sound as soon as eight codes are there: a chunk of five and three to look
# ahead. Cut into the same chunks, a whole utterance gives the same sound (`speak` decodes this pack's uncut, so it
# differs a little). After two seconds a piece costs no more than the one before, but for the last, with all the rest.

# %%
speaker = SpeechDecoder.from_pretrained("pack:teach", "pack:teach")
sentence = audio.resample(*voices.say("Tell me the capital of Italy, and how one gets there by train."), 16_000)
with torch.inference_mode():
    said = SpeechCodec.from_pretrained("pack:teach").encode(torch.from_numpy(sentence)[None])[0].tolist()
pieces, took, started = [], [], time.perf_counter()
for piece in speaker.stream(iter(said)):
    took.append(time.perf_counter() - started)
    pieces.append(piece)
    started = time.perf_counter()
print(f"{len(said)} codes in {len(pieces)} pieces; seconds a piece: {', '.join(f'{one:.2f}' for one in took)}")
display(Audio(np.concatenate(pieces), rate=speaker.vocoder.rate))

# %% [markdown]
# ## 7. Ask out loud (with a finished run)
#
# The question is spoken by a voice that no part of the run has ever heard. It is turned into codes, answered in codes,
# and the codes are turned into sound. Between the two players no text is written. How near an inner ear and a mouth
# come to it all the same: lesson 05.

# %%
runs = Path("runs") if Path("runs").is_dir() else Path("../runs")
try:
    assistant = Assistant.from_run(newest_run(runs))
except CheckpointError as reason:
    assistant = None
    print(f"Nobody to ask yet: {reason}")

if assistant:
    spoken, rate = voices.say("Tell me the capital of Italy.", "hibari+p3" if SMOKE else "kokoro-nezumi")
    asked = audio.resample(spoken, rate, 16_000)
    started = time.perf_counter()
    said = assistant.answer(asked)
    print(f"{len(said.codes)} codes in {time.perf_counter() - started:.1f} s: {said.codes}")
    display(Audio(spoken, rate=rate))
    if len(said.wave):
        display(Audio(said.wave, rate=said.rate))
    print("the same question, answered in writing:", assistant.answer(asked, spoken=False).text)

# %% [markdown]
# ## 8. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. How many rows does a spoken answer of 3.2 s take, from SOSP to EOSP?
# 2. The prompt has 100 rows and the reply 50. How many rows does the naive loop push through the trunk in all?
# 3. In text mode the speech head draws EOSP. With 1,024 codes, which id is written into the speech channel?
# 4. The paper's model holds 10,000 rows of conversation in bfloat16. How many MiB is its cache?
# 5. The flow decoder paints 5 codes at a time and wants to see 3 more. How many milliseconds of speech must be coded
#    before the first sound?

# %%
ANSWERS = {
    1: "AAAAAAAARUA=",
    2: "AAAAAABRuEA=",
    3: "AAAAAAAAQEA=",
    4: "AAAAAABqmEA=",
    5: "AAAAAAAAhEA=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** The toy is asked ten times, with ten seeds, at temperature 0.001. How many different replies
#    come out: "one", "some" or "ten"?

# %%
expected = None  # "one", "some" or "ten"
cold = SamplingParams(temperature=0.001, min_length=1)
asked = [GenerationConfig(cold, cold, max_positions=8, seed=seed) for seed in range(10)]
different = {str(generate(toy, [toy_prompt], toy_ids, one)[0]) for one in asked}
predict(6, expected, {1: "one", 10: "ten"}.get(len(different), "some"))

# %% [markdown]
# 7. **Write it.** `my_chances(scores, temperature)`: the chance of every token, softmax(scores / temperature). At
#    temperature 0 all of it goes to the highest score.


# %%
def my_chances(scores, temperature):
    """Scores (K,) -> chances (K,), which add up to 1."""
    raise NotImplementedError  # your code


tried = torch.tensor([1.0, 3.0, 2.0])
implement(7, lambda: torch.allclose(my_chances(tried, 0.5), (tried / 0.5).softmax(0)) and my_chances(tried, 0)[1] == 1)
