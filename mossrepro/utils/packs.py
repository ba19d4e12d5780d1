"""Packs: trained parts and codes small enough to stand beside the code; and everything that can stand for a folder.

    packs/NAME/PART/weights.gz     safetensors with 7 bits a weight, or fewer, compressed by gzip (7 to 6.3)
    packs/NAME/PART/config.json
    packs/NAME/PART/FILE.gz        a file of a script or of a token store, compressed
    packs/NAME/pack.json           {"beside": NAME, "sums": ...} of a pack that needs the parts of another one, which
                                   has the SHA256SUMS that hash to this
    packs/NAME/README.md           model card
    packs/NAME/SHA256SUMS          of all other files

Where a folder of a part or of a run is asked for, these do as well:

    pack:NAME                      a pack; it is unpacked into the cache when it is first used
    hub:USER/REPO[@REVISION]       a repository of the Hugging Face hub; it is fetched into the hub's own cache

A matrix W is kept as whole numbers, at most from -63 to 63, and one scale a row: W[i] = scale[i] * numbers[i].
"""

import gzip
import os
import re
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, float32, int8, stack

from mossrepro.utils import cache
from mossrepro.utils.checksums import SUMS, check_sums, sha256
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.io import copy_files, write_atomic, write_json
from mossrepro.utils.records import is_file_name, misfit, read_json
from mossrepro.utils.safetensors_io import read_config, save_whole

PACKS = Path(__file__).parents[2] / "packs"
SCALE = ".scale"  # behind the name of a matrix: the name of its scales
BESIDE = "pack.json"
_WEIGHTS = "weights.gz"
_MOST = 1 << 30  # bytes of a part, unpacked
_VERSION = 1
_LEVELS = 63  # largest whole number; errors are then some 2 % of a weight's usual size
_SMALL = 4096  # numbers: fewer are kept as they are
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def find_folder(source: str | Path, part: str = "") -> Path:
    """The folder that is meant: itself, or that of a pack or of a repository of the hub.

    Args:
        source: a folder, "pack:NAME" or "hub:USER/REPO[@REVISION]".
        part: "codec", "flow", ...: where a pack or a repository has a folder for it, that one.

    Raises:
        ConfigError: there is no such pack, or no repository is called so.
        CheckpointError: the pack is not as it was made, or the repository cannot be fetched.
    """
    kind, colon, name = os.fspath(source).partition(":")
    if colon and kind == "pack":
        folder = unpack(name)
    elif colon and kind == "hub":
        folder = _fetch(name)
    else:
        return Path(source)
    places = (folder / "parts" / part, folder / part)
    return next((path for path in places if part and path.is_dir()), folder)


def quantise(state: dict[str, Tensor], exact: str = "", levels: int = _LEVELS) -> dict[str, Tensor]:
    """Weights in few bits: every large matrix NAME as int8, and its rows' scales as NAME.scale (rows,).

    Args:
        state: weights by name.
        exact: a regular expression; what it matches at the beginning of a name is kept as it is.
        levels: the largest whole number. Of 63 a weight takes 7 bits, of 1 it takes two, compressed.
    """
    out = {}
    for name, weight in state.items():
        small = weight.dim() < 2 or weight.numel() < _SMALL or not weight.is_floating_point()
        if small or (exact and re.match(exact, name)):
            out[name] = weight.contiguous()
            continue
        rows = weight.to(float32).flatten(1)
        scale = _scale(rows, levels)
        out[name] = (rows / scale[:, None]).round().clamp(-levels, levels).to(int8).reshape(weight.shape).contiguous()
        out[name + SCALE] = scale
    return out


def _scale(rows: Tensor, levels: int) -> Tensor:
    """The step of each row (rows,), so that its largest weight is the largest number; of few levels the best of 16."""
    most = rows.abs().amax(1).clamp(min=1e-12) / levels
    if levels == _LEVELS:
        return most
    tried = [most * (i + 1) / 16 for i in range(16)]
    lost = [((rows / s[:, None]).round().clamp(-levels, levels) * s[:, None] - rows).square().sum(1) for s in tried]
    return stack(tried).gather(0, stack(lost).argmin(0)[None])[0]


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `quantise` was given, as far as so few bits tell it."""
    out = {name: value for name, value in state.items() if not (name.endswith(SCALE) and _is_scale(state, name))}
    for name, value in out.items():
        if name + SCALE in state and value.dtype == int8:
            scale = state[name + SCALE]
            out[name] = value.to(float32) * scale.view(-1, *[1] * (value.dim() - 1))
    return out


def _is_scale(state: dict[str, Tensor], name: str) -> bool:
    matrix = state.get(name.removesuffix(SCALE))
    return matrix is not None and matrix.dtype == int8


def write_part(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write weights.gz and config.json of a part; `state` as `quantise` gives it."""
    packed = gzip.compress(save(state), mtime=0)
    write_atomic(folder / _WEIGHTS, lambda file: file.write(packed))
    write_json(folder / "config.json", config)


def write_file(folder: Path, name: str, content: bytes) -> None:
    """Write NAME.gz of a part."""
    packed = gzip.compress(content, mtime=0)
    write_atomic(folder / f"{name}.gz", lambda file: file.write(packed))


def place() -> Path:
    """The folder in which packs are."""
    return Path(os.environ.get("MOSSREPRO_PACKS") or PACKS)


def unpack(name: str) -> Path:
    """The folder of a pack in the cache: PART/model.safetensors, PART/config.json and parts.json. See `find_folder`."""
    known, folder = sorted(path.parent.name for path in place().glob(f"*/{SUMS}")), place() / name
    if name not in known:
        there = "packs come with the repository, not with the wheel: clone it and set MOSSREPRO_PACKS to its packs/"
        raise ConfigError(f"there is no pack {name!r}; {'known: ' + ', '.join(known) if known else there}")
    parts, files, needs = _checked(folder)
    other = _beside(folder) if needs else None
    spec = {"pack": name, "sums": sha256(folder / SUMS), "version": _VERSION}
    spec |= {"beside": other.name} if other else {}

    def build(out: Path) -> None:
        own = {*parts, *(PurePosixPath(file).parent.name for file in files)}
        for part in sorted(path for path in other.iterdir() if path.is_dir()) if other else ():
            if part.name not in own:
                copy_files(part, out / part.name)
        for part in parts:
            state = _weights(folder / part / _WEIGHTS)
            _check_scales(state, folder / part / _WEIGHTS)
            save_whole(out / part, dequantise(state), read_config(folder / part))
        for file in files:
            plain, to = _plain(folder / file), out / file.removesuffix(".gz")
            to.parent.mkdir(exist_ok=True)
            write_atomic(to, lambda stream, plain=plain: stream.write(plain))
        inside = sorted(path.name for path in out.iterdir() if path.is_dir())
        write_json(out / "parts.json", {part: part for part in inside})

    return cache.cached("packs", spec, build)


def write_beside(folder: Path, name: str) -> None:
    """Write pack.json of a pack that needs the parts of another one, as that is now."""
    write_json(folder / BESIDE, {"beside": name, "sums": sha256(place() / name / SUMS)})


def _beside(folder: Path) -> Path:
    """The unpacked pack that a pack needs. CheckpointError: pack.json is none, or that one changed or needs a third."""
    path = folder / BESIDE
    found = read_json(path, CheckpointError)
    if misfit(found, dict[str, str]) or set(found) != {"beside", "sums"} or not is_file_name(found["beside"]):
        raise CheckpointError(f"{path}: names no pack; take it from the repository again")
    other = place() / found["beside"]
    if (other / BESIDE).exists() or not (other / SUMS).is_file() or sha256(other / SUMS) != found["sums"]:
        raise CheckpointError(f"{path}: {other} is not the pack that this one was made for; take both from one place")
    return unpack(found["beside"])


def _checked(folder: Path) -> tuple[list[str], list[str], bool]:
    """The trained parts of a pack, its other compressed files, and whether it needs another pack.

    CheckpointError: a file is not as SHA256SUMS says.
    """
    listed = check_sums(folder, "the pack was made", "take it from the repository again")
    parts = sorted(PurePosixPath(name).parent.as_posix() for name in listed if name.endswith(f"/{_WEIGHTS}"))
    for part in parts:
        if "/" in part or f"{part}/config.json" not in listed:
            raise CheckpointError(
                f"{folder / SUMS}: {part} is no part with settings; take it from the repository again"
            )
    files = sorted(name for name in listed if name.endswith(".gz") and not name.endswith(f"/{_WEIGHTS}"))
    for file in files:
        if file.count("/") != 1 or file.split("/")[0] in parts:
            raise CheckpointError(f"{folder / SUMS}: {file} is in no part; take it from the repository again")
    return parts, files, BESIDE in listed


def _check_scales(state: dict[str, Tensor], path: Path) -> None:
    """CheckpointError: a matrix has not one scale a row, so that a small file could ask for any amount of memory."""
    for name, scale in state.items():
        matrix = state[name.removesuffix(SCALE)] if name.endswith(SCALE) and _is_scale(state, name) else None
        if matrix is not None and scale.shape != matrix.shape[:1]:
            raise CheckpointError(f"{path}: {name} is not one number a row; take it from the repository again")


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load(_plain(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: no weights of a pack ({error}); take it from the repository again") from error


def _plain(path: Path) -> bytes:
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)  # gzip
    try:
        plain = reader.decompress(path.read_bytes(), _MOST)
    except zlib.error as error:
        raise CheckpointError(f"{path}: no file of a pack ({error}); take it from the repository again") from error
    if not reader.eof:
        raise CheckpointError(f"{path}: is cut off, or more than {_MOST >> 20} MiB")
    return plain


def _fetch(name: str) -> Path:
    """The weights and settings of a repository of the hub, in the hub's cache."""
    from huggingface_hub import snapshot_download

    match = _REPOSITORY.fullmatch(name)
    if match is None:
        raise ConfigError(f"hub:{name}: no repository is called so; give hub:USER/REPO, or hub:USER/REPO@REVISION")
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the client has dozens of error types; all of them mean "not from there"
        raise CheckpointError(
            f"hub:{name}: cannot be fetched ({type(error).__name__}); look at the name and the network, or fetch it by "
            "hand and give its folder"
        ) from error
