"""Every fit of configs/ ends when its loss is no longer finite; nothing is exported, the last good checkpoint stays."""

import importlib

import pytest
import torch
import yaml
from stage_runs import CONFIGS, LANGUAGE, STAGES, flags, train


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_no_number_ends_the_fit(stage, corpus, script, tmp_path, request, monkeypatch, capsys) -> None:
    """A weight is spoilt before the second of two steps, so that the loss itself has to tell."""
    backbone = request.getfixturevalue("backbone") if stage in LANGUAGE else ""
    module, _, name = yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text())["model"]["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    step = kind.training_step

    def spoilt(self, batch, index):
        if self.global_step == 1:
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.data.fill_(float("nan"))
        return step(self, batch, index)

    monkeypatch.setattr(kind, "training_step", spoilt)
    capsys.readouterr()
    assert train(stage, tmp_path, *flags(stage, corpus, script, backbone), "--save_steps", "1") == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("mossrepro: ") and not line.endswith("are left out")]
    assert len(lines) == 1 and "the loss is no longer finite at step 1" in lines[0]
    state = torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    values = [value for value in state["state_dict"].values() if value.is_floating_point()]
    assert state["global_step"] == 1 and all(value.isfinite().all() for value in values)
    assert not (tmp_path / "done.json").exists() and not (tmp_path / "model.safetensors").exists()
