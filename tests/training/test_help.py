"""`mossrepro fit --help` says what every setting is: one argument a line in tasks and data modules."""

import importlib
import inspect
import pkgutil

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

import mossrepro

NAMES = [
    module.name for module in pkgutil.walk_packages(mossrepro.__path__, "mossrepro.") if "__main__" not in module.name
]
CLASSES = {
    one
    for name in NAMES
    for one in vars(importlib.import_module(name)).values()
    if inspect.isclass(one) and issubclass(one, LightningModule | LightningDataModule) and one.__module__ == name
}
BASES = {
    "Task",
    "SoundTask",
    "WaveTask",
    "SoundDataModule",
    "StepDataModule",
    "BackboneTask",
}  # never named in a configuration, or documented above


NAMED = sorted((one for one in CLASSES if one.__name__ not in BASES), key=lambda one: one.__name__)


@pytest.mark.parametrize("one", NAMED, ids=lambda one: one.__name__)
def test_every_argument_has_a_line_of_its_own(one):
    lines = [line.strip() for line in (one.__doc__ or "").partition("Args:")[2].splitlines()]
    for name in list(inspect.signature(one.__init__).parameters)[1:]:
        entries = [line for line in lines if line.startswith(f"{name}: ")]
        assert len(entries) == 1 and len(entries[0]) > len(name) + 8, f"{name}: {len(entries)} entries"
