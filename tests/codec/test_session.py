"""Streaming: whatever the chunks, the codes are those of the whole recording."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mossrepro.codec import SpeechCodec
from mossrepro.codec import model as module
from mossrepro.utils import audio, packed_linear
from mossrepro.utils.errors import AudioError, MossError
from tests.codec_toys import TINY


@pytest.fixture
def codec() -> SpeechCodec:
    torch.manual_seed(0)
    codec = SpeechCodec(TINY).eval()
    codec.quantiser.codebook.normal_()
    return codec


def sounding(codes: int, seed: int, rows: int = 1) -> torch.Tensor:
    """Noise that grows and fades: the running maximum moves all the time."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.randn(rows, codes * 1280 + 700, generator=generator)
    return wave * torch.rand(rows, codes + 1, generator=generator).repeat_interleave(1280, dim=1)[:, : wave.shape[1]]


def stream(codec: SpeechCodec, wave: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    session, out = codec.listen(len(wave)), []
    for chunk in wave.split(sizes, dim=1):
        out.append(session.push(chunk))
    return torch.cat([*out, session.close()], dim=1)


def chunking(total: int, seed: int) -> list[int]:
    """Random sizes, tiny and huge, that sum to `total`."""
    generator, sizes = torch.Generator().manual_seed(seed), []
    while sum(sizes) < total:
        most = (10, 1280, 20_000)[int(torch.randint(3, (), generator=generator))]
        sizes.append(min(int(torch.randint(0, most, (), generator=generator)), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize("seed", range(12))
def test_any_chunking_gives_the_codes_of_the_whole(codec, seed, monkeypatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 7)
    codec, wave = codec.double(), sounding(40, seed, rows=1 + seed % 2).double()
    whole = codec.encode(wave)
    assert whole.shape[1] == 41 and len(whole.unique()) > 4
    assert torch.equal(stream(codec, wave, chunking(wave.shape[1], seed)), whole)
    assert torch.equal(stream(codec, wave, [wave.shape[1]]), whole)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6000), max_size=8), st.integers(0, 99))
def test_no_cut_of_a_stream_changes_a_code(codec, sizes, seed) -> None:
    codec, wave = codec.double(), sounding(9, seed).double()
    cuts = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= wave.shape[1]]
    assert torch.equal(stream(codec, wave, [*cuts, wave.shape[1] - sum(cuts)]), codec.encode(wave))


@pytest.mark.skipif(not packed_linear._can_pack(torch.float32), reason="this processor keeps the plain order")
def test_made_ready_it_gives_the_same_codes_but_for_ties(codec, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(packed_linear, "_WORTH", 0)
    wave = sounding(100, 3, rows=2)
    before, latents = codec.encode(wave), codec.latents(codec.features(wave))
    assert codec.prepare_for_inference() is codec and isinstance(
        codec.encoder.layers[0].qkv, packed_linear.PackedLinear
    )
    nearest = torch.cdist(latents, codec.quantiser.codebook.expand(2, -1, -1)).topk(2, largest=False).values
    clear = nearest[..., 1] - nearest[..., 0] >= 1e-3
    assert clear.float().mean() > 0.95 and torch.equal(codec.encode(wave)[clear], before[clear])
    assert torch.equal(stream(codec, wave, chunking(wave.shape[1], 5))[clear], before[clear])
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.encode(wave).shape == before.shape
    with pytest.raises(MossError, match="cannot be saved"):
        codec.save_pretrained(tmp_path / "codec")
    assert not (tmp_path / "codec" / "model.safetensors").exists()


def test_in_single_precision_only_ties_differ(codec) -> None:
    wave = sounding(300, 5)
    whole, parts = codec.encode(wave), stream(codec, wave, chunking(wave.shape[1], 5))
    latents = codec.latents(audio.whisper_mel(torch.nn.functional.pad(wave, (0, -wave.shape[1] % 1280))))
    nearest = torch.cdist(latents, codec.quantiser.codebook[None]).topk(2, largest=False).values
    clear = nearest[..., 1] - nearest[..., 0] >= 1e-4
    assert torch.equal(parts[clear], whole[clear]) and clear.float().mean() > 0.99


def test_a_code_comes_with_its_last_sample(codec) -> None:
    session = codec.listen()
    assert session.push(torch.zeros(1279)).shape == (1, 0)
    assert session.push(torch.zeros(1)).shape == (1, 1)
    assert session.push(torch.zeros(2 * 1280 + 5)).shape == (1, 2)
    assert session.close().shape == (1, 1)
    assert codec.listen().close().shape == (1, 0)


def test_what_a_session_keeps_does_not_grow(codec) -> None:
    session, sizes = codec.listen(), []
    for _ in range(30):
        session.push(0.1 * torch.randn(1300))
        state = session._encoder
        kept = [session._mel.tail, session._mel.loudest, state.mel_tail, state.conv_tail, *state.past]
        sizes.append(sum(part.numel() for part in kept))
    assert len(set(sizes[10:])) == 1 and session._waiting.numel() < 1280


@pytest.mark.parametrize("loud", [0, 1, 2])
def test_streams_of_a_session_do_not_meet(codec, loud) -> None:
    """A loud noise in one stream, beside which all it hears is quiet, changes its codes and no others'."""
    codec, wave = codec.double(), sounding(12, 1, rows=3).double()
    alone = codec.encode(wave)
    wave[loud, :1280] *= 1e6
    heard = stream(codec, wave, chunking(wave.shape[1], 3))
    assert [torch.equal(*pair) for pair in zip(heard, alone, strict=True)] == [i != loud for i in range(3)]


def test_what_cannot_be_pushed_is_named(codec) -> None:
    session = codec.listen(2)
    with pytest.raises(AudioError, match="2 streams"):
        session.push(torch.zeros(3, 10))
    with pytest.raises(AudioError, match="2 streams"):
        session.push(torch.zeros(10))
    with pytest.raises(AudioError, match="not finite"):
        session.push(torch.full((2, 10), float("nan")))
    assert session.push(torch.zeros(2, 1280)).shape == (2, 1)  # nothing was lost
    session.close()
    with pytest.raises(AudioError, match="closed"):
        session.push(torch.zeros(2, 10))
