"""The two-channel grid that the model reads, and the turns of a conversation in it.

One sequence, two channels (layout of the released MOSS-Speech checkpoint). Position i of a grid (L, 2) holds a text id
and a speech id. Where the text id is the modality pad, the speech id is embedded, else the text id; nothing is summed.
A spoken turn of n codes takes n + 2 positions:

    text channel    SOSP   pad    pad   ...  pad     pad
    speech channel  spad   c_1    c_2   ...  c_n     EOSP

so that SOSP (start of speech) is a text token and EOSP (end of speech) a speech token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import Memo

# System turns (spoken answer, written answer). The released checkpoint's wording makes SmolLM2-135M ramble (it answers
# "What is the capital of France?" in French), so the small sizes ask for one short sentence explicitly.
SYSTEM_TURNS = {
    "released": (
        "You are a helpful voice assistant. Answer the user's questions with spoken responses.",
        "You are a helpful assistant. Answer the user's questions with text.",
    ),
    "short": ("Say one short sentence.", "Answer in one short sentence."),
    "word": ("Say one word.", "Answer with one word."),
}
PROSE = "short"  # those under which a model's own prose is asked for and replayed


LATE = 1  # codes (80 ms) by which a causal codec's output lags behind the sound, see `CodecDataModule`
_FIELDS = ("text", "speech", "supervise", "monologue", "word_end")  # of `Positions`, those along its length


@dataclass(frozen=True)
class Positions:
    """Consecutive positions of a grid.

    text, speech (L,) int64: the ids of the two channels.
    supervise (L,) bool: whether this position, as a target, counts in the loss.
    monologue (L,) int64: text id that the text head is trained to predict at this position though it is never written
        into the grid; -1 for none.
    word_end (L,) int64: number of the word, heard or written, that ends at this position; -1 for none.
    twin: the same document with its users' speech in writing; words in both have the same numbers. None for most.
    """

    text: np.ndarray
    speech: np.ndarray
    supervise: np.ndarray
    monologue: np.ndarray | None = None
    word_end: np.ndarray | None = None
    twin: "Positions | None" = None

    def __post_init__(self) -> None:
        for name in ("monologue", "word_end"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.text), -1))

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, part: slice) -> "Positions":
        """The positions of a slice."""
        return Positions(*(getattr(self, name)[part] for name in _FIELDS))


class Grid:
    """Builds positions from text and codes.

    >>> grid = Grid(tokenizer, codes=1024)
    >>> doc = grid.join(grid.system(spoken=True), grid.turn("user", codes=question), grid.turn("assistant", codes=a))

    `system_turns` is a key of SYSTEM_TURNS (ConfigError for another); `LayerSplitLM.grid` takes a trained model's.
    """

    def __init__(self, tokenizer: Tokenizer, codes: int, system_turns: str = "short") -> None:
        if system_turns not in SYSTEM_TURNS:
            raise ConfigError(f"system_turns={system_turns!r}: choose {' or '.join(sorted(SYSTEM_TURNS))}")
        self.tokenizer, self.codes, self.system_turns = tokenizer, codes, system_turns
        self.ids = SpecialIds.of(tokenizer, codes)
        self.tokens = Memo(self._tokens, 65536)

    def _tokens(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if self.ids.pad in ids:  # it would be read as a code
            name = self.tokenizer.id_to_token(self.ids.pad)
            raise ConfigError(f"the text {text[:60]!r} holds {name}, the modality pad")
        return ids

    def text(self, text: str, supervise: bool = False) -> Positions:
        """Positions of plain text; special tokens in it are recognised. ConfigError if it holds the modality pad."""
        ids = np.array(self.tokens(text), dtype=np.int64)
        return Positions(ids, np.full_like(ids, self.ids.speech_pad), np.full(len(ids), supervise))

    def spoken(
        self,
        codes: np.ndarray,
        supervise: bool = False,
        monologue: str = "",
        text_lookahead: int = 0,
        starts: Sequence[float] = (),
    ) -> Positions:
        """n codes -> n + 2 positions: SOSP, the codes, EOSP. SOSP is no target here, since the prompt ends with it.

        Args:
            codes: (n,) ids of the codec.
            supervise: whether codes and EOSP count in the loss.
            monologue: the text of the speech. At every position that precedes a code the text head is to predict one
                of its tokens.
            text_lookahead: which token. 0: the one spoken in that code; 1: the one after the token of the previous
                code, which is what a text LLM would write next; and so on.
            starts: index of the code with which each word of the monologue begins. Between two starts, and throughout
                a monologue without any, all letters are taken to last equally long.
        """
        n = len(codes)
        text = np.full(n + 2, self.ids.pad, dtype=np.int64)
        text[0] = self.ids.sosp
        speech = np.concatenate(([self.ids.speech_pad], codes, [self.ids.eosp])).astype(np.int64)
        flags = np.full(n + 2, supervise)
        flags[0] = False
        monologues = np.full(n + 2, -1)
        if monologue:
            tokens = np.array([*self.tokens(monologue), self.ids.im_end])
            monologues[:n] = tokens[self.spread(monologue, n, text_lookahead, starts)]
        return Positions(text, speech, flags, monologues)

    def spread(self, text: str, count: int, text_lookahead: int, starts: Sequence[float]) -> np.ndarray:
        """Which token of a monologue belongs to each of `count` positions (see `spoken`): (count,) int.

        The number of tokens stands for the end, <|im_end|>.
        """
        tokens = self.tokens(text)
        lengths = np.cumsum([0, *(len(self.tokenizer.decode([token])) or 1 for token in tokens)])
        if len(starts) != len(text.split()):
            letters, times = [0, lengths[-1]], [0.0, count]
        else:  # the space before a word belongs to it
            letters = [0, *(match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)), lengths[-1]]
            times = [0.0, *starts[1:], count]
        begins = np.interp(lengths[:-1], letters, times)
        index = np.searchsorted(begins, np.arange(count) + 1e-6, "right") - 1
        if text_lookahead:
            index = np.concatenate(([-1], index))[:count] + text_lookahead
        return np.minimum(index, len(tokens))

    def tokens_within(self, text: str, start: int, end: int) -> np.ndarray:
        """Which of a text's tokens hold any of its characters from `start` to before `end`: (tokens,) bool."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array([first < end and last > start for first, last in offsets])

    def join(self, *parts: Positions) -> Positions:
        """Lay parts end to end, without their twins."""
        return Positions(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))

    def system(self, spoken: bool, turns: str = "") -> Positions:
        """The system turn; it chooses the modality of the answer. `turns`: of SYSTEM_TURNS; "": the grid's."""
        words = SYSTEM_TURNS[turns or self.system_turns][0 if spoken else 1]
        return self.text(f"<|im_start|>system\n{words}<|im_end|>\n")

    def turn(
        self,
        role: str,
        text: str | None = None,
        codes: np.ndarray | None = None,
        supervise: bool = False,
        **monologues,
    ) -> Positions:
        """One turn: written (`text`), spoken (`codes`), or both in this order; <|im_end|> is supervised with it.

        After text, SOSP is a target too: the model itself has to begin to speak. `monologues`: arguments of `spoken`.
        """
        parts = [self.text(f"<|im_start|>{role}\n")]
        if text is not None:
            parts.append(self.text(text, supervise))
        if codes is not None:
            parts.append(self.spoken(codes, supervise, **monologues))
            if text is not None:
                parts[-1].supervise[0] = supervise
        parts += [self.text("<|im_end|>", supervise), self.text("\n")]
        return self.join(*parts)

    def after_sosp(self, turns: Positions) -> Positions:
        """The same turns with SOSP, which is no target, before the first position that is one."""
        first = int(np.argmax(turns.supervise))
        return self.join(turns[:first], self.sosp(), turns[first:])

    def reply_prefix(self, spoken: bool) -> Positions:
        """The start of the assistant's turn, which ends a prompt; a spoken answer starts right after SOSP."""
        head = self.text("<|im_start|>assistant\n")
        if not spoken:
            return head
        return self.join(head, self.sosp())

    def sosp(self) -> Positions:
        """The position of SOSP alone."""
        return self.spoken(np.zeros(0, dtype=np.int64))[:1]


def question_prompt(
    grid: Grid, pairing: str, text: str, codes: np.ndarray | None = None, text_guidance: bool = False
) -> Positions:
    """The prompt of one question in a pairing: system turn, user turn, and the start of the reply.

    text_guidance: for a model that writes out its spoken answers first (it has to write SOSP itself).
    """
    spoken = pairing[2] == "S"
    user = grid.turn("user", codes=codes) if pairing[0] == "S" else grid.turn("user", text=text)
    return grid.join(grid.system(spoken), user, grid.reply_prefix(spoken and not text_guidance))
