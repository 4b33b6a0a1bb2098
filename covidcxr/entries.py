"""Entries of the files in `params/`, held against the fields that they are to have.

    claim = entries.build(Claim, entry, "params/claims.yaml, claims, ramesh2021.figure1")
    entries.check(Facts, entry, "params/datasets.yaml, datasets.mosmeddata")

The rule is a dataclass or a `TypedDict`: its annotations say which fields there are and of what type. A `float` takes every
finite number, whole ones too; True and False are no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from covidcxr.arithmetic import is_number
from covidcxr.errors import InputError

Kind = TypeVar("Kind")


def build(kind: type[Kind], entry: Any, where: str) -> Kind:
    """A dataclass from a mapping that `check` lets pass.

    Raises:
        InputError: as `check`.
    """
    check(kind, entry, where)
    return kind(**entry)


def check(kind: type, entry: Any, where: str) -> None:
    """Refuse an entry that is not in the form of a dataclass or a `TypedDict`.

    Args:
        where: file and place in it, for the message.

    Raises:
        InputError: it is no mapping, a field is unknown or missing, or has a value of another type.
    """
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a mapping, found {type(entry).__name__}.")
    known, needed = get_type_hints(kind), _needed(kind)
    unknown = sorted(str(key) for key in entry if key not in known)
    missing = [name for name in known if name in needed and name not in entry]
    if unknown or missing:
        problems = [f"{word} {', '.join(names)}" for word, names in (("unknown", unknown), ("missing", missing)) if names]
        raise InputError(f"{where}: {'; '.join(problems)}. Its fields are {', '.join(known)}.")
    for name, value in entry.items():
        _check_value(value, known[name], f"{where}, {name}")


def _needed(kind: type) -> set[str]:
    if is_dataclass(kind):
        return {field.name for field in fields(kind) if field.default is MISSING}
    return set(kind.__required_keys__)  # type: ignore[attr-defined]


def _check_value(value: Any, hint: Any, where: str) -> None:
    if is_typeddict(hint):
        check(hint, value, where)
    elif get_origin(hint) is list and isinstance(value, list):
        for number, part in enumerate(value, start=1):
            _check_value(part, get_args(hint)[0], f"{where}, entry {number}")
    elif not _fits(value, hint):
        raise InputError(f"{where}: {_in_words(hint)} is expected, found {str(value)[:60]!r}.")


def _in_words(hint: Any) -> str:
    kind = list if get_origin(hint) is list else hint
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("collections.abc.", "").replace("typing.", "")


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is float:
        return is_number(value)
    if hint in (str, int, bool):
        return type(value) is hint
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return all(_fits(key, parts[0]) and _fits(inner, parts[1]) for key, inner in value.items())
    return origin is None and isinstance(value, hint)
