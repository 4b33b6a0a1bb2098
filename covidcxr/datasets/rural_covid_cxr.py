"""Rural cohort: radiographs of COVID-19 patients with lungs and opacities outlined in labelme, and outcomes (paper tang2020).

Source: https://github.com/haimingt/opacity_segmentation_covid_chest_X_ray (git; no licence file). The images are those of TCIA
COVID-19-AR (CC BY 4.0 there), converted to JPEG by the authors of the paper, who outlined them.

Layout taken (as upstream; covid_rural_annot/ may be left out):
    covid_rural_annot/jpgs/COVID-19-AR-<number>_<mm-dd-yyyy>-XR.jpg    the radiographs
    covid_rural_annot/jpgs/jsons/<the same>.json                       their outlines (`covidcxr.datasets.labelme`)
    covid_rural_annot/covid_rural_patient_info.csv                     PATIENT_ID, AGE, SEX, ICU Admit, MORTALITY, …
    covid_rural_annot/covid_rural_radiologist_notes.csv                examinations of each patient (optional)

Quirks handled here:
- 224 radiographs, 221 of them with outlines: the column `annotated` says which. A mask of the others is an error; a class without
  outline in an annotated image gives an empty mask (71 images have no opacity).
- Opacities are labelled "groud_glass_opacity" (spelt so), "consolidation" or "opacity"; lesion is their union, as in the paper.
- The two lungs of one image may both be labelled right_lung. `lung` holds both all the same; `lung_outlines` counts them, and the
  verifier tells which side has none.
- One imaged patient (16407177) has no row in the table of outcomes: icu and death are missing there.
- File names do not say the view. Their dates are shifted, but alike for all images of a patient, so that they are laid beside the
  days of the patient's examinations in the radiologists' notes: where these fit in one way only, `day` (after the diagnosis) is
  known; `view` is known where all ways agree on it. The paper left out all but AP and PA.
- patient: the beginning of the file name.
"""

import re
from collections import Counter
from datetime import date
from pathlib import Path

from covidcxr.datasets.cohen import number
from covidcxr.datasets.images import stem
from covidcxr.datasets.labelme import LabelmeMasks
from covidcxr.datasets.opacity_outlines import OutlinedRadiographs, opacity_kind
from covidcxr.datasets.tables import RURAL, rural_outcomes
from covidcxr.datasets.tables_of_cases import read_csv

NOTES = "covid_rural_radiologist_notes.csv"


class RuralCovidCXR(OutlinedRadiographs):
    """Radiographs with outlines, and the outcomes of their patients."""

    def __init__(self, name: str, folder: Path, phantom: bool = False):
        super().__init__(name, folder, phantom)
        self._root = folder / "covid_rural_annot" if (folder / "covid_rural_annot").is_dir() else folder
        prefix = self._relative(self._root / "_")[:-1]
        self.SUPPORT_FILES = (f"{prefix}{RURAL}",)
        self.OPTIONAL_FILES = (
            f"{prefix}{NOTES}", f"{prefix}jpgs/jsons/*.json",
            "covid_rural_annot/*", "covid-chestxray-dataset/*", ".gitattributes",  # what else the authors' repository holds
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _rows(self) -> list[dict]:
        pictures = sorted(path for path in (self._root / "jpgs").glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        jsons = sorted((self._root / "jpgs" / "jsons").glob("*.json"))
        self._masks = LabelmeMasks(jsons, opacity_kind)
        self._without_picture = sorted({stem(path) for path in jsons} - {stem(path) for path in pictures})
        self._outcomes = rural_outcomes(self._root / RURAL)
        studies = _studies(self._root / NOTES)
        by_patient: dict[str, list[Path]] = {}
        for path in pictures:
            by_patient.setdefault(_patient(path), []).append(path)
        self._imaged = set(by_patient)
        rows = []
        for patient, paths in by_patient.items():
            placed = place([_date(path) for path in paths], studies.get(patient, []))
            rows += [self._row(path, patient, day, view) for path, (day, view) in zip(paths, placed, strict=True)]
        return rows

    def _row(self, path: Path, patient: str, day: int | None, view: str | None) -> dict:
        case = stem(path)
        return {
            "case": case,
            # a phantom's patients have the same names in all its sets
            "patient": str(int(patient.rpartition("-")[2])) if self.phantom else patient,
            "modality": "CXR",
            "view": view,
            "finding": "COVID-19",  # all patients of the cohort tested positive
            "image": self._relative(path),
            "licence": "synthetic" if self.phantom else "CC BY 4.0 (stated for TCIA COVID-19-AR); outlines not stated",
            "source": "covidcxr.phantom" if self.phantom else "TCIA COVID-19-AR, converted by Tang et al.",
            **{key: value for key, value in self._outcomes.get(patient, {}).items() if value is not None},
            "day": day,
            **self._outlined(case, self._relative(path.parent / "jsons" / f"{case}.json")),
        }

    def _check_set(self, table, report) -> None:
        bare = table.case[~table.annotated].tolist()
        if bare:
            names = ", ".join(bare[:8])
            report.warning("without outlines", f"{len(bare)} of {len(table)} radiographs have no labelme file: {names}")
        for case in self._without_picture:
            report.error("annotation without image", f"jsons/{case}.json has no radiograph {case}.jpg beside it")
        listed = set(self._outcomes)
        if listed and self._imaged - listed:
            report.warning("outcomes", f"no row in {RURAL} for {', '.join(sorted(self._imaged - listed))}")
        if listed - self._imaged:
            names = ", ".join(sorted(listed - self._imaged)[:8])
            report.warning("outcomes", f"{len(listed - self._imaged)} patients of {RURAL} have no radiograph here: {names}")
        for patient in sorted(self._imaged & listed):
            unclear = [key for key in ("icu", "death", "age") if self._outcomes[patient][key] is None]
            if unclear:
                report.warning("outcomes", f"{patient}: {', '.join(unclear)} missing or unclear in {RURAL}")

    def _counts(self, table) -> dict[str, int]:
        return {
            "annotated images": int(table.annotated.sum()),
            "images with an opacity": int(table.lesion.notna().sum()),
            "patients with an outcome": len(self._imaged & set(self._outcomes)),
        }


def _patient(path: Path) -> str:
    return stem(path).partition("_")[0]


def _date(path: Path) -> date | None:
    found = re.search(r"_(\d\d)-(\d\d)-(\d{4})", stem(path))
    try:
        return date(int(found[3]), int(found[1]), int(found[2])) if found else None
    except ValueError:
        return None


def _studies(path: Path) -> dict[str, list[tuple[int, str | None]]]:
    """Patient -> (day after the diagnosis, view) of each radiograph in the radiologists' notes; {} where they are not there."""
    if not path.is_file():
        return {}
    day, what = "Diag to img study (days)", "Image Study Description"
    studies: dict[str, list[tuple[int, str | None]]] = {}
    for row in read_csv(path, ("patient_id", day, what)).to_dict("records"):
        words = row[what].upper().split()
        days = number(row[day])
        if words[:1] == ["XR"] and days is not None:
            view = next((word for word in ("PA", "AP") if word in words), None)
            studies.setdefault(row["patient_id"].strip(), []).append((int(days), view))
    return studies


def place(dates: list[date | None], studies: list[tuple[int, str | None]]) -> list[tuple[int | None, str | None]]:
    """(day, view) of a patient's images: every shift of their dates that lays all of them on days with an examination is
    tried. The day is given where one shift fits, the view where all that fit agree; None otherwise."""
    unknown: list[tuple[int | None, str | None]] = [(None, None)] * len(dates)
    known = [day.toordinal() for day in dates if day is not None]
    if len(known) < len(dates) or not studies:
        return unknown
    views: dict[int, set[str | None]] = {}
    for day, view in studies:
        views.setdefault(day, set()).add(view)
    shifts = [known[0] - day for day in views if all(other - (known[0] - day) in views for other in known)]
    placed = []
    for ordinal in known:
        seen = Counter(view for shift in shifts for view in views[ordinal - shift])
        placed.append((ordinal - shifts[0] if len(shifts) == 1 else None, next(iter(seen)) if len(seen) == 1 else None))
    return placed
