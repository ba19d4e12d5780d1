"""What a text model replies by itself: the target of text replay, so that a new form of answers does not cost it prose.

Self-distillation: the model that is about to be trained is the teacher. Nothing but its own writing is learnt.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.grid import PROSE
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.lm.model import LayerSplitLM
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import read_lines, write_text
from mossrepro.utils.records import misfit, parse_json

_BATCH = 64


def read_prose(path: str | Path) -> list[tuple[str, str]]:
    """Questions and replies of a file that `write_prose` wrote. DataError names a line that is no such pair."""
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        pair = parse_json(line, f"{path}:{number}")
        if misfit(pair, list[str]) or len(pair) != 2:
            raise DataError(f"{path}:{number}: not a question and a reply, [QUESTION, REPLY]")
        pairs.append(tuple(pair))
    return pairs


def write_prose(
    model: LayerSplitLM,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    path: Path,
    longest: int = 48,
    form: str = PROSE,
    keep: Callable[[str], bool] = bool,
) -> int:
    """Write a model's replies to questions: a file with a JSON list [question, reply] a line -> how many are in it.

    Replies are greedy.

    Args:
        model: is asked.
        tokenizer: its own.
        questions: in writing.
        path: of the file.
        longest: tokens of a reply; longer ones are left out, as their end would be missing.
        form: the system turns under which it is asked (`Grid.system`); "" for its own.
        keep: whether a reply is kept.
    """
    model = prepare_for_inference(model, model.text_embed.weight.device)
    grid, lines = model.grid(tokenizer), []
    limit = GenerationConfig(max_positions=longest)
    for at in range(0, len(questions), _BATCH):
        part = questions[at : at + _BATCH]
        prompts = [
            grid.join(grid.system(False, form), grid.turn("user", text=text), grid.reply_prefix(False)) for text in part
        ]
        with torch.inference_mode():
            replies = generate(model, prompts, grid.ids, limit)
        for question, reply in zip(part, replies, strict=True):
            text = tokenizer.decode(reply.text).strip()
            if reply.ended and text and keep(text):
                lines.append(json.dumps([question, text]) + "\n")
    write_text(path, "".join(lines))
    return len(lines)
