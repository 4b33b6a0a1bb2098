"""The page: `outputs/<profile>/report.html`, every claim of the papers beside what was obtained here.

One self-contained file: figures are embedded (PNG as WebP, a fifth of the size), nothing is loaded from elsewhere, there is no
script. Every text that comes from a notebook or a results file is escaped; pictures stand in <img> elements, where an SVG can
neither run scripts nor load anything.

    report.build(Path("outputs/demo"))    # -> outputs/demo/report.html
"""

from __future__ import annotations

import base64
import csv
import datetime
import io
import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from covidcxr import claims as claims_module
from covidcxr import outcomes as outcomes_module
from covidcxr import paths
from covidcxr.arithmetic import is_number
from covidcxr.claims import Claims, Paper
from covidcxr.outcomes import Assessment, Outcome
from covidcxr.results import run_command

if TYPE_CHECKING:
    import jinja2

FILE = "report.html"
TABLE_ROWS, TABLE_COLUMNS, CELL_CHARACTERS = 20, 16, 200
PICTURE_BYTES, PAGE_PICTURE_BYTES = 3 * 2**20, 10 * 2**20  # as embedded; base64 adds a third: the page stays below 15 MB
PICTURE_FILE_BYTES, PICTURE_SIDE = 32 * 2**20, 8000  # of a file, and of a PNG in pixels; larger ones are not opened
WEBP_QUALITY = 80  # thin coloured outlines on grey stay sharp; the PNGs of a study together shrink to a fifth
WIDE_PICTURE = 1.9  # pictures wider than this many heights take the page's whole width
MIME = {".png": "image/webp", ".svg": "image/svg+xml"}  # of what is embedded for such a file
LONG_NUMBER = re.compile(r"-?[0-9]*\.[0-9]*(e[-+]?[0-9]{1,3})?")
GROUPS = (
    ("Scores", ("performance", "margin", "statement"), True),
    ("Data sets and splits", ("count",), False),
    ("Settings", ("setting",), False),
    ("Figures, tables and schematics", ("table", "figure", "schematic"), False),
    ("From the authors' released files, not from the paper", ("released",), False),
)
"""Heading, kinds of claims, whether open at first."""
OTHER_BACKENDS = ("jax", "torch")  # of Keras, than the one it takes when nothing is said
SYMBOLS = {
    "match": "✓", "differs": "≠", "not comparable": "◇", "figure only": "▣", "paper inconsistent": "!", "no data": "∅",
    "phantom": "◌", "not run": "…",
}
STAGE_WORDS = {"no-data": "no data", "unfinished": "not finished"}


def build(profile_dir: Path) -> Path:
    """Write the report of a profile from whatever its stages have left, and return its path.

    Args:
        profile_dir: folder that holds the stages' folders, such as outputs/demo; it may be empty or missing.

    Raises:
        InputError: `params/claims.yaml` or `params/study.yaml` is wrong. Damaged results are no error: the page names them.
    """
    target = profile_dir / FILE
    paths.write_atomically(target, render(profile_dir))
    return target


def render(profile_dir: Path) -> str:
    """The page as text; see `build`."""
    known, study = claims_module.load(), outcomes_module.read_study()
    stages = outcomes_module.read_profile(profile_dir, study)
    return _environment().get_template("report.html").render(view(profile_dir, known, study, stages))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {
        "number": claims_module.number, "unit": unit_text, "anchor": anchor, "is_link": is_link, "slug": slug, "plain": plain,
    }
    return environment


def view(profile_dir: Path, known: Claims, study: Mapping[str, Any], stages: Mapping[str, Outcome]) -> dict[str, Any]:
    """Everything that the template shows, as plain values."""
    assessments = outcomes_module.assess(known, study, stages)
    pictures = Pictures()
    done = [stage for stage in stages.values() if stage.state.status == "done"]
    phantom = [stage.name for stage in done if stage.state.data == "phantom"]
    papers = [_paper_view(paper, known, assessments, stages, pictures) for paper in known.papers.values()]
    shown = {(row.stage, figure["name"]): row.claim.id for row in assessments.values() for figure in row.figures}
    results = [_stage_view(stage, shown, pictures) for stage in done]
    problems = [problem for stage in stages.values() for problem in stage.problems] + pictures.problems
    return {
        "profile": profile_dir.name,
        "description": str(outcomes_module.profile_settings(profile_dir.name).get("description") or ""),
        "built": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "statuses": claims_module.STATUSES, "symbols": SYMBOLS, "stage_words": STAGE_WORDS,
        "headlines": [_headline(assessments[claim.id]) for claim in known.headlines],
        "counts": outcomes_module.counts(assessments), "total": len(assessments),
        "phantom": phantom, "real": [stage.name for stage in done if stage.state.data == "real"],
        "problems": problems, "stages": list(stages.values()), "papers": papers, "results": results,
        "cards": _data_cards(done), "models": _model_cards(done), "provenance": _provenance(done),
        "failed": [s for s in stages.values() if s.failure],
        "command": lambda name: _command(profile_dir.name, stages[name]), "wide": claims_module.WIDE,
    }


def _command(profile: str, stage: Outcome) -> str:
    """The command that runs a stage again, with the `--set` texts and the Keras backend of its record."""
    given, backend = stage.run.get("overrides"), stage.run.get("keras_backend")
    overrides = given if isinstance(given, list) and all(isinstance(text, str) for text in given) else []
    chosen = f"KERAS_BACKEND={backend} " if backend in OTHER_BACKENDS else ""
    return chosen + run_command(profile, stage.name, overrides)


def _headline(row: Assessment) -> dict[str, Any]:
    return {"claim": row.claim, "record": row.record, "trivial": row.trivial, "measured": row.measured, "marks": strip(row)}


def _paper_view(
    paper: Paper, known: Claims, assessments: Mapping[str, Assessment], stages: Mapping[str, Outcome], pictures: Pictures
) -> dict[str, Any]:
    own = [assessments[claim.id] for claim in known.of_paper(paper.id)]
    groups = [
        {"heading": heading, "open": is_open, "rows": [row for kind in kinds for row in own if row.claim.kind == kind]}
        for heading, kinds, is_open in GROUPS
    ]
    counts = outcomes_module.counts({row.claim.id: row for row in own})
    figures = [
        {**pictures.embed(stages[row.stage], figure), "claim": row.claim}
        for row in own for figure in row.figures
    ]
    return {
        "paper": paper, "groups": [group for group in groups if group["rows"]], "figures": figures, "counts": counts,
        "deviations": [row for row in own if _deviates(row)], "strips": {row.claim.id: strip(row) for row in own},
    }


def _deviates(row: Assessment) -> bool:
    """Whether something was done otherwise than in the paper: a setting of another value, or a number that can't be compared."""
    if row.record is None or row.status in ("paper inconsistent", "figure only"):
        return False
    if row.claim.kind == "setting":
        return not claims_module.agrees(row.claim, row.record.get("value"))
    return row.status == "not comparable"


def strip(row: Assessment) -> dict[str, Any] | None:
    """Positions (0 to 100) of a small chart of a score: paper, here, trivial predictors on one axis from 0 to 1 or to 100.

    None for numbers that are no scores, or lie outside the axis.
    """
    claim = row.claim
    if claim.kind != "performance" or not isinstance(claim.value, (int, float)):
        return None
    full = 100.0 if claim.unit == "AP points" else 1.0
    here = row.record.get("value") if row.record else None
    interval = row.record.get("ci") if row.record and here is not None else None
    trivial = row.trivial.values()
    numbers = [claim.value, *(claim.interval or ()), *([here] if here is not None else []), *(interval or ()), *trivial]
    if not all(isinstance(value, (int, float)) and 0 <= value <= full for value in numbers):
        return None

    def place(value: float) -> float:
        return round(100 * value / full, 2)

    return {
        "paper": place(claim.value), "paper_interval": [place(end) for end in claim.interval or ()],
        "here": None if here is None else place(here), "here_interval": [place(end) for end in interval or ()],
        "trivial": [place(value) for value in trivial], "full": full,
    }


def _stage_view(stage: Outcome, shown: Mapping[tuple[str, str], str], pictures: Pictures) -> dict[str, Any]:
    """A stage's own results; figures that stand beside a paper's claim (`shown`) are only named."""
    others = [figure for figure in stage.figures if (stage.name, figure["name"]) not in shown]
    return {
        "stage": stage, "tables": [_table(stage, entry) for entry in stage.tables],
        "figures": [pictures.embed(stage, figure) for figure in others],
        "reproduces": [name for (owner, _), name in shown.items() if owner == stage.name],
        "parameters": {name: value for name, value in _mapping(stage.run.get("parameters")).items() if name != "stage_dir"},
        "page": f"{quote(stage.name)}/notebook.html" if (stage.folder / "notebook.html").is_file() else "",
    }


def _table(stage: Outcome, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of a CSV table; what does not fit is counted."""
    path = stage.folder / entry["file"]
    shown: dict[str, Any] = {
        "caption": entry.get("caption") or entry["name"], "file": f"{quote(stage.name)}/{quote(entry['file'])}",
        "head": [], "rows": [], "more_rows": 0, "more_columns": 0,
    }
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            rows = list(itertools.islice(reader, TABLE_ROWS + 1))
            shown["more_rows"] = sum(1 for _ in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        stage.problems.append(f"{stage.name}/{entry['file']} can't be read as a table: {error}.")
        return shown
    width = max(map(len, rows), default=0)
    cut = [[_cell(cell) for cell in row[:TABLE_COLUMNS]] + [""] * (min(width, TABLE_COLUMNS) - len(row)) for row in rows]
    numeric = [all(_looks_numeric(row[column]) for row in cut[1:]) for column in range(min(width, TABLE_COLUMNS))]
    head = list(zip(cut[0], numeric, strict=True)) if cut else []
    body = [list(zip(row, numeric, strict=True)) for row in cut[1:]]
    return shown | {"head": head, "rows": body, "more_columns": max(0, width - TABLE_COLUMNS)}


def _cell(text: str) -> str:
    """A table cell: long numbers rounded, long texts cut."""
    if len(text) > 7 and LONG_NUMBER.fullmatch(text):
        return claims_module.number(float(text))
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def _looks_numeric(text: str) -> bool:
    return not text or set(text) <= set("0123456789.-+e%–\N{MINUS SIGN}\N{THIN SPACE}")


class Pictures:
    """Embeds pictures as data URIs until the page's allowance is used up; what is too large is linked."""

    def __init__(self) -> None:
        self.used = 0
        self.problems: list[str] = []

    def embed(self, stage: Outcome, figure: Mapping[str, Any]) -> dict[str, Any]:
        """What the template shows of a figure; `source` is its data URI, empty where it is too large or can't be shown."""
        path = stage.folder / figure["file"]
        shown = {
            "id": f"figure-{slug(stage.name)}-{slug(figure['name'])}", "name": figure["name"], "stage": stage.name,
            "caption": figure.get("caption") or figure["name"], "source": "",
            "alt": figure.get("alt") or f"Figure {figure['name']} of stage {stage.name}; no description was recorded.",
            "link": f"{quote(stage.name)}/{quote(figure['file'])}", "data": stage.state.data,
            "format": path.suffix[1:].upper(), "width": 0, "height": 0, "wide": False,
        }
        label = f"{stage.name}/{figure['file']}"
        kind = path.suffix.lower()
        if kind not in MIME:
            self.problems.append(f"{label}: only PNG and SVG pictures can be shown.")
            return shown | {"link": ""}
        try:
            if path.stat().st_size > PICTURE_FILE_BYTES:
                return shown
            content = path.read_bytes()
        except OSError as error:
            self.problems.append(f"{label} can't be read: {error.strerror or error}.")
            return shown | {"link": ""}
        is_svg = content.lstrip().startswith((b"<?xml", b"<svg"))
        source = as_webp(content) if kind == ".png" else content if is_svg else None
        if source is None:
            large = f", has a side of more than {PICTURE_SIDE} pixels" if kind == ".png" else ""
            self.problems.append(f"{label} is no {kind[1:].upper()} picture{large}, or is damaged.")
            return shown | {"link": ""}
        if len(source) > PICTURE_BYTES or self.used + len(source) > PAGE_PICTURE_BYTES:
            return shown
        self.used += len(source)
        width, height = size(content)
        shown |= {"width": width, "height": height, "wide": width > WIDE_PICTURE * height > 0}
        return shown | {"source": f"data:{MIME[kind]};base64,{base64.b64encode(source).decode()}"}


def as_webp(png: bytes) -> bytes | None:
    """A PNG as a WebP; None where it is none, is damaged, or is so large that to open it would fill the memory."""
    from PIL import Image

    content = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if max(picture.size) > PICTURE_SIDE:
                return None
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            picture.convert(mode).save(content, "WEBP", quality=WEBP_QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow calls a broken chunk a SyntaxError
        return None
    return content.getvalue()


def size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels, or of an SVG in its own units as far as it states them; (0, 0) where it doesn't."""
    if content.startswith(b"\x89PNG"):
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    found = re.search(rb'viewBox="[-\d.]+ [-\d.]+ (\d{1,6})(?:\.\d+)? (\d{1,6})(?:\.\d+)?"', content[:4096])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _data_cards(stages: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Every data set that was used, once, with the stages that used it."""
    cards: dict[tuple[str, str], dict[str, Any]] = {}
    for stage in stages:
        for entry in stage.datasets:
            key = (entry["name"], str(entry.get("sha256")))
            card = cards.setdefault(key, {**_card(entry), "stages": [], "data": stage.state.data})
            card["stages"].append(stage.name)
    return list(cards.values())


def _card(entry: Mapping[str, Any]) -> dict[str, Any]:
    card = {key: entry.get(key) for key in ("name", "files", "sha256", "licence", "source")}
    return card | {"size": _bytes(entry.get("bytes"))}


def _model_cards(stages: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Every model that was trained, with the stage that trained it."""
    keys = ("name", "what", "parameters", "start", "trained_on", "images", "epochs", "seconds", "seed", "file", "limits")
    return [
        {key: entry.get(key) for key in keys}
        | {"size": _bytes(entry.get("bytes")), "stage": stage.name, "data": stage.state.data}
        for stage in stages for entry in stage.models
    ]


def _bytes(count: Any) -> str:
    """A number of bytes in kB or MB; empty for anything else."""
    if not is_number(count) or count < 0:
        return ""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _provenance(stages: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Stages grouped by commit, package versions and hardware: usually one group."""
    groups: dict[str, dict[str, Any]] = {}
    for stage in stages:
        facts = {name: _mapping(stage.run.get(name)) for name in ("git", "versions", "hardware")}
        if backend := stage.run.get("keras_backend"):
            facts["versions"] = {**facts["versions"], "Keras on": backend}
        groups.setdefault(repr(facts), {**facts, "stages": []})["stages"].append(stage)
    return list(groups.values())


def _mapping(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


def slug(text: str) -> str:
    """Text as part of an id: letters, digits, hyphens."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in str(text))


def anchor(claim_id: str) -> str:
    """The id of a claim's row in the page."""
    return f"claim-{slug(claim_id)}"


def is_link(text: Any) -> bool:
    """Whether a text may become the target of a link: https only, no quotes or blanks."""
    return isinstance(text, str) and text.startswith("https://") and not any(sign in text for sign in " \"'<>\n\t")


def unit_text(unit: Any) -> str:
    """A unit as text; empty for a plain number."""
    return "" if unit in (None, "1") else str(unit)


def plain(value: Any) -> str:
    """A recorded value as text, cut to a readable length; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return claims_module.number(value)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
