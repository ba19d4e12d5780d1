"""`mossrepro ablate`: the variants of `configs/experiment`, trained and evaluated beside the recipe itself.

Every variant goes through Stage 1, Stage 2 and SFT with a share of a run's steps (`size.control.share`), and so does
the recipe ("baseline"): compare the rows with each other, not with the run. `length_20` is the recipe with 20 % of the
run's steps, `length_100` the run itself: accuracy against training length. `facts_25`: SFT speaks about 25 % of the
facts of set A, in as many steps. Codec, data and sound are the run's own.

Of the form "word" variants are of the mouth and Stage 1 alone (MOUTH), with all their steps: there is nothing that the
ears could change of a spoken answer to a written question, which is what they are asked. It has no `facts_25`.

Everything is a cached, resumable stage of the graph; a stage that a variant does not change is shared.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from mossrepro.experiments.content import content_name
from mossrepro.experiments.graph import StageGraph
from mossrepro.report.run_data import read_curve
from mossrepro.training import metrics
from mossrepro.training.config import configs_folder
from mossrepro.training.runs import changes_of, read_parts, run_folder
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.io import copy_files

if TYPE_CHECKING:
    from mossrepro.evaluation.artifacts import RunArtifacts

BASELINE = "baseline"
EVERY, LATER = ("stage1", "stage2", "sft"), ("stage2", "sft")
VARIANTS: dict[str, tuple[str, ...]] = {  # name of the overlay: stages that it changes
    "no_split": EVERY,
    "matched_no_split": EVERY,
    "deep_split": EVERY,
    "shallow_split": EVERY,
    "split_first": EVERY,
    "split_middle": EVERY,
    "random_tail": ("stage1",),
    "never_frozen": ("stage1",),
    "stage2_shared": ("stage2",),
    "stage2_gradual": ("stage2",),
    "stage2_frozen": LATER,
    "lora_trunk": LATER,
    "frozen_no_split": EVERY,
    "frozen_no_split_lora": EVERY,
    "text_guidance": LATER,
}
FIRST, BOTH = ("mouth",), ("mouth", "stage1")  # where no mouth learns by itself, Stage 1 is the first
MOUTH = dict.fromkeys(("no_mouth", "no_monologue", "never_frozen"), ("stage1",))
MOUTH |= dict.fromkeys(("no_head_start", "random_tail"), FIRST)
MOUTH |= dict.fromkeys(("no_split", "matched_no_split", "deep_split", "shallow_split"), BOTH)
# Several at once: the paper's ablation, and Stage 1 as the paper has it, with nothing beside the codes.
COMBINED = {
    "never_frozen_no_split": ("never_frozen", "no_split"),
    "no_mouth_no_monologue": ("no_mouth", "no_monologue"),
}
ALL = tuple(dict.fromkeys((*VARIANTS, *COMBINED, *MOUTH)))
_NUMBERED = re.compile(r"length_[1-9]\d*|facts_[1-9]\d?")  # percentages
_PAIRING = re.compile(r"val(id)?/[ST]2[ST]")
ASKED = {("T2T", "C"): "text kept", ("S2T", "A"): "S2T A", ("S2T", "C"): "S2T C", ("S2S", "A"): "S2S A"}
ASKED_MOUTH = {("T2T", "C"): "text", ("T2S", "A"): "T2S A", ("T2S", "V"): "T2S V", ("T2S", "C"): "T2S C"}
VERSION = 2  # raised when the evaluation changes


class VariantGraph(StageGraph):
    """A graph whose language model is one of VARIANTS, or the recipe itself."""

    def __init__(self, size: str | Path, name: str, *changes: Any) -> None:
        super().__init__(size, *changes)
        self.mouth = self.size.lm.form == "word"
        self.variants = MOUTH if self.mouth else VARIANTS
        self.name, self.share, self.told_share = name, 1.0 if self.mouth else self.size.control.share, 1.0
        if _NUMBERED.fullmatch(name):
            what, percent = name.split("_")
            if self.mouth and what == "facts":
                raise ConfigError(f"{name}: no fact is spoken about in the form {self.size.lm.form!r}; take length_20")
            setattr(self, {"length": "share", "facts": "told_share"}[what], int(percent) / 100)
        elif name != BASELINE and name not in self.names():
            known = ", ".join(self.names())
            raise ConfigError(f"there is no variant {name!r}; known: {known}, length_20, facts_25 and the like")

    def names(self) -> tuple[str, ...]:
        """The variants of this form."""
        several = [name for name, parts in COMBINED.items() if set(parts) <= set(self.variants)]
        return (*self.variants, *several)

    def has_mouth_stage(self) -> bool:
        """Not where there is no mouth."""
        return super().has_mouth_stage() and "no_mouth" not in COMBINED.get(self.name, (self.name,))

    def extras(self, stage: str) -> list[str]:
        """The overlays of a stage."""
        parts = COMBINED.get(self.name, (self.name,))
        folder = configs_folder() / "experiment"
        here = {stage, "mouth"} if stage == "stage1" and not self.has_mouth_stage() else {stage}
        overlays = [folder / f"{part}.yaml" for part in parts if here.intersection(self.variants.get(part, ()))]
        return super().extras(stage) + [word for path in overlays for word in ("-c", str(path))]

    def script_for(self, stage: str) -> Path:
        """The script; for SFT with the first `told_share` of A's facts in every family, and nothing of the rest."""
        if stage != "sft" or self.told_share == 1:
            return self.script()
        known = self.spoken_facts()
        all_of, seen = Counter(fact.family for fact in known if fact.set == "A"), Counter()
        kept = []
        for fact in known:
            seen[fact.family] += fact.set == "A"
            if fact.set != "A" or seen[fact.family] <= math.ceil(self.told_share * all_of[fact.family]):
                kept.append(fact)
        return self.script_with(kept, "data", "fewer-facts")


def ablate(size: str, run: Path, names: Sequence[str], changes: Sequence[str] = (), backbone: str | Path = "") -> None:
    """Train and ask the baseline and `names`; facts go into the run's folder, a table on the terminal."""
    from mossrepro.evaluation.artifacts import RunArtifacts

    parts, console = read_parts(run), Console(stderr=True)
    graphs = [VariantGraph(size, name, changes, backbone) for name in (BASELINE, *names)]
    used = {name: content_name(folder) for name, folder in parts.items()}
    for i, graph in enumerate(graphs, 1):
        console.print(f"[bold]{i}/{len(graphs)} {graph.name}[/bold]")
        model = graph.language_model("stage1" if graph.mouth else "sft")
        spec = {"variant": graph.name, "model": content_name(model), "parts": used, "version": VERSION}

        def build(folder: Path, name: str = graph.name, model: Path = model) -> None:
            _ask(name, model, RunArtifacts(parts, folder))

        measured = graph.cached("evaluation", "ablation", spec, build)
        copy_files(measured / "facts", run / "facts")
    Console().print(table(metrics.read_metrics(run)))


def _ask(name: str, folder: Path, artifacts: "RunArtifacts") -> None:
    """The questions of ASKED, and the losses of V that the last stage ended with."""
    from mossrepro.evaluation import spoken_qa
    from mossrepro.evaluation.artifacts import ask_questions, has_text_guidance
    from mossrepro.lm import checkpoint
    from mossrepro.lm.inference import prepare_for_inference

    model, tokenizer = checkpoint.from_pretrained(folder)
    model, grid = prepare_for_inference(model, artifacts.device), model.grid(tokenizer)
    for pairing, which in ASKED_MOUTH if grid.system_turns == "word" else ASKED:
        lines = [line for line in artifacts.lines if line.role == "test" and line.set == which]
        fact = spoken_qa.score(
            which, pairing, ask_questions(artifacts, model, grid, lines, pairing, has_text_guidance(folder))
        )
        fact.id, fact.name = f"ablation_{name}_{fact.id}", f"{name}: {fact.name}"
        artifacts.record(fact)
    for pairing, loss in _losses(folder).items():
        title = f"{name}: loss of answers on V, {spoken_qa.HEADLINE[pairing]}"
        artifacts.record(metrics.Metric(f"ablation_{name}_loss_{pairing.lower()}", title, loss, "nats a row"))


def _losses(folder: Path) -> dict[str, float]:
    """Pairing -> the last validation loss of a stage; empty where it was too short to have any."""
    path, last = folder / "metrics.jsonl", {}
    for row in read_curve(path) if path.is_file() else ():
        last |= {key[-3:]: value for key, value in row.items() if _PAIRING.fullmatch(key)}
    return last


def table(found: dict[str, metrics.Metric]) -> Table:
    """A row for each variant that has been asked; a star where the baseline's interval does not hold the number."""
    view = Table(title="right answers, %", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    mouth = f"ablation_{BASELINE}_t2s_c" in found
    asked = ASKED_MOUTH if mouth else ASKED
    for heading in ("", *asked.values(), "loss S2T", "loss T2S", "loss S2S"):
        view.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    shares = [f"{pairing}_{which}".lower() for pairing, which in asked]
    numbered = {match[0] for id in found if (match := _NUMBERED.search(id))}
    for name in (BASELINE, *ALL, *sorted(numbered, key=lambda name: (name[0], int(name.split("_")[1])))):
        cells = []
        for id in shares:
            fact, base = found.get(f"ablation_{name}_{id}"), found.get(f"ablation_{BASELINE}_{id}")
            cells.append(_cell(fact, base))
        losses = [found.get(f"ablation_{name}_loss_{pairing}") for pairing in ("s2t", "t2s", "s2s")]
        if any(cell != "–" for cell in cells):
            view.add_row(name, *cells, *(f"{fact.value:.2f}" if fact else "–" for fact in losses))
    return view


def _cell(fact: metrics.Metric | None, base: metrics.Metric | None) -> str:
    if fact is None or base is None:
        return "–"
    return f"{fact.value:.1f}" + ("" if base.low <= fact.value <= base.high else " *")


def main(args: argparse.Namespace) -> int:
    """`mossrepro ablate`."""
    from mossrepro.utils.threads import set_threads

    set_threads()
    changes = changes_of(args)
    names = args.variant or VariantGraph(args.size, BASELINE, *changes).names()
    ablate(args.size, run_folder(args), list(names), *changes)
    return 0
