"""Two tables without images: severity scores of radiographs, and outcomes of the rural cohort (paper tang2020).

Sources: covid-severity-scores.csv of ieee8023/covid-chestxray-dataset (CC BY-SA); covid_rural_patient_info.csv of
haimingt/opacity_segmentation_covid_chest_X_ray (the cohort of TCIA COVID-19-AR, 10.7937/tcia.2020.py71-5978; no licence file).

Layout taken:
    covid-severity-scores.csv        filename, geographic_mean (0..8), opacity_mean (0..6); lines starting with # are comments
    covid_rural_patient_info.csv     PATIENT_ID, AGE, SEX, ICU Admit, MORTALITY, …
One of them may be absent. A case is a row; the column `table` says of which table ("severity" or "rural"); there is no image. The
severity scores join the Cohen images by `filename`, where their patients stand too, so `patient` is None in those rows.
"""

from collections.abc import Callable
from pathlib import Path

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.cohen import number
from covidcxr.datasets.images import stem
from covidcxr.datasets.tables_of_cases import read_csv, yes_no
from covidcxr.errors import InputError

SEVERITY, RURAL = "covid-severity-scores.csv", "covid_rural_patient_info.csv"
RANGES = {"geographic_mean": (0.0, 8.0), "opacity_mean": (0.0, 6.0)}


def severity_scores(path: Path) -> dict[str, dict[str, float | None]]:
    """File name of an image -> its scores (the columns of `RANGES`); {} where the table is not there.

    Raises:
        InputError: a column is missing, or an image is listed twice.
    """
    if not path.is_file():
        return {}
    table = read_csv(path, ("filename", *RANGES), comment="#").to_dict("records")
    return _by("filename", table, path, lambda row: {column: number(row[column]) for column in RANGES})


def rural_outcomes(path: Path) -> dict[str, dict]:
    """Patient -> finding, icu, death, sex, age (None where a cell is empty or unclear); {} where the table is not there.

    Raises:
        InputError: a column is missing, or a patient is listed twice.
    """
    if not path.is_file():
        return {}
    table = read_csv(path, ("PATIENT_ID", "AGE", "SEX", "ICU Admit", "MORTALITY")).to_dict("records")
    return _by("PATIENT_ID", table, path, lambda row: {
        "finding": "COVID-19" if yes_no(row.get("COVID TEST POSITIVE")) else None,
        "icu": yes_no(row["ICU Admit"]),
        "death": yes_no(row["MORTALITY"]),
        "sex": row["SEX"].strip().upper() or None,
        "age": number(row["AGE"]),
    })


def _by(key: str, table: list[dict], path: Path, take: Callable[[dict], dict]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for line, row in enumerate(table, start=1):
        name = row[key].strip()
        if name in found:
            raise InputError(f"{path}: {key} {name!r} is listed twice, again in row {line} of the table")
        found[name] = take(row)
    return found


class OutcomeTables(Dataset):
    """The rows of both tables, as cases without images."""

    SUPPORT_FILES = (SEVERITY, RURAL)

    def _rows(self) -> list[dict]:
        rows = []
        for filename, scores in severity_scores(self.folder / SEVERITY).items():
            rows.append(
                {
                    "case": f"severity/{stem(filename)}",
                    "modality": "CXR",
                    "table": "severity",
                    "filename": filename,
                    **scores,
                    "licence": "CC BY-SA",
                    "source": "Cohen et al., arXiv 2005.11856",
                }
            )
        for patient, about in rural_outcomes(self.folder / RURAL).items():
            rows.append(
                {
                    "case": f"rural/{patient}",
                    "patient": patient,
                    "modality": "CXR",
                    "table": "rural",
                    **about,
                    "licence": "not stated",
                    "source": "TCIA COVID-19-AR",
                }
            )
        return rows

    def _check_set(self, table, report) -> None:
        for column, (low, high) in RANGES.items():
            if column in table:
                wrong = table[(table.table == "severity") & ~table[column].between(low, high)]
                for row in wrong.itertuples():
                    report.error(
                        "value range", f"{column} is {getattr(row, column)}, expected {low:g} to {high:g}", case=row.case
                    )
        rural = table[table.table == "rural"]
        for row in rural[~rural.age.between(0, 120)].itertuples():
            report.warning("value range", f"age is {row.age}", case=row.case)

    def _counts(self, table) -> dict[str, int]:
        rural = table[table.table == "rural"]
        return {
            "severity rows": int((table.table == "severity").sum()),
            "rural rows": len(rural),
            "rural ICU": int(rural.icu.sum()),
            "rural deaths": int(rural.death.sum()),
        }
