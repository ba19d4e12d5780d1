"""A backbone's own prose: what it writes by itself is replayed under the system turn that asked for it."""

import json

import numpy as np
from lm_toys import module

from mossrepro.lm.decode import Reply
from mossrepro.lm.grid import PROSE, SYSTEM_TURNS
from mossrepro.lm.prose import write_prose


def test_replies_are_kept_that_end_and_say_something(tmp_path, monkeypatch, folder):
    data = module(folder, mix={"facts": 1.0})
    grid = data.documents.grid
    replies = [Reply([*grid.tokens("one two")], [], True), Reply([*grid.tokens("one")], [], False), Reply([], [], True)]
    asked = []

    class Model:
        class text_embed:
            weight = np.zeros(1)

        def grid(self, tokenizer):
            return grid

    monkeypatch.setattr("mossrepro.lm.prose.prepare_for_inference", lambda model, device: model)
    model = Model()
    model.text_embed.weight = type("W", (), {"device": "cpu"})
    monkeypatch.setattr("mossrepro.lm.prose.generate", lambda m, prompts, ids, limit: asked.extend(prompts) or replies)
    assert write_prose(model, grid.tokenizer, ["a", "b", "c"], tmp_path / "prose.jsonl") == 1
    assert [json.loads(line) for line in (tmp_path / "prose.jsonl").open()] == [["a", "one two"]]
    assert SYSTEM_TURNS[PROSE][1] in grid.tokenizer.decode(asked[0].text.tolist(), skip_special_tokens=False)


def test_prose_is_a_document_under_its_own_system_turn(tmp_path, folder):
    (tmp_path / "prose.jsonl").write_text(json.dumps(["one", "two one"]) + "\n")
    data = module(folder, mix={"prose": 1.0}, system_turns="word", prose=str(tmp_path / "prose.jsonl"))
    document = data.documents.draw("prose", np.random.default_rng(0))
    text = data.documents.grid.tokenizer.decode(document.text.tolist(), skip_special_tokens=False)
    assert SYSTEM_TURNS[PROSE][1] in text and SYSTEM_TURNS["word"][1] not in text
    said = document.text[document.supervise]
    assert data.documents.grid.tokenizer.decode(said.tolist()).strip() == "two one"
