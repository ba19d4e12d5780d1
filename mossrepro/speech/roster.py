"""Who speaks: one assistant, many users, and the users that are only met in tests.

A Kokoro voice is a style table, and tables mix linearly: a speaker is a point in the span of the training styles.
Roster "five" holds the styles that come with a Python package; "all" adds the 49 others of Kokoro-82M (an npm package)
and mixtures of them. Pseudo-speakers change speed, pitch and the length of the vocal tract of another voice.

Held out by identity (no style, mixture or perturbation of theirs is ever trained on): four English voices, three with
an accent, and `nezumi` and `tebukuro`, by which roster "five" is tested.
"""

from dataclasses import dataclass

import numpy as np

from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

ROSTERS = ("five", "all")
_HIBARI_SPEAKERS = 32
_KOKORO_VARIANTS = 4
# "a" and "b": American and British English; the others speak English with the accent of their language (Spanish,
# French, Hindi, Italian, Japanese, Portuguese, Chinese).
STYLES = """af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky
am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa
bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis
ef_dora em_alex em_santa ff_siwis hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola
jf_alpha jf_gongitsune jf_nezumi jf_tebukuro jm_kumo pf_dora pm_alex pm_santa
zf_xiaobei zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi zm_yunxia zm_yunyang""".split()
FIVE = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
HELD_OUT = {
    "english": ("af_bella", "am_michael", "bf_emma", "bm_george"),
    "accents": ("ff_siwis", "im_nicola", "hf_beta"),
    "strangers": ("jf_nezumi", "jf_tebukuro"),
}
_MIXTURES, _MIXED, _VARIANTS = 48, 3, 2  # mixtures; styles of each; pseudo-speakers of each new voice


@dataclass(frozen=True)
class Voice:
    """How one speaker is made.

    role: "assistant", "train" (users in training) or "held-out" (users in tests only).
    styles: Kokoro style tables and their weights. speed, pitch, tract: factors against the engine's own voice;
    tract > 1 is a shorter vocal tract (formants higher). Kokoro's pitch moves with its tract.
    base: name of the unperturbed voice; "" for a voice of its own.
    group: of a held-out voice, one of HELD_OUT. roster: the smallest one that has the voice.
    """

    name: str
    engine: str  # "hibari" or "kokoro"
    role: str
    styles: tuple[tuple[str, float], ...] = ()
    speed: float = 1.0
    pitch: float = 1.0
    tract: float = 1.0
    base: str = ""
    group: str = ""
    roster: str = "five"


def _five() -> list[Voice]:
    """The roster "five". Pseudo-speakers are drawn with a fixed seed, so they are the same everywhere."""
    voices = [Voice("assistant", "hibari", "assistant", group="assistant")]
    train = {
        "kokoro-alpha": (("jf_alpha", 1.0),),
        "kokoro-gongitsune": (("jf_gongitsune", 1.0),),
        "kokoro-kumo": (("jm_kumo", 1.0),),
        "kokoro-alpha-kumo": (("jf_alpha", 0.5), ("jm_kumo", 0.5)),
        "kokoro-gongitsune-kumo": (("jf_gongitsune", 0.5), ("jm_kumo", 0.5)),
        "kokoro-alpha-gongitsune": (("jf_alpha", 0.5), ("jf_gongitsune", 0.5)),
    }
    voices += [Voice(name, "kokoro", "train", styles) for name, styles in train.items()]
    for name in ("nezumi", "tebukuro"):
        voices.append(Voice(f"kokoro-{name}", "kokoro", "held-out", ((f"jf_{name}", 1.0),), group="strangers"))
    random = rng(20251000499)
    for i in range(1, _HIBARI_SPEAKERS + 1):
        tract = float(np.exp(random.uniform(np.log(0.82), np.log(1.18))))
        pitch = float(np.clip(tract**2.2 * np.exp(random.uniform(-0.22, 0.22)), 0.55, 1.5))
        speed = float(np.exp(random.uniform(np.log(0.82), np.log(1.25))))
        voices.append(Voice(f"hibari+p{i}", "hibari", "train", speed=speed, pitch=pitch, tract=tract, base="assistant"))
    for name, styles in train.items():
        for i in range(1, _KOKORO_VARIANTS + 1):
            voices.append(_pseudo(Voice(name, "kokoro", "train", styles), i, random))
    return voices


def _pseudo(voice: Voice, number: int, random: np.random.Generator) -> Voice:
    """A pseudo-speaker of a Kokoro voice."""
    tract = float(np.exp(random.uniform(np.log(0.85), np.log(1.17))))
    speed = float(np.exp(random.uniform(np.log(0.82), np.log(1.25))))
    name = f"{voice.name}+p{number}"
    return Voice(name, "kokoro", "train", voice.styles, speed, tract, tract, voice.name, roster=voice.roster)


def _all() -> list[Voice]:
    """What the roster "all" adds: one voice for each style, mixtures of training styles, pseudo-speakers of both."""
    group_of = {style: group for group, styles in HELD_OUT.items() for style in styles}
    training = [style for style in STYLES if style not in group_of]
    voices = []
    for style in STYLES:
        if style not in FIVE:
            role = "held-out" if style in group_of else "train"
            voices.append(Voice(style, "kokoro", role, ((style, 1.0),), group=group_of.get(style, ""), roster="all"))
    random = rng(20251000499, "mixtures")
    for i in range(1, _MIXTURES + 1):
        chosen = [training[j] for j in sorted(random.choice(len(training), _MIXED, replace=False))]
        weights = random.dirichlet(np.ones(_MIXED)).tolist()
        voices.append(Voice(f"mix-{i}", "kokoro", "train", tuple(zip(chosen, weights, strict=True)), roster="all"))
    for voice in [voice for voice in voices if voice.role == "train"]:
        voices += [_pseudo(voice, i, random) for i in range(1, _VARIANTS + 1)]
    return voices


VOICES: dict[str, Voice] = {voice.name: voice for voice in [*_five(), *_all()]}


def names(
    engine: str | None = None,
    role: str | None = None,
    perturbed: bool | None = None,
    roster: str = "five",
    group: str | None = None,
) -> list[str]:
    """Names of the voices of a roster with these properties, in the roster's order.

    Raises:
        ConfigError: there is no such roster.
    """
    if roster not in ROSTERS:
        raise ConfigError(f"there is no roster {roster!r} of voices; known: {', '.join(ROSTERS)}")
    return [
        voice.name
        for voice in VOICES.values()
        if (roster == "all" or voice.roster == "five")
        and (engine is None or voice.engine == engine)
        and (role is None or voice.role == role)
        and (perturbed is None or bool(voice.base) == perturbed)
        and (group is None or voice.group == group)
    ]


def asking_voices(roster: str) -> list[str]:
    """Held-out voices that ask the questions of the tests: English ones and accents; of "five" the two that it has."""
    if roster == "five":
        return names(role="held-out")
    return [name for group in ("english", "accents") for name in names(group=group, roster=roster)]


def group_of(voice: str) -> str:
    """The group of a voice: one of HELD_OUT, "assistant", or "" for voices of the training and recorded speakers."""
    return VOICES[voice].group if voice in VOICES else ""


def variants(base: str, roster: str = "five") -> list[str]:
    """The pseudo-speakers that are made from one voice."""
    return [name for name in names(perturbed=True, roster=roster) if VOICES[name].base == base]
