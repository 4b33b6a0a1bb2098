"""The scores that are kept with the code: what a finished profile found, beside what the papers print.

`python -m covidcxr report pilot --reference` writes, into the project's `outputs/reference/`,

    pilot.csv     a row per score: paper, here with interval and n, trivial predictors, verdict
    pilot.json    what made them: commit, versions, machine, data sets with their hashes
    headlines.svg the score that each paper is quoted with, as notebook 11 draws it

and the table at the top of README.md, between its two comments.

Numbers only: no image of a data set is kept.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covidcxr import claims as claims_module
from covidcxr import outcomes as outcomes_module
from covidcxr import paths
from covidcxr.errors import InputError
from covidcxr.outcomes import Assessment, Outcome

PICTURE = "paper_vs_reproduced/figures/headlines.svg"
COLUMNS = ("claim", "what", "place", "paper", "here", "low", "high", "n", "n_unit", "trivial", "verdict", "why", "data", "stage",
           "seeds")
START, END = "<!-- scores: written by `python -m covidcxr report pilot --reference` -->", "<!-- end of scores -->"


def folder() -> Path:
    return paths.project_root() / "outputs" / "reference"


def write(profile_dir: Path) -> Path:
    """Keep the scores of a profile, and put its headlines into the README if it is of real data.

    Returns:
        The CSV file.

    Raises:
        InputError: no stage of the profile has a score.
    """
    known, study = claims_module.load(), outcomes_module.read_study()
    stages = outcomes_module.read_profile(profile_dir, study)
    rows = [row for one in outcomes_module.assess(known, study, stages).values() if (row := _row(one, stages))]
    if not rows:
        raise InputError(f"No finished stage in {profile_dir} has a score: python -m covidcxr run {profile_dir.name}.")
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    name = profile_dir.name
    folder().mkdir(parents=True, exist_ok=True)
    paths.write_atomically(folder() / f"{name}.json", json.dumps(_provenance(stages), indent=1) + "\n")
    paths.write_atomically(folder() / f"{name}.csv", text.getvalue())
    if {row["data"] for row in rows} == {"real"}:
        paths.write_atomically(folder() / "headlines.svg", (profile_dir / PICTURE).read_bytes())
        _into_readme(headlines(read(name)))
    return folder() / f"{name}.csv"


def read(profile: str) -> list[dict[str, str]]:
    """The kept scores of a profile, as text."""
    with (folder() / f"{profile}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def headlines(rows: list[dict[str, str]]) -> str:
    """The README's table, in Markdown."""
    by_claim = {row["claim"]: row for row in rows}
    lines = ["| | printed | here, on open images | knows nothing | how far it carries |", "|---|---|---|---|---|"]
    for claim in claims_module.load().headlines:
        if row := by_claim.get(claim.id):
            interval = f" [{row['low']}, {row['high']}]" if row["low"] else ""
            here = f"**{row['here']}**{interval}, {row['n']} {row['n_unit']}"
            cells = (f"{claim.paper}: {claim.headline}", row["paper"], here, row["trivial"] or "–", claim.worth)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(one: Assessment, stages: Mapping[str, Outcome]) -> dict[str, Any] | None:
    """The row of a score; None for other claims, and where nothing was obtained."""
    record = one.record or {}
    if one.claim.kind != "performance" or record.get("value") is None:
        return None
    number = claims_module.number
    low, high = map(number, record["ci"]) if record.get("ci") else ("", "")
    trivial = record.get("trivial") or one.claim.trivial or {}  # measured on the same images, or else known beforehand
    return {
        "claim": one.claim.id, "what": one.claim.what, "place": one.claim.place, "paper": number(one.claim.value),
        "here": number(record["value"]), "low": low, "high": high, "n": record.get("n"), "n_unit": record.get("n_unit", ""),
        "trivial": ", ".join(f"{name} {number(score)}" for name, score in trivial.items() if score is not None),
        "verdict": one.status, "why": one.why, "data": stages[one.stage].state.data, "stage": one.stage,
        "seeds": " ".join(map(str, record.get("seeds") or [])),
    }  # fmt: skip


def _provenance(stages: Mapping[str, Outcome]) -> dict[str, Any]:
    """By stage, what another person needs to run it again."""
    keys = ("started", "seconds", "peak_memory_mb", "git", "versions", "hardware")
    made = {}
    for name, stage in stages.items():
        if stage.state.status == "done":
            data = {entry["name"]: entry.get("sha256") for entry in stage.datasets}
            parameters = {key: value for key, value in (stage.run.get("parameters") or {}).items() if key != "stage_dir"}
            made[name] = {**{key: stage.run.get(key) for key in keys}, "datasets": data, "parameters": parameters}
    return made


def _into_readme(table: str) -> None:
    readme = paths.project_root() / "README.md"
    before, start, rest = readme.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise InputError(f"{readme} has lost the comments between which its table of scores stands: {START} and {END}.")
    paths.write_atomically(readme, f"{before}{START}\n{table}\n{end}{after}")
