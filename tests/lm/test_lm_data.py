"""Batches of documents: a pure function of the step, split over ranks without overlap."""

import json
import shutil

import numpy as np
import pytest
import torch
from lm_toys import module

from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.data import collate
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError


def test_same_step_same_batch(folder) -> None:
    one, other = module(folder), module(folder)
    other.train_batch(9, 0, 1)
    for step in (5, 0):
        a, b = one.train_batch(step, 0, 1), other.train_batch(step, 0, 1)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(one.train_batch(0, 0, 1)["grid"], module(folder, seed=1).train_batch(0, 0, 1)["grid"])


def test_ranks_share_the_batch(folder) -> None:
    whole = module(folder).train_batch(3, 0, 1)
    parts = [module(folder).train_batch(3, rank, 2) for rank in (0, 1)]
    for key in ("text_target", "monologue_target", "speech_target"):
        assert sum(int((p[key] >= 0).sum()) for p in parts) == int((whole[key] >= 0).sum())


def test_bad_mixes_and_folders_are_named(folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="data.mix"):
        module(folder, mix={"text": 0.0})
    for mix in ({"S2T": 1.0}, {"S2T": 1.0, "asr": 0.0}):
        with pytest.raises(ConfigError, match=r"recordings .* data\.mix\.asr"):
            module(folder, mix=mix, recordings=str(folder), recordings_tokens=str(folder))
    with pytest.raises(DataError, match="no word times"):
        module(folder, mix={"interleaved": 1.0})
    with pytest.raises(DataError, match=r"script\.jsonl"):
        module(folder, script=str(tmp_path))
    shutil.copytree(folder, tmp_path / "apart")
    lines = (folder / "script.jsonl").read_text().splitlines()
    apart = [line for line in lines if json.loads(line)["role"] != "user_speech"]
    (tmp_path / "apart" / "script.jsonl").write_text("\n".join(apart))
    with pytest.raises(DataError, match=r"data\.mix\.repeat to 0"):
        module(folder, script=str(tmp_path / "apart"), mix={"repeat": 1.0})


def test_what_does_not_fit_the_script_is_named(folder, tmp_path) -> None:
    with TokenWriter(tmp_path / "store", 32) as store:
        store.add([("x", np.zeros(3, int))])
    with pytest.raises(DataError, match="codebook of 32, data.codes says 64"):
        module(folder, tokens=str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="system_turns='polite': choose released or short"):
        module(folder, system_turns="polite")
    with pytest.raises(CheckpointError, match="nowhere.json: is missing"):
        module(folder, tokenizer=str(tmp_path / "nowhere.json"))
    shutil.copytree(folder, tmp_path / "script")
    lines = (folder / "script.jsonl").read_text().splitlines(keepends=True)
    unasked = [line for line in lines if json.loads(line)["role"] != "answer"]
    (tmp_path / "script" / "script.jsonl").write_text("".join(unasked))
    with pytest.raises(DataError, match="no document of kind 'T2S': .* set data.mix.T2S to 0"):
        module(tmp_path / "script", tokenizer=str(folder / "tokenizer.json"), mix={"asr": 1.0, "T2S": 0.1})
    (tmp_path / "script" / "facts.json").unlink()
    with pytest.raises(DataError, match="no facts.json"):
        module(tmp_path / "script", tokenizer=str(folder / "tokenizer.json"))


def test_lines_without_codes_are_left_out_and_counted(folder, tmp_path, capsys) -> None:
    """`mossrepro predict` may skip a share of the clips; a fit must not end when it meets one of them."""
    lines = [json.loads(line) for line in (folder / "script.jsonl").read_text().split("\n")[:-1]]
    fact = next(line["fact"] for line in lines if line["role"] == "answer" and line["set"] == "A")
    lost = {line["id"] for line in lines if line["role"] == "question" and line["fact"] == fact}
    lost |= {next(line["id"] for line in lines if line["role"] == role) for role in ("user_speech", "assistant_speech")}
    held = next(line["fact"] for line in lines if line["role"] == "test" and line["set"] == "V")
    lost |= {f"answer-{held}"} & {line["id"] for line in lines}
    with TokenWriter(tmp_path / "store", 64) as store:
        store.add([(line["id"], np.zeros(3, int)) for line in lines if line["id"] not in lost])
    data = module(folder, tokens=str(tmp_path / "store"), mix=dict.fromkeys(("asr", "tts", "S2S", "T2S"), 1.0))
    assert f"store: has no codes of {len(lost)} lines of {folder}; they are left out" in capsys.readouterr().err
    assert all(other.key != fact for other in data.documents.spoken)
    for kind in data.kinds:
        for i in range(300):
            data.documents.draw(kind, np.random.default_rng(i))
    data.val_batches()


def test_documents_are_cut_at_max_rows(folder) -> None:
    assert module(folder, max_positions=20).train_batch(0, 0, 1)["grid"].shape[1] == 20


def test_oracle_codes_are_not_interleaved_for_they_keep_no_time(folder) -> None:
    with_, without = (module(folder, mix=mix) for mix in ({"tts": 1.0, "interleaved": 3.0}, {"tts": 1.0}))
    assert torch.equal(with_.train_batch(0, 0, 1)["grid"], without.train_batch(0, 0, 1)["grid"])


def test_thoughts_run_ahead_as_the_flag_says(folder) -> None:
    now, next_ = (
        module(folder, mix={"T2S": 1.0}, monologue=True, text_lookahead=n).train_batch(0, 0, 1) for n in (0, 1)
    )
    assert torch.equal(now["grid"], next_["grid"]) and not torch.equal(
        now["monologue_target"], next_["monologue_target"]
    )
    assert torch.equal(now["monologue_target"] >= 0, next_["monologue_target"] >= 0)


def test_batches_have_lengths_of_few_sizes_and_targets_stay_what_they_are(folder) -> None:
    data = module(folder)
    for step in range(4):
        batch, docs = data.train_batch(step, 0, 1), data._documents(step)
        longest, plain = max(map(len, docs)), collate(docs, data.documents.grid, 256)
        assert batch["grid"].shape[1] % 16 == 0 and 0 <= batch["grid"].shape[1] - longest < 16
        assert plain["grid"].shape[1] == longest and torch.equal(batch["grid"][:, :longest], plain["grid"])
        assert torch.equal(batch["text_target"][:, :longest], plain["text_target"])
        assert (batch["text_target"][:, longest:] < 0).all() and (batch["speech_target"][:, longest:] < 0).all()
    assert module(folder, max_positions=50).train_batch(0, 0, 1)["grid"].shape[1] == 50
