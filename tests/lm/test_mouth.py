"""A mouth: it says what the speech tail names, sees nothing else, and says the same in one pass and one by one."""

import pytest
import torch
from lm_toys import IDS, prompt, small_model

from mossrepro.lm import checkpoint, released
from mossrepro.lm.cost import trace
from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.lm.losses import chunked_cross_entropy
from mossrepro.lm.mouth import mean_named, reply_mask, reply_starts
from mossrepro.lm.mouth_task import MouthTask, doubts
from mossrepro.lm.task import LayerSplitTask
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.layers import Packing

S, P = IDS.sosp, IDS.pad
GRID = torch.tensor([[[1, 1], [9, 1], [11, 1], [S, 1], [P, 3], [P, 4]]])


def test_a_reply_begins_at_its_sosp_however_the_sequence_comes():
    text = torch.tensor([[1, 9, S, P, P, 20, S, P, 3], [S, P, 1, 1, 1, 1, 1, 1, 1]])
    whole = reply_starts(text, S)
    assert whole.tolist() == [[-1, -1, 2, 2, 2, 2, 6, 6, 6], [0] * 9]
    first = reply_starts(text[:, :4], S)
    assert torch.equal(torch.cat((first, reply_starts(text[:, 4:], S, 4, first[:, -1])), 1), whole)
    seen = reply_mask(whole)[0, 0]
    assert seen[4].nonzero().flatten().tolist() == [2, 3, 4] and seen[7].nonzero().flatten().tolist() == [6, 7]
    assert seen[1].nonzero().flatten().tolist() == [0, 1]  # before any speech: everything before


@torch.no_grad()
def test_decoding_says_what_a_whole_pass_says():
    """In a batch with padding too, and prepared for inference; and without the mouth it would be something else."""
    torch.manual_seed(1)
    prompts = [
        prompt([1, 9, 11, 30, S]),
        prompt([1, 20, 21, S]),
        prompt([1, S, P, P, P, 20, S], [1, 1, 3, 4, 40, 1, 1]),
    ]
    config, found = GenerationConfig(max_positions=7), {}
    for layers in (2, 0):
        model = small_model(mouth=layers, speech_from=S if layers else None).eval()
        replies = generate(model, prompts, IDS, config)
        found[layers] = [reply.codes for reply in replies]
        assert found[layers] == [reply.codes for reply in generate(model, prompts, IDS, config, defer=False)]
        for start, reply in zip(prompts, replies, strict=True):
            assert [one.codes for one in generate(model, [start], IDS, config)] == [reply.codes]
            text, speech = start.text.tolist(), start.speech.tolist()
            for i, code in enumerate(reply.codes):
                grid = torch.tensor([list(zip(text, speech, strict=True))])
                logits = model.speech_head(model(grid, tails=("speech",)).speech[0, -1])[: IDS.eosp + 1]
                logits[IDS.eosp] = -torch.inf if i < 1 else logits[IDS.eosp]
                assert int(logits.argmax()) == code
                text, speech = [*text, P], [*speech, code]
        fused = prepare_for_inference(model, torch.device("cpu"))
        assert len(generate(fused, prompts, IDS, config)) == len(prompts)
    assert found[2] != found[0]


@torch.no_grad()
def test_a_mouth_sees_its_own_reply_alone():
    """Another output of the tail in the prompt changes nothing; another length of it, where it speaks, neither."""
    model = small_model(mouth=2, speech_from=S).eval()
    x, table = torch.randn(1, 6, 32), model.rotary(torch.arange(6)[None])
    mask = reply_mask(reply_starts(GRID[..., 0], S))
    say = lambda tail: model.say(tail, GRID, table, mask, None)[:, 3:]  # noqa: E731
    said = say(x)
    assert torch.equal(said, say(torch.cat((torch.randn(1, 3, 32), x[:, 3:]), 1)))
    torch.testing.assert_close(said, say(3 * x), rtol=1e-4, atol=1e-4)  # what is named does not depend on it
    assert not torch.allclose(said, say(torch.cat((x[:, :3], torch.randn(1, 3, 32)), 1)))


@torch.no_grad()
def test_what_is_named_is_the_mean_of_the_likeliest_tokens():
    embedding = torch.nn.Embedding(30, 8)
    logits = torch.full((2, 30), -50.0)
    logits[0, 4], logits[1, [3, 9]] = 0.0, 0.0
    named = mean_named(logits, embedding)
    expected = torch.stack((embedding.weight[4], embedding.weight[[3, 9]].mean(0)))
    torch.testing.assert_close(named, expected)
    mouth, codes = small_model(mouth=1, speech_from=S).mouth, torch.zeros(1, 2, dtype=torch.long)
    entered = [mouth.enter(scale * torch.ones(1, 2, 32), codes, codes > 0) for scale in (1, 5)]
    torch.testing.assert_close(*entered)  # however large a text model's embedding is


def test_codes_teach_the_mouth_and_the_monologue_the_tail():
    model = small_model(mouth=1, speech_from=S)
    hidden = model(GRID, tails=("speech", "spoken_text"))
    chunked_cross_entropy(model.speech_head, hidden.speech[0, 3:5], torch.tensor([3, 4])).backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in model.speech_tail.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.mouth.layers.parameters())
    chunked_cross_entropy(model.text_head, hidden.spoken_text[0, 3:5], torch.tensor([9, 9])).backward()
    assert all(p.grad.any() for p in model.speech_tail.parameters())


def test_plan_counts_a_mouth():
    config = small_model(mouth=2, speech_from=S).config
    cost = [trace(config, "speech", 1, 24, "32-true", False).flops]
    cost.append(trace(small_model().config, "speech", 1, 24, "32-true", False).flops)
    assert cost[0] > cost[1]


def test_it_is_kept_in_the_checkpoint_and_refuses_what_it_cannot_do(folder, tmp_path):
    from mossrepro.lm.mini import MiniBackboneTask

    shape = {"codes": 64, "tail_layers": 1, "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2}
    MiniBackboneTask(str(folder / "tokenizer.json"), **shape).save_pretrained(tmp_path)
    task = LayerSplitTask(str(tmp_path), codes=64, train="speech", mouth=2)
    assert task.model.config.speech_from is not None
    trained = {name for name, p in task.model.named_parameters() if p.requires_grad}
    assert {name for name, _ in task.model.named_parameters() if name.startswith("mouth.")} <= trained
    (tmp_path / "out").mkdir()
    checkpoint.save_pretrained(task.model, task.tokenizer, tmp_path / "out")
    again, _ = checkpoint.from_pretrained(tmp_path / "out")
    for kept in (again, LayerSplitTask(str(tmp_path / "out"), codes=64, mouth=2).model):
        assert (kept.config.mouth, kept.config.speech_from) == (2, task.model.config.speech_from)
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), task.model.parameters(), strict=True))
    with pytest.raises(ConfigError, match="has one of 2"):
        LayerSplitTask(str(tmp_path / "out"), codes=64, mouth=3)
    grid = torch.zeros(1, 4, 2, dtype=torch.long)
    with pytest.raises(ConfigError, match="pack=false"):
        again(grid, mask=Packing((2, 2)))


@pytest.mark.parametrize("changes", [{"mouth": 1, "speech_from": S}, {"ears": 2, "user_turn": [1, 9]}])
def test_the_released_layout_has_no_place_for_it(changes, tmp_path):
    with pytest.raises(ConfigError, match="no place for it"):
        released.save(small_model(**changes), None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_config_that_no_model_has_is_refused(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(CheckpointError, match="speech_from=None"):
        checkpoint.build_config({**small_model().config.to_dict(), "mouth": 2}, tmp_path / "config.json", 100)


@torch.no_grad()
def test_in_training_every_second_document_forgets_what_is_named_later():
    model = small_model(mouth=1, speech_from=S)
    even, odd = GRID.clone(), GRID.clone()
    even[0, 5, 1] = 5  # 3 + 5 codes; `odd` has 3 + 4
    table, tail = model.rotary(torch.arange(6)[None]), torch.randn(1, 6, 32)
    other = torch.cat((tail[:, :4], torch.randn(1, 2, 32)), 1)
    mask = reply_mask(reply_starts(GRID[..., 0], S))
    for grid, forgets in ((even, True), (odd, False)):
        said = [model.train().say(x, grid, table, mask, None) for x in (tail, other)]
        assert torch.equal(*said) == forgets
        said = [model.eval().say(x, grid, table, mask, None) for x in (tail, other)]
        assert not torch.equal(*said)


@torch.no_grad()
def test_a_mouth_that_recites_says_what_it_would_say_of_a_tail_that_names_the_same(monkeypatch):
    model = small_model(mouth=2, speech_from=S).eval()
    tokens, others = torch.tensor([[-1, -1, -1, 5, 6, 7]]), torch.tensor([[-1, -1, -1, 7, 5, 6]])
    shares = torch.full((1, 6), 0.25)
    table = model.text_embed.weight
    named = 0.75 * table[[5, 6, 7]] + 0.25 * table[[7, 5, 6]]
    monkeypatch.setattr("mossrepro.lm.model.mean_named", lambda logits, embedding: named)
    said = model(GRID, tails=("speech",)).speech
    torch.testing.assert_close(model.recite(GRID, tokens, others, shares)[:, 3:], said[:, 3:])
    assert not torch.allclose(model.recite(GRID, tokens, others, 0 * shares)[:, 3:], said[:, 3:])


def test_what_is_given_is_in_doubt_up_to_a_share_and_the_same_for_a_document_everywhere():
    tokens, codes = torch.tensor([[-100, 4, 5, 6], [7, 8, 9, -100]]), torch.tensor([[-100, 1, 2, 3], [4, 5, 6, 7]])
    others, shares = doubts(tokens, codes, 0.3)
    assert torch.equal(others.sort(1).values, tokens.sort(1).values) and torch.equal(others < 0, tokens < 0)
    assert not shares[tokens < 0].any() and (shares[tokens >= 0] > 0).all() and shares.max() < 0.3
    for whole, alone in zip((others, shares), doubts(tokens[1:], codes[1:], 0.3), strict=True):
        assert torch.equal(whole[1:], alone)
    assert not torch.equal(shares[0], doubts(tokens, codes + 1, 0.3)[1][0])
    assert not doubts(tokens, codes, 0.0)[1].any()


def test_a_mouth_by_itself_moves_nothing_else_and_wants_a_mouth(folder, tmp_path):
    from lm_toys import module

    from mossrepro.lm.mini import MiniBackboneTask

    shape = {"codes": 64, "tail_layers": 1, "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2}
    MiniBackboneTask(str(folder / "tokenizer.json"), **shape).save_pretrained(tmp_path)
    task = MouthTask(str(tmp_path), 64, train=r"mouth\.|speech_norm\.|speech_head\.", mouth=1)
    data = module(folder, mix={"tts": 1.0}, monologue=True)
    out = task.losses(data.train_batch(0, 0, 1))
    out["speech"].backward()
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"mouth", "speech_norm", "speech_head"} and int(out["n_speech"]) > 0
    said = []
    task.log = lambda name, value, **_: said.append(name)
    for index, batch in enumerate(data.val_batches()):
        task.eval().validation_step(batch, index)
    assert said == ["val/T2S"]
    for settings, message in (({"mouth": 0}, "mouth=0"), ({"mouth": 1, "doubt": 1.5}, "doubt=1.5")):
        with pytest.raises(ConfigError, match=message):
            MouthTask(str(tmp_path), 64, **settings)
    with pytest.raises(ConfigError, match="pack=false"):
        task.losses(module(folder, mix={"tts": 1.0}, monologue=True, pack=True).train_batch(0, 0, 1))
    (tmp_path / "out").mkdir()
    checkpoint.save_pretrained(task.model, task.tokenizer, tmp_path / "out")
    with pytest.raises(ConfigError, match="has started already"):
        LayerSplitTask(str(tmp_path / "out"), 64, train="speech", head_from_words=True)
