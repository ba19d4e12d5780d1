"""A prompt's own sound: codes and mel before what is spoken, at once and in a stream, and how they are learnt."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sound_toys import Hum, flow

from mossrepro.utils.audio import mel24
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.prompt import GONE_ON_FROM, LEVEL, end_of
from mossrepro.vocoder.sampling import FlowSampling, Said
from mossrepro.vocoder.session import FlowSession
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SMALL = dict(codes=16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2, look_ahead=2)


def decoder(prompts: bool = True, shown: float = 0.3, **changes) -> FlowDecoder:
    """Tiny, with random weights where it starts at zero; `shown` is the spread of those that read a prompt's mel."""
    torch.manual_seed(0)
    model = FlowDecoder(**{**SMALL, **changes}).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.estimator.out.weight, std=0.1)
    weights = model.state_dict()
    model = FlowDecoder(**{**SMALL, **changes}, prompts=prompts).eval()
    model.load_state_dict(model.state_dict() | weights)
    if prompts:
        torch.nn.init.normal_(model.shown.weight, std=shown) if shown else None
    return model


def some_codes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (count,), generator=torch.Generator().manual_seed(seed))


def some_said(count: int, bands: int = 80) -> Said:
    torch.manual_seed(count)
    return Said(some_codes(count, 7), torch.randn(bands, 4 * count) - 5)


def test_a_prompt_that_nothing_was_learnt_of_is_codes_alone():
    model, plain, codes, said = decoder(shown=0), decoder(False), some_codes(9)[None], some_said(5)
    assert torch.equal(model(codes), plain(codes))
    before = torch.cat([said.codes[None], codes], 1)
    assert torch.equal(model(codes, said=said), plain(before)[..., 20:])
    with pytest.raises(ConfigError, match="prompts is false"):
        plain(codes, said=said)


def test_the_mel_of_a_prompt_is_heard_and_its_end_is_where_it_is():
    model, codes, said = decoder(), some_codes(9)[None], some_said(5)
    louder = Said(said.codes, said.mel + 3)
    made, other = model(codes, said=said), model(codes, said=louder)
    assert made.shape == (1, 80, 36) and (made - other).abs().mean() > 1e-3
    shown = model.show(torch.zeros(2, 80, 12) + model.mean + model.std, torch.tensor([1, 0]))
    assert shown.shape == (2, 81, 12) and torch.allclose(shown[0, :, :4], torch.ones(81, 4))
    assert not shown[0, :, 4:].any() and not shown[1].any()
    assert torch.equal(model(codes, said=Said(said.codes[:0], said.mel[:, :0])), model(codes))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 17), st.integers(0, 23), st.sampled_from([1, 3, 5, 25]), st.sampled_from([4, 25]))
def test_a_stream_goes_on_from_a_prompt_as_the_whole_does(before, count, chunk, look_back):
    model, codes = decoder(), some_codes(count)
    sampling, said = FlowSampling(chunk, look_back, steps=2), some_said(before)
    session = FlowSession(model, sampling, said=said)
    mels = [mel for code in codes for mel in session.push(code[None])] + session.push(codes[:0], last=True)
    assert len(mels) == (-(-(before + count) // chunk) - before // chunk if count else 0)
    if count:
        whole = model(codes[None], sampling=sampling, said=said)
        torch.testing.assert_close(torch.cat(mels, -1), whole, atol=1e-4, rtol=0)


def test_the_first_packet_comes_when_it_is_said_to():
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16, look_ahead=0)
    plain = SpeechDecoder(decoder(voice_dim=8), vocoder)
    for before in (0, 3, 5, 7):
        session = plain.in_voice(np.zeros(8, np.float32), some_said(before)).session()
        sizes = [len(session.push([code])) for code in some_codes(12).tolist()]
        first = next(i for i, size in enumerate(sizes) if size)
        assert first + 1 == session.first_packet == 5 - before % 5 + 2, before


def test_a_speech_decoder_goes_on_from_a_prompt():
    model = decoder(voice_dim=8).double()
    plain = SpeechDecoder(model, Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16).double())
    vector, said = np.zeros(8, np.float32), some_said(7)
    mine, codes = plain.in_voice(vector, said), some_codes(11).tolist()
    rows = mine.speak_all([codes[:4], codes])
    assert [len(row) for row in rows] == [4 * 1920, 11 * 1920]
    assert np.abs(rows[1] - mine.speak(codes)[0]).max() < 1e-4 < np.abs(rows[1] - plain.speak(codes)[0]).max()
    assert np.abs(np.concatenate(list(mine.stream(codes))) - rows[1]).max() < 1e-4
    assert not list(mine.stream([])), "a prompt alone is not spoken"
    deaf = SpeechDecoder(decoder(False, voice_dim=8).double(), plain.vocoder)
    assert np.array_equal(deaf.in_voice(vector, said).speak(codes)[0], deaf.speak(codes)[0])
    with pytest.raises(DataError, match="codebook of 16"):
        plain.in_voice(vector, Said(said.codes + 12, said.mel))
    with pytest.raises(DataError, match="codebook of 16"):
        model(torch.zeros(1, 3, dtype=torch.int64), said=Said(said.codes + 12, said.mel))
    with pytest.raises(DataError, match="7 codes with a mel of"):
        plain.in_voice(vector, Said(said.codes, said.mel[:, 1:]))


def test_the_voice_of_a_prompt_is_learnt():
    """One code, endless voices, none of which has a vector: a voice is a number, which the beginning of a row shows."""
    model = decoder(shown=0, codes=2, bands=2, chunk=0, look_ahead=0, guidance=0.0, mel_mean=0.0, mel_std=1.0).train()
    optimiser, valid = torch.optim.AdamW(model.parameters(), 3e-3), torch.ones(48, 4, dtype=torch.bool)
    codes, generator = torch.zeros(48, 4, dtype=torch.int64), torch.Generator().manual_seed(0)
    for step in range(200):
        voice = 2 * torch.randn(48, 1, 1, generator=generator)
        mel = voice + 0.1 * torch.randn(48, 2, 16, generator=generator)
        prompt = torch.randint(3, (48,), generator=generator)
        flow_loss, coarse_mel = model.losses(
            codes, mel, valid, torch.rand(48), torch.randn_like(mel), torch.rand(48) > 0.1, prompt=prompt
        )
        optimiser.zero_grad()
        (flow_loss + coarse_mel).backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 200)
    for voice in (-2.0, 0.5, 2.0):
        said = Said(codes[0, :2], torch.full((2, 8), voice))
        made = model(codes[:32, :2], noise=torch.randn(32, 2, 16), said=said)
        assert made.mean().item() == pytest.approx(voice, abs=0.5)
    assert model(codes[:32], noise=torch.randn(32, 2, 16)).mean((1, 2)).std() > 0.8, "without one, voices differ"


def losses_of(task, batch) -> list[tuple]:
    """The prompts that a task shows in a step."""
    told = []
    inner = task.model.losses
    task.model.losses = lambda *args: (told.append(args[8]), inner(*args))[1]
    task.log_dict = lambda *_, **__: None
    loss = task.training_step(batch, 0)
    return told[0], loss


def test_a_share_of_the_rows_is_shown_up_to_a_half():
    rows = {key: value.repeat_interleave(32, 0) for key, value in Hum(seed=3).train_batch(0, 0, 1).items()}
    rows |= {key: torch.cat([rows[key]] * 4, -1) for key in ("codes", "mel", "valid")}
    batch = rows | {"seed": torch.tensor(5)}
    task = flow(prompt_share=0.5)
    prompts, loss = losses_of(task, batch)
    assert prompts.shape == (128,) and set(prompts.tolist()) == {0, 1, 2, 3, 4}
    assert 0.3 < (prompts > 0).float().mean() < 0.7
    loss.backward()
    assert task.model.shown.weight.grad.any()
    none, _ = losses_of(flow(), batch)
    assert none is None and flow().model.shown is None
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="prompt_share"):
            flow(prompt_share=share)


def test_two_ranks_show_what_one_does():
    whole = Hum(seed=3).seeded_batch(0, 0, 1) | {"share": torch.tensor([0, 4, 4])}
    whole |= {key: torch.cat([whole[key]] * 8, -1) for key in ("codes", "mel", "valid")}
    shown = losses_of(flow(prompt_share=1.0), whole)[0]
    halves = []
    for first in (0, 2):
        half = {key: value[first : first + 2] if value.dim() else value for key, value in whole.items()}
        half["share"] = torch.tensor([first, first + 2, 4])
        halves.append(losses_of(flow(prompt_share=1.0), half)[0])
    assert torch.equal(torch.cat(halves), shown) and shown[:2].tolist() != shown[2:].tolist()


def test_prompts_are_learnt_on_top_of_a_decoder_without(tmp_path):
    before = flow().model
    save_module(before, {key: value for key, value in before.config.items() if key != "prompts"}, tmp_path / "deaf")
    after = flow(init_from=str(tmp_path / "deaf"), prompt_share=0.5)
    assert all(torch.equal(after.model.state_dict()[name], value) for name, value in before.state_dict().items())
    assert not after.model.shown.weight.any() and after.model.config["prompts"]
    torch.nn.init.normal_(after.model.shown.weight)
    save_module(after.model, after.model.config, tmp_path / "hears")
    again = flow(init_from=str(tmp_path / "hears"))
    assert torch.equal(again.model.shown.weight, after.model.shown.weight), "it stays without being asked for"
    again.log_dict, batch = lambda *_, **__: None, Hum(seed=3).seeded_batch(0, 0, 1)
    again.training_step(batch, 0).backward()
    assert again.model.shown.weight.grad is not None and not again.model.shown.weight.grad.any()


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("samples", [4000, 24_000, 72_000, 71_001])
def test_the_end_of_a_recording_is_codes_with_their_mel(samples, more):
    wave = rng(0).standard_normal(samples).astype(np.float32)
    wave *= np.float32(LEVEL / np.sqrt(np.mean(np.square(wave))))
    said = end_of(wave, lambda sound: np.arange(-(-len(sound) // 1280) + more))
    whole = -(-samples // 1920)
    kept = range(whole + min(more, 0))[-GONE_ON_FROM:]  # rounding may make codes and mel differ by one
    assert said.codes.tolist() == list(kept) and said.mel.shape == (80, 4 * len(kept))
    full = mel24(torch.nn.functional.pad(torch.from_numpy(wave), (0, 1920 * whole - samples))[None])[0]
    torch.testing.assert_close(said.mel, full[:, 4 * kept.start : 4 * kept.stop], atol=1e-3, rtol=0)


def test_a_quiet_recording_is_no_quiet_prompt():
    wave = rng(0).standard_normal(48_000).astype(np.float32) / 4
    loud, quiet = (end_of(scale * wave, lambda sound: np.zeros(25)).mel for scale in (0.5, 0.005))
    torch.testing.assert_close(loud, quiet, atol=1e-2, rtol=0)
