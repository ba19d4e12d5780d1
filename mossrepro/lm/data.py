"""Batches of documents for the language model, a pure function of the step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from mossrepro.data.corpus import read_manifest
from mossrepro.data.facts import read_facts
from mossrepro.data.oracle import OracleStore
from mossrepro.data.script import read_script, read_word_times
from mossrepro.data.token_store import TokenStore
from mossrepro.lm.batches import LMBatch
from mossrepro.lm.documents import Documents
from mossrepro.lm.grid import Grid, Positions
from mossrepro.lm.losses import IGNORE
from mossrepro.lm.prose import read_prose
from mossrepro.lm.task import VALIDATED
from mossrepro.lm.tokenizer import open_tokenizer
from mossrepro.lm.twins import paired
from mossrepro.lm.validation import answer_words, validation
from mossrepro.training.step_data import StepDataModule, announce
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.random import Memo, rng

KINDS = ("text", "monologue", "speech")  # kinds of targets
_VAL_QUESTIONS = 32  # questions of a validation batch
# Documents of every kind drawn as a check before training; several, since a kind may have several sources.
_TRIAL_DRAWS = 4
# Batches are filled up to a multiple of so many positions. Where each has a shape of its own, the memory of a process
# on a CPU falls into pieces: after 350 steps of ears one took half as long again, of `malloc`.
_MULTIPLE = 16
_GROUP = 4  # steps whose documents are drawn together and sorted by length, so that padding stays small


class LMDataModule(StepDataModule):
    """Draws documents of several kinds at random, by weight, and batches them.

    Args:
        script: folder of a recorded script (`mossrepro data make` prints it), with script.jsonl and facts.json.
        tokens: token store of that script, or "oracle" for codes made from the text.
        tokenizer: tokenizer.json of the backbone.
        codes: size of the codebook.
        mix: kind of document -> weight (kinds: `documents.py`).
        batch: documents per batch, over all ranks; an optimiser step takes `accumulate_grad_batches` batches. A step of
            the data is one batch.
        max_conversation_len: exchanges are added to a conversation up to this many positions (0: a single exchange).
        monologue: predict the text of spoken replies beside them (the inner monologue, see `Documents`).
        text_lookahead: tokens by which the monologue is ahead of the voice.
        text_guidance: every spoken reply is written out first (an ablation).
        system_turns: "short"; "word" for answers of one word (`documents.py`); or "released" for those of the paper's
            checkpoint, which need a larger model.
        prose: file of questions with the backbone's own replies, one JSON list a line, for documents of kinds "prose"
            and "open".
        recordings: corpus of other people's sentences to be recognised too, in documents of kind "asr".
        recordings_tokens: its token store.
        drawn: folder of lines whose codes were drawn without sound (`mossrepro/experiments/drawn.py`): a script.jsonl,
            the times of its words and a token store in one. Users say them, beside those of the script.
        replies: file as `prose`, of the model's own answers to questions of any kind in the form of the system turns,
            for documents of kind "any".
        twins: give every document's twin too, in which users write what they say (`twins.py`).
        max_positions: positions at which a document is cut off.
        pack: documents of a batch are laid end to end instead of padded to the longest; none attends to another.
        seed: seed of the order of samples and of everything else random.
        num_workers: loader processes; the batches are the same for every number.
    """

    # Targets too: which positions have one decides the shapes of a step.
    on_host = (
        "seed",
        "lengths",
        "words",
        "written",
        "word_count",
        "twin_target",
        *(f"{kind}_{what}" for kind in KINDS for what in ("target", "count", "answer")),
    )

    def __init__(
        self,
        script: str,
        tokens: str,
        tokenizer: str,
        codes: int,
        mix: dict[str, float],
        batch: int = 12,
        max_conversation_len: int = 0,
        monologue: bool = False,
        text_lookahead: int = 0,
        text_guidance: bool = False,
        max_positions: int = 256,
        pack: bool = False,
        system_turns: str = "short",
        prose: str | None = None,
        recordings: str | None = None,
        recordings_tokens: str | None = None,
        drawn: str | None = None,
        replies: str | None = None,
        twins: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        if twins and pack:
            raise ConfigError("data.twins: packed batches have none; set data.pack to false")
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ConfigError(f"data.mix needs at least one positive weight, got {mix}")
        if recordings and not mix.get("asr"):
            raise ConfigError("data.recordings are heard in documents of kind asr alone; give data.mix.asr a weight")
        self.batch, self.max_positions, self.pack, self.twins = batch, max_positions, pack, twins
        grid = Grid(open_tokenizer(tokenizer), codes, system_turns)
        heard = read_recordings(recordings, recordings_tokens, codes) if recordings else []
        self.documents = open_documents(
            Path(script),
            tokens,
            grid,
            max_conversation_len,
            monologue,
            text_lookahead,
            text_guidance,
            prose,
            heard,
            drawn,
            replies,
        )
        if lost := self.documents.without_codes:
            announce(f"{tokens}: has no codes of {len(lost)} lines of {script}; they are left out")
        mix = self._possible(mix, script, tokens)
        self._try(mix, script)
        self.kinds, weights = list(mix), np.array(list(mix.values()), dtype=float)
        self.weights = weights / weights.sum()
        self.accumulate = 1
        self._group = Memo(self._draw_group, 2)
        self._counts = Memo(self._count_step, 2)

    def _possible(self, mix: dict[str, float], script: str, tokens: str) -> dict[str, float]:
        """The mixture without what the data need not have. DataError for what they lack, or if nothing is left."""
        if mix.get("interleaved") and not self.documents.aligned:
            if tokens != "oracle" or len(mix) == 1:
                raise DataError(f"{script}: no word times, nothing can be interleaved; set data.mix.interleaved to 0")
            mix = {kind: weight for kind, weight in mix.items() if kind != "interleaved"}  # oracle codes have none
        if mix.get("repeat") and not self.documents.repeatable:
            raise DataError(f"{script}: no sentence is spoken by a user and by the assistant; set data.mix.repeat to 0")
        if mix.get("any") and not self.documents.any:
            announce("data.replies: no line asks what is answered there; documents of kind 'any' are left out")
            mix = {kind: weight for kind, weight in mix.items() if kind != "any"}
        if not sum(mix.values()):
            raise DataError(f"{script}: has no documents of the kinds in data.mix")
        return mix

    def _try(self, mix: dict[str, float], script: str) -> None:
        """DataError if the script has no documents of a kind in the mixture."""
        for kind in (kind for kind, weight in mix.items() if weight for _ in range(_TRIAL_DRAWS)):
            try:
                self.documents.draw(kind, rng(self.seed, "try", kind))
            except DataError as error:
                raise DataError(f"{script}: no document of kind {kind!r}: {error}; set data.mix.{kind} to 0") from error

    def _draw_group(self, group: int) -> list[list[Positions]]:
        """The documents of `_GROUP` steps: batches of similar lengths, in random order."""
        random = rng(self.seed, "documents", group)
        kinds = random.choice(len(self.kinds), size=self.batch * _GROUP, p=self.weights)
        docs = sorted((self.documents.draw(self.kinds[k], random) for k in kinds), key=len)
        batches = [docs[i * self.batch : (i + 1) * self.batch] for i in range(_GROUP)]
        return [batches[i] for i in random.permutation(_GROUP)]

    def train_dataloader(self) -> DataLoader:
        """The endless loader. Reads from the trainer how many batches make an optimiser step."""
        self.accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        return super().train_dataloader()

    def train_batch(self, step: int, rank: int, world: int) -> LMBatch:
        """grid (B, L, 2); text_target, monologue_target, speech_target (B, L), -100 where a position has no target.

        A packed batch has B = 1, and "lengths" (documents,) in positions (`layers.Packing`).

        text_count, monologue_count, speech_count (): targets per batch and rank, averaged over all ranks and all
        batches of the optimiser step. A summed loss divided by it is this batch's part of the mean over the step.
        """
        counts = self._counts(step // self.accumulate) / (self.accumulate * world)
        docs, grid, most = self._documents(step)[rank::world], self.documents.grid, self.max_positions
        batch = pack(docs, grid, most) if self.pack else collate(docs, grid, most, _MULTIPLE)
        if self.twins:
            every = self._documents(step)
            batch |= collate_twins(every, range(rank, len(every), world), grid, most)
        return batch | {
            f"{kind}_count": torch.tensor(float(n)) for kind, n in zip((*KINDS, "word"), counts, strict=True)
        }

    def _documents(self, step: int) -> list[Positions]:
        return self._group(step // _GROUP)[step % _GROUP]

    def _count_step(self, optimiser_step: int) -> np.ndarray:
        """Targets, and words in twins, in all batches of an optimiser step on all ranks: for KINDS and words, (4,)."""
        first, counts = optimiser_step * self.accumulate, np.zeros(len(KINDS) + 1)
        for i in range(self.accumulate):
            docs = self._documents(first + i)
            batch = collate(docs, self.documents.grid, self.max_positions)
            words = (
                sum(len(paired(doc, self.max_positions, self.documents.grid.ids.pad).here) for doc in docs)
                if self.twins
                else 0
            )
            counts += [*(int((batch[f"{kind}_target"] >= 0).sum()) for kind in KINDS), words]
        return counts

    def val_batches(self) -> list[LMBatch]:
        """The test questions of set V, one batch for each of VALIDATED; none for a script without them."""
        if not self.documents.held:
            return []
        return [self._val_batch(pairing) for pairing in VALIDATED]

    def _val_batch(self, pairing: str) -> LMBatch:
        """Questions and answers of a pairing, with "text_answer", "speech_answer" or "monologue_answer"."""
        questions = validation(self.documents, pairing)[:_VAL_QUESTIONS]
        batch = collate(questions, self.documents.grid, self.max_positions)
        kind, words = answer_words(self.documents, pairing, questions)
        if not kind:
            return batch
        marks = torch.zeros(batch["grid"].shape[:2], dtype=torch.bool)
        for row, word in zip(marks, words, strict=True):
            row[: len(word)] = torch.from_numpy(word[: len(row)])
        return batch | {f"{kind}_answer": marks & (batch[f"{kind}_target"] >= 0)}


def collate(docs: list[Positions], grid: Grid, max_positions: int, multiple: int = 1) -> LMBatch:
    """Pad on the right, where causal attention never looks, and shift: the target of position i is position i + 1.

    To a multiple of `multiple` positions.
    """
    ids, longest = grid.ids, max(len(d) for d in docs)
    longest = min(longest + -longest % multiple, max_positions)
    out = np.tile(np.array([ids.end, ids.speech_pad]), (len(docs), longest, 1))
    text, monologue, speech = (np.full((len(docs), longest), IGNORE) for _ in range(3))
    for i, doc in enumerate(docs):
        n = min(len(doc), longest)
        out[i, :n, 0], out[i, :n, 1] = doc.text[:n], doc.speech[:n]
        spoken = doc.text[1:n] == ids.pad
        flags = doc.supervise[1:n]
        text[i, : n - 1] = np.where(flags & ~spoken, doc.text[1:n], IGNORE)
        monologue[i, :n] = np.where(doc.monologue[:n] >= 0, doc.monologue[:n], IGNORE)
        speech[i, : n - 1] = np.where(flags & spoken, doc.speech[1:n], IGNORE)
    return {
        "grid": torch.from_numpy(out),
        "text_target": torch.from_numpy(text),
        "monologue_target": torch.from_numpy(monologue),
        "speech_target": torch.from_numpy(speech),
    }


def collate_twins(docs: list[Positions], own: Sequence[int], grid: Grid, max_positions: int) -> LMBatch:
    """The twins of all documents of a batch, of which `own` are a rank's: see `LMBatch`."""
    found = [
        (i, *places)
        for i, doc in enumerate(docs)
        for places in np.stack(paired(doc, max_positions, grid.ids.pad), 1).tolist()
    ]
    row = {i: place for place, i in enumerate(own)}
    words = [(row[i], here, number) for number, (i, here, *_) in enumerate(found) if i in row]
    twins = collate([doc if doc.twin is None else doc.twin for doc in docs], grid, max_positions, _MULTIPLE)
    twins["text_target"][[i for i in range(len(docs)) if i not in row]] = IGNORE
    return {
        "twin": twins["grid"],
        "twin_target": twins["text_target"],
        "words": torch.tensor(words, dtype=torch.int64).view(-1, 3),
        "written": torch.tensor([(i, *there) for i, _, *there in found], dtype=torch.int64).view(-1, 4),
    }


def pack(docs: list[Positions], grid: Grid, max_positions: int) -> LMBatch:
    """The positions of `collate` without its padding, in one sequence: (1, L, ...), with the documents' "lengths"."""
    alone = [collate([doc], grid, max_positions) for doc in docs]
    batch = {name: torch.cat([one[name] for one in alone], 1) for name in alone[0]}
    return batch | {"lengths": torch.tensor([one["grid"].shape[1] for one in alone])}


def open_documents(
    script: Path,
    tokens: str,
    grid: Grid,
    max_conversation_len: int = 0,
    monologue: bool = False,
    text_lookahead: int = 0,
    text_guidance: bool = False,
    prose: str | None = None,
    heard: Sequence[tuple[str, np.ndarray]] = (),
    drawn: str | None = None,
    replies: str | None = None,
) -> Documents:
    """The documents of a script's folder and its token store. DataError names what is missing or does not fit."""
    for name in ("script.jsonl", "facts.json"):
        if not (script / name).is_file():
            raise DataError(f"{script}: no {name}; is this the folder that `mossrepro data make` printed?")
    lines = read_script(script)
    facts, times = read_facts(script), read_word_times(script) if tokens != "oracle" else None
    texts = {line.id: line.text for line in lines}
    store = OracleStore(texts, grid.codes) if tokens == "oracle" else open_store(tokens, grid.codes)
    codes = store
    if drawn:
        lines, more = lines + read_script(Path(drawn)), open_store(drawn, grid.codes)
        times = {**(times or {}), **(read_word_times(drawn) or {})}
        codes = {
            line.id: (more if line.id in more else store)[line.id]
            for line in lines
            if line.id in more or line.id in store
        }
    guided = (max_conversation_len, monologue, text_lookahead, text_guidance)
    own, answers = (read_prose(path) if path else [] for path in (prose, replies))
    return Documents(grid, lines, codes, facts, times, *guided, own, heard, answers)


def open_store(folder: str, codes: int) -> TokenStore:
    """A token store. DataError if its codes are of another codebook than one of `codes`."""
    store = TokenStore(folder)
    if store.vocabulary != codes:
        raise DataError(f"{folder}: its codes are of a codebook of {store.vocabulary}, data.codes says {codes}")
    return store


def read_recordings(corpus: str, tokens: str | None, codes: int) -> list[tuple[str, np.ndarray]]:
    """Text and codes (n,) of the training clips of a tokenised corpus.

    Raises:
        ConfigError: no token store is given.
        DataError: it is of another codebook or holds none of the clips.
    """
    if not tokens:
        raise ConfigError(f"data.recordings={corpus} needs data.recordings_tokens, the folder `mossrepro predict` made")
    store = open_store(tokens, codes)
    clips = [clip for clip in read_manifest(Path(corpus)) if clip.split == "train" and clip.id in store]
    if not clips:
        raise DataError(f"{tokens}: holds no codes of {corpus}'s training clips")
    return [(clip.text, store[clip.id]) for clip in clips]
