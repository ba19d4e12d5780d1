"""Training the split model: Stage 1 leaves the text half's bits alone, the loss is the one of the contract."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lm_toys import module

from mossrepro.data.facts import Fact
from mossrepro.data.script import read_script
from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.task import VALIDATED, LayerSplitTask, separate
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import ConfigError


@pytest.fixture
def backbone(folder, tmp_path):
    task = MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, layers=3, dim=32, ffn_dim=64)
    fit(task, module(folder, mix={"facts": 1.0, "repeat_text": 1.0}), 3)
    task.save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def fit(task, data, steps: int) -> None:
    Trainer(max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", use_distributed_sampler=False).fit(task, data)  # fmt: skip


@pytest.mark.parametrize("train", ["speech", "all"])
def test_what_a_stage_changes(backbone, folder, tmp_path, train: str) -> None:
    before = from_pretrained(backbone)[0].state_dict()
    task = LayerSplitTask(str(backbone), codes=64, train=train, lr=1e-3)
    fit(task, module(folder), 3)
    task.save_pretrained(tmp_path / "out")
    after = from_pretrained(tmp_path / "out")[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    speech = set(task.model.speech_parameters())
    assert speech <= changed
    assert (changed == speech) == (train == "speech")


@pytest.mark.parametrize("name", ["lr", "speech_lr", "head_lr", "embed_lr"])
def test_every_part_has_a_rate_of_its_own(backbone, folder, tmp_path, name: str) -> None:
    before = from_pretrained(backbone)[0].state_dict()
    rates = {"lr": 0.0, "speech_lr": 0.0, "head_lr": 0.0, "embed_lr": 0.0, name: 1e-3}
    task = LayerSplitTask(str(backbone), codes=64, **rates)
    fit(task, module(folder), 2)
    task.save_pretrained(tmp_path / "out")
    after = from_pretrained(tmp_path / "out")[0].state_dict()
    changed = {part for part in before if not torch.equal(before[part], after[part])}
    speech = set(task.model.speech_parameters())
    only = {"embed_lr": {"speech_embed.weight"}, "head_lr": {"speech_head.weight"}}
    only |= {"speech_lr": speech - {"speech_embed.weight", "speech_head.weight"}, "lr": set(before) - speech}
    assert changed == only[name]


def test_validation_is_on_unseen_questions_of_v_by_pairing(backbone, folder) -> None:
    data, task = module(folder), LayerSplitTask(str(backbone), codes=64)
    facts = [Fact(*entry) for entry in json.loads((folder / "facts.json").read_text())]
    grid, batches = data.documents.grid, data.val_batches()
    assert len(batches) == len(VALIDATED) == 3
    for pairing, batch in zip(VALIDATED, batches, strict=True):
        spoken = batch["grid"][..., 0] == grid.ids.pad
        assert bool((batch["speech_target"] >= 0).any()) == (pairing[2] == "S")
        rows = zip(batch["grid"][..., 0], spoken, strict=True)
        texts = [grid.tokenizer.decode(row[~one].tolist()) for row, one in rows]
        assert len(texts) == sum(line.role == "test" and line.set == "V" for line in read_script(folder))
        if pairing == "T2S":
            asked = {f.question(i, unseen=True) for f in facts if f.set == "V" for i in range(2)}
            assert all(any(question in text for question in asked) for text in texts)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    numbers = trainer.validate(task, data, verbose=False)[0]
    assert set(numbers) == {f"val/{pairing}" for pairing in VALIDATED}
    out = task.eval().losses(batches[1])
    assert numbers["val/T2S"] == pytest.approx((out["speech"] / out["n_speech"]).item(), rel=1e-4)


@pytest.mark.parametrize("asked", [False, True])
def test_layers_are_checkpointed_and_compiled_where_asked(backbone, asked: bool) -> None:
    model = LayerSplitTask(str(backbone), codes=64, checkpointed=asked, compiled=asked).model
    blocks = [*model.trunk, *model.text_tail, *model.speech_tail]
    assert model.checkpointed == asked and {block._compiled_call_impl is not None for block in blocks} == {asked}


def test_text_loss_reaches_the_speech_embedding_through_the_frozen_half(backbone, folder) -> None:
    task = LayerSplitTask(str(backbone), codes=64, train="speech")
    task.losses(module(folder, mix={"asr": 1.0}).train_batch(0, 0, 1))["text"].backward()
    assert task.model.speech_embed.weight.grad.abs().sum() > 0
    assert task.model.trunk[0].mlp.up_proj.weight.grad is None


def test_loss_counts_only_supervised_rows(backbone, folder) -> None:
    task = LayerSplitTask(str(backbone), codes=64).eval()
    batch = module(folder, mix={"S2S": 1.0}).train_batch(0, 0, 1)
    out = task.losses(batch)
    hidden = task.model(batch["grid"])
    logits = task.model.speech_head(hidden.speech)
    target = batch["speech_target"].flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, ignore_index=-100)
    assert torch.allclose(out["speech"] / out["n_speech"], expected, atol=1e-5)
    assert int(out["n_text"]) == int((batch["text_target"] >= 0).sum())


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_thoughts_count_as_much_as_their_weight_says(backbone, folder, weight, monkeypatch) -> None:
    task = LayerSplitTask(str(backbone), codes=64, monologue_weight=weight).eval()
    monkeypatch.setattr(task, "_trainer", SimpleNamespace(world_size=1, global_step=0))
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    batch = module(folder, mix={"S2S": 1.0}, monologue=True).train_batch(0, 0, 1)
    out = task.losses(batch)
    assert int(out["n_monologue"]) == int((batch["monologue_target"] >= 0).sum()) > 0 and int(out["n_text"]) > 0
    means = {kind: out[kind] / out[f"n_{kind}"] for kind in ("text", "speech", "monologue")}
    expected = means["text"] + means["speech"] + weight * means["monologue"]
    assert torch.allclose(task.training_step(batch, 0), expected, atol=1e-5)


@pytest.mark.parametrize("pack", [False, True])
def test_a_loss_that_is_not_finite_names_the_document(backbone, folder, pack, monkeypatch) -> None:
    task = LayerSplitTask(str(backbone), codes=64)
    monkeypatch.setattr(task, "_trainer", SimpleNamespace(world_size=1, global_step=7, global_rank=0))
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    batch = module(folder, mix={"asr": 1.0}, pack=pack).train_batch(0, 0, 1)
    documents = separate(batch)
    pad = task.model.config.modality_pad
    spoken = [set(one["grid"][..., 1][one["grid"][..., 0] == pad].tolist()) for one in documents]
    i, code = next((i, c) for i, mine in enumerate(spoken) for c in mine if sum(c in other for other in spoken) == 1)
    assert len(documents) == 4 and torch.isfinite(task.training_step(batch, 0))
    with torch.no_grad():
        task.model.speech_embed.weight[code] = float("nan")
    said = task.tokenizer.decode(documents[i]["text_target"][documents[i]["text_target"] >= 0].tolist())
    with pytest.raises(ConfigError, match=rf"step 7, rank 0, document {i} \(.*{said.strip()[-8:]}.*lower the learning"):
        task.training_step(batch, 0)
    task._trainer.world_size = 2
    with pytest.raises(ConfigError, match="rank 0, one of 4 documents"):
        task.training_step(batch, 0)
    task._trainer.world_size = 1
    with torch.no_grad():
        task.model.text_embed.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="every document: the weights are no longer finite"):
        task.training_step(batch, 0)


def test_where_looking_waits_losses_are_looked_at_seldom_and_before_saving(backbone, folder, monkeypatch) -> None:
    task = LayerSplitTask(str(backbone), codes=64)
    trainer = SimpleNamespace(world_size=1, global_step=11, global_rank=0, optimizers=[], max_steps=30)
    monkeypatch.setattr(task, "_trainer", trainer)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    monkeypatch.setattr("mossrepro.lm.task.reading_waits", lambda device: True)
    batch = module(folder, mix={"asr": 1.0}).train_batch(0, 0, 1)
    task.training_step(batch, 0)
    task.on_save_checkpoint({"state_dict": {}})
    weight = task.model.text_embed.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    for trainer.global_step in (12, 19):
        assert not torch.isfinite(task.training_step(batch, 0))  # nobody looks
    with torch.no_grad():
        weight.copy_(before)
    with pytest.raises(ConfigError, match=r"loss is nan \(before step 19, rank 0\): lower the learning rate"):
        task.on_save_checkpoint({"state_dict": {}})  # the last good file stays
    task.training_step(batch, 0)
    with torch.no_grad():
        weight.fill_(float("nan"))
    for trainer.global_step in (20, 29):  # and at the last step, before the weights are exported
        with pytest.raises(ConfigError, match=rf"step {trainer.global_step}, or up to 10 before, rank 0\)"):
            task.training_step(batch, 0)


def test_data_of_another_model_are_refused_and_their_turns_noted(backbone, folder, tmp_path) -> None:
    task = LayerSplitTask(str(backbone), codes=64)
    fit(task, module(folder, system_turns="released"), 1)
    task.save_pretrained(tmp_path / "out")
    model, tokenizer = from_pretrained(tmp_path / "out")
    assert model.config.system_turns == model.grid(tokenizer).system_turns == "released"
    with pytest.raises(ConfigError, match="data.codes=32, but the model has 64"):
        fit(LayerSplitTask(str(backbone), codes=64), module(folder, codes=32), 1)
    mini_tokenizer(["other words, in another order", "user system assistant"], 300).save(str(tmp_path / "words.json"))
    with pytest.raises(ConfigError, match="data.tokenizer is not the tokenizer of model.init_from"):
        fit(LayerSplitTask(str(backbone), codes=64), module(folder, tokenizer=str(tmp_path / "words.json")), 1)


def test_other_codebook_and_other_words_are_refused(backbone) -> None:
    with pytest.raises(ConfigError, match="64 codes"):
        LayerSplitTask(str(backbone), codes=128)
    with pytest.raises(ConfigError, match="copy or random"):
        LayerSplitTask(str(backbone), codes=64, tail="mirror")


def test_a_random_tail_is_for_backbones_only(backbone, folder, tmp_path) -> None:
    task = LayerSplitTask(str(backbone), codes=64, tail="random")  # a mini backbone: its speech half is untrained
    weights = [tail[0].mlp.up_proj.weight for tail in (task.model.speech_tail, task.model.text_tail)]
    assert not torch.equal(*weights)
    fit(task, module(folder), 1)
    task.save_pretrained(tmp_path / "stage")
    LayerSplitTask(str(tmp_path / "stage"), codes=64)
    with pytest.raises(ConfigError, match="has been trained"):
        LayerSplitTask(str(tmp_path / "stage"), codes=64, tail="random")


@pytest.mark.parametrize("place", ["text", "trunk"])
def test_thoughts_are_asked_for_where_the_flag_says(backbone, folder, place) -> None:
    task = LayerSplitTask(str(backbone), codes=64, monologue_at=place).eval()
    batch = module(folder, mix={"T2S": 1.0}, monologue=True).train_batch(0, 0, 1)
    task.losses(batch)["monologue"].backward()
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"trunk", "text_norm"} <= moved and ("text_tail" in moved) == (place == "text")
    assert not moved & {"speech_tail", "speech_head", "speech_norm"}
    with pytest.raises(ConfigError, match="text or trunk"):
        LayerSplitTask(str(backbone), codes=64, monologue_at="tail")
