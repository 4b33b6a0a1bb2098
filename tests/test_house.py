"""Who may import whom in the package, and that every part of it says what it is for. Sources are read; nothing is imported."""

import ast
import graphlib
import re
from dataclasses import dataclass, field
from functools import cache

import pytest
from conftest import ROOT

NAME = "covidcxr"
MACHINERY = {f"{NAME}.{name}" for name in (
    "__main__", "study", "engine", "execution", "durations", "result_files", "results", "outcomes", "report", "reference",
    "score_chart",
)}  # fmt: skip
NETWORKS = tuple(f"{NAME}.{name}" for name in ("models", "maskrcnn", "decomposition", "training", "gradcam"))
WITHOUT_DOCSTRING = {
    # What Keras asks of every model; the class's docstring says what goes in and comes out.
    f"{NAME}.maskrcnn.model.MaskRCNN.{name}" for name in ("call", "get_config", "from_config")
} | {
    # One expression each.
    f"{NAME}.study.{name}" for name in ("Stage.data", "State.stale", "Plan.folder")
}  # fmt: skip


@dataclass
class Module(ast.NodeVisitor):
    """A source: its tree, the modules of the package that it imports when it is loaded, and those inside its functions.

    What only types need is neither.
    """

    tree: ast.Module
    known: frozenset[str]
    first: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    inside: bool = False

    def __post_init__(self):
        self.visit(self.tree)

    def visit_If(self, node: ast.If) -> None:
        for part in node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [*node.body, *node.orelse]:
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.inside = self.inside, True
        self.generic_visit(node)
        self.inside = before

    def visit_Import(self, node: ast.Import) -> None:
        self.add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"line {node.lineno}: the package is imported by its full name"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        self.add(name if name in self.known else str(node.module) for name in names)

    def add(self, names) -> None:
        (self.later if self.inside else self.first).update(name for name in names if name.split(".")[0] == NAME)


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its name."""
    files = {}
    for path in sorted((ROOT / NAME).rglob("*.py")):
        files[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return {name: Module(ast.parse(path.read_text(encoding="utf-8")), frozenset(files)) for name, path in files.items()}


def of(*packages: str) -> set[str]:
    """Modules of these packages, or these modules."""
    return {name for name in modules() if any(name == package or name.startswith(f"{package}.") for package in packages)}


def reached(name: str) -> set[str]:
    """What a module imports, directly or through others, now or later; itself included."""
    found, waiting = set(), {name}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= (modules()[module].first | modules()[module].later) - found
    return found


def test_every_import_names_a_module_that_is_there():
    """Else the rules below would pass over it."""
    assert len(modules()) > 100
    for name, module in modules().items():
        assert module.first | module.later <= modules().keys(), name


@pytest.mark.parametrize(("who", "whom"), [
    (("models", "maskrcnn", "decomposition"), (f"{NAME}.datasets", f"{NAME}.phantom")),
    (("datasets",), NETWORKS),
    (("phantom",), (f"{NAME}.datasets", *NETWORKS)),
])
def test_networks_know_nothing_of_data_sets_nor_these_of_networks(who, whom):
    for name in of(*(f"{NAME}.{package}" for package in who)):
        assert reached(name) & of(*whom) == set(), name


def test_only_the_machinery_imports_the_machinery():
    assert MACHINERY <= modules().keys()
    for name in modules().keys() - MACHINERY:
        assert (modules()[name].first | modules()[name].later) & MACHINERY == set(), name


def test_the_mask_rcnn_imports_what_the_readme_names_for_a_copy():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"To copy the network, take (.+?); published weights also need (.+?)\. ", text)
    own, published = (
        of(*(f"{NAME}.{part.removesuffix('.py').strip('/').replace('/', '.')}" for part in re.findall("`([^`]+)`", words)))
        for words in named
    )
    for name in of(f"{NAME}.maskrcnn"):
        allowed = own | (published if name == f"{NAME}.maskrcnn.weights" else set())
        assert reached(name) <= allowed, f"{name} reaches {reached(name) - allowed}"


def test_no_module_needs_itself_to_be_loaded():
    graphlib.TopologicalSorter({name: module.first for name, module in modules().items()}).prepare()


def undocumented() -> set[str]:
    """Public modules, classes, functions and methods without a docstring.

    The parts of a Protocol are named by its own docstring.
    """
    found = {name for name, module in modules().items() if not ast.get_docstring(module.tree)}

    def search(node: ast.Module | ast.ClassDef, name: str) -> None:
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not part.name.startswith("_"):
                if not ast.get_docstring(part):
                    found.add(f"{name}.{part.name}")
                if isinstance(part, ast.ClassDef) and "Protocol" not in map(ast.unparse, part.bases):
                    search(part, f"{name}.{part.name}")

    for name, module in modules().items():
        search(module.tree, name)
    return found


def test_everything_public_says_what_it_is_for():
    assert undocumented() == WITHOUT_DOCSTRING
