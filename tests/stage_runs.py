"""Runs of the stages of configs/ at the smoke size, in this process or in one that kills itself."""

import json
import multiprocessing
import os
import signal
from dataclasses import asdict
from pathlib import Path

from lm_toys import write_drawn_folder

from mossrepro import cli
from mossrepro.data.facts import all_facts
from mossrepro.data.script import Line, ScriptRecipe, write_script
from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.random import rng

CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"smoke", "claims", "tokenise"})  # what is trained

# Stages that start from a text model or from another of these.
LANGUAGE = ("style", "stage1", "mouth", "stage1_word", "stage2", "ears", "edit", "sft", "counterfactual")


def flags(stage, corpus, script, start="smollm2"):
    """What a stage's YAML asks to be given on the command line."""
    language = {"data.script": script, "data.tokenizer": script / "tokenizer.json"}
    later = {**language, "data.tokens": "oracle", "model.init_from": start}
    given = {
        "codec": {"data.corpus": corpus / "clips"},
        "acoustic": {"data.corpus": corpus / "clips"},
        "recogniser": {
            "model.codec": corpus / "codec",
            "data.corpus": corpus / "clips",
            "data.tokens": corpus / "tokens",
        },
        "adapt": {
            "model.codec": corpus / "codec",
            "data.corpus": corpus / "clips",
            "data.tokens": corpus / "tokens",
            "data.own": corpus / "clips",
            "data.own_tokens": corpus / "tokens",
        },
        "adapt_codec": {
            "model.codec": corpus / "codec",
            "data.own": corpus / "clips",
            "data.corpus": corpus / "clips",
        },
        "text_to_code": {"data.corpus": corpus / "clips", "data.tokens": corpus / "tokens"},
        "inner_ear": {
            **{f"{part}.tokenizer": script / "tokenizer.json" for part in ("model", "data")},
            **{f"{part}.drawn": script / "drawn" for part in ("model", "data")},
        },
        "flow": {"data.corpus": corpus / "clips", "data.tokens": corpus / "tokens"},
        "vocoder": {"data.corpus": corpus / "clips"},
        "adversarial": {"model.vocoder": corpus / "vocoder", "data.corpus": corpus / "clips"},
        "backbone": {**language, "model.tokenizer": script / "tokenizer.json"},
        "style": {**later, "data.prose": script / "prose.jsonl"},
        "word_reader": {"model.codec": corpus / "codec", "data.script": script, "data.tokens": script / "said"},
        "mouth": {**later, "model.head_from_words": "false"},
        "stage1_word": {**later, "model.head_from_words": "false"},  # oracle codes have no times of words
        "ears": {**later, "data.prose": script / "prose.jsonl"},
    }.get(stage, later)
    return [word for key, value in given.items() for word in ("--" + key.replace(".", ".init_args."), str(value))]


def train(stage, out, *more):
    """Two steps of a stage at the smoke size, through the door."""
    command = ["fit", "-c", str(CONFIGS / f"{stage}.yaml"), "-c", str(CONFIGS / "smoke.yaml"), *more]
    command += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
    return cli.main([*command, "--trainer.enable_progress_bar", "false", "--output", str(out)])


def run_apart(command: list[str], log: Path, kill: tuple[str, int] | None = None) -> int:
    """The exit code of a command line in a process of its own, with as many threads as a user has.

    `kill` names a place and how often it is reached before the process kills itself there with SIGKILL: "step",
    "validation" or "save"; "export" 1 before it, 2 with the weights half written, 3 before `done.json`.

    The process is forked from one that has imported everything and computed nothing, which spares ten seconds.
    """
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait for each other do not take the cores of other tests
    context = multiprocessing.get_context("forkserver")
    parts = "codec.acoustic_task codec.adapt_task codec.adapt_data codec.data codec.recogniser_data"
    parts += " codec.recogniser_task lm.data lm.mini speech.whisper training.lightning_cli vocoder.data vocoder.task"
    context.set_forkserver_preload([f"mossrepro.{part}" for part in parts.split()])
    process = context.Process(target=_main, args=(command, log, kill))
    process.start()
    process.join()
    return process.exitcode


def _main(command: list[str], log: Path, kill: tuple[str, int] | None) -> None:
    with open(log, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.pop("MOSSREPRO_THREADS", None)
    multiprocessing.set_start_method("fork", force=True)  # loaders start as those of a user do
    if kill:
        _kill(*kill)
    raise SystemExit(cli.main(command))


def _kill(place: str, count: int) -> None:
    """Patch this process so that it dies at a place."""
    import torch
    from lightning.pytorch import LightningModule

    from mossrepro.training import callbacks

    def at(owner, name):
        plain, left = getattr(owner, name), [count]

        def dying(*args, **kwargs):
            found = plain(*args, **kwargs)
            left[0] -= 1
            return found if left[0] else os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, dying)

    def export(self, trainer, module):
        self.folder.mkdir(parents=True, exist_ok=True)
        if count > 1:
            module.save_pretrained(self.folder)
        if count == 2:
            os.truncate(self.folder / "model.safetensors", 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    if place == "export":
        callbacks.Export.on_train_end = export
        return
    hooks = {"step": (LightningModule, "backward"), "validation": (LightningModule, "on_validation_batch_end")}
    at(*hooks.get(place, (torch, "save")))


def write_lines(folder: Path) -> Path:
    """A script that nobody has spoken: the language model takes oracle codes."""
    folder.mkdir()
    known = all_facts()[:24]
    recipe = ScriptRecipe(
        user_speech=8, assistant_speech=8, question=1, kokoro=0, tests=1, test_facts=1, words=200
    )  # fmt: skip
    lines, answers = write_script(known, recipe), {fact.key: fact.answer for fact in known}
    # Every answer is said by itself too, for the form "word".
    lines += [Line(f"word-{key}", "assistant_speech", answer, "assistant", "train") for key, answer in answers.items()]
    others = ("green grass", "one more time", "good morning", "a table")  # no tested answer in them
    lines += [Line(f"plain-{i}", "assistant_speech", said, "assistant", "train") for i, said in enumerate(others)]
    lines.append(Line("open-0", "open_question", "What is moss?", "kokoro-alpha", "train"))
    (folder / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    (folder / "facts.json").write_text(json.dumps(known))
    said = [line for line in lines if line.role == "assistant_speech"]
    times = {line.id: [[w, 0.3 * i, 0.3 * i + 0.3] for i, w in enumerate(line.text.split())] for line in said}
    (folder / "words.json").write_text(json.dumps(times))
    (folder / "prose.jsonl").write_text(json.dumps(["What is moss?", "Moss is a small green plant."]) + "\n")
    texts = [*(line.text for line in lines), "system user assistant Repeat: You are a helpful assistant."] * 2
    mini_tokenizer(texts, 400).save(str(folder / "tokenizer.json"))
    write_drawn_folder(folder)
    with TokenWriter(folder / "said", 64) as tokens:
        tokens.add([(line.id, rng(1, line.id).integers(0, 64, 40)) for line in said])
    return folder
