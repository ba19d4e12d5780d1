# %% [markdown]
# # 02 · One sequence, two channels
#
# A language model reads one row after another and guesses the next. Where do spoken words go, and written ones, and
# what exactly is guessed? This lesson lays a conversation out by hand, row by row, shows what counts in the loss, and
# draws every kind of document that the model is trained on.
#
# - **Reading** 35 minutes · **computing** half a minute on one CPU core, 1 GB of memory · no GPU, no network
# - **You need** PyTorch, lessons 00 and 01, and to know what a token is

# %%
import inspect
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, Code, display
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from mossrepro.codec import SpeechCodec
from mossrepro.data.facts import all_facts
from mossrepro.data.oracle import OracleStore, oracle_codes
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.lm.data import IGNORE, collate
from mossrepro.lm.documents import Documents
from mossrepro.lm.grid import Grid
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import gguf_tokenizer
from mossrepro.speech import voices
from mossrepro.speech.sphinx import align
from mossrepro.utils import assets, audio
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.utils.random import rng
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. Words are dear, sounds are many
#
# SmolLM2's tokenizer cuts text into pieces, the codec cuts sound into codes. The same sentence, twice:

# %%
tokenizer = gguf_tokenizer(assets.get("smollm2"))
grid = Grid(tokenizer, codes=1024)
ids = grid.ids
sentence = "the old captain painted seven green birds"
wave = audio.resample(*voices.say(sentence, "assistant"), SAMPLE_RATE)
pieces = tokenizer.encode(sentence).tokens
codec = SpeechCodec.from_pretrained("pack:teach")  # a small trained one (lesson 01)
with torch.inference_mode():
    codes = codec.encode(torch.from_numpy(wave)[None])[0].numpy()
assert len(codes) == math.ceil(len(wave) / 1280)
print(f"{len(pieces)} pieces: {pieces}")
print(f"{len(codes)} codes of 80 ms: {codes.tolist()}")
again, rate = SpeechDecoder.from_pretrained("pack:teach", "pack:teach").speak(codes)
print("as it was spoken, and what the codes have kept of it:")
display(Audio(wave, rate=SAMPLE_RATE), Audio(again, rate=rate))

# %% [markdown]
# Four or five rows of sound for one row of text. That is why the codec must be slow (lesson 01).
#
# ## 2. Two channels
#
# Text ids and speech ids come from different lists, so a row has two places: channel 0 for text, channel 1 for speech.
# Only one of the two is ever *meant*. In a spoken row the text channel holds the **modality pad**, `pad`: not padding
# as in a batch, but a text id that says "read the speech channel". In a written row the speech channel holds a filler
# that nobody reads, `speech_pad`. Spoken rows are framed by two special ids, SOSP (start of speech, a text id) and EOSP
# (end of speech, a speech id). SmolLM2 has no such ids of its own, so two text tokens that it hardly uses serve:
# `<file_sep>` is SOSP (you will see it in prints below), `<empty_output>` is `pad`. EOSP is the first number after the
# codes, 1024; the filler may be any number, here 32, since it is not looked up. (`Ġ` in the pieces above is the
# tokenizer's sign for a space.)


# %%
def naive_spoken(codes):
    """Codes (n,) -> rows [(text id, speech id), ...], n + 2 of them."""
    rows = [(ids.sosp, ids.speech_pad)]  # the text channel says: speech comes
    rows += [(ids.pad, int(code)) for code in codes]  # the text channel holds the pad, the speech channel speaks
    return [*rows, (ids.pad, ids.eosp)]


spoken = grid.spoken(codes)
assert [*zip(spoken.text.tolist(), spoken.speech.tolist(), strict=True)] == naive_spoken(codes)
print("text   ", spoken.text[:6].tolist(), "...", spoken.text[-2:].tolist())
print("speech ", spoken.speech[:6].tolist(), "...", spoken.speech[-2:].tolist())
print({name: getattr(ids, name) for name in ("sosp", "pad", "eosp", "speech_pad")})

# %% [markdown]
# ### Select, never sum
#
# Other models add up the vectors of all channels. Here a row is read through exactly one of its two ids: the text
# channel decides. If it is the pad, the speech id is looked up; otherwise the text id is.


# %%
def naive_embed(model, row):
    """One row (text id, speech id) -> its vector (D,)."""
    text, speech = row
    table, id = (model.speech_embed, speech) if text == ids.pad else (model.text_embed, text)
    return table.weight[id]


torch.manual_seed(0)
toy = LayerSplitLM(LMConfig(dim=32, layers=3, tail_layers=1, heads=4, kv_heads=2, head_dim=8, ffn_dim=48,
                            modality_pad=ids.pad))  # fmt: skip
rows = naive_spoken(codes)
ours = toy.embed(torch.tensor([rows]))[0]
assert torch.equal(ours, torch.stack([naive_embed(toy, row) for row in rows]))
changed = [(ids.sosp, 7), *rows[1:]]  # what stands in the speech channel beside a text id does not matter
assert torch.equal(toy.embed(torch.tensor([changed]))[0], ours)
print("the package embeds as we do, and looks at no filler")

# %% [markdown]
# So a text model that meets only text rows computes what it always did: the split costs it nothing (lesson 04).
#
# ## 3. What is guessed
#
# The model stands at row i and guesses row i + 1. If that row is written, the *text* head is asked; if it is spoken,
# the *speech* head. In a conversation only what the assistant says counts: nobody trains it to guess the user's next
# word. (Two kinds of document are no conversation: section 4.)
#
# Some of our stages (lesson 05) ask one thing more, which the paper does not: at each row before a code the *text* head
# is asked for the piece of text that this code says; in the last stage, supervised fine-tuning (SFT), for the piece
# after the one that the code before says, and at SOSP for the first (`text_lookahead: 1`). This **inner monologue**
# (Moshi's word, arXiv 2410.00037) is never written and no row is added; it only pulls the model towards having the word
# ready when it begins to speak. Where nobody knows when a word is said, all letters count as equally long:


# %%
def naive_monologue(text, n):
    """A text and how many codes say it -> the piece of text that is being said at each of the n codes."""
    said = grid.tokens(text)
    letters = [len(tokenizer.decode([piece])) for piece in said]
    begins = [n * sum(letters[:i]) / sum(letters) for i in range(len(said))]
    return [said[sum(begin <= at + 1e-6 for begin in begins) - 1] for at in range(n)]


laid = grid.spoken(codes, supervise=True, monologue=sentence)
assert laid.monologue[: len(codes)].tolist() == naive_monologue(sentence, len(codes))
print([tokenizer.decode([piece]) for piece in naive_monologue(sentence, len(codes))])

# %% [markdown]
# Now the targets of the two channels themselves, in conversations. A turn is written as
# `<|im_start|>user`, a new line, what is said, `<|im_end|>`, a new line. A first turn, the *system* turn, says how to
# answer, and SOSP ends the prompt of a spoken answer: it is given and not guessed, so it never counts.
#
# Where the sound does not matter we take **oracle codes** from here on: they are made of the letters of a text (a pair
# of letters is a code, some are doubled, a few are wrong). They need no sound and no codec, and cost nothing.


# %%
def naive_targets(doc):
    """A document -> for every row what the text head and what the speech head is asked for, or IGNORE."""
    text, speech = [], []
    for i in range(len(doc)):
        following = doc[i + 1 : i + 2]
        counts = len(following) > 0 and bool(following.supervise[0])
        said = counts and following.text[0] == ids.pad
        text.append(int(following.text[0]) if counts and not said else IGNORE)
        speech.append(int(following.speech[0]) if said else IGNORE)
    return text, speech


question, answer = "What is the capital of France?", "The capital of France is Paris."
asked, replied = (oracle_codes(text, text, 1024) for text in (question, answer))
pairings = {}
for name in ("S2S", "S2T", "T2S", "T2T"):
    user = grid.turn("user", codes=asked) if name[0] == "S" else grid.turn("user", text=question)
    how = {"codes": replied} if name[2] == "S" else {"text": answer}
    reply = grid.turn("assistant", **how, supervise=True)
    pairings[name] = grid.join(grid.system(spoken=name[2] == "S"), user, reply)
    batch = collate([pairings[name]], grid, 256)
    text, speech = naive_targets(pairings[name])
    assert batch["text_target"][0].tolist() == text and batch["speech_target"][0].tolist() == speech
    counted = [sum(target != IGNORE for target in targets) for targets in (text, speech)]
    print(f"{name}: {len(pairings[name]):3} rows, {counted[0]:2} ask the text head, {counted[1]:2} the speech head")
print("\nand the third of them, its spoken rows as dots:")
print("".join("." if row == ids.pad else tokenizer.decode([row], False) for row in pairings["T2S"].text.tolist()))

# %% [markdown]
# The same question and the same answer in four pairings: speech or text in, speech or text out. The *system turn*
# chooses how to answer. And note the one written row of a spoken answer: after EOSP the text head must close the turn.
#
# The first sound of a spoken answer is decided at the row of SOSP, and from there on every row is sound: none is left
# to think in words. What is said must be ready when its turn comes, and that is what the monologue trains.
#
# ## 4. Everything it reads
#
# One conversation is not enough to learn to listen and to speak. The paper's three stages use ten kinds of documents
# here (other stages have kinds of their own), in proportions that each stage chooses (`mix` in `configs/stage1.yaml`,
# `stage2.yaml`, `sft.yaml`). All are drawn from a **script**: lines, each with a text, a voice and a role (a user's
# sentence, a question, the assistant's answer, ...), made from a table of **facts** ("France, capital, Paris"), which
# are dealt into sets (lesson 05). Below, one document of each kind: blue is written, orange is spoken; dark is what
# counts in the loss.

# %%
facts = all_facts()
recipe = ScriptRecipe(
    user_speech=30,
    assistant_speech=30,
    false_statement=5,
    question=1,
    kokoro=0,
    user_speech_kokoro=0,
    tests=1,
    test_facts=2,
)
lines = write_script(facts, recipe)
store = OracleStore({line.id: line.text for line in lines}, 1024)
told = next(line for line in lines if line.role == "assistant_speech")
# oracle codes have no sound to align, so we make times up; only lines that have times can be interleaved
times = {told.id: [(word, 0.3 * i, 0.3 * i + 0.3) for i, word in enumerate(told.text.split())]}
documents = Documents(grid, lines, store, facts, words=times)
kinds = ["asr", "tts", "repeat", "interleaved", "speech", "text", "S2S", "T2S", "S2T", "T2T"]
drawn = {kind: documents.draw(kind, rng(2, "lesson", kind)) for kind in kinds}
longest = max(map(len, drawn.values()))
strips = np.zeros((len(kinds), longest), int)  # 0 nothing; 1, 2 written; 3, 4 spoken; even ones count
for i, doc in enumerate(drawn.values()):
    strips[i, : len(doc)] = 1 + 2 * (doc.text == ids.pad) + doc.supervise
colours = ["#ffffff", "#b9c6dd", "#2f5d9b", "#f6cfa3", "#e07b00"]
figure, axes = plt.subplots(figsize=(14, 4))
axes.imshow(strips, aspect="auto", cmap=ListedColormap(colours), vmin=-0.5, vmax=4.5, interpolation="nearest")
axes.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="row")
labels = ["written", "written, counts", "spoken", "spoken, counts"]
handles = [Patch(facecolor=c, label=label) for c, label in zip(colours[1:], labels, strict=True)]
axes.legend(handles=handles, ncol=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
plt.show()

# %%
for kind in ("asr", "tts", "text"):
    written = tokenizer.decode(drawn[kind].text[drawn[kind].text != ids.pad].tolist(), skip_special_tokens=False)
    print(f"--- {kind}\n{written}")

# %% [markdown]
# `asr` (automatic speech recognition: heard, then written) teaches to hear, `tts` (text to speech) to speak, `repeat`
# both at once, `speech` is sound alone; `text` replays what must not be forgotten. The dialogues ask for knowledge. In
# `interleaved` and `speech`, which are no conversations, all counts but the row that starts speech.
#
# ## 5. Interleaving: one sentence, two scripts
#
# The paper's main trick needs no questions at all. Take any recording with its transcript, find out when each word was
# spoken (a **forced aligner** does that), cut both into spans of a few words, and let speech and text take turns. To
# guess what comes after the switch the model must carry the *meaning* across.

# %%
spans, start = [], 0
found = align(wave, sentence)
for count in (2, 3, len(found) - 5):
    spans.append(found[start : start + count])
    start += count
for i, span in enumerate(spans):
    words = " ".join(word for word, *_ in span)
    if i % 2 == 0:
        piece = wave[int(SAMPLE_RATE * span[0][1]) : int(SAMPLE_RATE * span[-1][2])]
        print(f"spoken  {span[0][1]:.2f}-{span[-1][2]:.2f} s, about {len(piece) / 1280:.0f} codes: ({words})")
        display(Audio(piece, rate=SAMPLE_RATE))
    else:
        print(f"written {tokenizer.encode(' ' + words).tokens}")
assert [word for span in spans for word, *_ in span] == sentence.split()

# %% [markdown]
# By hand, with spans of one to four words. The codes of a span begin one code late: a causal codec knows a sound only
# when it is over (it was trained so: lesson 01, section 8).


# %%
def naive_interleaved(words, codes, random):
    """Word times [(word, start, end), ...] and codes of a line -> rows, spans of words spoken and written in turn."""
    rows, spoken, i = [], bool(random.integers(2)), 0
    while i < len(words):
        n = min(int(random.integers(1, 5)), len(words) - max(i, 1))  # leaves a word for the second span
        span = words[i : i + n]
        first, last = (round(12.5 * at) + 1 for at in (span[0][1], span[-1][2]))
        text = grid.tokens(" " + " ".join(word for word, *_ in span))
        said = naive_spoken(codes[first : max(last, first + 1)])
        rows += said if spoken else [(piece, ids.speech_pad) for piece in text]
        spoken, i = not spoken, i + n
    return rows


random = rng(2, "lesson", "interleaved")
random.integers(1)  # the package first draws which line; there is one
by_hand, doc = naive_interleaved(times[told.id], store[told.id], random), drawn["interleaved"]
assert by_hand == [*zip(doc.text.tolist(), doc.speech.tolist(), strict=True)][:-1]  # but for <|im_end|>
print(f"{len(by_hand)} rows, as the package lays them")

# %% [markdown]
# The package's version:

# %%
display(Code(inspect.getsource(Documents._interleaved), language="python"))

# %% [markdown]
# ## 6. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. A spoken turn has 40 codes. How many rows lie between its `<|im_start|>assistant\n` and its `<|im_end|>`?
# 2. How many rows of a spoken answer of 30 codes count in the loss (EOSP and `<|im_end|>` too)?
# 3. The paper's context is 14,336 rows. How many minutes of speech is that, at 12.5 codes a second? (Do not round.)
# 4. The paper's table of speech embeddings has 16,384 codes (from 0) and 128 spare ids after them. What is EOSP's id,
#    if it is the first of these?
# 5. Read aloud, text passes at 150 words a minute. How many codes is an average word?

# %%
ANSWERS = {
    1: "AAAAAAAARUA=",
    2: "AAAAAAAAQEA=",
    3: "UUZvy1odM0A=",
    4: "AAAAAAAA0EA=",
    5: "AAAAAAAAFEA=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** In a spoken turn the ids of the *speech* channel are all replaced by other ones, the text
#    channel stays. Do the vectors that the model reads change ("yes" or "no")? And if the turn were written?

# %%
expected = None  # "yes, yes", "yes, no", "no, yes" or "no, no": spoken first, then written
outcome = []
for turn in (spoken, grid.turn("user", text=sentence)):
    two = torch.from_numpy(np.stack([turn.text, turn.speech], -1))
    other = torch.stack([two[:, 0], (two[:, 1] + 1) % 1024], -1)
    outcome.append("no" if torch.equal(toy.embed(two[None]), toy.embed(other[None])) else "yes")
predict(6, expected, ", ".join(outcome))

# %% [markdown]
# 7. **Write it.** `my_codes(rows)` takes the codes out of a conversation's rows again: those of the spoken rows,
#    without EOSP.


# %%
def my_codes(rows):
    """Rows [(text id, speech id), ...] -> the codes in them, as a list."""
    raise NotImplementedError  # your code


mixed = [(5, ids.speech_pad), *naive_spoken(codes), (6, ids.speech_pad), *naive_spoken(codes[:3])]
implement(7, lambda: my_codes(mixed) == [*codes.tolist(), *codes[:3].tolist()])

# %% [markdown]
# Next: lesson 03 opens the model that reads these rows, down to one layer.
