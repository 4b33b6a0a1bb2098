"""What the papers claim (`params/claims.yaml`) and how a number obtained here compares with it.

    known = claims.load()
    claim = known.claim("ramesh2021.data.ct_total")
    claims.verdict(claim, record, claims.StageState("done", "real"))    # -> ("match", "equal")

The rule of agreement. A number from real data matches when it lies within the claim's `tolerance` of the paper's number, or
when its own 95 % interval holds the paper's number; it differs otherwise. An interval that holds the paper's number but reaches
further than `WIDE` tolerances from ours settles nothing: not comparable. A number from the phantom is never compared. For
`at_least` claims ("more than 0.7") a number matches from the paper's number minus the tolerance upwards.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from covidcxr import paths
from covidcxr.arithmetic import evaluate, half_unit, is_number, number
from covidcxr.entries import build
from covidcxr.errors import InputError

FILE = "params/claims.yaml"
KINDS = ("performance", "margin", "statement", "count", "setting", "released", "table", "figure", "schematic")
PICTURES = ("figure", "schematic")
WITHOUT_VALUE = ("table", *PICTURES)

STATUSES = {
    "match": "Agrees with the paper within the tolerance or the interval.",
    "differs": "Obtained on real data under a comparable protocol, and does not agree.",
    "not comparable": "Obtained here, but data, protocol or precision do not allow a verdict.",
    "figure only": "A figure or schematic was regenerated; there is no number to compare.",
    "paper inconsistent": "The printed number contradicts another statement of the same paper.",
    "no data": "The data set is not on this machine, or a stage before this one had none.",
    "phantom": "Made from synthetic images: shows that the machinery works, says nothing on the paper.",
    "not run": "Its stage has not been run to its end, or is not written yet.",
}
WIDE = 3.0  # half intervals wider than this many tolerances settle nothing


@dataclass(frozen=True)
class Check:
    """A sum that shows an inconsistency: `arithmetic` gives `gives`; the paper prints `printed` in that place, if anything."""

    arithmetic: str
    gives: float
    printed: float | None = None
    what: str = ""

    @property
    def value(self) -> float:
        """What the arithmetic gives."""
        return evaluate(self.arithmetic)

    @property
    def holds(self) -> bool:
        """Whether the arithmetic gives what is written: within half a unit of the last digit written."""
        return abs(self.value - self.gives) <= half_unit(self.gives) * (1 + 1e-9)


@dataclass(frozen=True)
class Inconsistency:
    """Something in a paper that can't be so, or can't be known from it."""

    id: str
    text: str
    consequence: str
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Paper:
    """One of the papers, with what in it can't be so. Fields as in `params/claims.yaml`."""

    id: str
    title: str
    authors: str
    venue: str | None
    year: int
    doi_or_url: str | None
    code: str | None
    inconsistencies: tuple[Inconsistency, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One number, figure or table of a paper. Fields as in the head of `params/claims.yaml`."""

    id: str
    paper: str
    place: str
    what: str
    kind: str
    value: float | tuple[float, ...] | None
    unit: str | None
    tolerance: float | None
    interval: tuple[float, float] | None = None
    relation: str = "equal"
    part_of: str | None = None
    trivial: Mapping[str, float] | None = None
    see: tuple[str, ...] = ()
    inconsistent: str | None = None
    headline: str = ""
    worth: str = ""
    remarks: str = ""


class StageState(NamedTuple):
    """How far a stage is.

    Attributes:
        status: `done`, `no-data`, `blocked`, `failed`, `unfinished`, `left out` (by the profile) or `not run`.
        data: `phantom` or `real`, where the stage has results.
        why: one sentence for the reader.
    """

    status: str = "not run"
    data: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Claims:
    """All papers and claims, in the file's order."""

    papers: Mapping[str, Paper]
    claims: Mapping[str, Claim]

    def claim(self, name: str) -> Claim:
        """The claim of that id.

        Raises:
            InputError: there is none; the message offers the nearest ids.
        """
        try:
            return self.claims[name]
        except (KeyError, TypeError):
            near = difflib.get_close_matches(str(name), self.claims, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"No claim {name!r} in {FILE}.{hint}") from None

    def of_paper(self, paper: str) -> list[Claim]:
        """The claims of one paper, by its id."""
        return [claim for claim in self.claims.values() if claim.paper == paper]

    @property
    def headlines(self) -> list[Claim]:
        """The scores that the papers are quoted with."""
        return [claim for claim in self.claims.values() if claim.headline]

    def parts(self, whole: str) -> list[Claim]:
        """The claims that are printed in this table or figure."""
        return [claim for claim in self.claims.values() if claim.part_of == whole]

    def inconsistency(self, name: str) -> Inconsistency:
        """The inconsistency of that id.

        Raises:
            InputError: there is none.
        """
        paper = self.papers.get(name.partition(".")[0])
        for entry in paper.inconsistencies if paper else ():
            if entry.id == name:
                return entry
        raise InputError(f"No inconsistency {name!r} in {FILE}.")

    def owed(self, names: Iterable[str]) -> set[str]:
        """Those of these claims that a stage has to record itself: all but tables whose numbers are claims of their own.

        Raises:
            InputError: an id that does not exist.
        """
        wholes = {claim.part_of for claim in self.claims.values()}
        return {name for name in names if not (self.claim(name).kind == "table" and name in wholes)}


def load(path: Path | None = None) -> Claims:
    """Read and check `params/claims.yaml`.

    Raises:
        InputError: the file can't be read, an entry has an unknown or a missing field, an id is used twice or points nowhere, or
            a field does not fit the claim's kind; the message names the entry.
    """
    path = path or paths.params_dir() / "claims.yaml"
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from None


@lru_cache(maxsize=4)
def _load(path: Path, _changed: int) -> Claims:
    content = paths.read_yaml(path)
    if not isinstance(content, dict) or set(content) != {"papers", "claims"}:
        raise InputError(f"{path} must hold a mapping with the keys papers and claims.")
    papers = {name: _paper(name, entry) for name, entry in _mapping(content["papers"], "papers").items()}
    found: dict[str, Claim] = {}
    for position, entry in enumerate(_sequence(content["claims"], "claims"), start=1):
        claim = _claim(entry, f"claims, entry {position}")
        if claim.id in found:
            raise InputError(f"{FILE}: the id {claim.id} is used twice.")
        found[claim.id] = claim
    known = Claims(papers, found)
    _check_links(known)
    return known


def _paper(name: str, entry: Any) -> Paper:
    where = f"papers.{name}"
    entry = dict(_mapping(entry, where))
    problems = _sequence(entry.pop("inconsistencies", []), where)
    found = tuple(_inconsistency(problem, f"{where}.inconsistencies") for problem in problems)
    return build(Paper, {**entry, "id": name, "inconsistencies": found}, f"{FILE}, {where}")


def _inconsistency(entry: Any, where: str) -> Inconsistency:
    entry = dict(_mapping(entry, where))
    where = f"{where}, {entry.get('id', 'entry without id')}"
    single = {key: entry.pop(key) for key in ("arithmetic", "gives", "printed") if key in entry}
    several = _sequence(entry.pop("checks", []), where)
    if single and several:
        raise InputError(f"{FILE}, {where}: give either arithmetic or checks, not both.")
    checks = [build(Check, check, f"{FILE}, {where}") for check in ([single] if single else several)]
    for check in checks:
        evaluate(check.arithmetic)
    return build(Inconsistency, {**entry, "checks": tuple(checks)}, f"{FILE}, {where}")


def _claim(entry: Any, where: str) -> Claim:
    entry = dict(_mapping(entry, where))
    where = f"claims, {entry.get('id', where)}"
    for key in ("value", "interval", "see"):
        if isinstance(entry.get(key), list):
            entry[key] = tuple(entry[key])
    claim = build(Claim, entry, f"{FILE}, {where}")

    def refuse(problem: str) -> None:
        raise InputError(f"{FILE}, {where}: {problem}.")

    if claim.kind not in KINDS:
        refuse(f"kind {claim.kind!r}; expected one of {', '.join(KINDS)}")
    if claim.relation not in ("equal", "at_least"):
        refuse(f"relation {claim.relation!r}; expected equal or at_least")
    if claim.kind in WITHOUT_VALUE:
        if claim.value is not None or claim.tolerance is not None:
            refuse(f"a {claim.kind} has neither value nor tolerance")
    elif claim.value is None or claim.value == ():
        refuse("a value is expected, a number or a list of numbers")
    elif claim.tolerance is None or claim.tolerance < 0:
        refuse(f"tolerance {claim.tolerance!r} is not a number from 0 up")
    elif not claim.unit:
        refuse("a number needs a unit (\"1\" for none)")
    if claim.interval is not None:
        low, high = claim.interval
        if not isinstance(claim.value, (int, float)) or not low <= claim.value <= high:
            refuse(f"interval {claim.interval} does not hold the value {claim.value}")
    return claim


def _check_links(known: Claims) -> None:
    for claim in known.claims.values():
        where = f"{FILE}, {claim.id}"
        if claim.paper not in known.papers or not claim.id.startswith(f"{claim.paper}."):
            raise InputError(f"{where}: the id must begin with a known paper; paper is {claim.paper!r}.")
        if claim.part_of is not None and known.claim(claim.part_of).kind not in ("table", "figure"):
            raise InputError(f"{where}: part_of {claim.part_of} is neither a table nor a figure.")
        for name in (*claim.see, *([claim.inconsistent] if claim.inconsistent else [])):
            known.inconsistency(name)
    names = [problem.id for paper in known.papers.values() for problem in paper.inconsistencies]
    for paper in known.papers.values():
        for problem in paper.inconsistencies:
            if not problem.id.startswith(f"{paper.id}.") or names.count(problem.id) > 1:
                raise InputError(f"{FILE}, {problem.id}: the id must begin with {paper.id} and be used once.")


def _mapping(content: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{FILE}, {where}: expected a mapping, found {type(content).__name__}.")
    return content


def _sequence(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list):
        raise InputError(f"{FILE}, {where}: expected a list, found {type(content).__name__}.")
    return content


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


# ---- study ------------------------------------------------------------------------------------------------------------------


def owners(known: Claims, study: Mapping[str, Any]) -> dict[str, str]:
    """Which stage owes each claim.

    Args:
        study: content of `params/study.yaml`.

    Raises:
        InputError: a stage owes a claim that does not exist, or two stages owe the same.
    """
    found: dict[str, str] = {}
    for stage, entry in study["stages"].items():
        for name in (entry or {}).get("claims") or ():
            known.claim(name)
            if name in found:
                raise InputError(f"params/study.yaml: both {found[name]} and {stage} owe the claim {name}.")
            found[name] = stage
    return found


# ---- verdict ----------------------------------------------------------------------------------------------------------------

UNFINISHED = {
    "failed": "The stage failed.",
    "unfinished": "The stage was interrupted, is running, or left files that can't be used.",
    "left out": "This profile leaves the stage out.",
    "not run": "The stage has not been run.",
}


def verdict(claim: Claim, record: Mapping[str, Any] | None, stage: StageState) -> tuple[str, str]:
    """Status word and reason for one claim.

    Args:
        record: the entry of the stage's results.json with this id (keys value, ci, comparable, why); for a figure or schematic
            with the key `pictures`, how many were saved that reproduce it; None where there is nothing.
        stage: how far the stage is that owes the claim. Tables made of other claims: see `table_verdict`.

    Returns:
        (status, why); status is a key of `STATUSES`.
    """
    if claim.inconsistent:
        return "paper inconsistent", "The paper contradicts itself here; see its inconsistencies."
    if stage.status in ("no-data", "blocked"):
        return "no data", stage.why or "The stage had no data."
    if stage.status != "done":
        return "not run", UNFINISHED.get(stage.status, stage.why or UNFINISHED["not run"])
    if record is None:
        return "not run", "The stage ended without recording it."
    if claim.kind in PICTURES and not record.get("pictures"):
        return "not comparable", record.get("why") or "No figure was saved."
    if claim.kind == "schematic":
        return "figure only", "Drawn from the network built here."
    if stage.data == "phantom":
        return "phantom", record.get("why") or "Made from synthetic images; not compared."
    if stage.data != "real":
        return "not comparable", "The record does not say whether the data were real."
    if claim.kind in WITHOUT_VALUE:
        return "figure only", record.get("why") or "Regenerated; to be compared by eye."
    if not record.get("comparable", True):
        return "not comparable", record.get("why") or "Data or protocol differ from the paper's."
    if record.get("value") is None:
        return "not comparable", record.get("why") or "No number could be had."
    return _compare(claim, record)


def _compare(claim: Claim, record: Mapping[str, Any]) -> tuple[str, str]:
    theirs, ours = _as_tuple(claim.value), _as_tuple(record["value"])
    if not all(is_number(value) for value in ours):
        return "not comparable", f"{record['value']!r} is not a finite number."
    if len(ours) != len(theirs):
        return "differs", f"The paper has {len(theirs)} values, here are {len(ours)}."
    remark = f" {record['why']}" if record.get("why") else ""
    if len(theirs) > 1:
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        return ("match", f"Equal.{remark}") if agrees(claim, ours) else ("differs", f"Apart by up to {number(apart)}.{remark}")
    paper, here = theirs[0], ours[0]
    interval = record.get("ci")
    if claim.relation == "at_least":
        return _compare_bound(claim, paper, here, interval, remark)
    if interval is not None and interval[0] <= paper <= interval[1]:
        reach = max(here - interval[0], interval[1] - here)
        if reach > WIDE * (claim.tolerance or 0):
            return "not comparable", (
                f"The interval here reaches {number(reach)} from the number, more than {WIDE:g} tolerances of "
                f"{number(claim.tolerance)}: it settles nothing.{remark}"
            )
        return "match", f"The paper's number lies in the 95 % interval here.{remark}"
    difference = here - paper
    if abs(difference) <= _slack(claim):
        text = "Equal" if difference == 0 else f"Difference {number(difference, sign=True)}, tolerance {number(claim.tolerance)}"
        return "match", f"{text}.{remark}"
    return "differs", f"Difference {number(difference, sign=True)}, tolerance {number(claim.tolerance)}.{remark}"


def _compare_bound(claim: Claim, paper: float, here: float, interval: Any, remark: str) -> tuple[str, str]:
    """The paper says "more than": an interval across the bound settles nothing when it is wide."""
    bound = paper - _slack(claim)
    settled = 2 * WIDE * (claim.tolerance or float("inf"))
    if interval is not None and interval[0] < bound <= interval[1] and interval[1] - interval[0] > settled:
        return "not comparable", f"The interval here lies on both sides of {number(paper)} and is too wide.{remark}"
    if here >= bound:
        return "match", f"At least {number(paper)}, tolerance {number(claim.tolerance)}.{remark}"
    return "differs", f"Below {number(paper)}, tolerance {number(claim.tolerance)}.{remark}"


def agrees(claim: Claim, value: Any) -> bool:
    """Whether a value equals the paper's within the tolerance, whatever data it came from. For settings and counts."""
    theirs, ours = _as_tuple(claim.value), _as_tuple(value)
    return len(ours) == len(theirs) and all(
        is_number(a) and abs(a - b) <= _slack(claim) for a, b in zip(ours, theirs, strict=True)
    )


def _slack(claim: Claim) -> float:
    """The tolerance with room for rounding in binary, so that 0.9 - 0.8 counts as within 0.1."""
    return claim.tolerance + 1e-12 * max(1.0, *(abs(value) for value in _as_tuple(claim.value)))


ORDER = ("differs", "not comparable", "match", "phantom", "figure only", "paper inconsistent", "no data", "not run")


def table_verdict(parts: Iterable[str]) -> tuple[str, str]:
    """Status of a table from those of its numbers: their common word, or the first that occurs of `ORDER`.

    "match" stands only where every number that could be compared matches, and "phantom" where any number is from the phantom
    and none from real data.
    """
    words = list(parts)
    if not words:
        return "not run", "None of its numbers is a claim."
    counts = {word: words.count(word) for word in STATUSES if word in words}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    word = next(word for word in ORDER if word in counts)
    if word == "match" and len(counts) > 1:
        word = "not comparable"
    return word, f"{len(words)} numbers: {summary}."
