"""Training of an inner ear (`inner_ear.py`): which token ends at a code, from the codes alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torchmetrics import MeanMetric

from mossrepro.data.script import read_script
from mossrepro.data.token_store import code_table
from mossrepro.lm.inner_ear import NOTHING, InnerEar, InnerEarConfig
from mossrepro.lm.inner_ear_data import InnerEarBatch
from mossrepro.lm.losses import IGNORE
from mossrepro.lm.tokenizer import open_tokenizer
from mossrepro.speech.normalise import PHONES, normalise, word_error_rate
from mossrepro.speech.sphinx import pronunciations
from mossrepro.training.muon import MuonAdamW
from mossrepro.training.task import Task
from mossrepro.utils.devices import select, send
from mossrepro.utils.errors import DataError

PHONES_READ = 9  # of a word, from its end
_PHONE_WIDTH = 48


class Pronounced(nn.Module):
    """Adds to every row of a head what a small network makes of the last phones of the word that the row stands for.

    table: (names, PHONES_READ) int64, 1 and up: phones of PHONES, 0 before the first; all 0 for what is no word.
    width: of a row.
    """

    def __init__(self, table: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.phones = nn.Embedding(1 + len(PHONES), _PHONE_WIDTH)
        hidden = nn.Linear(table.shape[1] * _PHONE_WIDTH, 2 * width)
        self.read = nn.Sequential(nn.Flatten(), hidden, nn.GELU(), nn.Linear(2 * width, width, bias=False))

    def forward(self, rows: Tensor) -> Tensor:
        """rows (names + 1, width), the first of NOTHING -> the same shape."""
        made = self.read(self.phones(self.table)) * (self.table > 0).any(1, keepdim=True)
        return rows + F.pad(made, (0, 0, 1, 0)).to(rows.dtype)


def pronounced(tokens: Sequence[str], said: set[str]) -> Tensor:
    """The last phones of tokens that are words among `said`: (tokens, PHONES_READ) int64, see `Pronounced`."""
    words = [token.strip().lower() for token in tokens]
    ways = pronunciations(sorted(said.intersection(words)))
    table = torch.zeros(len(words), PHONES_READ, dtype=torch.int64)
    for row, word in zip(table, words, strict=True):
        if word in ways:
            last = [1 + PHONES.index(phone) for phone in ways[word][0]][-PHONES_READ:]
            row[PHONES_READ - len(last) :] = torch.tensor(last)
    return table


@torch.no_grad()
def start_codes(model: InnerEar, phones: Tensor, seed: int) -> None:
    """Embeddings of codes that sound alike start alike: phones (codes, 40) probabilities, through a random matrix."""
    apart = phones.float() - phones.float().mean(0)
    drawn = apart @ torch.randn(apart.shape[1], model.config.width, generator=torch.Generator().manual_seed(seed))
    model.codes.weight[: len(drawn)] = drawn / drawn.std()


class InnerEarTask(Task):
    """Cross-entropy of the token that ends at a code, or of NOTHING, nats a code over all ranks' codes.

    Validation writes down what is named and counts wrong words (val/words_wrong); the language model never does that.

    Args:
        codes: size of the codebook.
        tokenizer: tokenizer.json of the text model.
        drawn: folder of drawn lines (`mossrepro/experiments/drawn.py`): the tokens of its texts are those that can be
            named, and by its phones the embeddings of codes that sound alike start alike.
        spelt: a token that is a word of the dictionary has, beside a row of the head of its own, one made of its
            pronunciation (`Pronounced`): what is learnt of one word then helps with others.
        width: of the network, a multiple of 64.
        layers: of the network.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine to 2 % follows.
        weight_decay: of both optimisers (`training/muon.py`).
        seed: of the initial embeddings.
    """

    def __init__(
        self,
        codes: int,
        tokenizer: str,
        drawn: str,
        spelt: bool = True,
        width: int = 256,
        layers: int = 4,
        lr: float = 2e-3,
        warmup_steps: int = 60,
        weight_decay: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = open_tokenizer(tokenizer)
        texts = [line.text for line in read_script(Path(drawn))]
        names = sorted({i for e in self.tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids})
        if not names:
            raise DataError(f"{drawn}: says nothing")
        self.model = InnerEar(InnerEarConfig(codes, len(names), width, layers))
        self.model.names.copy_(torch.tensor(names))
        # Of token id + 1: the place of its name among the names, + 1.
        self.places = torch.full((1 + self.tokenizer.get_vocab_size(),), IGNORE)
        self.places[NOTHING] = NOTHING
        self.places[torch.tensor(names) + 1] = torch.arange(len(names)) + 1
        start_codes(self.model, code_table(drawn, "code_phone_probs", codes), seed)
        if spelt:
            said = {word for text in texts for word in normalise(text).split()}
            table = pronounced([self.tokenizer.decode([name]) for name in names], said)
            parametrize.register_parametrization(self.model.head, "weight", Pronounced(table, width))
        self.lr, self.warmup_steps, self.weight_decay = lr, warmup_steps, weight_decay
        self.wrong = MeanMetric()

    def training_step(self, batch: InnerEarBatch, index: int) -> Tensor:
        asked = batch["named"] != IGNORE  # in main memory: nothing waits for the device
        states = select(self.model.states(batch["codes"], batch["heard"]), asked)
        places = send(self.places[batch["named"][asked]], states.device)
        loss = F.cross_entropy(self.model.head(states).float(), places, ignore_index=IGNORE, reduction="sum")
        loss = loss / send(batch["count"], states.device)
        self.log("train/name", loss.detach(), prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return loss

    def validation_step(self, batch: InnerEarBatch, index: int) -> None:
        """Count the wrong words of what is named."""
        words = sum(len(normalise(text).split()) for text in batch["text"])
        self.wrong.update(word_error_rate(batch["text"], self.write(batch["codes"], batch["heard"])), weight=words)

    @torch.no_grad()
    def write(self, codes: Tensor, heard: Tensor) -> list[str]:
        """The likeliest names, one after another and none twice in a row: codes, heard (B, T) -> B texts."""
        best = self.model(codes, heard).argmax(-1).masked_fill(~heard, NOTHING)
        best = [torch.unique_consecutive(row) for row in best]
        rows = [self.model.names[row[row > NOTHING] - 1].tolist() for row in best]
        return self.tokenizer.decode_batch(rows)

    def on_validation_epoch_end(self) -> None:
        if self.wrong.update_called:
            self.log("val/words_wrong", self.wrong.compute(), prog_bar=True)
        self.wrong.reset()

    def configure_optimizers(self) -> dict:
        """Muon for the matrices of the layers, AdamW for embeddings, norms and the head."""
        inside = [p for p in self.model.layers.parameters() if p.dim() == 2]
        others = {*self.model.parameters()}.difference(inside)
        rest = [p for p in self.model.parameters() if p in others]  # in their order
        return self.scheduled(MuonAdamW(inside, rest, self.lr, self.weight_decay, (0.9, 0.98)), self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """model.safetensors, config.json and tokenizer.json; rows made of pronunciations become plain rows."""
        plain, state = InnerEar(self.model.config), self.model.state_dict()
        state = {name: value for name, value in state.items() if ".parametrizations." not in name}
        plain.load_state_dict(state | {"head.weight": self.model.head.weight.detach()})
        plain.save_pretrained(folder, self.tokenizer)
