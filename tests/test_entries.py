"""Entries of files are held against the fields that they are to have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import pytest

from covidcxr import entries
from covidcxr.errors import InputError


class Part(TypedDict):
    address: str


class Options(TypedDict, total=False):
    epsilon: float
    side: Literal["both", "end", 1]


@dataclass(frozen=True)
class Thing:
    name: str
    count: int
    value: float | tuple[float, ...] | None
    ends: tuple[float, float] | None = None
    scores: Mapping[str, float] | None = None
    files: tuple[str, ...] = ()


class Record(TypedDict):
    parts: list[Part]
    options: Options
    names: list[str]
    right: bool


THING = {"name": "a", "count": 3, "value": 0.5}
RECORD = {"parts": [{"address": "x"}], "options": {"side": "end"}, "names": [], "right": True}


@pytest.mark.parametrize("more", [
    {}, {"value": 3}, {"value": (1, 2.5)}, {"value": ()}, {"value": None}, {"ends": (0, 1)}, {"scores": {"a": 1}}, {"scores": {}},
    {"files": ("a", "b")},
])
def test_what_fits_becomes_the_dataclass(more):
    assert entries.build(Thing, THING | more, "here") == Thing(**THING | more)


@pytest.mark.parametrize(("more", "message"), [
    ({"nmae": "b"}, "here: unknown nmae. Its fields are name, count, value,"),
    ({"name": 1}, "here, name: str is expected, found '1'"),
    ({"count": True}, "here, count: int is expected, found 'True'"),
    ({"count": 3.0}, "here, count: int is expected, found '3.0'"),
    ({"value": "0.5"}, "here, value: float | tuple[float, ...] | None is expected, found '0.5'"),
    ({"value": float("nan")}, "found 'nan'"),
    ({"value": 10**400}, "found '1000"),
    ({"value": (1, "2")}, "here, value: float | tuple"),
    ({"ends": (1, 2, 3)}, "here, ends: tuple[float, float] | None is expected, found '(1, 2, 3)'"),
    ({"scores": {"a": "b"}}, "here, scores: Mapping[str, float] | None is expected"),
    ({"scores": {1: 2}}, "here, scores"),
    ({"files": ["a"]}, "here, files: tuple[str, ...] is expected"),
])
def test_what_does_not_fit_is_refused_by_name(more, message):
    with pytest.raises(InputError, match=re.escape(message)):
        entries.build(Thing, THING | more, "here")


def test_what_is_missing_or_no_mapping_is_refused():
    with pytest.raises(InputError, match="here: missing count, value"):
        entries.build(Thing, {"name": "a"}, "here")
    for content in (None, [], "text", 3):
        with pytest.raises(InputError, match="here: expected a mapping, found"):
            entries.check(Record, content, "here")


def test_mappings_inside_are_held_against_theirs():
    entries.check(Record, RECORD, "here")
    entries.check(Record, RECORD | {"options": {}}, "here")
    for more, message in (
        ({"parts": [{"address": "x"}, {"adress": "x"}]}, "here, parts, entry 2: unknown adress; missing address"),
        ({"parts": {"address": "x"}}, "here, parts: list is expected"),
        ({"options": {"side": "left"}}, "here, options, side: Literal['both', 'end', 1] is expected, found 'left'"),
        ({"options": {"side": True}}, "here, options, side"),  # which equals 1
        ({"options": {"epsilon": "1e-5"}}, "here, options, epsilon: float is expected, found '1e-5'"),
        ({"names": ["a", 2]}, "here, names, entry 2: str is expected"),
        ({"right": 1}, "here, right: bool is expected"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            entries.check(Record, RECORD | more, "here")
