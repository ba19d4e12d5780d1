"""The decoding automaton: switching, masking, ending; batched and cached decoding equal the plain kind."""

import numpy as np
import pytest
import torch
from lm_toys import IDS, prompt, prompts, small_model

from mossrepro.lm.decode import (
    DecodingState,
    GenerationConfig,
    IncrementalDecoder,
    SamplingParams,
    generate,
    sample_token,
)


def logits(best: int, size: int) -> torch.Tensor:
    out = torch.zeros(1, size)
    out[0, best] = 9.0
    return out


def run(state: DecodingState, text: int, speech: int) -> list[int]:
    return state.step({"text": logits(text, 60), "speech": logits(speech, 168)})[0].tolist()


def test_speech_then_end() -> None:
    state = DecodingState([prompt([1, 9, IDS.sosp])], IDS, GenerationConfig())
    assert run(state, 33, IDS.eosp) != [IDS.pad, IDS.eosp]  # not before one code was spoken
    assert run(state, 33, 12) == [IDS.pad, 12]
    assert run(state, 33, 150)[1] <= IDS.eosp  # unused rows are never sampled
    assert run(state, 33, IDS.eosp) == [IDS.pad, IDS.eosp]
    assert run(state, IDS.im_end, 12) == [IDS.im_end, IDS.speech_pad]
    assert state.replies[0].ended and 33 not in state.replies[0].text


def test_text_may_switch_to_speech_and_back() -> None:
    state = DecodingState([prompt([1, 9])], IDS, GenerationConfig())
    assert run(state, 33, 12) == [33, IDS.speech_pad]
    assert run(state, IDS.sosp, 12) == [IDS.sosp, IDS.speech_pad]
    assert run(state, 33, 12) == [IDS.pad, 12]
    assert run(state, 33, IDS.eosp) == [IDS.pad, IDS.eosp]
    assert run(state, 34, 12) == [34, IDS.speech_pad]
    assert (state.replies[0].text, state.replies[0].codes) == ([33, 34], [12])


@pytest.mark.parametrize(("positions", "ended"), [(2, [False, False]), (3, [True, False]), (4, [True, True])])
def test_a_reply_that_the_limit_cuts_off_is_not_ended(positions, ended, monkeypatch) -> None:
    """One speaks: code, code, EOSP, <|im_end|>; one writes: three tokens, <|im_end|>."""
    said = {"speech": iter([9, 9, IDS.eosp]), "text": iter([20, 21, 22, IDS.im_end])}

    def scripted(self, channels: list[str]) -> dict[str, torch.Tensor]:
        return {name: logits(next(said[name], IDS.im_end), 168).expand(2, -1).clone() for name in channels}

    monkeypatch.setattr(IncrementalDecoder, "logits", scripted)
    both = [prompt([1, IDS.sosp]), prompt([1, 9])]
    replies = generate(small_model().eval(), both, IDS, GenerationConfig(max_positions=positions))
    assert [reply.ended for reply in replies] == ended
    assert replies[0].codes == [9, 9] and replies[1].text == [20, 21, 22][:positions]


def test_batch_of_unequal_prompts_equals_one_by_one() -> None:
    model = small_model().eval()
    prompts = [prompt([1, 9, 11, IDS.sosp]), prompt([1, IDS.sosp]), prompt([1, 7, 7, 20], [1, 3, 4, 1])]
    how = GenerationConfig(max_positions=10)
    together = generate(model, prompts, IDS, how)
    assert together == [generate(model, [p], IDS, how)[0] for p in prompts]


def test_cached_decoding_equals_reading_everything_again() -> None:
    model = small_model().eval()
    rows = prompt([1, 9, 11, IDS.sosp])
    reply = generate(model, [rows], IDS, GenerationConfig(speech=SamplingParams(min_length=9), max_positions=8))[0]
    grid = np.stack([rows.text, rows.speech], -1).tolist()
    for code in reply.codes:
        with torch.no_grad():
            scores = model.speech_head(model(torch.tensor([grid])).speech[0, -1])
        scores[IDS.eosp :] = -torch.inf
        assert int(scores.argmax()) == code
        grid.append([IDS.pad, code])
    assert len(reply.codes) == 8


def test_text_mode_never_writes_the_pad_and_may_be_kept_from_ending() -> None:
    state = DecodingState([prompt([1, 9])], IDS, GenerationConfig(text=SamplingParams(min_length=2)))
    assert run(state, IDS.pad, 12)[0] != IDS.pad  # it would be read as a code
    assert run(state, IDS.im_end, 12)[0] not in (IDS.im_end, IDS.end)
    assert run(state, IDS.im_end, 12) == [IDS.im_end, IDS.speech_pad] and state.replies[0].ended


def test_sampling_settings_change_the_draw() -> None:
    scores = torch.tensor([[3.0, 2.9, 0.0, -1.0]])

    def draws(how: SamplingParams, seen: list[int] | None = None, scores: torch.Tensor = scores) -> set[int]:
        generator = torch.Generator().manual_seed(0)
        return {sample_token(scores.clone(), how, [generator], [seen or []])[0] for _ in range(300)}

    assert draws(SamplingParams()) == {0}
    assert draws(SamplingParams(temperature=5.0)) == {0, 1, 2, 3}
    assert draws(SamplingParams(temperature=5.0, top_k=2)) == {0, 1}
    assert draws(SamplingParams(temperature=5.0, top_k=99)) == {0, 1, 2, 3}
    assert draws(SamplingParams(temperature=1.0, top_p=0.4)) == {0}
    assert draws(SamplingParams(temperature=1.0, top_p=0.6)) == {0, 1}
    assert draws(SamplingParams(repetition_penalty=1.2), [0]) == {1}
    assert draws(SamplingParams(repetition_penalty=2.0), [0], torch.tensor([[-1.0, -1.5]])) == {
        1
    }  # below 0 it multiplies


def test_draws_follow_the_probabilities() -> None:
    generator, how = torch.Generator().manual_seed(1), SamplingParams(temperature=1.0)
    scores = torch.tensor([0.1, 0.6, 0.3]).log()
    drawn = sample_token(scores.repeat(4000, 1), how, [generator] * 4000, [[]] * 4000)
    shares = torch.bincount(torch.tensor(drawn)) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), atol=0.025, rtol=0)


def warm(**more) -> GenerationConfig:
    return GenerationConfig(SamplingParams(1.5), SamplingParams(1.5, min_length=2), max_positions=24, **more)


def test_a_seed_repeats_alone_what_it_says_in_a_batch() -> None:
    model = small_model().eval()
    together = generate(model, prompts(), IDS, warm(seed=5))
    assert together == [generate(model, [p], IDS, warm(seed=5 + i))[0] for i, p in enumerate(prompts())]
    assert together != generate(model, prompts(), IDS, warm(seed=6))
    chance = DecodingState(prompts(), IDS, warm(seed=5)).chance
    first = [torch.rand((), generator=g).item() for g in (*chance["text"], *chance["speech"])]
    assert len(set(first)) == len(first)  # every sequence and channel draws its own


@pytest.mark.parametrize("how", [GenerationConfig(max_positions=24), warm()])
def test_idle_tails_that_wait_change_nothing(how, monkeypatch) -> None:
    """The modes switch back and forth here: SOSP and EOSP are made likely."""
    model = small_model().double().eval()
    with torch.no_grad():
        model.speech_head.weight[IDS.eosp] += 0.5
    ran = []
    run = IncrementalDecoder._run
    monkeypatch.setattr(
        IncrementalDecoder, "_run", lambda self, part, x: ran.append((part, x.shape[1])) or run(self, part, x)
    )
    for rows in ([p] for p in prompts()), [prompts()]:
        for batch in rows:
            ran.clear()
            lazy = generate(model, batch, IDS, how)
            work = sum(part != "trunk" for part, _ in ran)
            ran.clear()
            assert lazy == generate(model, batch, IDS, how, defer=False)
            assert work < sum(part != "trunk" for part, _ in ran) or len(batch) > 1
    assert any(r.codes for r in lazy)


def test_a_tail_reads_what_it_missed_in_one_pass_when_its_turn_comes() -> None:
    model = small_model().double().eval()
    grid = torch.randint(8, 30, (1, 12, 2), generator=torch.Generator().manual_seed(0))
    lazy, eager = (IncrementalDecoder(model, torch.tensor([0]), 12, defer) for defer in (True, False))
    for i in range(12):
        for reader in (lazy, eager):
            reader.read(grid[:, i : i + 1])
        both, some = eager.logits([]), lazy.logits(["speech"] if i < 9 else ["text"])
        for channel, found in some.items():
            torch.testing.assert_close(found, both[channel])
    assert lazy.used == {"trunk": 12, "text": 12, "speech": 9, "mouth": 0}


def test_every_code_is_told_as_soon_as_it_is_said_and_no_row_is_read_in_vain(monkeypatch) -> None:
    model, told = small_model().eval(), []
    read, reads = IncrementalDecoder.read, []
    monkeypatch.setattr(IncrementalDecoder, "read", lambda self, grid: reads.append(grid.shape) or read(self, grid))
    how = GenerationConfig(speech=SamplingParams(min_length=9), max_positions=8)
    replies = generate(model, prompts()[::3], IDS, how, on_code=lambda i, code: told.append((i, code)))
    assert told == [(i, reply.codes[n]) for n in range(8) for i, reply in enumerate(replies)]
    assert len(reads) == 8
    assert generate(model, [], IDS) == []
