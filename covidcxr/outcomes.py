"""What the stages of a profile left behind, read without trusting it.

A page over all stages must not break on a file that is half written, damaged or made by another version: every part that can't be
used is left out and named in `problems`.

    for name, outcome in outcomes.read_profile(Path("outputs/demo")).items():
        print(name, outcome.state.status, len(outcome.claims), outcome.problems)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covidcxr import claims as claims_module
from covidcxr import paths
from covidcxr.arithmetic import is_number
from covidcxr.claims import Claim, Claims, StageState
from covidcxr.errors import InputError

LARGEST_JSON = 32 * 2**20


@dataclass
class Outcome:
    """What one stage left behind.

    Attributes:
        name: the stage. `notebook`, `needs`: as in `params/study.yaml`.
        state: how far it is, and with which kind of data.
        run: content of run.json; `failure`: of failure.json; empty where there is none.
        claims, numbers, tables, figures: the usable entries of results.json. `claims` is by claim id.
        problems: one sentence for every file or entry that can't be used.
    """

    name: str
    folder: Path
    notebook: str = ""
    needs: tuple[str, ...] = ()
    state: StageState = StageState()
    run: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Assessment:
    """A claim, what was obtained here, and the verdict. `stage` is the stage that owes it ("" if none does)."""

    claim: Claim
    stage: str
    status: str
    why: str
    record: Mapping[str, Any] | None = None
    figures: tuple[Mapping[str, Any], ...] = ()

    @property
    def measured(self) -> dict[str, float]:
        """Scores of trivial predictors on the images used here, by name, as far as they could be computed."""
        recorded = (self.record or {}).get("trivial") or {}
        return {name: score for name, score in recorded.items() if score is not None}

    @property
    def trivial(self) -> dict[str, float]:
        """Scores of trivial predictors by name: those known beforehand, overridden by those `measured` here."""
        return {**(self.claim.trivial or {}), **self.measured}


def read_study() -> dict[str, Any]:
    """Content of `params/study.yaml`, as far as the report needs it.

    Raises:
        InputError: it can't be read or has no stages.
    """
    path = paths.params_dir() / "study.yaml"
    study = paths.read_yaml(path)
    if not isinstance(study, dict) or not isinstance(study.get("stages"), dict):
        raise InputError(f"{path} must hold a mapping with the key stages.")
    if not all(isinstance(entry, dict) for entry in study["stages"].values()):
        raise InputError(f"{path}: stages must be a mapping of names to mappings.")
    return study


def read_profile(profile_dir: Path, study: Mapping[str, Any] | None = None) -> dict[str, Outcome]:
    """What every stage of the study left in a profile's folder, in the study's order.

    Args:
        profile_dir: folder that holds the stages' folders; it need not exist.
    """
    study = read_study() if study is None else study
    left_out = profile_settings(profile_dir.name).get("leave_out")
    left_out = left_out if isinstance(left_out, list) else []
    found = {}
    for name, entry in study["stages"].items():
        outcome = read_stage(profile_dir / name)
        outcome.notebook = str(entry.get("notebook", ""))
        outcome.needs = tuple(map(str, entry["needs"])) if isinstance(entry.get("needs"), list) else ()
        if outcome.state.status == "not run" and name in left_out:
            outcome.state = StageState("left out")
        found[name] = outcome
    return found


def profile_settings(profile: str) -> dict[str, Any]:
    """Content of a profile's file in `params/`; empty where there is none that can be read."""
    try:
        content = paths.read_yaml(paths.params_dir() / f"{profile}.yaml")
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def read_stage(folder: Path, *, need_run: bool = True) -> Outcome:
    """What one stage left behind.

    Args:
        need_run: believe only a completion record run.json; False also takes a finished results.json without one, as a notebook
            leaves it.
    """
    outcome = Outcome(folder.name, folder)
    outcome.run = _read_json(folder / "run.json", outcome.problems)
    outcome.failure = _read_json(folder / "failure.json", outcome.problems)
    status = outcome.run.get("status")
    if outcome.run and status not in ("done", "no-data", "blocked"):
        outcome.problems.append(f"{folder.name}/run.json: status {status!r} is none of done, no-data, blocked.")
    why = " ".join(str(outcome.run.get(key) or "") for key in ("why", "how")).strip()
    if status in ("no-data", "blocked"):
        outcome.state = StageState(status, _data(outcome.run), why)
    elif status == "done" or (not need_run and not outcome.run):
        _read_results(outcome, required=status == "done")
    if outcome.state.status == "not run":
        if outcome.failure:
            reason = outcome.failure.get("error") or "no reason recorded"
            outcome.state = StageState("failed", None, f"The stage failed: {reason}")
        elif outcome.run or outcome.problems:
            outcome.state = StageState("unfinished", None, "The stage's files can't be used: " + " ".join(outcome.problems))
        elif (folder / "results.json").exists() or (folder.parent / ".partial" / folder.name / "results.json").exists():
            outcome.state = StageState("unfinished")
    elif outcome.failure:
        outcome.problems.append(
            f"{folder.name}: a later run failed ({outcome.failure.get('error')}); what is shown is from the run before it."
        )
    return outcome


def _read_results(outcome: Outcome, *, required: bool) -> None:
    path = outcome.folder / "results.json"
    if required and not path.is_file():
        outcome.problems.append(f"{outcome.name}/results.json is missing, although run.json says that the stage is done.")
        return
    content = _read_json(path, outcome.problems)
    if not content:
        return
    if content.get("finished") is not True:
        if required:
            outcome.problems.append(f"{outcome.name}/results.json is not complete, but run.json says that the stage is done.")
        return
    if content.get("stage") != outcome.name:
        outcome.problems.append(f"{outcome.name}/results.json: it is of stage {content.get('stage')!r}.")
        return
    kind = _data(content)
    if kind is None:
        outcome.problems.append(f"{outcome.name}/results.json: data {content.get('data')!r} is neither phantom nor real.")
    for entry in _entries(content, "claims", _check_claim, outcome):
        outcome.claims[entry["id"]] = entry
    outcome.numbers = _entries(content, "numbers", _check_number, outcome)
    outcome.tables = _entries(content, "tables", _check_file, outcome)
    outcome.figures = _entries(content, "figures", _check_file, outcome)
    outcome.datasets = _entries(content, "datasets", _check_name, outcome)
    outcome.models = _entries(content, "models", _check_file, outcome)
    outcome.state = StageState("done", kind)


def assess(known: Claims, study: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> dict[str, Assessment]:
    """The verdict on every claim, by claim id, in the order of `params/claims.yaml`.

    A claim recorded by another stage than the one that owes it is left out, and named among that stage's problems.
    """
    owner = claims_module.owners(known, study)
    for one in outcomes.values():
        for name in one.claims:
            problem = f"{one.name}/results.json records {name}, which {owner.get(name, 'no stage')} owes."
            if owner.get(name) != one.name and problem not in one.problems:
                one.problems.append(problem)
    found: dict[str, Assessment] = {}
    for claim in known.claims.values():
        stage = owner.get(claim.id, "")
        outcome = outcomes.get(stage)
        state = outcome.state if outcome else StageState("unowned", None, "No stage owes this claim.")
        pictures = tuple(figure for figure in outcome.figures if figure.get("reproduces") == claim.id) if outcome else ()
        record = outcome.claims.get(claim.id) if outcome else None
        if pictures:
            record = {**(record or {"value": None, "why": ""}), "pictures": len(pictures)}
        status, why = claims_module.verdict(claim, record, state)
        found[claim.id] = Assessment(claim, stage, status, why, record, pictures)
    for claim in known.claims.values():
        parts = known.parts(claim.id)
        if claim.kind == "table" and parts:
            status, why = claims_module.table_verdict([found[part.id].status for part in parts])
            old = found[claim.id]
            found[claim.id] = Assessment(claim, old.stage, status, why, old.record, old.figures)
    return found


def counts(assessments: Mapping[str, Assessment]) -> dict[str, int]:
    """How many claims have each status, in the order of `claims.STATUSES`, zeros included."""
    words = [assessment.status for assessment in assessments.values()]
    return {word: words.count(word) for word in claims_module.STATUSES}


# ---- reading with care --------------------------------------------------------------------------------------------------------


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON mapping; {} where there is no file; {} and a problem where it can't be used."""
    label = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"larger than {LARGEST_JSON // 2**20} MB")
        content = paths.parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        problems.append(f"{path.parent.name} is a file; a folder was expected.")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{label} can't be read: {error}.")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{label}: expected a mapping, found {type(content).__name__}.")
        return {}
    return content


def _data(content: Mapping[str, Any]) -> str | None:
    kind = content.get("data")
    return kind if kind in ("phantom", "real") else None


def _entries(content: Mapping[str, Any], section: str, check: Callable[..., str], outcome: Outcome) -> list[dict[str, Any]]:
    label = f"{outcome.name}/results.json, {section}"
    entries = content.get(section, [])
    if not isinstance(entries, list):
        outcome.problems.append(f"{label}: expected a list, found {type(entries).__name__}.")
        return []
    usable = []
    for position, entry in enumerate(entries, start=1):
        problem = check(entry, outcome) if isinstance(entry, dict) else f"expected a mapping, found {type(entry).__name__}"
        if problem:
            outcome.problems.append(f"{label}, entry {position}: {problem}.")
        else:
            usable.append(entry)
    return usable


def _check_claim(entry: dict[str, Any], outcome: Outcome) -> str:
    if not isinstance(entry.get("id"), str):
        return "no id"
    try:
        claims_module.load().claim(entry["id"])
    except InputError as error:
        return str(error).rstrip(".")
    return _check_numbers(entry)


def _check_number(entry: dict[str, Any], outcome: Outcome) -> str:
    return _check_name(entry, outcome) or _check_numbers(entry)


def _check_numbers(entry: dict[str, Any]) -> str:
    values = entry.get("value")
    for value in values if isinstance(values, list) else [values]:
        if value is not None and not is_number(value):
            return f"value {value!r} is not a finite number"
    ci = entry.get("ci")
    if ci is not None and not (isinstance(ci, list) and len(ci) == 2 and all(map(is_number, ci)) and ci[0] <= ci[1]):
        return f"interval {ci!r} is not [low, high]"
    trivial = {} if entry.get("trivial") is None else entry["trivial"]
    if not isinstance(trivial, dict) or not all(score is None or is_number(score) for score in trivial.values()):
        return f"trivial {trivial!r} is not a mapping of numbers"
    if not isinstance(entry.get("comparable", True), bool):
        return f"comparable {entry['comparable']!r} is neither true nor false"
    if not isinstance(entry.get("seeds") or [], list):
        return f"seeds {entry['seeds']!r} is not a list"
    return ""


def _check_name(entry: dict[str, Any], outcome: Outcome) -> str:
    return "" if isinstance(entry.get("name"), str) and entry["name"] else "no name"


def _check_file(entry: dict[str, Any], outcome: Outcome) -> str:
    """A file must exist inside the stage's folder: a record can't point the page at other files of the machine."""
    file = entry.get("file")
    if not isinstance(file, str) or not file:
        return "no file"
    try:
        path = (outcome.folder / file).resolve()
        inside = path.is_relative_to(outcome.folder.resolve())
        there = path.is_file()
    except (OSError, ValueError) as error:
        return f"{file!r}: {error}"
    if not inside:
        return f"{file} lies outside the stage's folder"
    return _check_name(entry, outcome) or ("" if there else f"{file} is missing")
