# %% [markdown]
# # 07 · A mel becomes a wave
#
# A mel spectrogram is a picture of sound, and one cannot hear a picture. Two things are missing in it: the fine
# structure (961 frequencies were added up to 80 bands) and the **phases**, when every vibration has its crest. The
# **vocoder** puts both back. Ours does it like a throat: a buzz and a hiss go through **filters**, and a network only
# says how the filters stand, a hundred times a second (`upsample` is 2: twice for every frame of the mel). Then a
# **critic** joins, who has heard recordings.
#
# - **Reading** 40 minutes · **computing** about six minutes on two CPU cores, 2 GB of memory · no GPU, no network
# - **You need** PyTorch, and lessons 00 and 06

# %%
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Audio, display
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.sentences import random_sentence, vocabulary
from mossrepro.speech import voices
from mossrepro.training import sizes
from mossrepro.training.callbacks import ProgressFile
from mossrepro.utils import audio
from mossrepro.utils.devices import best_device
from mossrepro.utils.exercises import compute, implement, predict
from mossrepro.utils.random import rng
from mossrepro.utils.spectral import spectral_loss
from mossrepro.vocoder.data import VocoderDataModule
from mossrepro.vocoder.generator import HIGHEST_HARMONIC, SpectrumHead, Vocoder, overlap_add, pulse_train
from mossrepro.vocoder.griffin_lim import griffin_lim
from mossrepro.vocoder.losses import mel_loss, pitch_loss
from mossrepro.vocoder.pitch import measure_pitch
from mossrepro.vocoder.task import VocoderTask

SMOKE = os.environ.get("MOSSREPRO_SMOKE") == "1"  # the tests run a shorter version of this lesson

# %% [markdown]
# ## 1. What is missing
#
# **Griffin-Lim** (1984; lesson 00 wrote it) knows nothing about voices: it starts with random phases and goes back and
# forth between wave and spectrum until the two fit. The words are there; so is a tin can. It is what we have to beat.


# %%
sentence = "Tell me the capital of Italy."
wave, rate = voices.say(sentence)
recording = torch.from_numpy(wave)[None]  # (1, n) at 24 kHz
mel = audio.mel24(recording)[0]
tin = griffin_lim(mel[None])[0].numpy()
print("the recording, and what Griffin-Lim makes of its mel")
display(Audio(wave, rate=rate), Audio(tin, rate=rate))

# %% [markdown]
# ## 2. The buzz
#
# When you say "aaa", your vocal folds open and close a hundred or two hundred times a second. Each time a short pulse
# of air comes out. A train of sharp pulses at f0 = 120 Hz holds *all* multiples of 120 Hz, equally strong, all with
# their crests at the same moment. So the **source** needs one number a frame, the pitch, and the phases come for free:
# sum up the cosines of every harmonic. (Up to 11 kHz: beyond half the sampling rate they would come back as wrong
# tones.)


# %%
def naive_pulse_train(f0, rate=24_000):
    """f0 (N,) in Hz at every sample -> the sum of its harmonics below 11 kHz, (N,)."""
    turns = (f0.double() / rate).cumsum(0)  # how many periods have passed: the phase of the first harmonic
    total = torch.zeros(len(f0), dtype=torch.double)
    for harmonic in range(1, int(HIGHEST_HARMONIC / f0.min()) + 1):
        total += torch.cos(2 * torch.pi * harmonic * turns) * (harmonic * f0 <= HIGHEST_HARMONIC)
    return total.float()


glide = torch.linspace(110, 220, 24_000)  # an octave upwards in one second
buzz = naive_pulse_train(glide)
assert torch.allclose(buzz, pulse_train(glide[None], 24_000)[0], atol=1)  # the pulses are 50 to 100 high
display(Audio(buzz.numpy(), rate=24_000))

# %% [markdown]
# The package sums no cosines: a geometric series has a closed form. And that is no voice yet, it is a buzzer.
#
# ## 3. From spectra back to a wave
#
# Filtering is easy where sound is a table of frequencies: multiply. So cut the source into overlapping frames, take the
# Fourier transform of each (**STFT**), multiply by what the network says, transform back, and lay the frames over each
# other again (**overlap-add**). Each frame is multiplied by a window twice, before the transform and after the way
# back; so the sum is divided by what the *squares* of the windows add up to.


# %%
def naive_overlap_add(frames, hop):
    """frames (K, n), each beginning `hop` samples after the one before -> their sum ((K - 1) hop + n,)."""
    total = torch.zeros((len(frames) - 1) * hop + frames.shape[1])
    for i, frame in enumerate(frames):
        total[i * hop : i * hop + len(frame)] += frame
    return total


frames = torch.randn(9, 960, generator=torch.Generator().manual_seed(0))
assert torch.allclose(naive_overlap_add(frames, 240), overlap_add(frames[None], 240)[0], atol=1e-5)
head = SpectrumHead(n_fft=960, hop=240)
whole = recording[:, : recording.shape[1] // 240 * 240]
again = head.synthesise(head.analyse(whole))
apart = (again - whole)[:, :-240].abs().max()  # the package drops the frame that is centred on the very end
assert apart < 1e-4
print(f"there and back: {float(apart):.1e} apart")

# %% [markdown]
# ## 4. The filters
#
# The network reads the mel and says for every frequency of every frame: how loud is the buzz here, how is it turned,
# and how loud is the hiss (for S, F, and breath). A second, small network reads off the mel the pitch (in `octaves`
# above 100 Hz) and how `sure` it is of a voice; in training, and in the next cell, the pitch measured on the recording
# stands in for it. So *filters and a pitch are predicted, not samples*. Before any training it is set to a soft buzz
# with a little hiss, so training starts from a voice without words, not from silence.

# %%
size = sizes.load_size("smoke" if SMOKE else "tiny").vocoder
SHAPE = {"dim": size.dim, "blocks": size.layers, "fine_dim": size.dim}
torch.manual_seed(0)
untrained = Vocoder(**SHAPE).eval()
f0 = measure_pitch(recording)  # (1, F) in Hz, 0 where there is no voice
with torch.no_grad():
    start = untrained(mel[None], f0[:, : mel.shape[1]])[0].numpy()
figure, panels = plt.subplots(1, 3, figsize=(13, 2.6), sharey=True)
shown = {"recording": wave, "Griffin-Lim": tin, "untrained": start}
for axes, (title, sound) in zip(panels, shown.items(), strict=True):
    axes.imshow(audio.mel24(torch.from_numpy(sound)[None])[0], origin="lower", aspect="auto", vmin=-11, vmax=1)
    axes.set_title(title)
plt.show()
display(Audio(start, rate=24_000))

# %% [markdown]
# ## 5. Train it, then scale it
#
# ### (a) A bare loop
#
# Pieces of 0.64 s of the assistant's sentences. The loss compares *spectra* of what was made and of the recording, at
# several resolutions, and the pitch that the network reads off the mel with the measured one. Comparing samples would
# be wrong: two waves that sound the same can differ in every sample.

# %%
WORK = Path(tempfile.mkdtemp(prefix="lesson-07-"))
words = vocabulary(homophones=False)[:600]
with CorpusWriter(WORK / "corpus") as corpus:
    for i in range(6 if SMOKE else 60):
        text = random_sentence(rng(7, "lesson", i), words, 4, 8)
        corpus.add(f"clip-{i}", voices.say(text)[0], 24_000, text, "assistant", "valid" if i == 0 else "train")


def naive_made(vocoder, batch, step):
    """The wave (B, N) that a vocoder makes of a batch's mel at the measured pitch; the hiss depends on the step."""
    shape = (len(batch["mel"]), vocoder.bins, batch["mel"].shape[-1] * vocoder.upsample)
    noise = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(step))
    voiced, noisy = vocoder.parts(batch["mel"], batch["pitch"], noise.to(batch["mel"].device))
    return vocoder.spectrum.synthesise(voiced + noisy)


def naive_loss(vocoder, batch, made):
    """How far the made wave's spectra are from the recording's, and the pitch head from the measured pitch."""
    octaves, sure = vocoder.pitch(batch["mel"])
    apart = spectral_loss(made, batch["wave"]) + mel_loss(made, batch["wave"])
    return apart + pitch_loss(octaves, sure, batch["pitch"])


def naive_data(batch=4):
    """Pieces of 32 mel frames."""
    return VocoderDataModule(str(WORK / "corpus"), batch=batch)


device, data = best_device(), naive_data()
torch.manual_seed(0)
bare = Vocoder(**SHAPE).to(device)
optimiser = torch.optim.AdamW(bare.parameters(), lr=1e-3)
for step in range(10):
    batch = {name: value.to(device) for name, value in data.train_batch(step, rank=0, world=1).items()}
    loss = naive_loss(bare, batch, naive_made(bare, batch, step))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    print(f"step {step}: {float(loss.detach()):.3f}")

# %% [markdown]
# ### (b) The same as a LightningModule
#
# Three answers from us (what is in the model, what is the loss of a batch, which optimiser), and `Trainer` has the
# loop: devices, precision, resuming, and a *strategy* for several processes. After ten steps its weights are the
# loop's.


# %%
class NaiveVocoder(LightningModule):
    """The inside of the loop above, where Lightning looks for it."""

    def __init__(self, vocoder):
        super().__init__()
        self.vocoder = vocoder

    def training_step(self, batch, index):
        return naive_loss(self.vocoder, batch, naive_made(self.vocoder, batch, index))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.vocoder.parameters(), lr=1e-3)


logging.getLogger("lightning.pytorch").setLevel("ERROR")
warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")  # neither is about us
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
torch.manual_seed(0)
naive = NaiveVocoder(Vocoder(**SHAPE))
Trainer(accelerator="auto", devices=1, max_steps=10, **QUIET).fit(naive, datamodule=naive_data())
pairs = zip(naive.vocoder.parameters(), bare.parameters(), strict=True)
apart = max(float((p.detach().cpu() - q.detach().cpu()).abs().max()) for p, q in pairs)
print(f"after ten steps the loop's and the Trainer's weights differ by {apart:.1e}")
assert apart < 1e-5

# %% [markdown]
# ### (c) The package's module
#
# `VocoderTask` adds a loss on phases: its buzz follows the pulses of the recording itself, so that crests can be
# compared. Two minutes.

# %%
task = VocoderTask(dim=size.dim, layers=size.layers)
curve = ProgressFile(WORK / "curve.jsonl", 5)
steps = 10 if SMOKE else 300
trainer = Trainer(max_steps=steps, gradient_clip_val=10.0, callbacks=[curve], limit_val_batches=0, **QUIET)
trainer.fit(task, datamodule=naive_data(4 if SMOKE else 12))
trained = task.model.eval().cpu()
rows = [json.loads(row) for row in (WORK / "curve.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(figsize=(6, 2.5))
for name in ("spectral", "mel", "phase", "pitch"):
    axes.plot(*zip(*[(row["step"], row[name]) for row in rows if name in row], strict=True), label=name)
axes.set(xlabel="step", ylabel="loss")
axes.legend(frameon=False)
plt.show()
with torch.no_grad():
    spoken = trained(mel[None])[0].numpy()
display(Audio(spoken, rate=24_000))

# %% [markdown]
# ### (d) From the command line

# %%
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where pip has put mossrepro
os.environ |= {"WORK": str(WORK), "SIZE": "configs/smoke.yaml" if SMOKE else "configs/size/tiny.yaml"}

# %% language="bash" tags=["processes"]
# mossrepro fit -c configs/vocoder.yaml -c $SIZE --output $WORK/one --data.init_args.corpus $WORK/corpus \
#     --trainer.max_steps 10 --trainer.precision 32-true --trainer.enable_progress_bar false

# %% [markdown]
# ### (e) Two processes
#
# Each makes half of the pieces. A mean over a batch must then be a mean over *both* halves, also where it is divided by
# something that was measured on the batch; the package's losses ask the other process for its part.

# %% language="bash" tags=["processes"]
# mossrepro fit -c configs/vocoder.yaml -c $SIZE --output $WORK/two --data.init_args.corpus $WORK/corpus \
#     --trainer.max_steps 10 --trainer.precision 32-true --trainer.enable_progress_bar false \
#     --trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp

# %% tags=["processes"]
one, two = (Vocoder.from_pretrained(WORK / name).state_dict() for name in ("one", "two"))
apart = max(float((one[name] - two[name]).abs().max()) for name in one)
print(f"one process and two: {apart:.1e} apart after ten steps")
assert apart < 1e-6

# %% [markdown]
# ### (f) What would the full size cost?
#
# The sizes of this part are counted first, the vocoder is the smallest; `mossrepro plan` then says what the language
# model beside it needs.

# %%
for name in ("tiny", "small", "full"):
    one_size = sizes.load_size(name).vocoder
    with torch.device("meta"):
        planned = VocoderTask(dim=one_size.dim, layers=one_size.layers)
    print(f"{name}: {sum(p.numel() for p in planned.parameters()) / 1e6:.1f} M parameters from mel to wave")

# %% language="bash" tags=["processes"]
# mossrepro plan -c configs/stage1.yaml -c configs/size/full.yaml --devices 8 --tflops 300

# %% [markdown]
# | this lesson's trainings | two CPU cores, estimated | T4 | A100 |
# |---|---|---|---|
# | (c) 300 steps of 12 pieces | two minutes | not measured | not measured |
# | (d), (e) ten steps, starting up included | 15 s, 20 s | not measured | not measured |
#
# ## 6. A critic
#
# A loss on spectra forgives what ears do not: where several sounds would be right it prefers their average, and hiss
# turns to metal. The usual remedy is a second network, the **critic** (or discriminator): it hears recordings and our
# waves, and gives each stretch of sound a number: above 1 "surely real", below -1 "surely made". The vocoder in turn is
# trained to please it. The **hinge loss** stops pushing where the critic is already sure, so neither runs away:


# %%
def naive_hinge(real, made):
    """The critic's loss: recordings should get at least 1, made waves at most -1."""
    return (1 - real).clamp_min(0).mean() + (1 + made).clamp_min(0).mean()


scores = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
says_no = -torch.ones(50)
theirs = F.hinge_embedding_loss(scores[0], says_no) + F.hinge_embedding_loss(-scores[1], says_no)  # torch's, twice
assert torch.allclose(naive_hinge(*scores), theirs)

torch.manual_seed(0)
layers = [nn.Conv1d(1, 16, 15, 1), nn.LeakyReLU(0.2)]
for wide in (16, 32, 64):
    layers += [nn.Conv1d(wide, 2 * wide, 41, 4, groups=4), nn.LeakyReLU(0.2)]
critic = nn.Sequential(*layers, nn.Conv1d(128, 1, 3)).to(device)
pleasing = VocoderTask(dim=size.dim, layers=size.layers).model.to(device)
pleasing.load_state_dict(trained.state_dict())
sides = [torch.optim.AdamW(part.parameters(), lr=2e-4, betas=(0.5, 0.9)) for part in (critic, pleasing)]
told = []
for step in range(4 if SMOKE else 60):
    batch = {name: value.to(device) for name, value in data.train_batch(1000 + step, 0, 1).items()}
    made = naive_made(pleasing, batch, step)
    judged = naive_hinge(critic(batch["wave"][:, None]), critic(made.detach()[:, None]))
    sides[0].zero_grad()
    judged.backward()
    sides[0].step()
    pleased = -critic(made[:, None]).mean()  # the vocoder wants high numbers for what it made
    sides[1].zero_grad()
    (naive_loss(pleasing, batch, made) + 0.2 * pleased).backward()
    sides[1].step()
    told.append((float(judged.detach()), float(pleased.detach())))
figure, axes = plt.subplots(figsize=(6, 2.2))
axes.plot(told, label=["critic: 2 is no idea, 0 is sure", "vocoder: below 0 it deceives"])
axes.set(xlabel="step")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Now listen *blind*: three versions of one sentence in an order you do not know. Which is Griffin-Lim, which the
# vocoder of (c), which the same after 60 more steps beside a critic and without the loss on phases? Write it down
# before you run the cell after it. A minute of training decides little; the paper's vocoder was trained with critics
# for days, the package's at its end and for minutes.

# %%
with torch.no_grad():
    pleased = pleasing.eval().cpu()(mel[None])[0].numpy()
versions = {"Griffin-Lim": tin, "(c)": spoken, "(c) and a critic": pleased}
order = [list(versions)[i] for i in rng(7, "blind").permutation(3)]
for name, letter in zip(order, "ABC", strict=True):
    print(letter)
    display(Audio(versions[name], rate=24_000))

# %%
print(dict(zip("ABC", order, strict=True)))
print("and the teaching pack's, which was trained for minutes, its last steps beside critics (`adversarial.yaml`):")
with torch.no_grad():
    display(Audio(Vocoder.from_pretrained("pack:teach")(mel[None])[0].numpy(), rate=24_000))

# %% [markdown]
# ## 7. Exercises
#
# Solutions are in `lessons/solutions`. **Compute** the first five (half a percent is near enough): put your numbers in
# place of `None`.
#
# 1. A voice of 120 Hz: how many harmonics has its pulse train, up to 11 kHz?
# 2. The inverse STFT has frames of 960 samples. How many frequencies (from 0 Hz to half the rate, both counted)?
# 3. Its hop is 240 samples at 24 kHz. How many frames a second?
# 4. For every frequency of every frame the network says three numbers. How many is that a second?
# 5. The critic gives a recording 0.2 and a made wave -1.5. What is its hinge loss?

# %%
ANSWERS = {
    1: "AAAAAADAVkA=",
    2: "AAAAAAAQfkA=",
    3: "AAAAAAAAWUA=",
    4: "AAAAAGCdAUE=",
    5: "mpmZmZmZ6T8=",
}
for number, mine in {1: None, 2: None, 3: None, 4: None, 5: None}.items():
    compute(number, mine, ANSWERS[number])

# %% [markdown]
# 6. **Predict, then run.** A voice rises from 120 Hz to 240 Hz. The pulses of its train now come twice as often. Are
#    they "half", "the same" or "twice" as high? (At the moment of a pulse all cosines are 1.)

# %%
expected = None  # "half", "the same" or "twice"
heights = [float(naive_pulse_train(torch.full((24_000,), hertz)).max()) for hertz in (120.0, 240.0)]
ratio = heights[1] / heights[0]
predict(6, expected, "half" if ratio < 0.6 else "twice" if ratio > 1.6 else "the same")

# %% [markdown]
# 7. **Write it.** `my_window_sum(window, hop, count)`: what the squares of `count` windows add up to, each `hop`
#    samples after the one before. That is what an inverse STFT divides by.


# %%
def my_window_sum(window, hop, count):
    """window (n,) -> ((count - 1) hop + n,)."""
    raise NotImplementedError  # your code


window = torch.hann_window(960)
expected_sum = overlap_add(window.square().expand(1, 8, -1), 240)[0]
implement(7, lambda: torch.allclose(my_window_sum(window, 240, 8), expected_sum, atol=1e-5))

# %% [markdown]
# Next: lesson 08 lets all parts talk.
