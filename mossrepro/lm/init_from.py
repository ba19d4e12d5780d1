"""What training starts from: the bundled SmolLM2, a text LLM of the hub, or an earlier stage."""

from tokenizers import Tokenizer

from mossrepro.lm import checkpoint, hub, released
from mossrepro.lm.init import deepen, is_started, resplit, start_speech_half
from mossrepro.lm.model import LayerSplitLM
from mossrepro.utils import assets
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.packs import find_folder

_DEFAULT_TAIL_LAYERS = 4  # for a text LLM, if the configuration does not say


def open_start(
    init_from: str,
    codes: int,
    tail_layers: int | None,
    tail: str,
    seed: int,
    split_at: int | None = None,
    extra_layers: int | None = None,
) -> tuple[LayerSplitLM, Tokenizer]:
    """A split model to train, in float32: from the bundled SmolLM2, a hub folder of a text LLM, or an earlier stage.

    init_from: "smollm2", or what `utils.packs.find_folder` takes: a folder, or "hub:USER/REPO@REVISION".
    In bfloat16 most updates at a small learning rate would round to zero. ConfigError if the codebook size differs, or
    if the speech half has been trained and a random tail, another split or more layers are asked for.
    """
    depth = _DEFAULT_TAIL_LAYERS if tail_layers is None else tail_layers
    if init_from.startswith("hub:") and "@" not in init_from:
        raise ConfigError(f"{init_from}@REVISION: which one? A fit that is resumed must start from the same weights")
    folder = find_folder(init_from, "sft")
    if init_from == "smollm2":
        model, tokenizer = checkpoint.load_gguf(assets.get("smollm2"), codes, depth, split_at)
        fresh = True
    elif fresh := not released.is_released(folder) and hub.is_hub(folder):
        model, tokenizer = hub.load(folder, codes, depth, split_at)
    else:
        read = released.load if released.is_released(folder) else checkpoint.from_pretrained
        model, tokenizer = read(folder)
        if model.config.codes != codes:
            raise ConfigError(f"{init_from} was trained with {model.config.codes} codes, the codec has {codes}")
    model = model.float()
    has = (model.config.tail_layers, model.config.split_at)
    wanted = (has[0] if tail_layers is None else tail_layers, split_at if split_at is not None else has[1])
    anew = fresh or tail == "random" or wanted != has
    if anew and not fresh and is_started(model):
        what = f"tail={tail}, {wanted[0]} layers at {wanted[1]}"
        raise ConfigError(f"{what}: {init_from} has been trained with {has[0]} at {has[1]}; start from its backbone")
    if wanted != has:
        model = resplit(model, *wanted)
    if anew:
        start_speech_half(model, seed, tail)
    if extra_layers is not None and extra_layers != model.config.extra_layers:
        if model.config.extra_layers or is_started(model):
            has = f"{init_from} has been trained with {model.config.extra_layers}"
            raise ConfigError(f"extra_layers={extra_layers}: {has}; start from its backbone")
        model = deepen(model, extra_layers)
    return model, tokenizer
