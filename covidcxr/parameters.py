"""The parameters of a notebook: read from its tagged cell, checked before a kernel starts.

papermill accepts a mistyped name with exit code 0 and checks no type, so the cell tagged `parameters` is taken as the schema:
one annotated assignment a line,

    modes: list[str] = ["sum", "mean"]   # what to compute
    view: Literal["frontal", "lateral"] = "frontal"

of the types bool, int, float, str, list[...] of these, and Literal[...].
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covidcxr import paths
from covidcxr.errors import ParameterError, did_you_mean

SCALARS = {"bool": bool, "int": int, "float": float, "str": str}
TAG = "parameters"


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its type as written, its default and the comment beside it."""

    name: str
    annotation: str
    default: Any
    comment: str

    def check(self, value: Any, where: str) -> Any:
        """The value in this parameter's type.

        An int is taken for a float; nothing else is converted.

        Raises:
            ParameterError: the value has another type, or is not one of the allowed ones.
        """
        node = ast.parse(self.annotation, mode="eval").body
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            choices = ast.literal_eval(node.slice)
            choices = choices if isinstance(choices, tuple) else (choices,)
            if not any(value == choice and type(value) is type(choice) for choice in choices):
                hint = did_you_mean(value, choices)
                raise ParameterError(f"{where}: {self.name} must be one of {', '.join(map(repr, choices))}, got {value!r}.{hint}")
            return value
        if isinstance(node, ast.Subscript):
            if not isinstance(value, list):
                raise ParameterError(f"{where}: {self.name} must be {self.annotation}, got {_described(value)}.")
            return [self._scalar(item, ast.unparse(node.slice), where) for item in value]
        return self._scalar(value, self.annotation, where)

    def parse(self, text: str, where: str) -> Any:
        """The value of a text given on the command line (`--set stage.name=text`), read as YAML."""
        try:
            text.encode()  # what the shell gave may be no text at all
            if self.annotation == "str":
                return text
            # YAML 1.1 takes 1e-3 for a text, because it has no dot; on a command line a number is meant.
            value = float(text) if self.annotation == "float" else paths.parse_yaml(text)
        except ValueError:
            raise ParameterError(f"{where}: {self.name} must be {self.annotation}, got {text!r}.") from None
        return self.check(value, where)

    def _scalar(self, value: Any, type_name: str, where: str) -> Any:
        expected = SCALARS[type_name]
        if expected is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if type(value) is not expected:
            hint = ""
            if expected is float and isinstance(value, str) and _is_number(value):
                hint = f" YAML reads {value} as a text: write it with a dot, as in {float(value):.1e}."
            raise ParameterError(f"{where}: {self.name} must be {self.annotation}, got {_described(value)}.{hint}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{where}: {self.name} must be a finite number, got {value!r}.")
        return value


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's JSON.

    Raises:
        ParameterError: the file is missing or is no notebook.
    """
    try:
        notebook = paths.parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ParameterError(f"Notebook {path} is not there.") from None
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is no notebook that can be read ({error}).") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        raise ParameterError(f"{path} is no notebook that can be read (`cells`, a list of cells, is expected).")
    return notebook


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return False
    source, metadata = cell.get("source"), cell.get("metadata", {})
    lines = source if isinstance(source, list) else [source]
    tags = metadata.get("tags", []) if isinstance(metadata, dict) else None
    return all(isinstance(line, str) for line in lines) and isinstance(tags, list)


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, by name.

    Raises:
        ParameterError: no cell, or more than one, is tagged `parameters`, or that cell is not a list of annotated assignments
            of constants.
    """
    cells = [cell for cell in read_notebook(path)["cells"] if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(
            f"{path.name} has {len(cells)} cells tagged `{TAG}`, it needs one: without it papermill lets the notebook's own "
            "values win over those it is given. In JupyterLab: property inspector → Cell Tags."
        )
    source = "".join(cells[0]["source"])
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"{path.name}: the parameters cell is not Python ({error.msg}, line {error.lineno}).") from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes; nested too deeply for the parser
        raise ParameterError(f"{path.name}: the parameters cell is not Python ({error}).") from None
    found = {}
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module == "typing":
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        parameter = _read_assignment(statement, source, path)
        found[parameter.name] = parameter
    return found


def check_names(names: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    """Refuse unknown names, with a suggestion.

    Raises:
        ParameterError: a name is not among the known ones.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ParameterError(f"{where}: unknown {what} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def _read_assignment(statement: ast.stmt, source: str, path: Path) -> Parameter:
    where = f"{path.name}, parameters cell, line {statement.lineno}"
    if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None):
        raise ParameterError(f"{where}: expected `name: type = constant`, found `{ast.unparse(statement)}`.")
    annotation = ast.unparse(statement.annotation)
    if not _is_known_type(statement.annotation):
        raise ParameterError(
            f"{where}: type {annotation} is not among bool, int, float, str, list[…] of these, and Literal[…]."
        )
    try:
        default = ast.literal_eval(statement.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ParameterError(f"{where}: the default `{ast.unparse(statement.value)}` is not a constant.") from None
    line = source.splitlines()[(statement.end_lineno or statement.lineno) - 1]
    comment = line[statement.end_col_offset or 0:].partition("#")[2].strip()
    parameter = Parameter(statement.target.id, annotation, default, comment)
    return Parameter(parameter.name, annotation, parameter.check(default, where), comment)


def _is_known_type(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in SCALARS
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "Literal":
            choices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            return all(isinstance(choice, ast.Constant) for choice in choices)
        return node.value.id == "list" and getattr(node.slice, "id", "") in SCALARS
    return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _described(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
