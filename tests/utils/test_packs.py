"""Teaching packs: what is rounded, what stays; and what may stand for a folder."""

import gzip
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from sound_toys import sound_parts

from mossrepro.cli import main
from mossrepro.codec import SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.lm import checkpoint
from mossrepro.lm.init_from import open_start
from mossrepro.pipeline import Assistant
from mossrepro.training.runs import read_parts
from mossrepro.utils import packs
from mossrepro.utils.checksums import write_sums
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.task import FlowTask


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A pack "toy" and the folders it was made of."""
    place = tmp_path_factory.mktemp("toy")
    flags = [word for name, folder in sound_parts(place).items() for word in (f"--{name}", str(folder))]
    assert main(["run", "teach", "-o", str(place / "packs" / "toy"), *flags]) == 0
    return place


@pytest.fixture
def pack(toy, tmp_path, monkeypatch):
    """A copy of the pack "toy" in the place where packs are; gives the folders it was made of."""
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packs, "PACKS", tmp_path / "packs")
    for name in ("packs", "codec", "flow", "vocoder"):
        shutil.copytree(toy / name, tmp_path / name)
    return {name: tmp_path / name for name in ("codec", "flow", "vocoder")}


def test_a_matrix_is_rounded_to_a_hundred_and_twenty_seven_values_a_row():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 256) * torch.tensor([1e-3, 1, 1e3, 5, 0, 2, 3, 4])[:, None, None]
    kept = packs.quantise({"w": weight})
    back = packs.dequantise(kept)["w"]
    assert kept["w"].dtype == torch.int8 and kept["w"].abs().max() == 63
    rows, found = weight.flatten(1), back.flatten(1)
    step = rows.abs().amax(1) / 63
    assert ((rows - found).abs().amax(1) <= 0.501 * step).all()
    assert (found[4] == 0).all()


def test_what_is_small_or_exact_or_no_fraction_stays_as_it_is():
    state = {"bias": torch.randn(5000), "few": torch.randn(10, 10), "book": torch.randn(100, 100)}
    state |= {"seen": torch.tensor(3), "flags": torch.ones(100, 100, dtype=torch.int64), "x.scale": torch.randn(9)}
    back = packs.dequantise(packs.quantise(state, "bo"))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_a_pack_loads_as_its_parts_do_and_its_codebook_is_exact(pack):
    codec, old = SpeechCodec.from_pretrained("pack:toy"), SpeechCodec.from_pretrained(pack["codec"])
    assert torch.equal(codec.quantiser.codebook, old.quantiser.codebook)
    assert not codec.quantiser.recent.any()
    largest = max(
        (a - b).abs().max() / b.abs().max()
        for a, b in zip(codec.parameters(), old.parameters(), strict=True)
        if b.any()
    )
    assert 0 < largest < 0.01
    wave = torch.from_numpy(np.sin(np.arange(16000) / 20).astype(np.float32))[None]
    assert codec.encode(wave).shape == old.encode(wave).shape
    flow, vocoder = FlowDecoder.from_pretrained("pack:toy"), Vocoder.from_pretrained("pack:toy")
    assert flow.config == FlowDecoder.from_pretrained(pack["flow"]).config
    assert vocoder.config == Vocoder.from_pretrained(pack["vocoder"]).config


def test_a_pack_is_unpacked_once(pack, monkeypatch):
    first = packs.find_folder("pack:toy", "flow")
    monkeypatch.setattr(packs, "_weights", None)
    assert packs.find_folder("pack:toy", "flow") == first and (first / "model.safetensors").is_file()


def test_a_pack_that_is_not_there_is_named_beside_those_that_are(pack, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no pack 'tech'; known: toy"):
        packs.find_folder("pack:tech")
    with pytest.raises(ConfigError, match="no pack '../toy'"):
        packs.find_folder("pack:../toy")
    monkeypatch.setattr(packs, "PACKS", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="clone"):
        packs.find_folder("pack:toy")


@pytest.mark.parametrize("file", ["codec/weights.gz", "flow/config.json"])
@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_a_pack_that_changed_is_refused_by_the_name_of_the_file(pack, file, fault):
    path = packs.PACKS / "toy" / file
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=f"{file}: {'is missing' if fault == 'gone' else 'has changed'}"):
        packs.find_folder("pack:toy")


def test_settings_that_no_checksum_covers_are_not_read(pack):
    path = packs.PACKS / "toy" / "SHA256SUMS"
    path.write_text("".join(line for line in path.open() if "flow/config.json" not in line))
    with pytest.raises(CheckpointError, match="flow is no part with settings"):
        packs.find_folder("pack:toy")


# Without the time, which would be another one in every process that collects the tests.
BROKEN = [b"", b"nothing", gzip.compress(b"no weights", mtime=0), gzip.compress(save({}), mtime=0)[:-9]]


@pytest.mark.parametrize("content", BROKEN)
def test_weights_that_are_none_are_one_line(pack, content):
    folder = packs.PACKS / "toy"
    (folder / "flow" / "weights.gz").write_bytes(content)
    write_sums(folder)
    with pytest.raises(CheckpointError, match="weights.gz"):
        packs.find_folder("pack:toy")


def test_weights_that_grow_without_end_take_no_memory(pack, monkeypatch):
    monkeypatch.setattr(packs, "_MOST", 1 << 20)
    folder = packs.PACKS / "toy"
    (folder / "flow" / "weights.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    write_sums(folder)
    with pytest.raises(CheckpointError, match="more than 1 MiB"):
        packs.find_folder("pack:toy")


def test_a_pack_is_not_written_over_another_and_needs_every_part(pack, capsys):
    out = str(packs.PACKS / "toy")
    assert main(["run", "teach", "-o", out, "--codec", str(pack["codec"])]) == 2
    assert "no flow; give --flow FOLDER, or a run" in capsys.readouterr().err
    flags = [word for name, folder in pack.items() for word in (f"--{name}", str(folder))]
    assert main(["run", "teach", "-o", out, *flags]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_pack_is_no_assistant_and_says_so(pack):
    with pytest.raises(CheckpointError, match="names no sft"):
        Assistant.from_run("pack:toy")
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        checkpoint.from_pretrained("pack:toy")


# --- repositories of the hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(pack, tmp_path, monkeypatch):
    """A server that speaks as the hub does, with one repository somebody/voice; gives the paths that were asked for."""
    files = {f"parts/{name}/{file}": (folder / file).read_bytes() for name, folder in pack.items()
             for file in ("model.safetensors", "config.json")}  # fmt: skip
    files["parts/codec/run.py"] = b"print('never fetched')"
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            asked.append(self.path)
            path = self.path.partition("?")[0]
            content, sha = None, "0" * 40
            if path in ("/api/models/somebody/voice/revision/main", "/api/models/somebody/voice"):
                about = {"id": "somebody/voice", "sha": sha, "siblings": [{"rfilename": name} for name in files]}
                content = json.dumps(about).encode()
            elif path.startswith("/api/models/somebody/voice/tree/"):
                content = json.dumps(
                    [{"type": "file", "path": name, "size": len(data), "oid": "1" * 40} for name, data in files.items()]
                ).encode()
            elif path.startswith(f"/somebody/voice/resolve/{sha}/"):
                content = files.get(path.removeprefix(f"/somebody/voice/resolve/{sha}/"))
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", f'"{abs(hash(content)):040x}"')
            self.send_header("X-Repo-Commit", sha)
            self.end_headers()
            if body:
                self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import huggingface_hub.constants as constants

    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_repository_of_the_hub_stands_for_a_folder(hub, pack):
    codec = SpeechCodec.from_pretrained("hub:somebody/voice")
    assert torch.equal(codec.phones.weight, SpeechCodec.from_pretrained(pack["codec"]).phones.weight)
    assert FlowDecoder.from_pretrained("hub:somebody/voice").config["dim"] == 64
    assert not [path for path in hub if path.endswith("run.py")], "only weights and settings are fetched"


@pytest.mark.parametrize("name", ["somebody/nothing", "somebody/voice@old"])
def test_a_repository_that_is_not_there_is_one_line(hub, name):
    with pytest.raises(CheckpointError, match=f"hub:{name}: cannot be fetched"):
        packs.find_folder(f"hub:{name}")


@pytest.mark.parametrize("name", ["", "voice", "a/b/c", "https://example.org/a", "a/b@", "a b/c"])
def test_what_is_no_name_of_a_repository_is_not_asked_for(hub, name):
    with pytest.raises(ConfigError, match="no repository is called so"):
        packs.find_folder(f"hub:{name}")
    assert not hub


def test_a_folder_that_is_missing_is_never_looked_for_at_the_hub(hub):
    with pytest.raises(CheckpointError):
        SpeechCodec.from_pretrained("somebody/voice")
    assert not hub


def test_a_fit_wants_to_know_which_revision(hub):
    with pytest.raises(ConfigError, match="hub:somebody/voice@REVISION: which one"):
        open_start("hub:somebody/voice", 16, None, "copy", 0)
    assert not hub


@pytest.mark.parametrize("source", ["hub:somebody/voice", "pack:toy"])
def test_nothing_is_fetched_because_a_run_says_so(hub, tmp_path, source):
    (tmp_path / "parts.json").write_text(json.dumps({"flow": source, "vocoder": str(tmp_path)}))
    with pytest.raises(CheckpointError, match="flow is no folder"):
        read_parts(tmp_path, ("flow",))
    assert not hub


@pytest.mark.parametrize("name", ["pack", "hub"])
def test_a_folder_may_be_called_pack_or_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert packs.find_folder(name) == Path(name) and packs.find_folder(Path(name) / "x") == Path(name) / "x"


def test_a_pack_is_found_where_the_environment_says(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PACKS", tmp_path / "nowhere")
    monkeypatch.setenv("MOSSREPRO_PACKS", str(tmp_path / "packs"))
    assert packs.find_folder("pack:toy", "flow").name == "flow"


def test_what_is_no_part_is_refused_when_a_pack_is_made(pack, capsys):
    flags = ["--codec", str(pack["codec"]), "--flow", str(pack["flow"]), "--vocoder", str(pack["flow"])]
    assert main(["run", "teach", "-o", str(packs.PACKS / "new"), *flags]) == 2
    assert "flow" in capsys.readouterr().err and not list(packs.PACKS.glob("*new*"))


def test_parts_that_do_not_fit_are_refused(pack, tmp_path, capsys):
    other = FlowTask(2, dim=64, code_layers=1, layers=1).model
    save_module(other, other.config, tmp_path / "other")
    flags = ["--codec", str(pack["codec"]), "--flow", str(tmp_path / "other"), "--vocoder", str(pack["vocoder"])]
    assert main(["run", "teach", "-o", str(packs.PACKS / "new"), *flags]) == 2
    assert "flow has 2 codes, codec 16" in capsys.readouterr().err


def test_a_pack_can_be_made_of_a_pack(pack):
    flags = [word for name in pack for word in (f"--{name}", "pack:toy")]
    assert main(["run", "teach", "-o", str(packs.PACKS / "again"), *flags]) == 0
    first, second = (SpeechCodec.from_pretrained(where) for where in ("pack:toy", "pack:again"))
    torch.testing.assert_close(second.state_dict(), first.state_dict())


def test_what_is_lost_is_measured_and_said(pack, tmp_path):
    wave = np.sin(np.arange(16000) / 20).astype(np.float32) * 0.5
    with CorpusWriter(tmp_path / "clips") as writer:
        writer.add("one", wave, 16000, "a", "speaker", "test")
    flags = [word for name, folder in pack.items() for word in (f"--{name}", str(folder))]
    clips = ["--clips", str(tmp_path / "clips"), "--data", "A hum."]
    assert main(["run", "teach", "-o", str(tmp_path / "said"), *clips, *flags]) == 0
    assert "**Data.** A hum." in (tmp_path / "said" / "README.md").read_text()
    assert "has not said what it was trained on" in (packs.PACKS / "toy" / "README.md").read_text()
    assert re.search(r"Of 13 codes of 1 test clips \d+\.\d % are those", (tmp_path / "said" / "README.md").read_text())


def test_folders_stay_what_they_are(tmp_path):
    assert packs.find_folder(tmp_path, "codec") == tmp_path
    assert packs.find_folder(str(tmp_path / "pack:x")) == tmp_path / "pack:x"
    shutil.rmtree(tmp_path)


def test_a_matrix_has_one_scale_a_row(pack):
    """Another number of them would be spread over the matrix: a small file would ask for any amount of memory."""
    path = packs.PACKS / "toy" / "flow" / "weights.gz"
    state = packs._weights(path)
    name = next(name for name in state if name.endswith(packs.SCALE))
    state[name] = torch.ones(len(state[name]) + 1)
    packs.write_part(path.parent, state, json.loads((path.parent / "config.json").read_text()))
    write_sums(packs.PACKS / "toy")
    with pytest.raises(CheckpointError, match="flow/weights.gz: .* is not one number a row"):
        packs.find_folder("pack:toy")
