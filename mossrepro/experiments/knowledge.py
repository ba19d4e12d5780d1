"""What a text model knows: the facts that it is asked by voice, and the training texts of a mini backbone."""

from pathlib import Path

from mossrepro.data.facts import Fact, answered, read_facts
from mossrepro.utils.io import write_json

_LONGEST = 16  # tokens of a reply


def all_text(script: Path) -> list[str]:
    """Every text that a mini backbone is trained on or asked."""
    from mossrepro.data.script import read_script
    from mossrepro.lm.documents import REPEAT
    from mossrepro.lm.grid import SYSTEM_TURNS

    known = read_facts(script)
    forms = ((False, 3), (True, 2))
    questions = [f.question(i, u) for f in known for u, n in forms for i in range(n) if f.set != "P" or not u]
    said = [REPEAT + line.text for line in read_script(script)]
    return [*said, *questions, *(f.written for f in known), *SYSTEM_TURNS["short"], "user\n", "assistant\n", "system\n"]


def ask_backbone(start: str, candidates: list[Fact], folder: Path) -> None:
    """Write known.json: the facts that a text model answers right in text, in the first two training phrasings.

    The phrasings of the tests are not asked, so that they stay unseen. The set of a fact plays no part.
    """
    from rich.progress import track

    from mossrepro.lm.decode import GenerationConfig, generate
    from mossrepro.lm.grid import Grid, question_prompt
    from mossrepro.lm.inference import fuse_projections
    from mossrepro.lm.init_from import open_start
    from mossrepro.utils.devices import best_device

    model, tokenizer = open_start(start, 1024, 1, "copy", 0)
    fuse_projections(model.eval().to(best_device()))  # in float32: what it knows decides which facts are asked
    grid, config = Grid(tokenizer, 1024), GenerationConfig(max_positions=_LONGEST)
    known = list(candidates)
    for phrasing in (0, 1):
        right = []
        for i in track(range(0, len(known), 48), "asking the backbone", transient=True):
            part = known[i : i + 48]
            prompts = [question_prompt(grid, "T2T", fact.question(phrasing)) for fact in part]
            replies = generate(model, prompts, grid.ids, config)
            right += [f for f, r in zip(part, replies, strict=True) if answered(f, tokenizer.decode(r.text))]
        known = right
    write_json(folder / "known.json", [(fact.family, fact.subject) for fact in known], indent=None)
