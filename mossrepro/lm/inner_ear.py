"""An inner ear: layers before the trunk that name what is heard.

    codes of a user's turn -> layers -> which token ends here, or none -> mean of the tokens' embeddings -> trunk

The mirror of the mouth (`mouth.py`). A text model knows words by the embeddings of their tokens; gated ears alone have
to teach it every word by the sound of its codes as well, through 26 layers, a dozen times each. Here a small network
learns the words first, by itself, from thousands of sentences a minute, and what it takes a stretch of codes to be
goes into the trunk as a mean of embeddings that the trunk has always read, in which all words that the layers are in
doubt between have their share. No token is written or fed back.

It sees the codes of one turn and no more, and of those to come as many as its layers look ahead: a second, so that it
knows where a word has ended before it names it. A word of several tokens is named at the codes before its end, its last
token where it ends.

A written question is a third as long as a heard one, and its words are neighbours. With `LMConfig.inner_passes` the
trunk passes over codes at which nothing is named (`words_read`): it does not look there, and its positions do not count
them. What it then reads of a heard question is what it would read of the written one, as far as the names are right; a
frozen trunk answers without having been trained to hear at all. The price is what the codes hold beside words, and most
of the doubt: a mean of several words is none to a text model, so that the shares are sharpened until most places hold
one name.

Not in the paper, which feeds the codes' embeddings to the trunk.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.lm.tokenizer import open_tokenizer
from mossrepro.lm.twins import WORD, end_code
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.layers import RMSNorm, TransformerBlock, rotary_table
from mossrepro.utils.packs import find_folder
from mossrepro.utils.pretrained import load_own
from mossrepro.utils.safetensors_io import save_whole

NOTHING = 0  # label of a code at which no token ends; that of names[i] is i + 1
_HEAD = 64  # width of an attention head
_THETA = 10_000.0  # base of the rotary positions: a turn is short
_EPS = 1e-5
_ALIKE, _HEARD, _READ = 0.5, 0.03, 0.35  # see `words_read`: least cosine of two codes' shares, and sums of shares


@dataclass(frozen=True)
class InnerEarConfig:
    """codes: size of the codebook. names: tokens that it can name. width, layers: of the network.

    ahead: codes after its own that each layer sees.
    """

    codes: int
    names: int
    width: int = 256
    layers: int = 4
    ahead: int = 3

    def __post_init__(self) -> None:
        if self.width % _HEAD or not (self.width and self.layers and self.names and self.codes):
            raise ConfigError(f"{self}: sizes are above 0, width a multiple of {_HEAD}")


class InnerEar(nn.Module):
    """The network. `names` (names,) are the ids of the tokens that it can name, in rising order."""

    def __init__(self, config: InnerEarConfig) -> None:
        super().__init__()
        self.config, c = config, config
        self.codes = nn.Embedding(c.codes + 1, c.width)  # the last row: where nothing is heard
        heads = c.width // _HEAD
        blocks = [TransformerBlock(c.width, heads, heads, _HEAD, 3 * c.width, False, _EPS) for _ in range(c.layers)]
        self.layers = nn.ModuleList(blocks)
        self.norm, self.head = RMSNorm(c.width), nn.Linear(c.width, c.names + 1)
        self.register_buffer("names", torch.zeros(c.names, dtype=torch.int64))
        for weight in (*self.layers.parameters(), self.head.weight):
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, codes: Tensor, heard: Tensor) -> Tensor:
        """Logits of NOTHING and of every name: codes (B, L) int64, heard (B, L) bool -> (B, L, names + 1)."""
        return self.head(self.states(codes, heard))

    def shares(self, codes: Tensor, heard: Tensor) -> Tensor:
        """How much of a code is the end of each name: codes (B, L) int64, heard (B, L) bool -> (B, L, names) float32.

        What has been named at the code before is not named again: where a word ends is a matter of one code or two, and
        the layers put half of it on both.
        """
        shares = self(codes, heard).float().softmax(-1)[..., 1:] * heard[..., None]
        return shares * (1 - F.pad(shares, (0, 0, 1, 0))[:, :-1])

    def states(self, codes: Tensor, heard: Tensor) -> Tensor:
        """What the head reads: codes (B, L) int64, heard (B, L) bool -> (B, L, width).

        Codes outside `heard` are not looked at, nor are those of another turn.
        """
        x = self.codes(torch.where(heard, codes, self.config.codes))
        places = torch.arange(codes.shape[1], device=codes.device)
        table = rotary_table(places[None].expand(codes.shape), _HEAD, _THETA)
        mask = turn_mask(heard, self.config.ahead)
        for layer in self.layers:
            x = layer(x, table, mask, None)
        return self.norm(x)

    def save_pretrained(self, folder: str | Path, tokenizer: Tokenizer) -> None:
        """Write model.safetensors, config.json and tokenizer.json into `folder`."""
        save_whole(folder, self.state_dict(), asdict(self.config), tokenizer.to_str(pretty=True))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple["InnerEar", Tokenizer]:
        """Load what `save_pretrained` wrote, in evaluation mode. CheckpointError if it does not fit."""
        make = lambda **settings: cls(InnerEarConfig(**settings))  # noqa: E731
        model, tokenizer = load_own(InnerEarConfig, make, folder, {}, {}), open_tokenizer(find_folder(folder))
        check_names(model.names, tokenizer.get_vocab_size(), folder)
        return model, tokenizer


def check_names(names: Tensor, vocabulary: int, where: str | Path) -> None:
    """CheckpointError if there is no token for a name of an inner ear."""
    if names.min() < 0 or names.max() >= vocabulary:
        raise CheckpointError(f"{where}: an inner ear names tokens outside 0 to {vocabulary - 1}; fetch it again")


def turn_mask(heard: Tensor, ahead: int) -> Tensor:
    """Which positions a layer sees: heard (B, L) bool -> (B, 1, L, L); where nothing is heard, itself alone."""
    turn = (~heard).cumsum(1)  # equal within an unbroken stretch of what is heard
    places = torch.arange(heard.shape[1], device=heard.device)
    same = (turn[:, :, None] == turn[:, None]) & heard[:, None] & (places <= places[:, None] + ahead)
    return (same | (places == places[:, None]))[:, None]


def words_read(shares: Tensor) -> tuple[Tensor, Tensor]:
    """What a trunk reads that passes over codes at which nothing is named (`LMConfig.inner_passes`).

    Where a word ends is a matter of a code or two, and its name may have a half of either: what is named at several
    codes in a row is read once, at the last of them, with the shares of all. It is read where these are more than a
    third of a name, and as a whole one, in which names count by the fourth powers of their shares: a mean of many words
    is no word to a text model, and it repeats the word that it is asked about (docs/LOG.md).

    The least shares are of an ear that was trained on a third of the codes at which nothing is named
    (`inner_ear_data.py`), so that it names three times as readily as it is sure.

    shares (B, L, names): see `InnerEar.shares`. -> shares that sum to 1 where anything is named (B, L, names), and
    where it is read, (B, L) bool.
    """
    total, places = shares.sum(-1), torch.arange(shares.shape[1], device=shares.device)
    alike = F.cosine_similarity(shares[:, 1:], shares[:, :-1], dim=-1) > _ALIKE
    goes_on = F.pad(alike & (torch.minimum(total[:, 1:], total[:, :-1]) > _HEARD), (1, 0))  # what was named before
    first = torch.where(goes_on, 0, places).cummax(1).values  # (B, L): where that began
    summed = shares.cumsum(1)
    rows = torch.arange(len(shares), device=shares.device)[:, None]
    named = summed - (summed - shares)[rows, first]
    read = (named.sum(-1) > _READ) & ~F.pad(goes_on[:, 1:], (0, 1))
    sharp = (named / named.amax(-1, keepdim=True).clamp(min=1e-12)).pow(4)
    return sharp / sharp.sum(-1, keepdim=True).clamp(min=1e-12), read


def labels(tokenizer: Tokenizer, text: str, words: Sequence[tuple[str, float, float]], count: int) -> np.ndarray | None:
    """Which token ends at each of `count` codes: token id + 1, or NOTHING, (count,) int64.

    The last token of a word stands at the code after the one in which the word ends, those before it just before; what
    would meet is moved on. None where the text's words are not those whose times are given, or there are too few
    codes for its tokens.

    Args:
        tokenizer: of the text model.
        text: what is said.
        words: the words of it, with their starts and ends in seconds.
        count: number of codes.
    """
    tokens, spans = tokenizer.encode(text, add_special_tokens=False), [match.span() for match in WORD.finditer(text)]
    if not 0 < len(spans) == len(words) or len(tokens.ids) > count:
        return None
    starts = np.array([first for first, _ in spans])
    # Of the first word are all tokens before the second begins, and so on: a full stop is said with its word.
    owner = np.array([max(0, int(np.searchsorted(starts, last, "left")) - 1) for _, last in tokens.offsets])
    behind = np.array([int((owner[i + 1 :] == one).sum()) for i, one in enumerate(owner)])
    ends = np.array([end_code(end) for _, _, end in words])  # where word states are compared too (`twins.py`)
    at, free = np.zeros(len(owner), np.int64), 0
    for i, wanted in enumerate(ends[owner] - behind):
        at[i] = max(free, wanted)
        free = at[i] + 1
    latest = np.arange(count - len(at), count)  # so that those behind find a place
    out = np.zeros(count, np.int64)
    out[np.minimum(at, latest)] = np.array(tokens.ids) + 1
    return out
