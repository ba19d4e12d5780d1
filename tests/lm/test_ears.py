"""Gated ears: they act on heard codes alone, change nothing at first, and what is written stays equal bit for bit."""

import lightning
import pytest
import torch
from lm_toys import IDS, TEXTS, hearing_model, module, small_model, spoken, tensor
from stage_toys import BACKBONE, QUIET

from mossrepro.lm import checkpoint
from mossrepro.lm.decode import GenerationConfig, IncrementalDecoder, generate
from mossrepro.lm.ears import Ear, heard_positions
from mossrepro.lm.grid import Grid
from mossrepro.lm.inference import frozen_trunk, fuse_projections
from mossrepro.lm.init import start_ears
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import ConfigError


def test_only_the_codes_of_users_are_heard():
    _, _, grid = hearing_model()
    both = grid.join(spoken(grid), grid.spoken(torch.tensor([7, 8]).numpy()), grid.text("<|im_end|>\n"), spoken(grid))
    text = torch.from_numpy(both.text)[None]
    heard = heard_positions(text, grid.ids.pad, hearing_model()[0].config.user_turn)[0, :, 0]
    codes = torch.from_numpy(both.speech)[heard].tolist()
    assert codes == [3, 4, 5, grid.ids.eosp, 3, 4, 5, grid.ids.eosp]  # not 7 and 8, which the assistant says
    written = torch.from_numpy(grid.turn("user", text="the cat").text)[None]
    assert heard_positions(written, grid.ids.pad, [IDS.im_start, 3]) is None


@torch.no_grad()
def test_ears_change_what_is_heard_and_nothing_else():
    model, tokenizer, grid = hearing_model()
    deaf = small_model(text_vocab=tokenizer.get_vocab_size(), modality_pad=grid.ids.pad).eval()
    deaf.load_state_dict({k: v for k, v in model.state_dict().items() if ".ear." not in k and "heard_" not in k})
    written = grid.join(grid.system(True), grid.turn("user", text="the cat"), grid.reply_prefix(True))
    said = grid.join(written, grid.spoken(torch.tensor([7, 8]).numpy()))
    for positions, equal in ((written, True), (said, True), (spoken(grid), False)):
        ours, theirs = model(tensor(positions)), deaf(tensor(positions))
        assert torch.equal(ours.speech, theirs.speech) is equal and torch.equal(ours.text, theirs.text) is equal
    ours, theirs = (m(tensor(spoken(grid))).speech for m in (model, deaf))
    first = int((tensor(spoken(grid))[0, :, 0] == grid.ids.pad).nonzero()[0])
    assert torch.equal(ours[:, :first], theirs[:, :first]) and not torch.equal(ours[:, first:], theirs[:, first:])


def test_new_ears_change_nothing():
    tokenizer = mini_tokenizer([f"{text}\n" for text in TEXTS] * 3, 400)
    pad = Grid(tokenizer, 40).ids.pad
    deaf, model = (small_model(text_vocab=tokenizer.get_vocab_size(), modality_pad=pad).eval() for _ in range(2))
    start_ears(model, tokenizer, 3, seed=1)
    grid = model.grid(tokenizer)
    assert torch.equal(model(tensor(spoken(grid))).text, deaf(tensor(spoken(grid))).text)
    with pytest.raises(ConfigError, match="rank 3"):
        start_ears(model, tokenizer, 4, seed=1)
    with pytest.raises(ConfigError, match="at least 1"):
        start_ears(model, tokenizer, 0, seed=1)


def test_training_ears_trains_nothing_else():
    model, _, grid = hearing_model()
    model.train_only("ears")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tensor(spoken(grid))).text.sum().backward()
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".ear." in name or name.startswith("heard_")}
    with pytest.raises(ConfigError, match="no ears"):
        small_model().train_only("ears")


def test_a_saved_model_hears_the_same(tmp_path):
    model, tokenizer, grid = hearing_model()
    checkpoint.save_pretrained(model, tokenizer, tmp_path)
    again, _ = checkpoint.from_pretrained(tmp_path)
    assert torch.equal(model(tensor(spoken(grid))).text, again(tensor(spoken(grid))).text)


def test_decoding_hears_as_at_once_and_fused_the_same():
    model, _, grid = hearing_model()
    prompts = [spoken(grid), spoken(grid, (1, 2, 3, 9, 9, 6))]
    config = GenerationConfig(max_positions=6)
    expected = [reply.codes for reply in generate(model, prompts, grid.ids, config)]
    logits = model.speech_head(model(tensor(spoken(grid))).speech[0, -1])
    assert expected[0][0] == int(logits[: grid.ids.eosp].argmax())
    fused = [reply.codes for reply in generate(fuse_projections(model), prompts, grid.ids, config)]
    assert fused == expected


def test_the_model_does_not_hear_itself():
    """A code that the model has just said comes alone, without the turn that it is of."""
    model, _, grid = hearing_model()
    decoder = IncrementalDecoder(model, torch.zeros(1, dtype=torch.long), 60)
    decoder.read(tensor(spoken(grid)))
    assert model.gate.heard is not None
    decoder.read(torch.tensor([[[grid.ids.pad, 3]]]))
    assert model.gate.heard is None


def test_what_is_trained_can_be_named_by_an_expression():
    model = small_model()
    model.train_only(r"trunk\.0\.mlp\.")
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {f"trunk.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    for wrong in ("trunk[", "nothing"):
        with pytest.raises(ConfigError, match="choose"):
            model.train_only(wrong)


def test_a_frozen_embedding_stays_and_its_text_loss_is_not_computed(folder):
    """From `embed_steps` on the embedding keeps its bits, and a loss that reaches nothing costs nothing."""
    data = module(folder, mix={"tts": 1.0}, system_turns="word", monologue=True)
    task = LayerSplitTask(str(_backbone(folder)), codes=64, train="speech", monologue_at="speech", embed_steps=2)
    seen = []
    forward = task.model.forward
    task.model.forward = lambda *args, **how: seen.append(how["tails"]) or forward(*args, **how)
    weights = []
    task.on_train_batch_end = lambda *_: weights.append(task.model.speech_embed.weight.detach().clone())
    trainer = lightning.Trainer(accelerator="cpu", max_steps=4, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, data)
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[3])
    assert ["text" in tails for tails in seen] == [True, True, False, False]
    assert all("spoken_text" in tails for tails in seen)
    assert task.model.frozen_trunk is None and not any("frozen" in name for name in task.state_dict())


def _backbone(folder):
    task = MiniBackboneTask(str(folder / "tokenizer.json"), **BACKBONE)
    task.save_pretrained(folder / "backbone")
    return folder / "backbone"


@pytest.mark.parametrize("split_at", [None, 1])
def test_a_frozen_trunk_runs_as_it_answers_and_takes_no_gradient(split_at):
    model = small_model(split_at=split_at)
    model.train_only("speech")
    grid = torch.stack([torch.randint(8, 60, (2, 9)), torch.randint(0, 40, (2, 9))], -1)
    plain = model(grid, tails=("speech",)).speech
    model.frozen_trunk = frozen_trunk(model)
    quick = model(grid, tails=("speech",)).speech
    assert torch.allclose(plain, quick, atol=0.05) and quick.dtype == torch.float32
    quick.sum().backward()
    assert all(p.grad is not None for p in model.speech_tail.parameters())
    assert model.speech_embed.weight.grad is None and all(p.grad is None for p in model.trunk.parameters())


def test_a_batch_in_which_nothing_is_heard_can_be_stepped(folder):
    task = LayerSplitTask(str(_backbone(folder)), codes=64, train="ears", ears=2)
    data = module(folder, mix={"text": 1.0})
    trainer = lightning.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    before = task.model.state_dict()["trunk.0.mlp.up_proj.weight"].clone()
    trainer.fit(task, data)
    assert torch.equal(task.model.state_dict()["trunk.0.mlp.up_proj.weight"], before)


@pytest.mark.parametrize("more", [{"tail_layers": 0, "extra_layers": 1}, {"lora": 2}])
def test_what_is_trained_in_the_trunk_goes_on_learning_when_the_embedding_is_frozen(folder, more):
    """No copy of the trunk takes its place: it would stand still without a word."""
    start = _backbone(folder)
    task = LayerSplitTask(str(start), codes=64, train="speech", embed_steps=1, **more)
    data, weights = module(folder, mix={"tts": 1.0}), []
    learns = {name for name, p in task.model.named_parameters() if p.requires_grad and name.startswith("trunk.")}
    keep = lambda *_: weights.append({n: p.detach().clone() for n, p in task.model.named_parameters() if n in learns})  # noqa: E731
    task.on_train_batch_end = keep
    trainer = lightning.Trainer(accelerator="cpu", max_steps=4, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    trainer.fit(task, data)
    assert learns and any(not torch.equal(weights[2][name], weights[3][name]) for name in learns)


@torch.no_grad()
def test_a_frozen_trunk_hears_as_the_trunk_does():
    model, _, grid = hearing_model()
    heard, quick = tensor(spoken(grid)), frozen_trunk(model)  # before anything is heard
    plain = model(heard, tails=("speech",)).speech
    model.frozen_trunk = quick
    quick = model(heard, tails=("speech",)).speech
    for part in model.frozen_trunk:
        for layer in part.modules():
            if isinstance(layer, Ear):
                layer.up.zero_()
    deaf = model(heard, tails=("speech",)).speech
    assert (quick - plain).abs().mean() < 0.2 * (deaf - plain).abs().mean()
