"""The shape of the house: imports point downwards, modules stay free of the trainer, functions stay short."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mossrepro"
FILES = sorted(PACKAGE.rglob("*.py"))
RANK = {
    **dict.fromkeys(["errors", "assets", "audio", "layers", "vocab", "order", "facts", "sizes", "checkpoint"], 0),
    **dict.fromkeys(["gguf_file", "spoken", "training", "shards", "ordered"], 0),
    **dict.fromkeys(["codec", "lm", "vocoder", "asr", "sphinx", "voices"], 1),
    **dict.fromkeys(["data", "pipeline"], 2),
    **dict.fromkeys(["eval", "chat"], 3),
    **dict.fromkeys(["cli", "fit", "reproduce", "chain", "controls", "rivals", "ablate", "convert"], 4),
    **dict.fromkeys(["plan", "report", "page", "__main__"], 4),
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(tree: ast.AST) -> set[str]:
    """Full names of everything imported anywhere in a file, lazily or not."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the rank"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_a_lower_rank(path):
    here = room(path)
    if here == "__init__":
        return
    assert here in RANK, f"give mossrepro/{here} a rank in this test and in the design"
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "mossrepro" or len(parts) < 2 or parts[1] not in RANK or parts[1] == here:
            continue
        lower = RANK[parts[1]] < RANK[here] or RANK[here] in (0, 4) and RANK[parts[1]] == RANK[here]
        assert lower, f"{here} (rank {RANK[here]}) imports {parts[1]} (rank {RANK[parts[1]]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_networks_do_not_know_the_trainer(path):
    tree = ast.parse(path.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    if bases & {"nn.Module", "torch.nn.Module", "Module"}:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imported(tree))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_and_files_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
