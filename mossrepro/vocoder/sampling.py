"""How mel is sampled from the flow: what a row may look at, and the steps from noise to mel."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.utils.audio import VOICE_HOP
from mossrepro.utils.devices import send
from mossrepro.utils.errors import ConfigError

FRAMES = 4  # mel frames of one code
CODE = FRAMES * VOICE_HOP  # samples of one code at 24 kHz
SOLVERS = {"euler": 1, "midpoint": 2}  # evaluations of the velocity in a step
CHUNK = 5  # codes of a chunk of a stream whose model decodes whole utterances: 0.4 s
LOOK_BACK = 25  # codes that a stream looks back where the model sets no limit: 2 s


def whole_codes(wave: np.ndarray) -> Tensor:
    """Samples (n,) at 24 kHz -> (ceil(n / 1920) * 1920,), zeros at the end."""
    return torch.from_numpy(np.pad(wave, (0, -len(wave) % CODE)))


class Context(NamedTuple):
    """What a code may look at: up to the end of its chunk, and `look_back` codes before the chunk; 0: no limit."""

    chunk: int = 5
    look_back: int = 0


class Said(NamedTuple):
    """What a voice has just said, which the flow decoder goes on from: codes (P,) int64 and their mel (bands, 4P).

    Chunks are counted from its beginning.
    """

    codes: Tensor
    mel: Tensor

    def on(self, device: torch.device) -> "Said":
        """The same on a device."""
        return Said(send(self.codes, device), send(self.mel, device))


class FlowSampling(NamedTuple):
    """Settings of decoding; the weights do not depend on them.

    chunk: codes that are decoded together; 0: the whole utterance.
    look_back: codes before its chunk that a code may look at; 0: all.
    steps: steps of the solver.
    solver: "euler", or "midpoint", which evaluates the velocity twice in a step.
    guidance: strength of classifier-free guidance.
    temperature: scale of the starting noise.
    seed: of the starting noise, which is a function of seed and frame alone.
    """

    chunk: int = 5
    look_back: int = 0
    steps: int = 10
    solver: str = "euler"
    guidance: float = 0.7
    temperature: float = 1.0
    seed: int = 0

    @property
    def context(self) -> Context:
        """What a code may look at."""
        return Context(self.chunk, self.look_back)

    @property
    def evaluations(self) -> int:
        """How often the velocity is evaluated."""
        return self.steps * SOLVERS[self.solver]

    def checked(self) -> "FlowSampling":
        """Itself. ConfigError when a number is too small or no solver has this name."""
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver={self.solver!r}: choose {' or '.join(SOLVERS)}")
        for name, least in {"chunk": 0, "look_back": 0, "steps": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: give {least} or more")
        return self

    def streaming(self) -> "FlowSampling":
        """The same with limits where it has none, so that a chunk costs what the first one costs."""
        return self.checked()._replace(chunk=self.chunk or CHUNK, look_back=self.look_back or LOOK_BACK)


def integrate(velocity: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, clock: Tensor, solver: str) -> Tensor:
    """Solve dx/dt = velocity(x, t) from clock[0] to clock[-1].

    Shapes: x any, clock (steps + 1,) rising. velocity also gets the number of its evaluation, from 0 on.
    """
    for i, (now, then) in enumerate(zip(clock[:-1], clock[1:], strict=True)):
        if solver == "euler":
            x = x + (then - now) * velocity(x, now, i)
        else:
            middle = x + (then - now) / 2 * velocity(x, now, 2 * i)
            x = x + (then - now) * velocity(middle, (now + then) / 2, 2 * i + 1)
    return x
