"""Initial values of the speech half, which a pretrained text LLM does not have."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from mossrepro.lm.ears import Ear
from mossrepro.lm.inner_ear import InnerEar
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.speech.normalise import PHONES
from mossrepro.utils.errors import ConfigError

# A spelling of every phone (our own table); silence is a space. One spelling each is enough: it only has to put a
# code's embedding near those of the letters that words with this phone are written with.
SPELLING = dict(
    pair.split(":")
    for pair in (
        "AA:o AE:a AH:u AO:aw AW:ow AY:y B:b CH:ch D:d DH:th EH:e ER:er EY:ay F:f G:g HH:h IH:i IY:ee JH:j K:k L:l M:m "
        "N:n NG:ng OW:o OY:oy P:p R:r S:s SH:sh T:t TH:th UH:oo UW:u V:v W:w Y:y Z:z ZH:s"
    ).split()
)


@torch.no_grad()
def start_speech_half(model: LayerSplitLM, seed: int, tail: str = "copy") -> None:
    """Initialise the speech parts.

    The embedding is drawn from a normal distribution with the mean and covariance of the text embedding, so that the
    frozen trunk gets inputs like those it knows. The head is normal with standard deviation 0.02. The tail is a copy of
    the text tail (tail="copy", the paper's way), or starts as Llama does: matrices of standard deviation 0.02, norms of
    1 (tail="random", the ablation).
    """
    generator = torch.Generator().manual_seed(seed)
    text = model.text_embed.weight.detach().float().cpu()  # all is drawn there, so that it is the same on any device
    mean = text.mean(0)
    covariance = (text - mean).T @ (text - mean) / len(text) + 1e-8 * torch.eye(text.shape[1], device=text.device)
    noise = torch.randn(model.speech_embed.weight.shape, generator=generator)
    model.speech_embed.weight.copy_(mean + noise @ torch.linalg.cholesky(covariance).T)
    model.speech_head.weight.copy_(0.02 * torch.randn(model.speech_head.weight.shape, generator=generator))
    if tail == "copy":
        _copy(model.text_tail, model.speech_tail)
    else:
        for parameter in model.speech_tail.parameters():
            drawn = 0.02 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn if parameter.dim() > 1 else torch.ones_like(drawn))
    _copy(model.text_norm, model.speech_norm)


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all parameters. `load_state_dict` would make FSDP2 look for its shards, which are gathered by then."""
    for copy, value in zip(target.parameters(), source.parameters(), strict=True):
        copy.copy_(value)


def is_started(model: LayerSplitLM) -> bool:
    """Whether the speech half has been trained: its tail and norm are no longer copies of the text half's."""
    pairs = [(model.speech_norm.weight, model.text_norm.weight)]
    pairs += zip(model.speech_tail.parameters(), model.text_tail.parameters(), strict=True)
    return not all(torch.equal(speech, text) for speech, text in pairs)


def resplit(model: LayerSplitLM, tail_layers: int, split_at: int | None) -> LayerSplitLM:
    """A backbone's text half, split at another layer; its speech half must be initialised (`start_speech_half`)."""
    other = LayerSplitLM(replace(model.config, tail_layers=tail_layers, split_at=split_at))
    state = {name: value for name, value in model.state_dict().items() if name.startswith("text_")}
    state = {name: value for name, value in state.items() if not name.startswith("text_tail.")}
    for layer in range(model.config.layers):
        (old, i), (new, j) = model.config.locate_layer(layer), other.config.locate_layer(layer)
        for name, value in getattr(model, old)[i].state_dict().items():
            state[f"{new}.{j}.{name}"] = value
    other.load_state_dict(state, strict=False)
    return other


def start_parts(
    model: LayerSplitLM, tokenizer: Tokenizer, mouth: int, ears: int, inner_ear: str | None, passes: bool, seed: int
) -> None:
    """Give a model the parts that are asked for: a mouth of so many layers, gated ears of a rank, an inner ear.

    ConfigError: codes are to be passed over, and there is no inner ear that could say which.
    """
    if mouth:
        start_mouth(model, tokenizer, mouth, seed)
    if ears:
        start_ears(model, tokenizer, ears, seed)
    if inner_ear is not None:
        start_inner_ear(model, tokenizer, inner_ear, passes)
    elif passes and not model.config.inner_layers:
        raise ConfigError("passes=true: codes are passed over where an inner ear names nothing; give inner_ear=FOLDER")
    elif passes:
        model.config = replace(model.config, inner_passes=True)


@torch.no_grad()
def start_ears(model: LayerSplitLM, tokenizer: Tokenizer, rank: int, seed: int) -> None:
    """Give a model gated ears (`ears.py`): random ways in, ways out of 0, so that nothing changes at first.

    ConfigError for a rank below 1, or for a model that has ears of another rank; those of this rank stay as they are.
    """
    if rank < 1:
        raise ConfigError(f"ears={rank}: the rank is at least 1")
    if model.config.ears:
        if model.config.ears != rank:
            raise ConfigError(
                f"ears={rank}: the model has ears of rank {model.config.ears}; start from an earlier stage"
            )
        return
    opens = tokenizer.encode("<|im_start|>user", add_special_tokens=False).ids
    model.config = replace(model.config, ears=rank, user_turn=opens)
    model.add_ears()
    generator = torch.Generator().manual_seed(seed)
    for part in model.trunk.modules():
        if isinstance(part, Ear):
            start = torch.randn(part.down.shape, generator=generator) / math.sqrt(part.down.shape[1])
            part.down.copy_(start)


@torch.no_grad()
def start_inner_ear(model: LayerSplitLM, tokenizer: Tokenizer, folder: str | Path, passes: bool = False) -> None:
    """Give a model with gated ears an inner ear (`inner_ear.py`) that was trained before.

    passes: whether the trunk passes over codes at which it names nothing.

    Raises:
        ConfigError: the model has one already, or no gated ears, or the inner ear has other codes or another tokenizer.
        CheckpointError: the folder holds no inner ear.
    """
    ear, theirs = InnerEar.from_pretrained(folder)
    if not model.config.ears or model.config.inner_layers:
        has = "an inner ear already" if model.config.inner_layers else "no gated ears, which read what it names"
        raise ConfigError(f"inner_ear={folder}: the model has {has}; start from an earlier stage, with ears=RANK")
    if ear.config.codes != model.config.codes or theirs.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"inner_ear={folder}: has other codes or another tokenizer than the model")
    c = ear.config
    shape = {"inner_layers": c.layers, "inner_width": c.width, "inner_names": c.names, "inner_ahead": c.ahead}
    model.config = replace(model.config, **shape, inner_passes=passes)
    model.add_inner_ear()
    model.inner_ear.load_state_dict(ear.state_dict())
    model.heard_nothing.copy_(model.text_embed.weight.mean(0))


@torch.no_grad()
def start_mouth(model: LayerSplitLM, tokenizer: Tokenizer, layers: int, seed: int) -> None:
    """Give a model a mouth (`mouth.py`), at random; what is named enters it as it is.

    ConfigError for a model that has one of another depth; one of this depth stays as it is.
    """
    if model.config.mouth:
        if model.config.mouth != layers:
            raise ConfigError(f"mouth={layers}: the model has one of {model.config.mouth}; start from an earlier stage")
        return
    sosp = SpecialIds.of(tokenizer, model.config.codes).sosp
    model.config = replace(model.config, mouth=layers, speech_from=sosp)
    model.add_mouth()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.mouth.layers.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.mouth.codes.weight.copy_(torch.randn(model.mouth.codes.weight.shape, generator=generator))
    torch.nn.init.eye_(model.mouth.named.weight)


@torch.no_grad()
def deepen(model: LayerSplitLM, extra_layers: int) -> LayerSplitLM:
    """A backbone without a split and with `extra_layers` more layers at its end: the parameter-matched control.

    They are copies of the last ones with their output projections set to 0 (arXiv 2401.02415, block expansion), so that
    the deeper model computes what the backbone does.
    """
    layers = model.config.layers
    other = LayerSplitLM(replace(model.config, layers=layers + extra_layers, extra_layers=extra_layers))
    state = model.state_dict()
    for i in range(extra_layers):
        for name, value in model.trunk[layers - extra_layers + i].state_dict().items():
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            state[f"trunk.{layers + i}.{name}"] = torch.zeros_like(value) if silent else value
    other.load_state_dict(state)
    return other


@torch.no_grad()
def spell_codes(model: LayerSplitLM, tokenizer: Tokenizer, sounds: Tensor) -> None:
    """Initialise every code's embedding with the spelling of its sound, since the text LLM can read letters already.

    sounds (codes, 1 + 39): probability of silence and of each of PHONES in a code (`SpeechCodec.code_phone_probs`). A
    code's embedding becomes the mean of the text embeddings of the letters in `SPELLING`, weighted by them. This is not
    in the paper, which has enough data to learn it; with little training it makes the difference (docs/LOG.md).
    Raises ConfigError when `sounds` is for another codebook or other phones.
    """
    if sounds.shape != (model.config.codes, 1 + len(PHONES)):
        raise ConfigError(f"sounds of shape {sounds.shape} do not fit a codebook of {model.config.codes} codes")
    table = torch.stack([_letters(model, tokenizer, text) for text in (" ", *(SPELLING[phone] for phone in PHONES))])
    model.speech_embed.weight[: model.config.codes] = sounds.to(table) @ table


@torch.no_grad()
def start_head_from_words(model: LayerSplitLM, tokenizer: Tokenizer, said: Iterable[tuple[str, Sequence[int]]]) -> None:
    """Add to the speech head's row of a code the mean of the text head's rows of the words in which the code occurs.

    A state that names a word then scores the codes of that word at once. Rows are centred: what all words have in
    common tells no codes apart. This is not in the paper.

    Args:
        model: its speech head is changed.
        tokenizer: of its text half.
        said: words with the codes that were spoken during each. ConfigError if there are none.
    """
    codes, table = model.config.codes, model.text_head.weight.detach().float()
    total, count = torch.zeros(codes, table.shape[1], device=table.device), torch.zeros(codes, device=table.device)
    means: dict[str, Tensor] = {}
    for word, row in said:
        if word not in means:
            means[word] = table[tokenizer.encode(" " + word, add_special_tokens=False).ids].mean(0)
        for code in row:
            total[code] += means[word]
            count[code] += 1
    if not means:
        raise ConfigError("head_from_words=true needs the times of spoken words (words.json beside the script)")
    heard = count > 0
    mean = total / count.clamp(min=1)[:, None]
    mean = torch.where(heard[:, None], mean - mean[heard].mean(0), 0.0)
    model.speech_head.weight[:codes] += mean.to(model.speech_head.weight)


def _letters(model: LayerSplitLM, tokenizer: Tokenizer, text: str) -> Tensor:
    """Mean text embedding (D,) of the tokens of a spelling."""
    return model.text_embed.weight[tokenizer.encode(text, add_special_tokens=False).ids].mean(0)
