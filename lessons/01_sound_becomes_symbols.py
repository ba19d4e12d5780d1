# %% [markdown]
# # 01 · Sound becomes symbols
#
# A language model reads symbols out of a fixed list. Speech is a curve. Between the two stands the **codec**: it looks
# at 80 milliseconds of sound and says one number out of 1,024. Everything that the model will ever hear of you passes
# through that hole. This lesson makes the hole by hand, breaks it in three ways, and listens to what does not fit.
#
# - **Reading** 20 minutes · **computing** a minute or two on one CPU core, 1 GB of memory · no GPU, no network
# - **You need** lesson 00, and to know what a gradient is
# - **A finished run is welcome, not needed** (`make reproduce`; with `mossrepro eval codec` you also hear its rival)

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display

from mossrepro.codec import CodecConfig, SpeechCodec
from mossrepro.codec.kmeans import fit_mel
from mossrepro.codec.quantiser import Quantiser, nearest_code
from mossrepro.data.sentences import random_sentence, vocabulary
from mossrepro.evaluation.code_picture import draw
from mossrepro.evaluation.prosody import centred, explained, measure
from mossrepro.evaluation.units import spread
from mossrepro.pipeline import Assistant, newest_run
from mossrepro.speech import roster, voices
from mossrepro.speech.sphinx import align_phones
from mossrepro.utils import audio
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.utils.random import rng

SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. Why twelve and a half a second?
#
# A text model spends about one token on a word; people say three words a second. Whisper's encoder gives 50 frames a
# second: a minute of talk would be 3,000 rows for the language model, most of them saying "still the same vowel". The
# slowest rate that loses nothing is the rate at which sounds change. Let us count. The aligner of this project
# (pocketsphinx) tells when every phone of a known text is spoken.

# %%
sentence = "the old captain painted seven green birds before breakfast"
speakers = ["assistant", "hibari+p3"] if SMOKE else ["assistant", "hibari+p3", "kokoro-kumo", "kokoro-nezumi"]
said = {name: audio.resample(*voices.say(sentence, name), SAMPLE_RATE) for name in speakers}  # name -> (n,) at 16 kHz

for name, wave in said.items():
    phones = align_phones(wave, sentence)
    seconds = phones[-1][2] - phones[0][1]
    print(f"{name:14} {len(phones)} phones in {seconds:.1f} s: {len(phones) / seconds:.1f} a second")
    display(Audio(wave, rate=SAMPLE_RATE))

# %% [markdown]
# Ten to fifteen phones a second, and 12.5 codes: about one code a phone. Half the rate would have to name *pairs* of
# phones, of which there are 39 x 39 = 1,521, more than the codebook has entries; twice the rate would double the work
# of a model whose cost grows with every row. The paper takes 12.5 codes a second and 16,384 entries, which is 175 bits
# a second. Here it is 1,024 entries, 125 bits. A telephone sends 64,000.
#
# ## 2. The nearest of many
#
# Vector quantisation is no more than this: keep a list of vectors, the **codebook**, and answer with the place of the
# one that is nearest. Naively, frame by frame and entry by entry:


# %%
def naive_quantise(frames, codebook):
    """frames (T, C), codebook (K, C) -> the number of the nearest entry for every frame (T,)."""
    codes = []
    for frame in frames:
        distances = [float(((frame - entry) ** 2).sum()) for entry in codebook]
        codes.append(distances.index(min(distances)))
    return torch.tensor(codes)


random = torch.Generator().manual_seed(0)
frames, codebook = torch.randn(40, 8, generator=random), torch.randn(32, 8, generator=random)
codes = nearest_code(frames, codebook)
assert torch.equal(naive_quantise(frames, codebook), codes)
print(codes.tolist())

# %% [markdown]
# The package does the same with one matrix product: |x - c|² = |x|² - 2 x·c + |c|², and |x|² is the same for every
# entry, so it need not be computed.

# %%
import inspect

print(inspect.getsource(nearest_code))

# %% [markdown]
# ## 3. A codec without any training
#
# What are the frames? The simplest choice is the sound itself: the mel frames of 80 ms side by side, 640 numbers, and a
# codebook placed by k-means. That is a real codec, causal, at 12.5 codes a second; the project measures it as a rival.

# %%
words = vocabulary(homophones=False)
voiced = roster.names("hibari", "train", True)[: 4 if SMOKE else 12]
corpus = []  # (text, voice, wave)
for i in range(16 if SMOKE else 120):
    text = random_sentence(rng(1, "lesson", i // 2), words[:600], 4, 7)  # every sentence by two voices
    speaker = voiced[i % len(voiced)]
    corpus.append((text, speaker, audio.resample(*voices.say(text, speaker), SAMPLE_RATE)))

config = CodecConfig(codes=32 if SMOKE else 1024, front="mel")
empty = SpeechCodec(config)
stacked = [empty.encoder(empty.features(torch.from_numpy(wave)[None]))[0][0] for _, _, wave in corpus]
simple = fit_mel(torch.cat(stacked), config)
wave = said["assistant"]
heard = simple.encode(torch.from_numpy(wave)[None])[0].numpy()
held = int((heard[1:] == heard[:-1]).sum())
print(f"{len(wave):,} samples became {len(heard)} codes, {held} of them like the one before: {heard.tolist()}")
draw(plt.figure(), wave, align_phones(wave, sentence), heard, "k-means on mel")
plt.show()

# %% [markdown]
# Look at the strip: one code for each 80 ms. A stop such as T is over before its code is, and has to share it with the
# neighbour. And even a vowel that is held hardly ever keeps its code: k-means hears every change of pitch and loudness.
#
# ## 4. A step that has no slope
#
# k-means hears *sound*. To hear *words*, a network must learn what to put in front of the codebook, and learning means
# gradients. But "the nearest entry" is a staircase: move a frame a little and the answer stays exactly the same. The
# derivative is zero nearly everywhere.

# %%
x = torch.randn(5, 8, generator=random, requires_grad=True)
hard = codebook[nearest_code(x, codebook)]
print("does the quantised frame depend on x, as autograd sees it?", hard.requires_grad)

# %% [markdown]
# The way out is a white lie, the **straight-through estimator**: forwards give the codebook's entry, backwards pretend
# that nothing happened, as if d quantised / d x were 1. In code: add the difference, and hide it from autograd.

# %%
passed = x + (hard - x).detach()
passed.sum().backward()
assert torch.equal(passed.detach(), x.detach() + (hard - x.detach())) and torch.equal(x.grad, torch.ones_like(x))
quantiser = Quantiser(32, 8)
quantiser.codebook.copy_(codebook)
y = x.detach().clone().requires_grad_()
quantiser(y[None]).vectors.sum().backward()
assert torch.equal(y.grad, x.grad)
print("the gradient arrives unchanged:", x.grad[0].tolist())

# %% [markdown]
# ### One `detach` too few
#
# Codecs with several codebooks work in a **residual stack**: the second book quantises what the first one left over,
# `rest = x - first`. If `first` carries the white lie, then d rest / d x = 1 - 1 = 0: whatever the second book would
# like to tell the encoder (its commitment loss: "please stay near my entries") never arrives. Nothing crashes; the
# codec is only worse than it should be. Look for it in `encodec.quantization.core_vq` (version 0.1.1):
# `residual = residual - quantized`. (The rival of this project takes encodec's networks, and a stack with the detach.)

# %%
second = 0.3 * torch.randn(32, 8, generator=random)
for kind in ("missing", "in place"):
    z = x.detach().clone().requires_grad_()
    first = z + (codebook[nearest_code(z, codebook)] - z).detach()
    rest = z - (first if kind == "missing" else first.detach())
    commitment = (rest - second[nearest_code(rest, second)].detach()).square().mean()
    commitment.backward()
    print(f"detach {kind:9}: the second book's wish reaches the encoder with strength {z.grad.abs().sum():.4f}")
    assert (z.grad.abs().sum() == 0) == (kind == "missing")

# %% [markdown]
# ## 5. Entries that nobody chooses
#
# The codebook learns by averages and not by gradient: every entry drifts to the mean of the frames that chose it. That
# mean is kept as two running sums, how many (`counts`) and how much (`sums`).


# %%
def naive_update(counts, sums, frames, codes, decay=0.99):
    """One moving-average step, entry by entry: the new counts (K,), sums (K, C) and codebook (K, C)."""
    for k in range(len(counts)):
        mine = frames[codes == k]
        counts[k] = decay * counts[k] + (1 - decay) * len(mine)
        sums[k] = decay * sums[k] + (1 - decay) * mine.sum(0)
    return counts, sums, sums / counts[:, None]


quantiser.counts.fill_(1.0)
quantiser.sums.copy_(codebook)
_, _, moved = naive_update(torch.ones(32), codebook.clone(), frames, codes)
quantiser.update(frames, codes, random)
torch.testing.assert_close(quantiser.codebook, moved)
print(f"an entry moved by {float((moved - codebook).norm(dim=1).max()):.3f} at most")

# %% [markdown]
# An entry that nobody chooses does not move, so nobody will choose it later either: it is **dead**. Start a codebook in
# the wrong place and most of it dies on the first day. Two remedies: start on the data (k-means), and give entries that
# fell out of use a new life on top of some recent frame. Below, points of five clouds in the plane and 64 entries.

# %%
clouds = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0], [2.0, 2.0]])
figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharex=True, sharey=True)
cases = {"started far away, no rescue": (False, False), "with rescue": (False, True), "k-means": (True, True)}


def naive_cloud(n, chance):
    """n points of the plane (n, 2)."""
    return clouds[torch.randint(5, (n,), generator=chance)] + 0.4 * torch.randn(n, 2, generator=chance)


for axes, (title, (kmeans, rescue)) in zip(panels, cases.items(), strict=True):
    chance = torch.Generator().manual_seed(1)
    book = Quantiser(64, 2)
    book.remember(naive_cloud(4_000, chance))
    book.start(chance, iterations=10 if kmeans else 0)
    if not kmeans:
        book.codebook.copy_(0.3 * torch.randn(64, 2, generator=chance) + torch.tensor([5.0, 5.0]))
        book.sums.copy_(book.codebook)
    for _ in range(40 if SMOKE else 400):
        points = naive_cloud(200, chance)
        book.remember(points)
        chosen = nearest_code(points, book.codebook)
        if rescue:
            book.update(points, chosen, chance)
        else:
            book.counts, book.sums, book.codebook = naive_update(book.counts, book.sums, points, chosen)
    points = naive_cloud(4_000, chance)
    used = len(nearest_code(points, book.codebook).unique())
    axes.scatter(*points[:800].T, s=2, color="#b9c6dd")
    axes.scatter(*book.codebook.T, s=14, color="#c22f2f")
    axes.set_title(f"{title}: {used} of 64 in use")
plt.show()

# %% [markdown]
# ## 6. What must be heard, and what may be lost
#
# Two tokenizers with the same 125 bits differ in what they are *asked*. An **acoustic** codec must give back the wave:
# it spends its bits on the voice, the room, the pitch. A **semantic** one is asked only for words: who speaks does not
# matter, so it may forget. The measure: let several voices say the same sentence and see how far the codes differ
# (edit distance, 0 the same, 1 nothing in common). Our k-means codec never heard of words:

# %%
coded = [simple.encode(torch.from_numpy(wave)[None])[0].numpy() for _, _, wave in corpus]
same, different = spread([text for text, _, _ in corpus], coded)
print(f"k-means on mel: the same text in two voices {same:.2f}, two different texts {different:.2f}")

# %% [markdown]
# And what of *how* it was said? A linear probe tries to read pitch and loudness off the codes' vectors: the share of
# the variance that it explains on clips it was not fitted on.

# %%
melody = [measure(wave, len(row)) for (_, _, wave), row in zip(corpus, coded, strict=True)]
energy = [one.energy for one in melody]
pitch = centred([one.pitch for one in melody], [voice for _, voice, _ in corpus])
held_out = [i % 4 == 3 for i in range(len(corpus))]
vectors = [simple.quantiser.codebook[torch.from_numpy(row)].numpy() for row in coded]
print(f"k-means on mel: loudness {explained(vectors, energy, held_out):.0%}")
print(f"k-means on mel: pitch around the speaker's own mean {explained(vectors, pitch, held_out):.0%}")

# %% [markdown]
# Now the trained codec, if there is a finished run: the same numbers, and your ears. What the semantic codec threw away
# is replaced by the assistant's voice, whoever spoke. The acoustic baselines (from `mossrepro eval codec`: one with the
# same bits a second, one with eight times as many) spend them on the wave; at this size no word is left in their codes.

# %%
runs = Path("runs") if Path("runs").is_dir() else Path("../runs")
try:
    run = newest_run(runs)
    assistant = Assistant.from_run(run)
except CheckpointError as reason:
    assistant = None
    print(f"Nothing to play yet: {reason}")

if assistant:
    coded = [assistant.listen(wave) for _, _, wave in corpus]
    same, different = spread([text for text, _, _ in corpus], coded)
    print(f"the semantic codec: the same text in two voices {same:.2f}, two different texts {different:.2f}")
    vectors = [assistant.codec.quantiser.codebook[torch.from_numpy(row)].cpu().numpy() for row in coded]
    print(f"the semantic codec: loudness {explained(vectors, energy, held_out):.0%}")
    print(f"the semantic codec: pitch around the speaker's own mean {explained(vectors, pitch, held_out):.0%}")
    for name, wave in said.items():
        again, rate = assistant.speaker.speak(assistant.listen(wave))
        print(f"{name}: as it was, and through the semantic codec")
        display(Audio(wave, rate=SAMPLE_RATE), Audio(again, rate=rate))

if assistant and (run / "baselines.json").is_file():
    from mossrepro.codec.acoustic import AcousticCodec

    for name, folder in json.loads((run / "baselines.json").read_text()).items():
        rival = AcousticCodec.from_pretrained(folder)
        for speaker, wave in said.items():
            print(f"{speaker}, through {name}: {rival.bits_per_second:.0f} bits a second")
            display(Audio(rival.decode(rival.encode(torch.from_numpy(wave)[None]))[0].numpy(), rate=SAMPLE_RATE))

# %% [markdown]
# In `docs/RESULTS.md` stands what this costs and brings in numbers: word errors of a recogniser on the codes, pitch,
# loudness and voices, for our codec and its baselines at the same bit rate.
#
# ## 7. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. EnCodec at 24 kHz sends 75 frames a second through 2 codebooks of 1,024 entries. How many bits a second?
# 2. How many rows does a language model save in one minute of speech, at 12.5 instead of 50 a second?
# 3. 1,500 frames of 64 numbers, 1,024 entries: how many multiplications has the matrix product in `nearest_code`?
# 4. Half of 1,024 entries are in use, all equally often. What is the perplexity?
# 5. An entry is never chosen again; decay 0.99. After how many updates is its count below 3 % of what it was?

# %%
ANSWERS = {
    1: "AAAAAABwl0A=",
    2: "AAAAAACUoUA=",
    3: "AAAAAABwl0E=",
    4: "AAAAAAAAgEA=",
    5: "AAAAAADQdUA=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** The sentence is played ten times quieter. How many of its k-means codes change: "few" (less
#    than a third), "some" or "most" (more than two thirds)?

# %%
expected = None  # "few", "some" or "most"
quieter = simple.encode(torch.from_numpy(0.1 * wave)[None])[0].numpy()
changed = float((quieter != heard).mean())
predict(6, expected, "few" if changed < 1 / 3 else "most" if changed > 2 / 3 else "some")

# %% [markdown]
# 7. **Write it.** `my_perplexity(codes)`: how many entries of a codebook are in use, counted by how often. It is the
#    exponential of the entropy, exp(-sum p log p), of the shares p with which codes occur.


# %%
def my_perplexity(codes):
    """Codes (T,) -> a number from 1 (always the same) to the size of the codebook (all equally often)."""
    raise NotImplementedError  # your code


implement(7, lambda: all(abs(my_perplexity(torch.tensor(c)) - p) < 1e-3 for c, p in [([3, 3], 1), ([0, 1, 1], 1.8899)]))

# %% [markdown]
# Next: lesson 02 puts these symbols beside words, in one sequence.
