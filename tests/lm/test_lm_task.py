"""Training the split model: Stage 1 leaves the text half's bits alone, the loss is the one of the contract."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lm_toys import module

from mossrepro.data.facts import Fact
from mossrepro.data.script import read_script
from mossrepro.lm.batches import separate
from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.task import VALIDATED, LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.training.finite import FiniteCheck
from mossrepro.utils.errors import ConfigError, TrainingError


@pytest.fixture(scope="module")
def backbone(folder, tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("mini") / "backbone"
    task = MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, layers=3, dim=32, ffn_dim=64)
    fit(task, module(folder, mix={"facts": 1.0, "repeat_text": 1.0}), 3)
    task.save_pretrained(out)
    return out


def fit(task, data, steps: int, *callbacks) -> None:
    Trainer(max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", use_distributed_sampler=False,
            callbacks=list(callbacks)).fit(task, data)  # fmt: skip


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
    assert set(numbers) == {*(f"val/{pairing}" for pairing in VALIDATED), "val/S2T_answer"}  # no times, no monologue
    out = task.eval().losses(batches[1])
    assert numbers["val/T2S"] == pytest.approx((out["speech"] / out["n_speech"]).item(), rel=1e-4)


def word_times(facts) -> dict[str, list]:
    """Made-up times of the answers: every word takes 0.16 s, two codes."""
    return {
        f"answer-{fact.key}": [(word, 0.16 * i, 0.16 * (i + 1)) for i, word in enumerate(fact.written.split())]
        for fact in facts
    }


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("kind", ["text", "speech", "monologue", ""])
def test_the_answer_word_alone_is_found_in_every_kind_of_reply(folder, kind, guided) -> None:
    data = module(folder, monologue=kind in ("speech", "monologue"), text_lookahead=1, text_guidance=guided)
    documents, grid = data.documents, data.documents.grid
    facts = [documents.facts[line.fact] for line in documents.held]
    if kind == "speech":
        documents.words = word_times(facts[1:])  # one reply could not be aligned
    pairing = "S2T" if kind == "text" else "T2S"
    batch = data.val_batches()[VALIDATED.index(pairing)]
    assert {name for name in batch if name.endswith("_answer")} == ({f"{kind}_answer"} if kind else set())
    for i, fact in enumerate(facts if kind else ()):
        marks = batch[f"{kind}_answer"][i]
        found = batch[f"{kind}_target"][i][marks].tolist()
        if kind == "speech":
            codes, n = documents.codes[f"answer-{fact.key}"], len(fact.written.split())
            first, last = 2 * (n - len(fact.answer.split())) + 1, 2 * n + 1  # one code of lag
            assert found == ([] if i == 0 else codes[first:last].tolist())
        elif kind == "monologue":
            tokens = [token for k, token in enumerate(found) if k == 0 or token != found[k - 1]]
            assert grid.tokenizer.decode(tokens).strip(" .") == fact.answer
            assert not marks[-1] and (grid.ids.im_end not in found)
        else:
            assert grid.tokenizer.decode(found).strip() == fact.answer


def test_the_loss_of_the_answer_word_is_logged_beside_that_of_the_reply(backbone, folder) -> None:
    data, task = module(folder, monologue=True), LayerSplitTask(str(backbone), codes=64).eval()
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    for kind in ("monologue", "speech"):
        if kind == "speech":
            data.documents.words = word_times(data.documents.facts.values())
        numbers = trainer.validate(task, data, verbose=False)[0]
        assert set(numbers) == {f"val/{pairing}{end}" for pairing in VALIDATED for end in ("", "_answer")}
        for pairing, batch in zip(VALIDATED, data.val_batches(), strict=True):
            name = "text" if pairing == "S2T" else kind
            marks, head = batch[f"{name}_answer"], "speech" if name == "speech" else "text"
            with torch.no_grad():
                logits = getattr(task.model, f"{head}_head")(getattr(task.model(batch["grid"]), head)[marks])
            expected = torch.nn.functional.cross_entropy(logits, batch[f"{name}_target"][marks])
            assert numbers[f"val/{pairing}_answer"] == pytest.approx(expected.item(), rel=1e-4)
    trained = task.losses(data.train_batch(0, 0, 1))
    assert not any("answer" in name for name in trained)


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
def test_the_document_of_a_loss_that_is_not_finite_is_named(backbone, folder, pack) -> None:
    task = LayerSplitTask(str(backbone), codes=64)
    batch = module(folder, mix={"asr": 1.0}, pack=pack).train_batch(0, 0, 1)
    documents = separate(batch)
    pad = task.model.config.modality_pad
    spoken = [set(one["grid"][..., 1][one["grid"][..., 0] == pad].tolist()) for one in documents]
    i, code = next((i, c) for i, mine in enumerate(spoken) for c in mine if sum(c in other for other in spoken) == 1)
    assert len(documents) == 4 and task.culprits(batch) == "no one of 4 documents alone"
    with torch.no_grad():
        task.model.speech_embed.weight[code] = float("nan")
    said = task.tokenizer.decode(documents[i]["text_target"][documents[i]["text_target"] >= 0].tolist())
    assert re.search(rf"^document {i} \(.*{said.strip()[-8:]}", task.culprits(batch))
    with pytest.raises(TrainingError, match=rf"loss is no longer finite at step 0, document {i} \("):
        fit(task, module(folder, mix={"asr": 1.0}, pack=pack), 1, FiniteCheck())
    with torch.no_grad():
        task.model.text_embed.weight.fill_(float("nan"))
    assert task.culprits(batch).startswith("every document: the weights are no longer finite")


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


def test_the_speech_tail_can_be_asked_for_the_words_and_names_them_at_step_0(backbone, folder) -> None:
    """It starts as a copy of the text tail: what the text head reads off it is what the text half would write."""
    task = LayerSplitTask(str(backbone), codes=64, monologue_at="speech", train="speech").eval()
    batch = module(folder, mix={"T2S": 1.0}, monologue=True).train_batch(0, 0, 1)
    hidden = task.model(batch["grid"], tails=("text", "spoken_text"))
    assert torch.equal(hidden.text, hidden.spoken_text) and hidden.speech is None
    frozen = {name: p.clone() for name, p in task.model.named_parameters() if not p.requires_grad}
    task.losses(batch)["monologue"].backward()
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"speech_tail", "speech_embed"}  # through the frozen norm, head and trunk
    assert {"text_norm.weight", "text_embed.weight"} <= set(frozen)


def test_the_speech_head_can_start_from_words(backbone, folder) -> None:
    """A state that names a word then prefers the codes that the word is said with."""
    still = dict.fromkeys(("lr", "speech_lr", "head_lr", "embed_lr"), 0.0)
    plain, started = (LayerSplitTask(str(backbone), codes=64, head_from_words=x, **still) for x in (False, True))
    data = module(folder, mix={"tts": 1.0})
    lines = data.documents.assistant_lines[:2]
    data.documents.words = {
        line.id: [(word, 0.3 * i, 0.3 * i + 0.3) for i, word in enumerate(line.text.split())] for line in lines
    }
    said = list(data.documents.said_words())
    assert [word for word, _ in said] == [word for line in lines for word in line.text.split()]
    before = started.model.speech_head.weight.clone()
    assert torch.equal(before, plain.model.speech_head.weight)
    fit(started, data, 1)
    moved = (started.model.speech_head.weight - before).abs().sum(1) > 1e-6
    assert set(moved.nonzero()[:, 0].tolist()) == {int(code) for _, codes in said for code in codes}
    word, codes = said[0]
    state = started.model.text_head.weight[started.tokenizer.encode(" " + word, add_special_tokens=False).ids].mean(0)
    change = (started.model.speech_head.weight - before) @ state
    assert change[list(map(int, codes))].mean() > change.mean()
    data.documents.words = {}
    with pytest.raises(ConfigError, match="needs the times of spoken words"):
        fit(LayerSplitTask(str(backbone), codes=64, head_from_words=True), data, 1)


@pytest.mark.parametrize("place", ["text", "trunk"])
def test_thoughts_are_asked_for_where_the_flag_says(backbone, folder, place) -> None:
    task = LayerSplitTask(str(backbone), codes=64, monologue_at=place).eval()
    batch = module(folder, mix={"T2S": 1.0}, monologue=True).train_batch(0, 0, 1)
    task.losses(batch)["monologue"].backward()
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"trunk", "text_norm"} <= moved and ("text_tail" in moved) == (place == "text")
    assert not moved & {"speech_tail", "speech_head", "speech_norm"}
    with pytest.raises(ConfigError, match="choose text, trunk, speech"):
        LayerSplitTask(str(backbone), codes=64, monologue_at="tail")
