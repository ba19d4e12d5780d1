"""The private names that the package uses are still there, and are used in one file only."""

import re
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import RichProgressBar

from mossrepro.utils import packed_linear, private_apis

PACKAGE = Path(private_apis.__file__).parents[1]
PRIVATE = re.compile(r"mkldnn\._|torch\._|FakeTensorMode|\._should_accumulate|\._checkpoint_io|self\._trainer")


@pytest.fixture
def trainer():
    return lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)


def test_lightnings_names(trainer):
    assert private_apis.inside_a_step(trainer) in (True, False)
    assert isinstance(private_apis.checkpoint_io(trainer), TorchCheckpointIO | None)
    mine = TorchCheckpointIO()
    private_apis.set_checkpoint_io(trainer, mine)
    assert trainer.strategy.checkpoint_io is mine
    assert private_apis.attached_trainer(lightning.LightningModule()) is None
    assert hasattr(RichProgressBar, "_get_train_description")  # `training.callbacks.StepBar` overrides it


def test_torchs_names():
    with private_apis.fake_tensors():
        assert torch.ones(3, 4).sum().shape == ()
    if packed_linear._can_pack(torch.float32):
        weight, x = torch.randn(8, 4), torch.randn(3, 4)
        assert torch.allclose(private_apis.packed_product(x, private_apis.pack_weight(weight), None), x @ weight.T)


def test_they_are_used_in_one_file_only():
    files = [path for path in PACKAGE.rglob("*.py") if PRIVATE.search(path.read_text())]
    assert files == [PACKAGE / "utils" / "private_apis.py"]
