"""Cohen's COVID-19 image data collection: radiographs and CT pictures of many sources, some scored, some outlined (tang2020).

Source: https://github.com/ieee8023/covid-chestxray-dataset (git); each image has the licence of its source, often not stated.
Scores of severity: annotations/covid-severity-scores.csv of the same (CC BY-SA). Outlines: the authors of tang2020 (see
`rural_covid_cxr`), whose folder selected_images/ of json files is put beside.

Layout taken (as upstream):
    metadata.csv                                one row per image: patientid, offset, finding, view, modality, folder, filename, …
    images/<filename>                           the radiographs and CT pictures
    volumes/<filename>.nii.gz                   CT volumes, taken where they are there
    annotations/covid-severity-scores.csv       filename, geographic_mean (0..8), opacity_mean (0..6), optional
    selected_images/<stem of filename>.json     lungs and opacities in labelme, optional

Quirks handled here:
- view is PA, AP, "AP Supine" as in the table, lateral for "L", None for "?" and ""; CT pictures (Axial, Coronal) and volumes have
  modality CT. `frontal` is True for radiographs other than lateral whose view is known: a scored or outlined image is one.
- geographic_mean and opacity_mean are missing where an image has not been scored.
- Outlines join by the file name without its suffix: the authors' copies of some .jpeg files are called .jpg. The paper speaks of
  25 outlined images, 22 are published. A mask of an image without outlines is an error.
- patient: "cohen-<patientid>", as in the other sets made from this collection.
"""

from covidcxr.datasets.cohen import outcomes, patient, read_metadata, view
from covidcxr.datasets.images import is_volume, stem
from covidcxr.datasets.labelme import LabelmeMasks
from covidcxr.datasets.opacity_outlines import OutlinedRadiographs, opacity_kind
from covidcxr.datasets.tables import RANGES, SEVERITY, severity_scores
from covidcxr.datasets.tables_of_cases import inside, normalise_finding
from covidcxr.errors import InputError

SCORES = f"annotations/{SEVERITY}"
OUTLINES = "selected_images"


class CohenCXR(OutlinedRadiographs):
    """Radiographs and CT pictures of many sources; where they are at hand, scores of severity and outlines."""

    SUPPORT_FILES = ("metadata.csv",)
    OPTIONAL_FILES = (
        "annotations/*", f"{OUTLINES}/*.json",
        "volumes/*", "docs/*", "scripts/*", "analysis/*", "tests/*", "*.md", "*.py",  # what else the repository holds
    )

    def _rows(self) -> list[dict]:
        path = self.folder / "metadata.csv"
        metadata = read_metadata(path)
        if not metadata:
            raise InputError(
                f"{path}: the table of the collection is missing or empty. Clone the whole repository: "
                "git clone https://github.com/ieee8023/covid-chestxray-dataset.git"
            )
        jsons = sorted((self.folder / OUTLINES).glob("*.json"))
        self._masks = LabelmeMasks(jsons, opacity_kind)
        self._scores = severity_scores(self.folder / SCORES)
        rows = []
        for filename, about in metadata.items():
            image = inside(f"{about.get('folder') or 'images'}/{filename}", f"{path}, file {filename}")
            if is_volume(image) and not (self.folder / image).is_file():
                continue
            rows.append(self._row(filename, image, about))
        return rows

    def _row(self, filename: str, image: str, about: dict) -> dict:
        case = stem(filename)
        shown = "volume" if is_volume(image) else view(about.get("view"))
        modality = "CT" if is_volume(image) or (about.get("modality") or "").strip().upper() == "CT" else "CXR"
        return {
            "case": case,
            "patient": patient(about, self.phantom) or f"file-{case}",
            "modality": modality,
            "view": shown,
            "finding": normalise_finding(about.get("finding")),
            "image": image,
            "licence": "synthetic" if self.phantom else about.get("license") or "not stated",
            "source": about.get("url") or ("covidcxr.phantom" if self.phantom else "Cohen collection"),
            **outcomes(about),
            "frontal": modality == "CXR" and shown not in (None, "lateral"),
            **(self._scores.get(filename) or dict.fromkeys(RANGES)),
            **self._outlined(case, f"{OUTLINES}/{case}.json"),
        }

    def _check_set(self, table, report) -> None:
        for case in sorted({*self._masks.files, *self._masks.unreadable} - set(table.case)):
            report.error("annotation without image", f"{OUTLINES}/{case}.json belongs to no image of metadata.csv")
        lost = sorted({stem(filename) for filename in self._scores} - set(table.case))
        if lost:
            names = ", ".join(lost[:8])
            report.warning("scores without image", f"{len(lost)} images of {SCORES} are not in metadata.csv: {names}")
        for filename, scores in self._scores.items():
            for column, (low, high) in RANGES.items():
                score = scores[column]
                if score is None or not low <= score <= high:
                    text = f"{column} is {score}, expected {low:g} to {high:g}"
                    report.error("value range", text, case=stem(filename))
        odd = table.case[(table.annotated | table[list(RANGES)].notna().any(axis=1)) & ~table.frontal]
        for case in odd:
            report.warning("not frontal", "scored or outlined, but not a frontal radiograph by its view and modality", case=case)

    def _counts(self, table) -> dict[str, int]:
        radiographs = table[table.modality == "CXR"]
        return {
            "radiographs": len(radiographs),
            "lateral": int((radiographs.view == "lateral").sum()),
            "CT": int((table.modality == "CT").sum()),
            "severity scores": int(table[list(RANGES)].notna().all(axis=1).sum()),
            "annotated images": int(table.annotated.sum()),
        }
