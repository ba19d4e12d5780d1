"""Checkpoints and weights of others: plain data or one line, in every verb, and never from the network."""

import json
import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy_stage import STAGE

from mossrepro import cli
from mossrepro.training.callbacks import read_checkpoint
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import INDEX, Shards

TESTS = Path(__file__).parents[1]
VERBS = ("fit", "validate", "test", "predict")


class Code:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def line(tmp_path, monkeypatch, capsys):
    """Runs a verb of the toy stage from a checkpoint: (exit code, last line of what it said)."""
    monkeypatch.syspath_prepend(str(TESTS))
    (tmp_path / "stage.yaml").write_text(STAGE)
    files = ["-c", str(tmp_path / "stage.yaml"), "-c", str(TESTS.parent / "configs" / "size" / "small.yaml")]

    def run(verb, checkpoint, *flags):
        code = cli.main([verb, *files, "--size.codec.batch", "4", "--ckpt_path", str(checkpoint), *flags])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return run


@pytest.mark.parametrize("flags", [[], ["--weights_only", "false"]])
@pytest.mark.parametrize("verb", VERBS)
def test_a_checkpoint_with_code_is_never_run(verb, flags, line, tmp_path):
    torch.save({"state_dict": {}, "global_step": 0, "x": Code(tmp_path / "mark")}, tmp_path / "x.ckpt")
    code, said = line(verb, tmp_path / "x.ckpt", *flags)
    assert code == 2 and ("x.ckpt" in said or verb == "test") and not (tmp_path / "mark").exists(), said


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x.ckpt", "https://x/y", "s3://x/y", "registry:x", "file:///etc/passwd",
                                   "nowhere.ckpt", "best", "last", "hpc", "x" * 5_000])  # fmt: skip
@pytest.mark.parametrize("verb", ["validate", "fit"])
def test_a_checkpoint_is_a_file_of_this_machine(verb, place, line, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("opens a connection"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetches"))
    code, said = line(verb, place)
    assert code == 2 and "--ckpt_path" in said and place[:50] in said and len(said) < 500, said


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_checkpoint_names_no_class_and_changes_no_setting(verb, line, tmp_path):
    """Its hyperparameters are a configuration, and a configuration is code."""
    settings = {"_class_path": "subprocess.Popen", "args": ["mkdir", str(tmp_path / "mark")]}
    good = {"state_dict": {}, "global_step": 0, "epoch": 0, "loops": {}, "pytorch-lightning_version": "2.6.4"}
    for hyper_parameters in (settings, {"width": 7}):
        torch.save({**good, "hyper_parameters": hyper_parameters}, tmp_path / "x.ckpt")
        code, said = line(verb, tmp_path / "x.ckpt")
        assert code == 2 and "does not fit the model" in said and "net.0.weight" in said, said
    assert not (tmp_path / "mark").exists()


WRONG = {
    "empty": b"",
    "text": b"hello",
    "pickle": pickle.dumps({"state_dict": {}}),
    "deep": b"\x80\x02" + b"(" * 200_000,
    "list": [1, 2],
    "no weights": {"x": 1},
    "no tensors": {"state_dict": {"net.0.weight": 3}, "global_step": 0, "epoch": 0, "loops": {},
                   "pytorch-lightning_version": "2.6.4"},
    "no mapping": {"state_dict": 3, "global_step": 0, "epoch": 0, "loops": {}, "pytorch-lightning_version": "2.6.4"},
    "no version": {"state_dict": {}, "global_step": 0, "epoch": 0, "loops": {}, "pytorch-lightning_version": "x"},
    "no step": {"state_dict": {}, "global_step": "3", "epoch": 0, "loops": {}, "pytorch-lightning_version": "2.6.4"},
    "others": {"state_dict": {"x": torch.zeros(1)}, "global_step": 0, "epoch": 0, "loops": {},
               "pytorch-lightning_version": "2.6.4"},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_checkpoint_that_is_none_is_one_line(kind, verb, line, tmp_path):
    what = WRONG[kind]
    (tmp_path / "x.ckpt").write_bytes(what) if isinstance(what, bytes) else torch.save(what, tmp_path / "x.ckpt")
    code, said = line(verb, tmp_path / "x.ckpt")
    assert code == 2 and ("x.ckpt" in said or "does not fit" in said), said


def test_any_cut_and_any_flipped_byte_of_a_checkpoint_is_one_line(tmp_path):
    torch.save({"state_dict": {"a": torch.arange(8.0)}, "global_step": 3}, tmp_path / "whole.ckpt")
    whole, path = (tmp_path / "whole.ckpt").read_bytes(), tmp_path / "x.ckpt"
    for place in range(0, len(whole), 23):
        for broken in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(broken)
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                assert "x.ckpt" in str(error)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", ".", 3, None, ["x"]])
def test_an_index_of_weights_names_files_beside_it(file, tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors")
    save_file({"v": torch.zeros(2)}, tmp_path / "in" / "y.safetensors")
    (tmp_path / "in" / INDEX).write_text(json.dumps({"weight_map": {"v": "y.safetensors", "w": file}}))
    with pytest.raises(CheckpointError, match="in"):
        Shards(tmp_path / "in")
