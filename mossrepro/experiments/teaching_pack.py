"""`mossrepro run teach`: a trained tokenizer and voice, a language model, or what was said in codes, as a pack.

`utils/packs.py` says what a pack is. Of a language model that started as SmolLM2 its changes are kept
(`lm/changes.py`); it is talked to with the tokenizer and the voice of another pack, which it names.

A pack of a script, its codes and the network that draws more of them is all that a language model is trained on: with
it nobody has to make an hour of speech first (`experiments/packed.py`).

What 7 bits a weight cost a tokenizer and a voice is measured where they are packed and said in the card: how many codes
of test clips stay the same ones, and how far the mel of their resynthesis moves.
"""

import argparse
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mossrepro
from mossrepro.codec.model import SpeechCodec
from mossrepro.codec.text_to_code import TextToCode
from mossrepro.data.corpus import load_clip, read_manifest
from mossrepro.data.script import read_script
from mossrepro.data.token_store import TokenStore
from mossrepro.lm import checkpoint, lora
from mossrepro.lm.changes import CHANGES_OF, changes, inherited
from mossrepro.training import metrics
from mossrepro.training.runs import read_parts
from mossrepro.utils import assets, packs
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.checksums import write_sums
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError, visible
from mossrepro.utils.io import move_in, write_text
from mossrepro.utils.safetensors_io import read_config
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder

MADE_OF = {"codec": "recogniser", "flow": "flow", "vocoder": "vocoder"}  # part of a pack -> of a run
SPOKEN = ("script", "tokens", "text_to_code")
ANSWERS = ("sft",)
_FILES = {  # of parts without weights
    "script": ("script.jsonl", "facts.json", "words.json"),
    "tokens": ("store.json", "index*.jsonl", "codes*.u16", "code_phone_probs.npy", "codebook.npy"),
}
_EXACT = {"codec": r"quantiser\."}  # never rounded: a codebook is its codes
_FORGOTTEN = ("recent", "seen")  # of the quantiser: latents of the training, kept for resuming alone
_SOUNDS = """\
A small speech tokenizer, flow decoder and vocoder for the lessons of mossrepro, so that they make sounds
from the first minute: `SpeechCodec.from_pretrained("pack:{0}")`, and so on for `FlowDecoder` and
`Vocoder`. The first use unpacks it into the cache."""
_SAYS = """\
What users and the assistant say in one size of mossrepro, as codes, with the network that draws
more: all that its language model is trained on (`mossrepro reproduce --set size.sound=pack:teach
--set size.speech=pack:{0}`). The codes are those of the tokenizer of another pack and mean
nothing to any other one."""
_TALKS = """\
A language model of mossrepro that hears a spoken English question and says its answer, as its
changes of SmolLM2-135M-Instruct (Apache-2.0): `mossrepro talk --run pack:{0} question.wav`. It hears
and speaks with the tokenizer and the voice of another pack (pack.json)."""
_LIMITS = """\
**Limits.** It hears people worse than the voices that it was trained on, and noise worse than quiet
(`mossrepro eval codec` says how much). For lessons and experiments, not for products."""
_LOAD = {
    "codec": SpeechCodec.from_pretrained,
    "flow": FlowDecoder.from_pretrained,
    "vocoder": Vocoder.from_pretrained,
    "text_to_code": TextToCode.from_pretrained,
    "sft": lambda folder: checkpoint.from_pretrained(folder)[0],
}
_RANK, _ANSWERS_LEVELS = 64, 15  # of a language model: rank of its changes of SmolLM2, largest whole number


def main(args: argparse.Namespace) -> int:
    """Make a pack out of a run, or of single parts of other folders."""
    given = {part: getattr(args, part) for part in (*MADE_OF, *SPOKEN, *ANSWERS) if getattr(args, part)}
    if args.folder:
        parts = read_parts(args.folder, tuple(MADE_OF[part] for part in MADE_OF if part not in given))
        given = {part: parts[MADE_OF[part]] for part in MADE_OF if part not in given} | given
    begun = [group for group in (tuple(MADE_OF), SPOKEN, ANSWERS) if given.keys() & set(group)] or [tuple(MADE_OF)]
    if missing := [part for group in begun for part in group if part not in given]:
        flag = missing[0].replace("_", "-")
        raise ConfigError(f"no {missing[0]}; give --{flag} FOLDER{'' if missing[0] in SPOKEN else ', or a run'}")
    out = teaching_pack(given, args.output, args.clips, args.data, args.beside)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(visible(f"{out}: {size / 1e6:.1f} MB"))
    return 0


def teaching_pack(
    parts: dict[str, str | Path], out: Path, clips: Path | None = None, data: str = "", beside: str = ""
) -> Path:
    """Write a pack.

    Args:
        parts: "codec", "flow" and "vocoder", or "script", "tokens" and "text_to_code", or "sft", or more -> folder.
        out: the new folder.
        clips: a corpus; what is lost is measured on its test clips. None: it is not.
        data: what the parts were trained on, for the card; only who made them knows whose voices these are.
        beside: name of a pack whose parts a language model is talked to with; unpacked, this one has them too.

    Raises:
        ConfigError: there is something at `out` already, there is no pack `beside`, or the parts have other codes than
            each other.
        CheckpointError: a folder holds no such part, or a language model that is no changed SmolLM2.
        DataError: the corpus has no test clips, or script and codes are none.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; give another -o, or delete it")
    loaded = {part: _LOAD[part](folder) for part, folder in parts.items() if part in _LOAD}
    _check_codes(loaded, parts, beside)
    if "codec" in loaded:
        for name in _FORGOTTEN:
            getattr(loaded["codec"].quantiser, name).zero_()
    kept = {part: _kept(part, model) for part, model in loaded.items()}
    configs = {part: read_config(packs.find_folder(parts[part], part)) for part in loaded}
    if "sft" in loaded:
        configs["sft"] |= {CHANGES_OF: "smollm2"}
    lost = "" if clips is None or "flow" not in loaded else _lost(loaded["codec"], loaded["flow"], kept, clips)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    try:
        for part in loaded:
            packs.write_part(partial / part, kept[part], configs[part])
        for part in sorted(set(parts) - set(loaded)):
            for path in sorted(path for name in _FILES[part] for path in Path(parts[part]).glob(name)):
                packs.write_file(partial / part, path.name, path.read_bytes())
        if beside:
            packs.write_beside(partial, beside)
        write_text(partial / "README.md", _card(out.name, lost, data, parts))
        write_sums(partial)
        move_in(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _kept(part: str, model: Any) -> dict[str, torch.Tensor]:
    """The weights of a part in few bits."""
    if part != "sft":
        return packs.quantise(model.state_dict(), _EXACT.get(part, ""))
    state = lora.merged(model.state_dict())
    if model.config.tied:
        del state["text_head.weight"]
    if odd := next((name for name, weight in state.items() if not weight.isfinite().all()), ""):
        raise CheckpointError(f"sft: {odd} holds numbers that are none; take another model")
    start, _ = checkpoint.load_gguf(assets.get("smollm2"), 1, model.config.tail_layers, model.config.split_at)
    return packs.quantise(changes(state, inherited(start.state_dict()), _RANK), levels=_ANSWERS_LEVELS)


def _check_codes(loaded: dict, parts: dict[str, str | Path], beside: str) -> None:
    """ConfigError: parts are of codebooks of other sizes, or a language model has nothing to hear and speak with."""
    if "sft" in parts and not (beside or "codec" in parts):
        raise ConfigError("a language model hears and speaks with parts of another pack; give --beside NAME")
    if beside:
        other = packs.unpack(beside)
        lacking = next((part for part in MADE_OF if not (other / part).is_dir()), "")
        if lacking or (packs.place() / beside / packs.BESIDE).is_file():
            raise ConfigError(f"pack {beside!r} has no {lacking or 'parts of its own'}; give one of a run's sounds")
    found = {part: loaded[part].config.codes for part in ("codec", "text_to_code", "sft") if part in loaded}
    if beside and "codec" not in found:
        found["codec"] = SpeechCodec.from_pretrained(f"pack:{beside}").config.codes
    found |= {"flow": loaded["flow"].codes} if "flow" in loaded else {}
    if "tokens" in parts:
        found["tokens"] = TokenStore(parts["tokens"]).vocabulary
        read_script(Path(parts["script"]))
    if len(set(found.values())) > 1:
        (one, few), (other, many) = sorted(found.items(), key=lambda item: item[1])[:: len(found) - 1]
        raise ConfigError(f"{one} has {few} codes, {other} {many}; give parts of one run")


def _lost(codec: SpeechCodec, flow: FlowDecoder, kept: dict, corpus: Path, most: int = 100) -> str:
    """What 7 bits cost: the same test clips through the parts as they were and as they are kept."""
    clips = [clip for clip in read_manifest(corpus) if clip.split == "test"][:most]
    if not clips:
        raise DataError(f"{corpus}: has no test clips to measure on")
    waves = [load_clip(corpus, clip, SAMPLE_RATE) for clip in clips]
    codes = [codec.codes_of(wave) for wave in waves]
    mels = [_mel(flow, row) for row in codes]
    codec.load_state_dict(packs.dequantise(kept["codec"]))
    flow.load_state_dict(packs.dequantise(kept["flow"]))
    same = np.concatenate([a == b for a, b in zip(codes, map(codec.codes_of, waves), strict=True)]).mean()
    apart = np.mean([float((mel - _mel(flow, row)).abs().mean()) for mel, row in zip(mels, codes, strict=True)])
    return (
        f"Of {sum(map(len, codes)):,} codes of {len(clips)} test clips {100 * same:.1f} % are those of the weights as "
        f"they were trained; the mel of the same codes is {8.686 * apart:.2f} dB away from theirs, in the mean."
    )


@torch.inference_mode()
def _mel(flow: FlowDecoder, codes: np.ndarray) -> torch.Tensor:
    return flow(torch.from_numpy(codes)[None], torch.tensor([len(codes)]))[0]


def _card(name: str, lost: str, data: str, parts: Collection[str]) -> str:
    about = next(text for part, text in (("sft", _TALKS), ("codec", _SOUNDS), ("script", _SAYS)) if part in parts)
    made = f"Made with mossrepro {mossrepro.__version__} at {metrics.commit() or 'an unknown commit'} on"
    data = data or "Whoever made it has not said what it was trained on."
    said = [f"# {name}", about.format(name), lost, f"{made} {metrics.hardware()}.", f"**Data.** {data}"]
    return "\n\n".join(filter(None, [*said, "" if about == _SAYS else _LIMITS])) + "\n"
