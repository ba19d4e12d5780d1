"""The token store: what goes in comes out, by id, also after a kill."""

import json

import numpy as np
import pytest
import torch

from mossrepro.codec import CodecConfig, SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.tokens import TokenStore, TokenWriter, tokenise
from mossrepro.errors import DataError


def rows(*lengths: int) -> list[tuple[str, np.ndarray]]:
    return [(f"clip-{i}", np.arange(i, i + length)) for i, length in enumerate(lengths)]


@pytest.fixture
def codec() -> SpeechCodec:
    config = CodecConfig(
        codes=32, code_dim=8, width=32, heads=2, feedforward=48, layers=1, slow_layers=1, reader_width=16,
        reader_layers=1,
    )  # fmt: skip
    codec = SpeechCodec(config).eval()
    codec.quantiser.codebook.normal_()
    return codec


@pytest.fixture
def corpus(tmp_path):
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i in range(7):
            wave = 0.1 * np.random.default_rng(i).standard_normal(1280 * (i + 2) + i)
            split = "test" if i == 6 else "train"
            writer.add(f"clip-{i}", wave.astype(np.float32), 16_000, "some text", "nobody", split)
    return tmp_path / "corpus"


def test_codes_come_back_by_id(tmp_path):
    with TokenWriter(tmp_path, 1024) as writer:
        writer.add(rows(3, 0, 5))
    store = TokenStore(tmp_path)
    assert list(store) == ["clip-0", "clip-1", "clip-2"] and len(store) == 3 and store.vocabulary == 1024
    assert store["clip-2"].tolist() == [2, 3, 4, 5, 6] and store["clip-2"].dtype == np.int64
    assert store["clip-1"].tolist() == [] and store.length("clip-0") == 3
    assert "clip-2" in store and "clip-9" not in store
    with pytest.raises(DataError, match="clip-9"):
        store["clip-9"]


def test_a_killed_writer_loses_only_what_was_half_written(tmp_path):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3, 4))
    with open(tmp_path / "codes.u16", "ab") as codes, open(tmp_path / "index.jsonl", "a") as index:
        codes.write(b"\x01\x00\x02")  # killed in the middle of a code
        index.write('{"id": "clip-2", "sta')  # and of a line
    with TokenWriter(tmp_path, 64) as writer:
        assert writer.done == {"clip-0", "clip-1"}
        writer.add([("clip-2", np.array([7, 8, 9]))])
    store = TokenStore(tmp_path)
    assert store["clip-1"].tolist() == [1, 2, 3, 4] and store["clip-2"].tolist() == [7, 8, 9]


def test_broken_stores_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a token store"):
        TokenStore(tmp_path / "nothing")
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3))
    with pytest.raises(DataError, match="codebook size"):
        TokenWriter(tmp_path, 128)
    (tmp_path / "codes.u16").write_bytes(b"\x00\x00")
    with pytest.raises(DataError, match="shorter"):
        TokenStore(tmp_path)


def test_tokenise_encodes_every_clip_and_skips_what_is_there(tmp_path, corpus, codec, monkeypatch):
    part = tokenise(corpus, codec, tmp_path / "store", keep=lambda clip: clip.id < "clip-3")
    assert sorted(part) == ["clip-0", "clip-1", "clip-2"]
    encoded = []
    plain = codec.encode
    monkeypatch.setattr(codec, "encode", lambda wave, lengths: encoded.append(len(wave)) or plain(wave, lengths))
    store = tokenise(corpus, codec, tmp_path / "store", batch_seconds=2.0)
    assert sum(encoded) == 4 and len(encoded) > 1  # only the missing ones, in more than one batch
    assert [store.length(f"clip-{i}") for i in range(7)] == [2, 4, 5, 6, 7, 8, 9]
    for clip in (json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()):
        from mossrepro.audio import load

        wave = torch.from_numpy(load(corpus / clip["audio"], 16_000))[None]
        assert store[clip["id"]].tolist() == plain(wave)[0].tolist()


def test_the_store_says_what_its_codes_sound_like(codec, corpus, tmp_path):
    tokenise(corpus, codec, tmp_path / "store")
    sounds = np.load(tmp_path / "store" / "sounds.npy")
    assert sounds.shape == (32, 40) and np.allclose(sounds.sum(1), 1.0, atol=1e-5)
    logits = codec.phone_logits(codec.quantiser.codebook[7][None, None])  # a code's four decisions of 20 ms
    assert np.allclose(sounds[7], logits.softmax(-1).mean((0, 1)).detach().numpy(), atol=1e-6)
