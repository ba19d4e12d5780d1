"""The inner ear: labels at the ends of words, turns heard alone and as they come, and what it names in the trunk."""

import json
import shutil
from dataclasses import replace

import lightning
import numpy as np
import pytest
import torch
from lm_toys import hearing_model, module, spoken, tensor, write_drawn_folder
from stage_toys import BACKBONE, QUIET

from mossrepro.codec.recogniser import labels as labels_of
from mossrepro.lm import checkpoint
from mossrepro.lm import task as lm_task
from mossrepro.lm.decode import GenerationConfig, IncrementalDecoder, generate, pad_left
from mossrepro.lm.grid import Grid
from mossrepro.lm.inference import fuse_projections
from mossrepro.lm.init import start_inner_ear
from mossrepro.lm.inner_ear import InnerEar, InnerEarConfig, labels, turn_mask, words_read
from mossrepro.lm.inner_ear_data import InnerEarDataModule
from mossrepro.lm.inner_ear_task import InnerEarTask, pronounced, start_codes
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.model import LMConfig, passing_over
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.lm.twins import Heard, heard_turn
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError
from mossrepro.utils.layers import Packing


@pytest.fixture
def drawn(folder, tmp_path):
    """A folder of the script and of drawn lines of its own: others are shared between tests."""
    shutil.copytree(folder, tmp_path / "script")
    write_drawn_folder(tmp_path / "script")
    return tmp_path / "script"


@pytest.fixture
def tokenizer():
    return mini_tokenizer(["What is the capital?", "Say elephants."] * 5, 300)


def _inner_ear(tokenizer, folder, codes=40, names=20):
    torch.manual_seed(3)
    ear = InnerEar(InnerEarConfig(codes, names, width=64, layers=1, ahead=2))
    ear.names.copy_(torch.arange(10, 10 + names))
    torch.nn.init.normal_(ear.head.weight)
    ear.save_pretrained(folder, tokenizer)
    return ear.eval()


def _hearing(folder, passes=False, **changes):
    """The model of `test_ears` with an inner ear, its tokenizer and its grid."""
    model, tokenizer, grid = hearing_model(**changes)
    _inner_ear(tokenizer, folder)
    start_inner_ear(model, tokenizer, folder, passes)
    if passes:  # of the toy's codes about one in two
        model.inner_ear.head.bias.data[0] = 12.0
    return model.eval(), tokenizer, grid


def _spelt(tokenizer, row):
    return [(i, tokenizer.decode([int(one) - 1])) for i, one in enumerate(row) if one]


def test_a_word_is_named_where_it_ends(tokenizer):
    times = [("what", 0.1, 0.3), ("is", 0.3, 0.5), ("the", 0.5, 0.64), ("capital", 0.64, 1.4)]
    row = labels(tokenizer, "What is the capital?", times, 24)
    found = _spelt(tokenizer, row)
    assert "".join(token for _, token in found) == "What is the capital?"
    first = [at for at, token in found if token.strip() == "the"][0]
    assert first == 9  # 12.5 codes a second, and the codec lags by one


def test_a_word_is_named_where_its_state_is_compared(tokenizer):
    """The trunk has read the name when it is to be in the state of one that has read the word."""
    times = [("what", 0.1, 0.3), ("is", 0.3, 0.5), ("the", 0.5, 0.7), ("capital", 0.7, 1.4)]
    row, grid = labels(tokenizer, "What is the capital", times, 24), Grid(tokenizer, 40)
    turn, _ = heard_turn(grid, Heard("What is the capital", np.zeros(24, np.int64), times), "", 0)
    before = len(grid.text("<|im_start|>user\n")) + 1  # SOSP
    compared = (np.flatnonzero(turn.word_end >= 0) - before).tolist()
    assert len(compared) == 4 and set(compared) <= set(np.flatnonzero(row).tolist())


def test_tokens_that_would_meet_are_moved_on_and_all_find_a_place(tokenizer):
    times = [("say", 0.0, 0.04), ("elephants", 0.04, 0.1)]
    count = len(tokenizer.encode("Say elephants.").ids)
    for codes in (count, count + 1, 40):
        found = _spelt(tokenizer, labels(tokenizer, "Say elephants.", times, codes))
        assert "".join(token for _, token in found) == "Say elephants." and len(found) == count
    assert labels(tokenizer, "Say elephants.", times, count - 1) is None
    assert labels(tokenizer, "Say two elephants.", times, 40) is None
    assert labels(tokenizer, "", [], 40) is None


def test_a_turn_is_heard_alone_and_two_codes_behind(tmp_path, tokenizer):
    ear, random = _inner_ear(tokenizer, tmp_path), torch.Generator().manual_seed(0)
    codes, heard = torch.randint(40, (1, 20), generator=random), torch.zeros(1, 20, dtype=torch.bool)
    heard[0, 3:9] = heard[0, 12:18] = True
    whole = ear(codes, heard)
    for first, last in ((3, 9), (12, 18)):
        alone = ear(codes[:, first:last], heard[:, first:last])
        assert torch.allclose(whole[:, first:last], alone, atol=1e-5)
    begun = ear(codes[:, 12:16], heard[:, 12:16])  # two codes ahead: the first two are as they will be
    assert torch.allclose(whole[:, 12:14], begun[:, :2], atol=1e-5) and not torch.allclose(
        whole[:, 15:16], begun[:, 3:]
    )
    other = codes.clone()
    other[0, [1, 10, 19]] += 1  # what is not heard is not looked at
    assert torch.equal(ear(other % 40, heard), whole)
    later = codes.clone()
    later[0, 8] = (later[0, 8] + 1) % 40
    changed = (ear(later, heard) - whole).abs().amax(-1)[0] > 0
    assert changed.nonzero().tolist() == [[6], [7], [8]]
    mask = turn_mask(heard, 2)[0, 0]
    assert mask[14].nonzero().flatten().tolist() == [12, 13, 14, 15, 16] and mask[10].nonzero().flatten().tolist() == [
        10
    ]


@torch.no_grad()
def test_the_trunk_reads_the_mean_of_what_is_named(tmp_path):
    model, _, grid = _hearing(tmp_path)
    model.heard_embed.weight.zero_()
    positions = tensor(spoken(grid))
    embedded, codes = model.embed(positions), positions[..., 1]
    heard = model.gate.heard[..., 0].clone()
    assert int(codes[heard][-1]) == grid.ids.eosp
    heard[codes == grid.ids.eosp] = False
    shares = model.inner_ear.shares(codes, heard)[0]
    expected = shares @ model.text_embed.weight[model.inner_ear.names]
    expected = expected + (1 - shares.sum(-1, keepdim=True)) * model.heard_nothing
    assert torch.allclose(embedded[0, heard[0]], expected[heard[0]], atol=1e-5)
    deaf, _, _ = hearing_model()
    deaf.heard_embed.weight.zero_()
    assert torch.equal(embedded[0, ~heard[0]], deaf.embed(positions)[0, ~heard[0]])


@torch.no_grad()
def test_what_was_named_at_the_code_before_is_not_named_again(tmp_path, tokenizer):
    ear = _inner_ear(tokenizer, tmp_path)
    codes, heard = torch.randint(40, (1, 9)), torch.ones(1, 9, dtype=torch.bool)
    plain = ear(codes, heard).softmax(-1)[..., 1:]
    shares = ear.shares(codes, heard)
    assert torch.allclose(shares[:, 0], plain[:, 0]) and torch.allclose(shares[:, 5], plain[:, 5] * (1 - plain[:, 4]))
    heard[0, 4] = False
    assert torch.equal(ear.shares(codes, heard)[:, 5], ear(codes, heard).softmax(-1)[:, 5, 1:])  # a new turn


@torch.no_grad()
def test_what_is_passed_over_might_as_well_not_be_there(tmp_path, monkeypatch):
    """With names that are sure, and ears that do nothing, a heard question is read as its names are in writing."""
    model, _, grid = _hearing(tmp_path, passes=True)
    for name, weight in model.named_parameters():
        if name.endswith(".ear.up") or name == "heard_embed.weight":
            weight.zero_()
    whole = tensor(spoken(grid, (7, 3, 9, 3, 5, 5)))
    first = int((whole[0, :, 0] == grid.ids.sosp).nonzero()[0]) + 1
    shares = torch.zeros(1, whole.shape[1], len(model.inner_ear.names))
    shares[0, first + 1, 4] = 0.7  # sure enough
    shares[0, first + 4, 2], shares[0, first + 5, 2] = 0.4, 0.3  # one word, at two codes
    monkeypatch.setattr(model.inner_ear, "shares", lambda codes, heard: shares[:, : len(heard[0])] * heard[..., None])
    kept = [i for i in range(whole.shape[1]) if i - first not in (-1, 0, 2, 3, 4, 6)]  # nor SOSP and EOSP
    written = whole[:, kept].clone()
    for place, name in ((first - 1, 4), (first, 2)):
        written[0, place] = torch.tensor([int(model.inner_ear.names[name]), grid.ids.speech_pad])
    heard, read = model(whole), model(written)
    assert heard.text.shape[1] == read.text.shape[1] + 6
    for channel in ("text", "speech"):
        assert torch.allclose(getattr(heard, channel)[:, kept], getattr(read, channel), atol=1e-4)
    model.config = replace(model.config, inner_passes=False)
    assert not torch.allclose(model(whole).text[:, kept], read.text, atol=1e-2)


def test_a_word_that_is_named_at_several_codes_is_read_once_and_sharply():
    shares = torch.zeros(1, 9, 3)
    shares[0, 1] = torch.tensor([0.6, 0.2, 0.0])  # enough by itself, and said with the next all the same
    shares[0, 2] = torch.tensor([0.3, 0.1, 0.0])
    shares[0, 3] = torch.tensor([0.0, 0.0, 0.9])  # another word, at once
    shares[0, 5] = torch.tensor([0.0, 0.02, 0.0])  # too little to be said with the next
    shares[0, 6] = torch.tensor([0.0, 0.34, 0.0])  # too little by itself
    shares[0, 8] = torch.tensor([0.0, 0.4, 0.4])
    named, read = words_read(shares)
    assert torch.allclose(words_read(1e-4 * shares)[0][0, 8], named[0, 8])  # however small they are
    assert read[0].nonzero().flatten().tolist() == [2, 3, 8]
    assert torch.allclose(named[0, 2], torch.tensor([81 / 82, 1 / 82, 0.0])) and named[0, 3].tolist() == [0, 0, 1]
    assert torch.allclose(named[0, 8], torch.tensor([0.0, 0.5, 0.5])) and not named[0, 0].any()


def test_what_is_passed_over_is_neither_counted_nor_seen():
    seen = torch.tensor([[True, False, True, False, True], [False, False, True, True, True]])
    positions, mask = passing_over(seen)
    assert positions.tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 1, 2]]
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 0, 1]
    ]  # fmt: skip
    assert mask[1, 0, 4].tolist() == [False, False, True, True, True]


def test_codes_are_passed_over_where_an_inner_ear_can_say_which(tmp_path, folder):
    model, tokenizer, grid = _hearing(tmp_path / "ear", passes=True)
    with pytest.raises(ConfigError, match="pack=false"):
        model(tensor(spoken(grid)), mask=Packing((len(spoken(grid).text),)))
    model.config = replace(model.config, inner_layers=0)
    checkpoint.save_pretrained(model, tokenizer, tmp_path / "model")
    with pytest.raises(CheckpointError, match="no inner ear"):
        checkpoint.from_pretrained(tmp_path / "model")
    MiniBackboneTask(str(folder / "tokenizer.json"), **BACKBONE).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ConfigError, match="give inner_ear=FOLDER"):
        LayerSplitTask(str(tmp_path / "backbone"), 64, train="ears", ears=2, passes=True)


@pytest.mark.parametrize("passes", [False, True])
def test_what_is_written_and_said_stays_bit_for_bit(tmp_path, passes):
    model, _, grid = _hearing(tmp_path, passes)
    without, _, _ = hearing_model()
    written = grid.join(grid.system(True), grid.turn("user", text="the cat"), grid.reply_prefix(True))
    said = tensor(grid.join(written, grid.spoken(np.array([7, 8]))))
    for name in ("text", "speech"):
        assert torch.equal(getattr(model(said), name), getattr(without(said), name))
    assert not torch.equal(model(tensor(spoken(grid))).text, without(tensor(spoken(grid))).text)


def test_training_ears_leaves_it_as_it_is_and_an_expression_trains_it(tmp_path):
    model, _, grid = _hearing(tmp_path)
    model.train_only("ears")
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "heard_nothing" in learns and not any(name.startswith("inner_ear.") for name in learns)
    model(tensor(spoken(grid))).text.sum().backward()
    assert model.heard_nothing.grad.abs().sum() > 0 and model.inner_ear.head.weight.grad is None
    model.train_only(r"inner_ear\.")
    model(tensor(spoken(grid))).text.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.inner_ear.parameters())


@pytest.mark.parametrize("passes", [False, True])
def test_a_batch_fused_and_saved_hears_the_same(tmp_path, passes):
    model, tokenizer, grid = _hearing(tmp_path / "ear", passes)
    checkpoint.save_pretrained(model, tokenizer, tmp_path / "model")
    again, _ = checkpoint.from_pretrained(tmp_path / "model")
    prompts = [spoken(grid), spoken(grid, (1, 2, 3, 9, 9, 6))]
    config = GenerationConfig(max_positions=6)
    if passes:
        model(tensor(prompts[1]))
        assert 2 < int(model.passed().sum()) < 8  # two of them SOSP and EOSP
        written = grid.join(grid.system(True), grid.turn("user", text="the cat"), grid.reply_prefix(True))
        batch = [prompts[0], prompts[1], written]
        padded, padding = pad_left(batch, grid.ids)
        decoder = IncrementalDecoder(model, padding, 60)
        decoder.read(padded)
        with torch.no_grad():
            alone = [model.speech_head(model(tensor(one)).speech[0, -1]) for one in batch]
            together = decoder.logits(["speech"])["speech"]
        assert torch.allclose(together, torch.stack(alone), atol=1e-3)
    expected = [generate(model, [one], grid.ids, config)[0].codes for one in prompts]
    assert [reply.codes for reply in generate(model, prompts, grid.ids, config)] == expected
    assert [reply.codes for reply in generate(again, prompts, grid.ids, config)] == expected
    assert [reply.codes for reply in generate(fuse_projections(model), prompts, grid.ids, config)] == expected


def test_what_does_not_fit_is_refused(tmp_path, tokenizer):
    model, own, _ = hearing_model()
    _inner_ear(own, tmp_path / "codes", codes=41)
    _inner_ear(tokenizer, tmp_path / "other")
    for folder in ("codes", "other"):
        with pytest.raises(ConfigError, match="other codes or another tokenizer"):
            start_inner_ear(model, own, tmp_path / folder)
    _inner_ear(own, tmp_path / "right")
    start_inner_ear(model, own, tmp_path / "right")
    with pytest.raises(ConfigError, match="an inner ear already"):
        start_inner_ear(model, own, tmp_path / "right")
    ear = _inner_ear(own, tmp_path / "far")
    ear.names[-1] = own.get_vocab_size()
    ear.save_pretrained(tmp_path / "far", own)
    with pytest.raises(CheckpointError, match="names tokens outside"):
        InnerEar.from_pretrained(tmp_path / "far")
    model.inner_ear.names[-1] = own.get_vocab_size()
    checkpoint.save_pretrained(model, own, tmp_path / "model")
    with pytest.raises(CheckpointError, match="names tokens outside"):
        checkpoint.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "right" / "config.json").read_text())
    (tmp_path / "right" / "config.json").write_text(json.dumps(config | {"width": 65}))
    with pytest.raises(CheckpointError, match="multiple of 64"):
        InnerEar.from_pretrained(tmp_path / "right")
    with pytest.raises(CheckpointError, match="cannot be read"):
        InnerEar.from_pretrained(tmp_path)
    assert LMConfig().inner_layers == 0  # as in checkpoints of before


def test_words_are_learnt_and_written_down(drawn):
    """On a toy in which every word has a code of its own."""
    folder, drawn = drawn, drawn / "drawn"
    tokenizer = str(folder / "tokenizer.json")
    torch.manual_seed(0)
    task = InnerEarTask(64, tokenizer, str(drawn), width=64, layers=1, lr=5e-3, warmup_steps=5)
    data = InnerEarDataModule(str(drawn), tokenizer, 64, batch=12)
    trainer = lightning.Trainer(accelerator="cpu", max_steps=200, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, data)
    assert trainer.callback_metrics["train/name"] < 0.5
    row, named = data.train[0]
    text = task.write(torch.from_numpy(row)[None], torch.ones(1, len(row), dtype=torch.bool))[0]
    said = task.tokenizer.decode([int(i) - 1 for i in named if i])
    assert len(set(text.split()) & set(said.lower().replace("?", "").replace(".", "").split())) >= 2


def test_a_batch_tells_what_is_heard_and_counts_for_all_ranks(drawn):
    folder, drawn = drawn, drawn / "drawn"
    tokenizer = str(folder / "tokenizer.json")
    data = InnerEarDataModule(str(drawn), tokenizer, 64, batch=5)
    whole = data.train_batch(0, 0, 1)
    assert whole["codes"].shape == whole["named"].shape and whole["codes"].shape[1] % 8 == 0
    assert int(whole["count"]) == int(whole["heard"].sum()) and bool((whole["named"][~whole["heard"]] == -100).all())
    parts = [data.train_batch(0, rank, 2) for rank in range(2)]
    assert sum(int(part["heard"].sum()) for part in parts) == int(whole["heard"].sum())
    assert all(float(part["count"]) == float(whole["count"]) / 2 for part in parts)
    empty = data.train_batch(0, 0, 8)  # more ranks than lines
    assert bool((empty["named"] == -100).all())
    (drawn / "words.json").write_text("{}")
    with pytest.raises(DataError, match="no lines with the times"):
        InnerEarDataModule(str(drawn), tokenizer, 64)


def test_no_network_can_find_out_at_which_codes_it_is_asked(drawn):
    """A line that comes again is asked at other codes, so that in the end it is asked at all of them."""
    folder, drawn = drawn, drawn / "drawn"
    data = InnerEarDataModule(str(drawn), str(folder / "tokenizer.json"), 64, batch=5)
    asked, met = {}, {}
    for step in range(400):
        batch = data.train_batch(step, 0, 1)
        for row, heard, named in zip(batch["codes"], batch["heard"], batch["named"], strict=True):
            line, at = tuple(row[heard].tolist()), (named[heard] != -100).numpy()
            asked[line], met[line] = asked.get(line, 0) + at, met.get(line, 0) + 1
    silent = {tuple(row.tolist()): named == 0 for row, named in data.train}
    shares = np.concatenate([asked[line][silent[line]] / met[line] for line in asked])
    assert min(met.values()) > 20 and shares.min() > 0 and shares.max() < 0.8 and abs(shares.mean() - 1 / 3) < 0.05
    assert all((asked[line][~silent[line]] == met[line]).all() for line in asked)  # where a token ends, always


@pytest.mark.parametrize("passes", [False, True])
def test_a_language_model_takes_a_trained_one(drawn, passes, monkeypatch):
    folder, drawn = drawn, drawn / "drawn"
    tokenizer = str(folder / "tokenizer.json")
    InnerEarTask(64, tokenizer, str(drawn), width=64, layers=1).save_pretrained(folder / "ear")
    MiniBackboneTask(tokenizer, **BACKBONE).save_pretrained(folder / "backbone")
    own = {"ears": 2, "inner_ear": str(folder / "ear"), "passes": passes, "word_states": 1.0}
    task = LayerSplitTask(str(folder / "backbone"), 64, train="ears", **own)
    assert task.model.config.inner_passes == passes
    trained, _ = InnerEar.from_pretrained(folder / "ear")
    assert all(
        torch.equal(value, trained.state_dict()[name]) for name, value in task.model.inner_ear.state_dict().items()
    )
    task.model.inner_ear.head.bias.data[0] = 3.5  # so that some codes are passed over
    data, seen = module(folder, mix={"asr": 1.0}, twins=True), []
    loss = lm_task.word_state_loss
    monkeypatch.setattr(lm_task, "word_state_loss", lambda *given: seen.append(given[3]) or loss(*given))
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer = lightning.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, data)
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "heard_nothing" in changed and not any(name.startswith("inner_ear.") for name in changed)
    assert len(seen) == 2 and all((read is not None) == passes for read in seen)
    with pytest.raises(ConfigError, match="no gated ears"):
        LayerSplitTask(str(folder / "backbone"), 64, inner_ear=str(folder / "ear"))
    task.save_pretrained(folder / "heard")
    again = LayerSplitTask(str(folder / "heard"), 64, train="ears", passes=True)
    assert again.model.config.inner_passes


def test_rows_made_of_pronunciations_are_plain_rows_in_the_end(drawn):
    tokenizer = str(drawn / "tokenizer.json")
    task = InnerEarTask(64, tokenizer, str(drawn / "drawn"), width=64, layers=1).eval()
    codes, heard = torch.randint(64, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    task.save_pretrained(drawn / "ear")
    plain, _ = InnerEar.from_pretrained(drawn / "ear")
    assert torch.allclose(task.model(codes, heard), plain(codes, heard), atol=1e-5)
    own = InnerEarTask(64, tokenizer, str(drawn / "drawn"), spelt=False, width=64, layers=1)
    assert {name for name, _ in own.model.named_parameters()} == {name for name, _ in plain.named_parameters()}
    table = pronounced([" cat", "cat", " xq", " the"], {"cat", "the"})
    assert table[0].tolist() == table[1].tolist() == [0] * 6 + labels_of(["K", "AE", "T"]) and not table[2].any()


def test_codes_that_sound_alike_start_alike(drawn):
    task = InnerEarTask(64, str(drawn / "tokenizer.json"), str(drawn / "drawn"), width=64, layers=1)
    phones = torch.rand(64, 40)
    phones[7] = phones[3] + 0.001
    start_codes(task.model, phones, 0)
    rows = task.model.codes.weight
    assert (rows[7] - rows[3]).norm() < 0.2 * (rows[8] - rows[3]).norm()
