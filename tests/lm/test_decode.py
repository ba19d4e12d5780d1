"""The decoding automaton: switching, masking, ending; batched and cached decoding equal the plain kind."""

import numpy as np
import torch
from lm_toys import small_model

from mossrepro.lm.decode import Sampling, _State, generate, pick
from mossrepro.vocab import Rows, SpecialIds

IDS = SpecialIds(im_start=1, im_end=2, end=0, sosp=5, pad=7, eosp=40, speech_pad=1)


def prompt(text: list[int], speech: list[int] | None = None) -> Rows:
    speech = speech or [IDS.speech_pad] * len(text)
    return Rows(np.array(text), np.array(speech), np.zeros(len(text), bool))


def logits(best: int, size: int) -> torch.Tensor:
    out = torch.zeros(1, size)
    out[0, best] = 9.0
    return out


def run(state: _State, text: int, speech: int) -> list[int]:
    generators = (torch.Generator(), torch.Generator())
    return state.step(logits(text, 60), logits(speech, 168), generators)[0].tolist()


def test_speech_then_end() -> None:
    state = _State([prompt([1, 9, IDS.sosp])], IDS, Sampling())
    assert run(state, 33, IDS.eosp) != [IDS.pad, IDS.eosp]  # not before one code was spoken
    assert run(state, 33, 12) == [IDS.pad, 12]
    assert run(state, 33, 150)[1] <= IDS.eosp  # unused rows are never sampled
    assert run(state, 33, IDS.eosp) == [IDS.pad, IDS.eosp]
    assert run(state, IDS.im_end, 12) == [IDS.im_end, IDS.speech_pad]
    assert state.replies[0].ended and 33 not in state.replies[0].text


def test_text_may_switch_to_speech_and_back() -> None:
    state = _State([prompt([1, 9])], IDS, Sampling())
    assert run(state, 33, 12) == [33, IDS.speech_pad]
    assert run(state, IDS.sosp, 12) == [IDS.sosp, IDS.speech_pad]
    assert run(state, 33, 12) == [IDS.pad, 12]
    assert run(state, 33, IDS.eosp) == [IDS.pad, IDS.eosp]
    assert run(state, 34, 12) == [34, IDS.speech_pad]
    assert (state.replies[0].text, state.replies[0].codes) == ([33, 34], [12])


def test_batch_of_unequal_prompts_equals_one_by_one() -> None:
    model = small_model().eval()
    prompts = [prompt([1, 9, 11, IDS.sosp]), prompt([1, IDS.sosp]), prompt([1, 7, 7, 20], [1, 3, 4, 1])]
    how = Sampling(max_rows=10)
    together = generate(model, prompts, IDS, how)
    assert together == [generate(model, [p], IDS, how)[0] for p in prompts]


def test_cached_decoding_equals_reading_everything_again() -> None:
    model = small_model().eval()
    rows = prompt([1, 9, 11, IDS.sosp])
    reply = generate(model, [rows], IDS, Sampling(max_rows=8, min_codes=9))[0]
    grid = np.stack([rows.text, rows.speech], -1).tolist()
    for code in reply.codes:
        with torch.no_grad():
            scores = model.speech_head(model(torch.tensor([grid])).speech[0, -1])
        scores[IDS.eosp :] = -torch.inf
        assert int(scores.argmax()) == code
        grid.append([IDS.pad, code])
    assert len(reply.codes) == 8


def test_sampling_settings_change_the_draw() -> None:
    scores = torch.tensor([[3.0, 2.9, 0.0, -1.0]])

    def draws(how: Sampling, seen: list[int] | None = None) -> set[int]:
        generator = torch.Generator().manual_seed(0)
        return {int(pick(scores.clone(), how, generator, [seen or []])) for _ in range(200)}

    assert draws(Sampling()) == {0}
    assert draws(Sampling(temperature=5.0)) == {0, 1, 2, 3}
    assert draws(Sampling(temperature=5.0, top_k=2)) == {0, 1}
    assert draws(Sampling(temperature=1.0, top_p=0.4)) == {0}
    assert draws(Sampling(repetition_penalty=1.2), [0]) == {1}
