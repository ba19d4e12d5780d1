"""Fixtures shared by all rooms."""

import os

# One thread per worker: several workers share the cores, and oversubscribed OpenMP pools slow each other down.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MOSSREPRO_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PL_DISABLE_FORK", "0")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Every test starts from the same global seed, so that no test depends on which ran before it."""
    torch.manual_seed(0)


_RANKS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def _no_ranks_left():
    """A fit on two ranks leaves its port in the environment; processes of a later test would try to take it again."""
    for name in _RANKS:
        os.environ.pop(name, None)
    yield
    for name in _RANKS:
        os.environ.pop(name, None)


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """An empty cache for one test; without it tests share the real one, where the embedded assets are joined."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("MOSSREPRO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished smoke run, made in the shared cache; its runs/ is in a folder of its own (see `workplace`)."""
    from mossrepro import cli

    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["reproduce", "--size", "smoke"]) in (0, 1)
    return folder / "runs" / "smoke"


@pytest.fixture
def workplace(run, monkeypatch):
    """The folder in which the smoke run was made, as the working folder of one test."""
    monkeypatch.chdir(run.parents[1])
    return run.parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small script, its facts and a tokenizer, for tests of the language model."""
    from lm_toys import write_script_folder

    return write_script_folder(tmp_path_factory.mktemp("script"))
