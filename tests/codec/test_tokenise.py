"""Tokenising a corpus through the door: resumable, the same with any number of processes, honest about broken files."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_toys import TINY

from mossrepro import cli
from mossrepro.codec import SpeechCodec, tokenise
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenStore, TokenWriter, file_names, held
from mossrepro.utils.audio import load

CONFIGS = Path(__file__).parents[2] / "configs"
CLIPS = [f"clip-{i}" for i in range(7)]


@pytest.fixture
def codec(tmp_path) -> SpeechCodec:
    torch.manual_seed(0)
    codec = SpeechCodec(TINY).eval()
    codec.quantiser.codebook.normal_()
    codec.save_pretrained(tmp_path / "codec")
    return codec


@pytest.fixture
def corpus(tmp_path) -> Path:
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i, name in enumerate(CLIPS):
            wave = 0.1 * np.random.default_rng(i).standard_normal(1280 * (i + 2) + i)
            writer.add(name, wave.astype(np.float32), 16_000, "some text", "nobody", "test" if i == 6 else "train")
    return tmp_path / "corpus"


def command(tmp_path: Path, *more: str, store: str = "store") -> list[str]:
    given = {"model.init_args.codec": "codec", "data.init_args.corpus": "corpus", "output": store}
    flags = [word for key, value in given.items() for word in (f"--{key}", str(tmp_path / value))]
    files = ["-c", str(CONFIGS / "tokenise.yaml"), "-c", str(CONFIGS / "smoke.yaml")]
    return ["predict", *files, "--trainer.accelerator", "cpu", "--data.init_args.batch_seconds", "1.5", *flags, *more]


def contents(folder: Path) -> dict[str, list[int]]:
    store = TokenStore(folder)
    return {name: store[name].tolist() for name in sorted(store)}


def test_every_clip_is_encoded_as_alone(tmp_path, corpus, codec, monkeypatch, capsys) -> None:
    made_ready = []
    monkeypatch.setattr(SpeechCodec, "prepare_for_inference", lambda codec: made_ready.append(codec) or codec)
    assert cli.main(command(tmp_path)) == 0
    store = TokenStore(tmp_path / "store")
    assert sorted(store) == CLIPS and [store.length(name) for name in CLIPS] == [2, 4, 5, 6, 7, 8, 9]
    for line in (corpus / "manifest.jsonl").read_text().splitlines():
        clip = json.loads(line)
        wave = torch.from_numpy(load(corpus / clip["audio"], 16_000))[None]
        assert store[clip["id"]].tolist() == codec.encode(wave)[0].tolist()
    assert len(made_ready) == 1
    assert "h/min" in capsys.readouterr().err


def test_what_is_there_is_not_made_again(tmp_path, corpus, codec, monkeypatch) -> None:
    splits = "--data.init_args.splits"
    assert cli.main(command(tmp_path, splits, "[test]")) == 0
    assert held(tmp_path / "store") == {"clip-6"}
    encoded, plain = [], SpeechCodec.encode
    monkeypatch.setattr(SpeechCodec, "encode", lambda *args: encoded.append(len(args[1])) or plain(*args))
    assert cli.main(command(tmp_path, splits, "[train]")) == 0
    assert sum(encoded) == 6 and len(encoded) > 2
    assert cli.main(command(tmp_path)) == 0
    assert sum(encoded) == 6 and held(tmp_path / "store") == set(CLIPS)


def test_two_processes_write_what_one_writes(tmp_path, corpus, codec) -> None:
    assert cli.main(command(tmp_path, store="one")) == 0
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run = [sys.executable, "-m", "mossrepro", *command(tmp_path, *two, store="two")]
    subprocess.run(run, check=True, timeout=300)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    ids = [[json.loads(line)["id"] for line in (tmp_path / "two" / file_names(rank)[1]).read_text().splitlines()]
           for rank in (0, 1)]  # fmt: skip
    assert ids[0] and ids[1] and sorted(ids[0] + ids[1]) == CLIPS
    # A run of two that was cut short is ended by one.
    index = tmp_path / "two" / file_names(1)[1]
    index.write_text(index.read_text().partition("\n")[0] + "\n")
    assert cli.main(command(tmp_path, store="two")) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_broken_files_are_skipped_and_counted(tmp_path, corpus, codec, capsys) -> None:
    (corpus / "audio" / "clip-2.flac").write_bytes(b"no sound")
    (corpus / "audio" / "clip-5.flac").unlink()
    assert cli.main(command(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "2 of 7 clips have no codes" in said and "clip-2.flac" in said and "budget" in said
    skipped = [json.loads(line) for line in (tmp_path / "store" / "skipped-0.jsonl").read_text().splitlines()]
    assert {row["id"] for row in skipped} == {"clip-2", "clip-5"} and all(row["reason"] for row in skipped)
    assert len(TokenStore(tmp_path / "store")) == 5  # nothing else is lost
    assert cli.main(command(tmp_path, "--model.init_args.budget", "0.3")) == 0
    assert "2 of 7" in capsys.readouterr().err


def test_codes_of_two_tokenizers_are_not_mixed(tmp_path, corpus, codec, capsys) -> None:
    assert cli.main(command(tmp_path, "--data.init_args.splits", "[test]")) == 0
    before = contents(tmp_path / "store")
    codec.quantiser.codebook.normal_()
    codec.save_pretrained(tmp_path / "codec")
    assert cli.main(command(tmp_path)) == 2
    assert "holds the codes of another tokenizer" in capsys.readouterr().err
    assert contents(tmp_path / "store") == before


def test_a_store_that_another_process_writes_is_refused_in_one_line(
    tmp_path, corpus, codec, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(tokenise, "TokenWriter", partial(TokenWriter, wait=0.0))
    with TokenWriter(tmp_path / "store", 16) as orphan:
        assert cli.main(command(tmp_path)) == 2
        orphan.add([("clip-6", np.array([3, 4]))])
    said = capsys.readouterr().err
    assert "codes.u16: another process is writing it" in said and "Traceback" not in said
    assert contents(tmp_path / "store") == {"clip-6": [3, 4]}


def test_the_store_says_what_its_codes_sound_like(codec, corpus, tmp_path) -> None:
    assert cli.main(command(tmp_path)) == 0
    sounds, book = (np.load(tmp_path / "store" / f"{name}.npy") for name in ("code_phone_probs", "codebook"))
    assert sounds.shape == (16, 40) and np.allclose(sounds.sum(1), 1.0, atol=1e-5)
    assert np.array_equal(book, codec.quantiser.codebook.numpy())
    logits = codec.phone_logits(codec.quantiser.codebook[7][None, None])  # a code's four decisions of 20 ms
    assert np.allclose(sounds[7], logits.softmax(-1).mean((0, 1)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("more, words", [
    (["--data.init_args.splits", "[valid]"], "no clips in split valid"),
    (["--model.init_args.budget", "2"], "budget=2"),
    (["--model.init_args.codec", "nowhere"], "nowhere"),
])  # fmt: skip
def test_bad_wishes_are_one_line(tmp_path, corpus, codec, capsys, more, words) -> None:
    assert cli.main(command(tmp_path, *more)) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
