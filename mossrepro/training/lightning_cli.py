"""`fit validate test predict`: LightningCLI with one choice of scale, `size`.

    mossrepro fit -c configs/codec.yaml -c configs/size/small.yaml --output runs/codec [--trainer.max_steps 10 ...]

A stage's YAML names the classes and takes its numbers from `${size...}`; an overlay of `configs/size/` fills `size`
(`mossrepro.training.sizes.Size`). Unknown keys are refused while parsing.
"""

import argparse
import contextlib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from mossrepro.training import resume
from mossrepro.training.callbacks import (
    AtomicCheckpoint,
    Export,
    ProgressFile,
    ResumedValidation,
    StepBar,
    read_safely,
)
from mossrepro.training.config import resolved_arguments
from mossrepro.training.finite import FiniteCheck
from mossrepro.training.sizes import Size
from mossrepro.utils.devices import best_device, training_precision
from mossrepro.utils.errors import CheckpointError, ConfigError, MossError, missing_package
from mossrepro.utils.locks import exclusive
from mossrepro.utils.private_apis import parsed_config

# Without this setting `${...}` keeps the old value when a flag overrides its source.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

TRAINER_DEFAULTS = {
    "devices": 1,  # on a machine with several GPUs too; more are asked for
    "max_epochs": -1,  # one endless epoch, ended by max_steps
    "logger": False,  # ProgressFile keeps the curves
    "enable_checkpointing": False,  # AtomicCheckpoint does it
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # Lightning's sampler shuffles even when the loader says not to
    "check_val_every_n_epoch": None,
    "val_check_interval": 500,
}


class MossCLI(LightningCLI):
    """LightningCLI plus `--size`, `--output`, `--save_minutes` and `--save_steps`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.ExitStack() as self._held:  # holds the lock on the output folder while the command runs
            super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the project's own flags to every subcommand."""
        parser.add_class_arguments(Size, "size")
        parser.add_argument(
            "--output", type=str | None, default=None, help="Folder for the weights, metrics and resume file of a fit."
        )
        parser.add_argument(
            "--save_minutes", type=float, default=2.0, help="Minutes between two resume checkpoints; 0 for none."
        )
        parser.add_argument(
            "--save_steps", type=int, default=0, help="Optimiser steps between two resume checkpoints; 0 for none."
        )

    def _parse_ckpt_path(self) -> None:
        """Only looks whether the checkpoint is there, and has it read as plain data by sharded strategies, too.

        LightningCLI would take the model's class and settings from its hyperparameters, over those of the command line:
        a checkpoint of somebody else could name any class.
        """
        if self.config.get("subcommand"):
            config = self.config[self.config["subcommand"]]
            _check_checkpoint(config.get("ckpt_path"))
            config["weights_only"] = True

    def before_instantiate_classes(self) -> None:
        """Refuses a size without its text model, and a precision in which nothing here can be trained."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        _check_start(config)
        if str(config["trainer"]["precision"]).startswith("16"):
            what = "gradients in float16 must be scaled, which the optimisers here do not do"
            raise ConfigError(f"trainer.precision={config['trainer']['precision']}: {what}; take bf16-mixed or 32-true")

    def instantiate_classes(self) -> None:
        """Builds trainer, model and data, in float32 instead of "bf16-mixed" where bfloat16 is emulated.

        On such devices it would be slower than float32.
        """
        trainer = (self.config[self.subcommand] if self.subcommand else self.config)["trainer"]
        if trainer["precision"] in ("bf16-mixed", "bf16"):
            device = torch.device("cpu") if trainer["accelerator"] == "cpu" else best_device()
            trainer["precision"] = training_precision(device)
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration, which reads checkpoints as plain data in every verb."""
        trainer = super().instantiate_trainer(**kwargs)
        read_safely(trainer)
        return trainer

    def before_fit(self) -> None:
        """Adds the output callbacks to the trainer and resumes from `output/ckpt/last.ckpt` if it exists."""
        config = self.config["fit"]
        bars = [i for i, callback in enumerate(self.trainer.callbacks) if type(callback) is RichProgressBar]
        for i in bars:  # none with `--trainer.enable_progress_bar false`; other bars stay
            self.trainer.callbacks[i] = StepBar()
        if config.get("output") is None:
            print("mossrepro fit: no --output, nothing will be saved", file=sys.stderr)
            self.trainer.callbacks.append(FiniteCheck())
            return
        output = Path(config["output"])
        if self.trainer.is_global_zero:
            self._held.enter_context(exclusive(output))
        if (output / "done.json").exists():
            raise ConfigError(f"{output} holds a finished fit; give another --output or delete {output / 'done.json'}")
        last = output / "ckpt" / "last.ckpt"
        self._resume(output, last)
        self.trainer.callbacks += [
            FiniteCheck(last),
            ProgressFile(output / "metrics.jsonl"),
            Export(output),
            AtomicCheckpoint(output / "ckpt", config["save_steps"], config["save_minutes"]),
            ResumedValidation(),
        ]

    def _resume(self, output: Path, last: Path) -> None:
        """Continues from `last` if it exists, with the settings that the fit was started with (`resume.py`)."""
        now = resume.settings_of(parsed_config(self), self.trainer)
        if last.exists():
            resume.check_settings(output / "fit.json", now)
            if not self.config["fit"].get("ckpt_path"):
                print(f"mossrepro fit: continuing from {last}", file=sys.stderr)
                self.config_init["fit"]["ckpt_path"] = str(last)
        elif self.trainer.is_global_zero:
            resume.write_settings(output / "fit.json", now)
        start = self.config_init["fit"].get("ckpt_path")
        if start and Path(start).exists():
            resume.check_step(self.trainer, Path(start))

    def before_predict(self) -> None:
        """Holds the output folder: an earlier process may still be about to end."""
        output = self.config["predict"].get("output")
        if output is not None and self.trainer.is_global_zero:
            self._held.enter_context(exclusive(output))


def _check_start(config: Any) -> None:
    """ConfigError for a size whose text model comes from the hub, if `init_from` does not name its folder."""
    size, model = config.get("size"), config.get("model") or {}
    init_from = (model.get("init_args") or {}).get("init_from")
    if size and size["backbone"]["source"] == "hub" and init_from == "smollm2":
        shape = f"{size['backbone']['layers']} layers of dim {size['backbone']['dim']}"
        what = f"size {size['name']} is of a text model with {shape}, not of SmolLM2"
        raise ConfigError(f"{what}; give --model.init_args.init_from FOLDER, as the hub has it")


def _check_checkpoint(path: Any) -> None:
    """ConfigError for a `--ckpt_path` that is no file here: Lightning would fetch an URL and run what it pickles."""
    if path is not None and not os.path.exists(path):
        name = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise ConfigError(
            f"--ckpt_path {name}: no such file on this machine; give that of a fit, as .../ckpt/last.ckpt"
        )


class _Parsed(MossCLI):
    """The command line up to its settings: they are read and checked, nothing is built."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""


def main(args: list[str], run: bool = True) -> MossCLI:
    """Runs one of the four subcommands in this process; `run=False` only builds trainer, model and data.

    With `run=False` there is no subcommand in `args`.

    Raises:
        ConfigError: an unknown key, a missing number or a value of the wrong type.
        CheckpointError: a checkpoint that does not fit the model.
    """
    return _open(MossCLI, args, run)


def _open(kind: type[MossCLI], args: list[str], run: bool) -> MossCLI:
    """Runs LightningCLI with the project's defaults; every error that a user can mend becomes one line."""
    _quiet()
    args = resolved_arguments(args)
    parser = {"parser_mode": "omegaconf+", "exit_on_error": False}
    try:
        return kind(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={**parser, **{verb: parser for verb in MossCLI.subcommands()}} if run else parser,
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )
    except SystemExit as error:  # Lightning's answer to an interruption is exit code 1, a failed claim here
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except argparse.ArgumentError as error:
        raise ConfigError(missing_package(error) or one_line(str(error))) from error
    except MisconfigurationException as error:  # Lightning's word for what a user asked and a task cannot
        raise ConfigError(one_line(str(error))) from error
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(str(error).splitlines()[0])) from error
    except ValueError as error:  # what a constructor raised, wrapped by the parser
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MossError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    except RuntimeError as error:
        if "multiplied should equal the world size" in str(error):
            raise ConfigError(f"{one_line(str(error))} See configs/strategy.") from error
        if "Error(s) in loading state_dict" not in str(error):
            raise
        raise CheckpointError(f"the checkpoint does not fit the model: {str(error).splitlines()[1].strip()}") from error


def parse(args: list[str]) -> dict[str, Any]:
    """The configuration of `args` (without a subcommand), checked and with every `${...}` resolved; builds nothing.

    Raises:
        ConfigError: as `main`.
    """
    return parsed_config(_open(_Parsed, args, run=False))


def _quiet() -> None:
    """Silences advertisements and warnings about Lightning's own calls; real warnings still show."""
    unwanted = (
        "LightningCLI's args parameter",
        "`isinstance\\(treespec, LeafSpec\\)`",
        "does not have many workers",
        "have no `validation_step`",
        "predict returned None",
        "across ranks is zero",
    )
    for message in unwanted:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)


def one_line(message: str) -> str:
    """Jsonargparse's nested report as one line: the innermost problem with the key it belongs to."""
    problem = re.search(
        r"- (Problem with given class_path .*?)(?:\n\s*- Expected a <class 'NoneType'>|$)", message, re.S
    )
    if problem:
        key = re.match(r'Parser key "([\w.]+)"', message)
        message = (f"{key.group(1)}: " if key else "") + problem.group(1)
    return re.sub(r"\s+", " ", message).strip().replace(" fit.", " ")
