"""What a stage's results depend on, as hashes: its code, its parameters, its data, the stages before it.

The code of a stage is its notebook's code cells and the modules of the package that they import, directly or through others.
It is hashed as a syntax tree, so that a comment, a docstring, prose or a touched file re-runs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from covidcxr import paths
from covidcxr.errors import ParameterError
from covidcxr.parameters import TAG, read_notebook

PACKAGE = Path(__file__).resolve().parent
NAME = PACKAGE.name
# The phantom makes data: a change to it changes the data's fingerprint, and must not re-run a study of real data.
NOT_CODE = f"{NAME}.phantom"


def digest(value: Any) -> str:
    """Hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str | None:
    """Hash of a file's bytes; None when it is not there."""
    try:
        with open(path, "rb") as file:  # weights may be large: not all at once
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def keras_backend() -> str:
    """The backend that Keras takes: what `KERAS_BACKEND` says, else Keras' own file of settings, else TensorFlow.

    To ask Keras itself is to import it with its backend, which takes seconds.
    """
    home = os.path.expanduser("~")
    folder = os.environ.get("KERAS_HOME") or os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    settings = paths.json_mapping(Path(os.path.expanduser(folder)) / "keras.json")
    return os.environ.get("KERAS_BACKEND") or str(settings.get("backend") or "tensorflow")


def code_parts(notebook: Path, extra_modules: Iterable[str] = ()) -> dict[str, str]:
    """Hash of each piece of code behind a notebook: the notebook itself, and every module of the package that it reaches.

    Args:
        extra_modules: modules that are imported by name at run time, such as the adapters of the stage's data sets.
    """
    sources = [
        "".join(cell["source"]) for cell in read_notebook(notebook)["cells"]
        if cell["cell_type"] == "code" and TAG not in cell.get("metadata", {}).get("tags", [])
    ]
    try:
        trees = [ast.parse(source) for source in sources]
    except SyntaxError as error:
        raise ParameterError(
            f"{notebook.name}: a code cell is not plain Python ({error.msg}: {(error.text or '').strip()}). Magics and shell "
            "commands of IPython can't be used in a stage."
        ) from None
    imported = {module for tree in trees for module in _imported(tree, "")}
    return {notebook.name: digest([_normal_form(tree) for tree in trees]), **module_parts(imported | set(extra_modules))}


def module_parts(modules: Iterable[str]) -> dict[str, str]:
    """Hash of each of these modules of the package and of all that they import from it; other modules are passed over."""
    parts: dict[str, str] = {}
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        path = _module_path(module)
        if path is None or module in parts or module == NOT_CODE or module.startswith(NOT_CODE + "."):
            continue
        form, imported = _module_facts(module, path, path.stat().st_mtime_ns)
        parts[module] = form
        waiting |= imported
    return parts


@cache
def _module_facts(module: str, path: Path, mtime_ns: int) -> tuple[str, frozenset[str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return digest(_normal_form(tree)), frozenset(_imported(tree, package))


def _imported(tree: ast.AST, package: str) -> set[str]:
    """Modules of this package that a syntax tree imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name == NAME or name.startswith(NAME + ".")}


def _module_path(module: str) -> Path | None:
    if module.partition(".")[0] != NAME:
        return None
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and path.is_relative_to(PACKAGE):
            return path
    return None


def _normal_form(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)
