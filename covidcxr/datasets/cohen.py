"""The table of the Cohen collection (ieee8023/covid-chestxray-dataset), `metadata.csv`, which several sets share."""

import math
from pathlib import Path

from covidcxr.datasets.tables_of_cases import read_csv, yes_no

_VIEWS = {"L": "lateral", "AXIAL": "axial slice", "CORONAL": "coronal slice", "?": None, "": None}


def read_metadata(path: Path) -> dict[str, dict]:
    """Rows of metadata.csv by file name; {} where the file is not there. The columns patientid and filename must exist."""
    if not path.is_file():
        return {}
    table = read_csv(path, ("patientid", "filename"))
    return {row["filename"]: row for row in table.to_dict("records")}


def outcomes(about: dict) -> dict:
    """icu, death, sex, age and day (since the first symptom or admission) of a row of metadata.csv; None when not given.

    icu is True where `went_icu` or `in_icu` says yes, False where `went_icu` says no.
    """
    icu = yes_no(about.get("went_icu"))
    if icu is not True and yes_no(about.get("in_icu")):
        icu = True
    survived = yes_no(about.get("survival"))
    return {
        "icu": icu,
        "death": None if survived is None else not survived,
        "sex": (about.get("sex") or "").strip().upper() or None,
        "age": number(about.get("age")),
        "day": number(about.get("offset")),
    }


def view(text) -> str | None:
    """The view as the tables of cases call it: "L" is lateral, "Axial" and "Coronal" are slices of CT, "?" and "" unknown."""
    stated = str(text or "").strip().replace("_", " ")
    return _VIEWS.get(stated.upper(), stated)


def patient(about: dict, phantom: bool) -> str | None:
    """Name of a row's patient, the same in every set made from the collection; None where the row has none. A phantom's names are
    its own, and the same in all its sets."""
    identifier = str(about.get("patientid") or "").strip()
    return None if not identifier else identifier if phantom else f"cohen-{identifier}"


def number(text) -> float | None:
    """A finite number, or None for an empty or unreadable cell."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
