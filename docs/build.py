"""The site, made of this folder's pages, the lessons' notebooks and the package's docstrings (`make docs`).

python docs/build.py            write build/site; a warning is an error
python docs/build.py FOLDER     write FOLDER

Pages keep their places in the repository, so that links between them need no change. A link to any other file leads to
a page with its text, for a module below its docstrings. Nothing of the package is imported.
"""

import ast
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "site"
# Caption -> pages. Pages of this folder that stand nowhere here go to "How to".
SECTIONS = {
    "Learn": ["notebooks/*.ipynb", "docs/teaching.md", "docs/glossary.md"],
    "How to": ["docs/data.md"],
    "The paper": ["docs/paper-map.md", "docs/deviations.md"],
    "Results": [
        *("docs/RESULTS.md", "docs/RESULTS-packs.md", "docs/RESULTS-long.md"),
        *("docs/reliability.md", "docs/LOG.md"),
    ],
    "The project": ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"],
}
LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)]*)?\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}
SETTINGS = {
    "project": "mossrepro",
    "html_title": "mossrepro",
    "html_theme": "furo",
    "html_show_sphinx": False,
    "html_show_copyright": False,
    "html_copy_source": False,
    "extensions": ["myst_nb"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "smartquotes": False,
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
    "maximum_signature_line_length": 100,
}
ORPHAN = "---\norphan: true\n---\n"  # a page that the sidebar leaves out
INDEX = """# mossrepro

A reproduction of MOSS-Speech ([arXiv 2510.00499](https://arxiv.org/abs/2510.00499)): a language model that hears a
spoken question and speaks its answer, with no text written on the way. Small enough to train on two CPU cores.

![Question, codec, grid, trunk, text tail and speech tail, flow decoder, vocoder, answer](docs/system.svg)

- **Learn**: eleven lessons, [from sound](notebooks/00_map_and_sound.ipynb) to [scaling](notebooks/10_scaling.ipynb),
  and [a plan for ten weeks](docs/teaching.md).
- **Use**: [install, run and talk](README.md), [your own data](docs/data.md), [another text model](docs/other-llm.md),
  [many GPUs](docs/cluster.md).
- **Research**: [where the paper is in the code](docs/paper-map.md), [where we leave it](docs/deviations.md),
  [what came out](docs/RESULTS.md) and [the log](docs/LOG.md).
- **Look up**: [the words](docs/glossary.md), [every module](package.md).
"""


def sections() -> dict[str, list[str]]:
    """Caption -> pages, as paths in the repository."""
    found = {}
    for caption, patterns in SECTIONS.items():
        found[caption] = [
            str(path.relative_to(ROOT))
            for pattern in patterns
            for path in sorted(ROOT.glob(pattern)) or [ROOT / pattern]
        ]
    placed = {page for pages in found.values() for page in pages}
    others = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]
    found["How to"] += [page for page in others if page not in placed]
    return found


def modules() -> list[str]:
    """The package's modules, as paths in the repository."""
    paths = sorted((ROOT / "mossrepro").rglob("*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if path.name != "__main__.py"]


def stage(folder: Path) -> None:
    """Write the sources of the site to an empty folder."""
    placed = sections()
    pages = [page for section in placed.values() for page in section]
    written, waiting = set(pages), [*modules(), "configs"]
    for page in pages:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".ipynb"):
            (folder / page).write_text(_notebook(ROOT / page), "utf-8")
        else:
            (folder / page).write_text(_relink(ROOT / page, folder, pages, waiting), "utf-8")
    while waiting:
        path = waiting.pop()
        if path not in written:
            written.add(path)
            made = folder / shown_at(path)
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(_folder_page(path, waiting) if (ROOT / path).is_dir() else _file_page(path), "utf-8")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=lambda _, names: _no_pictures(names), dirs_exist_ok=True)
    (folder / "package.md").write_text(_package_page(), "utf-8")
    captions = {**placed, "Reference": ["package.md"]}
    text = INDEX + "".join(_contents(pages, caption) for caption, pages in captions.items())
    (folder / "index.md").write_text(text, "utf-8")


def _notebook(path: Path) -> str:
    """A notebook that says how its cells are coloured: shell cells too."""
    read = json.loads(path.read_text("utf-8"))
    read["metadata"]["language_info"]["pygments_lexer"] = "ipython3"
    return json.dumps(read)


def _no_pictures(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith((".svg", ".png"))]


def shown_at(path: str) -> str:
    """Where the site shows a file or folder of the repository that is no page itself."""
    return f"files/{path}/index.md" if (ROOT / path).is_dir() else f"files/{path}.md"


def _relink(page: Path, folder: Path, pages: list[str], waiting: list[str]) -> str:
    """A page's text with links to files and folders leading to where the site shows them."""

    def lead(match: re.Match) -> str:
        there = (page.parent / match[2]).resolve().relative_to(ROOT)
        path = str(there)
        if path == "lessons" or path == "notebooks":
            path = pages[0]
        elif re.match(r"lessons/\d\d_", path):
            path = f"notebooks/{there.stem}.ipynb"
        elif path not in pages and not path.endswith((".svg", ".png")):
            waiting.append(path)
            path = shown_at(path)
        up = "../" * len(page.relative_to(ROOT).parent.parts)
        return f"{match[1]}{up}{path}{match[3] if path in pages else ')'}"

    return LINK.sub(lead, page.read_text("utf-8"))


def _contents(pages: list[str], caption: str) -> str:
    """A part of the sidebar."""
    lines = "\n".join("/" + page.removesuffix(".md").removesuffix(".ipynb") for page in pages)
    return f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n:maxdepth: 1\n\n{lines}\n```\n"


def _package_page() -> str:
    """Every module with the first line of its docstring, room by room."""
    rooms: dict[str, list[str]] = {}
    for path in modules():
        rooms.setdefault(str(Path(path).parent), []).append(path)
    text = "# The package\n"
    for room, paths in rooms.items():
        text += f"\n## `{room}`\n\n"
        for path in paths:
            said = ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8"))) or ""
            first = markdown(said.split("\n\n")[0]).replace("\n", " ")
            text += f"- [{Path(path).name}]({shown_at(path)}): {first}\n"
    return text


def _folder_page(path: str, waiting: list[str]) -> str:
    """What is in a folder; configurations have pages of their own."""
    inside = [p for p in sorted((ROOT / path).iterdir()) if not p.name.startswith(("__", "."))]
    if not path.startswith("configs"):
        return f"{ORPHAN}# `{path}`\n\n" + "".join(f"- `{p.name}`\n" for p in inside)
    names = [str(p.relative_to(ROOT)) for p in inside]
    waiting += names
    rows = "".join(f"- [{p.name}](/{shown_at(name)})\n" for p, name in zip(inside, names, strict=True))
    return f"{ORPHAN}# `{path}`\n\n{rows}"


def _file_page(path: str) -> str:
    """A file's text; a module's docstrings before it."""
    text = (ROOT / path).read_text("utf-8")
    language = LANGUAGES.get(Path(path).suffix, "text")
    ticks = "`" * (2 + max([1, *map(len, re.findall(r"`+", text))]))
    block = f"{ticks}{language}\n{text}{ticks}\n"
    if not path.startswith("mossrepro/"):
        return f"{ORPHAN}# `{path}`\n\n{block}"
    return f"{ORPHAN}{module_page(path)}\n## Source\n\n{block}"


def module_page(path: str) -> str:
    """A module's public functions and classes with their docstrings, as Markdown."""
    tree = _Full().visit(ast.parse((ROOT / path).read_text("utf-8")))
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    text = f"# `{name}`\n\n```{{py:module}} {name}\n```\n\n{markdown(ast.get_docstring(tree) or '')}\n"
    return text + "\n".join(_described(node) for node in tree.body if _is_public(node))


class _Full(ast.NodeTransformer):
    """Names that a module imports from the package become full ones, so that they can be linked without a doubt."""

    def __init__(self) -> None:
        self.full: dict[str, ast.expr] = {}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if (node.module or "").startswith("mossrepro"):
            for name in node.names:
                self.full[name.asname or name.name] = ast.parse(f"{node.module}.{name.name}", mode="eval").body
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.full.get(node.id, node)


def _is_public(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def _described(node: ast.FunctionDef | ast.ClassDef, within: str = "") -> str:
    """A directive with signature and docstring; a class's public methods inside it."""
    told = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        signature = f"({_arguments(init)})" if init else f"({', '.join(ast.unparse(n) for n in fields)})"
        inner = {n.name: _described(n, node.name) for n in node.body if _is_public(n)}  # a setter hides its getter
        body = "\n".join([markdown(told), *inner.values()])
        return f"\n``````{{py:class}} {node.name}{signature}\n\n{body}\n``````\n"
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    kind = "function" if not within else "property" if {"property", f"{node.name}.setter"} & marks else "method"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    signature = "" if kind == "property" else f"({_arguments(node)}){returns}"
    options = ":classmethod:\n" if "classmethod" in marks else ":staticmethod:\n" if "staticmethod" in marks else ""
    return f"\n`````{{py:{kind}}} {node.name}{signature}\n{options}\n{markdown(told)}\n`````\n"


def _arguments(function: ast.FunctionDef) -> str:
    text = ast.unparse(function.args)
    return re.sub(r"^(self|cls)(, |$)", "", text)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: drawings and tables as they stand, `name: text` lines below "Args:" as a list."""
    return "\n\n".join(_block(lines) for lines in _blocks(docstring.splitlines()))


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines that are all indented (blank ones between them allowed), or none."""
    run: list[str] = []
    for line in lines:
        drawn = _is_drawn([line])
        ends = not _is_drawn(run) or _is_named(run[0]) if not line.strip() else drawn != _is_drawn(run)
        if run and ends:
            yield run
            run = []
        if line.strip() or run:
            run.append(line)
    if run:
        yield run


def _is_drawn(run: list[str]) -> bool:
    return bool(run and re.match(r" {2,}|\S.*\S {3,}\S", run[0]))


def _is_named(line: str) -> bool:
    """Whether a line is of the kind `name: text`."""
    return bool(re.match(r" *\w[\w ,/*]*: \S", line))


def _block(lines: list[str]) -> str:
    if not _is_drawn(lines):
        return "\n".join(map(_escaped, lines))
    while not lines[-1].strip():
        lines = lines[:-1]
    deep = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    lines = [line[deep:] for line in lines]
    if deep and _is_named(lines[0]) and all(line[0] == " " or _is_named(line) for line in lines):
        named = [line if line[0] == " " else re.sub(r"^([^:]+):", r"- `\1`:", line) for line in lines]
        return "\n".join(map(_escaped, named))
    return "```text\n" + "\n".join(lines) + "\n```"


def _escaped(line: str) -> str:
    """Outside `code` no character means anything to Markdown, but for the sign of a list."""
    parts = re.split(r"(`+[^`]*`+)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]{}|$#~])", r"\\\1", part) for part in parts)


def build(out: Path) -> int:
    """Write the site to `out`; the exit code. With a warning it is 1."""
    from sphinx.application import Sphinx

    with tempfile.TemporaryDirectory() as work:
        source = Path(work, "source")
        source.mkdir()
        stage(source)
        app = Sphinx(source, None, out, Path(work, "doctrees"), "html", SETTINGS, status=None, warningiserror=True)
        app.build()
        return app.statuscode


def main() -> int:
    """See the module's docstring."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    code = build(out.resolve())
    print(f"{out / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
