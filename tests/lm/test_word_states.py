"""Word states: heard words meet the same words in writing, and nothing depends on how a step is divided."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_toys import module, small_model
from stage_toys import BACKBONE

from mossrepro.lm.ears import Ear
from mossrepro.lm.grid import Grid
from mossrepro.lm.init import start_ears
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.lm.twins import Heard, heard_turn, paired
from mossrepro.lm.word_states import contrast, nearest, read_twin, states, word_state_loss
from mossrepro.utils.errors import ConfigError

TEXTS = ["user", "assistant", "Repeat: What's the capital of Sri Lanka?", "the black dog."]


@pytest.fixture
def grid():
    return Grid(mini_tokenizer([f"{text}\n" for text in TEXTS] * 3, 400), 40)


def test_a_heard_word_and_its_twin_have_one_number_where_they_end(grid):
    heard = Heard("The black dog.", np.arange(9), [("the", 0.0, 0.16), ("black", 0.16, 0.4), ("dog", 0.4, 5.0)])
    said, written = heard_turn(grid, heard, "Repeat: ", 70)
    start = int(np.flatnonzero(said.text == grid.ids.pad)[0])
    assert {int(n): int(i) - start for i, n in enumerate(said.word_end) if n >= 0} == {70: 3, 71: 6, 72: 9}  # EOSP
    for number, word in ((70, "The"), (71, "black"), (72, "dog")):
        before = grid.tokenizer.decode(written.text[: int(np.flatnonzero(written.word_end == number)[0]) + 1].tolist())
        assert before.rstrip(".").endswith(word)
    assert written.text.tolist() == grid.turn("user", text="Repeat: The black dog.").text.tolist()
    unknown, twin = heard_turn(grid, Heard("The black dog.", np.arange(9), [("the", 0.0, 0.2)]), "", 0)
    assert (unknown.word_end < 0).all() and (twin.word_end < 0).all()


def test_numbers_survive_joining_and_cutting_and_words_that_are_cut_off_are_left_out(grid):
    words = [("the", 0.0, 0.1), ("black", 0.1, 0.3), ("dog", 0.3, 0.5)]
    said, written = heard_turn(grid, Heard("the black dog.", np.arange(9), words), "", 5)
    opening = grid.text("<|im_start|>assistant\n")
    document = replace(grid.join(opening, said), twin=written)
    places = paired(document, 1000, grid.ids.pad)
    assert document.word_end[places.here].tolist() == written.word_end[places.there].tolist() == [5, 6, 7]
    assert places.token.tolist() == written.text[places.there].tolist() and not places.reply.any()
    shorter = paired(document, int(max(places.here[-1], places.there[-1])), grid.ids.pad)
    assert [part.tolist() for part in shorter] == [part[:2].tolist() for part in places]
    assert (document[len(opening) :].word_end == said.word_end).all()
    assert [len(part) for part in paired(grid.join(opening), 9, grid.ids.pad)] == [0] * 4  # without a twin


def test_a_reply_is_paired_where_it_is_read_with_the_token_that_follows(grid):
    said, written = heard_turn(grid, Heard("the black dog.", np.arange(9)), "", 5)
    reply = grid.turn("assistant", text="the dog", supervise=True)
    document = replace(grid.join(said, reply), twin=grid.join(written, reply))
    places = paired(document, 1000, grid.ids.pad)
    assert places.reply.all() and len(places.here) == reply.supervise.sum() > 1
    assert document.text[places.here + 1].tolist() == document.twin.text[places.there + 1].tolist()
    assert places.token.tolist() == reply.text[reply.supervise].tolist()
    assert (places.here - places.there == len(said) - len(written)).all()
    cut = paired(document, len(document) - 2, grid.ids.pad)  # the twin is shorter and loses nothing
    assert [part.tolist() for part in cut] == [part[:-1].tolist() for part in places]
    longer = replace(document.twin, twin=document)  # the other way round: now the twin is cut off
    cut = paired(longer, len(document) - 2, grid.ids.pad)
    assert cut.token.tolist() == places.token[:-1].tolist() and cut.there.tolist() == places.here[:-1].tolist()
    alike = replace(document, twin=document)  # nothing is heard
    assert not len(paired(alike, 1000, grid.ids.pad).here)
    aloud = grid.turn("assistant", codes=np.arange(5), supervise=True)  # the codes of a spoken reply are no places
    spoken = replace(grid.join(said, aloud), twin=grid.join(written, aloud))
    assert grid.ids.pad not in paired(spoken, 1000, grid.ids.pad).token


def test_words_are_told_from_words_and_replies_from_replies():
    torch.manual_seed(0)
    heard, written = [torch.randn(1, 9, 8)], [torch.randn(1, 9, 8)]
    table = [(0, 1, 7, 0), (0, 4, 3, 1), (0, 2, 8, 0), (0, 5, 4, 1), (0, 6, 3, 1)]
    batch = {"words": torch.tensor([(0, 3, 1), (0, 1, 0), (0, 5, 3)]), "written": torch.tensor(table)}
    words = contrast(heard[0][0, [1]], written[0][0, [1, 2]], torch.tensor([0]), torch.tensor([7, 8]))
    replies = contrast(heard[0][0, [3, 5]], written[0][0, [4, 5, 6]], torch.tensor([0, 1]), torch.tensor([3, 4, 3]))
    assert float(word_state_loss(heard, written, batch)) == pytest.approx(float(words + replies), rel=1e-5)
    read = torch.zeros(1, 9, dtype=torch.bool)  # of codes: replies are where they are
    assert float(word_state_loss(heard, written, batch, read)) == pytest.approx(float(replies), rel=1e-5)
    read[0, [1, 2]] = True
    assert torch.equal(word_state_loss(heard, written, batch, read), word_state_loss(heard, written, batch))
    read[0, 1] = False  # then it is the next that is read
    words = contrast(heard[0][0, [2]], written[0][0, [1, 2]], torch.tensor([0]), torch.tensor([7, 8]))
    assert float(word_state_loss(heard, written, batch, read)) == pytest.approx(float(words + replies), rel=1e-5)
    read = torch.tensor([[False, True, False, False, False, False, True, False, False]])
    places = torch.tensor([0, 1, 3, 4, 5, 8])
    assert nearest(read, torch.zeros(6, dtype=torch.long), places).tolist() == [1, 1, 1, 6, 6, 6]
    assert nearest(read & False, torch.zeros(6, dtype=torch.long), places).tolist() == [-1] * 6


def test_the_loss_is_that_of_the_equation_and_skips_words_spelt_alike():
    torch.manual_seed(0)
    heard, written = torch.randn(3, 8), torch.randn(5, 8)
    own, word = torch.tensor([0, 2, 4]), torch.tensor([1, 2, 1, 3, 4])  # 0 and 2 are one word, said twice
    wanted, mean = 0.0, written.mean(0)
    for state, right in zip(heard, own.tolist(), strict=True):
        scores = torch.cosine_similarity(state - mean, written - mean, dim=-1) / 0.07
        kept = [j for j in range(5) if j == right or word[j] != word[right]]
        wanted -= float(scores[right] - torch.logsumexp(scores[kept], 0))
    assert float(contrast(heard, written, own, word)) == pytest.approx(wanted, rel=1e-5)
    apart = sum(float(contrast(heard[i : i + 1], written, own[i : i + 1], word)) for i in range(3))
    assert apart == pytest.approx(wanted, rel=1e-5)
    assert float(contrast(heard[:0], written, own[:0], word)) == 0


def asked(folder, **more):
    return module(folder, mix={"asr": 0.5, "S2T": 0.5}, twins=True, **more)


def with_times(data):
    """The words of what is to be recognised are said to last equally long."""
    documents = data.documents
    for i, heard in enumerate(documents.recognised):
        step = 0.08 * len(heard.codes) / len(heard.text.split())
        times = [(word, j * step, (j + 1) * step) for j, word in enumerate(heard.text.split())]
        documents.recognised[i] = heard._replace(words=times)
    return data


def test_a_batch_has_the_twins_of_its_documents_and_ranks_share_them(folder):
    data = with_times(asked(folder))
    whole = data.train_batch(2, 0, 1)
    assert whole["twin"].shape[0] == len(whole["grid"]) and len(whole["words"]) > 5
    pad = data.documents.grid.ids.pad
    (row, here, own), (twin, there, token, reply) = whole["words"].unbind(1), whole["written"].unbind(1)
    heard = reply == 0
    assert (whole["grid"][row, here, 0] == pad)[heard].all() and (whole["twin"][twin, there, 0] != pad).all()
    assert torch.equal(whole["twin"][twin, there + reply, 0], token)
    assert int(reply.sum()) == int((whole["text_target"] >= 0).sum()) and heard.any()
    assert torch.equal(whole["text_target"][row, here][~heard], token[~heard])
    assert (twin[own] == row).all() and own.tolist() == list(range(len(whole["written"])))
    assert not (whole["twin"][..., 0] == pad).any()
    parts = [data.train_batch(2, rank, 2) for rank in (0, 1)]
    assert sum(len(part["words"]) for part in parts) == len(whole["words"]) == int(whole["word_count"])
    assert all(2 * float(part["word_count"]) == float(whole["word_count"]) for part in parts)
    for key in ("twin", "written"):  # words are told from those of the whole step
        assert all(torch.equal(part[key], whole[key]) for part in parts)
    assert sorted(n for part in parts for n in part["words"][:, 2].tolist()) == own.tolist()
    targets = torch.stack([part["twin_target"] for part in parts])
    assert torch.equal(targets.amax(0), whole["twin_target"]) and ((targets >= 0).sum(0) <= 1).all()
    assert "twin" not in module(folder).train_batch(2, 0, 1)
    assert whole.keys() - set(data.on_host) == {"grid", "twin"}  # all else stays in main memory


def test_two_halves_of_a_batch_have_the_gradient_of_the_whole(folder, tmp_path):
    data, task = with_times(asked(folder)), _task(folder, tmp_path)
    gradients = []
    for world in (1, 2):
        task.zero_grad()
        for rank in range(world):
            batch = data.train_batch(2, rank, world)
            (task.losses(batch)["word"] / batch["word_count"] / world).backward()
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
    assert gradients[0] and all(".ear." in name or "heard_" in name for name in gradients[0])
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-6)


def _task(folder, tmp_path, **more):
    MiniBackboneTask(str(folder / "tokenizer.json"), **BACKBONE).save_pretrained(tmp_path / "backbone")
    task = LayerSplitTask(str(tmp_path / "backbone"), codes=64, train="ears", ears=4, word_states=0.5, **more)
    for part in task.model.modules():
        if isinstance(part, Ear):
            part.up.data.normal_(0, 0.1)
    return task


def test_states_are_drawn_to_those_of_the_written_word(folder, tmp_path):
    data, task = with_times(asked(folder)), _task(folder, tmp_path)
    batch, optimiser = (
        data.train_batch(0, 0, 1),
        torch.optim.Adam([p for p in task.parameters() if p.requires_grad], 1e-2),
    )
    losses = []
    for _ in range(30):
        loss = task.losses(batch)["word"] / batch["word_count"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_twin_teaches_and_is_not_taught():
    tokenizer = mini_tokenizer([f"{text}\n" for text in TEXTS] * 3, 400)
    ids = Grid(tokenizer, 40).ids
    model = small_model(text_vocab=tokenizer.get_vocab_size(), modality_pad=ids.pad)
    start_ears(model, tokenizer, 3, seed=1)
    model.train_only("all")
    grid = model.grid(tokenizer)
    times = [("the", 0.0, 0.2), ("black", 0.2, 0.4), ("dog", 0.4, 0.6)]
    said, written = heard_turn(grid, Heard("the black dog.", np.arange(9), times), "", 0)
    sides = [torch.from_numpy(np.stack((x.text, x.speech), -1))[None] for x in (said, written)]
    places = paired(replace(said, twin=written), 99, ids.pad)
    with states(model) as heard:
        model(sides[0], tails=())
    assert heard and len(heard) == len({id(one) for one in heard})
    batch = {"twin": sides[1], "words": torch.tensor([(0, here, i) for i, here in enumerate(places.here)])}
    batch["written"] = torch.tensor([(0, *map(int, one)) for one in zip(*places[1:], strict=True)])
    word_state_loss(heard, read_twin(model, batch, False)[0], batch).backward()
    only_written = sorted(set(written.text.tolist()) - set(said.text.tolist()))
    assert only_written and not model.text_embed.weight.grad[only_written].any()
    assert model.speech_embed.weight.grad.any() and not model.trunk[0]._forward_hooks


def test_word_states_want_twins_and_twins_want_padding(folder, tmp_path):
    task = _task(folder, tmp_path)
    task.trainer = SimpleNamespace(datamodule=module(folder))
    for weights, distil in (({"word": 0.5}, 0.0), ({}, 0.5)):
        task.weights, task.distil = weights, distil
        with pytest.raises(ConfigError, match="set data.twins to true"):
            task.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.twins: packed batches have none"):
        asked(folder, pack=True)


def test_a_model_that_reads_is_its_own_teacher_and_one_that_hears_is_not(folder, tmp_path):
    """The divergence from the twin is 0 where nothing is heard, and falls with training where something is."""
    task = _task(folder, tmp_path, distil=1.0)
    reading = module(folder, mix={"repeat_text": 1.0}, twins=True).train_batch(0, 0, 1)
    assert float(task.losses(reading)["text"].detach()) == pytest.approx(0, abs=1e-4)
    hearing = with_times(asked(folder)).train_batch(0, 0, 1)
    assert float(task.losses(hearing)["text"].detach()) > 1e-3
    half, none = _task(folder, tmp_path, distil=0.5), _task(folder, tmp_path)
    for other in (half, none):
        other.load_state_dict(task.state_dict())
    whole, middle, plain = (float(one.losses(hearing)["text"].detach()) for one in (task, half, none))
    assert middle == pytest.approx((whole + plain) / 2, rel=1e-4)
