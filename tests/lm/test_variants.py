"""Other places to split, and other ways to let the text half move."""

import numpy as np
import pytest
import torch
from lm_toys import IDS, module, prompts, small_model
from torch import nn

from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.evaluation import spoken_qa
from mossrepro.lm import lora, released
from mossrepro.lm.checkpoint import from_pretrained, save_pretrained
from mossrepro.lm.data import collate
from mossrepro.lm.decode import GenerationConfig, Reply, SamplingParams, generate
from mossrepro.lm.grid import Grid, question_prompt
from mossrepro.lm.init import is_started, resplit, start_speech_half
from mossrepro.lm.init_from import open_start
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

PLACES = [(2, None), (2, 0), (2, 1), (0, None), (1, 3), (3, 1)]


def grid(rows: int = 9) -> torch.Tensor:
    made = torch.randint(8, 40, (2, rows, 2), generator=torch.Generator().manual_seed(3))
    made[:, 3:7, 0] = 7
    return made


@pytest.mark.parametrize(("depth", "at"), PLACES)
def test_a_fresh_split_says_what_the_backbone_says_wherever_it_is(depth, at) -> None:
    """The tails are copies, so both channels of every split are the unsplit model."""
    backbone = small_model(tail_layers=0).double().eval()
    model = resplit(backbone, depth, at).double()
    start_speech_half(model, 0)
    model.speech_embed.load_state_dict(backbone.speech_embed.state_dict())
    expected, said = backbone(grid()).text, model.eval()(grid())
    torch.testing.assert_close(said.text, expected)
    torch.testing.assert_close(said.speech, expected)
    assert len(model.speech_tail) == depth and len(model.trunk) == 4 - depth and not is_started(model)
    places = [model.config.locate_layer(i) for i in range(4)]
    assert [part for part, _ in places].count("text_tail") == depth and len(set(places)) == 4
    again = resplit(model, 0, None)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in backbone.state_dict().items() if "speech" not in n)


@pytest.mark.parametrize(("depth", "at"), PLACES)
def test_every_split_decodes_as_it_reads(depth, at) -> None:
    model = small_model(tail_layers=depth, split_at=at).double().eval()
    with torch.no_grad():
        model.speech_head.weight[IDS.eosp] += 0.5
    how = GenerationConfig(SamplingParams(1.2), SamplingParams(1.2, min_length=2), max_positions=12)
    lazy = generate(model, prompts(), IDS, how)
    assert lazy == generate(model, prompts(), IDS, how, defer=False)
    alone = [GenerationConfig(how.text, how.speech, 12, seed) for seed in range(len(prompts()))]
    assert lazy == [generate(model, [p], IDS, how)[0] for p, how in zip(prompts(), alone, strict=True)]
    whole, cache = model(grid()), model.new_cache(2, 9)
    parts = [model(part, cache=cache) for part in grid().split([4, 1, 4], 1)]
    torch.testing.assert_close(torch.cat([p.speech for p in parts], 1), whole.speech)
    torch.testing.assert_close(torch.cat([p.text for p in parts], 1), whole.text)


def test_a_split_in_the_middle_is_saved_and_is_no_released_layout(tmp_path) -> None:
    model, tokenizer = small_model(split_at=1), mini_tokenizer(["one two"], 300)
    save_pretrained(model, tokenizer, tmp_path)
    again, _ = from_pretrained(tmp_path)
    assert again.config.split_layer == 1 and torch.equal(again(grid()).speech, model(grid()).speech)
    with pytest.raises(ConfigError, match="split_at=1"):
        released.save(model, tokenizer, tmp_path / "theirs")
    with pytest.raises(ConfigError, match="split_at=3"):
        small_model(split_at=3)


@pytest.fixture
def backbone(folder, tmp_path):
    task = MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, layers=3, dim=32, ffn_dim=64)
    task.save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_trained_split_is_not_moved(backbone, tmp_path) -> None:
    model, tokenizer = open_start(str(backbone), 64, 2, "copy", 0, 0)
    assert (model.config.tail_layers, model.config.split_at) == (2, 0)
    with torch.no_grad():
        model.speech_norm.weight.add_(0.1)
    save_pretrained(model, tokenizer, tmp_path / "stage")
    kept, _ = open_start(str(tmp_path / "stage"), 64, None, "copy", 0)
    assert kept.config == model.config
    for change in ((1, 0), (2, 1)):
        with pytest.raises(ConfigError, match="has been trained with 2 at 0"):
            open_start(str(tmp_path / "stage"), 64, change[0], "copy", 0, change[1])


def test_a_control_as_large_as_a_split_starts_as_the_backbone(backbone, tmp_path) -> None:
    """As many parameters, one way for both channels; Stage 1 trains the new layers and keeps the others' bits."""
    split, _ = open_start(str(backbone), 64, 2, "copy", 0)
    plain, tokenizer = open_start(str(backbone), 64, 0, "copy", 0)
    model, _ = open_start(str(backbone), 64, 0, "copy", 0, extra_layers=2)
    size = {name: sum(p.numel() for p in m.parameters()) for name, m in (("split", split), ("extra", model))}
    assert size["split"] == size["extra"] and model.config.layers == 5
    rows = grid() % 60
    torch.testing.assert_close(model(rows).text, plain(rows).text)
    model.train_only("speech")
    learns = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and "trunk" in name}
    assert learns == {"3", "4"}
    for parameter in model.parameters():
        parameter.grad = None
    model(rows).text.square().sum().backward()
    assert model.trunk[3].mlp.down_proj.weight.grad.abs().sum() > 0 and model.trunk[0].mlp.down_proj.weight.grad is None
    with torch.no_grad():
        model.speech_norm.weight.add_(0.1)
    save_pretrained(model, tokenizer, tmp_path / "stage")
    again, _ = open_start(str(tmp_path / "stage"), 64, 0, "copy", 0)
    assert (
        again.config == model.config == open_start(str(tmp_path / "stage"), 64, 0, "copy", 0, extra_layers=2)[0].config
    )
    with pytest.raises(ConfigError, match="extra_layers=1: .* has been trained with 2"):
        open_start(str(tmp_path / "stage"), 64, 0, "copy", 0, extra_layers=1)
    with pytest.raises(ConfigError, match="extra_layers=2: the released layout"):
        released.save(model, tokenizer, tmp_path / "theirs")
    for wrong in ({"extra_layers": 2}, {"extra_layers": 4, "tail_layers": 0}):
        with pytest.raises(ConfigError, match="want tail_layers=0"):
            small_model(**wrong)


def test_low_rank_changes_start_as_nothing_and_end_as_weights(tmp_path) -> None:
    model, plain = small_model(tied=False), small_model(tied=False)
    new = lora.adapt(model.trunk, 3)
    layers = [m for m in plain.trunk.modules() if type(m) is nn.Linear]
    assert new == sum(3 * (m.in_features + m.out_features) for m in layers) and len(layers) == 2 * 7
    assert torch.equal(model(grid()).text, plain(grid()).text)
    model.train_only("speech")
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns == set(model.speech_parameters()) | {n for n, _ in model.named_parameters() if ".lora_" in n}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_(std=0.1)
    said = model(grid())
    assert not torch.allclose(said.text, plain(grid()).text, atol=1e-3)
    save_pretrained(model, mini_tokenizer(["one two"], 300), tmp_path)
    again, _ = from_pretrained(tmp_path)
    torch.testing.assert_close(again(grid()).text, said.text, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="at least 1"):
        lora.adapt(small_model(), 0)


def test_layers_thaw_from_the_back() -> None:
    model, thawed = small_model(tied=False), []
    for done in (0.0, 0.2, 0.5, 0.8, 1.0):
        model.train_only("gradual", done)
        learns = {name for name, p in model.named_parameters() if p.requires_grad}
        assert set(model.speech_parameters()) <= learns
        places = ["{}.{}.".format(*model.config.locate_layer(i)) for i in range(4)]
        thawed.append([i for i, place in enumerate(places) if any(name.startswith(place) for name in learns)])
        assert ("text_embed.weight" in learns) == ("text_head.weight" in learns) == (done >= 0.8)
    assert thawed == [[], [3], [2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    model.train_only("gradual", 1.0)
    assert all(p.requires_grad for p in model.parameters())


def test_a_gradual_stage_resumes_bit_for_bit(backbone, folder, tmp_path) -> None:
    from codec_toys import train

    def fit(out=None, ckpt=None) -> LayerSplitTask:
        task = LayerSplitTask(str(backbone), codes=64, train="gradual", lr=1e-2)
        train(task, module(folder), 6, out, ckpt, at=3)
        return task

    before, whole = from_pretrained(backbone)[0].state_dict(), fit(tmp_path)
    resumed = fit(ckpt=str(tmp_path / "last.ckpt"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    first = "trunk.0.mlp.up_proj.weight"
    assert torch.equal(saved[f"model.{first}"], before[first])  # not thawed yet
    assert not torch.equal(whole.model.state_dict()[first], before[first])


@pytest.mark.parametrize("text_guidance", [False, True])
def test_text_guidance_writes_what_is_said_before_it_is_said(folder, text_guidance) -> None:
    data = module(folder, text_guidance=text_guidance)
    documents, grid = data.documents, data.documents.grid
    for kind in ("T2S", "S2S", "tts"):
        doc = documents.draw(kind, rng(1, kind))
        starts = np.flatnonzero(doc.text == grid.ids.sosp)
        reply = doc[starts[-1] - 12 : starts[-1] + 2]
        batch = collate([doc], grid, 256)
        asked = batch["text_target"][0][starts[-1] - 1] == grid.ids.sosp
        assert bool(asked) == text_guidance and bool(reply.supervise[:12].any()) == text_guidance
        assert batch["speech_target"][0][starts[-1]] >= 0  # the first code is asked for at SOSP in both
    prompt = question_prompt(grid, "T2S", "who is it?", text_guidance=text_guidance)
    assert (prompt.text[-1] == grid.ids.sosp) == (not text_guidance)
    assert (documents.draw("S2T", rng(1, "x")).text == grid.ids.sosp).sum() == 1  # the question; written answers stay


def test_a_guided_model_is_judged_by_its_voice(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(spoken_qa, "generate", lambda model, prompts, ids, how: seen.append((prompts, how)) or [
        Reply(text=[5, 6], codes=[1, 2], ended=True) for _ in prompts])  # fmt: skip
    fact = Fact("capital", "France", "Paris", "C")
    line = Line("q", "test", "Who?", "v", "test", fact.key, "C")
    grid = Grid(mini_tokenizer(["Who? system user assistant"], 300), 40)
    hear = lambda many: ["It is Paris."] * len(many)  # noqa: E731
    (one,) = spoken_qa.ask(None, grid, [line], {fact.key: fact}, {}, "T2S", hear, text_guidance=True)
    assert one.right and one.heard == "It is Paris." and seen[0][1].max_positions == 66
    assert seen[0][0][0].text[-1] != grid.ids.sosp
