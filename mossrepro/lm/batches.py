"""The batch that the language model is trained on, and what its task needs of a data module."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from mossrepro.lm.documents import Documents


class LMBatch(TypedDict):
    """Documents of `LMDataModule`, padded to the longest, or packed end to end (B = 1). B documents, L positions.

    All but the grid stays in main memory (`LMDataModule.on_host`).
    """

    grid: Tensor  # (B, L, 2) int64, text ids and speech ids
    text_target: Tensor  # (B, L) int64, the text id that follows; -100 where it is not supervised
    monologue_target: Tensor  # (B, L) int64, the token of the inner monologue; -100 where there is none
    speech_target: Tensor  # (B, L) int64, the code that follows; -100 where it is not supervised
    text_count: NotRequired[Tensor]  # (), supervised positions of the optimiser step, as a mean over ranks and batches
    monologue_count: NotRequired[Tensor]
    speech_count: NotRequired[Tensor]
    text_answer: NotRequired[Tensor]  # (B, L) bool, in validation, one of the three: targets of the word that answers
    speech_answer: NotRequired[Tensor]
    monologue_answer: NotRequired[Tensor]
    twin: NotRequired[Tensor]  # (A, M, 2) int64, what users say in writing: all documents of the step, of all ranks
    twin_target: NotRequired[Tensor]  # (A, M) int64, their text_target; -100 throughout for those of other ranks
    written: NotRequired[Tensor]  # (V, 4) int64: twin, place in it, token, whether of a reply (`twins.Pairs`)
    words: NotRequired[Tensor]  # (W, 3) int64: document, place in it, and row of `written`, of what is heard
    word_count: NotRequired[Tensor]
    lengths: NotRequired[Tensor]  # (documents,) int64, positions of each packed document
    seed: NotRequired[Tensor]  # () int64


@runtime_checkable
class HasDocuments(Protocol):
    """A data module whose documents are checked against the model: tokenizer, codebook, system turns."""

    documents: Documents


def separate(batch: LMBatch) -> list[LMBatch]:
    """The documents of a batch of `LMDataModule`, padded or packed, as batches of one."""
    fields = {name: value for name, value in batch.items() if name == "grid" or name.endswith("_target")}
    if "lengths" not in batch:
        return [{name: value[i : i + 1] for name, value in fields.items()} for i in range(len(batch["grid"]))]
    parts = {name: value.split(batch["lengths"].tolist(), 1) for name, value in fields.items()}
    return [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]
