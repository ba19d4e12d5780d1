"""`mossrepro import` and `mossrepro export`: weights of others in, ours out, language model and speech tokenizer alike.

import   the released checkpoint, the released tokenizer, or a text LLM of the hub (which is then split)
export   a finished stage or a codec with plain=true, in the released layout
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from mossrepro.codec import SpeechCodec
from mossrepro.codec import released as released_codec
from mossrepro.lm import checkpoint, hub, released
from mossrepro.lm.init import start_speech_half
from mossrepro.utils.errors import CheckpointError, ConfigError, visible
from mossrepro.utils.packs import find_folder
from mossrepro.utils.safetensors_io import read_config


def bring_in(args: argparse.Namespace) -> int:
    """Recognise what `args.folder` holds and write it in our layout to `args.output`."""
    source, target = find_folder(args.folder), _new(args.output)
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder")
    if released.is_released(source):
        model, tokenizer = released.load(source)
        what = "the released layout"
    elif hub.is_hub(source):
        model, tokenizer = hub.load(source, args.codes, args.tail_layers)
        start_speech_half(model, args.seed)
        what = f"a text LLM, split before its last {args.tail_layers} layers; its speech half is untrained"
    else:
        codec = released_codec.load(source)
        codec.save_pretrained(target)
        return _say(target, "the released tokenizer", sum(p.numel() for p in codec.encoder.parameters()))
    checkpoint.save_pretrained(model, tokenizer, target)
    return _say(target, what, sum(p.numel() for p in model.parameters()))


def take_out(args: argparse.Namespace) -> int:
    """Write the language model or codec in `args.folder` in the released layout to `args.output`."""
    source, target = Path(args.folder), _new(args.output)
    if not (source / "config.json").is_file():
        raise CheckpointError(f"{source}: no config.json; is this the folder of a finished stage?")
    if "code_dim" in read_config(source):
        released_codec.save(SpeechCodec.from_pretrained(source), target)
        return _say(target, "speech tokenizer, released layout")
    model, tokenizer = checkpoint.from_pretrained(source)
    released.save(model.to(getattr(torch, args.dtype)), tokenizer, target, args.shard)
    return _say(target, "language model, released layout", sum(p.numel() for p in model.parameters()))


def _new(folder: Path) -> Path:
    """A folder that holds no weights yet. ConfigError for one that does, or for a file: nothing is overwritten."""
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; give a folder as --output")
    if any(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder}: holds weights already; give another --output")
    return folder


def _say(target: Path, what: str, parameters: int = 0) -> int:
    count = f", {parameters:,} parameters" if parameters else ""
    Console(stderr=True, markup=False, emoji=False).print(visible(f"{target}: {what}{count}"), highlight=False)
    return 0
