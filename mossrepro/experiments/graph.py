"""The chain of stages of one size: every link is a folder in the cache, keyed by all that made it.

A finished link costs nothing the second time; an interrupted one continues where it stopped. Fits run in processes of
their own, through the same door as a user's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from mossrepro.data.alignment import phone_times
from mossrepro.data.codec_corpus import codec_corpus
from mossrepro.data.facts import FAMILIES, Fact, all_facts, answered, practice_facts
from mossrepro.data.script import ScriptRecipe, hidden_pairs, record_script, tells, write_script
from mossrepro.lm import tokenizer
from mossrepro.training import metrics, sizes
from mossrepro.training.config import cache_key, configs_folder, find_size, read_config
from mossrepro.utils import assets, cache
from mossrepro.utils.errors import MossError

STAGES = (
    "data",
    "codec",
    "tokens",
    "recogniser",
    "backbone",
    "stage1",
    "stage2",
    "sft",
    "flow",
    "vocoder",
    "evaluation",
)
# Raised by hand when code that shapes a link's result changes, so that old links are not taken for new ones.
VERSIONS = {"known": 1, "tokenizer": 1, "tokens": 3, "fit": 3, "evaluation": 5}


class StageGraph:
    """Makes the links of a size on demand. `costs` collects what each took: stage -> {minutes, cached, hardware}."""

    share = 1.0  # of the language model's steps that are taken; controls take fewer

    def __init__(self, size: str) -> None:
        self.size = sizes.load_size(size)
        self.overlay = find_size(size)
        self.costs: dict[str, dict] = {}
        self._counted: set[Path] = set()
        self._script: Path | None = None
        self.sound = self  # the chain that makes codec, flow decoder and vocoder
        if self.size.sound:
            self.sound = StageGraph(self.size.sound)
            self.sound.costs, self.sound._counted = self.costs, self._counted

    def link(self, stage: str, kind: str, spec: dict, build: Callable[[Path], None]) -> Path:
        """`assets.cached`, with the time it took, all attempts together, kept inside the folder."""
        started = time.monotonic()

        def timed(folder: Path) -> None:
            clock = folder / "cost.json"
            before = json.loads(clock.read_text())["seconds"] if clock.is_file() else 0.0
            try:
                build(folder)
            finally:
                cost = {"seconds": before + time.monotonic() - started, "hardware": metrics.hardware()}
                clock.write_text(json.dumps(cost) + "\n")
            self.costs.setdefault(stage, {"cached": False})["cached"] = False

        self.costs.setdefault(stage, {"cached": True, "minutes": 0.0, "hardware": ""})
        folder = cache.cached(kind, spec, timed)
        clock = folder / "cost.json"
        if not clock.is_file():  # made by hand, through `mossrepro fit`
            return folder
        cost = json.loads(clock.read_text())
        if folder not in self._counted:  # links are asked for by several stages and paid for once
            self._counted.add(folder)
            self.costs[stage]["minutes"] += cost["seconds"] / 60
            self.costs[stage]["hardware"] = cost["hardware"]
        return folder

    # --- data ---------------------------------------------------------------------------------------------------------

    def known(self) -> list[Fact]:
        """The facts of this size with their sets: those that SmolLM2 answers right in text; all for a mini backbone.

        Facts for practice are not asked beforehand.
        """
        candidates = all_facts(keep=_first_facts(self.size.data.facts))
        practice = practice_facts(self.size.data.facts, self.size.data.recall)
        if self.size.backbone.source == "mini":
            return candidates + practice
        spec = {"facts": candidates, "model": assets.ASSETS["smollm2"].sha256, "version": VERSIONS["known"]}
        folder = self.link("data", "known", spec, lambda out: _ask_backbone(candidates, out))
        return all_facts(keep=[tuple(pair) for pair in json.loads((folder / "known.json").read_text())]) + practice

    def script(self) -> Path:
        """The recorded script: a corpus folder with script.jsonl, facts.json and words.json."""
        if self._script is None:  # asked for by most other links, and half a second to write
            self._script = self._record_script()
        return self._script

    def _record_script(self) -> Path:
        data = asdict(self.size.data)
        del data["facts"], data["recall"]
        recipe = ScriptRecipe(**data)
        known = self.known()
        lines = write_script(known, recipe)
        return record_script(lines, known, link=self._data_link)

    def spoken_facts(self) -> list[Fact]:
        """The facts of the recorded script."""
        return [Fact(*entry) for entry in json.loads((self.script() / "facts.json").read_text())]

    def script_with(self, known: list[Fact], stage: str, kind: str) -> Path:
        """A script folder with other facts; a link of that kind.

        Lines about facts that are missing go, and so do sentences that tell one that no speech may tell.
        """
        keys, hidden = {fact.key for fact in known}, hidden_pairs(known)

        def fits(line: dict) -> bool:
            return line["fact"] in keys if line.get("fact") else not tells(hidden, line["text"].split())

        def build(folder: Path) -> None:
            lines = (self.script() / "script.jsonl").read_text().splitlines(keepends=True)
            (folder / "script.jsonl").write_text("".join(line for line in lines if fits(json.loads(line))))
            if (self.script() / "words.json").is_file():
                shutil.copy(self.script() / "words.json", folder)
            (folder / "facts.json").write_text(json.dumps(known))

        return self.link(stage, kind, {"script": self.script().name, "facts": known, "version": 4}, build)

    def tokenizer(self) -> Path:
        """Folder with the backbone's tokenizer.json."""

        if self.size.backbone.source == "smollm2":
            spec = {"model": assets.ASSETS["smollm2"].sha256, "version": VERSIONS["tokenizer"]}
            make = lambda: tokenizer.gguf_tokenizer(assets.get("smollm2"))  # noqa: E731
        else:
            texts = _all_text(self.script())
            spec = {"texts": cache.digest(texts), "size": self.size.backbone.vocab, "version": VERSIONS["tokenizer"]}
            make = lambda: tokenizer.mini_tokenizer(texts, self.size.backbone.vocab)  # noqa: E731
        return (
            self.link("data", "tokenizer", spec, lambda out: make().save(str(out / "tokenizer.json")))
            / "tokenizer.json"
        )

    def tokens(self) -> Path:
        """Codes of every line of the script."""
        return self.tokenise(self.script(), self.codec())

    def tokenise(self, corpus: Path, codec: Path) -> Path:
        """The codes of a corpus by a codec: its token store."""

        def build(folder: Path) -> None:
            flags = [f"--model.init_args.codec={codec}", f"--data.init_args.corpus={corpus}", f"--output={folder}"]
            _stage(
                "tokens", ["predict", "-c", str(configs_folder() / "tokenise.yaml"), "-c", str(self.overlay), *flags]
            )

        spec = {"codec": codec.name, "corpus": corpus.name, "version": VERSIONS["tokens"]}
        return self.link("tokens", "tokens", spec, build)

    # --- fits ---------------------------------------------------------------------------------------------------------

    def fit(self, stage: str, **inputs: str | int | Path) -> Path:
        """Run one stage through `mossrepro fit`. `inputs` are init args: model__init_from=...,
        model__network__books=...

        The key holds what the stage's YAML says, the numbers of the size that it refers to, and the names of the input
        folders.
        """
        config = configs_folder() / f"{stage}.yaml"
        settings = read_config(config)
        extras = self.extras(stage)
        said = [settings, *(read_config(word) for word in extras if word.endswith(".yaml"))]
        names_of = re.findall(r"\$\{(size\.[\w.]+)\}", json.dumps(said))
        numbers = {name: self._number(name) for name in sorted(set(names_of))}
        names = {key: key.replace("__", ".init_args.", 1).replace("__", ".") for key in inputs}
        flags = [f"--{names[key]}={value}" for key, value in inputs.items()]
        steps = f"size.lm.{stage}.steps"
        if steps in numbers and self.share != 1.0:
            numbers[steps] = max(1, round(self.share * numbers[steps]))
            flags.append(f"--{steps}={numbers[steps]}")
        spec = {"config": cache_key(settings), "numbers": numbers, "version": VERSIONS["fit"]}
        spec["inputs"] = {key: _content_name(value) for key, value in inputs.items()}
        if extras:
            spec["extras"] = [cache_key(read_config(word)) if word.endswith(".yaml") else word for word in extras]

        def build(folder: Path) -> None:
            if (folder / "done.json").is_file():
                return  # interrupted between the export and the renaming of the folder
            files = ["-c", str(config), "-c", str(self.overlay)]
            _stage(stage, ["fit", *files, *extras, "--output", str(folder), *flags])

        return self.link(stage, f"fit-{stage}", spec, build)

    def extras(self, stage: str) -> list[str]:
        """More of the command line of a stage: overlays and flags."""
        return []

    def _number(self, name: str) -> Any:
        """`size.codec.steps` -> its value."""
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return asdict(value) if is_dataclass(value) else value

    def codec_corpus(self) -> Path:
        """Random-word sentences for the tokenizer, with the times of their phones in the cache."""
        corpus = codec_corpus(self.sound.size.name, link=self._data_link)
        phone_times(corpus, link=self._data_link)
        return corpus

    def codec(self) -> Path:
        """The trained speech tokenizer; its recogniser is not trained yet."""
        return self.sound.fit("codec", data__corpus=self.codec_corpus())

    def recogniser(self) -> Path:
        """The same tokenizer with its recogniser trained."""
        return self.read(self.codec(), self.tokenise(self.codec_corpus(), self.codec()))

    def read(self, codec: Path, tokens: Path, corpus: Path | None = None) -> Path:
        """Any tokenizer with a recogniser trained on its codes of `corpus`, by default the codec's own."""
        return self.fit(
            "recogniser", model__codec=codec, data__corpus=corpus or self.codec_corpus(), data__tokens=tokens
        )

    def _data_link(self, kind: str, spec: dict, build: Callable[[Path], None]) -> Path:
        return self.link("data", kind, spec, build)

    def backbone(self) -> str | Path:
        """What Stage 1 starts from."""
        if self.size.backbone.source == "smollm2":
            return "smollm2"
        tokenizer = self.tokenizer()
        return self.fit("backbone", model__tokenizer=tokenizer, data__tokenizer=tokenizer, data__script=self.script())

    def language_model(self, stage: str) -> Path:
        """stage1, stage2 or sft, each from the one before."""
        before = {"stage1": None, "stage2": "stage1", "sft": "stage2"}[stage]
        start = self.language_model(before) if before else self.backbone()
        tokens = self.spoken_codes()
        inputs = {"data__script": self.told(stage), "data__tokens": tokens, "data__tokenizer": self.tokenizer()}
        if stage == "stage1" and tokens != "oracle":
            inputs["model__code_phone_probs"] = tokens
        return self.fit(stage, model__init_from=start, **inputs)

    def told(self, stage: str) -> Path:
        """The script with the facts that the language model is told in a stage."""
        return self.script()

    def spoken_codes(self) -> str | Path:
        """The codes that the language model learns from."""
        return self.tokens()

    def flow(self) -> Path:
        tokens, corpus = self.sound.tokens(), self.sound.script()
        return self.sound.fit("flow", model__codebook=tokens, data__corpus=corpus, data__tokens=tokens)

    def vocoder(self) -> Path:
        return self.sound.fit("vocoder", data__corpus=self.sound.script())

    def parts(self) -> dict[str, str]:
        """Everything an assistant is made of: name -> folder."""
        makers = {"codec": self.codec, "recogniser": self.recogniser, "script": self.script, "tokens": self.tokens}
        makers |= {s: lambda s=s: self.language_model(s) for s in ("stage1", "stage2", "sft")}
        makers |= {"flow": self.flow, "vocoder": self.vocoder, "backbone": self.backbone}
        return {name: str(make()) for name, make in makers.items()}


def _stage(name: str, arguments: list[str]) -> None:
    """Run a verb of the door as a stage. MossError if it fails."""
    code = _run([sys.executable, "-m", "mossrepro", *arguments])
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise MossError(f"stage {name} stopped with exit code {code}; what it had done is kept, run the command again")


def _run(command: list[str]) -> int:
    """The exit code of a verb in a process of its own. On Ctrl-C it is left the time to save, then the key goes on."""
    child = subprocess.Popen(command, env={**os.environ, "MOSSREPRO_CHILD": "1"})
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def _first_facts(limit: int) -> list[tuple[str, str]]:
    """(family, subject) of the first `limit` facts of every family."""
    return [(family.name, subject) for family in FAMILIES.values() for subject in list(family.table)[:limit]]


def _content_name(value: str | int | Path) -> str:
    """The part of a path that says what is inside: the cache's folder name, or a plain word such as "smollm2"."""
    path = Path(str(value))
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _all_text(script: Path) -> list[str]:
    """Every text a mini backbone will meet."""
    from mossrepro.data.script import read_script
    from mossrepro.lm.documents import REPEAT
    from mossrepro.lm.grid import SYSTEM_TURNS

    known = [Fact(*entry) for entry in json.loads((script / "facts.json").read_text())]
    forms = ((False, 3), (True, 2))
    questions = [f.question(i, u) for f in known for u, n in forms for i in range(n) if f.set != "P" or not u]
    said = [REPEAT + line.text for line in read_script(script)]
    return [*said, *questions, *(f.written for f in known), *SYSTEM_TURNS["short"], "user\n", "assistant\n", "system\n"]


def _ask_backbone(candidates: list[Fact], folder: Path) -> None:
    """Write known.json: the facts that SmolLM2 answers right in text, asked in a training and in a test phrasing."""
    from rich.progress import track

    from mossrepro.lm.decode import GenerationConfig, generate
    from mossrepro.lm.documents import question_prompt
    from mossrepro.lm.grid import Grid
    from mossrepro.lm.inference import fuse_projections
    from mossrepro.lm.task import open_start

    model, tokenizer = open_start("smollm2", 1024, 1, "copy", 0)
    fuse_projections(model.eval())
    grid, how = Grid(tokenizer, 1024), GenerationConfig(max_rows=12)
    known = list(candidates)
    for unseen in (False, True):
        right = []
        for i in track(range(0, len(known), 48), "asking the backbone", transient=True):
            part = known[i : i + 48]
            prompts = [question_prompt(grid, "T2T", fact.question(0, unseen)) for fact in part]
            replies = generate(model, prompts, grid.ids, how)
            right += [f for f, r in zip(part, replies, strict=True) if answered(f, tokenizer.decode(r.text))]
        known = right
    (folder / "known.json").write_text(json.dumps([(fact.family, fact.subject) for fact in known]))


RUNS = Path("runs")
