"""Training of the layer-split LM: Stage 1, Stage 2 and SFT are this one task with other settings (paper, training)."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mossrepro.data.token_store import code_table
from mossrepro.lm import checkpoint
from mossrepro.lm.batches import HasDocuments, LMBatch, separate
from mossrepro.lm.inference import frozen_trunk
from mossrepro.lm.init import spell_codes, start_head_from_words, start_parts
from mossrepro.lm.init_from import open_start
from mossrepro.lm.lora import adapt
from mossrepro.lm.losses import chunked_cross_entropy, chunked_divergence
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.parallel import is_cut_across, shard
from mossrepro.lm.word_states import read_twin, states, word_state_loss
from mossrepro.training.resume import name_states
from mossrepro.training.task import Task
from mossrepro.utils.devices import select, send
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.layers import Packing
from mossrepro.utils.private_apis import attached_trainer

_UNFROZEN = 0.8  # share of the steps after which a gradual stage trains everything
MONOLOGUES = {"text": "text", "trunk": "trunk", "speech": "spoken_text"}  # `monologue_at` -> a field of `Hidden`
VALIDATED = ("S2T", "T2S", "S2S")  # pairings of the validation batches, in their order


class LayerSplitTask(Task):
    """Next-token prediction on both channels.

    loss = text_weight * (sum over text targets) / N_text + speech_weight * (the same for speech)
         + monologue_weight * (the same for the inner monologue, the text predicted beside a spoken reply)
         + word_states * (sum over heard words and replies to them of the loss of `word_states.py`) / N_words,
    N counted over all ranks and accumulated batches of an optimiser step (`LMDataModule`), so that the gradient does
    not depend on how the step is divided. Positions with a target are gathered before the heads: no (B, L, vocabulary)
    tensor exists.

    Args:
        init_from: "smollm2" (bundled weights), a hub folder of the Llama or Qwen3 family, a checkpoint in the released
            layout, or the folder of an earlier stage or of a mini backbone.
        codes: size of the codec's codebook; must equal that of `init_from` if that is a finished stage.
        tail_layers: depth of the split, in layers; 0 for no split, None for that of `init_from` (4 for a text LLM).
        train: what is trained: "speech" (Stage 1; the text half stays bit-identical), "all" (Stage 2, SFT), "ears"
            (gated ears alone), "trunk" (neither tail, no embedding and no head), "shared" (speech and trunk) or
            "gradual" (speech and the text half layer by layer from the last one down, all of it after four fifths of
            the steps); or a regular expression that names of parameters match, as "trunk.[3-9].mlp".
        lr: peak learning rate of the text half.
        speech_lr: peak learning rate of the speech tail and norm, of gated ears and of LoRA.
        head_lr: peak learning rate of the speech head and of a mouth, which start untrained and so take a higher one.
        embed_lr: peak learning rate of the speech embeddings, which start untrained too.
        weight_decay: of AdamW, for all parameters.
        warmup_steps: optimiser steps of linear warm-up; a cosine decay to `final` follows.
        final: learning rate at the last step, as a fraction of the peak.
        text_weight: weight of the text loss.
        speech_weight: weight of the loss on codes.
        monologue_weight: weight of the loss on monologues.
        word_states: weight of the loss that draws states of heard words, and of replies to them, to those of written
            ones; 0 for none. Needs data.twins.
        distil: share of the text loss that is not the text's cross-entropy but the divergence from what the model
            predicts for the twin (data.twins): heard, it is to write what it would write, as sure as it is.
        monologue_at: hidden state from which the text head predicts monologues: "text", after the text tail; "trunk",
            the input of the speech tail; or "speech", after the speech tail, through the text norm: it starts as a copy
            of the text tail, so the next word can be read there at step 0, and this loss keeps it readable.
        tail: initial speech tail: "copy" of the text tail or "random".
        split_at: layers of the trunk before the split, fixed once trained; None: as in `init_from`, or the whole trunk.
        extra_layers: with tail_layers 0, new layers after the backbone, for both channels: a control with as many
            parameters as a split; None for those of `init_from`.
        ears: rank of gated ears on the trunk (`ears.py`); 0 for none, or for those of `init_from`.
        inner_ear: folder of a trained inner ear (`inner_ear.py`) for gated ears; it is trained no more.
        passes: whether the trunk passes over codes at which an inner ear names nothing; false: as in `init_from`.
        lora: rank of LoRA on the trunk, instead of unfreezing it; 0 for none. Merged into the weights at the end.
        mouth: layers of a mouth behind the speech tail (`mouth.py`); 0 for none, or for that of `init_from`.
        embed_steps: steps after which the speech embedding is frozen; 0: from the start; None: never. If the trunk is
            frozen too, it then needs no gradient and runs as it answers: a step takes a third of the time.
        checkpointed: activation checkpointing: less memory, about a third more time (`mossrepro plan` counts both).
        compiled: PyTorch compiles the layers at the first step (needs a C++ compiler on a CPU).
        head_from_words: the speech head's row of a code starts from those of the text head for the words in which the
            code occurs (needs the script's word times), not at random. A deviation from the paper.
        code_phone_probs: for Stage 1, a token store with the phone probabilities of its codes: code embeddings start as
            the spelling of their phones. None: they start at random, with the text embedding's statistics.
        seed: seed of all random initial values.
    """

    def __init__(
        self,
        init_from: str,
        codes: int,
        tail_layers: int | None = None,
        train: str = "all",
        lr: float = 1e-4,
        speech_lr: float = 3e-4,
        head_lr: float = 2e-3,
        embed_lr: float = 3e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 20,
        final: float = 0.1,
        text_weight: float = 1.0,
        speech_weight: float = 1.0,
        monologue_weight: float = 0.5,
        word_states: float = 0.0,
        distil: float = 0.0,
        monologue_at: str = "text",
        tail: str = "copy",
        split_at: int | None = None,
        extra_layers: int | None = None,
        ears: int = 0,
        inner_ear: str | None = None,
        passes: bool = False,
        lora: int = 0,
        head_from_words: bool = False,
        code_phone_probs: str | None = None,
        mouth: int = 0,
        embed_steps: int | None = None,
        checkpointed: bool = False,
        compiled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if tail not in ("copy", "random"):
            raise ConfigError(f"tail={tail!r}: choose copy or random")
        if monologue_at not in MONOLOGUES:
            raise ConfigError(f"monologue_at={monologue_at!r}: choose {', '.join(MONOLOGUES)}")
        self.monologue_at, self.head_from_words, self.seed = MONOLOGUES[monologue_at], head_from_words, seed
        self.rates = {"text": lr, "speech": speech_lr, "head": head_lr, "embed": embed_lr}
        self.weight_decay, self.warmup_steps, self.final = weight_decay, warmup_steps, final
        self.weights = {"text": text_weight, "speech": speech_weight, "monologue": monologue_weight}
        self.weights |= {"word": word_states} if word_states else {}
        self.model, self.tokenizer = self.open_model(init_from, codes, tail_layers, tail, seed, split_at, extra_layers)
        if head_from_words and self.model.config.mouth:
            raise ConfigError("head_from_words=true: the head of a model with a mouth has started already; say false")
        start_parts(self.model, self.tokenizer, mouth, ears, inner_ear, passes, seed)
        if lora:
            adapt(self.model.trunk, lora, seed)
        if code_phone_probs is not None:
            spell_codes(self.model, self.tokenizer, code_table(code_phone_probs, "code_phone_probs", codes))
        self.train_part, self.embed_steps = train, embed_steps
        self.model.train_only(train)
        if embed_steps == 0:
            self.model.speech_embed.requires_grad_(False)
        self.distil, self.model.checkpointed = distil, checkpointed
        if compiled:
            self.model.compile_blocks()

    def open_model(self, init_from: str, codes: int, *start: Any) -> tuple[LayerSplitLM, Tokenizer]:
        """The model to train and its tokenizer, as `init_from` says; the arguments of `open_start`."""
        return open_start(init_from, codes, *start)

    def setup(self, stage: str) -> None:
        """Note the system turns of the data in the model's config. ConfigError if tokenizer or codes differ."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, HasDocuments):
            return
        if ("word" in self.weights or self.distil) and not getattr(data, "twins", False):
            raise ConfigError("model.word_states and model.distil compare with twins; set data.twins to true")
        grid, config = data.documents.grid, self.model.config
        if grid.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise ConfigError(
                "data.tokenizer is not the tokenizer of model.init_from; give that folder's tokenizer.json"
            )
        if grid.codes != config.codes:
            raise ConfigError(f"data.codes={grid.codes}, but the model has {config.codes}")
        self.model.config = replace(config, system_turns=grid.system_turns)
        if self.head_from_words and stage == "fit":
            start_head_from_words(self.model, self.tokenizer, data.documents.said_words())

    def on_train_start(self) -> None:
        """ConfigError for what changes in the course of a fit: DDP must know at the start what has gradients."""
        if (self.train_part == "gradual" or self.embed_steps) and self.trainer.world_size > 1:
            raise ConfigError("train=gradual, and embed_steps above 0, run on one device")

    def on_train_batch_start(self, batch: LMBatch, index: int) -> None:
        """Unfreeze as many layers as gradual training has reached at this step, or freeze the embedding."""
        if self.train_part == "gradual":
            self.model.train_only("gradual", min(1.0, self.global_step / (_UNFROZEN * self.trainer.max_steps)))
        self._freeze_embedding()

    def on_validation_start(self) -> None:
        self._freeze_embedding()  # a resumed fit may validate before its first step

    def _freeze_embedding(self) -> None:
        if self.embed_steps is not None and self.global_step >= self.embed_steps:
            self.model.speech_embed.requires_grad_(False)
            if self.model.frozen_trunk is None and not (self._trunk_learns() or self.device_mesh):
                self.model.frozen_trunk = frozen_trunk(self.model)

    def on_train_end(self) -> None:
        self.model.frozen_trunk = None  # what is exported is the trunk itself

    def losses(self, batch: LMBatch) -> dict[str, Tensor]:
        """Sums of cross-entropy and numbers of targets of each kind: text, monologue, speech, n_text, ... (scalars).

        And of word states: word. Targets are best in main memory, where `LMDataModule` leaves them: then nothing waits
        for the device. In validation also of the word that answers the question: answer, n_answer
        (`validation.answer_words`).
        """
        model: LayerSplitLM = self.model
        kinds = {"text": ("text", model.text_head), "monologue": (self.monologue_at, model.text_head)}
        kinds["speech"] = ("speech", model.speech_head)
        wanted = {kind: batch[f"{kind}_target"] >= 0 for kind in kinds}
        if self._is_idle("text"):
            wanted["text"] = torch.zeros_like(wanted["text"])
        places = {kinds[kind][0] for kind, rows in wanted.items() if rows.any()}
        trainer = attached_trainer(self)
        if trainer is not None and trainer.world_size > 1:  # ranks must gather and reduce the same layers
            places |= {"text", "speech", kinds["monologue"][0]}
        packing = Packing(tuple(batch["lengths"].tolist())) if "lengths" in batch else None
        with states(model) if "twin" in batch else nullcontext([]) as heard:
            hidden = model(batch["grid"], mask=packing, tails=tuple(places))
        zero = torch.zeros((), device=self.device)
        written, taught = read_twin(model, batch, bool(self.distil)) if heard else ([], None)
        out = {"word": word_state_loss(heard, written, batch, model.read) if heard else zero}
        for kind, (place, head) in kinds.items():
            positions = wanted[kind]  # (B, L) bool
            out[f"n_{kind}"] = positions.sum()
            if place not in places:
                out[kind] = zero
                continue
            hidden_at = select(getattr(hidden, place), positions)  # (n, D)
            targets = send(batch[f"{kind}_target"][positions], hidden_at.device)  # (n,)
            out[kind] = chunked_cross_entropy(head, hidden_at, targets)
            if kind == "text" and taught is not None and len(taught) == len(targets):  # not so where one is cut off
                out[kind] = out[kind].lerp(chunked_divergence(head, hidden_at, taught), self.distil)
            if f"{kind}_answer" in batch:
                chosen = batch[f"{kind}_answer"][positions]  # (n,) bool
                hidden_at, targets = (select(x, send(chosen, x.device)) for x in (hidden_at, targets))
                out["answer"] = chunked_cross_entropy(head, hidden_at, targets)
                out["n_answer"] = chosen.sum()
        if "speech" not in places:
            out["speech"] = out["speech"] + self._idle("speech_tail", "speech_norm", "speech_head", "mouth")
        if "text" not in places:
            out["text"] = out["text"] + self._idle("text_tail", "text_norm", "text_head")
        ears = (p for name, p in model.named_parameters() if ".ear." in name or name.startswith("heard_"))
        out["text"] = out["text"] + sum(p.sum() * 0 for p in ears if p.requires_grad)  # a batch may hear nothing
        return out

    def _is_idle(self, kind: str) -> bool:
        """Whether a loss reaches nothing that is trained: that on text, once the speech embedding is frozen too."""
        still = self.train_part == "speech" and not self.model.speech_embed.weight.requires_grad
        return kind == "text" and self.training and still and not self._trunk_learns()

    def _trunk_learns(self) -> bool:  # by LoRA, or in extra layers
        return any(p.requires_grad for p in self.model.trunk.parameters())

    def _idle(self, *parts: str) -> Tensor:
        """0, with gradients of 0 for parts that the batch did not use, so that AdamW steps them as on several ranks."""
        named = self.model.named_parameters(remove_duplicate=False)  # a tied head under its own name too
        idle = (p for name, p in named if name.startswith(parts) and p.requires_grad)
        return sum((p.sum() * 0 for p in idle), torch.zeros((), device=self.device))

    def training_step(self, batch: LMBatch, index: int) -> Tensor:
        out = self.losses(batch)
        total = torch.zeros((), device=self.device)
        for name, weight in self.weights.items():
            mean = out[name] / batch[f"{name}_count"].clamp(min=1e-9)
            if batch[f"{name}_count"] > 0 and not self._is_idle(name):
                self.log(f"train/{name}", mean.detach(), prog_bar=True, sync_dist=self.trainer.world_size > 1)
            total = total + weight * mean
        return total

    @torch.no_grad()
    def culprits(self, batch: LMBatch) -> str:
        """The documents of a batch whose loss alone is not finite, by number and by how their text ends."""
        found, documents = [], separate(batch)
        for i, document in enumerate(documents):
            out = self.losses(document)
            if not all(torch.isfinite(out[kind]) for kind in self.weights):
                found.append(f"{i} ({self.tokenizer.decode(document['grid'][0, :, 0].tolist())[-60:]!r})")
        if len(found) == len(documents):
            return "every document: the weights are no longer finite, or an id is out of range"
        return f"document {', '.join(found)}" if found else f"no one of {len(documents)} documents alone"

    def validation_step(self, batch: LMBatch, index: int) -> None:
        """Losses of the answers to questions of V, nats per target, by pairing (the batches of `LMDataModule`).

        val/S2T is that of the whole reply, val/S2T_answer that of the word alone which answers the question: a model
        that has learnt the sentences and no fact lowers the first only.
        """
        out = self.losses(batch)
        pairing = VALIDATED[index]
        name = "text" if pairing[2] == "T" else "speech"
        loss = out[name] / out[f"n_{name}"].clamp(min=1)
        losses = {f"val/{pairing}": loss}
        if out.get("n_answer", 0):
            losses[f"val/{pairing}_answer"] = out["answer"] / out["n_answer"]
        self.log_dict(losses, batch_size=len(batch["grid"]), add_dataloader_idx=False)

    def configure_model(self) -> None:
        """Under `ModelParallelStrategy`: shard the model over its devices (`parallel.py`)."""
        if self.device_mesh:
            shard(self.model, self.device_mesh)
            self.strict_loading = not self._frozen()  # that strategy loads before `on_load_checkpoint` can fill in

    def _frozen(self) -> set[str]:
        """Names of the weights that no step of this stage changes; none with train="gradual"."""
        if self.train_part == "gradual":
            return set()
        named = self.model.named_parameters(remove_duplicate=False)
        late = {"speech_embed.weight"} if self.embed_steps else set()  # frozen only from some step on
        return {f"model.{name}" for name, parameter in named if not parameter.requires_grad and name not in late}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out of the resume file (`init_from` has them), and key AdamW's state by names.

        Optimisers number their parameters in the order of their groups. `ModelParallelStrategy` would take the numbers
        for the order of the model's parameters, which is another one.
        """
        for name in self._frozen():
            checkpoint["state_dict"].pop(name, None)
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        for state, optimiser in zip(checkpoint.get("optimizer_states", ()), self.trainer.optimizers, strict=False):
            order = [names.get(id(parameter)) for group in optimiser.param_groups for parameter in group["params"]]
            name_states(state, order)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in what `on_save_checkpoint` left out."""
        if state := checkpoint.get("state_dict"):
            own = self.state_dict()
            state.update({name: own[name] for name in self._frozen() if name not in state})

    def configure_optimizers(self) -> dict:
        """AdamW over all parameters: frozen ones have no gradient, so it skips them and they stay bit-identical."""
        speech = self.model.speech_parameters()
        groups: dict[str, list] = {kind: [] for kind in self.rates}
        own = dict.fromkeys(("speech_embed.weight", "heard_embed.weight", "heard_nothing"), "embed")
        own["speech_head.weight"] = "head"
        for name, parameter in self.model.named_parameters():
            new = name in speech or ".lora_" in name or ".ear." in name
            kind = "head" if name.startswith("mouth.") else "speech" if new else "text"
            groups[own.get(name, kind)].append(parameter)
        optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": self.rates[kind]} for kind, parameters in groups.items()],
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
            fused=not is_cut_across(self.model),  # PyTorch's fused step needs all on one mesh
        )
        return self.scheduled(optimiser, self.warmup_steps, self.final)

    def save_pretrained(self, folder: Path) -> None:
        """model.safetensors + config.json + tokenizer.json."""
        checkpoint.save_pretrained(self.model, self.tokenizer, Path(folder))
