"""The shape of the house: imports point downwards, no circle, networks know no trainer, functions stay short."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mossrepro"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top down; rooms of one line do not know each other.
FLOORS = (
    ("__init__", "__main__"),
    ("cli",),
    ("convert",),
    ("experiments",),
    ("report",),
    ("bench",),
    ("evaluation",),
    ("pipeline",),
    ("codec", "lm", "vocoder"),
    ("data",),
    ("speech",),
    ("training",),
    ("utils",),
)
RANK = {room: rank for rank, rooms in enumerate(reversed(FLOORS)) for room in rooms}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room(name: str) -> str:
    """mossrepro.codec.model -> codec."""
    return (name.split(".") + ["__init__"])[1]


def imported(tree: ast.AST) -> set[str]:
    """Full names of everything imported anywhere in a file: lazily, for type checkers or not."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the rank"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports. A folder stands for its __init__ only where nothing inside it is
    named: `from mossrepro.lm import hub` imports hub.
    """
    names = imported(ast.parse(path.read_text())) & set(MODULES)
    return {n for n in names if not (MODULES[n].stem == "__init__" and any(m.startswith(n + ".") for m in names))}


@each_file
def test_imports_point_downwards(path):
    here = room(module_name(path))
    assert here in RANK, f"give mossrepro/{here} a floor in this test and in the design"
    for name in own_imports(path):
        there = room(name)
        assert there == here or RANK[there] < RANK[here], f"{here} imports {there}, which stands on its floor or above"


def test_no_module_imports_itself_through_others():
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {name}):
                follow(other, (*way, name))
            done.add(name)

    for name in graph:
        follow(name, ())


@each_file
def test_imports_inside_functions_resolve_too(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mossrepro":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or f"{node.module}.{alias.name}" in MODULES, f"line {node.lineno}"


def test_few_files_lie_flat():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@each_file
def test_networks_do_not_know_the_trainer(path):
    tree = ast.parse(path.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    if bases & {"nn.Module", "torch.nn.Module", "Module"}:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imported(tree))


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").glob("*.py")), ids=lambda p: p.stem)
def test_data_know_no_network_and_no_trainer(path):
    names = imported(ast.parse(path.read_text()))
    assert not {"lightning", "pytorch_lightning"} & {name.split(".")[0] for name in names}
    assert not {"torch.nn", "mossrepro.training.task"} & names


@each_file
def test_functions_and_files_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@each_file
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
