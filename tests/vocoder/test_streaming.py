"""Streaming: whatever the chunks, mel and samples are those of the whole utterance, and what is kept does not grow."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.vocoder import speech_decoder
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.sampling import FlowSampling
from mossrepro.vocoder.session import FlowSession, VocoderSession
from mossrepro.vocoder.speech_decoder import SpeechDecoder
from mossrepro.vocoder.streaming import spread_look_ahead

CHUNKED = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def flow() -> FlowDecoder:
    """Tiny, with random weights where it starts at zero, so that everything reaches the mel."""
    torch.manual_seed(0)
    model = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=2, steps=2, look_ahead=2).eval()
    torch.nn.init.normal_(model.estimator.out.weight, std=0.1)
    for block in model.estimator.stack.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.2)
    return model


def vocoder(look_ahead: int | None = None, blocks: int = 2, upsample: int = 2) -> Vocoder:
    """Tiny, with a pitch and filters that move."""
    torch.manual_seed(1)
    sizes = dict(dim=32, blocks=blocks, fine_dim=32, fine_blocks=1, upsample=upsample, pitch_dim=16)
    model = Vocoder(**sizes, look_ahead=look_ahead)
    torch.nn.init.normal_(model.pitch_out.weight, std=0.3)
    torch.nn.init.normal_(model.filters.weight, std=0.1)
    return model.eval()


def some_codes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (count,), generator=torch.Generator().manual_seed(seed))


def pieces(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """x cut along its last axis into pieces of these sizes, as far as it goes, and the rest."""
    ends = [min(sum(sizes[: i + 1]), x.shape[-1]) for i in range(len(sizes))]
    return list(torch.tensor_split(x, ends, dim=-1))


@settings(max_examples=25, **CHUNKED)
@given(
    st.lists(st.integers(0, 13), max_size=8),
    st.integers(0, 45),
    st.sampled_from([1, 5, 25]),
    st.sampled_from([1, 7, 25]),
    st.sampled_from(["euler", "midpoint"]),
)
def test_any_chunking_gives_the_mel_of_the_whole(flow, sizes, count, chunk, look_back, solver) -> None:
    sampling = FlowSampling(chunk, look_back, steps=2, solver=solver)
    codes, session = some_codes(count), FlowSession(flow, sampling)
    mels = [mel for part in pieces(codes, sizes) for mel in session.push(part)] + session.push(codes[:0], last=True)
    assert len(mels) == -(-count // chunk)
    if count:
        torch.testing.assert_close(torch.cat(mels, -1), flow(codes[None], sampling=sampling), atol=1e-4, rtol=0)


@settings(max_examples=25, **CHUNKED)
@given(st.lists(st.integers(0, 30), max_size=6), st.sampled_from([None, 0, 1, 4, 9]), st.sampled_from([1, 2, 4]))
def test_any_chunking_gives_the_samples_of_the_whole(sizes, look_ahead, upsample) -> None:
    model, mel = vocoder(look_ahead, upsample=upsample), 2 * torch.randn(1, 80, 40) - 5
    session = VocoderSession(model)
    parts = [session.push(part) for part in pieces(mel, sizes)] + [session.push(mel[..., :0], last=True)]
    with torch.inference_mode():
        whole = model(mel)
    torch.testing.assert_close(torch.cat(parts, -1), whole, atol=1e-4, rtol=0)
    assert whole.std() > 1e-3


def same_sound(one: np.ndarray, other: np.ndarray, most: float = 1e-4) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32 and other.std() > 1e-3
    assert np.abs(one - other).max() < most and np.abs(one - other).mean() < most * np.abs(other).mean()


@pytest.mark.parametrize("chunk", [5, 25, 0])
@pytest.mark.parametrize("look_ahead", [None, 3])
def test_a_stream_sounds_as_the_whole(flow, chunk, look_ahead) -> None:
    """In double precision: in single, rounding of the pitch adds up to another phase, and pulses multiply it.

    chunk 0: a model of whole utterances streams by chunks of 5, which its utterance can be decoded with.
    """
    codes, asked = some_codes(37).tolist(), flow.sampling._replace(chunk=chunk)
    assert asked.streaming().chunk == (chunk or 5)
    for precision, most in ((torch.float32, 1e-2), (torch.float64, 1e-4)):
        decoder = SpeechDecoder(flow.to(precision), vocoder(look_ahead).to(precision))
        streamed = np.concatenate(list(decoder.stream(iter(codes), asked)))
        flow.sampling = asked.streaming()
        same_sound(streamed, decoder.speak(codes)[0], most)


def test_a_look_back_limits_what_a_chunk_hears(flow) -> None:
    """Four layers: each reaches back 4 codes from its chunk, and its convolution 4 rows."""
    codes = some_codes(44)
    changed = codes.clone()
    changed[0] = (changed[0] + 1) % 16
    for look_back, heard in ((4, False), (0, True)):
        sampling = FlowSampling(chunk=2, look_back=look_back, steps=2)
        first, second = (flow(row[None], sampling=sampling)[..., -8:] for row in (codes, changed))
        assert torch.equal(first, second) != heard


@pytest.mark.parametrize(("look_ahead", "chunk", "pushed"), [(None, 5, 12), (3, 5, 7), (3, 2, 4), (0, 1, 3)])
def test_the_first_packet_comes_by_configuration(flow, look_ahead, chunk, pushed) -> None:
    """Codes until the first sample; the flow looks 2 codes ahead. A symmetric vocoder waits for another chunk."""
    session = SpeechDecoder(flow, vocoder(look_ahead, blocks=5)).session(flow.sampling._replace(chunk=chunk))
    assert session.first_packet == chunk + 2
    came = [len(session.push([code])) for code in some_codes(pushed).tolist()]
    assert came[-1] > 0 and not any(came[:-1])


@pytest.mark.parametrize("look_ahead", [0, 2, 5, 9])
def test_a_frame_depends_on_look_ahead_frames_and_one(look_ahead) -> None:
    """No sample before it changes with a later frame, and the samples of a stream come so much later."""
    model, mel = vocoder(look_ahead), 2 * torch.randn(1, 80, 40) - 5
    late = max(look_ahead + 1, 3)
    changed = mel.clone()
    changed[..., 30:] += 1.0
    with torch.inference_mode():
        first, second = model(mel), model(changed)
    assert torch.allclose(first[:, : 480 * (30 - late)], second[:, : 480 * (30 - late)], atol=1e-5)
    assert VocoderSession(model).push(mel).shape[1] >= 480 * (40 - late)


def test_look_ahead_is_spread_over_the_first_convolutions() -> None:
    assert spread_look_ahead(None, [5, 7, 7]) == [2, 3, 3]
    assert spread_look_ahead(4, [5, 7, 7]) == [2, 2, 0] and spread_look_ahead(0, [5, 7]) == [0, 0]


def kept(session) -> int:
    """How many numbers a session keeps, storage behind views included."""
    flow, sound = session._flow, session._vocoder
    memories = [flow._encoder, *flow._estimator, sound._memory]
    tensors = [flow._waiting, sound._carrier, sound._filters, *(t for m in memories for t in m._tails.values())]
    tensors += [t for m in memories for window in m._windows.values() for t in window._kept]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_what_a_session_keeps_does_not_grow(flow) -> None:
    """Of a model that looks back without limit."""
    session, sizes = SpeechDecoder(flow, vocoder()).session(), []
    assert flow.config["look_back"] == 0
    for i in range(20):
        session.push(some_codes(5, seed=i))
        sizes.append(kept(session) if i else 0)
    assert len(set(sizes[8:])) == 1


def test_a_long_utterance_is_decoded_chunk_by_chunk(flow, monkeypatch) -> None:
    """3,000 codes, four minutes; an utterance of 40 s at most is decoded at once, as it always was."""
    decoder, rows = SpeechDecoder(flow.double(), vocoder().double()), [some_codes(n, n) for n in (7, 3, 9)]
    whole = decoder.speak_all(rows)
    monkeypatch.setattr(speech_decoder, "WHOLE", 6)
    for one, other in zip(decoder.speak_all(rows), whole, strict=True):
        same_sound(one, other)
    monkeypatch.undo()
    most, plain = [], flow.denoise
    monkeypatch.setattr(flow, "denoise", lambda x, *rest: (most.append(x.shape[1]), plain(x, *rest))[1])
    flow.sampling = flow.sampling._replace(chunk=25, steps=1)
    assert len(decoder.speak(some_codes(3000))[0]) == 3000 * 1920 and max(most) == 100


def test_another_seed_is_another_voice_of_the_noise(flow) -> None:
    codes, other = some_codes(9)[None], flow.sampling._replace(seed=1)
    assert torch.equal(flow(codes), flow(codes, sampling=flow.sampling))
    assert not torch.allclose(flow(codes), flow(codes, sampling=other), atol=1e-2)


def test_bad_input_of_a_session_is_named(flow) -> None:
    decoder = SpeechDecoder(flow, vocoder())
    session = decoder.session()
    for bad, said in (
        ([16], "codebook of 16"),
        ([3, -1], "codebook of 16"),
        ([0.5], "whole numbers"),
        ([2**70], "whole numbers"),
        ([[1, 2]], "whole numbers"),
        (["a"], "whole numbers"),
        ([True], "whole numbers"),
        ([float("nan")], "whole numbers"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            session.push(bad)
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match=said):
            decoder.speak(bad)
    session.push(np.array([3, 4]))
    assert len(session.close()) == 2 * 1920  # nothing of the bad codes was taken
    with pytest.raises(DataError, match="closed"):
        session.push([1])
    with pytest.raises(DataError, match="closed"):
        session.close()
    assert len(decoder.session().close()) == 0 and list(decoder.stream([])) == []
    assert len(np.concatenate(list(decoder.stream([5])))) == 1920


@pytest.mark.parametrize(("change", "said"), [
    ({"solver": "heun"}, "euler or midpoint"),
    ({"steps": 0}, "steps=0"),
    ({"chunk": -1}, "chunk=-1"),
    ({"look_back": -5}, "look_back=-5"),
])  # fmt: skip
def test_settings_that_cannot_be_are_named(flow, change, said) -> None:
    with pytest.raises(ConfigError, match=said):
        SpeechDecoder(flow, vocoder()).session(flow.sampling._replace(**change))
    with pytest.raises(ConfigError, match=said):
        FlowDecoder(16, dim=64, **change)


def test_a_look_ahead_beyond_the_convolutions_is_named() -> None:
    with pytest.raises(ConfigError, match="0 to 9 frames"):
        vocoder(10)
