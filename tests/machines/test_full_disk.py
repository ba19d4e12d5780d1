"""A full disk, at every write of everything that writes: one line, the last good one kept, the same call goes on."""

import ast
import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_toys import SMALL
from matplotlib.figure import Figure
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toy_stage import STAGE, Task, curve

from mossrepro import cli
from mossrepro.data import alignment, corpus
from mossrepro.data.token_store import TokenStore, TokenWriter
from mossrepro.experiments import graph, reproduce, stages
from mossrepro.lm import checkpoint
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.report import verb
from mossrepro.training import callbacks, metrics, resume, runs
from mossrepro.utils import assets, audio, cache, io, safetensors_io
from mossrepro.utils.errors import DiskError
from mossrepro.vocoder.checkpoint import save_module

PACKAGE = Path(__file__).parents[2] / "mossrepro"
TONE = (0.3 * np.sin(np.arange(1_600) / 9)).astype(np.float32)
PLACES = {}


def place(make):
    """A place that writes: make(folder, version) -> how to read what is there, as a value that can be compared."""
    PLACES[make.__name__] = make
    return make


@place
def resume_file(folder, version):
    path = folder / "ckpt" / "last.ckpt"
    state = {"global_step": version, "x": torch.full((9,), float(version))}
    callbacks.AtomicCheckpointIO().save_checkpoint(state, path)
    return lambda: callbacks.read_checkpoint(path)["x"].tolist()


@place
def language_model(folder, version):
    tokenizer = Tokenizer(WordLevel({str(version): 0}, unk_token="x"))
    torch.manual_seed(version)
    checkpoint.save_pretrained(LayerSplitLM(LMConfig(**SMALL)), tokenizer, folder / "lm")
    return lambda: {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (folder / "lm").iterdir()}


@place
def shards(folder, version):
    state = {f"{i}": torch.full((40, 40), float(version)) for i in range(4)}
    safetensors_io.write(state, folder / "out", "15KB", {"version": version}, f'{{"version": {version}}}')

    def read():
        held = safetensors_io.Shards(folder / "out")
        texts = [(folder / "out" / name).read_text() for name in ("config.json", "tokenizer.json")]
        return [float(held[str(i)].mean()) for i in range(4)], texts, len(list((folder / "out").iterdir()))

    return read


@place
def decoder_weights(folder, version):
    torch.manual_seed(version)
    save_module(torch.nn.Linear(3, 3), {"version": version}, folder / "flow")
    return lambda: [path.read_bytes() for path in sorted((folder / "flow").iterdir())]


@place
def token_store(folder, version):
    with TokenWriter(folder / "store", 64) as writer:
        items = [(f"{name}{v}", np.arange(v + 1)) for v in range(version + 1) for name in "ab"]
        writer.add([item for item in items if item[0] not in writer.done])

    def read():
        store = TokenStore(folder / "store")
        codes = np.fromfile(folder / "store" / "codes.u16", "<u2").tolist()
        return {name: store[name].tolist() for name in store}, codes

    return read


@place
def corpus_of_clips(folder, version):
    with corpus.CorpusWriter(folder / "corpus") as writer:
        for v in range(version + 1):
            writer.add(f"clip{v}", TONE, 16_000, "one", "me", "train")

    def read():
        clips = corpus.read_manifest(folder / "corpus")
        return [(clip.id, len(corpus.load_clip(folder / "corpus", clip, 16_000))) for clip in clips]

    return read


@place
def corrected_transcripts(folder, version):
    with corpus.CorpusWriter(folder / "corpus") as writer:
        writer.add("clip", TONE, 16_000, "0", "me", "train")
        clip = writer.clips["clip"]
        writer.update(replace(clip, text=str(version)))
    return lambda: [clip.text for clip in corpus.read_manifest(folder / "corpus")]


@place
def answer(folder, version):
    audio.save(folder / "answer.wav", TONE[: 800 + version], 16_000)
    return lambda: len(audio.load(folder / "answer.wav", 16_000))


@place
def fact(folder, version):
    metrics.record(folder, metrics.Metric("x", "x", float(version)))
    return lambda: metrics.read_metrics(folder)["x"].value


@place
def fit_settings(folder, version):
    resume.write_settings(folder / "fit.json", {"version": version})
    return lambda: (folder / "fit.json").read_text()


@place
def run_record(folder, version):
    runs.write_record(folder, f"size{version}")
    return lambda: runs.read_record(folder)["size"]


@place
def curve_of_a_fit(folder, version):
    trainer = SimpleNamespace(callback_metrics={"loss": torch.tensor(float(version))})
    callbacks.ProgressFile(folder / "metrics.jsonl")._append(trainer, version, False)
    return lambda: curve(folder)


@place
def tables_and_pictures(folder, version):
    io.write_atomic(folder / "a.npy", lambda file: np.save(file, np.full(3_000, version)))
    return lambda: np.load(folder / "a.npy").tolist()


@place
def picture(folder, version):
    figure = Figure()
    figure.subplots().plot([0, version])
    io.write_atomic(folder / "a.png", lambda file: figure.savefig(file, format="png", dpi=20))
    return lambda: (folder / "a.png").read_bytes()


@place
def report(folder, version):
    metrics.record(folder, metrics.Metric("heard", "heard", 90.0 + version, "%", hardware="h", commit="c"))
    (folder / "claims.yaml").write_text('- {id: heard, name: heard, unit: "%", low: 80}\n')
    verb.write(folder, "small", folder / "claims.yaml", folder / "out.md")
    lines = (folder / "out.md").read_text  # the last of what it writes
    return lambda: [line for line in lines().splitlines() if line.startswith("|")]


@place
def folder_of_the_cache(folder, version):
    os.environ["MOSSREPRO_HOME"] = str(folder)

    def build(out):
        for name in "ab":
            io.write_text(out / name, str(version))

    made = cache.cached("toys", {"version": version}, build)
    return lambda: [(made / name).read_text() for name in ("a", "b", "spec.json")]


@place
def what_a_stage_took(folder, version):
    os.environ["MOSSREPRO_HOME"] = str(folder)
    chain = graph.StageGraph.__new__(graph.StageGraph)
    chain.costs, chain._counted = {}, set()
    made = chain.cached("codec", "toys", {"version": version}, lambda out: io.write_text(out / "a", str(version)))
    return lambda: ((made / "a").read_text(), sorted(stages.read_cost(made)), len(list(made.iterdir())))


@place
def a_finished_run(folder, version):
    """Twice: the second run of `reproduce` takes the place of what the first one left."""
    measured, part = folder / f"measured{version}", folder / f"codec{version}"
    for path in (measured / "facts" / "x.json", measured / "facts" / f"y{version}.json", measured / "wav" / "a.wav",
                 measured / "wav" / "index.json", measured / "families.json", part / "metrics.jsonl"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(version))
    run = folder / "runs" / "x"
    metrics.record(run, metrics.Metric("control_x", "another command's", 1.0))
    chain = SimpleNamespace(parts=lambda: {"codec": str(part)}, costs={"codec": {"minutes": version}})
    chain.cached, chain.size = lambda *_: measured, SimpleNamespace(name=f"size{version}")
    reproduce._collect(chain, run)

    def read():
        names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        texts = ("facts/x.json", "wav/a.wav", "families.json", "stages.json", "metrics/codec.jsonl")
        codec = Path(json.loads((run / "parts.json").read_text())["codec"])
        return names, [(run / name).read_text() for name in texts], codec.name

    return read


@place
def joined_asset(folder, version):
    site = folder / f"little_package{version}"
    site.mkdir(exist_ok=True)
    for i in range(2):
        (site / f"part{i}").write_bytes(b"%d" % version)
    asset = assets.Asset("toy", (), (), hashlib.sha256(b"%d" % version * 2).hexdigest(), "MIT", "here", "toy.bin", "x")
    path = assets._join(asset, [site / "part0", site / "part1"], folder / "assets" / "toy.bin")
    return lambda: path.read_bytes()


@place
def phone_times(folder, version):
    os.environ["MOSSREPRO_HOME"] = str(folder / "home")
    with corpus.CorpusWriter(folder / f"corpus{version}") as writer:
        for i in range(3):
            writer.add(f"{version}-{i}", TONE, 16_000, "one", "me", "train")
    made = alignment.phone_times(folder / f"corpus{version}", workers=1)
    return lambda: alignment.read_phones(made)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", PLACES)
def test_a_full_disk_at_every_write(name, disk, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path))
    monkeypatch.setattr(alignment, "_CHUNK", 1)
    monkeypatch.setattr(alignment, "align_phones", lambda wave, text: [("W", 0.0, 0.1)])
    make, failures = PLACES[name], 0
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        read = make(folder, 0)
        before = read()
        with disk.full_from(number):
            try:
                make(folder, 1)
                break  # there are no more writes
            except DiskError as error:
                failures += 1
                assert "the disk is full" in str(error) and "\n" not in str(error) and "could not write" in str(error)
        assert read() == before, number
        inner = [path for path in files(folder) if path.name.endswith(".partial") or ".new" in path.parts]
        assert not inner, number
        again = make(folder, 1)()  # the same call
        whole = tmp_path / f"whole{number}"
        whole.mkdir()
        make(whole, 0)
        assert again == make(whole, 1)(), number
    assert 0 < failures == number


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    (tmp_path / "stage.yaml").write_text(STAGE + "seed_everything: 0\n")
    return ["fit", "-c", str(tmp_path / "stage.yaml"), "-c", str(PACKAGE.parent / "configs" / "size" / "small.yaml"),
            "--size.codec.batch", "4", "--size.codec.lr", "0.01", "--save_steps", "4"]  # fmt: skip


def test_a_fit_that_meets_a_full_disk_goes_on_to_the_same_bits(stage, disk, tmp_path, capsys, monkeypatch):
    """In its settings, curve, checkpoints and export: the line says so, and the same command ends as if nothing was."""
    monkeypatch.setattr(
        Task, "save_pretrained", lambda self, folder: safetensors_io.save_whole(folder, self.net.state_dict(), {})
    )
    disk.full_from(10**9).__enter__()
    assert cli.main([*stage, "--output", str(tmp_path / "whole")]) == 0
    total = disk.writes
    for number in sorted({0, 1, 2, 3, total // 3, total // 2, 2 * total // 3, *range(total - 4, total)}):
        out = tmp_path / str(number)
        capsys.readouterr()
        with disk.full_from(number):
            assert cli.main([*stage, "--output", str(out)]) == 2, number
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mossrepro: ")]
        assert len(said) == 1 and "the disk is full" in said[0] and str(out) in said[0], said
        assert not (out / "done.json").exists() and not list(out.rglob("*.partial"))
        assert cli.main([*stage, "--output", str(out)]) == 0, number
        for name in ("model.safetensors", "fit.json"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (number, name)
        assert curve(out) == curve(tmp_path / "whole"), number


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 64 KB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def rows(path):
    with io.AppendFile(path) as file:
        file.append(b"x" * 99_999)


WRITERS = {
    "torch": lambda folder: callbacks.AtomicCheckpointIO().save_checkpoint({"x": torch.ones(99_999)}, folder / "x"),
    "safetensors": lambda folder: safetensors_io.save_whole(folder, {"x": torch.ones(99_999)}, {}),
    "numpy": lambda folder: io.write_atomic(folder / "x", lambda file: np.save(file, np.ones(99_999))),
    "sound": lambda folder: audio.save(folder / "x.wav", np.tile(TONE, 99), 16_000),
    "text": lambda folder: io.write_text(folder / "x", "x" * 99_999),
    "rows": lambda folder: rows(folder / "x"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_really_full(name, small_disk, capfd):
    with pytest.raises(DiskError, match="could not write .*: the disk is full.*; make room"):
        WRITERS[name](small_disk)
    assert not sum(path.stat().st_size for path in small_disk.iterdir())
    assert capfd.readouterr().err == ""


# Calls that write, replace or name a file, which `utils/io.py` alone may make.
METHODS = {"write_text", "write_bytes", "savetxt", "savez", "tofile", "symlink_to", "hardlink_to"}
FUNCTIONS = {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copytree", "move")}
FUNCTIONS |= {f"os.{name}" for name in ("replace", "rename", "link", "symlink", "write")}


def writes(tree: ast.AST) -> list[str]:
    """The calls of a module that write, replace or name a file by itself."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        whole, method = ast.unparse(call.func), call.func.attr if isinstance(call.func, ast.Attribute) else ""
        words = [ast.unparse(arg) for arg in [*call.args, *(word.value for word in call.keywords)]]
        modes = [word[1:-1] for word in words if word[:1] == "'" and set(word[1:-1]) <= set("rwaxbt+")]
        opens = whole.split(".")[-1] == "open" and any(set(mode) & set("wax+") for mode in modes)
        saves = method == "savefig" or whole in ("np.save", "torch.save") or method == "save" and words[0][:4] == "str("
        if method in METHODS or whole in FUNCTIONS or opens or saves and not {"file", "buffer"} & set(words):
            found.append(f"{call.lineno}: {ast.unparse(call)[:60]}")
    return found


def test_nothing_else_writes_files():
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if name in ("utils/io.py", "utils/locks.py"):
            assert writes(ast.parse(path.read_text()))
        else:
            assert writes(ast.parse(path.read_text())) == [], name


BY_HAND = ["x.write_text(y)", "open(x, 'a')", "x.open('wb')", "np.save(x, y)", "figure.savefig(x / 'a')",
           "t.save(str(x))", "shutil.copytree(a, b)", "os.replace(a, b)", "open(x, mode='w')",
           "torch.save(x, path)"]  # fmt: skip


@pytest.mark.parametrize("text", BY_HAND)
def test_a_write_by_hand_is_seen(text):
    assert writes(ast.parse(text))
