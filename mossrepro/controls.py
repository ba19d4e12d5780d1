"""`mossrepro reproduce --controls`: is what comes out by voice really the text model's knowledge?

The right backbone goes through Stage 1, Stage 2 and SFT once more with codes that a perfect codec would write
(`data/oracle.py`): what is then still wrong is the language model's. Two other backbones go through them on the real
codes, and are asked the same questions on C. All three take a share of the run's steps (`size.control.share`): enough
to tell who answers with what, not to compare percentages with the run's own.

    random           SmolLM2 with random weights: what the speech training alone can do
    counterfactual   SmolLM2 taught in text that C has other answers of the same family: its voice must then give those.
                     They are replayed in text, as B's are: without it, training on true facts washes them out again
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mossrepro.chain import Chain
from mossrepro.data.facts import Fact
from mossrepro.data.oracle import OracleStore
from mossrepro.data.script import Line
from mossrepro.order import rng

if TYPE_CHECKING:
    from mossrepro.eval.run import Bench


class OracleChain(Chain):
    """A chain whose language model learns from oracle codes."""

    def __init__(self, size: str) -> None:
        super().__init__(size)
        self.share = self.size.control.share

    def spoken_codes(self) -> str:
        return "oracle"


class ControlChain(Chain):
    """A chain that starts from another backbone; codec, script and sound are the main chain's own links."""

    def __init__(self, size: str, kind: str) -> None:
        super().__init__(size)
        self.kind, self.share = kind, self.size.control.share

    def backbone(self) -> Path:
        """Folder of the control backbone."""
        main = str(super().backbone())
        shape = {"start": main, "codes": self.size.codec.codes, "tail_layers": self.size.lm.tail_layers}
        if self.kind == "random":
            spec = {**shape, "start": Path(main).name, "version": 1}
            return self.link("random", "random-backbone", spec, lambda folder: _randomise(shape, folder))
        taught = self._script_with([fact for fact in self._changed() if fact.set != "P"])
        inputs = {"data__script": taught, "data__tokenizer": self.tokenizer()}
        return self.fit("counterfactual", model__start=main, **inputs)

    def told(self) -> Path:
        """The main chain's script; for the counterfactual backbone with its own answers on C among those replayed."""
        if self.kind == "random":
            return self.script()
        return self._script_with([f._replace(set="B") if f.set == "C" else f for f in self._changed()])

    def _changed(self) -> list[Fact]:
        return counterfactual([Fact(*entry) for entry in json.loads((self.script() / "facts.json").read_text())])

    def _script_with(self, known: list[Fact]) -> Path:
        """A script folder with other facts, and without the lines about any that are missing."""
        keys = {fact.key for fact in known}

        def build(folder: Path) -> None:
            lines = (self.script() / "script.jsonl").read_text().splitlines(keepends=True)
            kept = [line for line in lines if (json.loads(line).get("fact") or None) in {None, *keys}]
            (folder / "script.jsonl").write_text("".join(kept))
            if (self.script() / "words.json").is_file():
                shutil.copy(self.script() / "words.json", folder)
            (folder / "facts.json").write_text(json.dumps(known))

        spec = {"script": self.script().name, "facts": known, "version": 3}
        return self.link("counterfactual", "counterfactual-facts", spec, build)


def counterfactual(known: list[Fact]) -> list[Fact]:
    """The same facts with C's answers moved on by one inside their family, so that every one of them is wrong."""
    out = list(known)
    for family in sorted({fact.family for fact in known}):
        places = [i for i, fact in enumerate(known) if fact.family == family and fact.set == "C"]
        answers = [known[i].answer for i in places]
        for place, answer in zip(places, answers[1:] + answers[:1], strict=True):
            out[place] = known[place]._replace(answer=answer)
    return out


def _randomise(shape: dict, folder: Path) -> None:
    """Save a backbone of the same shape with normal random weights (std 0.02) and untouched norms."""
    from mossrepro.lm import checkpoint
    from mossrepro.lm.start import start_speech_half
    from mossrepro.lm.task import open_start

    model, tokenizer = open_start(shape["start"], shape["codes"], shape["tail_layers"], "copy", 0)
    random = rng(0, "random backbone")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.from_numpy(0.02 * random.standard_normal(parameter.shape, dtype="float32")))
    start_speech_half(model, 0)
    checkpoint.save_pretrained(model, tokenizer, folder)


def measure_oracle(size: str, bench: "Bench", lines: list[Line]) -> None:
    """Train on oracle codes and record S2T on C."""
    from mossrepro.eval import spoken_qa
    from mossrepro.lm import checkpoint
    from mossrepro.vocab import Grid

    model, tokenizer = checkpoint.from_pretrained(OracleChain(size).language_model("sft"))
    grid = Grid(tokenizer, model.config.codes)
    codes = OracleStore({line.id: line.text for line in lines}, grid.codes)
    fact = spoken_qa.score("C", "S2T", spoken_qa.ask(model.eval(), grid, lines, bench.known, codes, "S2T"))
    fact.id, fact.name = f"oracle_{fact.id}", f"oracle codes: {fact.name}"
    bench.record(fact)


def measure_controls(size: str, run: Path) -> None:
    """Train the controls, the proof first, and record what they answer on C: right answers, the second also its own."""
    from mossrepro.eval.run import Bench

    parts = json.loads((run / "parts.json").read_text())
    bench = Bench(parts, run)
    lines = [line for line in bench.lines if line.role == "test" and line.set == "C"]
    for kind in ("counterfactual", "random"):
        _measure(kind, size, bench, lines)
    measure_oracle(size, bench, lines)


def _measure(kind: str, size: str, bench: "Bench", lines: list[Line]) -> None:
    """Ask one control backbone in the pairings that it can answer by itself."""
    from mossrepro.eval import spoken_qa
    from mossrepro.lm import checkpoint
    from mossrepro.vocab import Grid

    changed = {fact.key: fact for fact in counterfactual(list(bench.known.values()))}
    truths = [("", bench.known)] + ([("_own", changed)] if kind == "counterfactual" else [])
    model, tokenizer = checkpoint.from_pretrained(ControlChain(size, kind).language_model("sft"))
    grid = Grid(tokenizer, model.config.codes)
    for pairing in ("T2T", "S2T", "S2S"):
        voice = (bench.speak, bench.judge.transcribe) if pairing == "S2S" else (None, None)
        for name, truth in truths:
            asked = spoken_qa.ask(model.eval(), grid, lines, truth, bench.codes, pairing, *voice)
            fact = spoken_qa.score("C", pairing, asked)
            fact.id = f"control_{kind}{name}_{fact.id}"
            fact.name = f"{kind} backbone{', its own answers' if name else ''}: {fact.name}"
            bench.record(fact)
