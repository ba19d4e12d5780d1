"""The shape of a layer-split language model."""

from dataclasses import asdict, dataclass

from mossrepro.lm.tokenizer import SPARE_SPEECH_ROWS
from mossrepro.utils.errors import ConfigError


@dataclass
class LMConfig:
    """Shape of a layer-split LM.

    dim, ffn_dim: width of a position, and inside the feed-forward layers. codes: size of the codec's codebook. theta:
    base of the rotary positions. modality_pad: text id of positions that are embedded by their speech id (16 is
    SmolLM2's). system_turns: those that the model was trained with (`grid.SYSTEM_TURNS`). max_positions: the longest
    context of the backbone, where that is known; nothing here depends on it. ears: rank of gated ears (`ears.py`), 0
    for none; user_turn: text ids that open a user's turn, <|im_start|> and "user", for them. inner_layers: of an inner
    ear (`inner_ear.py`) before gated ears, 0 for none; inner_width, inner_names, inner_ahead: the rest of its shape;
    inner_passes: whether the trunk passes over codes at which it names nothing.
    mouth: layers of a mouth (`mouth.py`), 0 for none; speech_from: the text id, SOSP, from which on it sees a sequence
    (`reply_mask`).
    """

    dim: int = 576
    layers: int = 30
    tail_layers: int = 4
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    ffn_dim: int = 1536
    text_vocab: int = 49152
    codes: int = 1024
    theta: float = 100_000.0
    rope_scaling: dict[str, float] | None = None
    eps: float = 1e-5
    qk_norm: bool = False
    tied: bool = True
    modality_pad: int = 16
    split_at: int | None = None
    extra_layers: int = 0
    system_turns: str = "short"
    max_positions: int | None = None
    ears: int = 0
    user_turn: list[int] | None = None
    inner_layers: int = 0
    inner_width: int = 0
    inner_names: int = 0
    inner_ahead: int = 0
    inner_passes: bool = False
    mouth: int = 0
    speech_from: int | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "tail_layers", "heads", "kv_heads", "head_dim", "ffn_dim", "text_vocab", "codes"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not a whole number")
        if not 0 <= self.tail_layers < self.layers:
            raise ConfigError(
                f"tail_layers={self.tail_layers} must be at least 0 and below the backbone's {self.layers} layers"
            )
        if self.split_at is not None and not 0 <= self.split_at <= self.layers - self.tail_layers:
            most = self.layers - self.tail_layers
            raise ConfigError(f"split_at={self.split_at} must be from 0 to the trunk's {most} layers")
        if self.extra_layers and not (self.tail_layers == 0 and 0 < self.extra_layers < self.layers):
            raise ConfigError(f"extra_layers={self.extra_layers} layers want tail_layers=0 and a backbone before them")

    @property
    def split_layer(self) -> int:
        """Layers of the trunk before the split."""
        return self.layers - self.tail_layers if self.split_at is None else self.split_at

    def locate_layer(self, layer: int) -> tuple[str, int]:
        """Where the backbone's layer number `layer` is: ("trunk" or "text_tail", its number there)."""
        if layer < self.split_layer:
            return "trunk", layer
        behind = layer - self.split_layer
        return ("text_tail", behind) if behind < self.tail_layers else ("trunk", layer - self.tail_layers)

    @property
    def speech_vocab(self) -> int:
        """Rows of the speech embedding and head: codes, EOSP, unused rows (paper: 16,384 + 128 = 16,512)."""
        return self.codes + SPARE_SPEECH_ROWS

    def to_dict(self) -> dict:
        return asdict(self)
