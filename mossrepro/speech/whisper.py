"""The first judge: Whisper base in our own PyTorch, read from its CTranslate2 file.

The codec starts from Whisper's encoder, so this judge is not independent of it; that of `speech/sphinx.py` is.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.utils import assets
from mossrepro.utils.audio import whisper_mel
from mossrepro.utils.devices import CPU
from mossrepro.utils.errors import AssetError
from mossrepro.utils.packed_linear import pack_linear_layers

_WIDTH, _HEADS, _LAYERS = 512, 8, 6
_PROMPT = (50258, 50259, 50359, 50364)  # start, English, transcribe, time stamp 0.00
_END, _BLANK, _STAMPS = 50257, 220, 50364
_LONGEST = 29 * 16_000  # samples of the longest input
_TAIL = 4_800  # samples of silence that every wave ends with
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """All variables of a CTranslate2 model.bin, as stored.

    The file, little endian: u32 format version (6), the model's class name, u32 class revision, u32 count; then per
    variable: name, u8 rank, u32 per dimension, u8 type (0 float32, 1 int8, 2 int16, 3 int32, 4 float16), u32 bytes,
    the data; then u32 count of aliases, each two names. A name is u16 length (with its closing zero) + bytes.
    """
    data = path.read_bytes()
    at = 0

    def number(code: str) -> int:
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    if number("I") != 6:
        raise AssetError(f"{path}: not a CTranslate2 model of format 6")
    text()  # the class name, "WhisperSpec"
    number("I")
    variables: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = _DTYPES[number("B")]
        size = number("I")
        variables[name] = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, at).reshape(shape)
        at += size
    for _ in range(number("I")):
        alias, name = text(), text()
        variables[alias] = variables[name]
    return variables


@functools.lru_cache(maxsize=1)
def _variables() -> dict[str, np.ndarray]:
    return read_ctranslate2(assets.get("whisper-base"))


def _float(name: str) -> Tensor:
    return torch.from_numpy(_variables()[name].astype(np.float32))


def _norm(source: str, target: str) -> dict[str, Tensor]:
    return {f"{target}.weight": _float(f"{source}/gamma"), f"{target}.bias": _float(f"{source}/beta")}


def _linear(source: str, target: str) -> dict[str, Tensor]:
    return {f"{target}.{end}": _float(f"{source}/{end}") for end in ("weight", "bias")}


def _attention(source: str, target: str, cross: bool) -> dict[str, Tensor]:
    """CTranslate2 stacks q, k, v (self) or k, v (cross) in one matrix; this splits it."""
    state = _norm(f"{source}/layer_norm", f"{target}_norm")
    if cross:
        state |= _linear(f"{source}/linear_0", f"{target}.q")
        stacked, rest, last = "linear_1", ("k", "v"), "linear_2"
    else:
        stacked, rest, last = "linear_0", ("q", "k", "v"), "linear_1"
    for end in ("weight", "bias"):
        for part, tensor in zip(rest, _float(f"{source}/{stacked}/{end}").chunk(len(rest)), strict=True):
            state[f"{target}.{part}.{end}"] = tensor.clone()
    return state | _linear(f"{source}/{last}", f"{target}.out")


def _layer(source: str, target: str, cross: bool) -> dict[str, Tensor]:
    state = _attention(f"{source}/self_attention", f"{target}.attention", cross=False)
    if cross:
        state |= _attention(f"{source}/attention", f"{target}.cross", cross=True)
    state |= _norm(f"{source}/ffn/layer_norm", f"{target}.mlp_norm")
    state |= _linear(f"{source}/ffn/linear_0", f"{target}.mlp_in")
    return state | _linear(f"{source}/ffn/linear_1", f"{target}.mlp_out")


def whisper_encoder_state() -> dict[str, Tensor]:
    """Whisper base's encoder, float32: width 512, 8 heads of 64, feed-forward 2048, 6 layers, 80 mel bands.

    conv1.weight (512, 80, 3), conv1.bias; conv2.weight (512, 512, 3) of stride 2, conv2.bias; both padded by 1 and
    followed by GELU; positional (1500, 512) sinusoids added to the 50 Hz frames; then for i in 0..5, pre-norm:
    layers.{i}.attention_norm.{weight,bias}; layers.{i}.attention.{q,k,v,out}.{weight,bias} (512, 512), where k.bias is
    zero and the scores are divided by sqrt(64); layers.{i}.mlp_norm.*; layers.{i}.mlp_in.* (2048, 512), GELU;
    layers.{i}.mlp_out.* (512, 2048); at the end norm.{weight,bias}. Its input is `audio.whisper_mel`.
    """
    state = {"positional": _float("encoder/position_encodings/encodings")} | _norm("encoder/layer_norm", "norm")
    for name in ("conv1", "conv2"):
        state |= _linear(f"encoder/{name}", name)
    for i in range(_LAYERS):
        state |= _layer(f"encoder/layer_{i}", f"layers.{i}", cross=False)
    return state


class _Attention(nn.Module):
    """Multi-head attention as in Whisper: 8 heads of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, S, 512) -> keys and values (B, 8, S, 64)."""
        return _heads(self.k(x)), _heads(self.v(x))

    def forward(self, x: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
        mixed = F.scaled_dot_product_attention(_heads(self.q(x)), key, value, is_causal=causal)
        return self.out(rearrange(mixed, "b h s e -> b s (h e)"))


def _heads(x: Tensor) -> Tensor:
    return rearrange(x, "b s (h e) -> b h s e", h=_HEADS)


class _Block(nn.Module):
    """A pre-norm transformer block; cross: with attention to the encoder's output."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.attention, self.attention_norm = _Attention(), nn.LayerNorm(_WIDTH)
        if cross:
            self.cross, self.cross_norm = _Attention(), nn.LayerNorm(_WIDTH)
        self.mlp_norm = nn.LayerNorm(_WIDTH)
        self.mlp_in, self.mlp_out = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor, past: dict[str, Tensor] | None = None, heard: tuple | None = None) -> Tensor:
        """x (B, S, 512); past: keys and values of earlier positions, extended in place; heard: those of the encoder."""
        normed = self.attention_norm(x)
        key, value = self.attention.keys(normed)
        if past is not None:
            key, value = (torch.cat([past[n], new], 2) if n in past else new for n, new in (("k", key), ("v", value)))
            past["k"], past["v"] = key, value
        x = x + self.attention(normed, key, value, causal=past is not None and x.shape[1] > 1)
        if heard is not None:
            x = x + self.cross(self.cross_norm(x), *heard)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class Whisper(nn.Module):
    """Whisper base, inference only: mel (B, 80, T) -> token ids, greedily."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, _WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(_WIDTH, _WIDTH, 3, stride=2, padding=1)
        self.register_buffer("positional", torch.zeros(1500, _WIDTH))
        self.layers = nn.ModuleList(_Block(cross=False) for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(_WIDTH)
        self.embedding = nn.Embedding(51865, _WIDTH)
        self.head = nn.Linear(_WIDTH, 51865, bias=False)  # tied to the embedding
        self.register_buffer("places", torch.zeros(448, _WIDTH))
        self.decoder = nn.ModuleList(_Block(cross=True) for _ in range(_LAYERS))
        self.decoder_norm = nn.LayerNorm(_WIDTH)

    @classmethod
    def pretrained(cls) -> Whisper:
        """The embedded weights, float32."""
        state = whisper_encoder_state() | _norm("decoder/layer_norm", "decoder_norm")
        state["embedding.weight"] = state["head.weight"] = _float("decoder/embeddings/weight")
        state["places"] = _float("decoder/position_encodings/encodings")
        for i in range(_LAYERS):
            state |= _layer(f"decoder/layer_{i}", f"decoder.{i}", cross=True)
        with torch.device("meta"):
            model = cls()
        model.load_state_dict(state, assign=True)
        model.head.weight = model.embedding.weight
        return model.eval().requires_grad_(False)

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, 80, T) at 100 Hz, T <= 3000 -> (B, T / 2, 512)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def scores(self, tokens: Tensor, place: int, past: list[dict[str, Tensor]], cross: list[tuple]) -> Tensor:
        """Logits of the token after tokens (B, n), the first of which is at `place`: (B, 51865).

        past: keys and values of each layer's earlier positions, extended in place. cross: those of the encoder.
        """
        x = self.embedding(tokens) + self.places[place : place + tokens.shape[1]]
        for layer, memory, keys in zip(self.decoder, past, cross, strict=True):
            x = layer(x, memory, keys)
        return self.head(self.decoder_norm(x[:, -1]))

    @torch.inference_mode()
    def transcribe(self, mel: Tensor, limit: int) -> list[tuple[list[int], float]]:
        """(text token ids without the special ones, at most `limit`; mean probability of a token) of each row.

        The probability is the geometric mean over the tokens and the end, as Whisper's own `avg_logprob` has it.
        """
        heard = self.encode(mel)
        cross = [layer.cross.keys(heard) for layer in self.decoder]
        past: list[dict[str, Tensor]] = [{} for _ in self.decoder]
        tokens = torch.tensor([_PROMPT] * len(mel), device=mel.device)
        place, rows, done = 0, [], torch.zeros(len(mel), dtype=torch.bool, device=mel.device)
        surprise, count = (torch.zeros(len(mel), device=mel.device) for _ in range(2))
        for step in range(min(limit, 440)):
            scores = self.scores(tokens, place, past, cross)
            place += tokens.shape[1]
            if step == 0:
                scores[:, [_BLANK, *range(_END, scores.shape[1])]] = -torch.inf
            best = scores[:, : _END + 1].argmax(-1)
            # The closing time stamp ends the text: without stamps Whisper repeats an utterance that is not padded.
            closing = scores[:, _STAMPS:].logsumexp(-1) > scores[:, :_END].amax(-1)
            surprise -= torch.where(done, 0, scores.log_softmax(-1).amax(-1))
            count += ~done
            done |= closing | (best == _END)
            if done.all():
                break
            rows.append(torch.where(done, _END, best))
            tokens = best[:, None]
        table = torch.stack(rows, 1).tolist() if rows else [[] for _ in range(len(mel))]
        texts = [[token for token in row if token != _END] for row in table]
        return list(zip(texts, (-surprise / count.clamp(min=1)).exp().tolist(), strict=True))


def whisper_teacher() -> Whisper:
    """Whisper base, whose encoder is the teacher of a distillation (`codec/task.py`)."""
    return Whisper.pretrained()


class WhisperJudge:
    """Transcription by Whisper base; the mel is cut to the utterance instead of padded to 30 seconds.

    Every wave is padded with silence to whole seconds and batched with waves of equal length only, so that a
    transcript does not depend on its neighbours.
    """

    def __init__(self, device: torch.device = CPU, batch: int = 16) -> None:
        from tokenizers import Tokenizer

        self.model = pack_linear_layers(Whisper.pretrained().to(device))
        self.tokenizer = Tokenizer.from_file(str(assets.get("whisper-tokenizer")))
        self.device, self.batch = device, batch

    def transcribe(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Mono float32 waves (n,) at 16 kHz -> their texts, as Whisper writes them. Those over 29 s in pieces."""
        return [text for text, _ in self.transcribe_scored(waves)]

    def transcribe_scored(self, waves: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """`transcribe` with the mean probability of a token, 0 to 1, the least of a wave's pieces."""
        pieces = [(i, wave[at : at + _LONGEST]) for i, wave in enumerate(waves)
                  for at in range(0, max(1, len(wave)), _LONGEST)]  # fmt: skip
        groups: dict[int, list[int]] = {}
        for index, (_, piece) in enumerate(pieces):
            groups.setdefault(-(-(len(piece) + _TAIL) // 16_000), []).append(index)
        found: list[tuple[str, float]] = [("", 0.0)] * len(pieces)
        for seconds, members in groups.items():
            for at in range(0, len(members), self.batch):
                chosen = members[at : at + self.batch]
                for index, one in zip(chosen, self._batch([pieces[i][1] for i in chosen], seconds), strict=True):
                    found[index] = one
        joined: list[list[tuple[str, float]]] = [[] for _ in waves]
        for (i, _), one in zip(pieces, found, strict=True):
            joined[i].append(one)
        return [(" ".join(text for text, _ in parts).strip(), min(sure for _, sure in parts)) for parts in joined]

    def _batch(self, waves: list[np.ndarray], seconds: int) -> list[tuple[str, float]]:
        padded = torch.zeros(len(waves), seconds * 16_000)
        for row, wave in zip(padded, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, np.float32))
        mel = whisper_mel(padded.to(self.device), causal=False)
        rows = self.model.transcribe(mel, limit=8 + 8 * seconds)
        return [(self.tokenizer.decode(row).strip(), sure) for row, sure in rows]
