"""The stages of one size that make data and sound, and how a stage is cached and run.

Every stage makes a folder of the cache, named by the hash of all its inputs.

A finished stage costs nothing the second time; an interrupted one continues where it stopped. Trainings run in
processes of their own, through the same command line as a user's.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mossrepro.data.alignment import phone_times
from mossrepro.data.codec_corpus import codec_corpus
from mossrepro.data.facts import Fact, all_facts, practice_facts, read_facts
from mossrepro.data.script import ScriptRecipe, hidden_pairs, record_script, tells, write_script
from mossrepro.experiments.content import content_name
from mossrepro.experiments.knowledge import all_text, ask_backbone
from mossrepro.experiments.packed import given_parts, or_given
from mossrepro.experiments.processes import run_stage
from mossrepro.lm import tokenizer
from mossrepro.training import metrics, sizes
from mossrepro.training.config import (
    cache_key,
    changed_size,
    check_changes,
    configs_folder,
    find_size,
    read_config,
    refuse_overridden,
)
from mossrepro.utils import assets, cache
from mossrepro.utils.errors import ConfigError, DataError, DiskError
from mossrepro.utils.io import copy_file, read_lines, write_json, write_text
from mossrepro.utils.records import parse_json, read_json

STAGES = (
    "data",
    "codec",
    "tokens",
    "recogniser",
    "backbone",
    "text_to_code",
    "drawn",
    "word_reader",
    "inner_ear",
    "style",
    "mouth",
    "stage1",
    "stage2",
    "sft",
    "flow",
    "vocoder",
    "adversarial",
    "evaluation",
)
# A maker's version, raised by hand when its code begins to give another result, so that old folders are not reused.
# tests/experiments/test_makers.py fails when a maker's code changes and nobody has said which it is.
VERSIONS = {"known": 2, "tokenizer": 1, "tokens": 3, "evaluation": 17, "recogniser": 4, "word_reader": 2}
VERSIONS |= dict.fromkeys(("codec", "acoustic", "flow", "vocoder"), 3)
VERSIONS |= dict.fromkeys(("backbone", "counterfactual"), 4) | dict.fromkeys(("stage1", "sft"), 5)
VERSIONS |= dict.fromkeys("adapt adapt_codec prose text_to_code adversarial".split(), 1)
VERSIONS |= {"style": 2, "mouth": 2, "edit": 2, "stage2": 10, "drawn": 8, "replies": 3, "inner_ear": 4}
# Steps of speech training, of which controls and ablations may take a share; one of them is in a stage's YAML.
_STEPS = {"mouth": ("mouth_steps",), "stage1": ("stage1.steps", "words.steps")}
_STEPS |= {stage: (f"{stage}.steps",) for stage in ("stage2", "sft")}
_SOUND = ("codec", "acoustic", "recogniser", "flow", "vocoder", "adversarial")  # parts that a size may borrow


def read_cost(folder: Path) -> dict[str, Any]:
    """What a folder of the cache took: {seconds, hardware}; nothing where it was made by hand, or nobody can say."""
    try:
        cost = read_json(folder / "cost.json")
        return {"seconds": float(cost["seconds"]), "hardware": str(cost["hardware"])}
    except (DataError, LookupError, TypeError, ValueError):
        return {"seconds": 0.0, "hardware": ""}


class Stages:
    """Runs stages of one size on demand: every method returns a folder of the cache. `StageGraph` has the others.

    `costs` collects what each stage took: stage -> {minutes, cached, hardware}.

    Args:
        size: name or file of a size.
        changes: "size.KEY=VALUE" or "STAGE.KEY=VALUE", with KEY as in the YAML of that stage.
        backbone: a hub folder (Llama or Qwen3) in the place of the size's text model.
    """

    share = 1.0  # of the language model's steps that are taken; controls take fewer

    def __init__(self, size: str | Path, changes: Sequence[str] = (), backbone: str | Path = "") -> None:
        check_changes(changes)
        settings = changed_size(size, changes, backbone)
        self.size = sizes.build_size(settings, Path(size).name)
        if self.size.backbone.source == "hub" and not self.size.backbone.folder:
            raise ConfigError(f"size {self.size.name} is of a text model in a hub folder; give --backbone FOLDER")
        self.changes = [change for change in changes if not change.startswith("size.")]
        # As a file where nothing was changed, else written out on the command lines of the stages.
        self.overlay = OmegaConf.to_yaml(OmegaConf.create(settings)) if changes or backbone else str(find_size(size))
        self.costs: dict[str, dict] = {}
        self._counted: set[Path] = set()
        self._script: Path | None = None
        self.sound = self  # the graph that makes codec, flow decoder and vocoder
        self.given = given_parts(self.size)  # what packs hold
        if self.size.sound and not self.given:
            borrowed = [c for c in changes if not c.startswith("size.") or c.split(".")[1] in _SOUND]
            self.sound = Stages(self.size.sound, borrowed)
            self.sound.costs, self.sound._counted = self.costs, self._counted

    def cached(self, stage: str, kind: str, spec: dict, build: Callable[[Path], None]) -> Path:
        """`cache.cached`, and cost.json in the folder: the seconds of all attempts together."""
        started = time.monotonic()

        def timed(folder: Path) -> None:
            before = read_cost(folder)["seconds"]
            try:
                build(folder)
            finally:
                cost = {"seconds": before + time.monotonic() - started, "hardware": metrics.hardware()}
                with contextlib.suppress(DiskError):  # what stopped the builder counts
                    write_json(folder / "cost.json", cost, indent=None)
            self.costs.setdefault(stage, {"cached": False})["cached"] = False

        self.costs.setdefault(stage, {"cached": True, "minutes": 0.0, "hardware": ""})
        folder = cache.cached(kind, spec, timed)
        if folder not in self._counted:  # several stages ask for one folder; its time counts once
            cost = read_cost(folder)
            self._counted.add(folder)
            self.costs[stage]["minutes"] += cost["seconds"] / 60
            self.costs[stage]["hardware"] = cost["hardware"] or self.costs[stage]["hardware"]
        return folder

    # --- data ---------------------------------------------------------------------------------------------------------

    def known(self) -> list[Fact]:
        """The facts of this size with their sets.

        The sets are dealt first, over all facts of the tables; then every set is limited alike to what the text model
        answers right in writing, asked in training phrasings. Facts for practice (set P) are never asked, nor is a mini
        backbone, which is taught them all.

        Raises:
            DataError: the text model answers none of them.
        """
        if self.given:
            return read_facts(self.script())
        data = self.size.data
        dealt, practice = all_facts(limit=data.facts, families=data.families), practice_facts(data.facts, data.recall)
        if self.size.backbone.source == "mini":
            return dealt + practice
        start = self.pretrained()
        spec = {"facts": dealt, "model": self._backbone_name(), "version": VERSIONS["known"]}
        folder = self.cached("data", "known", spec, lambda out: ask_backbone(str(start), dealt, out))
        kept = {tuple(pair) for pair in read_json(folder / "known.json")}
        if not kept:
            raise DataError(f"{start}: answers none of the {len(dealt)} facts right in text; take another text model")
        return [fact for fact in dealt if (fact.family, fact.subject) in kept] + practice

    def _backbone_name(self) -> str:
        """The name of a pretrained text model in cache keys: the hash of its content."""
        source = self.size.backbone.source
        return assets.ASSETS["smollm2"].sha256 if source == "smollm2" else content_name(self.size.backbone.folder)

    @or_given
    def script(self) -> Path:
        """The recorded script: a corpus folder with script.jsonl, facts.json and words.json."""
        if self._script is None:  # most other stages ask for it, and it takes half a second to write
            self._script = self._record_script()
        return self._script

    def _record_script(self) -> Path:
        data = asdict(self.size.data)
        del data["facts"], data["recall"], data["families"]
        recipe = ScriptRecipe(**data, roster=self.size.roster)
        known = self.known()
        lines = write_script(known, recipe)
        return record_script(lines, known, cached=self._cached_data)

    def spoken_facts(self) -> list[Fact]:
        """The facts of the recorded script."""
        return read_facts(self.script())

    def script_with(self, known: list[Fact], stage: str, kind: str) -> Path:
        """A script folder with other facts.

        Lines about facts that are not in `known` are dropped, and so are random sentences that happen to hold the
        subject and the answer of a hidden fact (`hidden_pairs`).
        """
        keys, hidden = {fact.key for fact in known}, hidden_pairs(known)

        def fits(text: str) -> bool:
            line = parse_json(text, self.script())
            return line["fact"] in keys if line.get("fact") else not tells(hidden, line["text"].split())

        def build(folder: Path) -> None:
            lines = read_lines(self.script() / "script.jsonl")
            write_text(folder / "script.jsonl", "".join(line + "\n" for line in lines if fits(line)))
            if (self.script() / "words.json").is_file():
                copy_file(self.script() / "words.json", folder)
            write_json(folder / "facts.json", known, indent=None)

        return self.cached(stage, kind, {"script": content_name(self.script()), "facts": known, "version": 4}, build)

    def tokenizer(self) -> Path:
        """Folder with the backbone's tokenizer.json."""

        if self.size.backbone.source == "hub":
            return Path(self.size.backbone.folder) / "tokenizer.json"
        if self.size.backbone.source == "smollm2":
            spec = {"model": assets.ASSETS["smollm2"].sha256, "version": VERSIONS["tokenizer"]}
            make = lambda: tokenizer.gguf_tokenizer(assets.get("smollm2"))  # noqa: E731
        else:
            texts = all_text(self.script())
            spec = {"texts": cache.digest(texts), "size": self.size.backbone.vocab, "version": VERSIONS["tokenizer"]}
            make = lambda: tokenizer.mini_tokenizer(texts, self.size.backbone.vocab)  # noqa: E731
        build = lambda out: write_text(out / "tokenizer.json", make().to_str(pretty=True))  # noqa: E731
        return self.cached("data", "tokenizer", spec, build) / "tokenizer.json"

    @or_given
    def tokens(self) -> Path:
        """Codes of every line of the script."""
        return self.tokenise(self.script(), self.codec())

    def tokenise(self, corpus: Path, codec: Path) -> Path:
        """The codes of a corpus by a codec: its token store."""

        def build(folder: Path) -> None:
            flags = [f"--model.init_args.codec={codec}", f"--data.init_args.corpus={corpus}", f"--output={folder}"]
            run_stage("tokens", ["predict", "-c", str(configs_folder() / "tokenise.yaml"), "-c", self.overlay, *flags])

        spec = {"codec": codec.name, "corpus": content_name(corpus), "version": VERSIONS["tokens"]}
        return self.cached("tokens", "tokens", spec, build)

    # --- fits ---------------------------------------------------------------------------------------------------------

    def fit(self, stage: str, config_name: str = "", **inputs: str | int | Path) -> Path:
        """Run one stage through `mossrepro fit`, with `inputs` as init args: model__init_from=..., data__corpus=...

        The cache key holds the stage's YAML (`config_name`, by default of the stage's name), the numbers of the size
        that the YAML refers to, and the names of the input folders.
        """
        config = configs_folder() / f"{config_name or stage}.yaml"
        settings = read_config(config)
        extras = [*self.extras(stage), *self._stage_changes(stage)]
        said = [settings, *(read_config(word) for word in extras if word.endswith(".yaml"))]
        names_of = re.findall(r"\$\{(size\.[\w.]+)\}", json.dumps(said))
        numbers = {name: self._number(name) for name in sorted(set(names_of))}
        names = {key: key.replace("__", ".init_args.", 1).replace("__", ".") for key in inputs}
        flags = [f"--{names[key]}={value}" for key, value in inputs.items()]
        refuse_overridden(stage, extras, flags)
        for steps in {f"size.lm.{of}" for of in _STEPS.get(stage, ())}.intersection(numbers):
            if self.share != 1.0:
                numbers[steps] = max(1, round(self.share * numbers[steps]))
                flags.append(f"--{steps}={numbers[steps]}")
        spec = {"config": cache_key(settings), "numbers": numbers, "version": VERSIONS[stage]}
        spec["inputs"] = {key: content_name(value) for key, value in inputs.items()}
        if extras:
            spec["extras"] = [cache_key(read_config(word)) if word.endswith(".yaml") else word for word in extras]

        def build(folder: Path) -> None:
            if (folder / "done.json").is_file():
                return  # interrupted between the export and the renaming of the folder
            files = ["-c", str(config), "-c", self.overlay]
            run_stage(stage, ["fit", *files, *extras, "--output", str(folder), *flags])

        return self.cached(stage, f"fit-{stage}", spec, build)

    def _stage_changes(self, stage: str) -> list[str]:
        """The changes of a stage as flags of `mossrepro fit`."""
        return [f"--{c.removeprefix(stage + '.')}" for c in self.changes if c.startswith(f"{stage}.")]

    def extras(self, stage: str) -> list[str]:
        """Overlays and flags that a subclass adds to the command line of a stage."""
        return []

    def _number(self, name: str) -> Any:
        """`size.codec.steps` -> its value."""
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return asdict(value) if is_dataclass(value) else value

    def codec_corpus(self) -> Path:
        """Sentences for the tokenizer, with the times of their phones in the cache."""
        if self.given:
            raise DataError(f"{self.size.sound}: a pack holds no recordings; leave size.sound as it is")
        size = self.sound.size
        corpus = codec_corpus(size.codec_corpus or size.name, cached=self._cached_data, voices=size.roster)
        phone_times(corpus, cached=self._cached_data)
        return corpus

    @or_given
    def codec(self) -> Path:
        """The trained speech tokenizer; its recogniser is not trained yet."""
        return self.sound.fit("codec", data__corpus=self.codec_corpus())

    @or_given
    def recogniser(self) -> Path:
        """The same tokenizer with its recogniser trained."""
        return self.read(self.codec(), self.tokenise(self.codec_corpus(), self.codec()))

    def read(self, codec: Path, tokens: Path, corpus: Path | None = None) -> Path:
        """A tokenizer with a recogniser trained on its codes of `corpus` (default: the codec's own corpus)."""
        return self.fit(
            "recogniser", model__codec=codec, data__corpus=corpus or self.codec_corpus(), data__tokens=tokens
        )

    def _cached_data(self, kind: str, spec: dict, build: Callable[[Path], None]) -> Path:
        return self.cached("data", kind, spec, build)

    def pretrained(self) -> str | Path:
        """The text model as others trained it: "smollm2" or a hub folder."""
        return "smollm2" if self.size.backbone.source == "smollm2" else Path(self.size.backbone.folder)

    @or_given
    def flow(self) -> Path:
        """The flow decoder of the assistant's voice; where the size has `voices`, of prompted ones too."""
        tokens, corpus = self.sound.tokens(), self.sound.script()
        others = self._others()
        if others:
            others |= {"data__others_tokens": tokens, "model__voice_dim": 256, "model__prompt_share": 0.5}
        return self.sound.fit("flow", model__codebook=tokens, data__corpus=corpus, data__tokens=tokens, **others)

    @or_given
    def vocoder(self) -> Path:
        """The vocoder, trained beside discriminators at its end if the size has steps for that."""
        plain = self.sound.fit("vocoder", data__corpus=self.sound.script(), **self._others())
        if not self.sound.size.adversarial.steps:
            return plain
        corpus = self.sound.script()
        return self.sound.fit("adversarial", data__corpus=corpus, model__vocoder=plain, **self._others())

    def _others(self) -> dict[str, Any]:
        """Inputs of flow decoder and vocoder that add the script's other voices; the assistant keeps most of a step."""
        shared = {"data__others": self.sound.script(), "data__others_share": "0.3"}
        return shared if self.sound.size.flow.voices else {}
