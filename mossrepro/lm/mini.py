"""Training of text backbones: the counterfactual one of the controls, and the mini one of the `tiny` size.

The mini one is a small Llama pretrained on the project's own text: nothing but the facts and the sentences of the
script. It is there to try the pipeline quickly, not to measure how much knowledge speech can draw on.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from mossrepro.lm.init import start_speech_half
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import SpecialIds, open_tokenizer


def new_model(
    tokenizer: Tokenizer, codes: int, tail_layers: int, layers: int, dim: int, ffn_dim: int, heads: int
) -> LayerSplitLM:
    """A split model with random weights (normal, std 0.02; PyTorch's default for norms)."""
    config = LMConfig(
        dim=dim,
        layers=layers,
        tail_layers=tail_layers,
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        ffn_dim=ffn_dim,
        text_vocab=tokenizer.get_vocab_size(),
        codes=codes,
        theta=10_000.0,
        modality_pad=SpecialIds.of(tokenizer, codes).pad,
    )
    model = LayerSplitLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


class BackboneTask(LayerSplitTask):
    """Trains the text half; at the end the speech half is initialised from it, as with any other backbone."""

    def save_pretrained(self, folder: Path) -> None:
        """As `LayerSplitTask`, with a speech half that is ready for Stage 1."""
        start_speech_half(self.model, self.seed)
        super().save_pretrained(folder)


class MiniBackboneTask(BackboneTask):
    """Pretrains the text half of a small model.

    Args:
        tokenizer: tokenizer.json (see `tokenizer.mini_tokenizer`).
        codes: codebook size of the speech half that is to come.
        tail_layers: depth of the split that is to come.
        layers: layers of the backbone.
        dim: width of a position.
        ffn_dim: width inside the feed-forward layers.
        heads: attention heads.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        weight_decay: of AdamW.
        seed: seed of all random initial values.
    """

    def __init__(
        self,
        tokenizer: str,
        codes: int,
        tail_layers: int = 2,
        layers: int = 6,
        dim: int = 128,
        ffn_dim: int = 384,
        heads: int = 4,
        lr: float = 1e-3,
        warmup_steps: int = 20,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.shape = {"layers": layers, "dim": dim, "ffn_dim": ffn_dim, "heads": heads}
        self.tokenizer_file = tokenizer
        super().__init__(
            init_from="mini",
            codes=codes,
            tail_layers=tail_layers,
            lr=lr,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            seed=seed,
        )

    def open_model(
        self, init_from: str, codes: int, tail_layers: int | None, tail: str, seed: int, *_: int | None
    ) -> tuple[LayerSplitLM, Tokenizer]:
        """A model of the shape asked for, with random weights."""
        tokenizer = open_tokenizer(self.tokenizer_file)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return new_model(tokenizer, codes, tail_layers, **self.shape), tokenizer
