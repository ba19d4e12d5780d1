"""Configurations: where they are, and the one way to read them.

LightningCLI, `plan`, `reproduce` and the cache's keys all take a YAML file through `read_config`. A file may build on
another one (`base: small`), and a backbone's shape may be that of a named or given `config.json` (`shape: qwen3-8b`).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.io import SHORT, read_text
from mossrepro.utils.records import misfit, short

# A hub's config.json -> `training.sizes.Backbone`.
_SHAPE = {
    "num_hidden_layers": "layers",
    "hidden_size": "dim",
    "intermediate_size": "ffn_dim",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab",
    "tie_word_embeddings": "tied",
}

_MOST, _MOST_LAYERS = 1 << 20, 1000  # of any size of a text model, and of its layers
_MOST_NODES = 100_000  # entries of a YAML file


def configs_folder() -> Path:
    """The folder `configs/` of the checkout; in an installed wheel, its copy inside the package."""
    checkout, package = Path(__file__).parents[2] / "configs", Path(__file__).parents[1] / "configs"
    return checkout if (checkout / "claims.yaml").is_file() else package


def size_names() -> tuple[str, ...]:
    """The sizes that exist: the files of configs/size, and "smoke"."""
    return (*sorted(path.stem for path in (configs_folder() / "size").glob("*.yaml")), "smoke")


def find_config(name: str | Path) -> Path:
    """A configuration file by its path, wherever the working folder is: `configs/codec.yaml` is also found in a wheel.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if os.path.isfile(path):
        return path
    if path.parts[:1] == ("configs",) and (configs_folder().parent / path).is_file():
        return configs_folder().parent / path
    raise ConfigError(f"{path}: no such file")


def find_size(name: str | Path) -> Path:
    """The file of a size, by its name ("small") or its path.

    Raises:
        ConfigError: there is no such size.
    """
    path = configs_folder() / "smoke.yaml" if name == "smoke" else configs_folder() / "size" / f"{name}.yaml"
    if os.path.isfile(path):
        return path
    if os.path.isfile(name):
        return Path(name)
    raise ConfigError(f"there is no size {str(name)!r}; known: {', '.join(size_names())}, or the path of a YAML file")


_LARGEST = 1 << 24  # bytes of a YAML file: its parser takes a minute for as many


def load_yaml(path: Path) -> Any:
    """The value of a YAML file, by PyYAML's safe loader.

    Raises:
        ConfigError: the file is missing, no YAML, nested too deeply, or has aliases that multiply it (a few lines can
            be made to mean more than any memory holds).
    """
    try:
        text = read_text(path, _LARGEST)
        if "*" in text and _expanded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > _MOST_NODES:
            raise ConfigError(f"{path}: its aliases make more than {_MOST_NODES} entries of it")
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise ConfigError(str(error)) from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())[:300]})") from error


def _expanded(node: yaml.Node | None, seen: dict[int, int]) -> int:
    """How many entries a YAML node is with every alias written out; a node inside itself counts as too many."""
    if id(node) not in seen:
        seen[id(node)] = _MOST_NODES + 1
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        seen[id(node)] = 1 + sum(_expanded(part, seen) for part in inner)
    return seen[id(node)]


def read_config(*files: str | Path) -> dict[str, Any]:
    """YAML files laid over each other from left to right, each with its base and its backbone's shape filled in.

    `${...}` stays as it is written.

    Raises:
        ConfigError: a file is missing, is no YAML mapping, or builds on itself.
    """
    plain = _container(_merged(files[-1], *(_read(find_config(file), ()) for file in files)), files[-1])
    if not isinstance(plain.get("size") or {}, dict):
        raise ConfigError(f"{files[-1]}: size is {short(plain['size'])}, not a mapping")
    backbone = (plain.get("size") or {}).get("backbone")
    if isinstance(backbone, dict) and backbone.get("shape"):
        plain["size"]["backbone"] = {**read_shape(backbone["shape"]), **backbone}
    return plain


def _read(path: Path, above: tuple[Path, ...]) -> DictConfig:
    """One file on top of its base; `above` are the files that build on it."""
    if (real := Path(os.path.realpath(path))) in above:
        raise ConfigError(f"{path}: builds on itself")
    load_yaml(path)  # says what is wrong with it, and that it is not endless
    try:
        config = OmegaConf.load(path)
    except (OSError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    except Exception as error:  # YAML errors of a parser that OmegaConf brings
        raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: not a mapping of settings")
    try:
        base = config.pop("base", None)
    except OmegaConfBaseException as error:  # an interpolation of nothing
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    if base is None:
        return config
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: {short(base)} is neither a size nor a file")
    beside = path.parent / f"{base}.yaml"
    return _merged(path, _read(beside if os.path.isfile(beside) else find_size(base), (*above, real)), config)


def _merged(path: str | Path, *configs: DictConfig | dict[str, Any]) -> DictConfig:
    """Configurations laid over each other. ConfigError names the file of the last one, if they do not fit."""
    try:
        return OmegaConf.merge(*configs)
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: cannot be laid over another file ({(str(error) or ' ').splitlines()[0]})"
        ) from error


def _container(config: DictConfig, path: str | Path) -> dict[str, Any]:
    """A configuration as plain data, `${...}` as it is written."""
    try:
        return OmegaConf.to_container(config, resolve=False)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {(str(error) or ' ').splitlines()[0]}") from error


def read_shape(source: str | Path) -> dict[str, Any]:
    """The shape of a text model as `training.sizes.Backbone` names it, from configs/backbone/NAME.json or a hub folder.

    Raises:
        ConfigError: there is no such file, it lacks a number, or a number is none that a model has.
        CheckpointError: the folder's weights are quantised.
    """
    if not isinstance(source, str | Path) or "\0" in str(source):
        raise ConfigError(f"a backbone's shape is {short(source)}, neither a name nor a hub folder")
    named = configs_folder() / "backbone" / f"{source}.json"
    path = named if os.path.isfile(named) else Path(source) / "config.json"
    try:
        found = json.loads(read_text(path, SHORT))
        shape = {ours: found[theirs] for theirs, ours in _SHAPE.items() if found.get(theirs) is not None}
        shape["qk_norm"] = found["model_type"] == "qwen3"
        missing = {"layers", "dim", "ffn_dim", "heads", "vocab"} - set(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError) as error:
        known = ", ".join(sorted(file.stem for file in named.parent.glob("*.json")))
        raise ConfigError(
            f"{path}: no shape of a text model ({error}); give a hub folder, or one of {known}"
        ) from error
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(sorted(missing))}")
    if path != named:
        from mossrepro.utils.safetensors_io import refuse_quantised  # brings PyTorch, which not every reader needs

        refuse_quantised(path.parent, found)
    for theirs, ours in _SHAPE.items():
        value = shape.get(ours, 1)
        most = _MOST_LAYERS if ours == "layers" else _MOST
        if ours != "tied" and (type(value) is not int or not 1 <= value <= most):
            raise ConfigError(f"{path}: {theirs}={value!r} is not a whole number from 1 to {most}")
    return shape


def read_size(size: str | Path) -> dict[str, Any]:
    """The file of a size, {"size": {"name": ..., ...}}. ConfigError: there is no such size, or it has no name."""
    settings = read_config(find_size(size))
    if misfit(settings.get("size"), dict) or misfit(settings["size"].get("name"), str):
        raise ConfigError(f"{size}: not a size; it needs the one key `size`, with a name (and may have `base`)")
    return settings


def changed_size(size: str | Path, changes: Sequence[str] = (), backbone: str | Path = "") -> dict[str, Any]:
    """The settings of a size, {"size": {...}}, with changes "size.KEY=VALUE" and perhaps a hub folder as its backbone.

    Raises:
        ConfigError: there is no such size, the file is none, or the folder is no text model.
    """
    settings = read_size(size)
    if backbone:
        from mossrepro.utils.packs import find_folder  # brings PyTorch, which not every reader needs

        odd = "\0" in str(backbone)  # which `read_shape` refuses
        folder = str(backbone) if odd else os.path.realpath(find_folder(backbone, "backbone"))
        settings["size"]["backbone"] = {"source": "hub", "shape": folder, "folder": folder, **read_shape(folder)}
    plain = OmegaConf.from_dotlist([change for change in changes if change.startswith("size.")])
    return _container(_merged(size, settings, plain), size)


_FORMS_OF = {"stage1_word": "stage1", "ears": "stage2"}  # configs that stand for a stage of the form "word"
_NO_STAGES = ("claims", "smoke", *_FORMS_OF)


def check_changes(changes: Sequence[str]) -> None:
    """Refuses a change that is not "size.KEY=VALUE" or "STAGE.KEY=VALUE", before anything is trained.

    Raises:
        ConfigError: names the change and what is possible.
    """
    stages = sorted(path.stem for path in configs_folder().glob("*.yaml") if path.stem not in _NO_STAGES)
    for change in changes:
        key, sign, _ = change.partition("=")
        where, _, rest = key.partition(".")
        if where in _FORMS_OF:
            stage = _FORMS_OF[where]
            better = change.replace(where, stage, 1)
            raise ConfigError(f"--set {change}: configs/{where}.yaml is a form of {stage}; give {better}")
        if not sign or not rest or where not in ("size", *stages):
            raise ConfigError(
                f"--set {change}: give size.KEY=VALUE or STAGE.KEY=VALUE, STAGE one of {', '.join(stages)}"
            )
        if where != "size" and rest.split(".")[0] not in ("model", "data", "trainer", "seed_everything"):
            raise ConfigError(
                f"--set {change}: behind the stage comes model, data or trainer, as in configs/{where}.yaml"
            )


def refuse_overridden(stage: str, changes: Sequence[str], given: Sequence[str]) -> None:
    """Refuses a change of a stage that would be without effect, because `reproduce` gives the setting itself.

    changes, given: flags of `mossrepro fit`, "--KEY=VALUE"; the second ones come last. ConfigError names the change.
    """
    values = dict(flag.split("=", 1) for flag in given)
    for change in changes:
        key, _, value = change.partition("=")
        if values.get(key, value) != value:
            reason = "`mossrepro reproduce` gives this itself; train the stage by itself with `mossrepro fit`"
            raise ConfigError(f"--set {stage}.{change.removeprefix('--')}: {reason}")


def cache_key(settings: Any) -> Any:
    """Settings as a key of the cache: classes and functions of this package by their own name, wherever they stand."""
    if isinstance(settings, dict):
        return {key: cache_key(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [cache_key(value) for value in settings]
    if isinstance(settings, str) and settings.startswith("mossrepro."):
        return settings.rsplit(".", 1)[1]
    return settings


def resolved_arguments(arguments: list[str]) -> list[str]:
    """A command line of LightningCLI with every configuration file read by `read_config`, where that changes it."""
    out = list(arguments)
    for i, word in enumerate(arguments):
        flag, sign, value = word.partition("=")
        if flag not in ("-c", "--config"):
            continue
        place, name = (i, value) if sign else (i + 1, arguments[i + 1] if i + 1 < len(arguments) else "")
        if not name or "\n" in name or name.lstrip().startswith("{"):
            continue  # settings written out on the command line
        text = OmegaConf.to_yaml(OmegaConf.create(read_config(name)))
        out[place] = f"{flag}={text}" if sign else text
    return out


def matched_rank(backbone: Any, tail_layers: int) -> int:
    """The rank at which low-rank changes to every layer of a backbone have as many parameters as a tail."""
    dim, ffn_dim, heads = backbone["dim"], backbone["ffn_dim"], backbone["heads"]
    head_dim = backbone.get("head_dim") or dim // heads
    kv_dim = (backbone.get("kv_heads") or heads) * head_dim
    shapes = [(dim, heads * head_dim), (dim, kv_dim), (dim, kv_dim), (heads * head_dim, dim), *[(dim, ffn_dim)] * 3]
    whole, each = sum(i * o for i, o in shapes), sum(i + o for i, o in shapes)
    return max(1, tail_layers * whole // (backbone["layers"] * each))


def _product(a: float, b: float) -> float:
    """a * b without a tail of nines: 0.2 * 6e-4 is 1.2e-4."""
    return a * b if isinstance(a, int) and isinstance(b, int) else float(f"{a * b:.12g}")


def _register_arithmetic() -> None:
    """`${mul:2,${size.lm.tail_layers}}` in a YAML: what overlays compute from the size."""
    functions = {"mul": _product, "sub": lambda a, b: a - b, "div": lambda a, b: a // b, "min": lambda a, b: min(a, b)}
    register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
    for name, function in {**functions, "matched_rank": matched_rank}.items():
        if not OmegaConf.has_resolver(name):
            register(name, function)


_register_arithmetic()
