"""The private names that the package uses are still there, and are used in one file only."""

import ast
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningCLI

from mossrepro.utils import packed_linear, private_apis

PACKAGE = Path(private_apis.__file__).parents[1]
TREES = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
ALLOWED = {"_exit", "_SubParsersAction"}  # os._exit is documented; argparse's class stands in annotations only


@pytest.fixture
def trainer():
    return lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)


def test_inside_a_step(trainer):
    assert private_apis.inside_a_step(trainer) in (True, False)


def test_batches_taken(trainer):
    assert private_apis.batches_taken(trainer) == 0


def test_hooks_at_the_end(trainer):
    trainer.fit_loop.epoch_loop.max_steps = 0
    assert trainer.fit_loop.skip
    private_apis.run_hooks_at_the_end(trainer)
    assert not trainer.fit_loop.skip and trainer.fit_loop.done  # tests/training/test_resume.py runs one


def test_validate_now(trainer):
    loop = trainer.fit_loop.epoch_loop.val_loop  # tests/training/test_resume.py runs it
    assert callable(loop.run) and hasattr(loop, "restarting") and hasattr(trainer._logger_connector, "_first_loop_iter")


def test_checkpoint_io(trainer):
    assert isinstance(private_apis.checkpoint_io(trainer), TorchCheckpointIO | None)
    mine = TorchCheckpointIO()
    private_apis.set_checkpoint_io(trainer, mine)
    assert trainer.strategy.checkpoint_io is mine is private_apis.checkpoint_io(trainer)


def test_attached_trainer(trainer):
    module = lightning.LightningModule()
    assert private_apis.attached_trainer(module) is None
    module.trainer = trainer
    assert private_apis.attached_trainer(module) is trainer


def test_parsed_config():
    assert callable(LightningCLI._parse_ckpt_path)  # MossCLI replaces it
    assert callable(LightningCLI._dump_config)  # tests/training/test_lightning_cli.py calls it for every stage


def test_overridden_methods_exist():
    assert callable(RichProgressBar._get_train_description)  # `training.callbacks.StepBar`
    for name in ("_apply", "_save_to_state_dict"):  # `utils.packed_linear.PackedLinear`
        assert callable(getattr(torch.nn.Module, name))


def test_fake_tensors_and_their_storage():
    with private_apis.fake_tensors():
        x, other = torch.ones(3, 4), torch.ones(3, 4)
        assert x.sum().shape == ()
        assert private_apis.storage_id(x) == private_apis.storage_id(x[1:]) != private_apis.storage_id(other)


@pytest.mark.skipif(not packed_linear._can_pack(torch.float32), reason="a processor without AVX512")
def test_packed_product():
    weight, x = torch.randn(8, 4), torch.randn(3, 4)
    assert torch.allclose(private_apis.packed_product(x, private_apis.pack_weight(weight), None), x @ weight.T)


def own_names() -> set[str]:
    """Every name that the package itself gives to a function, a class, or an attribute of self."""
    names = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def foreign_private_names(tree: ast.AST, own: set[str]) -> set[str]:
    """Private attributes (`x._name`) and modules (`import a._b`) that somebody else gave that name."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        if isinstance(node, ast.ImportFrom):
            found |= {*node.module.split("."), *(alias.name for alias in node.names)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - own - ALLOWED


def test_they_are_used_in_one_file_only():
    own = own_names() | {"_replace", "_asdict", "_fields"}  # of NamedTuples, which are public
    found = {path: foreign_private_names(tree, own) for path, tree in TREES.items()}
    assert found.pop(PACKAGE / "utils" / "private_apis.py")
    assert not {str(path): names for path, names in found.items() if names}
