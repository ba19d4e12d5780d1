"""`mossrepro reproduce --controls`, or `--control NAME`: is what comes out by voice the text model's knowledge?

The right backbone goes through Stage 1, Stage 2 and SFT once more with codes that a perfect codec would write
(`data/oracle.py`): what is then still wrong is the language model's. Two other backbones go through them on the real
codes, and are asked the same questions on C. All three take a share of the run's steps (`size.control.share`): enough
to tell which answers a model gives, too few to compare percentages with the run's own. `--controls 100` gives
them all steps.

    random           SmolLM2 with random matrices, norms kept: what the speech training alone can do
    counterfactual   SmolLM2 taught in text that C has other answers of the same family: its voice must then give those.
                     They are replayed in text, as B's are: without it, training on true facts overwrites them. Of the
                     form "word" they are taught after the stage `style`, which would overwrite them too, and before
                     mouth, Stage 1 and ears, which are the control's own and change nothing of the text half

Of the form "word" there is a sharper one, with no other mouth at all:

    edit_permuted    the run's own Stage 1, whose text half is then taught in text that C has other answers. The speech
                     half stays equal bit for bit: does it say what the text half knows now? Its twin, edit_true, is
                     taught the true ones, in as many steps
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mossrepro.data.facts import Fact
from mossrepro.data.oracle import OracleStore
from mossrepro.evaluation import spoken_qa
from mossrepro.experiments.content import content_name
from mossrepro.experiments.graph import StageGraph
from mossrepro.lm import checkpoint
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.training import metrics
from mossrepro.training.runs import read_parts
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.io import copy_files
from mossrepro.utils.random import rng

if TYPE_CHECKING:
    from mossrepro.evaluation.artifacts import RunArtifacts

NOTHING = "nothing"  # the answer of a family that has only one
PAIRINGS = ("T2T", "T2S", "S2T", "S2S")
_CONTROLS = ("counterfactual", "random", "oracle")
VERSION = 4  # raised when what is asked or counted changes


class OracleGraph(StageGraph):
    """A stage graph whose language model learns from oracle codes, in `share` of the steps (0: the size's own)."""

    def __init__(self, size: str | Path, share: float = 0.0, *changes: Any) -> None:
        super().__init__(size, *changes)
        self.share = share or self.size.control.share

    def spoken_codes(self) -> str:
        return "oracle"


class ControlGraph(StageGraph):
    """A stage graph that starts from another backbone; codec, script and sound are the run's own."""

    def __init__(self, size: str | Path, kind: str, share: float = 0.0, *changes: Any) -> None:
        super().__init__(size, *changes)
        self.kind, self.share = kind, share or self.size.control.share
        self.edit = EditGraph(size, False, *changes)  # the run's own Stage 1, whose text half was taught other answers

    @property
    def taught_last(self) -> bool:
        """Whether the other answers are taught after the style, in the words of its form."""
        return self.kind == "counterfactual" and self.size.lm.form == "word"

    def backbone(self) -> str | Path:
        """The control backbone."""
        main = str(super().backbone())
        shape = {"start": main, "codes": self.size.codec.codes, "tail_layers": self.size.lm.tail_layers}
        if self.taught_last:
            return super().backbone()
        if self.kind == "random":
            spec = {**shape, "start": content_name(main), "version": 1}
            return self.cached("random", "random-backbone", spec, lambda folder: _randomise(shape, folder))
        taught = self._with([fact for fact in self._changed() if fact.set != "P"])
        inputs = {"data__script": taught, "data__tokenizer": self.tokenizer()}
        return self.fit("counterfactual", model__init_from=main, **inputs)

    def style(self) -> Path:
        """The control backbone that answers in one word: where it is taught last, with the text half of `EditGraph`."""
        style = super().style()
        if not self.taught_last:
            return style
        taught = self.edit.edited()
        spec = {"style": style.name, "taught": taught.name, "version": 1}
        return self.cached("counterfactual", "counterfactual-style", spec, lambda out: _other_text(style, taught, out))

    def script_for(self, stage: str) -> Path:
        """The run's script; for the counterfactual backbone with its own answers on C among those replayed."""
        if self.kind == "random" or self.taught_last:
            return self.script()
        return self._with([f._replace(set="B") if f.set == "C" else f for f in self._changed()])

    def _changed(self) -> list[Fact]:
        return counterfactual(self.spoken_facts())

    def _with(self, known: list[Fact]) -> Path:
        return self.script_with(known, "counterfactual", "counterfactual-facts")


class EditGraph(StageGraph):
    """A stage graph whose finished Stage 1 is taught in text what C's answers are: `true` ones, or permuted."""

    def __init__(self, size: str | Path, true: bool, *changes: Any) -> None:
        super().__init__(size, *changes)
        self.true = true

    def edited(self) -> Path:
        """The folder of Stage 1 with its text half taught: C alone, so that the steps suffice for all of it."""
        known = self.spoken_facts() if self.true else counterfactual(self.spoken_facts())
        taught = [fact._replace(set="A") if fact.set == "C" else fact for fact in known if fact.set in "CV"]
        inputs = {"data__script": self.script_with(taught, "counterfactual", "edit-facts")}
        inputs |= {"data__tokens": self.tokens(), "data__tokenizer": self.tokenizer()}
        inputs["model__init_from"] = self.language_model("stage1")
        return self.fit("edit", **inputs)


def counterfactual(known: list[Fact]) -> list[Fact]:
    """The same facts, C's with the answer of another of C in their family, so that every one of them is wrong.

    The answers are moved on by as many places as it takes. Where C has too few different ones in a family (at smoke
    size), others of the family serve.
    """
    out = list(known)
    for family in sorted({fact.family for fact in known}):
        places = [i for i, fact in enumerate(known) if fact.family == family and fact.set == "C"]
        right = [known[i].answer for i in places]
        others = sorted({fact.answer for fact in known if fact.family == family} - set(right)) or [NOTHING]
        moved = [right[n:] + right[:n] for n in range(1, len(right))] + [(others * len(right))[: len(right)]]
        wrong = next(row for row in moved if all(a != b for a, b in zip(row, right, strict=True)))
        for place, answer in zip(places, wrong, strict=True):
            out[place] = known[place]._replace(answer=answer)
    return out


def _other_text(style: Path, taught: Path, folder: Path) -> None:
    """Save the model `style` with the text half of `taught`; the speech half of neither has learnt anything of it."""
    from mossrepro.lm import checkpoint

    (model, tokenizer), (other, _) = (checkpoint.from_pretrained(path) for path in (style, taught))
    texts = set(dict(model.named_parameters())) - set(model.speech_parameters())
    model.load_state_dict({name: value for name, value in other.state_dict().items() if name in texts}, strict=False)
    checkpoint.save_pretrained(model, tokenizer, folder)


def _randomise(shape: dict, folder: Path) -> None:
    """Save a backbone of the same shape with normal random weights (std 0.02) and untouched norms."""
    from mossrepro.lm import checkpoint
    from mossrepro.lm.init import start_speech_half
    from mossrepro.lm.init_from import open_start

    model, tokenizer = open_start(shape["start"], shape["codes"], shape["tail_layers"], "copy", 0)
    random = rng(0, "random backbone")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.from_numpy(0.02 * random.standard_normal(parameter.shape, dtype="float32")))
    start_speech_half(model, 0)
    checkpoint.save_pretrained(model, tokenizer, folder)


def check_controls(graph: StageGraph, names: Collection[str]) -> None:
    """ConfigError for a name that is none of a size's controls."""
    known = (*(("edit_permuted", "edit_true") if graph.size.lm.form == "word" else ()), *_CONTROLS)
    if unknown := set(names).difference(known):
        choose = f"no control of size {graph.size.name}; choose {', '.join(known)}"
        raise ConfigError(f"--control {min(unknown)}: {choose}")


def measure_controls(size: str | Path, run: Path, percent: int = 0, *changes: Any, only: Collection[str] = ()) -> None:
    """Train the control models and record how they answer the questions of C.

    The counterfactual backbone comes first; both the true answers and those that it was taught are counted. At the end
    the run's own answers are compared with each control's. All answers are cached.

    percent: of the run's steps; 0 for the size's own share. only: names of the controls; empty for all.
    """
    from mossrepro.evaluation.artifacts import RunArtifacts

    parts = read_parts(run, ())
    names = {name: content_name(folder) for name, folder in parts.items()}
    rows: list[tuple[str, StageGraph, Callable[[Path, RunArtifacts], None]]] = [
        ("counterfactual", ControlGraph(size, "counterfactual", percent / 100, *changes), _ask_counterfactual),
        ("random", ControlGraph(size, "random", percent / 100, *changes), _ask_random),
        ("oracle", OracleGraph(size, percent / 100, *changes), _ask_oracle),
    ]
    if rows[0][1].size.lm.form == "word":
        edits = [(kind, EditGraph(size, kind == "true", *changes)) for kind in ("permuted", "true")]
        rows = [(f"edit_{kind}", graph, partial(_ask_edit, kind)) for kind, graph in edits] + rows
    for name, graph, ask in [row for row in rows if not only or row[0] in only]:
        model = graph.edited() if isinstance(graph, EditGraph) else graph.language_model("sft")
        spec = {"control": name, "model": model.name, "parts": names, "version": VERSION}
        build = lambda folder, ask=ask, model=model: ask(model, RunArtifacts(parts, folder))  # noqa: E731
        measured = graph.cached("evaluation", "control-evaluation", spec, build)
        copy_files(measured / "facts", run / "facts")
        if name in ("counterfactual", "random"):
            _record_margins(run, name, round(100 * graph.share))


def _record_margins(run: Path, control: str, percent: int) -> None:
    """The run's accuracy on C minus a control's, in points, for both spoken pairings."""
    found = metrics.read_metrics(run)
    for pairing in ("s2t", "s2s"):
        mine, theirs = found[f"{pairing}_c"], found[f"control_{control}_{pairing}_c"]
        low, high = metrics.difference(mine, theirs)
        what = f"points above the {control} backbone, trained with {percent} % of the steps"
        title = f"{spoken_qa.HEADLINE[pairing.upper()]} on C, {what}"
        id, gap = f"control_{control}_margin_{pairing}_c", mine.value - theirs.value
        metrics.record(run, metrics.Metric(id, title, gap, "points", low, high, "square and add, 95 %", theirs.n))


def _ask_counterfactual(model: Path, artifacts: "RunArtifacts") -> None:
    """Shares of the taught and of the true answers among the same replies, and their difference in points."""
    changed = {fact.key: fact for fact in counterfactual(list(artifacts.known.values()))}
    for pairing, asked in _asked(model, artifacts, PAIRINGS):
        own = spoken_qa.judged(asked, pairing, changed)
        for name, title, rows in (("", "", asked), ("_own", ", its own answers", own)):
            _record(artifacts, f"control_counterfactual{name}", f"counterfactual backbone{title}", pairing, rows)
        artifacts.record(
            spoken_qa.difference(f"control_counterfactual_more_own_{pairing.lower()}_c", pairing, own, asked)
        )


def _ask_edit(kind: str, model: Path, artifacts: "RunArtifacts") -> None:
    """What is written and said on C by a mouth whose text half was taught after it: permuted answers, and true ones."""
    changed = {fact.key: fact for fact in counterfactual(list(artifacts.known.values()))}
    for pairing, asked in _asked(model, artifacts, ("T2T", "T2S")):
        own = spoken_qa.judged(asked, pairing, changed)
        for name, rows in (("permuted", own), ("true", asked)):
            title = f"mouth kept, text half taught {kind} answers: {name} ones"
            _record(artifacts, f"control_edit_{kind}_says_{name}", title, pairing, rows)
        artifacts.record(spoken_qa.difference(f"control_edit_{kind}_more_own_{pairing.lower()}_c", pairing, own, asked))


def _ask_random(model: Path, artifacts: "RunArtifacts") -> None:
    for pairing, asked in _asked(model, artifacts, PAIRINGS):
        _record(artifacts, "control_random", "random backbone", pairing, asked)


def _ask_oracle(model: Path, artifacts: "RunArtifacts") -> None:
    for pairing, asked in _asked(model, artifacts, ("T2T", "S2T"), oracle=True):
        _record(artifacts, "oracle", "oracle codes", pairing, asked)


def _asked(
    folder: Path, artifacts: "RunArtifacts", pairings: tuple[str, ...], oracle: bool = False
) -> Iterator[tuple[str, list[spoken_qa.Asked]]]:
    """What a model answers to the questions of C."""
    model, tokenizer = checkpoint.from_pretrained(folder)
    model, grid = prepare_for_inference(model, artifacts.device), model.grid(tokenizer)
    lines = [line for line in artifacts.lines if line.role == "test" and line.set == "C"]
    codes = OracleStore({line.id: line.text for line in lines}, grid.codes) if oracle else artifacts.codes
    for pairing in pairings:
        hear = artifacts.read if grid.system_turns == "word" else artifacts.hear
        yield pairing, spoken_qa.ask(model, grid, lines, artifacts.known, codes, pairing, hear)


def _record(artifacts: "RunArtifacts", id: str, title: str, pairing: str, asked: list[spoken_qa.Asked]) -> None:
    fact = spoken_qa.score("C", pairing, asked)
    fact.id, fact.name = f"{id}_{fact.id}", f"{title}: {fact.name}"
    artifacts.record(fact)
