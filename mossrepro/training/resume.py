"""What a fit may be continued with: the settings that change its weights are those that it was started with."""

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mossrepro.training.callbacks import checkpoint_step, read_checkpoint
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.io import write_json
from mossrepro.utils.private_apis import run_hooks_at_the_end
from mossrepro.utils.records import misfit, read_json

FIXED = ("model", "data", "seed_everything")


def weight_settings(trainer: Trainer) -> dict[str, Any]:
    """The trainer's settings that change the weights: the length of every schedule, and how a step is computed."""
    algorithm = trainer.gradient_clip_algorithm
    return {
        "max_steps": trainer.max_steps,  # learning rate, quantiser and unfreezing are functions of step / max_steps
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val or None,
        "gradient_clip_algorithm": getattr(algorithm, "value", algorithm),
        "precision": str(trainer.precision),
    }


def machine(trainer: Trainer) -> str:
    """What a trainer runs on, in words."""
    kinds = [type(part).__name__ for part in (trainer.strategy, trainer.accelerator)]
    return f"{trainer.num_devices * trainer.num_nodes} x {kinds[1]} ({kinds[0]})"


def settings_of(config: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """What `fit.json` holds: model, data and seed of a parsed configuration, and what the trainer adds to them."""
    now = {key: config.get(key) for key in FIXED}
    return {**now, "trainer": weight_settings(trainer), "machine": machine(trainer)}


def check_settings(path: Path, now: dict[str, Any]) -> None:
    """Compare the settings of a fit with those in its `fit.json`; a change of devices is allowed and printed.

    How many batches make a step on other devices is checked by the data (`StepDataModule`). Files of earlier versions
    hold no trainer settings; what they lack is not compared.

    Raises:
        ConfigError: a setting differs that changes the weights.
    """
    if not path.exists():
        return
    before = read_json(path, ConfigError)
    if misfit(before, dict) or misfit(before.get("trainer", {}), dict):
        raise ConfigError(f"{path}: not the settings of a fit; delete {path.parent / 'ckpt'} to start again")
    told = {name: before.get("trainer", {}).get(name, value) for name, value in now["trainer"].items()}
    kept = {**{key: before.get(key) for key in FIXED}, "trainer": told}
    key = first_difference(_without_workers(kept), _without_workers({k: now[k] for k in kept}))
    if key:
        old, new = (_find(settings, key) for settings in (kept, now))
        raise ConfigError(
            f"{path.parent} was started with another {key}: {old} then, {new} now. Give the old value or another "
            f"--output, or delete {path.parent / 'ckpt'} to start again"
        )
    if before.get("machine", now["machine"]) != now["machine"]:
        print(f"mossrepro fit: started on {before['machine']}, continuing on {now['machine']}", file=sys.stderr)


def write_settings(path: Path, now: dict[str, Any]) -> None:
    """Write `fit.json`."""
    write_json(path, now, indent=2)


def check_step(trainer: Trainer, checkpoint: Path) -> None:
    """Look where a checkpoint stands: at the last step only validation and export are left, and are done.

    Raises:
        CheckpointError: it is past the last step.
    """
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    step, last = checkpoint_step(read_checkpoint(file, mmap=True), file), trainer.max_steps
    if step > last >= 0:
        raise CheckpointError(
            f"{checkpoint} is of step {step}, past --trainer.max_steps {last}: give {step} or more, or another --output"
        )
    if step == last:
        run_hooks_at_the_end(trainer)


def first_difference(a: Any, b: Any, key: str = "") -> str | None:
    """The dotted name of the first entry in which two nested mappings differ, or None."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(n for n in b if n not in a)]:
            found = first_difference(a.get(name), b.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if a == b else key


def _find(settings: Any, key: str) -> Any:
    """The value of a dotted name, None where there is none."""
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def _without_workers(settings: dict[str, Any]) -> dict[str, Any]:
    """The same without `data.init_args.num_workers`: the batches are the same for every number."""
    data = dict(settings.get("data") or {})
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k != "num_workers"}
    return {**settings, "data": data}


def name_states(state: dict[str, Any], names: list[str]) -> None:
    """Replace the parameter numbers in an optimiser's `state_dict` by `names`, in place.

    Does nothing where they are names already, or on a rank that holds no state.
    """
    numbers = [number for group in state.get("param_groups", ()) for number in group["params"]]
    if not numbers or not all(isinstance(number, int) for number in numbers):
        return
    state["state"] = {names[number]: value for number, value in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [names[number] for number in group["params"]]
