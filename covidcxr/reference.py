"""The scores that are kept with the code: what finished stages found, beside what the papers print.

`python -m covidcxr report pilot --reference` writes, into the project's `outputs/reference/`,

    pilot.csv     a row per score: paper, here with interval and n, trivial predictors, verdict
    pilot.json    what made them, by stage: commit, versions, machine, data sets with their hashes
    headlines.svg the score that each paper is quoted with

and the table at the top of README.md, between its two comments. Scores of stages that are not done in the folder at hand stay as
they were kept before, with what made them: so a long profile can be renewed stage by stage.

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

COLUMNS = ("claim", "what", "place", "paper", "here", "low", "high", "n", "n_unit", "trivial", "verdict", "why", "data", "stage",
           "seeds")
START, END = "<!-- scores: written by `python -m covidcxr report pilot --reference` -->", "<!-- end of scores -->"


def folder() -> Path:
    """Where the scores are kept: `outputs/reference/` of the project, wherever `$COVIDCXR_OUTPUTS` points."""
    return paths.project_root() / "outputs" / "reference"


def write(profile_dir: Path) -> Path:
    """Keep the scores of a profile, and put its headlines into the README and the picture if they are of real data.

    Returns:
        The CSV file.

    Raises:
        InputError: no stage of the profile has a score.
    """
    known, study = claims_module.load(), outcomes_module.read_study()
    stages = outcomes_module.read_profile(profile_dir, study)
    found = [row for one in outcomes_module.assess(known, study, stages).values() if (row := _row(one, stages))]
    if not found:
        raise InputError(f"No finished stage in {profile_dir} has a score: python -m covidcxr run {profile_dir.name}.")
    name, made = profile_dir.name, _provenance(stages)
    before, made_before = _kept(name)
    rows = [row for row in before if row["stage"] not in made and row["claim"] in known.claims] + found
    order = list(known.claims)
    rows.sort(key=lambda row: order.index(row["claim"]))
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    kept = {stage: {**made_before, **made}[stage] for stage in study["stages"] if stage in {*made_before, *made}}
    folder().mkdir(parents=True, exist_ok=True)
    paths.write_atomically(folder() / f"{name}.json", json.dumps(kept, indent=1) + "\n")
    paths.write_atomically(folder() / f"{name}.csv", text.getvalue())
    if {row["data"] for row in rows} == {"real"}:
        _draw(read(name))
        _into_readme(headlines(read(name)))
    return folder() / f"{name}.csv"


def _kept(name: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """What was kept of a profile before; nothing where there is none."""
    file = folder() / f"{name}.json"
    return (read(name), paths.parse_json(file.read_bytes())) if file.is_file() else ([], {})


def read(profile: str) -> list[dict[str, str]]:
    """The kept scores of a profile, as text; `trivial` is a JSON mapping."""
    with (folder() / f"{profile}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def headlines(rows: list[dict[str, str]]) -> str:
    """The README's table, in Markdown."""
    by_claim = {row["claim"]: row for row in rows}
    lines = ["| | printed | here, on open images | trivial predictors | how far it carries |", "|---|---|---|---|---|"]
    for claim in claims_module.load().headlines:
        if row := by_claim.get(claim.id):
            paper, value, low, high = (_shown(row[key]) for key in ("paper", "here", "low", "high"))
            here = f"**{value}**{f' [{low}, {high}]' if low else ''}, {row['n']} {row['n_unit']}"
            trivial = ", ".join(f"{name} {claims_module.number(score)}" for name, score in json.loads(row["trivial"]).items())
            lines.append(f"| {' | '.join((f'{claim.paper}: {claim.headline}', paper, here, trivial or '–', claim.worth))} |")
    return "\n".join(lines)


def _shown(text: str) -> str:
    return claims_module.number(float(text)) if text else ""


def _draw(rows: list[dict[str, str]]) -> None:
    """The picture of the headlines."""
    import matplotlib.pyplot as plt

    from covidcxr import figures, score_chart

    figures.use_style()
    known = claims_module.load()
    by_claim = {row["claim"]: row for row in rows}
    scores = [
        score_chart.Score(
            known.claim(row["claim"]), float(row["here"]), (float(row["low"]), float(row["high"])) if row["low"] else None,
            json.loads(row["trivial"]), row["data"] == "real",
        )
        for claim in known.headlines if (row := by_claim.get(claim.id))
    ]  # fmt: skip
    figure = score_chart.draw(scores, [f"{one.claim.paper}\n{one.claim.headline}" for one in scores], 0.5)
    paths.write_atomically(folder() / "headlines.svg", figures.encode(figure, "svg", "covidcxr"))
    plt.close(figure)


def _row(one: Assessment, stages: Mapping[str, Outcome]) -> dict[str, Any] | None:
    """The row of a score; None for other claims, and where nothing was obtained."""
    record = one.record or {}
    if one.claim.kind != "performance" or record.get("value") is None:
        return None
    low, high = map(_rounded, record["ci"]) if record.get("ci") else ("", "")
    return {
        "claim": one.claim.id, "what": one.claim.what, "place": one.claim.place, "paper": _rounded(one.claim.value),
        "here": _rounded(record["value"]), "low": low, "high": high, "n": record.get("n"), "n_unit": record.get("n_unit", ""),
        "trivial": json.dumps({name: float(_rounded(score)) for name, score in one.trivial.items()}),
        "verdict": one.status, "why": one.why, "data": stages[one.stage].state.data, "stage": one.stage,
        "seeds": " ".join(map(str, record.get("seeds") or [])),
    }  # fmt: skip


def _rounded(value: Any) -> str:
    return f"{value:.6g}"


def _provenance(stages: Mapping[str, Outcome]) -> dict[str, Any]:
    """By stage, what another person needs to run it again."""
    keys = ("started", "seconds", "peak_memory_mb", "git", "versions", "keras_backend", "hardware")
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
